"""From what was found to the mistake in words: by its kind, the bank, surgery on forward, or a mended backward."""

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.diagnosis.at_size import likely_at_size
from backprop_rules.diagnosis.beside import of_other_cotangents, other_cotangents
from backprop_rules.diagnosis.diagnosis import OVERFLOW, TOLD, diagnosed
from backprop_rules.diagnosis.edited import EFFORT
from backprop_rules.diagnosis.hidden import hidden_dependence
from backprop_rules.diagnosis.mended import mended
from backprop_rules.diagnosis.mistake import Family, Mistake
from backprop_rules.diagnosis.several import EXCHANGED
from backprop_rules.diagnosis.surgery import in_its_line, is_one_call, mistake_of, places_of, seen_in
from backprop_rules.domain import precision
from backprop_rules.errors import InputError, OwnError
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.allowance.precision import precision_named
from backprop_rules.evidence.at_size import Question, at_size
from backprop_rules.evidence.evidence import Evidence, cast, in_precision, precise
from backprop_rules.evidence.native import Native
from backprop_rules.properties import form
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.outcome import Outcome
from backprop_rules.properties.smallest import plainly_wrong
from backprop_rules.strategies.of_rules import SMALL, call_at, of_the_rule
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import Points, is_near
from backprop_rules.subject.ambient import F32, F64, at, inexact
from backprop_rules.subject.frameworks.carried import carried
from backprop_rules.subject.frameworks.of_jax import vjp_of_custom
from backprop_rules.subject.function import Cotangents, NoAnswer, NoPoint
from backprop_rules.subject.subject import Subject

OTHERS = 40  # points that tell explanations apart
VARIED = 6  # points of other sizes that are asked for more failures
MORE = 12  # of these: the others still tell explanations apart
ENOUGH = 4
ALIKE = 3  # failing points of the same sizes, at which one explanation must hold


def named_mistake(subject: Subject, outcome: Outcome, finding: Finding | None, explain: bool = True) -> Mistake | None:
    """Return the mistake that explains what was found at every point, None where none does, or by its kind alone."""
    if finding is None:
        return None
    if not explain:
        return TOLD.get(finding.kind)
    if finding.kind is Kind.DERIVATIVE:
        return outcome.unless_ours(lambda: hidden_dependence(subject, outcome, finding), None)
    if finding.kind is not Kind.VALUE or subject.heavy:
        return _by_the_bank(subject, outcome, finding)
    if subject.right is None:
        other = outcome.unless_ours(lambda: _of_cotangents(subject, outcome, finding), None)
        return other or _of_a_value(subject, outcome, finding)
    known = _by_the_bank(subject, outcome, finding)
    failing = [f.point for f in outcome.findings if f.kind is Kind.VALUE]
    if known is not None and known.family is not Family.DIGITS:
        return known
    places = outcome.unless_ours(lambda: places_of(subject, outcome.pair, failing), [])
    return _told(outcome, places) or _in_the_backward(outcome, places) or known


def _of_cotangents(subject: Subject, outcome: Outcome, finding: Finding) -> Mistake | None:
    """Return what is done otherwise with the cotangents of several outputs: with it all that failed is right."""
    leaf, failing = finding.leaf, [f.point for f in outcome.findings if f.is_like(finding)]
    if leaf is None or sum(g is not None for g in finding.point.grads) < 2:
        return None
    every = [Evidence(subject, point, outcome.pair) for point in (finding.point, *failing)]
    if all(leaf in _right_with(one, one.point.grads) for one in every):  # but for the last digits
        return None
    pairs = [(one, dict(other_cotangents(one.point.grads))) for one in every]
    for mistake in pairs[0][1]:
        right = [_right_with(one, others[mistake]) if mistake in others else [] for one, others in pairs]
        if all(leaf in some for some in right):
            whole = all(len(some) == len(subject.names) for some in right)
            of = "" if whole else f" for the gradient of {subject.names[leaf]}"
            return replace(mistake, words=f"{mistake.words}{of}")
    return None


def _right_with(evidence: Evidence, grads: Cotangents) -> list[int]:
    """Return the leaves whose gradients are nearly right with these cotangents."""
    try:
        pairs = enumerate(zip(evidence.gradients(evidence.point.leaves, grads), evidence.user, strict=True))
        return [k for k, (t, u) in pairs if t is None or (isinstance(u, Tensor) and is_near(u, t.to(u.dtype)))]
    except NoAnswer:
        return []


def _in_the_backward(outcome: Outcome, places: list[Any]) -> Mistake | None:
    """Return what is to be done otherwise in the backward's own lines."""
    return outcome.unless_ours(lambda: mended(places), None)


def _of_a_value(subject: Subject, outcome: Outcome, finding: Finding) -> Mistake | None:
    """Of one function the bank has better words, but for a factor; of several steps it knows whole gradients alone."""
    places = outcome.unless_ours(lambda: places_of(subject, outcome.pair, [finding.point]), [])
    one_call = is_one_call(places)
    found = [] if one_call else outcome.unless_ours(lambda: in_its_line(places), [])
    if found and len(found[0]) == 1 and found[0][0].words != EXCHANGED:
        return _told(outcome, places, found)
    known = _by_the_bank(subject, outcome, finding)
    last = known if known is not None and known.family is Family.DIGITS else None
    known = None if last else known
    if known is not None and (known.family is not Family.FACTOR or not one_call):
        return known
    made = _told(outcome, places, None if one_call else found)
    named = known if made is None or (known is not None and made.family is not Family.SIZE) else made
    named, own = named or _in_the_backward(outcome, places), outcome.pair.high
    if named is None and own is not F64 and one_call and len(places[0].tape.steps) > 1:  # a factor is of no part alone
        named = _by_the_bank(subject, outcome, finding, own)
    named = named or outcome.unless_ours(lambda: _as_far_as_it_rounds(subject, outcome, places), None) or last
    if named is None and own is F64 and outcome.unless_ours(lambda: _nearly_right(subject, outcome, finding), False):
        return TOLD[Kind.FARTHER]
    return named if named or own is F64 else _by_the_bank(subject, outcome, finding, own)


def _nearly_right(subject: Subject, outcome: Outcome, finding: Finding) -> bool:
    """Say whether it has the first half of float32's digits wherever it failed: no term is missing.

    What is wrong in a narrow dtype alone has all of them in float64.
    """
    if finding.dtype not in (None, F64):
        return False
    failed = [Evidence(subject, f.point, outcome.pair) for f in outcome.findings if f.is_like(finding)][:ENOUGH]
    pairs = [(e.user[finding.leaf], e.run.gradients[finding.leaf]) for e in failed if finding.leaf is not None]
    return all(t is not None and is_near(g.to(at(F32, t)), t.to(at(F32, t))) for g, t in pairs) and bool(pairs)


def _as_far_as_it_rounds(subject: Subject, outcome: Outcome, places: Sequence[Any]) -> Mistake | None:
    """Return what explains the gradients in a narrower dtype than float64, as far as right ones may round in it.

    Of a kernel that takes no float64 that is its own; one that takes it may have constants of fewer digits. What is
    told holds at some of the largest points that failed, of the same sizes: at one alone it may by chance. Of many
    edits it takes as long as all else.
    """
    failing = {id(f.point): f.point for f in outcome.findings if f.kind is Kind.VALUE}
    largest = max(failing.values(), key=attrgetter("size"))
    alike = [p for p in failing.values() if _sizes(p) == _sizes(largest)][:ALIKE]
    if outcome.pair.high is F64 and (len(alike) < 2 or any(len(at.edits) > EFFORT for at in places[:1])):
        return None
    found = (_at_its_size(subject, Evidence(subject, point, outcome.pair)) for point in alike)
    first = next(found)
    return first if first is not None and all(one is not None and one.words == first.words for one in found) else None


def _sizes(point: Point) -> list[Any]:
    return [x.shape if isinstance(x, Tensor) else None for x in point.leaves]


def _at_its_size(subject: Subject, evidence: Evidence) -> Mistake | None:
    """Return what explains the gradients at one point, in the widest dtype but float64 in which they were asked for."""
    point, pair = evidence.point, evidence.pair
    wide = pair.high is F64
    dtype, gradients = (pair.low, evidence.low_user) if wide else (pair.high, evidence.user)
    if gradients is None:
        return None
    question = Question(evidence.function, tuple(cast(point.leaves, dtype)), tuple(cast(point.grads, dtype)))
    declared = precision_named(None, dtype)
    try:
        holds = at_size(question, declared).gradients
    except (NoPoint, NotImplementedError, InputError):
        return None
    got = [g if isinstance(g, Tensor) else None for g in gradients]
    other = of_other_cotangents(question, declared, holds, got)
    return other or likely_at_size(question, subject.names, holds, got)


def _told(outcome: Outcome, places: list[Any], found: list[Any] | None = None) -> Mistake | None:
    """Return what surgery finds, or found, as one mistake in words."""
    some = outcome.unless_ours(lambda: in_its_line(places), []) if found is None else found
    k, made = outcome.unless_ours(lambda: seen_in(places, some), (0, ""))
    return mistake_of([*some[k : k + 1], *some[:k], *some[k + 1 :]], made)


def _by_the_bank(
    subject: Subject, outcome: Outcome, finding: Finding, own: torch.dtype | None = None
) -> Mistake | None:
    """Return the mistake of the bank that explains it, in float64 or in the dtype in which the backward computes."""
    by_its_kind = TOLD.get(finding.kind)
    if subject.rule is None or finding.leaf is None or finding.kind in (Kind.RANDOM, Kind.STRIDES):
        return by_its_kind
    if finding.kind is Kind.INACCURATE:
        # A cast loses digits wherever there are some, and an overflow is one effect of it; cancellation spares most.
        plain = next((p for p in outcome.passed if p.says and _has_digits(p)), None)
        finite = not isinstance(finding.got, float) or math.isfinite(finding.got)
        asked = finding if plain is None else replace(finding, point=plain)
        narrow = (finite or plain is not None) and _everywhere(subject, outcome, asked)
        if narrow or not finite:
            return TOLD[Kind.NARROWER] if narrow else OVERFLOW
    failures = [f for f in outcome.findings if f.is_like(finding) and f.point is not finding.point]
    failures += islice(_at_other_sizes(subject, outcome, finding), MORE)
    failures = [f for f in failures if f.point.size <= SMALL] or failures[:ENOUGH]
    failing = [p for f in failures if (p := point_of(subject, f.point, f.dtype or own)) is not None]
    smallest = point_of(subject, finding.point, finding.dtype or own)
    if smallest is None:
        return by_its_kind

    def others() -> Sequence[Call]:
        seen = [p for p in (*outcome.passed, *(f.point for f in outcome.findings)) if p.size <= SMALL][:OTHERS]
        points = [*seen, *of_the_rule(subject.right, subject.dtypes)]
        return [p for point in points if (p := point_of(subject, point, own)) is not None]

    def named() -> Mistake | None:
        with suppress(InputError, NotImplementedError):  # no definition can be made of this forward: there are no words
            return diagnosed(finding, [*failing, smallest], others)
        return by_its_kind

    return outcome.unless_ours(named, by_its_kind)


def _has_digits(point: Point) -> bool:
    """Say whether each of its arrays has numbers that a narrow dtype would round."""
    given = [x for x in (*point.leaves, *point.grads) if inexact(x)]
    return all(bool((x.to(torch.bfloat16).to(x.dtype) != x).any()) for x in given if not x.is_complex())


def _everywhere(subject: Subject, outcome: Outcome, finding: Finding) -> bool:
    """Say whether most elements lost a third of their digits or more: to a cast, as cancellation meets a few."""
    point, pair, leaf = finding.point, outcome.pair, finding.leaf
    evidence, here = Evidence(subject, point, pair), Native(subject, point, pair, in_precision(point, pair.high))
    try:  # a cast to the lower precision shows in the higher one alone, where it is called as it is
        found, truth = here.user if finding.dtype == pair.high else evidence.low_user, evidence.run.gradients
    except NoAnswer:
        return False
    got, right = (None, None) if found is None or leaf is None else (found[leaf], truth[leaf])
    if not isinstance(got, Tensor) or right is None or got.shape != right.shape:
        return False
    off = ((got.to(right.dtype) - right).abs() / right.abs())[right != 0]
    return bool(off.numel()) and float(off.median()) > 2.0 ** (-2 / 3 * precision(got.dtype))


def _at_other_sizes(subject: Subject, outcome: Outcome, finding: Finding) -> Iterator[Finding]:
    """Yield the same finding at other sizes: a factor that is a size is told from a constant by these."""
    if finding.kind is not Kind.VALUE or finding.leaf is None:
        return
    varied = (p for p in Points(subject, 0, 1) if not p.own and not p.empty and p.size <= SMALL)
    others = islice(varied, VARIED) if subject.right is None else of_the_rule(subject.right, subject.dtypes)
    for point in others:
        evidence = Evidence(subject, point, outcome.pair)
        try:
            answered = not list(form.is_answered(evidence))
            other = plainly_wrong(evidence, finding.leaf) if answered else None
        except NoPoint:
            continue
        if other is not None:
            yield other


def point_of(subject: Subject, point: Point, dtype: torch.dtype | None = None) -> Call | None:
    """Return a point as the bank takes it: one of the rule, in float64 unless a dtype is named."""
    try:
        dtypes = precise(subject, point) if dtype is None else in_precision(point, dtype)
        return call_at(subject.rule, point, dtypes)  # type: ignore[arg-type]
    except OwnError:
        raise
    except Exception:  # a forward that does not take them as the rule would
        return None


# The functions of JAX that compute the same as the catalogue's rules with kinks.
TWINS = {
    "relu": "nn.relu",
    "abs": "numpy.abs",
    "maximum": "numpy.maximum",
    "minimum": "numpy.minimum",
    "clamp": "numpy.clip",
    "clamp_tensor": "numpy.clip",
}


def asked_of_jax(call: Call, primal: int) -> tuple[str, Tensor] | None:
    """Return the version of JAX and the gradient that it gives; None where it is not installed, or has no such rule."""
    place = TWINS.get(call.rule.name)
    if place is None:
        return None
    try:
        jax = importlib.import_module("jax")
        function = attrgetter(place)(jax)
        with jax.enable_x64(True):
            backward = carried(lambda g, *those: vjp_of_custom(function)(g, *those, **call.params), "jax")
            theirs = backward(call.grad_y, *(x for x in call.primals if x is not None))[primal]
    except Exception:  # not installed, or not for these arguments
        return None
    return None if theirs is None else (str(jax.__version__), theirs)


def as_jax_does(call: Call, primal: int) -> str:
    """Return the version of JAX if it is installed and makes the same choice at this point; nothing otherwise."""
    answer = asked_of_jax(call, primal)
    if answer is None:
        return ""
    version, theirs = answer
    mine, radius = call.gradients[primal], bounds(call, evaluations=2).gradients[primal]
    if mine is None or radius is None or theirs.shape != mine.shape:
        return ""
    near = (theirs.to(torch.float64) - mine.to(torch.float64)).abs() <= radius
    return version if near.all() else ""
