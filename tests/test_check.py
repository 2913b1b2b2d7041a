"""The reference oracle: verdicts, the report, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from backprop_rules import WrongGradient, check, check_function, find
from backprop_rules.evidence.witnesses import Witnessed
from backprop_rules.properties.finding import Kind
from backprop_rules.rule import installed


def relu(grad_y, x):
    return grad_y * (x > 0)


def clamped(grad_y, x):
    return grad_y.clamp(min=0)


def vector():
    return torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64)


def test_a_right_backward_is_right():
    report = check(relu, "relu")
    assert report.passed
    assert report.verdict == "right"
    assert report.points >= 40
    assert report.rungs["proved"]
    assert str(report).startswith("relu: right.\n")


def test_a_wrong_backward_raises_its_report():
    with pytest.raises(WrongGradient) as raised:
        check(clamped, "relu")
    assert isinstance(raised.value, WrongGradient)
    assert raised.value.report.verdict == "wrong"
    assert str(raised.value) == str(raised.value.report)


GOLDEN = """\
relu: wrong.
    what      the gradient of x is wrong, 1 of 1 elements
    expected  -1.0
    got       0.0
    against   certified, torch's own gradient agrees
    right     shape, dtype and device
    likely    the cotangent is clamped at 0 where `relu` (forward) should mask it by its input (the pre-activation)
    seen at   `grad_y.clamp(min=0)` (backward, line 21), where the gradient by `x` should come out
The smallest counterexample found:
    import torch
    x = torch.tensor(1.0, dtype=torch.float64)
    grad_y = torch.tensor(-1.0, dtype=torch.float64)
    backward(grad_y, x)
The function: y = max(x, 0): x̄ = ȳ [y > 0]
"""


def test_the_report_names_the_mistake_and_shows_the_smallest_counterexample():
    text = str(check(clamped, "relu", raise_on_failure=False))
    head, _, last = text.rpartition("\n")
    assert head + "\n" == GOLDEN
    assert last.endswith("Seed 0.")


def test_the_report_is_json_and_html_too():
    report = check(clamped, "relu", raise_on_failure=False)
    found = json.loads(report.to_json())
    assert found["verdict"] == "wrong"
    assert found["mistake"]["name"] == "masked by the cotangent"
    assert found["finding"]["primal"] == "x"
    assert found["finding"]["rung"] == "proved"
    assert "torch.tensor(1.0, dtype=torch.float64)" in found["finding"]["counterexample"]
    page = report._repr_html_()
    assert "<b>relu: wrong.</b>" in page
    assert "grad_y" in page


def test_the_counterexample_can_be_pasted():
    report = check(clamped, "relu", raise_on_failure=False)
    pasted = {}
    exec(report.counterexample, pasted)
    assert clamped(pasted["grad_y"], pasted["x"]) != relu(pasted["grad_y"], pasted["x"])


def test_equal_seeds_give_equal_reports():
    first, second = (check(clamped, "relu", raise_on_failure=False).to_dict() for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_inaccurate_is_told_from_wrong():
    def tanh(grad_y, x):
        return grad_y * (1 - torch.tanh(x) ** 2)

    report = check(tanh, "tanh", accuracy="catalogue", raise_on_failure=False)
    assert report.verdict == "inaccurate"
    assert report.mistake.name == "cancellation"
    assert not report.passed
    # Torch's own derivative is no better: to that it is right.
    assert check(tanh, "tanh").passed
    assert check(tanh, forward=torch.tanh, example=(vector(),)).passed


def inclusive(grad_y, x, *, min=None, max=None):
    low, high = (float("-inf") if min is None else min), (float("inf") if max is None else max)
    return torch.where((x >= low) & (x <= high), grad_y, 0)


def strict(grad_y, x, *, min=None, max=None):
    low, high = (float("-inf") if min is None else min), (float("inf") if max is None else max)
    return torch.where((x > low) & (x < high), grad_y, 0)


def test_another_choice_at_a_kink_is_a_convention():
    torchs, other = (inclusive, strict) if installed("<2.14") else (strict, inclusive)
    assert check(torchs, "clamp", dtypes=["float64"]).passed
    report = check(other, "clamp", dtypes=["float64"], raise_on_failure=False)
    assert report.verdict == "convention"
    assert (report.mistake and report.mistake.name) == ("strict at ties" if other is strict else None)
    assert check(other, "clamp", dtypes=["float64"], convention="any subgradient").passed


def test_a_kink_of_an_unknown_function_is_hunted_down():
    def corner(x):
        return torch.where(x > 0.37, 2 * x - 0.37, x)

    def at_the_corner(grad_y, x):
        return torch.where(x > 0.37, 2 * grad_y, torch.where(x == 0.37, 5 * grad_y, grad_y))

    def right(grad_y, x):
        return torch.where(x > 0.37, 2 * grad_y, grad_y)

    assert check(right, forward=corner, example=(vector(),)).passed
    assert check(at_the_corner, forward=corner, example=(vector(),), raise_on_failure=False).verdict == "wrong"


def test_any_function_can_be_given_by_its_definition_alone():
    def right(grad_y, x, w):
        return (grad_y @ w.T) * np.exp(x), np.exp(x).T @ grad_y

    def transposed(grad_y, x, w):
        return (grad_y @ w.T) * np.exp(x), (np.exp(x).T @ grad_y).T if w.shape[0] == w.shape[1] else right(
            grad_y, x, w
        )[1]

    numbers = np.random.default_rng(0)
    example = numbers.normal(size=(2, 3)), numbers.normal(size=(3, 3))
    assert check(right, definition=lambda x, w: np.exp(x) @ w, example=example).passed
    report = check(transposed, definition=lambda x, w: np.exp(x) @ w, example=example, raise_on_failure=False)
    assert report.mistake.name == "transposed"


def test_shared_memory_is_a_note_and_an_objection_only_where_asked_for():
    def add(grad_y, x, z):
        return grad_y, grad_y

    options = {"forward": torch.add, "example": (vector(), vector())}
    report = check(add, **options)
    assert report.passed
    assert "shares memory" in report.notes[0]
    assert check(add, **options, strict_memory=True, raise_on_failure=False).verdict == "wrong"


def test_what_is_read_but_was_not_saved_is_objected_to_where_it_is_declared():
    def square(grad_y, x):
        return 2 * x * grad_y

    assert check(square, "square", dtypes=["float64"]).passed is True
    for seed in range(6):  # the first point that is drawn may be empty, or zero
        report = check(square, "square", dtypes=["float64"], saves=["y"], seed=seed, raise_on_failure=False)
        assert report.mistake.name == "not saved"


def test_an_autograd_function_is_asked_directly_and_through_autograd():
    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad_y):
            (y,) = ctx.saved_tensors
            return grad_y * y

    class Shifted(Exp):
        @staticmethod
        def forward(ctx, x):
            y = Exp.forward(ctx, x)
            return y + 1

    class Unreduced(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, z):
            return x + z

        @staticmethod
        def backward(ctx, grad_y):
            return grad_y, grad_y  # the engine would sum the second

    assert check_function(Exp, "exp").passed
    report = check_function(Shifted, "exp", raise_on_failure=False)
    assert report.finding.kind is Kind.FUNCTION
    example = torch.ones(2, 3), torch.ones(3)
    report = check_function(Unreduced, forward=torch.add, example=example, raise_on_failure=False)
    assert report.mistake.name == "missing un-broadcast"


def test_functions_of_positional_arguments_alone_are_asked_of_their_own_backward():
    import jax.numpy as jnp

    def sine(x, /):
        return x.sin()

    assert check_function(sine, "sin").passed
    assert check_function(jnp.exp, "exp", example=(jnp.ones(2),)).passed, "its example says that it is JAX's"


def test_what_a_jax_backward_keeps_between_calls_is_found_out():
    import jax.numpy as jnp

    given = []

    def stale(grad_y, x):
        given.append(grad_y)
        return given[-2 if len(given) > 1 else -1] * jnp.cos(x)

    example = (jnp.array([0.5, -1.0, 2.0]),)
    report = check(stale, definition=np.sin, framework="jax", example=example, raise_on_failure=False)
    assert report.mistake.name == "stale state"


@pytest.mark.parametrize("seed", range(6))
def test_the_catalogues_own_clamp_makes_another_choice_at_most_with_bounds_or_without(seed):
    report = check(find("clamp_tensor").backward, "clamp_tensor", seed=seed, raise_on_failure=False)
    assert report.verdict in ("right", "convention"), str(report)


def test_a_difference_of_any_size_has_its_bits():
    assert Witnessed(1e300, 2.0**-149, 1.0, False, False).bits < -1000


def test_where_nothing_can_be_said_it_is_inconclusive():
    def nothing(grad_y, x):
        return torch.full_like(x, float("nan"))

    report = check(nothing, forward=lambda x: torch.sqrt(-x * x - 1), example=(vector(),), raise_on_failure=False)
    assert report.verdict == "inconclusive"
    assert "at no point of ordinary values can anything be said of the gradient of x" in str(report)


def test_the_params_of_a_call_are_fixed():
    def softmax(grad_y, x, *, dim):
        y = torch.softmax(x, dim)
        return y * (grad_y - (grad_y * y).sum(dim, keepdim=True))

    example = (torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]], dtype=torch.float64),)
    assert check(softmax, forward=functional.softmax, example=example, params={"dim": 1}).passed


def masked(grad_y, x, m):
    return grad_y * m, None


MASKED = (torch.randn(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64))


def test_a_missing_gradient_comes_with_what_to_write_if_none_is_meant():
    report = check(masked, forward=lambda x, m: x * m, example=MASKED, raise_on_failure=False)
    assert (report.verdict, report.mistake.name) == ("wrong", "no gradient")
    assert "if m is meant to have no gradient, as a mask of 0 and 1, write m.detach() in forward" in report.notes
    # A rule of the catalogue has its gradients, whatever is meant.
    assert not check(masked, "mul", raise_on_failure=False).notes


def test_none_is_right_where_forward_detaches_and_only_there():
    def forward(x, m):
        return x * m.detach()

    assert check(masked, forward=forward, example=MASKED).verdict == "right"
    wrong = {
        "factor 2": lambda grad_y, x, m: (2 * grad_y * m, None),
        "no gradient": lambda grad_y, x, m: (None, None),
    }
    for name, backward in wrong.items():
        report = check(backward, forward=forward, example=MASKED, raise_on_failure=False)
        assert (report.verdict, report.mistake.name) == ("wrong", name)


def test_a_forward_that_needs_two_dtypes_keeps_those_of_the_example():
    def backward(grad_y, x, w):
        return (grad_y @ w.T).to(x.dtype), x.float().T @ grad_y

    def twice(grad_y, x, w):
        return (2 * grad_y @ w.T).to(x.dtype), x.float().T @ grad_y

    options = {"forward": lambda x, w: x.float() @ w, "example": (torch.randn(3, 4).bfloat16(), torch.randn(4, 5))}
    report = check(backward, **options)
    assert report.verdict == "right"
    assert set(report.dtypes) == {torch.bfloat16, torch.float32}
    assert report.points >= 40
    report = check(twice, **options, raise_on_failure=False)
    assert (report.verdict, report.mistake.name) == ("wrong", "factor 2")


@pytest.mark.parametrize("columns", [6, 20, 129])
def test_torch_that_is_exact_by_luck_is_no_measure_of_digits(columns):
    """A softmax's gradient for a constant cotangent is 0: all of it cancels, or rounds to about 1e-8."""

    def backward(g, x):
        p = torch.softmax(x, -1)
        return p * (g - (p * g).sum(-1, keepdim=True))

    for seed in range(5):
        example = (torch.randn(2, columns, generator=torch.Generator().manual_seed(seed)),)
        assert check(backward, forward=lambda x: torch.softmax(x, -1), example=example, seed=seed).verdict == "right"


def test_an_empty_gradient_of_another_empty_shape_is_no_mistake_but_one_of_elements_is():
    def backward(grad_y, x):
        return grad_y.expand(x.shape).clone() if x.numel() else x.new_zeros(0)

    held = {"forward": lambda x: x.sum(0), "example": (torch.randn(3, 4),), "raise_on_failure": False}
    report = check(backward, **held)
    assert report.passed
    assert "another shape, of no element either" in str(report)

    def of_one_element(grad_y, x):
        return grad_y.expand(x.shape).clone() if x.numel() else x.new_zeros(1)

    assert check(of_one_element, **held).verdict == "wrong"
