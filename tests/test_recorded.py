"""What is recorded of a run: how far each operation is off, by the values that it had, and sums together."""

import gc
from itertools import pairwise

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from backprop_rules.errors import OwnError
from backprop_rules.evidence import recorded
from backprop_rules.evidence.at_size import at_size
from backprop_rules.evidence.sensitivity import Reach, Sensitivities, Weighed
from backprop_rules.testing import ONES, WrongGradients, _asked, assert_gradients, enclose


def recorded_of(forward, *primals: Tensor, precision: str | None = None):
    asked = _asked(forward, primals, ONES, None, precision, ())
    return asked, Sensitivities(asked.question.runs[0], asked.declared)


def reach(forward, *primals: Tensor, precision: str | None = None) -> Reach:
    """Return how far roundings take the sum of the first gradient's elements."""
    asked, found = recorded_of(forward, *primals, precision=precision)
    held = at_size(asked.question, asked.declared).gradients[0]
    return found.reach([Weighed(0, torch.ones_like(held.truth), held.truth, held.truth.to(held.dtype))])


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def test_what_is_written_over_later_counts_with_the_values_that_it_had():
    def kept(x: Tensor, w: Tensor) -> Tensor:
        return ((x @ w) * 3).sin()

    def written_over(x: Tensor, w: Tensor) -> Tensor:
        h = x @ w
        y = (h * 3).sin()
        h.mul_(0)
        return y

    one, other = (reach(f, numbers(6, 5), numbers(5, 7), precision="eager") for f in (kept, written_over))
    assert one == other and one.squares > 0


def test_a_cast_that_is_written_over_counts_as_it_was():
    def kept(x: Tensor) -> Tensor:
        return (x.bfloat16() * 3.0).sin()

    def written_over(x: Tensor) -> Tensor:
        return x.bfloat16().mul_(3.0).sin()

    one, other = (reach(f, numbers(50, dtype=torch.float32), precision="eager") for f in (kept, written_over))
    assert one == other and one.squares > 0


class TwiceUsed(torch.autograd.Function):
    """The identity, whose backward uses a sum of cotangents again before it is complete."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        two = grad + grad.sin()
        three = two + grad.cos()
        return two * three


class OnceUsed(TwiceUsed):
    """The same, of which nothing is a chain of sums."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        two = grad + grad.sin()
        return two * (grad.cos() - -two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sum_that_is_used_before_it_is_complete_counts_by_itself(dtype):
    twice, once = (reach(lambda x, f=f: f.apply(x).tanh(), numbers(40, dtype=dtype)) for f in (TwiceUsed, OnceUsed))
    assert abs(twice.worst / once.worst - 1) < 2.0**-20 and abs(twice.squares - once.squares) <= once.squares * 2.0**-20


def kept_of_a_loop() -> int:
    """Return how many errors of the shape of a weight are kept, of a loop of twenty steps."""

    def loop(x: Tensor, w: Tensor) -> Tensor:
        return sum((x[t] @ w).sin() for t in range(20))

    _, found = recorded_of(loop, numbers(20, 3, 4, dtype=torch.float32), numbers(4, 4, dtype=torch.float32))
    return sum(error is not None and error.shape == (4, 4) for step in found._steps for error in step.errors)


def test_of_a_loop_what_its_sums_are_off_by_is_kept_once(monkeypatch):
    assert kept_of_a_loop() == 1
    monkeypatch.setattr(Sensitivities, "_added_up", lambda _, steps: list(steps))  # as they were kept on the way
    assert kept_of_a_loop() == 20 + 1  # the terms, and the sum so far


def test_an_error_of_our_own_is_told_as_ours(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(recorded, "above", broken)
    with pytest.raises(OwnError, match=r"an error of backprop_rules itself.*ZeroDivisionError: of ours"):
        reach(torch.sin, numbers(5))


def test_errors_are_rounded_up_and_zeros_stay():
    exact = torch.tensor([0.0, 1.0 + 2.0**-40, 2.0**-170, 1e30, 0.1], dtype=torch.float64)
    above = recorded.above(exact)
    assert above.dtype == torch.float32
    assert above[0] == 0 and bool((above[1:].double() > exact[1:]).all())
    assert bool((recorded.added(above, above).double() >= 2 * above.double()).all())
    assert recorded.added(torch.tensor([1.0]), torch.tensor([2.0**-30])) > 1
    assert recorded.above(torch.tensor([1e300], dtype=torch.float64)) == 1e300


def test_what_may_be_anything_reaches_everywhere():
    x, w = numbers(6, 6, dtype=torch.float64) * 1e60, numbers(6, 6, dtype=torch.float64)
    for wrong in (0, -1):
        with pytest.raises(WrongGradients):
            assert_gradients((wrong * x, wrong * w), forward=lambda x, w: (x @ w).sin().sum(), primals=(x, w))


def test_nothing_is_known_where_an_error_may_be_anything(monkeypatch):
    monkeypatch.setattr(recorded, "above", lambda error: None if error is None else torch.full_like(error, torch.inf))
    assert reach(lambda x: (x.sin() * 0).cos(), numbers(5)).worst == torch.inf


@pytest.mark.parametrize("precision", [None, "eager"])
def test_a_masked_product_is_known_where_it_is_masked(precision):
    mask = torch.full((1, 6, 6), -torch.inf).triu(1)

    def masked(q: Tensor, k: Tensor) -> Tensor:
        return torch.baddbmm(mask.to(q.dtype), q, k.mT).softmax(-1)

    found = reach(masked, numbers(1, 6, 4), numbers(1, 6, 4) / 2, precision=precision)
    assert 0 < found.worst < 1 and found.squares < 1


class OnceDifferentiable(torch.autograd.Function):
    """The exponential, whose backward may not be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * y


def test_what_is_differentiable_once_is_not_taken_for_constant():
    with pytest.raises(NotImplementedError, match="differentiable once"):
        reach(lambda x: OnceDifferentiable.apply(x * 2), numbers(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_complex_numbers_are_asked(dtype):
    def layer(x: Tensor, w: Tensor) -> Tensor:
        product = torch.complex(x.float(), -x.float()) @ torch.complex(w.float(), w.float())
        return product.abs().to(x.dtype)

    assert reach(layer, numbers(4, 3, dtype=dtype), numbers(3, 5, dtype=dtype)).worst > 0


CONSTANTS = {
    "a line": lambda: torch.linspace(-1, 1, 512),
    "numbers a step apart": lambda: torch.arange(0.3, 700, 0.37),
    "a window": lambda: torch.hann_window(401),
    "what is left of a third": lambda: torch.ones(400) / 3 - 0.333333,
}


@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS)
def test_roundings_of_constants_that_the_reference_makes_count(constant):
    x = numbers(3, len(constant()), dtype=torch.float32)
    grad_y = numbers(*x.shape[::-1], dtype=torch.float32).T.contiguous()
    what = {"forward": lambda x: x * constant(), "primals": (x,), "grad_y": grad_y}
    assert_gradients((grad_y * constant(),), **what)
    with pytest.raises(WrongGradients):
        assert_gradients((grad_y * constant() * 1.5,), **what)


def test_a_reference_may_write_into_its_constants():
    def layer(x: Tensor) -> Tensor:
        third = torch.ones(50) / 3
        third.mul_(2)
        return x * third

    assert reach(layer, numbers(50, dtype=torch.float32)).worst > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "jump",
    [lambda x, y: torch.remainder(x * 5 - y, 1.0), lambda x, y: (h := x * 5 - y) - h.floor()],
    ids=["remainder", "floor"],
)
def test_where_another_whole_number_may_be_taken_is_a_choice(jump, seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(400, generator=draw).bfloat16() for _ in range(2))
    live = [x.clone().requires_grad_(), y.clone().requires_grad_()]

    def layer(x: Tensor, y: Tensor) -> Tensor:
        return (jump(x, y) - 0.3).square().mean()

    got = torch.autograd.grad(layer(*live), live)
    assert_gradients(got, forward=layer, primals=(x, y), precision="eager", blind="allow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slice_s_gradient_beside_others_rounds_nothing(dtype):
    """Of a loop over slices each gradient is put beside zeros: as good as a stack of them all."""

    def of_slices(x: Tensor) -> Tensor:
        return sum((x[t] * x[t + 1]).sin() for t in range(19))

    def of_parts(x: Tensor) -> Tensor:
        parts = x.unbind()
        return sum((a * b).sin() for a, b in pairwise(parts))

    x = numbers(20, 7, dtype=dtype)
    precision = "eager" if dtype == torch.bfloat16 else None
    slices, parts = (
        enclose(f, (x,), grad_y=numbers(7, dtype=dtype), precision=precision)[0] for f in (of_slices, of_parts)
    )
    assert bool((slices.radius <= 1.5 * parts.radius).all())
    one, other = (reach(f, x, precision=precision) for f in (of_slices, of_parts))
    assert one.worst <= 1.5 * other.worst and one.squares <= 1.5 * other.squares


def test_a_mean_within_a_kernel_is_in_an_order_that_its_terms_do_not_change():
    """A group norm's statistics are means of 6,272 numbers: 1.01 times a bias' gradient was within reach."""

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.silu(torch.nn.functional.group_norm(x, 8, w, b))

    shapes = ((16, 64, 28, 28), (64,), (64,))
    x, w, b, grad_y = (numbers(*shape, dtype=torch.float32) for shape in (*shapes, shapes[0]))
    live = [p.clone().requires_grad_() for p in (x, w, b)]
    got = torch.autograd.grad(forward(*live), live, grad_y)
    held = enclose(forward, (x, w, b), grad_y=grad_y)
    assert held.agreement(got).right
    assert not held.agreement((*got[:2], got[2] * 1.01)).right


def modes_alive() -> set[int]:
    gc.collect()
    return {id(kept) for kept in gc.get_objects() if type(kept) is recorded.Recorded}


def test_nothing_is_kept_of_an_attention_that_was_looked_at():
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / 4, -1) @ v

    before, primals = modes_alive(), [numbers(2, 8, 16, dtype=torch.float16) for _ in range(3)]
    held = enclose(attention, primals, grad_y=numbers(2, 8, 16, dtype=torch.float16))
    assert not held.agreement([one.truth.mul(1.01).half() for one in held]).right
    del held
    assert modes_alive() <= before


def test_a_number_at_the_end_of_float64_is_stored_and_reaches_nowhere_or_anywhere_and_is_never_nan():
    """Torch's backward of logcumsumexp stores the least number of float64 where a cotangent has another sign."""
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    grad_y = torch.randn(16, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    held = enclose(lambda x: torch.logcumsumexp(x, -1), (x,), grad_y=grad_y, precision="eager")
    for wrong in (held[0].truth * 1.5, held[0].truth.where(torch.arange(256) < 128, 0.0)):
        found = held.agreement(wrong.bfloat16())
        assert not found.right or found.gradients[0].blind > 0


def test_a_complex_table_in_a_narrower_dtype_is_stored_part_by_part():
    angles = torch.arange(512, dtype=torch.float64).outer(torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64))

    def rotary(x: Tensor) -> Tensor:
        turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
        return (
            torch.view_as_real(torch.view_as_complex(x.float().reshape(512, 4, 2)) * turns).reshape(512, 8).to(x.dtype)
        )

    x, grad_y = numbers(512, 8), numbers(512, 8)
    held = enclose(rotary, (x,), grad_y=grad_y, precision="eager")
    assert held.agreement(held[0].truth.bfloat16()).right
    assert not held.agreement((held[0].truth * 1.002).bfloat16()).right


@pytest.mark.parametrize("often", [100, 256, 1000])
def test_a_row_that_is_used_often_says_nothing_of_the_others(often):
    ids = torch.cat([torch.full((often,), 7), torch.arange(50).repeat(4)])
    w, grad_y = numbers(50, 8), numbers(len(ids), 8)
    held = enclose(lambda w: torch.nn.functional.embedding(ids, w), (w,), grad_y=grad_y, precision="eager")[0]
    others = torch.arange(50) != 7
    assert (held.radius[others] <= 4 * 2.0**-8 * grad_y.abs().double().max() * 8).all()


@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm", "instance_norm"])
def test_the_mean_of_a_norm_that_autograd_hides_rounds_as_well(norm):
    """Far from 0 it is what rounds most; torch's own is off in one direction by it."""

    def normed(x: Tensor) -> Tensor:
        if norm == "layer_norm":
            return torch.nn.functional.layer_norm(x, x.shape[-1:])
        rows = x.T[None] if norm == "instance_norm" else x
        whole = {} if norm == "instance_norm" else {"running_mean": None, "running_var": None, "training": True}
        return getattr(torch.nn.functional, norm)(rows, **whole)

    for seed in range(6):
        draws = torch.Generator().manual_seed(seed)
        x = (torch.randn(64, 1024, generator=draws) + 1000).requires_grad_()
        y = normed(x)
        grad_y = torch.randn(y.shape, generator=draws) + 0.5
        (got,) = torch.autograd.grad(y, x, grad_y)
        assert_gradients(got, forward=normed, primals=x.detach(), grad_y=grad_y, blind="allow")


def test_an_infinity_is_no_gradient_where_the_worst_case_says_nothing():
    x = torch.zeros(3, 4).index_fill(0, torch.tensor([1, 2]), 1.0)
    held = enclose(torch.nn.functional.normalize, (x,), grad_y=numbers(3, 4, dtype=torch.float32))
    assert held[0].radius[0].isinf().all() and held[0].truth.isfinite().all()
    got = held[0].truth.float()
    assert held.agreement(got).right and "Of 4 of 12 elements of input the worst case says nothing" in str(
        held.agreement(got)
    )
    got[0, 1] = torch.inf * held[0].truth[0, 1].sign()
    assert not held.agreement(got).right


def test_of_an_output_that_nothing_was_proved_of_it_is_said():
    def deep(x: Tensor, w: Tensor) -> Tensor:
        for _ in range(48):
            x = (x @ w).tanh()
        return x

    x, w, grad_y = (
        numbers(4, 16, dtype=torch.float32),
        numbers(16, 16, dtype=torch.float32) / 2,
        numbers(4, 16, dtype=torch.float32),
    )
    held = enclose(deep, (x, w), grad_y=grad_y)
    got, y = [one.truth.float() for one in held], deep(x, w)
    with pytest.raises(WrongGradients, match="Nothing was proved of y: at"):
        assert_gradients(got, forward=deep, primals=(x, w), grad_y=grad_y, y=y)
    assert_gradients(got, forward=deep, primals=(x, w), grad_y=grad_y, y=y, blind="allow")


@pytest.mark.parametrize("precision", ["float32", "eager"])
def test_a_cumulative_product_is_recorded_in_few_steps(precision):
    def product(x):
        return (1 + x / 8).cumprod(-1)

    _, found = recorded_of(product, numbers(4, 300), precision=precision)
    assert len(found._steps) < 12
    x, g = numbers(4, 300), numbers(4, 300).flip(0)
    for way in (
        lambda y: torch.cumprod(y, axis=-1),
        lambda y: y.cumprod(-1, dtype=torch.float32),
        lambda y: torch.utils.checkpoint.checkpoint(lambda x: x.cumprod(-1), y, use_reentrant=False),
    ):
        held = {"forward": lambda y, way=way: way(y).sum(), "primals": (torch.ones(3),)}
        assert assert_gradients(torch.tensor([3.0, 2.0, 1.0]), **held).right
    for zeros in (False, True):
        y = (x * (torch.arange(300) != 7) if zeros else 1 + x / 8).float().requires_grad_()
        (got,) = torch.autograd.grad(y.cumprod(-1), y, g.float())
        held = {"forward": lambda y: torch.cumprod(y, dim=-1), "primals": (y.detach(),), "grad_y": g.float()}
        assert assert_gradients(got, **held, precision=precision, blind="allow").right
        with pytest.raises(WrongGradients):
            assert_gradients(1.002 * got, **held, precision=precision, blind="allow")


def test_what_backward_uses_counts_though_forward_adds_it_up():
    """As an exponential, whose argument may lose as many ulps as it is large: what reads it is its own gradient."""
    x = torch.arange(20.0, 24.0, 1 / 16)
    alone, added = reach(torch.exp, x), reach(lambda x: x.exp() + x.cos(), x)
    assert added.worst >= alone.worst
    fast = (x.double().exp() * (1 + 20 * 2.0**-23) - x.double().sin()).float()
    assert_gradients((fast,), forward=lambda x: x.exp() + x.cos(), primals=(x,), grad_y=ONES)
