"""Where another number may be chosen, its gradient is within the radius; where none may, nothing is lost."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import InputError
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.testing import WrongGradients, assert_gradients, enclose

pytestmark = pytest.mark.filterwarnings("ignore:index_reduce")

SEGMENT = torch.tensor([0, 2, 0, 0, 1, 2, 0, 1])


def reduced(x, reduce, include_self=False):
    return x[8:].scatter_reduce(0, SEGMENT[:, None].expand(8, 10), x[:8], reduce, include_self=include_self)


ROWS, OFFSETS = torch.arange(12), 10 * torch.arange(12)[:, None]


def at_rows_and_columns(x, index):
    return x.sin()[index // 3, index % 3]


def times_itself(index):
    return index * index + index


def step_by_step(index):
    for _ in range(12):
        index = (3 * index + index % 5) % 10
    return index


def copied(index):
    return index[..., None].repeat(1, 1, 2)


# Each of a matrix of 12 rows and 10 columns.
CHOICES = {
    "max along": lambda x: x.max(1)[0],
    "min along, kept": lambda x: x.min(0, keepdim=True)[0],
    "max": lambda x: x.max(),
    "amax": lambda x: x.amax(1),
    "amin of both": lambda x: x.amin((0, 1), keepdim=True),
    "maximum of halves": lambda x: torch.maximum(x[:6], x[6:]),
    "topk": lambda x: x.topk(3, 1)[0],
    "smallest, in any order": lambda x: x.topk(4, 0, largest=False, sorted=False)[0].square().sum(0),
    "sort": lambda x: x.sort(1)[0],
    "sort, down": lambda x: x.sort(0, descending=True)[0],
    "median": lambda x: x.median(1)[0],
    "kthvalue": lambda x: x.kthvalue(3, 1, keepdim=True)[0],
    "cummax": lambda x: x.cummax(1)[0],
    "cummin": lambda x: x.cummin(0)[0],
    "gathered by rank": lambda x: x.gather(1, x.topk(3, 1)[1]),
    "put by rank": lambda x: torch.ones_like(x).scatter(1, x.topk(3, 1)[1], x.topk(3, 1)[0]),
    "picked": lambda x: x[torch.arange(12), x.argmax(1)],
    "picked of others": lambda x: x.sin().gather(1, x.topk(2, 1)[1]),
    "by a mask": lambda x: functional.one_hot(x.argmin(1), 10) * x,
    "looked up": lambda x: x.T[x.argmax(1)],
    "looked up, two of each": lambda x: functional.embedding(x.topk(2, 1)[1], x.T.cos()),
    "selected": lambda x: x.index_select(1, x[:10].argmax(0)),
    "looked up by the second": lambda x: x.T.cos()[x.topk(2, 1)[1][:, 1]],
    "gathered, for each of two": lambda x: x.sin()[..., None].expand(12, 10, 2).gather(1, copied(x.topk(3, 1)[1])),
    "in a row, from an offset": lambda x: x.sin().reshape(-1)[(x.topk(3, 1)[1] + OFFSETS).reshape(-1)],
    "taken along": lambda x: torch.take_along_dim(x.sin(), x.argmax(1, keepdim=True), 1),
    "sorted and cut": lambda x: x.sin().gather(1, x.sort(1)[1][:, :3]),
    "wrapped around": lambda x: x.T.sin()[x.argmax(1) % 4],
    "where the index is": lambda x: (x.argmax(1)[:, None] == torch.arange(10)) * x.cos(),
    "in the two largest": lambda x: (x.topk(2, 1)[1][..., None] == torch.arange(10)).any(1) * x.cos(),
    "put where it is": lambda x: torch.zeros_like(x).scatter(1, x.topk(3, 1)[1][:, 1:], x[:, :2].sin()),
    "added where it is": lambda x: torch.zeros_like(x).scatter_add(1, x.topk(3, 1)[1][:, 1:], x[:, :2].sin()),
    "a mask that is put": lambda x: torch.zeros(12, 10).index_put((ROWS, x.argmax(1)), torch.ones(())) * x.cos(),
    "by row and column": lambda x: at_rows_and_columns(x, x.argmax(1)),
    "multiplied with itself": lambda x: x.T.sin()[times_itself(x.argmax(1)) % 10],
    "of two in a row": lambda x: x.sin().reshape(-1)[torch.cat([x.argmax(1), x.argmax(1) + 7]) // 2],
    "step by step": lambda x: x.T.sin()[step_by_step(x.argmax(1))],
    "as a number": lambda x: x.argmax(1).double() * x[:, 0].sin() + x.argmin(1) * x[:, 1],
    "put among more": lambda x: torch.zeros(12, 11).scatter(1, x.argmax(1)[:, None], 1.0) * x[:, :1],
    "whole numbers of a mask": lambda x: (2 * functional.one_hot(x.argmin(1), 10) - 1) * x,
    "largest of places": lambda x: reduced(x, "amax"),
    "smallest of places": lambda x: reduced(x, "amin", include_self=True),
    "largest of rows": lambda x: x[8:].index_reduce(0, SEGMENT, x[:8], "amax"),
    "pool": lambda x: functional.max_pool1d(x[None], 3, 1, 1),
    "pool of planes, beyond the edge": lambda x: functional.max_pool2d(x[None], 3, 2, 1, ceil_mode=True),
    "pool, dilated": lambda x: functional.max_pool2d(x[None], 2, (2, 3), dilation=2),
    "pool of volumes": lambda x: functional.max_pool3d(x.reshape(1, 3, 4, 10), (2, 3, 3), 2, 1),
    "adaptive pool": lambda x: functional.adaptive_max_pool1d(x[None], 4),
    "adaptive pool of planes": lambda x: functional.adaptive_max_pool2d(x[None], (5, 15)),
    "adaptive pool of volumes": lambda x: functional.adaptive_max_pool3d(x.reshape(1, 3, 4, 10), (2, 3, 4)),
}


def followed(f, x, radius, weight):
    """Return a gradient, and its radius where that of x is known."""
    x = x.clone().requires_grad_()
    with RunningError() as errors:
        errors.keep(x, radius)
        y, grad = alone(f, x, weight)
    return y.detach(), errors.radius(y), grad, errors.radius(grad)


def alone(f, x, weight):
    """Return an output and its gradient."""
    y = f(x)
    return y, *torch.autograd.grad(y, x, weight[: y.numel()].reshape(y.shape))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_chosen_is_within_the_radius(name, seed):
    draws = torch.Generator().manual_seed(seed)
    x = torch.tanh(2 * torch.randn(12, 10, generator=draws, dtype=torch.float64))  # many lie near the ends
    if seed == 2:
        x = (2 * x).round() / 2  # with ties
    radius = 0.3 * torch.rand(x.shape, generator=draws, dtype=torch.float64)
    radius[:, 4] = 0
    weight = torch.randn(400, generator=draws, dtype=torch.float64)
    y, y_radius, grad, grad_radius = followed(CHOICES[name], x, radius, weight)
    changed = 0
    for _ in range(100):
        other = x + (1 - 1e-12) * radius * (2 * torch.rand(x.shape, generator=draws, dtype=torch.float64) - 1).sign()
        its_y, its_grad = alone(CHOICES[name], other.requires_grad_(), weight)
        assert bool(((its_y - y).abs() <= y_radius).all())
        assert bool(((its_grad - grad).abs() <= grad_radius).all())
        changed += bool((its_grad != grad).any())
    assert changed, "another was chosen in none of 100: nothing was tested"


@pytest.mark.parametrize("name", CHOICES)
def test_what_none_other_can_be_is_known(name):
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(12, 10, generator=draws, dtype=torch.float64)
    weight = torch.randn(400, generator=draws, dtype=torch.float64)
    _, y_radius, _, grad_radius = followed(CHOICES[name], x, torch.full_like(x, 1e-9), weight)
    assert bool((y_radius < 1e-7).all())
    assert bool((grad_radius < 1e-7).all())


def layer(name):
    return lambda x, w: CHOICES[name](x @ w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CHOICES)
def test_torchs_own_gradient_of_what_was_computed_passes_and_a_wrong_one_fails(name, dtype):
    draws = torch.Generator().manual_seed(7)
    x, w = (torch.randn(*shape, generator=draws).to(dtype).requires_grad_() for shape in ((12, 32), (32, 10)))
    y = layer(name)(x, w)
    grad_y = torch.randn(y.shape, generator=draws).to(dtype)
    got = torch.autograd.grad(y, (x, w), grad_y)
    asked = {"forward": layer(name), "primals": (x.detach(), w.detach()), "grad_y": grad_y, "blind": "allow"}
    seen = assert_gradients(got, precision=None if dtype == torch.float32 else "eager", **asked)
    if dtype == torch.float32:
        assert all(c.blind == 0 for c in seen.gradients)
        with pytest.raises(WrongGradients):
            assert_gradients((got[0], got[1] * 1.001), **asked)


# What was chosen among the numbers of a matrix, seen along another axis, written over, or of nothing.
TURNED = {
    "the extreme of another row": lambda x: (x >= x.amax(1, keepdim=True).flip(0)).double() * x,
    "half of the extreme": lambda x: (x >= x.amax(1, keepdim=True).mul_(0.5)).double() * x,
    "numbers written over": lambda x: of_written(x.clone()),
    "a row of a padding": lambda x: functional.embedding(x.argmax(1), x.T, padding_idx=3),
    "rows in doubt": lambda x: rows_where(x, x.argmax(1) == 3),
    "rows in doubt, of two": lambda x: rows_where(x, (x.topk(2, 1)[1] == 3).any(1)),
    "a mask of the largest": lambda x: x * torch.zeros_like(x).scatter(1, x.topk(3, 1)[1], 1.0),
}


def rows_where(x, mask):
    y = torch.zeros_like(x)
    y[mask] = x[mask].sin()
    return y


def of_written(x):
    largest = x.max(1)[0] * 1.5
    x.neg_()
    return largest


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("seed", range(3))
def test_what_was_chosen_is_known_as_that_alone(name, seed):
    draws = torch.Generator().manual_seed(seed)
    x = torch.tanh(2 * torch.randn(12, 10, generator=draws, dtype=torch.float64))
    radius = 0.3 * torch.rand(x.shape, generator=draws, dtype=torch.float64)
    weight = torch.randn(400, generator=draws, dtype=torch.float64)
    y, y_radius, grad, grad_radius = followed(TURNED[name], x, radius, weight)
    for _ in range(60):
        other = x + (1 - 1e-12) * radius * (2 * torch.rand(x.shape, generator=draws, dtype=torch.float64) - 1).sign()
        its_y, its_grad = alone(TURNED[name], other.requires_grad_(), weight)
        assert bool(((its_y - y).abs() <= y_radius).all())
        assert bool(((its_grad - grad).abs() <= grad_radius).all())


def test_a_count_of_another_axis_may_be_0():
    x = torch.tensor([[3.0, 1.0], [2.95, 2.0]], dtype=torch.float64)
    with RunningError() as errors:
        errors.keep(x, torch.full_like(x, 0.1))
        rows, columns = ((x == x.amax(0)).sum(dim) for dim in (1, 0))
        shares = 1 / rows, 1 / columns
    assert errors.radius(shares[0]).tolist() == [torch.inf, torch.inf]
    assert errors.radius(shares[1])[1] < 1e-6 and torch.isfinite(errors.radius(shares[1])).all()


@pytest.mark.parametrize("what", [lambda x: x.max(1)[0], lambda x: x.topk(2, 1)[0].flatten(), lambda x: x.sort(1)[0]])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_and_nan_end_in_no_error_of_our_own(what, rows):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    with RunningError() as errors:
        errors.keep(x, torch.full_like(x, 0.1))
        y = what(x + torch.tensor([0.0, 0.0, torch.nan, 0.0], dtype=torch.float64))
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert errors.radius(grad).shape == x.shape


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_taken_as_it_came_out_is_told(apart):
    """Which expert gets a token is decided where its numbers meet: what the others' weights get is not known then.

    Where they are equal, and no more than that, it is known: as of any tie.
    """

    def switch(x, w, weights):
        chosen = (x @ w).softmax(-1).argmax(-1)
        y = torch.zeros_like(x)
        for k, weight in enumerate(weights):
            y[chosen == k] = x[chosen == k] @ weight
        return y

    draws = torch.Generator().manual_seed(0)
    primals = [torch.randn(*shape, generator=draws) for shape in ((64, 16), (16, 4), (4, 16, 16))]
    grad_y = torch.randn(64, 16, generator=draws)
    primals[1][:, 1] = primals[1][:, 0]  # of two experts either may be chosen
    primals[1][0, 1] += 2.0**-24 * apart
    live = [x.clone().requires_grad_() for x in primals]
    x, w, weights = live
    chosen = (x @ w).argmax(-1)
    other = torch.where(chosen == 0, 1, torch.where(chosen == 1, 0, chosen))
    y = torch.einsum("nk,nkj->nj", x, weights[other])
    (*got,) = torch.autograd.grad(y, live, grad_y, allow_unused=True)
    got[1] = torch.zeros_like(w)
    asked = {"forward": switch, "primals": primals, "grad_y": grad_y, "blind": "allow"}
    if not apart:
        assert assert_gradients(got, y=y.detach(), **asked).right
        return
    with pytest.raises(WrongGradients, match=r"another choice. Give the index as an input") as error:
        assert_gradients(got, y=y.detach(), **asked)
    assert [one.name for one in error.value.agreement.wrong] == ["weights"]


def test_what_was_written_over_and_rank_of_ranks_are_told():
    def places(x, w, count):
        index = (x @ w).argmax(-1)
        if count:
            index += 1
        return x.cos()[index if count else index.argsort().argsort()]

    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(6, 4, generator=draws), torch.randn(4, 5, generator=draws)
    for count in (0, 1):
        asked = {"forward": places, "primals": (x, w), "grad_y": torch.ones(6, 4), "params": {"count": count}}
        with pytest.raises(WrongGradients, match=r"takes it as it came out"):
            assert_gradients((torch.ones(6, 4), torch.zeros(4, 5)), **asked, blind="allow")


def test_a_mask_in_doubt_by_more_than_a_choice_is_refused():
    def masked(x):
        y = x * 3
        return x[(y.argmax(1) == 2) | (y[:, 0] > 1)]

    x = torch.full((4, 5), 1 / 3)
    with pytest.raises(InputError, match=r"an index that is not exact"):
        assert_gradients(torch.ones(4, 5), forward=masked, primals=x, grad_y=torch.ones(4, 5))


def test_places_in_a_buffer_are_taken_as_they_came_out():
    """Of the tokens of an expert as many as fit, as Switch Transformers route them."""

    def dispatched(x, w, capacity=20):
        gate, chosen = (x @ w).softmax(-1).max(-1)
        mask = functional.one_hot(chosen, w.shape[1])
        place = (mask.cumsum(0) * mask).sum(-1) - 1
        buffer = functional.one_hot(place.clamp(max=capacity - 1), capacity) * (place < capacity)[:, None]
        slots = torch.einsum("ne,nc->nec", mask.to(x.dtype), buffer.to(x.dtype))
        return torch.einsum("nec,ecd->nd", slots * gate[:, None, None], torch.einsum("nec,nd->ecd", slots, x).sin())

    draws = torch.Generator().manual_seed(1)
    x, w = (torch.randn(*shape, generator=draws).bfloat16().requires_grad_() for shape in ((64, 16), (16, 4)))
    y = dispatched(x, w)
    grad_y = torch.randn(y.shape, generator=draws).bfloat16()
    got = torch.autograd.grad(y, (x, w), grad_y)
    asked = {"forward": dispatched, "primals": (x.detach(), w.detach()), "grad_y": grad_y, "precision": "eager"}
    assert assert_gradients(got, **asked, blind="allow").said.taken
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * 1.1, got[1]), **asked, blind="allow")


WAYS_TO_COUNT = {
    "one_hot": lambda p: functional.one_hot(p.argmax(-1), 16).to(p),
    "scatter": lambda p: torch.zeros(p.shape, dtype=torch.int64).scatter(-1, p.argmax(-1)[:, None], 1).to(p),
    "scatter_": lambda p: torch.zeros(p.shape, dtype=torch.int64).scatter_(-1, p.argmax(-1)[:, None], 1).to(p),
    "a mask": lambda p: (p.argmax(-1)[:, None] == torch.arange(16)).to(p),
}


def test_how_tokens_are_counted_changes_no_radius_and_the_balance_of_experts_may_be_another():
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(2048, 128, generator=draws).half(), (torch.randn(128, 16, generator=draws) / 11).half()
    radii = []
    for counts in WAYS_TO_COUNT.values():

        def balance(x, w, counts=counts):
            p = (x @ w).softmax(-1)
            return 16 * (counts(p).mean(0) * p.mean(0)).sum()

        live = x.clone().requires_grad_(), w.clone().requires_grad_()
        held = enclose(balance, (x, w), precision="eager")
        found = held.agreement(torch.autograd.grad(balance(*live), live), blind="allow")
        assert found.right and not found.said.taken
        radii.append(held[1].radius)
    least, most = torch.stack(radii).amin(0), torch.stack(radii).amax(0)
    assert bool((most - least < most * 2.0**-40).all())  # as float64 computes radii


@pytest.mark.parametrize("in_place", [False, True])
def test_two_doubts_of_one_whole_number_add_up(in_place):
    """Another may be the largest, and a comparison may come out otherwise, too."""

    def counted(x, w):
        a = (x * 3.1).detach()
        index, mask = a.argmax(-1, keepdim=True), (a[:1] * 1.7 - a[5:] * 1.7 > 0).long()
        if in_place:
            index = index.clone()
            index += mask
        return (index if in_place else index + mask).to(x.dtype) * w

    x = torch.tensor([1 / 3, 0.1, 0.2, 0.25, 0.05, 1 / 3])
    assert enclose(counted, (x, torch.ones(1)), grad_y=torch.ones(1))["w"].radius.item() >= 6


def test_a_mask_of_the_largest_may_be_another_in_what_is_systematic():
    def gated(x, w):
        h = x @ w
        return h * torch.zeros_like(h).scatter(1, h.topk(3, 1)[1], 1.0)

    for seed in range(8):
        draws = torch.Generator().manual_seed(seed)
        primals = [torch.randn(*shape, generator=draws).bfloat16() for shape in ((12, 32), (32, 10))]
        live = [x.clone().requires_grad_() for x in primals]
        y = gated(*live)
        grad_y = torch.randn(y.shape, generator=draws).bfloat16()
        got = torch.autograd.grad(y, live, grad_y)
        assert_gradients(got, forward=gated, primals=primals, grad_y=grad_y, precision="eager", blind="allow")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_nearest_code_by_cdist_is_seen_as_by_its_sums(dtype):
    """No kernel rounds the squares that torch puts beside the operands of a product."""

    def quantised(z, c):
        q = c[torch.cdist(z, c).argmin(1)]
        return functional.mse_loss(q, z.detach()) + functional.mse_loss(z, q.detach()) / 4

    draws = torch.Generator().manual_seed(0)
    z, c = (torch.randn(n, 32, generator=draws).to(dtype) for n in (256, 64))
    live = [x.float().requires_grad_() for x in (z, c)]
    got = [g.to(dtype) for g in torch.autograd.grad(quantised(*live), live)]
    assert_gradients(got, forward=quantised, primals=(z, c))
    with pytest.raises(WrongGradients):
        assert_gradients([got[0], (got[1].float() * 1.05).to(dtype)], forward=quantised, primals=(z, c))


def test_distances_by_a_product_of_rounded_operands_are_inside_where_products_round_these():
    draws = torch.Generator().manual_seed(0)
    a, b, grad_y = (torch.randn(*shape, generator=draws).bfloat16() for shape in ((40, 48), (32, 48), (40, 32)))

    def scaled(a, b):
        return torch.cdist((a * 1.1).float(), b.float())

    live = [x.float().requires_grad_() for x in (a, b)]
    got = [g.bfloat16() for g in torch.autograd.grad(scaled(*live), live, grad_y.float())]
    y = torch.cdist((a.float() * 1.1).bfloat16().float(), b.float())
    asked = {"forward": scaled, "primals": (a, b), "grad_y": grad_y, "y": y}
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients(got, **asked, precision="float32")
