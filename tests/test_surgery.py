"""The mistake is told in the line of forward that it was made in, and nothing is told of what is none."""

import inspect

import numpy as np
import pytest
import torch
from naming import answered
from reported import numbers
from test_labelled import FORWARDS
from torch.nn import functional

from backprop_rules import check
from backprop_rules.diagnosis.factor import factor_in_words
from backprop_rules.diagnosis.surgery import in_its_line, places_of
from backprop_rules.evidence.evidence import WIDE
from backprop_rules.question import Asked, question

# How many of the twenty of each are named in their lines; `python tests/naming.py` asks all of the twelve.
NAMED = {"RMSNorm": 19, "layer norm": 17, "SwiGLU": 15, "the Huber loss": 18, "cross entropy": 19}

# And of these, of how many the backward's own line is told.
LINES = {"RMSNorm": 17, "layer norm": 16, "SwiGLU": 15, "the Huber loss": 19, "cross entropy": 19}


@pytest.mark.parametrize("forward", [f for f in FORWARDS if f.name in NAMED], ids=str)
def test_labelled_mistakes_are_named_in_their_lines(forward):
    found = [answered(forward, labelled) for labelled in forward.wrong]
    assert sum(one.in_its_lines for one in found) >= NAMED[forward.name], "\n".join(map(str, found))
    # The line of the backward, where one is told, is never before the first that is other than in the right one.
    lines = [one.line for one in found if one.found]
    assert "earlier" not in lines
    assert lines.count("its") >= LINES[forward.name], "\n".join(map(str, found))


def normalised(x, w):
    squares = x.square()
    inverse = torch.rsqrt(squares.mean(-1, keepdim=True) + 1e-5)
    return x * inverse * w


LINE = normalised.__code__.co_firstlineno


def inverse_held_constant(g, x, w):
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    return g * w * inverse, (g * x * inverse).sum(0)


def summed_squares(g, x, w):
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    along = (g * w * x).sum(-1, keepdim=True)
    return g * w * inverse - x * inverse**3 * along, (g * x * inverse).sum(0)


def weight_forgotten(g, x, w):
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    along = (g * x).mean(-1, keepdim=True)
    return g * inverse - x * inverse**3 * along, (g * x * inverse).sum(0)


def right(g, x, w):
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    along = (g * w * x).mean(-1, keepdim=True)
    return g * w * inverse - x * inverse**3 * along, (g * x * inverse).sum(0)


EXAMPLE = numbers(3, 4), numbers(4)


def likely(backward, **options):
    report = check(backward, forward=normalised, example=EXAMPLE, raise_on_failure=False, **options)
    assert report.verdict == "wrong"
    return report.mistake.words if report.mistake else ""


def test_what_is_told_names_the_expression_and_its_line():
    rsqrt = "`torch.rsqrt(squares.mean(-1, keepdim=True) + 1e-5)`"
    held = f"as if {rsqrt} (forward, line {LINE + 2}) were a constant: its derivative is missing"
    assert likely(inverse_held_constant) == held
    mean = f"`squares.mean(-1, keepdim=True)` (forward, line {LINE + 2})"
    assert likely(summed_squares) == f"the derivative of {mean} is off by the factor the size of axis 1 of `x`"
    weight = f"as if the cotangent passed `x * inverse * w` (forward, line {LINE + 3}) unchanged, for its argument 1"
    assert likely(weight_forgotten) == weight


def gated(x, w):
    return functional.silu(x @ w)


def derivative_of_the_gate_alone(g, x, w):
    gate = torch.sigmoid(x @ w)
    along = g * (gate + gate * (1 - gate))  # x @ w is missing
    return along @ w.mT, x.mT @ along


def test_a_composite_function_is_taken_apart():
    report = check(
        derivative_of_the_gate_alone, forward=gated, example=(numbers(3, 4), numbers(4, 5)), raise_on_failure=False
    )
    line = gated.__code__.co_firstlineno + 1
    told = f"as if the cotangent passed the mul in `functional.silu(x @ w)` (forward, line {line}) unchanged"
    assert report.mistake.words == f"{told}, for its argument 2"


def test_a_step_that_is_differentiated_once_alone_is_no_obstacle():
    def bag(table, weights):
        rows, starts = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 2])
        return functional.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)

    def halved(g, table, weights):
        right = torch.autograd.functional.vjp(bag, (table, weights), g)[1]
        return right[0], right[1] / 2

    report = check(halved, forward=bag, example=(numbers(3, 4), numbers(4)), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert "factor 1/2" in str(report.mistake)
    assert "error of backprop_rules" not in str(report)


def test_a_wrong_max_pool_gets_no_error_of_our_own():
    def average(g, x):
        return g.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4

    report = check(
        average, forward=lambda x: functional.max_pool2d(x, 2), example=(numbers(2, 3, 4, 6),), raise_on_failure=False
    )
    assert report.verdict == "wrong"
    assert "error of backprop_rules" not in str(report)


@pytest.mark.parametrize("backward", [inverse_held_constant, summed_squares, weight_forgotten])
def test_a_name_does_not_depend_on_the_seed(backward):
    assert len({likely(backward, seed=seed) for seed in range(5)}) == 1


def test_it_is_looked_for_unless_that_is_switched_off():
    assert not likely(inverse_held_constant, explain=False)


def test_of_a_right_backward_nothing_is_told():
    subject, _ = question(right, (None, normalised, None, EXAMPLE, {}, None), Asked())
    assert in_its_line(places_of(subject, WIDE)) == []


def test_what_no_edit_explains_is_not_named():
    def by_chance(g, x, w):
        return torch.sin(3 * g) * w, g.sum(0)

    assert not likely(by_chance)


# ---- the line of the backward


def seen_at(backward, forward=normalised, example=EXAMPLE):
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert report.mistake is not None
    return report.mistake.made


def line_of(backward, text):
    lines, first = inspect.getsourcelines(backward)
    (number,) = (first + k for k, line in enumerate(lines) if text in line)
    return number


def attention(q, k, v):
    p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    return p @ v


ATTENTION = numbers(3, 2), numbers(4, 2), numbers(4, 3)


def softmax_by_its_diagonal(g, q, k, v):
    p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    dp = g @ v.mT
    ds = p * (1 - p) * dp
    ds = ds / q.shape[-1] ** 0.5
    return ds @ k, ds.mT @ q, p.mT @ g


def sign_of_the_last_product(g, q, k, v):
    p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    dp = g @ v.mT
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
    dk = -ds.mT @ q
    return ds @ k, dk, p.mT @ g


def test_the_line_of_the_backward_is_told_in_which_the_first_wrong_number_comes_out():
    line = line_of(softmax_by_its_diagonal, "ds = p * (1 - p) * dp")
    told = seen_at(softmax_by_its_diagonal, attention, ATTENTION)
    assert told.startswith(f"`p * (1 - p) * dp` (backward, line {line}), where the gradient by `q @ k.mT / ")
    assert told.endswith(" should come out")


def test_what_to_write_instead_is_told_where_the_catalogue_has_the_rule():
    report = check(softmax_by_its_diagonal, forward=attention, example=ATTENTION, raise_on_failure=False)
    assert "    instead   softmax: yᵢ = e^xᵢ/(Σⱼ e^xⱼ): x̄ᵢ = yᵢ (ȳᵢ - Σⱼ ȳⱼ yⱼ)\n" in str(report)
    report = check(sign_of_the_last_product, forward=attention, example=ATTENTION, raise_on_failure=False)
    assert report.mistake.instead == "matmul: Y = A B: Ā = Ȳ Bᵀ, B̄ = Aᵀ Ȳ"


def test_what_is_right_on_the_way_is_not_told():
    line = line_of(sign_of_the_last_product, "dk = -ds.mT @ q")
    told = seen_at(sign_of_the_last_product, attention, ATTENTION)
    assert f"(backward, line {line})" in told
    assert "p * (dp" not in told


def test_the_line_stands_in_the_report_and_is_not_asked_for_where_that_is_switched_off():
    report = check(softmax_by_its_diagonal, forward=attention, example=ATTENTION, raise_on_failure=False)
    assert f"    seen at   {report.mistake.made}\n" in str(report)
    assert report.to_dict()["mistake"]["made"] == report.mistake.made
    silent = check(softmax_by_its_diagonal, forward=attention, example=ATTENTION, raise_on_failure=False, explain=False)
    assert "seen at" not in str(silent)


def one_opaque_call(g, q, k, v):
    return Opaque.apply(g, q, k, v)


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):
        with torch._C.DisableTorchFunction():
            return softmax_by_its_diagonal(*args)


def test_what_cannot_be_followed_has_no_line_and_its_mistake_a_name():
    assert seen_at(one_opaque_call, attention, ATTENTION) == ""


def test_every_gradient_that_is_wrong_is_told():
    report = check(softmax_by_its_diagonal, forward=attention, example=ATTENTION, raise_on_failure=False)
    assert "    wrong too the gradient of k\n" in str(report)
    assert "0 witnessed" not in str(report)


@pytest.mark.parametrize(("factor", "told"), [(0.0, "0"), (-3.0, "-3"), (0.5, "1/2")])
def test_a_factor_that_is_a_number_is_told_as_one(factor, told):
    """One of 0 is not divided by."""
    assert factor_in_words([factor, factor], (), ()) == ("factor", f"{{way}} is {told} times what it should be", told)


@pytest.mark.parametrize(("kept", "rounds"), [((0, 2), "call 2 of 3"), ((1,), "call 1 of 3"), ((), None)])
def test_what_is_missing_in_some_rounds_of_a_loop_is_told_of_these(kept, rounds):
    def forward(x, w):
        return sum(torch.tanh(x[:, d : d + 2] - w) for d in range(3))

    def backward(g, x, w):
        dx, dw = torch.zeros_like(x), torch.zeros_like(w)
        for d in range(3):
            t = g * (1 - torch.tanh(x[:, d : d + 2] - w) ** 2)
            dx[:, d : d + 2] += t
            dw = dw - t.sum(0) if d in kept else dw
        return dx, dw

    report = check(
        backward, forward=forward, example=(numbers(5, 4), numbers(2)), sizes={4: 4, 2: 2}, raise_on_failure=False
    )
    assert (rounds or "nothing comes back to `w`") in report.mistake.words, str(report)
    assert rounds or "call" not in report.mistake.words


ANOTHER_AXIS = {
    "of one argument": (
        lambda x: x.mean((2, 3)),
        lambda g, x: (g[..., None, None] / x.shape[2] ** 2).expand_as(x),
        ((2, 3, 8, 6),),
    ),
    "of another": (
        lambda a, b: a.mean(0) + b.sum(0),
        lambda g, a, b: ((g / len(b)).expand_as(a), g.expand_as(b)),
        ((5, 3), (6, 3)),
    ),
}


@pytest.mark.parametrize("which", ANOTHER_AXIS)
def test_a_factor_of_two_sizes_is_told_as_their_ratio_and_not_as_the_number_that_it_is_at_most_points(which):
    forward, backward, shapes = ANOTHER_AXIS[which]
    example = tuple(numbers(*shape) for shape in shapes)
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert ") / (the size of axis" in report.mistake.words, str(report)


def test_the_parts_of_one_call_are_no_calls():
    def backward(g, x):
        z = functional.layer_norm(x, x.shape[-1:])
        inverse = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)
        return inverse * (g - z * (g * z).mean(-1, keepdim=True))

    forward = lambda x: functional.layer_norm(x, x.shape[-1:])  # noqa: E731
    report = check(backward, forward=forward, example=(numbers(4, 6),), raise_on_failure=False)
    assert report.mistake is not None and "call" not in report.mistake.words, str(report)


def test_a_cotangent_of_several_that_is_not_read_is_told():
    def cell(z, c):
        inside = torch.sigmoid(z) * c
        return torch.tanh(inside), inside

    def backward(grads, z, c):
        g, z, c = grads[0].numpy(), z.numpy(), c.numpy()  # that of `inside` is forgotten
        open_ = 1 / (1 + np.exp(-z))
        inside = g * (1 - np.tanh(open_ * c) ** 2)
        return tuple(torch.from_numpy(np.asarray(x)) for x in (inside * c * open_ * (1 - open_), inside * open_))

    report = check(backward, forward=cell, example=(numbers(3, 4), numbers(3, 4)), raise_on_failure=False)
    assert report.mistake is not None and report.mistake.words == "the cotangent of output 1 is not read", str(report)
