"""A rule explained: every statement is made from the declaration, and is true, in English and in Chinese."""

import re
import string
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch
from grouped import by_rule

from backprop_rules import CATALOGUE, Convention, InputError
from backprop_rules.diagnosis.mistake import applies
from backprop_rules.diagnosis.naming import TWINS, asked_of_jax
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.proof.certified import certify, enclosure
from backprop_rules.subject.ambient import quiet
from backprop_rules.teaching.example import example, small, standing
from backprop_rules.teaching.explain import explained
from backprop_rules.teaching.indices import Names, general, written
from backprop_rules.teaching.sections import derivation, kinks, one_element, special, worked
from backprop_rules.teaching.symbols import exactly
from backprop_rules.teaching.taught import TAUGHT
from backprop_rules.teaching.told import TEXTS, Words
from backprop_rules.teaching.usual import usual
from backprop_rules.teaching.written_out import WrittenOut

ENGLISH = Words("en")
every_rule = by_rule(CATALOGUE.values())


def values(found):
    """Return the number that stands for each symbol, without rounding."""
    call = found.call
    numbers = dict(zip(found.bars.values(), map(exactly, call.grad_y.flatten().tolist()), strict=True))
    numbers |= {symbol: exactly(value) for symbol, value in found.params.items()}
    for i, x in zip(call.given, call.tensors, strict=True):
        numbers |= dict(zip(found.elements(i).values(), map(exactly, x.flatten().tolist()), strict=True))
    for part in found.parts:
        numbers |= {found.names.symbol(part.name, at): e.subs(numbers) for at, e in part.of.items()}
    return numbers


@every_rule
def test_what_is_written_out_lies_in_the_enclosures(rule):
    point = example(rule)
    found, balls, radii = WrittenOut(point), certify(point), bounds(point)
    numbers = values(found)
    for i in point.given:
        elements = [sympy.sympify(e).subs(numbers) for e in found.gradient(i).values()]
        gradient = torch.tensor([float(sympy.N(e, 40)) for e in elements], dtype=torch.float64)
        gradient = gradient.reshape(point.primals[i].shape)
        assert enclosure(balls.gradients[i], radii.gradients[i], gradient).outside(gradient) is None


@every_rule
def test_the_example_has_numbers_of_the_domain_and_a_gradient_that_is_not_zero(rule):
    point = example(rule)
    assert all(bool((point.gradients[i] != 0).any()) for i in point.given)
    assert point.y.isfinite().all()
    assert list(worked(point, ENGLISH))[-1].startswith("Checked: each lies within proved bounds")


@every_rule
def test_one_element_adds_up_to_its_gradient(rule):
    point = example(rule)
    *_, last = one_element(point, ENGLISH)
    name, total = re.fullmatch(r"(?:Added up|A small .* of y): ∂L/∂(\S+) = (\S+?)\.?", last).groups()
    shown = {f"{gradient:.4g}" for gradient in point.gradients[point.given[0]].flatten().tolist()}
    assert name
    assert total in shown or f"-{total}" in shown


@every_rule
def test_the_derivation_names_every_primal_with_its_shape(rule):
    _, steps = derivation(example(rule), ENGLISH)
    for i in example(rule).given:
        name, x = rule.primals[i], example(rule).primals[i]
        assert f"{name} {tuple(x.shape)}" in steps[0]
        assert any(f". The gradient of {name}:\n" in step for step in steps)


@every_rule
def test_every_rule_is_explained(rule):
    told = "\n".join(explained(rule))
    assert f"def {rule.name}(" in told
    for convention in rule.conventions:
        kink = f"At {convention.at} there is no derivative, and the rule takes {convention.value}."
        none = f"At {convention.at} there is a derivative, which not every framework gives, and the rule takes it, "
        assert (f"{none}{convention.value}." if convention.at in FLAT.get(rule.name, ()) else kink) in told


FLAT = {"clamp": ["x = min = max"]}  # where y is max for every x


def test_the_sizes_of_different_axes_differ():
    assert [tuple(x.shape) for x in example(CATALOGUE["matmul"]).primals] == [(2, 3), (3, 4)]
    assert [tuple(x.shape) for x in example(CATALOGUE["linear"]).primals] == [(2, 3), (4, 3), (4,)]


# ---- the derivation: in steps, and with letters for indices

DERIVED = {
    "softmax": [
        "yᵢ = eᵢ/s           ∂yᵢ/∂xⱼ = eᵢ·(δᵢⱼ - eⱼ/s)/s = yᵢ·(δᵢⱼ - yⱼ)",
        "∂L/∂xⱼ = Σᵢ ȳᵢ·∂yᵢ/∂xⱼ = yⱼ·(ȳⱼ - Σᵢ yᵢ·ȳᵢ)",
    ],
    "log_softmax": ["∂yᵢ/∂xⱼ = δᵢⱼ - eⱼ/s", "∂L/∂xⱼ = Σᵢ ȳᵢ·∂yᵢ/∂xⱼ = ȳⱼ - (Σᵢ ȳᵢ)·eⱼ/s"],
    "layer_norm": [
        "cᵢⱼ = xᵢⱼ - μᵢ                   ∂cᵢⱼ/∂xᵢₖ = δⱼₖ - 1/3",
        "sᵢ = sqrt(eps + (Σⱼ cᵢⱼ^2)/3)    ∂sᵢ/∂xᵢⱼ = cᵢⱼ/(3·sᵢ)",
        "Used for the derivatives: Σⱼ cᵢⱼ = 0.",
        "(δⱼₖ - 1/3 - cᵢₖ·cᵢⱼ/(3·sᵢ^2))/sᵢ = (δⱼₖ - 1/3 - x̂ᵢₖ·x̂ᵢⱼ/3)/sᵢ",
        "Σⱼ ȳᵢⱼ·∂yᵢⱼ/∂xᵢₖ = (weightₖ·ȳᵢₖ - (Σⱼ weightⱼ·ȳᵢⱼ)/3 - (Σⱼ weightⱼ·x̂ᵢⱼ·ȳᵢⱼ)·x̂ᵢₖ/3)/sᵢ",
        "∂L/∂weightⱼ = Σᵢ x̂ᵢⱼ·ȳᵢⱼ",
    ],
    "var": ["y = (Σᵢ dᵢ^2)/3    ∂y/∂xᵢ = 2·dᵢ/3", "∂L/∂xᵢ = ȳ·∂y/∂xᵢ = 2·dᵢ·ȳ/3"],
    "matmul": [
        "yᵢₖ = Σⱼ aᵢⱼ·bⱼₖ    ∂yᵢₖ/∂aᵢⱼ = bⱼₖ",
        "∂L/∂aᵢⱼ = Σₖ ȳᵢₖ·∂yᵢₖ/∂aᵢⱼ = Σₖ bⱼₖ·ȳᵢₖ",
        "∂L/∂bⱼₖ = Σᵢ aᵢⱼ·ȳᵢₖ",
        "Ā = Ȳ Bᵀ, B̄ = Aᵀ Ȳ",
    ],
    "linear": [
        "yᵢₖ = (Σⱼ wₖⱼ·xᵢⱼ) + bₖ",
        "∂L/∂wₖⱼ = Σᵢ xᵢⱼ·ȳᵢₖ\n       Every row of x meets the same w: what comes back from all rows is added up",
        "∂L/∂bₖ = Σᵢ ȳᵢₖ\n       Every row of x meets the same b",
    ],
    "transpose": ["yⱼᵢ = xᵢⱼ", "∂L/∂xᵢⱼ = ȳⱼᵢ·∂yⱼᵢ/∂xᵢⱼ = ȳⱼᵢ"],
    "sigmoid": ["∂yᵢ/∂xᵢ = σᵢ·(1 - σᵢ)"],
    "gelu": ["∂yᵢ/∂xᵢ = xᵢ·φ(xᵢ) + Φ(xᵢ)"],
    "mean_squared_error": ["y = (Σᵢ eᵢ^2)/3", "∂y/∂predictionᵢ = 2·eᵢ/3"],
}


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_reads_as_in_a_textbook(name):
    told = "\n".join(explained(CATALOGUE[name]))
    for line in DERIVED[name]:
        assert line in told


@every_rule
def test_nothing_is_said_in_general_that_holds_on_a_branch_or_at_an_index_alone(rule):
    found = WrittenOut(example(rule))
    chosen = bool((rule.conventions and rule.name != "norm") or rule.domain.indices)  # a 2-norm has no branches
    assert found.branched == chosen
    assert all(found.told(i)[0] is None for i in found.call.given) or not chosen


def test_an_expression_for_all_indices_is_held_against_all_elements():
    names, of = Names(), {}
    for i, j in np.ndindex(2, 3):
        of[i + 1, j + 1] = sum(names.symbol("a", (i + 1, k + 1)) * names.symbol("b", (k + 1, j + 1)) for k in range(3))
    assert written(general(of, "ij", names)) == "Σₖ aᵢₖ·bₖⱼ"
    diagonal = {(i, j): names.symbol("c", (i,)) * int(i == j) for i, j in np.ndindex(3, 3)}
    assert written(general(diagonal, "ij", names)) == "cᵢ·δᵢⱼ"
    of[2, 3] += names.symbol("a", (1, 1))
    assert general(of, "ij", names) is None


# ---- kinks


def test_a_kink_is_told_with_the_smallest_example_and_who_chooses_what():
    told = list(kinks(CATALOGUE["relu"], ENGLISH))
    assert told[0].startswith("At x = 0 there is no derivative, and the rule takes 0")
    assert "    For x = 0, grad_y = 1 the gradient of x is" in told
    assert told[-1].startswith(f"    0 by this rule, 0 by torch {torch.__version__}, 0 by JAX ")


def test_every_kink_has_an_example_and_what_jax_gives_there_is_what_it_gives():
    for rule in CATALOGUE.values():
        for convention in rule.conventions:
            stands = (p for p in standing(rule) if (convention.where(*p.primals, **p.params) & (p.grad_y != 0)).any())
            answer = asked_of_jax(next(stands), example(rule).given[0])
            assert (answer is None) == (rule.name not in TWINS)
            if answer is not None:
                assert answer[1].item() == TEXTS["jax"][rule.name][convention.at]


# ---- special values


def test_special_values_are_told_where_torch_gives_another():
    told = list(special(CATALOGUE["silu"], ENGLISH))
    there = "Where the first element of x is inf, that of the gradient of x is"
    assert told[0] == f"{there} 1, and torch's nan; the definition gives 1."
    assert told[1].endswith("that of the gradient of x is -0, and torch's nan; the definition gives 0.")
    assert "by the definition it may be any number from 0 to 1." in next(special(CATALOGUE["relu"], ENGLISH))
    *lines, _ = special(CATALOGUE["norm"], ENGLISH)
    assert all(line.endswith((" For p = 2.", " For p = inf.")) for line in lines)
    assert not list(special(CATALOGUE["exp"], ENGLISH))


def test_the_point_at_which_special_values_hold_is_told():
    for lang, words in (("en", "All other elements are those of {}."), ("zh", "其余元素均取自 {}。")):
        given = Words(lang).listed(["x = [0.5, 1.25]", "n = [0.75, 1.5]", "grad_y = [1, 1.25]"])
        assert [*special(CATALOGUE["pow_tensor"], Words(lang))][-1] == words.format(given)


def test_a_special_value_at_which_a_rule_is_wrong_is_told_where_torch_is_wrong_as_well():
    naive = replace(CATALOGUE["silu"], backward=lambda g, y, x: g * x.sigmoid() * (1 + x * (1 - x.sigmoid())))
    assert next(special(naive, ENGLISH)) == (
        "Where the first element of x is inf, that of the gradient of x is nan, and torch's nan; "
        "the definition gives 1."
    )


# ---- the usual mistakes


def names_of(rule):
    return [known.name for known, _, _ in usual(CATALOGUE[rule])]


def test_the_usual_mistakes_are_those_that_are_made_there():
    assert "exponent not lowered" in names_of("pow")
    assert {"factors in the wrong order", "operand not transposed", "missing un-broadcast"} <= {*names_of("matmul")}
    assert names_of("softmax") == ["diagonal of the Jacobian", "sum over every axis"]
    assert {"first axis only", "mean instead of sum"} <= {*names_of("linear")}
    assert {"masked by the cotangent", "passed on unchanged", "strict at ties"} <= {*names_of("clamp")}
    assert names_of("sub")[-1] == "alpha ignored"
    everywhere = [known.name for rule in CATALOGUE.values() for known, _, _ in usual(rule)]
    assert {*TEXTS["usual"]} <= {*everywhere}, "declared usual somewhere, and shown nowhere"
    assert max(everywhere.count(name) for name in TEXTS["usual"]) < len(CATALOGUE) / 2, "what is usual everywhere"


@every_rule
def test_each_mistake_is_told_once_where_it_shows_at_a_small_point(rule):
    told = list(usual(rule))
    assert told
    assert len({known.name for known, _, _ in told}) == len(told)
    for known, case, wrong in told:
        with quiet():
            assert torch.equal(applies(known, case), wrong)
        assert not torch.equal(case.right, wrong)
        assert case.x.numel() <= 8
        kinked = any(c.where(*case.call.primals, **case.call.params).any() for c in rule.conventions)
        assert kinked == ("ties" in known.name)


def test_a_mistake_is_shown_at_no_kink_unless_it_is_one_of_kinks():
    elsewhere = Convention("x = -1", "0", lambda x: x == -1, None, None)
    for known, case, _ in usual(replace(CATALOGUE["relu"], name="mine", conventions=(elsewhere,))):
        assert "ties" in known.name or not (case.x == -1).any()


def test_small_points_come_smallest_first():
    sizes = [sum(x.numel() for x in call.tensors) for call in small(CATALOGUE["matmul"])]
    assert sizes == sorted(sizes)
    assert len(sizes) > 100


# ---- languages

CODE = re.compile(r"`[^`]*`|^ *\d\. y = .*?\)|^ +\w+ = .*$|^ +式中 .*$", re.MULTILINE)

ENGLISH_WORDS = re.compile(r"[A-Za-z]{3,}[ ,;]+(?:[A-Za-z]+[ ,;]+)+[A-Za-z]{2,}")
HALF_WIDTH = re.compile(
    r"[\u4e00-\u9fff] ?[,;:!?.]|[,;:!?] ?[\u4e00-\u9fff]|\((?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])\)"
)


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_fields():
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for key, text in TEXTS["en"].items():
        assert fields(text) == fields(TEXTS["zh"][key]), key


def test_all_that_the_catalogue_and_the_bank_say_is_there_in_chinese():
    conventions = [c for rule in CATALOGUE.values() for c in rule.conventions]
    words = {text for c in conventions for text in (c.at, c.value) if re.search(r"[a-z]{3}", text)}
    assert TEXTS["rules"].keys() == {
        str(r) for r in CATALOGUE.values() if r.backward.__module__.startswith("backprop_rules.")
    }
    assert {text for text in words if text not in TEXTS["kinks"]} == {"x = min = max", "x < min = max"}
    assert {*TEXTS["kinks"]} <= {text for c in conventions for text in (c.at, c.value)}
    assert TEXTS["mistakes"].keys() == TEXTS["usual"].keys() <= {known.name for known in TAUGHT}


@every_rule
def test_the_chinese_says_nothing_in_english(rule):
    head, *sections = explained(rule, "zh")
    source = f"    {Words('zh').source(rule.source)}"
    first, legend = (part.splitlines() for part in head.split(source))
    summary, formula = first[0], " ".join(first[1:])
    code = next(section for section in sections if section.startswith("\n规则的代码"))
    prose = CODE.sub("", "\n".join([summary, *legend, *(one for one in sections if one is not code)]))
    english = ENGLISH_WORDS.search(f"{formula}\n{prose}")
    assert not english, f"teaching/words.toml says in Chinese no '{english[0]}' of {rule}"
    assert not HALF_WIDTH.search(prose)
    assert not re.search(r"section|chapter|issue|request", source)


def test_a_letter_that_is_defined_is_no_condition():
    assert "（其中 g = w ȳ）" in " ".join(explained(CATALOGUE["layer_norm"], "zh"))
    assert "（当 n = 0）" in " ".join(explained(CATALOGUE["pow"], "zh"))


# ---- rules of your own


def own(definition):
    return replace(CATALOGUE["tanh"], name="mine", definition=definition)


def test_functions_of_numpy_are_written_out_as_sympy_has_them():
    for name in ("arctan", "arcsinh", "sinh", "cosh", "tan"):
        call = example(own(getattr(np, name)))
        assert WrittenOut(call).outputs()[0] == f"y₁ = {name.replace('arc', 'a')}(x₁)"


def test_a_rule_of_your_own_is_explained_in_chinese_with_its_own_words():
    assert next(explained(own(np.tanh), "zh")).startswith("mine：The hyperbolic tangent of x.\n")


def test_decimal_constants_are_written_as_decimals():
    tenth = example(own(lambda x: 0.1 * x**3))
    assert "\n".join(derivation(tenth, ENGLISH)[1]).count("yᵢ = 0.1·xᵢ^3    ∂yᵢ/∂xᵢ = 0.3·xᵢ^2") == 1


@pytest.mark.parametrize("interval", [(2.125, 2.875), (5.0, np.inf), (-np.inf, -5.0)])
def test_an_example_has_numbers_of_any_interval(interval):
    inside = replace(CATALOGUE["square"].domain, values={"x": interval})
    (x,) = example(replace(CATALOGUE["square"], domain=inside)).primals
    assert ((interval[0] < x) & (x < interval[1])).all()
    assert len({*x.tolist()}) == 3


def constant(grad_y, y, x):
    """A number."""
    return torch.zeros_like(x)


def test_a_constant_is_explained():
    one = replace(own(lambda x: x**0), backward=constant, forward=torch.ones_like, saves=(), formula="y = 1: x̄ = 0")
    told = "\n".join(explained(one))
    assert "changes no element of y: ∂L/∂x₁ = 0." in told
    assert "The gradient is torch's at every one of them" in told


def test_a_wrong_gradient_is_not_explained():
    wrong = replace(CATALOGUE["square"], backward=lambda grad_y, y, x: grad_y * x)
    with pytest.raises(InputError, match=r"cannot be explained before it is verified\. square: wrong\."):
        list(explained(wrong))
    with pytest.raises(InputError, match=r"its gradient of x is \[.*\], and the true one lies from \[.*\] to \["):
        list(worked(example(wrong), ENGLISH))


def test_a_definition_that_raises_is_refused_in_words():
    with pytest.raises(InputError, match="mine: it cannot be explained before it is verified: AttributeError"):
        list(explained(own(lambda x: x.nothing)))
    with pytest.raises(InputError, match="mine: its definition cannot be written out: a symbol has no nothing"):
        WrittenOut(example(own(lambda x: x + np.frompyfunc(lambda v: v.nothing, 1, 1)(x))))
