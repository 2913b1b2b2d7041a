"""The published wrong rules again, with nothing given but the forward, the backward, and one ordinary call."""

import pytest
import torch
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE, check

# What each is called, by its place in the list: read and found true of each. None is "not recognised".
NAMES = {
    "matmul": (
        "missing un-broadcast",
        "operand reversed",
        "operand not transposed",
        "raises",
        "missing conjugate",
        "not finite",
    ),
    "relu": ("masked by the cotangent", "passed on unchanged", "works in place"),
    "clamp": ("strict at ties", "cotangent squared", "NaN falls through"),
    "clamp_tensor": (None,),
    "pow": ("not finite", "not finite"),
    "pow_tensor": ("not finite", "missing un-broadcast", "dtype"),
    "sum": ("transposed", "cotangent ignored"),
    "mean": ("read as if contiguous",),
    "add": (None,),
    "linear": ("first axis only", "mean instead of sum", "transposed", "read as if contiguous", "stale state"),
    "sub": ("sign",),
    "mean_squared_error": ("factor 1/2", "missing un-broadcast"),
    "sigmoid": ("input in the place of the output", "right"),
    "softmax": ("diagonal of the Jacobian",),
    "maximum": ("inclusive at ties",),
    "where": ("right",),
    "mul": ("stale state",),
    "expm1": ("right",),
    "tanh": ("right",),
    "index_select": ("last path only",),
    "gather": ("last path only",),
    "prod": ("not finite",),
    "cross_entropy": ("factor 2/3",),
    "layer_norm": ("constant",),
    "var": ("correction ignored",),
    "norm": ("not finite",),
}


def expected():
    """Yield each mistake with its name."""
    left = {rule: iter(names) for rule, names in NAMES.items()}
    return [(m, next(left[m.rule])) for m in MISTAKES]


@pytest.mark.parametrize(("mistake", "name"), expected(), ids=lambda value: str(value)[:60])
def test_it_is_caught_and_named(mistake, name):
    forward = CATALOGUE[mistake.rule].forward
    report = check(
        mistake.backward, forward=forward, example=mistake.example, params=mistake.params, raise_on_failure=False
    )
    if name == "right":
        # Torch's own derivative, as accurate as its own; or a mask by multiplication, which a finite cotangent allows.
        assert report.passed
        return
    assert not report.passed
    assert (report.mistake and report.mistake.name) == name, str(report)


def test_at_least_thirty_are_named():
    names = [name for _, name in expected() if name not in (None, "right")]
    assert len(names) >= 30


def test_the_trap_of_a_choice_whose_other_branch_is_not_finite():
    def root(grad_y, x):
        return grad_y * (x > 0) / (2 * torch.sqrt(x))

    report = check(
        root,
        forward=lambda x: torch.where(x > 0, torch.sqrt(x), 0),
        example=(torch.tensor([1.0, 4.0, 0.5]),),
        raise_on_failure=False,
    )
    assert report.verdict == "wrong"
    assert report.mistake.name == "not finite"
