"""Functions of several outputs are held as those of one: to the allowance, and the proof, in the own dtype too."""

from functools import partial, wraps

import numpy as np
import pytest
import torch

from backprop_rules import InputError, check, check_function
from backprop_rules.properties.finding import Kind
from backprop_rules.strategies.values import cotangents

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed), dtype=torch.float64)


def held(backward, forward, *example):
    return check(backward, forward=forward, example=example, raise_on_failure=False)


# ------------------------------------------------------------------ what people write
def lstm(x, h, c, w, u, b):
    i, f, g, o = (x @ w + h @ u + b).chunk(4, -1)
    cell = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def of_lstm(grad_y, x, h, c, w, u, b, forgets=False):
    i, f, g, o = (x @ w + h @ u + b).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    squashed = (f * c + i * g).tanh()
    cell = grad_y[0] * o * (1 - squashed**2)
    cell = cell if forgets else cell + grad_y[1]
    gates = [cell * g * i * (1 - i), cell * c * f * (1 - f), cell * i * (1 - g * g), grad_y[0] * squashed * o * (1 - o)]
    grad = torch.cat(gates, -1)
    return grad @ w.T, grad @ u.T, cell * f, x.T @ grad, h.T @ grad, grad.sum(0)


def layer_norm(x, w):
    mean, rstd = x.mean(-1, keepdim=True), (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    return (x - mean) * rstd * w, mean, rstd


def of_layer_norm(grad_y, x, w, forgets=False):
    _, mean, rstd = layer_norm(x, w)
    (grad, grad_mean, grad_rstd), unit, n = grad_y, (x - mean) * rstd, x.shape[-1]
    weighed = grad * w
    grad_x = rstd * (weighed - weighed.mean(-1, keepdim=True) - unit * (weighed * unit).mean(-1, keepdim=True))
    grad_x = grad_x + grad_mean / n - grad_rstd * rstd**2 * unit / (1 if forgets else n)
    return grad_x, (grad * unit).sum(0)


def attention(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def of_attention(grad_y, q, k, v, forgets=False):
    shares = (q @ k.T / q.shape[-1] ** 0.5).softmax(-1)
    weighed = shares * (grad_y[0] @ v.T)
    scores = weighed - shares * weighed.sum(-1, keepdim=True) + (0 if forgets else shares * grad_y[1][:, None])
    return scores @ k / q.shape[-1] ** 0.5, scores.T @ q / q.shape[-1] ** 0.5, shares.T @ grad_y[0]


def top(x):
    found, places = x.topk(2, -1)
    return found, places


def of_top(grad_y, x, y, forgets=False):
    return torch.zeros_like(x).scatter(-1, y[1].flip(-1) if forgets else y[1], grad_y[0])


def in_a_dict(x, w):
    h = (x @ w).relu()
    return {"loss": h.square().mean(), "aux": [h, h > 0], "rows": h.shape[0]}


def of_a_dict(grad_y, x, w, forgets=False):
    h, count = (x @ w).relu(), max(1, x.shape[0] * w.shape[1])
    grad = grad_y["loss"] * h / count * (1 if forgets else 2) + grad_y["aux"][0]
    grad = grad * (h > 0)
    return grad @ w.T, x.T @ grad


LSTM = numbers(2, 3), numbers(2, 4), numbers(2, 4, seed=1), numbers(3, 16), numbers(4, 16), numbers(16)
UNREAD = "the cotangent of output 1 is not read"
WRITTEN = {
    "an LSTM cell": (lstm, of_lstm, LSTM, UNREAD),
    "a layer norm": (layer_norm, of_layer_norm, (numbers(3, 6), numbers(6)), "1 / the size of axis 1 of `x` times"),
    "an attention": (attention, of_attention, (numbers(4, 3), numbers(5, 3), numbers(5, 2)), UNREAD),
    "top k": (top, of_top, (numbers(3, 5),), "axis -1 is reversed"),
    "a dict": (in_a_dict, of_a_dict, (numbers(3, 4), numbers(4, 2)), "is 1/2 times what it should be"),
}  # fmt: skip
written = pytest.mark.parametrize("name", WRITTEN)


@pytest.mark.parametrize("dtype", DTYPES)
@written
def test_they_stand_on_the_higher_rungs(name, dtype):
    forward, backward, example, _ = WRITTEN[name]
    found = held(backward, forward, *(x.to(dtype) for x in example))
    assert found.verdict == "right", str(found)
    assert found.rungs["allowed"] + found.rungs["proved"] > 0, str(found)


@written
def test_their_mistakes_are_named(name):
    forward, backward, example, words = WRITTEN[name]
    found = held(partial(backward, forgets=True), forward, *example)
    assert found.verdict == "wrong"
    assert words in found.mistake.words, str(found)


def test_a_cotangent_that_one_gradient_does_without_is_told_so():
    def backward(grad_y, x, w):
        grad = 2 * (x @ w) * grad_y[0] + grad_y[1]
        return grad @ w.T, x.T @ (grad - grad_y[1])

    found = held(backward, lambda x, w: ((x @ w).square().sum(), x @ w), numbers(3, 4), numbers(4, 2))
    assert found.mistake.words == "the cotangent of output 1 is not read for the gradient of w"


def test_a_cotangent_that_changes_nothing_is_none_that_is_not_read():
    def backward(grad_y, x, w):
        return grad_y[0] * x.cos() * (1 + 1e-9), grad_y[1] * w.exp()

    found = held(backward, lambda x, w: (x.sin(), w.exp()), numbers(3), numbers(4))
    assert found.verdict == "wrong" and "not read" not in str(found)


@written
def test_what_is_wrong_in_the_own_dtype_alone_is_seen(name):
    forward, backward, example, _ = WRITTEN[name]

    @wraps(backward)
    def wrong(*given):
        found = backward(*given)
        several = found if isinstance(found, tuple) else (found,)
        return tuple(g * (1.5 if g.dtype == torch.bfloat16 else 1) for g in several)

    found = held(wrong, forward, *(x.bfloat16() for x in example))
    assert found.verdict == "wrong", str(found)
    if found.mistake is not None:
        assert found.mistake.words in ("exactly 3/2 × the right one", "roughly 1.5 × the right one")


# ------------------------------------------------------------------ outputs of every kind
def test_outputs_of_two_dtypes_are_held_to_the_digits_of_each():
    def forward(x):
        return x.exp(), x.float().logsumexp(-1)

    def backward(grad_y, x, factor=1.0):
        wide = x.float()
        return (grad_y[0] * wide.exp() + factor * grad_y[1][:, None] * wide.softmax(-1)).to(x.dtype)

    def wrong(grad_y, x):
        return backward(grad_y, x, 1.5 if x.dtype == torch.bfloat16 else 1.0)

    example = numbers(3, 4).bfloat16()
    assert held(backward, forward, example).rungs["proved"] > 0
    assert held(wrong, forward, example).verdict == "wrong"


def test_real_and_complex_outputs_are_held_together():
    def backward(grad_y, z, factor=1):
        return grad_y[0] * 2 + factor * grad_y[1] * (2 * z).conj()

    def forward(z):
        return z.real * 2, z * z

    z = torch.complex(numbers(3), numbers(3, seed=1))
    assert held(backward, forward, z).rungs["allowed"] > 0
    assert held(lambda grad_y, z: backward(grad_y, z, 1.001), forward, z).verdict == "wrong"


def test_a_definition_of_several_outputs_is_proved():
    def definition(x):
        return np.exp(x), np.sum(x * x, -1)

    def backward(grad_y, x):
        return grad_y[0] * np.exp(x) + 2 * x * grad_y[1][..., None]

    found = check(backward, definition=definition, example=(numbers(3, 4).numpy(),))
    assert found.rungs["proved"] > 0, str(found)


def test_a_definition_may_name_its_outputs_in_another_order():
    def backward(grad_y, x):
        return grad_y["a"] * x.exp() + 2 * grad_y["b"] * x

    def forward(x):
        return {"a": x.exp(), "b": x * x, "c": 0.5, "d": x > 0}

    def definition(x):
        return {"d": x > 0, "c": 0.5, "b": x * x, "a": np.exp(x)}

    found = check(backward, forward=forward, definition=definition, example=(numbers(3),))
    assert found.rungs["proved"] > 0, str(found)


def test_as_many_outputs_as_the_values_say_are_asked_as_many():
    def forward(x):
        return tuple(2 * row for row in x if bool(row.sum() > 0))

    def backward(grad_y, x):
        given = iter(grad_y)
        return torch.stack([2 * next(given) if bool(row.sum() > 0) else torch.zeros_like(row) for row in x])

    class OfEveryRow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return tuple(2 * row for row in x)

        @staticmethod
        def backward(ctx, *grads):
            return 2 * torch.stack(grads)

    example = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])
    assert held(backward, forward, example).verdict == "right"
    with pytest.raises(InputError, match=r"OfEveryRow returns \d tensors, and forward \d: give a forward"):
        check_function(OfEveryRow, forward=forward, example=(example,))


def test_one_element_of_any_output_is_asked_alone():
    ys = (torch.zeros(2, dtype=torch.long), torch.zeros(3), torch.zeros(4))
    asked = [[g is not None and bool(g.any()) for g in cotangents(ys, "one", seed)] for seed in range(2)]
    assert asked == [[False, True, False], [False, False, True]]


def test_a_value_that_is_proved_alone_keeps_the_allowance_of_its_backward():
    def forward(x):
        scale = x.abs().amax(-1, keepdim=True) / 7
        return (x / scale).detach().round() * scale

    def backward(grad_y, x, factor=1.0):
        most = x.abs().amax(-1, keepdim=True)
        grad = (grad_y * (x / (most / 7)).round()).sum(-1, keepdim=True) / 7
        there = (x.abs() == most).to(x.dtype)
        return grad * there / there.sum(-1, keepdim=True) * x.sign() * factor

    def wrong(grad_y, x):
        return backward(grad_y, x, 1.5 if x.dtype == torch.bfloat16 else 1.0)

    assert held(backward, forward, numbers(3, 4).bfloat16()).rungs["proved"] > 0
    found = held(wrong, forward, numbers(3, 4).bfloat16())
    assert found.mistake.words == "roughly 1.5 × the right one"


# ------------------------------------------------------------------ whole numbers
def choosing(chosen, of=None):
    """Return top k as a Function, with what is made of the places that it chose, or of its primal."""

    class Top(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            found, places = top(x)
            ctx.save_for_backward(places)
            ctx.shape, made = x.shape, chosen(places) if of is None else of(x)
            ctx.mark_non_differentiable(made)
            return found.clone(), made

        @staticmethod
        def backward(ctx, grad_y, _):
            return grad_y.new_zeros(ctx.shape).scatter(-1, ctx.saved_tensors[0], grad_y)

    return Top


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whole_numbers_are_those_of_forward(dtype):
    def told(function):
        return check_function(function, forward=top, example=(numbers(3, 5).to(dtype),), raise_on_failure=False)

    for wrong in (choosing(lambda places: places + 1), choosing(lambda places: places[..., None])):
        found = told(wrong)
        assert found.finding.kind is Kind.FUNCTION, str(found)
        assert "has a forward that computes another function in output 1" in str(found)
    assert told(choosing(torch.Tensor.int)).verdict == "right"
    last = choosing(None, lambda x: x.shape[-1] - 1 - x.flip(-1).topk(2, -1)[1])  # of equal numbers
    assert told(last).verdict == "right"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_chosen_by_less_than_rounding_may_be_chosen_otherwise(dtype):
    def forward(x, codes):
        nearest = (x[:, None] - codes).square().sum(-1).argmin(-1)
        return codes[nearest] * 1, nearest

    class Expanded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, codes):
            nearest = (x.square().sum(-1, keepdim=True) - 2 * x @ codes.T + codes.square().sum(-1)).argmin(-1)
            ctx.save_for_backward(nearest, codes)
            ctx.mark_non_differentiable(nearest)
            return codes[nearest], nearest

        @staticmethod
        def backward(ctx, grad_y, _):
            nearest, codes = ctx.saved_tensors
            return torch.zeros_like(grad_y), torch.zeros_like(codes).index_add(0, nearest, grad_y)

    example = numbers(4, 3).to(dtype), numbers(5, 3).to(dtype)
    assert check_function(Expanded, forward=forward, example=example).verdict == "right"


def beside(whole):
    """Return twice a primal, and whole numbers that are made of it, as a Function."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x, whole(x)

        @staticmethod
        def backward(ctx, grad_y, _):
            return 2 * grad_y

    return Twice


def first_of_three(x):
    return x.relu().sort(dim=-1, descending=True, stable=True)[1][..., :3]


def last_of_three(x):
    return x.shape[-1] - 1 - first_of_three(x.flip(-1))


def middle_of_three(x):
    order = torch.arange(x.shape[-1]).roll(1)
    return order[first_of_three(x[..., order])]


@pytest.mark.parametrize("own", [last_of_three, middle_of_three])
def test_of_what_is_tied_however_it_is_moved_any_may_be_chosen(own):
    example, wrong = (numbers(3, 5),), lambda x: (own(x) + 1) % max(1, x.shape[-1])
    forwards = (lambda x: (2 * x, first_of_three(x)), lambda x: (2 * x, x.relu().topk(min(3, x.shape[-1]), -1)[1]))
    for forward in forwards:
        assert check_function(beside(own), forward=forward, example=example).verdict == "right"
        found = check_function(beside(wrong), forward=forward, example=example, raise_on_failure=False)
        assert found.finding.kind is Kind.FUNCTION


def test_of_equal_whole_numbers_any_may_come_first():
    def rows(x, last):
        kind = (x.sum(-1) > 0).long()
        return x.shape[0] - 1 - kind.flip(0).argsort(stable=True) if last else kind.argsort()

    for own, verdict in ((partial(rows, last=True), "right"), (lambda x: rows(x, False).flip(0), "wrong")):
        options = {"example": (numbers(6, 3),), "raise_on_failure": False}
        assert check_function(beside(own), forward=lambda x: (2 * x, rows(x, False)), **options).verdict == verdict


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_what_forward_casts_are_those_of_the_cast(dtype):
    def codes(x, scale=8.0):
        return (x * scale / scale).bfloat16().view(torch.int16)

    def told(own):
        options = {"example": (numbers(3, 5).to(dtype),), "raise_on_failure": False}
        return check_function(beside(own), forward=lambda x: (2 * x, codes(x)), **options).verdict

    assert told(codes) == told(partial(codes, scale=7.0)) == "right"
    assert told(lambda x: codes(x)[..., None]) == "wrong"


def test_whole_numbers_that_torch_compares_with_no_others_are_compared():
    def told(own):
        options = {"example": (numbers(3, 5),), "raise_on_failure": False}
        return check_function(beside(own), forward=lambda x: (2 * x, x.argmax(-1)), **options)

    for own, verdict in (
        (lambda x: x.argmax(-1).to(torch.uint32), "right"),
        (lambda x: (x.argmax(-1) + 1).to(torch.uint64), "wrong"),
        (lambda x: None, "right"),  # it need not tell
    ):
        found = told(own)
        assert found.verdict == verdict and "an error of backprop_rules" not in str(found), str(found)


# ------------------------------------------------------------------ second derivatives
def test_another_second_derivative_is_noted():
    class Cuts(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x.detach()
            return x * x, x.sin()

        @staticmethod
        def backward(ctx, grad_y, grad_z):
            return 2 * grad_y * ctx.x + grad_z * ctx.x.cos()

    found = check_function(Cuts, forward=lambda x: (x * x, x.sin()), example=(numbers(3),))
    assert "its second derivative is not forward's" in str(found)
