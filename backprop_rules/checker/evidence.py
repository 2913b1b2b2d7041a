"""What is asked of somebody's backward at a point, and how grave it is if the answer is no."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from backprop_rules.bounds import (
    bounds,
    in_float64,
    is_followed,
    of_ordinary_size,
    sums_as_asked,
    sums_in_their_own_dtype,
)
from backprop_rules.checker.kinks import is_a_subgradient
from backprop_rules.checker.subject import Subject
from backprop_rules.domain import dtype_name
from backprop_rules.enclosure import Enclosure
from backprop_rules.errors import RoundingUnknown
from backprop_rules.grid import DOUBLE, precision
from backprop_rules.objection import OraclesDisagree, WrongGradient
from backprop_rules.oracles import ReverseMode, certified
from backprop_rules.oracles.oracle import Silent
from backprop_rules.point import BackwardRaised, Point, probe
from backprop_rules.properties import (
    Property,
    computes_its_definition,
    expect_equal,
    gives_the_same_whatever_the_strides,
    is_linear_in_the_cotangent,
    reads_only_what_it_saves,
    returns_the_shape_dtype_and_device_of_each_primal,
    same_bits,
    writes_to_none_of_its_arguments,
)
from backprop_rules.rounding.units import computed_in
from backprop_rules.verdict import Verdict, contradiction, judge

INACCURATE = "is the right function, but inaccurate"
NARROW_SUMS = f"{INACCURATE}: its sums are kept in a dtype as narrow as the primals'"
ANOTHER_CHOICE = "makes another choice at a kink"
NO_SUBGRADIENT = "is no subgradient: not the mean of the gradients around the tie"
ANSWERS_NAN = "passes the cotangent where the primal is NaN"
CONVENTIONS = ("torch", "catalogue", "any subgradient")
ACCURACIES = ("torch", "catalogue")


def lies_in_every_enclosure(point: Point) -> None:
    """Every gradient is the derivative, but for roundings that it may have."""
    verdicts = [v for v in judge(point) if not v.witness and v.oracle != "the convention"]
    wrong = [verdict for verdict in verdicts if verdict.disagrees]
    apart = contradiction(verdicts) if wrong else None
    if apart:
        raise OraclesDisagree.between(*apart)
    if wrong and (_sums_narrowly(point, wrong) or _overflows_unseen(point)):
        return
    if wrong and _may_only_round(point):
        raise RoundingUnknown(
            "how far it may round is not known: it does something in JAX that is not followed step by step. In float64 "
            "it is right at the same values; ask for that dtype alone, or write it with JAX's elementary functions."
        )
    if wrong:
        first = wrong[0]
        raise WrongGradient.outside(first, tuple(v.oracle for v in wrong if v.primal == first.primal))


def _sums_narrowly(point: Point, verdicts: Sequence[Verdict]) -> bool:
    """Say whether these gradients may come of sums that are kept in a dtype as narrow as the primals'."""
    wider = sums_in_their_own_dtype(point)
    if wider is None or any(v.oracle != "certified" for v in verdicts):
        return False
    for verdict in verdicts:
        radius, truth = wider.gradients[verdict.primal], certified.certify(point).gradients[verdict.primal]
        gradient = verdict.gradient
        assert radius is not None and truth is not None and gradient is not None
        if certified.enclosure(truth, radius, gradient).outside(gradient) is not None:
            return False
    return True


def _overflows_unseen(point: Point) -> bool:
    """Say whether y is empty and the gradients of ones are right: what overflowed would show in y, were there any."""
    if point.y.numel():
        return False
    tame = replace(point, primals=point.placed(torch.ones_like(x) for x in point.tensors))
    return not any(v.disagrees and not v.witness for v in judge(tame))


def _may_only_round(point: Point) -> bool:
    """Say whether a function whose operations are not known one by one is right in float64, at the same values.

    Then what is wrong in a narrower dtype may be rounding, and nobody can say how much of that there is.
    """
    if not isinstance(point.rule, Subject) or point.rule.framework != "jax" or is_followed(point):
        return False
    if any(precision(x.dtype) == DOUBLE for x in point.tensors):
        return False
    wide = replace(in_float64(point), rule=point.rule)
    return not any(v.disagrees and not v.witness and v.oracle != "the convention" for v in judge(wide))


def is_no_nan_where_the_derivative_is_a_number(point: Point) -> None:
    """NaN is no rounding, though torch's own gradient may be NaN too: 0 times infinity, or the root of a negative.

    Asked where nothing is so large or small that it overflows on the way.
    """
    if not of_ordinary_size(point) or not point.y.numel():
        return
    for verdict in judge(point):
        gradient = verdict.gradient
        if verdict.oracle != "certified" or gradient is None or not gradient.isnan().any():
            continue
        balls = certified.certify(point).gradients[verdict.primal] or []
        exact = certified.enclosure(balls, torch.zeros_like(gradient, dtype=torch.float64).real, gradient)
        known = exact.lo.isfinite() & exact.hi.isfinite()
        outside = gradient.isnan() & (known.all(-1) if gradient.is_complex() else known).to(gradient.device)
        if outside.any():
            raise WrongGradient.outside(replace(verdict, enclosure=exact, outside=outside), ("certified",))


def makes_a_possible_choice(point: Point) -> None:
    """At a kink, the gradients of all primals together are the limit, or a mean of limits, from around.

    Or they are torch's, which is no subgradient either for clamp at x = min = max.
    """
    for verdict in _at_kinks(point):
        theirs = _as_torch_does(point, verdict)
        if not is_a_subgradient(point) and (theirs is None or theirs.disagrees):
            assert verdict.gradient is not None and verdict.enclosure is not None
            everything = replace(verdict, outside=_wide(verdict.enclosure, verdict.gradient))
            raise WrongGradient.outside(everything, ("certified",), NO_SUBGRADIENT)
        return


def is_as_accurate_as_can_be(accuracy: str, dtypes: Sequence[torch.dtype] | None, point: Point) -> None:
    """No gradient of which the accurate form says something has an error as large as itself.

    Torch's own gradient must be more accurate at the same element, if the accuracy asked for is torch's.
    Asked in the widest dtype alone, of those that are tried, and if torch computes in it: in a narrower one every
    operation rounds what it stores, and near a zero of the derivative that is all there is. And where nothing is so
    large or small that it overflows or vanishes on the way.
    """
    widest = max(map(precision, dtypes or point.rule.domain.dtypes))
    if any(precision(x.dtype) != widest or computed_in(x.dtype) != x.dtype for x in point.tensors):
        return
    if not of_ordinary_size(point):
        return
    for lost in _lost(point):
        outside = lost.outside
        assert outside is not None
        if accuracy == "torch":
            theirs = _torchs_own_outside(point, lost)
            outside = outside if theirs is None else outside & ~theirs.to(outside.device)
        if outside.any():
            kind = NARROW_SUMS if _sums_narrowly(point, [lost]) else INACCURATE
            raise WrongGradient.outside(replace(lost, outside=outside), ("certified",), kind)


def _torchs_own_outside(point: Point, verdict: Verdict) -> Tensor | None:
    """Return where torch's own gradient is not in the enclosure either; None if it is everywhere, or is not known."""
    assert verdict.enclosure is not None
    try:
        theirs = ReverseMode().gradients(point)[verdict.primal]
    except Silent:
        return None
    return None if theirs is None else verdict.enclosure.outside(theirs)


def less_accurate_than_the_catalogue(point: Point) -> list[str]:
    """Return a note for each gradient that lost its digits where torch's own does too."""
    if not of_ordinary_size(point) or any(computed_in(x.dtype) != x.dtype for x in point.tensors):
        return []
    return [
        f"the gradient of {point.rule.primals[v.primal]} loses its digits at some points, as torch's own does: "
        "accuracy='catalogue' objects to that"
        for v in _lost(point)
    ]


def keeps_its_sums_as_torch_does(point: Point) -> None:
    """No gradient is as far from the derivative as only sums take it that are kept in a narrow dtype."""
    wrong = [v for v in judge(point) if v.disagrees and not v.witness and v.oracle != "the convention"]
    if wrong and _sums_narrowly(point, wrong):
        raise WrongGradient.outside(wrong[0], ("certified",), NARROW_SUMS)


def _lost(point: Point) -> Iterator[Verdict]:
    """Yield what is inside its own rounding's enclosure, which says nothing where the accurate form's does."""
    for verdict in judge(point):
        strict, loose, gradient = verdict.attainable, verdict.enclosure, verdict.gradient
        if verdict.disagrees or strict is None or loose is None or gradient is None:
            continue
        nothing = strict.proves & ~loose.proves
        if gradient.is_complex():
            nothing = nothing.all(-1)
        if not (gradient.isfinite().all() and point.y.isfinite().all()):
            continue
        outside = strict.outside(gradient)
        if outside is not None and (outside & nothing).any():
            yield replace(verdict, enclosure=strict, outside=outside & nothing)


def keeps_its_sums_as_asked(point: Point) -> None:
    """No gradient is further from the derivative than sums take it that are kept in the dtype asked for."""
    asked = point.rule.accumulate
    for verdict in judge(point) if asked is not None else ():
        balls, gradient = certified.certify(point).gradients if verdict.oracle == "certified" else (), verdict.gradient
        if verdict.attainable is None or gradient is None or verdict.disagrees or not balls:
            continue
        radius, truth = sums_as_asked(point).gradients[verdict.primal], balls[verdict.primal]
        assert radius is not None and truth is not None
        narrow = certified.enclosure(truth, radius, gradient)
        outside = narrow.outside(gradient)
        if outside is not None:
            assert asked is not None
            kind = f"{INACCURATE}: its sums are not kept in {dtype_name(asked)}"
            raise WrongGradient.outside(replace(verdict, enclosure=narrow, outside=outside), ("certified",), kind)


def makes_the_choice_of(convention: str, point: Point) -> None:
    """At a kink, the gradient is the one that the convention names: torch's, or the catalogue's, or either.

    Where torch's own is no derivative, as for clamp at x = min = max, the catalogue's answer is as good.
    """
    declared = {v.primal: v for v in judge(point) if v.oracle == "the convention"}
    if convention == "catalogue" and point.rule.conventions:
        for verdict in declared.values():
            if verdict.disagrees:
                raise WrongGradient.outside(verdict, (verdict.oracle,), ANOTHER_CHOICE)
        return
    _is_a_number_where_torchs_is(point)
    for verdict in _at_kinks(point):
        theirs = _as_torch_does(point, verdict)
        also = declared.get(verdict.primal)
        if theirs is None or not theirs.disagrees or (also is not None and also.agrees):
            continue
        raise WrongGradient.outside(theirs, (theirs.oracle,), ANOTHER_CHOICE)


def _is_a_number_where_torchs_is(point: Point) -> None:
    """Where nothing is claimed of the gradient, as there is no derivative, it is no NaN if torch chooses a number."""
    for verdict in judge(point) if of_ordinary_size(point) else ():
        enclosure, gradient = verdict.enclosure, verdict.gradient
        if verdict.oracle != "certified" or enclosure is None or gradient is None or not gradient.isnan().any():
            continue
        try:
            theirs = ReverseMode().gradients(point)[verdict.primal]
        except Silent:
            continue
        assert theirs is not None
        apart = gradient.isnan() & theirs.isfinite()
        if apart.any():
            chosen = replace(verdict, enclosure=Enclosure.exactly(theirs), outside=apart)
            raise WrongGradient.outside(chosen, ("torch's reverse mode",), f"{ANOTHER_CHOICE}: NaN")


def _as_torch_does(point: Point, verdict: Verdict) -> Verdict | None:
    """Return the verdict of torch's own gradient on the elements at kinks, None where it is no possible choice."""
    try:
        theirs = ReverseMode().gradients(point)[verdict.primal]
    except Silent:
        return None
    radius = bounds(point, evaluations=2).gradients[verdict.primal]
    gradient, enclosure = verdict.gradient, verdict.enclosure
    assert gradient is not None and enclosure is not None and theirs is not None and radius is not None
    if enclosure.outside(theirs) is not None:
        return None
    chosen = Enclosure.around(theirs, radius.cpu(), gradient.dtype)
    outside = chosen.outside(gradient)
    apart = None if outside is None else outside & _wide(enclosure, gradient).to(outside.device)
    return Verdict(
        "torch's reverse mode",
        verdict.primal,
        point,
        gradient,
        chosen,
        apart if apart is not None and apart.any() else None,
    )


def _at_kinks(point: Point) -> Iterator[Verdict]:
    """Yield the verdicts whose enclosure is as wide as a kink makes it for some element."""
    for verdict in judge(point):
        enclosure, gradient = verdict.enclosure, verdict.gradient
        if verdict.oracle != "certified" or not verdict.agrees or gradient is None or enclosure is None:
            continue
        if _wide(enclosure, gradient).any() and _tied(point, verdict.primal):
            yield verdict


def _wide(enclosure: Enclosure, gradient: Tensor) -> Tensor:
    """Return a mask of the elements whose enclosure has a width and is no claim about nothing."""
    wide = (enclosure.lo < enclosure.hi) & enclosure.lo.isfinite() & enclosure.hi.isfinite()
    return wide.any(-1) if gradient.is_complex() else wide


def _tied(point: Point, primal: int) -> bool:
    """Say whether the exact gradient itself is a set of several numbers."""
    balls = certified.certify(point).gradients[primal] or []
    dtype = point.gradients[primal].dtype  # type: ignore[union-attr]
    return any(certified.is_a_set(b, dtype) for b in balls)


def keeps_nothing_between_calls(point: Point) -> None:
    """A call in between, with another cotangent and other primals, changes neither the next result nor the last."""
    first = point.gradients
    kept = tuple(None if gradient is None else gradient.clone() for gradient in first)
    others = point.placed(torch.where(x == 0, 1, x / 2).to(x.dtype) for x in point.tensors)
    between = replace(point, primals=others, grad_y=probe(point.grad_y))
    try:
        between.backward(between.grad_y, between.y, *others)
    except (BackwardRaised, RuntimeError):
        return  # of that, the points that are drawn tell
    problems = "has its result overwritten by the next call", "does not give the same bits twice"
    again = point.backward(point.grad_y, point.y, *point.primals)
    for problem, found in zip(problems, (first, again), strict=True):
        for i in point.given:
            if not same_bits(kept[i], found[i]):
                expect_equal(point, problem, i, kept[i], found[i])


def answers_nan(point: Point) -> None:
    """Where a primal is NaN its gradient is NaN, or zero, or what torch gives, if torch gives one of these."""
    for k, i in enumerate(point.given):
        x = point.tensors[k]
        if not x.numel() or x.device.type == "meta":
            continue
        poisoned = x.clone(memory_format=torch.contiguous_format)
        poisoned.view(-1)[0] = math.nan
        there = replace(point, primals=(*point.primals[:i], poisoned, *point.primals[i + 1 :]))
        try:
            theirs = ReverseMode().gradients(there)[i]
        except Silent:
            return
        try:
            radius, gradient = bounds(there).gradients[i], there.gradients[i]
        except RoundingUnknown:
            return
        assert theirs is not None and gradient is not None and radius is not None
        if gradient.shape != x.shape:
            return
        got, chosen, reach = (t.reshape(-1)[0] for t in (gradient, theirs, radius.to(gradient.device)))
        near = abs(got - chosen) <= reach
        free = bool(chosen.isfinite()) and chosen != 0  # torch gives some number itself
        if not (got.isnan() or got == 0 or near or not reach.isfinite() or chosen.isnan() or free):
            kind = ANSWERS_NAN
            where = (torch.arange(gradient.numel(), device=gradient.device) == 0).reshape(gradient.shape)
            raise WrongGradient.unequal(there, kind, i, theirs, gradient, where)


# In the order in which they are asked: what makes the later questions meaningless first.
GRAVE: tuple[Property, ...] = (
    writes_to_none_of_its_arguments,
    returns_the_shape_dtype_and_device_of_each_primal,
    computes_its_definition,
    lies_in_every_enclosure,
    is_no_nan_where_the_derivative_is_a_number,
    is_linear_in_the_cotangent,
    keeps_nothing_between_calls,
    gives_the_same_whatever_the_strides,
)


def shared_memory(point: Point) -> list[str]:
    """Return a note for each pair among the gradients and the cotangent that share memory: torch allows it."""
    named = {f"the gradient of {point.rule.primals[i]}": point.gradients[i] for i in point.given}
    places: dict[int, str] = (
        {point.grad_y.untyped_storage().data_ptr(): "the cotangent"} if point.grad_y.numel() else {}
    )
    notes = []
    for name, gradient in named.items():
        if gradient is None or not gradient.numel() or point.on_meta:
            continue
        place = gradient.untyped_storage().data_ptr()
        if place in places:
            notes.append(f"{name} shares memory with {places[place]}: who adds to one in place changes the other")
        places.setdefault(place, name)
    return notes


def shares_no_memory(point: Point) -> None:
    """No gradient shares memory with another, or with the cotangent."""
    for note in shared_memory(point):
        raise WrongGradient(point, note)


def grave(declares: bool, strict_memory: bool) -> tuple[Property, ...]:
    """Return what makes a backward wrong: what is read or shared only where that was asked for."""
    return (*GRAVE, *[reads_only_what_it_saves] * declares, *[shares_no_memory] * strict_memory)


def slight(
    convention: str,
    accuracy: str = "torch",
    accumulate: torch.dtype | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
) -> tuple[Property, ...]:
    """Return what makes a right backward not quite what was asked for."""
    accurate: tuple[Property, ...] = (
        partial(is_as_accurate_as_can_be, accuracy, dtypes),
        keeps_its_sums_as_torch_does,
    )
    if accumulate is not None:
        accurate = (*accurate, keeps_its_sums_as_asked)
    if convention == "any subgradient":
        return (*accurate, makes_a_possible_choice)
    return (*accurate, makes_a_possible_choice, partial(makes_the_choice_of, convention), answers_nan)


Ask = Callable[[Point], None]
