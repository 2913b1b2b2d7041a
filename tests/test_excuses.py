"""What a right backward is excused for, and what a wrong one is not, in what nobody draws at first."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from backprop_rules import check, check_function
from backprop_rules.properties.finding import Kind

torch.manual_seed(5)
X, W = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)


def asked(backward, rule=None, *, max_examples=80, **options):
    return check(backward, rule, max_examples=max_examples, raise_on_failure=False, **options)


def twice_if_ambiguous(grad_y, x):
    one = x.sin() ** 2 + x.cos() ** 2  # next to 1, on either side
    return torch.where(one >= 1, grad_y * 0.5, grad_y)


def test_an_ambiguous_comparison_is_no_excuse_for_another_function():
    assert asked(twice_if_ambiguous, forward=lambda x: x * 1.0, example=(X,)).verdict == "wrong"


def test_a_mask_that_rounding_decides_may_be_either():
    def backward(grad_y, x, w, b):
        grad = grad_y * (x @ w + b > 0)
        return grad @ w.T, x.T @ grad, grad.sum(0)

    x, w, b = (np.asarray(t, dtype=np.float32) for t in (X, W, W[0]))
    assert asked(backward, definition=lambda x, w, b: np.maximum(x @ w + b, 0), example=(x, w, b)).passed


@pytest.mark.parametrize("size", [1, 300])
def test_a_mistake_beyond_the_blocks_of_a_kernel_is_found(size):
    def backward(grad_y, x):
        found = grad_y * x.cos()
        if x.shape[-1] > 256:
            found[..., 256:] = 0  # the last block is forgotten
        return found

    report = asked(backward, forward=torch.sin, example=(torch.randn(2, size, dtype=torch.float64),))
    assert report.verdict == "wrong"
    assert max(report.finding.point.leaves[0].shape) > 256


def test_an_example_of_any_size_takes_seconds():
    x, w = torch.randn(200, 150), torch.randn(150, 100)
    report = asked(lambda g, x, w: (g @ w.T, x.T @ g), forward=torch.matmul, example=(x, w), max_examples=20)
    assert report.passed
    assert report.seconds < 60  # it took minutes when the example itself was certified


def sums_one_by_one(a, b):
    total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        total += a[:, k : k + 1] * b[k : k + 1]
    return total


def narrow(grad_y, x, w):
    """A kernel that keeps its sums in the arrays' own dtype: nobody sees its operations."""
    g, a, b = grad_y.numpy(), x.numpy(), w.numpy()
    return torch.from_numpy(sums_one_by_one(g, b.T)), torch.from_numpy(sums_one_by_one(a.T, g))


def test_narrow_sums_are_told_from_a_wrong_gradient_and_can_be_meant():
    example = (X.half(), W.half())
    report = asked(narrow, forward=torch.matmul, example=example)
    assert (report.verdict, report.mistake.name) == ("inaccurate", "narrow sums")
    assert asked(narrow, forward=torch.matmul, example=example, accumulate="float16").passed


def test_sums_that_were_asked_to_be_wide_are_wide():
    example, forward = (X.float(), W.float()), torch.matmul
    plain = asked(lambda g, x, w: (g @ w.T, x.T @ g), forward=forward, example=example, accumulate="float64")
    assert (plain.verdict, plain.mistake.name) == ("inaccurate", "narrow sums")

    def wide(grad_y, x, w):
        g = grad_y.double()
        return (g @ w.double().T).float(), (x.double().T @ g).float()

    assert asked(wide, forward=forward, example=example, accumulate="float64").passed


def test_what_over_or_underflows_on_the_way_is_no_loss_of_accuracy():
    assert asked(lambda g, a, b: (g / b, -g * a / (b * b)), forward=torch.div, example=(X, X + 3)).passed


def test_nan_of_a_masked_row_is_no_loss_of_accuracy():
    def forward(x, hidden):
        return torch.softmax(x.masked_fill(hidden, -math.inf), -1)

    def backward(grad_y, y, x, hidden):
        return y * (grad_y - (grad_y * y).sum(-1, keepdim=True)), None

    assert asked(backward, forward=forward, example=(X.float(), X > 0)).passed


def test_a_backward_that_raises_on_empty_arrays_gets_a_note():
    def backward(grad_y, x):
        e = (x - x.max(-1, keepdim=True).values).exp()
        return grad_y.unsqueeze(-1) * e / e.sum(-1, keepdim=True)

    report = asked(backward, forward=lambda x: torch.logsumexp(x, -1), example=(X,))
    assert report.passed
    assert any("empty arrays" in note for note in report.notes)


def rotated(x, c, s):
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def test_sizes_that_belong_together_are_not_torn_apart():
    def backward(grad_y, x, c, s):
        ga, gb, a, b = grad_y[..., ::2], grad_y[..., 1::2], x[..., ::2], x[..., 1::2]
        grad_x = torch.empty_like(x)
        grad_x[..., ::2], grad_x[..., 1::2] = ga * c + gb * s, gb * c - ga * s
        return grad_x, ga * a + gb * b, gb * a - ga * b

    assert asked(backward, forward=rotated, example=(X, X[:, :2], X[:, 2:])).passed


def test_what_is_detached_has_no_gradient():
    def forward(x):
        return x * x.detach()

    assert asked(lambda g, x: g * x, forward=forward, example=(X,)).passed
    assert asked(lambda g, x: 2 * g * x, forward=forward, example=(X,)).mistake.name == "factor 2"


def test_a_primal_may_be_called_y():
    def backward(g, y, t):
        return 2 * g * (y - t), -2 * g * (y - t)

    assert asked(backward, forward=lambda y, t: (y - t) ** 2, example=(X, X + 1)).passed


def test_the_output_is_given_wherever_y_stands():
    assert asked(lambda grad_y, x, y: grad_y * y, "exp", dtypes="float64").passed


def test_a_forward_without_a_formula_for_its_rounding_hides_nothing():
    assert asked(lambda g, x: g * 0, forward=torch.tan, example=(X,)).verdict == "wrong"


def test_nan_passed_on_is_a_matter_of_choice():
    report = asked(lambda g, x: torch.where(x < -1, 0 * g, torch.where(x > 1, 0 * g, g)), "clamp",
                   params={"min": -1.0, "max": 1.0}, dtypes="float64")  # fmt: skip
    assert report.verdict == "convention"
    assert "any subgradient" in str(report)


def test_an_example_beside_a_rule_says_how_many_axes_are_meant():
    def backward(grad_y, x, w, b):
        return grad_y @ w, grad_y.T @ x, grad_y.sum(0)

    assert asked(backward, "linear", example=(X, W.T, W[0])).passed
    report = asked(backward, "linear", dtypes="float64")
    assert report.verdict == "wrong"


def test_mean_and_var_of_a_definition():
    p = np.linspace(-1, 1, 12).reshape(3, 4)
    assert asked(lambda g, p: g * 2 * p / p.size, definition=lambda p: np.mean(p**2), example=(p,)).passed
    assert asked(lambda g, p: g * 2 * (p - p.mean()) / p.size, definition=np.var, example=(p,)).passed


def test_layer_norm_without_its_weights():
    def backward(grad_y, x):
        away = x - x.mean(-1, keepdim=True)
        r = (away.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        h = away * r
        return r * (grad_y - grad_y.mean(-1, keepdim=True) - h * (grad_y * h).mean(-1, keepdim=True))

    assert asked(backward, forward=lambda x: functional.layer_norm(x, x.shape[-1:]), example=(X,)).passed


class WritesIntoItsOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad_y):
        (y,) = ctx.saved_tensors
        return y.mul_(grad_y)


class WritesIntoItsMask(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.mask = (x > 0).to(x.dtype)
        return x * context.mask

    @staticmethod
    def backward(context, grad_y):
        return context.mask.mul_(grad_y)


class Product(torch.autograd.Function):
    asked_for = (0, 1)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @classmethod
    def backward(cls, ctx, grad_y):
        (x, w), (i, j) = ctx.saved_tensors, Product.asked_for
        return grad_y * w if ctx.needs_input_grad[i] else None, grad_y * x if ctx.needs_input_grad[j] else None


@pytest.mark.parametrize(("function", "rule"), [(WritesIntoItsOutput, "exp"), (WritesIntoItsMask, "relu")])
def test_a_function_must_leave_what_it_saved_alone(function, rule):
    report = asked(function, rule, dtypes="float64")
    assert report.verdict == "wrong"
    assert report.finding.kind is Kind.SAVED


@pytest.mark.parametrize(("asked_for", "verdict"), [((0, 1), "right"), ((0, 0), "wrong")])
def test_a_function_must_give_each_gradient_alone(asked_for, verdict, monkeypatch):
    monkeypatch.setattr(Product, "asked_for", asked_for)
    report = check_function(Product, forward=torch.mul, example=(X, X), max_examples=40, raise_on_failure=False)
    assert report.verdict == verdict


@pytest.mark.parametrize(
    ("backward", "forward", "example", "name"),
    [
        (lambda g, x, t: (2 * (x - t), -2 * (x - t)), lambda x, t: ((x - t) ** 2).sum(), (X, X), "cotangent ignored"),
        (lambda g, x: g.unsqueeze(-1) * (x == x.amax(-1, keepdim=True)), lambda x: x.amax(-1), (X,),
         "ties shared wrongly"),
        (lambda g, x: g * (torch.rand_like(x) > 0.5) * 2, lambda x: x * 1.0, (X,), "drawn again"),
        (lambda g, p, t: (2 * (p - t) * g, -2 * (p - t) * g), functional.mse_loss, (X, X + 1), "sum instead of mean"),
        (lambda g, x, w, b: (g @ w, g.T @ x, g.sum()), functional.linear, (X, W.T, W[0]), "summed over all axes"),
    ],
)  # fmt: skip
def test_the_mistake_is_named_rightly(backward, forward, example, name):
    assert asked(backward, forward=forward, example=example).mistake.name == name


def test_the_operations_of_jax_are_followed():
    import jax.numpy as jnp

    def half_more_in_float32(grad_y, x):
        return grad_y * jnp.cos(x) * (1.5 if x.dtype == jnp.float32 else 1)

    def softmax(grad_y, x):
        e = jnp.exp(x - x.max(-1, keepdims=True))
        y = e / e.sum(-1, keepdims=True)
        return y * (grad_y - (grad_y * y).sum(-1, keepdims=True))

    options = {"framework": "jax", "max_examples": 30}
    assert asked(half_more_in_float32, forward=torch.sin, example=(X.float(),), **options).mistake.name == "factor 3/2"
    for dtype in (torch.float32, torch.bfloat16):
        forward, example = (lambda x: torch.softmax(x, -1)), (X.to(dtype),)
        assert asked(softmax, forward=forward, example=example, **options).passed


def test_the_report_says_which_framework_makes_the_choice():
    def half_at_a_bound(grad_y, x, *, min=None, max=None):
        low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
        return grad_y * (((x > low) & (x < high)) + 0.5 * ((x == low) | (x == high)))

    options = {"dtypes": "float64", "params": {"min": -1.0, "max": 1.0}}
    report = asked(half_at_a_bound, "clamp", **options)
    assert report.verdict == "convention"
    assert "makes the same" in str(report)
    assert "convention='any subgradient'" in str(report)
    assert asked(half_at_a_bound, "clamp", convention="any-subgradient", **options).passed


@pytest.mark.parametrize("least", [-6, -7])
def test_digits_that_cancel_in_a_divisor_are_lost_however_many_they_are(least):
    def naively(grad_y, y):
        return grad_y / (1 - torch.exp(-y))

    report = check(
        naively,
        forward=lambda y: y + torch.log(-torch.expm1(-y)),
        example=(torch.logspace(least, 1, 10),),
        raise_on_failure=False,
    )
    assert report.verdict == "inaccurate"
