"""Attention, torch's own and written out, held as fused kernels compute it."""

import gc

import pytest
import torch
from attentions_written_out import WRITTEN_OUT, by_matmul, in_float32, masked, masked_by_the_shares
from real_sizes import KERNELS, stored
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from backprop_rules import InputError
from backprop_rules.evidence.allowance.declared import Declared
from backprop_rules.subject.attention import Attentions, Lost
from backprop_rules.testing import WrongGradients, assert_gradients, enclose


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SEEN = numbers(5, 7) > 0
SEEN[2] = False  # a query that sees nothing
WAYS = {
    "as it is": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "groups": {"enable_gqa": True},
    "a mask": {"attn_mask": SEEN},
    "a bias": {"attn_mask": numbers(5, 7, seed=1)},
    "a bias that hides": {"attn_mask": torch.where(SEEN, numbers(5, 7, seed=1), -torch.inf)},
    "groups and a mask": {"enable_gqa": True, "attn_mask": SEEN},
}


def asked(dtype: torch.dtype, **way: object):
    groups = 2 if way.get("enable_gqa") else 4
    q, k, v = (numbers(2, h, n, 6, seed=n).to(dtype) for h, n in ((4, 5), (groups, 7), (groups, 7)))
    own = {name: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in way.items()}

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, **own)

    return forward, (q, k, v), numbers(2, 4, 5, 6, seed=3).to(dtype)


def own_gradients(forward, primals, grad_y) -> tuple[Tensor, ...]:
    live = [x.clone().requires_grad_() for x in primals]
    return torch.autograd.grad(forward(*live), live, grad_y)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_kernel_is_right_and_a_factor_is_seen(dtype, way):
    forward, primals, grad_y = asked(dtype, **way)
    held = {"forward": forward, "primals": primals, "grad_y": grad_y}
    got = own_gradients(forward, primals, grad_y)
    assert_gradients(got, y=forward(*primals), **held)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * (1.01 if dtype == torch.float32 else 1.1), *got[1:]), **held)


@pytest.mark.parametrize("name", ["attention", "causal attention"])
def test_a_fused_kernel_is_inside_and_is_held_no_looser_than_by_its_own_form(name):
    """Of heads of six numbers sqrt(s) is no power of two: q sqrt(s) would be rounded to bfloat16."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    primals = [x.bfloat16() for x in kernel.make(torch.Generator().manual_seed(0), (2, 3, 33, 6))]
    grad_y = kernel.cotangent(primals)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=name == "causal attention")

    ours = enclose(fused, primals, grad_y=grad_y)
    assert ours.agreement(stored(kernel.fused(grad_y, *primals), primals)).right
    declared = enclose(kernel.forward, primals, grad_y=grad_y, also=kernel.fused)
    for one, other in zip(ours.every, declared.every, strict=True):
        assert bool((one.radius <= other.radius).all())


def flash(forward, q, k, v, grad_y):
    """Return the gradients of a fused kernel, in bfloat16: P and dS are rounded to it, and δ is of what is stored."""
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    if forward in (masked, masked_by_the_shares):
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    shares = scores.softmax(-1)
    of_values = grad_y.float() @ v.float().mT
    y = (shares.bfloat16().float() @ v.float()).bfloat16()
    off = shares * (of_values - (y.float() * grad_y.float()).sum(-1, keepdim=True))
    off = off.bfloat16().float() * q.shape[-1] ** -0.5
    return off @ k.float(), off.mT @ q.float(), shares.bfloat16().float().mT @ grad_y.float()


@pytest.mark.parametrize("forward", WRITTEN_OUT)
def test_one_that_is_written_out_goes_back_by_what_is_stored_as_well(forward, monkeypatch):
    """All values are about 20: P dP is nearly δ, and what is left of both is less than what storing loses of it."""
    q, k, v = (numbers(2, 3, 48, 16, seed=n) for n in range(3))
    primals = [x.bfloat16() for x in (q, k, v + 20)]
    grad_y = numbers(2, 3, 48, 16, seed=3).bfloat16()
    got = [g.bfloat16() for g in flash(forward, *primals, grad_y)]
    held = {"forward": forward, "primals": primals, "grad_y": grad_y}
    enclosed = enclose(**held)
    assert enclosed.agreement(got, blind="allow").right
    assert not enclosed.agreement([got[0], got[1], 1.05 * got[2]], blind="allow").right
    monkeypatch.setattr(Attentions, "multiplied", lambda *_: None)
    with pytest.raises(WrongGradients):
        assert_gradients(got, **held, blind="allow")


def test_the_shares_are_rounded_once_for_all_of_a_product(monkeypatch):
    """What rounding one share does to δ is as large as that share of p dP, and not as the sum of all sizes in it."""
    q, k, v, grad_y = (numbers(2, 2, 96, 64, seed=n).bfloat16() for n in range(4))
    held = {"forward": scaled_dot_product_attention, "primals": (q, k, v), "grad_y": grad_y}
    ours = enclose(**held).every

    def as_a_whole(mode, y, _, __, dtype):
        return Lost(mode.lost(y, dtype))

    monkeypatch.setattr(Declared, "lost_of_product", as_a_whole)
    whole = enclose(**held).every
    for one, other in zip(ours[:2], whole[:2], strict=True):
        assert float(one.radius.median()) < 0.5 * float(other.radius.median())


def also_returned(q, k, v):
    shares = torch.softmax(q @ k.mT, -1)
    return shares @ v, shares


@pytest.mark.parametrize("beside", [False, True])
def test_shares_that_are_rounded_as_far_as_they_go_stay_inside(beside):
    """Of one column all shares are rounded up, and δ with them; where they are used beside, their gradients cancel."""
    q, k = 1e-3 * numbers(1, 3, 1), numbers(1, 255, 1, seed=1).abs() + 1
    primals = [x.bfloat16() for x in (q, k, numbers(1, 255, 1, seed=2).abs() / 2 + 1.5)]
    grad_y = torch.ones(1, 3, 1, dtype=torch.bfloat16)
    wide, g = [x.double() for x in primals], grad_y.double()
    shares = torch.softmax(wide[0] @ wide[1].mT, -1)
    of_values = g @ wide[2].mT
    of_shares = (-of_values).bfloat16() if beside else torch.zeros_like(of_values).bfloat16()
    up = shares + torch.ldexp(torch.full_like(shares, 2.0**-8), torch.frexp(shares).exponent - 1)
    y = (up @ wide[2]).float().bfloat16().double()
    inner = (y * g).sum(-1, keepdim=True) + (shares * of_shares).sum(-1, keepdim=True)
    off = shares * (of_values + of_shares - inner)
    forward = also_returned if beside else by_matmul
    held = enclose(forward, primals, grad_y=(grad_y, of_shares) if beside else grad_y).every
    for got, one in zip((off @ wide[1], off.mT @ wide[0]), held, strict=False):
        assert bool(((got - one.truth).abs() <= one.radius).all())


def test_the_steps_of_torchs_own_function_of_several_heads_are_seen():
    size, heads = 12, 2
    primals = [(numbers(*shape, seed=n) / 3).bfloat16() for n, shape in enumerate([(5, 2, size), (36, size), (12, 12)])]

    def of_the_library(x, w, out):
        return torch.nn.functional.multi_head_attention_forward(
            x, x, x, size, heads, w, None, None, None, False, 0.0, out, None, need_weights=False
        )[0]

    def step_by_step(x, w, out):
        q, k, v = torch.nn.functional.linear(x, w).unflatten(-1, (3, heads, -1)).permute(2, 1, 3, 0, 4)
        y = scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).flatten(2)
        return torch.nn.functional.linear(y, out)

    held = {"primals": primals, "grad_y": numbers(5, 2, size, seed=3).bfloat16()}
    for one, other in zip(enclose(of_the_library, **held).every, enclose(step_by_step, **held).every, strict=True):
        assert bool((one.radius <= 1.001 * other.radius).all() and (other.radius <= 1.001 * one.radius).all())


def over_the_queries(q, k, v):
    return torch.softmax(q @ k.mT, -2) @ v


def turned(q, k, v):
    return torch.softmax(q @ k.mT, -1).mT @ v


def summed_over_the_queries(q, k, v):
    return torch.einsum("bhts,bhtd->bhsd", torch.softmax(q @ k.mT, -1), v)


def without_a_product(q, k, v):
    return torch.softmax(q @ k.mT, -1) * v.sum()


def eager_as_it_is(q, k, v):
    return by_matmul(q, k, v)


def normalised_over_the_queries(q, k, v):
    """As of slots."""
    scores = q @ k.mT
    return torch.exp(scores - scores.logsumexp(-2, keepdim=True)) @ v


def of_half_the_logarithm(q, k, v):
    scores = q @ k.mT
    return torch.exp(torch.sub(scores, scores.logsumexp(-1, keepdim=True), alpha=0.5)) @ v


OTHERS = [
    over_the_queries,
    turned,
    summed_over_the_queries,
    without_a_product,
    eager_as_it_is,
    normalised_over_the_queries,
    of_half_the_logarithm,
]


@pytest.mark.parametrize("forward", OTHERS)
def test_what_is_no_attention_is_held_as_before(forward, monkeypatch):
    primals = [numbers(2, 3, 5, 5, seed=n).bfloat16() for n in range(3)]
    held = {"forward": forward, "primals": primals, "grad_y": numbers(2, 3, 5, 5, seed=3).bfloat16()}
    held["precision"] = "eager" if forward is eager_as_it_is else "tensorcore"
    as_it_is = enclose(**held)
    monkeypatch.setattr(Attentions, "multiplied", lambda *_: None)
    for one, other in zip(as_it_is.every, enclose(**held).every, strict=True):
        assert torch.equal(one.radius, other.radius)


def shifted_by_the_largest_of_all(q, k, v):
    scores = q @ k.mT
    return (scores - scores.amax((-2, -1), keepdim=True)).softmax(-1) @ v


def of_one_pattern_for_all(q, k, v):
    exponentials = (q[:1] @ k[:1].mT).exp()
    every = exponentials.expand(len(v), -1, -1, -1)
    return every @ v / exponentials.sum(-1, keepdim=True)


@pytest.mark.parametrize("forward", [shifted_by_the_largest_of_all, of_one_pattern_for_all])
def test_what_is_nearly_one_is_answered(forward):
    primals = [numbers(2, 3, 5, 6, seed=n).bfloat16() for n in range(3)]
    grad_y = numbers(2, 3, 5, 6, seed=3).bfloat16()
    got = [g.bfloat16() for g in own_gradients(forward, [x.float() for x in primals], grad_y.float())]
    assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y, blind="allow")


def test_a_cast_of_the_shares_counts_in_what_their_product_is_off_by():
    """Of one value a key: the shares are rounded by the cast alone."""
    q, k, grad_y = (numbers(1, 255, 4, seed=n).bfloat16() for n in range(3))
    primals = (q, k, torch.ones(1, 255, 4, dtype=torch.bfloat16))

    def cast(q, k, v):
        return torch.softmax(q @ k.mT, -1, dtype=torch.float32).to(q.dtype) @ v

    def as_it_is(q, k, v):
        return torch.softmax(q @ k.mT, -1) @ v

    ours, other = (enclose(f, primals, grad_y=grad_y).every for f in (cast, as_it_is))
    assert bool((ours[0].radius >= 0.9 * other[0].radius).all())


def test_a_part_that_is_cast_and_a_second_cast_lose_nothing_more(monkeypatch):
    def of_parts(q, k, v):
        y = by_matmul(q.float(), k.float(), v.float())
        return torch.stack([y[:, h].to(q.dtype) for h in range(3)], 1)

    def cast_twice(q, k, v):
        y = by_matmul(q.float(), k.float(), v.float())
        return (y.to(q.dtype) + y.to(q.dtype)) / 2

    primals = [numbers(2, 3, 5, 6, seed=n).bfloat16() for n in range(3)]
    held = {"primals": primals, "grad_y": numbers(2, 3, 5, 6, seed=3).bfloat16()}
    once = enclose(in_float32, **held)[0].radius.max()
    assert float(enclose(cast_twice, **held)[0].radius.max()) <= 1.1 * float(once)
    assert float(enclose(of_parts, **held)[0].radius.max()) <= 1.1 * float(once)


@pytest.mark.parametrize("used", [False, True])
def test_a_run_lets_go_of_its_softmaxes(used):
    """A product of which no gradient is asked would hold all that was made of it, for good."""
    kept = []

    def forward(q, k, v):
        shares = torch.softmax(q @ k.mT, -1)
        kept.append(StorageWeakRef(shares.untyped_storage()))
        y = shares @ v
        return y if used else q * y.detach().sum()

    primals = [numbers(2, 3, 5, 6, seed=n).bfloat16() for n in range(3)]
    enclose(forward, primals, grad_y=numbers(2, 3, 5, 6, seed=3).bfloat16())
    gc.collect()
    assert kept and all(one.expired() for one in kept)


def test_a_cast_is_not_rounded_again_for_the_product():
    x, w, grad_y = (numbers(9, 9, seed=n).bfloat16() for n in range(3))

    def radius(forward):
        return enclose(forward, (x, w), grad_y=grad_y, precision="tensorcore")[1].radius

    def cast(x, w):
        return x.sin().to(torch.bfloat16) @ w

    def written_to(x, w):
        return x.sin().to(torch.bfloat16).mul_(3) @ w / 3

    once, twice = radius(lambda x, w: x.sin() @ w), radius(written_to)
    assert bool((radius(cast) <= 1.01 * once).all())
    assert bool((twice > 1.5 * once).all())


def test_a_forward_that_asks_for_the_gradient_of_the_values_before_goes_back_as_well():
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = scaled_dot_product_attention(q, k, v)
        (of_values,) = torch.autograd.grad(y.sum(), v, create_graph=True)
        return y + of_values[..., :5, :]

    _, primals, grad_y = asked(torch.float32)
    with sdpa_kernel(SDPBackend.MATH):  # others once
        got = own_gradients(forward, primals, grad_y)
    assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y)


@pytest.mark.parametrize("size", [6, 64])
def test_in_a_checkpoint_it_is_taken_as_torch_computes_it(size):
    """Larger ones were recomputed by another kernel of torch's, which keeps other tensors."""
    q, k, v, grad_y = (numbers(2, 2, 2 * size, size, seed=n).bfloat16() for n in range(4))

    def forward(*primals: Tensor) -> Tensor:
        return checkpoint(scaled_dot_product_attention, *primals, use_reentrant=False)

    got = own_gradients(scaled_dot_product_attention, (q, k, v), grad_y)
    assert_gradients(got, forward=forward, primals=(q, k, v), grad_y=grad_y, blind="allow")


def test_a_mask_beside_is_causal_is_refused():
    forward, primals, grad_y = asked(torch.float32, attn_mask=SEEN, is_causal=True)
    with pytest.raises(InputError, match="attn_mask or is_causal, and not both"):
        enclose(forward, primals, grad_y=grad_y)


@pytest.mark.parametrize("mask", [1e4, 1e9, 1e10, 1e30])
def test_a_finite_number_that_masks_is_as_good_as_an_endless_one(mask):
    """Of 1e9 the rounding is some dozens: what is masked is 0 all the same."""
    random = torch.Generator().manual_seed(0)
    q, k, v, grad_y = (torch.randn(2, 40, 8, generator=random) for _ in range(4))
    seen = torch.ones(40, 40).tril()

    def forward(q, k, v, mask=mask):
        return ((q @ k.mT) * seen - mask * (1 - seen)).softmax(-1) @ v

    def endless(q, k, v):
        return (q @ k.mT).masked_fill(seen == 0, -torch.inf).softmax(-1) @ v

    finite, other = (enclose(f, (q, k, v), grad_y=grad_y).every for f in (forward, endless))
    for one, least in zip(finite, other, strict=True):
        assert float(one.radius.max()) <= 2 * float(least.radius.max())


def flash_by_its_logarithm(g, q, k, v):
    """Return gradients as kernels have them that keep the logarithm of each softmax's sum, in float32."""
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    largest = scores.amax(-1, keepdim=True)
    kept = largest + (scores - largest).exp().sum(-1, keepdim=True).log()
    p = (scores - kept).exp()
    dz = p * (g @ v.mT - ((p @ v) * g).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
    return dz @ k, dz.mT @ q, p.mT @ g


@pytest.mark.parametrize("scale", [1, 4, 10])
def test_large_scores_in_float32_pass_as_kernels_and_torch_itself_have_them(scale):
    random = torch.Generator().manual_seed(scale)
    q, k, v, g = (torch.randn(2, 3, 96, 32, generator=random) for _ in range(4))
    q, k = q * scale, k * scale
    enclosed = enclose(scaled_dot_product_attention, (q, k, v), grad_y=g)
    live = [x.clone().requires_grad_() for x in (q, k, v)]
    own = torch.autograd.grad(scaled_dot_product_attention(*live), live, g)
    kept = flash_by_its_logarithm(g, q, k, v) if scale < 10 else own
    assert enclosed.agreement(own, blind="allow").right and enclosed.agreement(kept, blind="allow").right
    assert not enclosed.agreement((1.002 * own[0], *own[1:]), blind="allow").right
