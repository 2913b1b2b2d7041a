"""Equal numbers, among which kernels choose otherwise than torch: any way to break ties is right, and nothing else."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from backprop_rules.evidence.ties import ranks
from backprop_rules.testing import WrongGradients, assert_gradients

DTYPES = (torch.float32, torch.bfloat16)
WAYS = ("first", "last", "mixed")
NUMBERS = torch.randn(1 << 16, generator=torch.Generator().manual_seed(9)).bfloat16().float()


def weighed(y: Tensor) -> Tensor:
    """Return the sum of numbers with weights."""
    return (y * NUMBERS[: y.numel()].reshape(y.shape).to(y.dtype)).sum()


def with_ties(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers of which many are equal, the largest and the smallest among them."""
    return (4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).round().clamp(-6, 6) / 4


def order(x: Tensor, way: str, descending: bool = False) -> Tensor:
    """Return the order of each row, of equal numbers that which the way says; torch's own by default."""
    if way == "torch's":
        return x.sort(-1, descending=descending).indices
    n = x.shape[-1]
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    places = {"first": torch.arange(n), "last": torch.arange(n).flip(0), "mixed": drawn}[way]
    return places[x[..., places].sort(dim=-1, descending=descending, stable=True).indices]


def sort(x, way=""):
    return x.gather(-1, order(x, way)) if way else x.sort(-1).values


def topk(x, way="", k=5):
    return x.gather(-1, order(x, way, True)[..., :k]) if way else x.topk(k, -1).values


def kth(x, way="", k=7):
    return x.gather(-1, order(x, way)[..., k - 1 : k]).squeeze(-1) if way else x.kthvalue(k, -1).values


def median(x, way=""):
    return kth(x, way, (x.shape[-1] + 1) // 2) if way else x.median(-1).values


def largest(x, way=""):
    return topk(x, way, 1).squeeze(-1) if way else x.max(-1).values


def smallest(x, way=""):
    return -largest(-x, way) if way else x.min(-1)[0]


def amax(x, way=""):
    return largest(x, way) if way else x.amax(-1)


def of_all(x, way=""):
    return largest(x.reshape(-1), way) if way else x.max()


def argsorted(x, way=""):
    return sort(x, way) if way else x.gather(-1, x.argsort(-1))


def at_argmax(x, way=""):
    return largest(x, way) if way else x[torch.arange(len(x)), x.argmax(-1)]


def unsorted(x, way=""):
    return (topk(x, way) if way else x.topk(5, -1, sorted=False).values).square().sum(-1)


def range_of(x, way=""):
    return largest(x, way) - smallest(x, way) if way else x.aminmax(dim=-1).max - x.aminmax(dim=-1).min


def pooled(x, way=""):
    return largest(x.unfold(-1, 4, 4), way) if way else functional.max_pool1d(x[:, None], 4)[:, 0]


def overlapping(x, way=""):
    return largest(x.unfold(-1, 3, 2), way) if way else functional.max_pool1d(x[:, None], 3, 2)[:, 0]


def so_far(x, way=""):
    if not way:
        return x.cummax(-1).values
    n, choose = x.shape[-1], order(x, way, True)
    place = torch.empty_like(choose).scatter_(-1, choose, torch.arange(n).expand_as(choose))  # in that order
    return x.gather(-1, choose.gather(-1, place.cummin(-1).values))


OF_RANK = (sort, topk, kth, median, largest, smallest, amax, of_all, argsorted, at_argmax, unsorted, range_of, pooled)
SHARED = {largest: lambda x: x.amax(-1), smallest: lambda x: x.amin(-1)}


def of_experts(choose, logits: Tensor, experts: Tensor) -> Tensor:
    """A router: a softmax over those that are chosen, whose outputs are weighed by it."""
    index = choose(logits)
    rows = experts.gather(1, index[..., None].expand(*index.shape, experts.shape[-1]))
    return weighed((logits.gather(1, index).softmax(-1)[..., None] * rows).sum(1))


def gradients(f, *primals: Tensor) -> tuple[Tensor, ...]:
    """Return gradients in the dtypes of primals, computed in float32."""
    live = [x.float().requires_grad_() for x in primals]
    return tuple(g.to(x.dtype) for g, x in zip(torch.autograd.grad(f(*live), live), primals, strict=True))


def passes(got: tuple[Tensor, ...], f, *primals: Tensor) -> bool:
    try:
        return assert_gradients(got, forward=f, primals=primals, blind="allow").right
    except WrongGradients:
        return False


def accepts(f, way: str, *primals: Tensor) -> bool:
    """Say whether gradients with ties broken in a way are taken for those of the function itself."""
    return passes(gradients(lambda *x: f(*x, way), *primals), lambda *x: f(*x, ""), *primals)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("choose", OF_RANK, ids=lambda f: f.__name__)
def test_whichever_of_equal_numbers_is_chosen_is_right(choose, way, dtype):
    assert accepts(lambda x, way: weighed(choose(x, way)), way, with_ties(8, 64).to(dtype))


@pytest.mark.parametrize("way", ["first", "last"])
@pytest.mark.parametrize("choose", [overlapping, so_far], ids=lambda f: f.__name__)
def test_of_windows_that_overlap_the_first_or_the_last_is(choose, way):
    assert accepts(lambda x, way: weighed(choose(x, way)), way, with_ties(8, 65))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("choose", SHARED, ids=lambda f: f.__name__)
def test_equal_shares_are(choose, dtype):
    x = with_ties(8, 64).to(dtype)
    assert passes(gradients(lambda x: weighed(SHARED[choose](x)), x), lambda x: weighed(choose(x)), x)
    assert passes(gradients(lambda x: weighed(SHARED[choose](x)), x), lambda x: weighed(SHARED[choose](x)), x)


def test_equal_shares_are_right_whatever_else_numbers_are_used_for():
    def beside(chosen):
        return lambda x: weighed(x * x) + weighed(chosen(x))

    x = with_ties(8, 64)
    assert passes(gradients(beside(lambda x: x.amax(-1)), x), beside(largest), x)
    assert not passes(gradients(beside(lambda x: 1.5 * x.amax(-1)), x), beside(largest), x)


@pytest.mark.parametrize("way", ["first", "last"])
def test_of_what_is_detached_the_first_or_the_last_is(way):
    def by_index(x, way):
        return weighed(x.gather(-1, order(x.detach(), way) if way else x.detach().argsort(-1)))

    assert accepts(by_index, way, with_ties(8, 64))


def test_among_numbers_that_are_nan_no_other_is_chosen():
    x = torch.tensor([[3.0, torch.nan, 1, 2, 1], [0, 1, 0, 0, 2]])

    def smallest_of(x):
        return x.min(-1).values.sum()

    (right,) = gradients(smallest_of, x)
    (wrong,) = gradients(smallest_of, x.nan_to_num(9))
    assert passes((right,), smallest_of, x)
    assert not passes((wrong,), smallest_of, x)


# What else a number goes to, and what the numbers come from.
USES = {
    "of what they are moved by": lambda x, way: weighed((x - median(x, way)[:, None]).square()),
    "over a threshold": lambda x, way: weighed((x - kth(x, way, 60)[:, None]).relu().square()),
    "by the largest": lambda x, way: weighed((x / (1 + amax(x.abs(), way)[:, None])).sin()),
    "of a multiple": lambda x, way: weighed(sort(-2 * x, way).square()),
    "along the other dimension": lambda x, way: weighed(sort(x.T.contiguous(), way).square()),
    "beside a sum": lambda x, way: weighed(topk(x, way)) + weighed(x * x),
    "over time": lambda x, way: weighed(largest(x.reshape(4, 16, 8).mT, way) @ NUMBERS[:40].reshape(8, 5).to(x.dtype)),
    "transported": lambda x, way: (sort(x[:4], way) - sort(x[4:], way)).square().sum(),
    "by a quantile loss": lambda x, way: torch.maximum(0.3 * (sort(x, way) - 0.1), -0.7 * (sort(x, way) - 0.1)).sum(),
    "recomputed": lambda x, way: weighed(sort(x, way) if way else checkpoint(sort, x, use_reentrant=False)),
    "row by row": lambda x, way: weighed(sort(x, way) if way else torch.vmap(sort)(x)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", USES)
def test_nor_does_it_count_what_else_the_numbers_are_used_for(name, way, dtype):
    assert accepts(USES[name], way, with_ties(8, 64).to(dtype))


@pytest.mark.parametrize("way", ["first", "last"])
def test_of_a_number_that_wins_in_its_row_and_its_column_too_the_first_or_the_last_does(way):
    assert accepts(lambda x, way: weighed(largest(x, way)) + weighed(largest(x.T, way)), way, with_ties(8, 64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_what_an_index_picks_goes_with_it(way, dtype):
    logits, experts = with_ties(32, 8).to(dtype), with_ties(32, 8 * 16, seed=2).reshape(32, 8, 16).to(dtype)
    got = gradients(lambda *x: of_experts(lambda z: order(z, way, True)[:, :2], *x), logits, experts)

    def reference(logits, experts):
        return of_experts(lambda z: z.topk(2, -1).indices, logits, experts)

    assert passes(got, reference, logits, experts)
    assert not passes((got[0], got[1].roll(1, 0)), reference, logits, experts)
    assert not passes((got[0].roll(1, 0), got[1]), reference, logits, experts)


def of_equal_ones(x: Tensor, g: Tensor) -> Tensor:
    """Return what all that are equal in a row get together, for each of them."""
    return torch.where(x[..., None] == x[..., None, :], g[..., None, :], 0.0).sum(-1).to(g.dtype)


def tied(x: Tensor) -> Tensor:
    return (x[..., None] == x[..., None, :]).sum(-1) > 1


WRONG = {
    "a factor": lambda x, g: g * 1.01,
    "the sign": lambda x, g: -g,
    "all get all": of_equal_ones,
    "none gets any": lambda x, g: torch.where(tied(x), 0.0, g).to(g.dtype),
    "another row's": lambda x, g: g.roll(1, 0),
    "a neighbour gets it": lambda x, g: g.roll(1, -1),
    "one gets more": lambda x, g: torch.cat([g[:, :1] + 1, g[:, 1:]], 1),
    "a factor of the tied": lambda x, g: torch.where(tied(x), g * 1.01, g).to(g.dtype),
    "half as much": lambda x, g: torch.where(tied(x), g / 2, g).to(g.dtype),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    "choose", [topk, kth, median, largest, amax, of_all, argsorted, pooled], ids=lambda f: f.__name__
)
def test_what_no_choice_among_equal_numbers_gives_is_wrong(choose, name, dtype):
    x = with_ties(8, 64).to(dtype)
    (right,) = gradients(lambda x: weighed(choose(x, "mixed")), x)
    wrong = WRONG[name](x, right)
    assert not torch.equal(wrong, right)
    assert not passes((wrong,), lambda x: weighed(choose(x)), x)


def test_shares_that_do_not_add_up_to_one_are_wrong():
    x = torch.tensor([[1.0, 2, 2, 0, 2]])
    for shares, right in (
        ((1, 0, 0), True),
        ((0, 1, 0), True),
        ((1, 1, 1), False),
        ((1, -1, 1), False),
        ((0, 0, 0), False),
    ):
        got = torch.zeros_like(x)
        got[:, [1, 2, 4]] = torch.tensor(shares).float()
        assert passes((got,), lambda x: x.max(-1).values.sum(), x) == right
        assert passes((got,), lambda x: x.amax(-1).sum(), x) == right


@pytest.mark.parametrize("seed", range(10))
def test_what_equal_ones_get_may_change_places_and_no_other(seed):
    draws = torch.Generator().manual_seed(seed)
    x = with_ties(4, 24, seed=seed)
    (right,) = gradients(lambda x: weighed(sort(x, "mixed")), x)
    row, at = torch.nonzero(tied(x))[int(torch.randint(40, (), generator=draws))].tolist()
    for other in range(24):
        got = right.clone()
        got[row, [at, other]] = right[row, [other, at]]
        assert passes((got,), lambda x: weighed(sort(x)), x) == bool(x[row, at] == x[row, other])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_element_that_is_off_by_its_last_digit_where_nothing_rounds_is_wrong(dtype):
    x = with_ties(32, 64).to(dtype)
    (right,) = gradients(lambda x: weighed(sort(x, "mixed")), x)
    wrong = right.clone()
    wrong[3, 5] = torch.nextafter(right[3, 5], torch.tensor(9.0, dtype=dtype))
    assert passes((right,), lambda x: weighed(sort(x)), x)
    assert not passes((wrong,), lambda x: weighed(sort(x)), x)


def test_a_factor_that_no_element_shows_stands_out_among_ties_too():
    x, w = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).bfloat16(), NUMBERS.reshape(256, 256)
    (right,) = gradients(lambda x: (sort(x, "mixed").sin() * w).sum(), x)
    asked = {"forward": lambda x: (sort(x).sin() * w).sum(), "primals": (x,)}
    assert "Of equal numbers others were chosen than torch chooses" in str(assert_gradients(right, **asked))
    (off,) = gradients(lambda x: (sort(x, "mixed").sin() * w).sum() * 1.002, x)
    with pytest.raises(WrongGradients):
        assert_gradients(off, **asked)


def test_what_the_reference_itself_gives_to_all_that_are_equal_is_not_taken_from_them():
    def masked(x):
        return (x * (x == x.amax(-1, keepdim=True))).sum()

    x = torch.tensor([[1.0, 2, 2, 0], [3, 1, 3, 3]])
    first = functional.one_hot(x.argmax(-1), 4).float()
    assert passes(gradients(masked, x), masked, x)
    assert not passes((first,), masked, x)


def test_ranks_are_by_the_key_where_numbers_are_equal():
    x, key = torch.tensor([[2.0, 1, 2], [1, 0, 2]]), torch.tensor([[5, 1, 3], [1, 9, 5]])
    assert ranks(x, key).tolist() == [[3, 1, 2], [1, 0, 3]]


@pytest.mark.parametrize("name", ["cummax", "sort", "max", "topk"])
def test_where_small_numbers_may_be_flushed_what_comes_with_an_index_is_followed(name):
    def tiny(x):
        chosen = x.topk(3, -1) if name == "topk" else getattr(x, name)(-1)
        return weighed(chosen.values.square() * 1e-40)

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    (right,) = gradients(tiny, x)
    assert passes((right,), tiny, x)
    assert passes((torch.zeros_like(right),), tiny, x)
    assert not passes((right + 1e-30,), tiny, x)
