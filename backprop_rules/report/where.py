"""Which elements of a gradient are off, and what they look like, in words."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backprop_rules.diagnosis.wanted import Wanted
from backprop_rules.domain import dtype_name, precision
from backprop_rules.evidence.allowance.units import lost_in
from backprop_rules.evidence.at_size import Held

# Numbers with a name, by which a whole gradient may be off: signs, and the factors of a formula.
FACTORS = {-1.0: "the sign", 2.0: "a factor of 2", 0.5: "a factor of 1/2", -2.0: "the sign and a factor of 2"}
# In which dtypes a number may have been stored before, the narrowest first.
NARROWER = {
    torch.float64: (torch.bfloat16, torch.float16, torch.float32), torch.float32: (torch.bfloat16, torch.float16),
}  # fmt: skip
MOVED = 16  # indices along an axis that may be in another order


def where(outside: Tensor) -> str:
    """Say where the elements of a mask lie: along which axes only at some indices."""
    total, count = outside.numel(), int(outside.sum())
    said, box = [], 1
    for axis, n in enumerate(outside.shape):
        hit = torch.nonzero(outside.movedim(axis, 0).reshape(n, -1).any(1)).reshape(-1)
        box *= len(hit)
        if 0 < len(hit) < n:
            said.append(f"axis {axis} {_indices(hit, n)}")
    share = "" if count in (box, total) else f"; there {100 * (count / box):.3g} % of the elements"
    if not said:
        return f"all over{share}" if count < total else "all elements"
    return "only at " + ", ".join(said) + share


def _indices(hit: Tensor, n: int) -> str:
    first, last = int(hit[0]), int(hit[-1])
    if len(hit) == 1:
        return f"index {first} of {n}"
    if last - first + 1 == len(hit):
        which = f"{first} to {last}"
        if last == n - 1:
            return f"{which}, the last {len(hit)} of {n}"
        return f"{which}, the first {len(hit)} of {n}" if first == 0 else f"{which} of {n}"
    return f"{len(hit)} of {n} indices, {first} the first of them"


def likeness(
    k: int,
    held: Sequence[Held | None],
    names: Sequence[str],
    got: Tensor,
    outside: Tensor,
    explained: Callable[[], str] = str,
    primal: Tensor | None = None,
) -> str:
    """Say what a wrong gradient looks like: zeros, another factor, transposed, another primal's; "" if like nothing.

    Beside a factor it is told which step of the reference explains it.
    """
    own = held[k]
    assert own is not None
    off, truth = got[outside], own.truth[outside]
    all_over = _by_a_factor(own, got, own.truth, own.radius) if _is_off_inside(own, got, outside) else ""
    itself = primal is not None and primal.shape == got.shape and bool((off == primal[outside].to(off)).all())
    plain = _plainly(own, off, truth, bool(all_over), names[k] if itself and bool(off.any()) else "")
    if plain:
        return plain
    for other, h in enumerate(held):
        if other != k and h is not None and h.truth.shape == got.shape and bool(h.contains(got).all()):
            return f"the gradient of {names[other]}, in the wrong place"
    if got.ndim > 1 and got.shape[-1] == got.shape[-2]:
        turned = Held(own.truth.mT, own.radius.mT, own.dtype)
        if bool(turned.contains(got).all()):
            return "transposed in its last two dimensions"
    order = _in_another_order(own, got, outside)
    if order:
        return order
    radius = own.radius[outside]
    # Less than two radii off, an element that is another by any factor may be so by rounding as far.
    told = bool(((off.to(truth) - truth).abs() > 2 * radius).any())
    factor = all_over or (_by_a_factor(own, off, truth, radius) if told else "")
    return "; ".join(filter(None, (_of_a_narrower_dtype(off, truth), factor, explained())))


def _of_a_narrower_dtype(off: Tensor, truth: Tensor) -> str:
    """Say in which narrower dtype all of these are stored, where the right ones would not be.

    Such are whole numbers, too: what was kept in fewer digits still has half of these, beside the largest.
    """
    apart = (off.to(truth) - truth).abs() / truth.abs().max()
    for dtype in NARROWER.get(off.dtype, ()) if bool((off != off[0]).any()) else ():
        is_near = bool((apart <= 2.0 ** (-precision(dtype) / 2)).all())
        stored, right = (x.to(dtype).to(x) == x for x in (off, truth))
        if is_near and bool(stored.all()) and not bool(right.any()):
            return f"each is a number of {dtype_name(dtype)}: it was made, or kept, in that dtype"
    return ""


def _plainly(own: Held, off: Tensor, truth: Tensor, is_a_factor: bool, itself: str) -> str:
    """Say what is plain of the elements that are off; `itself` names the primal whose own numbers they are."""
    far = bool(((off.to(truth) - truth).abs() >= truth.abs() / 2).all())
    if itself:
        return f"`{itself}` itself: memory that a kernel writes to in place, and has not overwritten"
    if len(off) == 1 and own.truth.numel() > 1 and far and not is_a_factor:
        return "one element: two writes to it, or none, at an edge"
    if not bool(off.any()):
        return "zeros: never written, or multiplied by a mask"
    if not bool(off.isfinite().all()):
        if bool(off.isnan().any()):
            return "not finite: memory that was never written, 0 / 0, 0 × inf, or a root or power of what is negative"
        return "not finite: memory that was never written, an overflow, a division by 0, or a logarithm of 0"
    if not bool(truth.any()) and float(off.abs().max()) > torch.finfo(off.dtype).eps * float(own.truth.abs().max()) > 0:
        return "the right one is 0 there: what forward leaves out is not left out, or memory was not cleared"
    return ""


def _in_another_order(own: Held, got: Tensor, outside: Tensor) -> str:
    """Say where what lies at some indices along an axis lies at others, "" if nothing does."""
    for axis, n in enumerate(got.shape):
        hit = torch.nonzero(outside.movedim(axis, 0).reshape(n, -1).any(1)).reshape(-1).tolist()
        if not (1 < len(hit) <= MOVED and got.numel() > n):
            continue
        found = {i: next((j for j in hit if j != i and _is_at(own, got, axis, i, j)), None) for i in hit}
        if None not in found.values():
            i, j = next(iter(found.items()))
            exchanged = "exchanged with that at" if found == {i: j, j: i} else "in the place of that at"
            return f"in another order along axis {axis}: what belongs at index {j} is {exchanged} {i}"
    return ""


def _is_at(own: Held, got: Tensor, axis: int, i: int, j: int) -> bool:
    """Say whether what lies at an index along an axis is what belongs at another."""
    there = Held(own.truth.select(axis, j), own.radius.select(axis, j), own.dtype)
    return bool(there.contains(got.select(axis, i)).all())


def _is_off_inside(own: Held, got: Tensor, outside: Tensor) -> bool:
    """Say whether the slope of what lies inside is nearer to that of all than to 1: it shows outside of few radii."""
    along, squares = got.to(own.truth) * own.truth, own.truth.square()
    inside, every = float(along[~outside].sum() / squares[~outside].sum()), float(along.sum() / squares.sum())
    return abs(inside - every) < abs(inside - 1) or bool(outside.all())


def _by_a_factor(own: Held, off: Tensor, truth: Tensor, radius: Tensor) -> str:
    """Say by which factor all of them are off, if by one; by which known one, as far as the radius can tell."""
    squares = float((truth * truth).sum())
    if not squares or not math.isfinite(squares):
        return ""
    factor = float((off.to(truth) * truth).sum()) / squares
    # What points along the right one, by more than half of its square, is no rounding, however far that goes.
    if bool((off.to(truth).abs() <= radius).all()) and 2 * factor**2 * squares <= float(off.to(truth).square().sum()):
        return "0, but for rounding: its terms cancel, or what comes back is lost among them"
    rounded = radius.maximum(lost_in(off.dtype, off.to(truth).abs()))  # a factor times what is exact, too
    found = Wanted(off.to(truth), truth, rounded, torch.finfo(off.dtype).eps ** 0.5).factor(truth)
    if found is None or f"{found.c:.4g}" == "1":
        return ""
    factor, uncertain, _ = found
    known = dict(FACTORS)
    for n in sorted({*own.truth.shape, own.truth.numel()} - {1, 2}):
        known |= {1 / n: f"a mean over {n} in the place of a sum", float(n): f"a sum over {n} in the place of a mean"}
    near = {
        name: abs(factor - f)
        for f, name in known.items()
        if abs(factor - f) <= min(abs(f) * uncertain, abs(factor - 1))
    }
    if not near and truth.numel() == 1:  # one number is always some factor times another
        return ""
    name = min(near, key=lambda one: near[one], default="a factor")
    return f"{name}: each is {factor:.4g} times the right one, but for rounding"
