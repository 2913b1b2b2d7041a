"""What came of gradients that were held, at one point, to what a right implementation may round."""

import linecache
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import dtype_name
from backprop_rules.evidence.allowance.units import half_an_ulp
from backprop_rules.evidence.at_size import Held
from backprop_rules.evidence.recorded import Line
from backprop_rules.evidence.reservations import NONE, Reservations
from backprop_rules.evidence.systematic import Systematic
from backprop_rules.evidence.unseen import BLIND
from backprop_rules.report.off import of_the_sum
from backprop_rules.report.where import likeness, where

# The figures of what was asserted by the test of pytest that runs, for the plugin, which takes them away: in a loop
# over real sizes no tensors stay.
ASSERTED: list[dict[str, Any]] = []


class WrongGradients(AssertionError):
    """Gradients, or outputs, that no right implementation gives; its text says which, where and by how much."""

    __module__ = "backprop_rules.testing"  # from where it is imported

    def __init__(self, found: "Agreement | str") -> None:
        super().__init__(str(found))
        self.agreement = None if isinstance(found, str) else found  # what has another form is not compared


@dataclass(frozen=True, eq=False)
class Compared:
    """One gradient, or output, beside what holds it.

    `used` is the largest share of its radius that an element is off by, above 1 where it is wrong; `slope` is
    <truth, got> / <truth, truth>; `blind` the share of elements at which 0 would have passed.
    """

    name: str
    used: float
    slope: float
    blind: float
    elements: int
    outside: int = 0
    unjudged: int = 0  # elements of which the reference itself is NaN
    vanishes: str = ""  # the dtype that most elements are too small for
    words: tuple[tuple[str, str], ...] = ()  # of what is outside: a heading, and what is said under it
    open: int = 0  # elements of which the worst case says nothing

    @property
    def right(self) -> bool:
        """Whether every element lies inside."""
        return not self.outside


def compared(
    k: int,
    names: Sequence[str],
    holds: Sequence[Held | None],
    got: Tensor,
    explained: Callable[[], str] = str,
    primal: Tensor | None = None,
    beside: Callable[[int], str] | None = None,
) -> Compared:
    """Return one gradient, of a primal, beside what holds it; `explained` is asked where it is like nothing known.

    `beside` is asked before, of the gradient at this place: whether it is that of the other side of a kink.
    """
    held, name = holds[k], names[k]
    assert held is not None
    total = _Tally()
    for block in held.parts:
        total = total.beside(_tally(held.part(block), got[block]))
    slope = total.along / total.squares if total.squares else math.nan
    words = _words(k, names, holds, got, slope, explained, primal, beside) if total.outside else ()
    vanishes = dtype_name(got.dtype) if held.blind > BLIND and _vanishes(held, got.dtype) else ""
    counts = got.numel(), total.outside, total.unjudged
    return Compared(name, total.used, slope, held.blind, *counts, vanishes, words, held.open)


def _vanishes(held: Held, dtype: torch.dtype) -> bool:
    """Say whether most elements that are not 0 are no larger than what storing them rounds."""
    known = held.truth[held.truth.isfinite() & (held.truth != 0)]
    return 2 * int((known.abs() <= half_an_ulp(known, dtype)).sum()) > known.numel()


@dataclass(frozen=True)
class _Tally:
    """What is counted of a block: elements outside, and those not judged; <truth, truth> and <truth, got>."""

    outside: int = 0
    unjudged: int = 0
    squares: float = 0.0
    along: float = 0.0
    used: float = 0.0

    def beside(self, other: "_Tally") -> "_Tally":
        """Return what is counted of both."""
        sums = self.outside + other.outside, self.unjudged + other.unjudged
        return _Tally(*sums, self.squares + other.squares, self.along + other.along, max(self.used, other.used))


def _tally(held: Held, got: Tensor) -> _Tally:
    if not got.numel():
        return _Tally()
    truth, wide, off = held.truth, got.to(held.truth), held.off_inside(got)
    if off is not None:
        share, counts = (off / held.radius).nan_to_num_(0.0), (0, 0)  # 0 of 0 is nothing
    else:
        share, said = share_of(held, got), held.said & got.isfinite()
        counts = int((share > 1).sum()), int(truth.isnan().sum())
        truth, wide = torch.where(said, truth, 0.0), torch.where(said, wide, 0.0)
    return _Tally(*counts, float((truth * truth).sum()), float((wide * truth).sum()), float(share.max()))


def share_of(held: Held, got: Tensor) -> Tensor:
    """Return by which share of its radius each element is off: above 1 where it is outside, and there alone."""
    off = (got.to(held.truth) - held.truth).abs()
    share = torch.where(held.radius > 0, off / held.radius, torch.where(off > 0, math.inf, 0.0))
    inside = held.contains(got)
    share = torch.where(inside | (share > 1), share.nan_to_num(0.0), math.inf)
    return torch.where(inside, share.clamp_max(1.0), share)


AT_ZERO = "what is off lies where `{0}` is 0, and only there: a kink, of which torch's choice is expected, or left out"


def _words(
    k: int,
    names: Sequence[str],
    holds: Sequence[Held | None],
    got: Tensor,
    slope: float,
    explained: Callable[[], str],
    primal: Tensor | None,
    beside: Callable[[int], str] | None,
) -> tuple[tuple[str, str], ...]:
    held = holds[k]
    assert held is not None
    share = share_of(held, got)
    outside, worst = share > 1, worst_of(share)
    truth, radius, value = (float(x[worst]) for x in (held.truth, held.radius, got))
    info = torch.finfo(got.dtype)
    ulp = max(2.0 ** (math.frexp(truth)[1] - 1), info.smallest_normal) * info.eps
    away = abs(value - truth)
    far = f"{away / radius:.3g} times the allowance, {away / ulp:.3g} ulps" if radius else "where nothing rounds"
    if not radius and away <= torch.finfo(got.dtype).eps * float(held.truth.abs().max()):
        far += ", but may in another form of the function: also= takes one"
    far = far if math.isfinite(away) else "which is not finite" if math.isfinite(truth) else "where it is infinite"
    digits = 6 if f"{truth:.6g}" != f"{value:.6g}" else 17
    expected = interval(truth, radius) if radius or not math.isfinite(truth) else f"{truth:.{digits}g}"
    kink = primal is not None and bool(primal.any()) and not bool(primal[outside].any())
    likely = AT_ZERO.format(names[k]) if kink else beside(k) if beside else ""
    likely = likely or likeness(k, holds, names, got, outside, explained, primal)
    said = [
        ("worst", f"{list(worst)}: expected {expected}, got {value:.{digits}g}; {far}"),
        ("where", where(outside)),
        ("slope", f"{slope:.6g} over all elements" if math.isfinite(slope) else ""),
        ("likely", likely or _unrecognised(held, got)),
        ("torch", _what_torch_would_say(got, held.truth)),
    ]
    return tuple((heading, text) for heading, text in said if text)


def _unrecognised(held: Held, got: Tensor) -> str:
    """Say that nothing was recognised, and what may be meant where half of the digits are right, if not all."""
    most = float(held.truth.abs().max())
    off = float((got.to(held.truth) - held.truth).abs().max())
    half = off <= math.sqrt(torch.finfo(got.dtype).eps) * most
    return (
        f"not recognised{'; if other steps lead to the same, give them as also=, a backward in torch' if half else ''}"
    )


def worst_of(share: Tensor) -> tuple[int, ...]:
    """Return the index of the element that is off by most of its radius."""
    flat = int(share.reshape(-1).argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), share.shape))


def interval(truth: float, radius: float) -> str:
    """Return an interval with as many digits as tell its ends apart."""
    if math.isinf(truth):
        return str(truth)
    if not radius or not math.isfinite(radius):
        return f"{truth:.6g}" if not radius else "any finite number"
    places = max(0, 1 - math.floor(math.log10(radius)) + math.floor(math.log10(max(abs(truth), radius))))
    return f"{truth:.{min(17, places + 1)}g} ± {radius:.2g}"


def _what_torch_would_say(got: Tensor, truth: Tensor) -> str:
    try:
        torch.testing.assert_close(got.detach(), truth.to(got.dtype))
    except AssertionError:
        return "assert_close with its own tolerances would object, too"
    return "assert_close with its own tolerances would pass this"


@dataclass(frozen=True, eq=False)
class Agreement:
    """What came of gradients held at one point: each beside what holds it, and what is systematic."""

    gradients: tuple[Compared, ...]
    outputs: tuple[Compared, ...]
    precision: str
    systematic: Systematic
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    allows_blind: bool = False
    lines: tuple[tuple[Line, float], ...] = ()  # that give most of the worst element's allowance, and their shares
    said: Reservations = NONE
    hint: str = ""  # what would explain what is wrong: more roundings than are declared

    @property
    def blind(self) -> tuple[Compared, ...]:
        """What nothing was proved of: 0 would have passed at more than half of the elements."""
        return tuple(one for one in (*self.gradients, *self.outputs) if one.blind > BLIND)

    @property
    def wrong(self) -> tuple[Compared, ...]:
        """The gradients and outputs with elements outside."""
        return tuple(one for one in (*self.gradients, *self.outputs) if not one.right)

    @property
    def right(self) -> bool:
        """Whether everything lies inside, nothing is off systematically, and something was proved."""
        return not self.wrong and self.systematic.found is None and (self.allows_blind or not self.blind)

    def __bool__(self) -> bool:
        return self.right  # as in assert enclose(...).agreement(got)

    def __repr__(self) -> str:
        names = ", ".join(one.name for one in (*self.gradients, *self.outputs))
        return f"<Agreement on {names}: {'right' if self.right else 'wrong'}, as {self.precision}>"

    def __str__(self) -> str:
        if self.right:
            return _table(self)
        parts = [line for one in self.wrong for line in _of_one(one, self)]
        if self.systematic.found is not None:
            found = self.systematic.found
            parts += of_the_sum(found, self.names[found.sum.leaf], self.shapes[found.sum.leaf])
        if not self.allows_blind and self.systematic.found is None and not self.wrong:  # else not all were asked
            parts += [_of_blindness(one, self.precision, one in self.outputs) for one in self.blind]
        others = [one.name for one in (*self.gradients, *self.outputs) if one.right and not _accused(one, self)]
        if others:
            parts.append(f"Within what a right implementation may round: {', '.join(others)}.")
        parts.append(f"Held as {self.precision}: {PRECISION_WORDS[self.precision]}")
        parts += [self.hint] if self.hint else []
        return "\n".join([*parts, *_reserved(self.said), *_unsaid(self)])

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, for a file of accuracies."""
        return {
            one.name: {"used": one.used, "slope": None if math.isnan(one.slope) else one.slope, "blind": one.blind}
            for one in (*self.gradients, *self.outputs)
        }


PRECISION_WORDS = {
    "float32": "intermediates and products in float32, results rounded once.",
    "tensorcore": "intermediates in float32, operands of matrix products in the inputs' dtype, results rounded once.",
    "eager": "each intermediate in the dtype in which the reference stores it.",
    "float64": "everything in float64.",
}


SEES_MORE = {
    "float32": "Shorter sums, inputs that lie less close to where terms cancel, or float64 inputs see more",
    "tensorcore": 'Shorter sums, float32 inputs, or precision="float32", if the kernel keeps that, see more',
    "eager": "Shorter sums or float32 inputs see more",
    "float64": "Shorter sums, and inputs that lie less close to where terms cancel, see more",
}


def _unsaid(agreement: Agreement) -> list[str]:
    """Say of what nothing is known."""
    custom, why, unknown = agreement.said.custom, agreement.systematic.why, agreement.said.unknown
    found = [
        f"forward's own derivative is the backward of {custom}, somebody's autograd.Function: it was taken as it is."
    ]
    some = [f"Of what is made of its results nothing is said, and the rest is held: {unknown}."] * bool(unknown)
    asked = f"What stands out by less than the worst case was not asked farther, and a factor near 1 may pass: {why}."
    ties = "Of equal numbers others were chosen than torch chooses: held to the reference with its ties broken so."
    return found * bool(custom) + some + [asked] * bool(why) + [ties] * agreement.said.ties


def _reserved(said: Reservations) -> list[str]:
    """Say what of the reference may be to blame."""
    found = [f"The reference itself overflows: {said.overflow}."] * bool(said.overflow)
    found += [f"A number of the reference vanishes: {said.vanished}."] * bool(said.vanished)
    if said.taken:
        found.append(
            f"What is chosen may be another where roundings meet, and {said.taken} takes it as it came out: what is "
            f"off may be another choice. Give the index as an input of the reference, or inputs that are not so close."
        )
    if said.drawn:
        found.append(
            f"The reference draws random numbers ({said.drawn}), others than the gradients are of. Give what is drawn, "
            f"as a mask, as an input of the reference."
        )
    return found


def _accused(one: Compared, agreement: Agreement) -> bool:
    found = agreement.systematic.found
    accused = found is not None and agreement.names[found.sum.leaf] == one.name
    return accused or (not agreement.allows_blind and one in agreement.blind)


def _what(one: Compared, agreement: Agreement) -> str:
    return "the output" if one in agreement.outputs else f"the gradient of {one.name}"


def _of_one(one: Compared, agreement: Agreement) -> list[str]:
    elements = f"{one.outside} of {one.elements} elements are farther off than rounding goes"
    head = f"{_what(one, agreement)} is wrong: {elements}."
    said = [head[0].upper() + head[1:], *(f"    {heading:9} {text}" for heading, text in one.words)]
    if one is agreement.wrong[0] and agreement.lines:
        (file, number), share = agreement.lines[0]
        text = linecache.getline(file, number).strip() or "?"
        said.append(f"    {'allowance':9} {100 * share:.0f} % of it there is by {Path(file).name}:{number}  {text}")
    return said


def _of_blindness(one: Compared, precision: str, is_output: bool) -> str:
    what = one.name if is_output else f"the gradient of {one.name}"
    if one.unjudged == one.elements:
        return f"Nothing was proved of {what}: every element is NaN in the reference itself."
    more = SEES_MORE[precision]
    if one.vanishes:
        larger = "a cotangent that is some powers of two larger, as a scaled loss has"
        more = f"Most lie below what {one.vanishes} can store: {larger}, sees more"
    return (
        f"Nothing was proved of {what}: at {100 * one.blind:.0f} % of its elements 0 lies within "
        f"what {precision} may round, so that 0, or the other sign, would have passed at each. {more}; "
        f'blind="allow" lets it pass.'
    )


def _table(agreement: Agreement) -> str:
    rows = [f"{'':12} {'used':>8} {'slope - 1':>10} {'blind':>6}"]
    for one in (*agreement.gradients, *agreement.outputs):
        slope = "-" if math.isnan(one.slope) else f"{one.slope - 1:.1e}"
        rows.append(f"{one.name:12} {100 * one.used:6.1f} % {slope:>10} {100 * one.blind:4.0f} %")
    for one in (*agreement.gradients, *agreement.outputs):
        if one.unjudged:
            rows.append(
                f"{one.unjudged} of {one.elements} elements of {one.name} are NaN in the reference: not judged."
            )
        if one.open and one.blind <= BLIND:
            rows.append(f"Of {one.open} of {one.elements} elements of {one.name} the worst case says nothing.")
    rows.append(f"Right, as {agreement.precision}: {PRECISION_WORDS[agreement.precision]}")
    return "\n".join([*rows, *_unsaid(agreement)])


def kept(agreement: Agreement) -> Agreement:
    """Return the agreement, of which pytest's plugin is told, where it is there to take it away."""
    if "PYTEST_CURRENT_TEST" in os.environ and "backprop_rules.pytest_plugin" in sys.modules:
        ASSERTED.append(agreement.to_dict())
    return agreement
