"""A rule is declared in one place, and is then found in the list, in the tests and in `verify`."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from backprop_rules import CATALOGUE, Domain, InputError, rule
from backprop_rules.properties.finding import Kind
from backprop_rules.verify import verified, verify_rule

ROOT = Path(__file__).parents[1]

CUBE = '''
import torch
from backprop_rules import Domain, rule

@rule(
    forward=lambda x: x * x * x, definition=lambda x: x**3, domain=Domain("...", degree=3, power=3), saves="x",
    formula=r"y = x^3: \\bar x = 3 (x^2)^* \\bar y", source="any textbook",
)
def cube(grad_y, y, x):
    """The cube of x."""
    return grad_y * (FACTOR * x * x).conj()
'''


def declared(tmp_path, factor):
    """Declare the new rule in a module of the user's own, and return the path on which it is found."""
    (tmp_path / "my_rules.py").write_text(CUBE.replace("FACTOR", str(factor)))
    return tmp_path, ROOT


in_processes = pytest.mark.xdist_group("processes")
COMMAND = "import sys, my_rules; from backprop_rules.cli import main; sys.argv[0] = 'backprop-rules'; main()"


@in_processes
def test_it_is_in_the_list(all_loaded, tmp_path):
    words = ("-c", COMMAND, "list", "--output-format", "json")
    done = all_loaded.run(*words, path=declared(tmp_path, 3))
    assert "cube" in [row["name"] for row in json.loads(done.stdout)]


@in_processes
def test_it_is_verified(all_loaded, tmp_path):
    done = all_loaded.run("-c", COMMAND, "verify", "cube", "--examples", "50", path=declared(tmp_path, 3))
    assert done.returncode == 0, done.stderr
    assert "cube" in done.stdout


@in_processes
def test_it_is_found_out_if_it_is_wrong(all_loaded, tmp_path):
    done = all_loaded.run("-c", COMMAND, "verify", "cube", "--examples", "50", path=declared(tmp_path, 2))
    assert done.returncode == 1
    assert "what      the gradient of x is wrong, 1 of 1 elements" in done.stdout
    assert "    expected  from 2.999999999999999 to 3.0000000000000004\n    got       2.0\n" in done.stdout


@in_processes
def test_it_is_not_explained_if_it_is_wrong(all_loaded, tmp_path):
    done = all_loaded.run("-c", COMMAND, "explain", "cube", path=declared(tmp_path, 2))
    assert done.returncode
    assert not done.stdout
    assert "cube: it cannot be explained before it is verified. cube: wrong.\n" in done.stderr
    assert "what      the gradient of x is wrong, 1 of 1 elements" in done.stderr


@in_processes
def test_it_is_in_the_parametrisation_of_the_tests(torch_alone, tmp_path):
    words = (
        "-m",
        "pytest",
        "-p",
        "my_rules",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_properties.py",
    )
    done = torch_alone.run(*words, path=declared(tmp_path, 3))
    counts = [done.stdout.count(f"{name}]") for name in ("cube", "matmul")]
    assert counts[0] == counts[1] >= 12, done.stdout + done.stderr


def declare(**changes):
    parts = {
        "forward": torch.neg,
        "definition": np.negative,
        "domain": Domain("..."),
        "saves": "",
        "formula": "y = -x",
        "source": "any textbook",
        **changes,
    }
    return rule(**parts)


def one(grad_y, y, x):
    """The negative of x."""


def two(grad_y, y, x, z):
    """The negative of x."""


def cotangent_last(y, x, grad_y):
    """The negative of x."""


def with_a_param(grad_y, y, x, *, dim):
    """The negative of x."""


def undocumented(grad_y, y, x):
    pass


def neg(grad_y, y, x):
    """The negative of x."""


CONTRADICTIONS = {
    "two primals, one shape": (
        declare(),
        two,
        "rule two: backward has the primals ('x', 'z'), but the domain has the shapes '...'",
    ),
    "arguments in another order": (
        declare(),
        cotangent_last,
        "rule cotangent_last: backward must begin with (grad_y, y, ...), not (y, x, grad_y)",
    ),
    "a param that the domain does not have": (
        declare(),
        with_a_param,
        "rule with_a_param: backward has the params ['dim'], but the domain has []; they are keyword-only, after an "
        "asterisk",
    ),
    "saves what is not there": (
        declare(saves="x w"),
        one,
        "rule one: saves names ['w'], but there is only y, x",
    ),
    "a primal without axes": (
        declare(domain=Domain("m n,")),
        two,
        "rule two: a primal has no axes in the shapes 'm n,'; '...' stands for any number of them",
    ),
    "no docstring": (declare(), undocumented, "rule undocumented: a rule needs a docstring, a formula and a source"),
    "no formula": (declare(formula=""), one, "rule one: a rule needs a docstring, a formula and a source"),
    "a name that is taken": (
        declare(),
        neg,
        "rule neg: the catalogue has a rule of that name already, in backprop_rules.catalogue.arithmetic",
    ),
}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("forward", None),
        ("definition", None),
        ("domain", None),
        ("domain", "..."),
        ("saves", ["x"]),
        ("conventions", "x"),
    ],
)
def test_a_part_of_a_declaration_that_is_something_else_is_refused(part, value):
    with pytest.raises(InputError, match=rf"@rule: {part} must be .*; got {re.escape(repr(value))}\."):
        declare(**{part: value})


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"shapes": 3}, "shapes are named as in '... m n, n'; got 3."),
        ({"degree": 0}, "degree is a whole number from 1 to 53; got 0."),
        ({"degree": -1}, "degree is a whole number from 1 to 53; got -1."),
        ({"power": 1000}, "power is a whole number from 1 to 53; got 1000."),
        ({"weight": 0}, "weight is a whole number from 1 to inf; got 0."),
        ({"power": 0}, "power is a whole number from 1 to 53; got 0."),
        ({"values": {"x": (3.0, 1.0)}}, "values are (low, high) with low < high; got (3.0, 1.0) for x."),
        ({"values": {"x": 3.0}}, "values are (low, high) with low < high; got 3.0 for x."),
    ],
)
def test_a_domain_that_says_nothing_is_refused(parts, words):
    with pytest.raises(InputError, match=re.escape(f"a domain's {words}")):
        Domain(**{"shapes": "...", **parts})


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_declaration_that_contradicts_itself_is_refused(case):
    declaration, backward, message = CONTRADICTIONS[case]
    before = dict(CATALOGUE)
    with pytest.raises(InputError) as refusal:
        declaration(backward)
    assert str(refusal.value) == message
    assert before == CATALOGUE


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (lambda x: x, "    what      comes with a forward that is not its definition"),
        (lambda x: x.exp(), "    what      has a definition that raises AttributeError: "),
    ],
)
def test_a_right_gradient_of_the_wrong_function_is_found_out(definition, words):
    wrong = dataclasses.replace(CATALOGUE["neg"], definition=definition)
    assert words in verify_rule(wrong, 50).problem


def test_a_forward_that_does_not_take_its_domain_is_refused():
    square_only = dataclasses.replace(CATALOGUE["neg"], forward=lambda x: x @ x)
    with pytest.raises(InputError) as refusal:
        verify_rule(square_only, 50)
    assert re.match(
        r"neg: its forward raises RuntimeError for x of shape \(.*\), no params, which its domain", str(refusal.value)
    )
    assert str(refusal.value).endswith("Change the one or the other.")


@pytest.mark.parametrize("forgotten", ["x = 0", "x = the only bound"])
def test_a_kink_that_is_not_declared_is_found_out(forgotten):
    # The central difference of the absolute value is 0 at 0, like its convention: relu is to be found out.
    rule = [r for r in CATALOGUE.values() if forgotten in [c.at for c in r.conventions]][-1]
    kept = tuple(c for c in rule.conventions if c.at != forgotten)
    _, report = verified(dataclasses.replace(rule, conventions=kept), 300)
    assert report.finding.kind is Kind.ORACLES
    assert "every kink must be among the conventions" in " ".join(str(report).split())


ROUNDS = Domain("...", dtypes=(torch.float64,), degree=None)


def own(backward, **changes):
    return dataclasses.replace(CATALOGUE["exp"], name="mine", backward=backward, domain=ROUNDS, **changes)


def test_a_rule_of_ones_own_is_not_excused_for_computing_in_fewer_bits():
    def detour(grad_y, y, x):
        return (grad_y * torch.exp(x.half())).to(x.dtype)

    assert verified(own(detour, saves=("x",)), 50)[1].verdict == "wrong"


def test_an_operation_whose_rounding_is_not_known_is_refused_in_words():
    unknown = own(lambda grad_y, y, x: grad_y * torch.special.bessel_j0(x), saves=("x",))
    with pytest.raises(InputError, match=r"mine: how far it may round is not known: .*bessel_j0.* Write it with other"):
        verify_rule(unknown, 20)


def test_a_definition_that_raises_is_objected_to():
    def broken(x):
        raise ValueError("no such shape")

    problem = verify_rule(own(CATALOGUE["exp"].backward, definition=broken), 20).problem
    assert "has a definition that raises ValueError: no such shape" in problem


def test_a_backward_of_another_signature_is_refused_in_words():
    for backward, words in (
        (lambda grad_y, y, x, dim=-1: grad_y, "softmax: backward has the primals"),
        (lambda grad_y, y: grad_y, "softmax: backward has the primals"),
        (lambda grad_y, y, x: grad_y, "they are keyword-only, after an asterisk"),
    ):
        with pytest.raises(InputError, match=words):
            verify_rule(dataclasses.replace(CATALOGUE["softmax"], backward=backward), 5)


def test_a_domain_in_which_everything_rounds_is_refused_and_not_passed():
    endless = dataclasses.replace(CATALOGUE["neg"], domain=Domain("...", weight=2**60))
    with pytest.raises(InputError, match="neg: no point could be drawn on which nothing rounds"):
        verify_rule(endless, 20)
