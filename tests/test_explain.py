"""A rule explained: every statement is made from the declaration, and is true."""

import re
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch

from backprop_rules import CATALOGUE, InputError
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.proof.certified import certify, enclosure
from backprop_rules.teaching.explain import derivation, example, explained, kinks, mistakes, one_element, worked
from backprop_rules.teaching.symbols import WrittenOut

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)


def value(expression, numbers):
    return float(sympy.N(expression.subs(numbers) if hasattr(expression, "subs") else expression, 40))


@every_rule
def test_what_is_written_out_lies_in_the_enclosures(rule):
    point = example(rule)
    found, balls, radii = WrittenOut(point), certify(point), bounds(point)
    numbers = found.values()
    for i in point.given:
        gradient = torch.tensor([value(e, numbers) for e in found.gradient(i)], dtype=torch.float64)
        gradient = gradient.reshape(point.primals[i].shape)
        assert enclosure(balls.gradients[i], radii.gradients[i], gradient).outside(gradient) is None


@every_rule
def test_the_example_has_numbers_of_the_domain_and_a_gradient_that_is_not_zero(rule):
    point = example(rule)
    assert any(bool((point.gradients[i] != 0).any()) for i in point.given)
    assert point.y.isfinite().all()
    assert worked(point)[-1].startswith("Checked: each lies in the proved enclosure")


@every_rule
def test_one_element_adds_up_to_its_gradient(rule):
    point = example(rule)
    *_, last = one_element(point)
    name, total = re.fullmatch(r"(?:Added up|There is none): ∂L/∂(\S+) = (\S+?)\.?", last).groups()
    shown = {f"{gradient:.4g}" for gradient in point.gradients[point.given[0]].flatten().tolist()}
    assert name
    assert total in shown or f"-{total}" in shown


@every_rule
def test_the_derivation_names_every_primal_with_its_shape(rule):
    steps = list(derivation(example(rule)))
    for i in example(rule).given:
        name, x = rule.primals[i], example(rule).primals[i]
        assert f"{name} {tuple(x.shape)}" in steps[0]
        assert any(step.startswith(f"For {name}, a gradient of {name}'s shape {tuple(x.shape)}") for step in steps)


@every_rule
def test_every_rule_is_explained(rule):
    told = "\n".join(explained(rule))
    assert f"def {rule.name}(" in told
    for convention in rule.conventions:
        assert f"Where {convention.at} the rule gives {convention.value}." in told


def test_the_sizes_of_different_axes_differ():
    a, b = example(CATALOGUE["matmul"]).primals
    assert (a.shape, b.shape) == ((2, 3), (3, 2))


def test_a_kink_is_told_with_the_smallest_example_and_who_chooses_what():
    told = list(kinks(CATALOGUE["relu"]))
    assert told[0].startswith("Where x = 0 the rule gives 0")
    assert "    For x = 0, grad_y = 1 the gradient of x is" in told
    assert told[-1].startswith(f"    0 by this rule, 0 by torch {torch.__version__}, 0 by JAX ")


def test_each_mistake_is_shown_where_it_differs():
    told = list(mistakes(CATALOGUE["square"]))
    names = [one.strip().partition(":")[0] for one in told]
    assert len(set(names)) == len(names)
    assert {"sign", "factor 2", "cotangent ignored", "passed on unchanged", "missing conjugate"} <= set(names)
    for one in told:
        right, wrong = re.search(r"gradient of \w+: right (.*), with this mistake (.*)$", one).groups()
        assert wrong != right


def own(definition):
    return replace(CATALOGUE["tanh"], name="mine", definition=definition)


def test_functions_of_numpy_are_written_out_as_sympy_has_them():
    for name in ("arctan", "arcsinh", "sinh", "cosh", "tan"):
        call = example(own(getattr(np, name)))
        assert WrittenOut(call).outputs()[0] == f"{name.replace('arc', 'a')}(x₁)"


def test_a_definition_that_raises_is_refused_in_words():
    with pytest.raises(InputError, match="mine: it cannot be explained before it is verified: AttributeError"):
        list(explained(own(lambda x: x.nothing)))
    with pytest.raises(InputError, match="mine: its definition cannot be written out: a symbol has no nothing"):
        WrittenOut(example(own(lambda x: x + np.frompyfunc(lambda v: v.nothing, 1, 1)(x))))
