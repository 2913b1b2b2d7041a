"""The loop: points on the cheapest rung first, the smallest counterexample on the strongest, then what passed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backprop_rules.errors import of_ours
from backprop_rules.evidence.differences import second_witness
from backprop_rules.evidence.evidence import NARROW, WIDE, Evidence, Pair
from backprop_rules.evidence.jumps import jumps
from backprop_rules.evidence.precisions import in_precision, precise
from backprop_rules.properties import effort, form, special
from backprop_rules.properties.agreement import SETTLED, ComputesNarrower, Judged, agrees
from backprop_rules.properties.finding import Finding, Grade, Kind, Rung
from backprop_rules.properties.ladder import climb_with_what_passed
from backprop_rules.properties.native import holds_in, own_dtypes
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.properties.smallest import confirmed, is_nearer_than_torchs
from backprop_rules.strategies.of_rules import rounded
from backprop_rules.strategies.point import EVERY_BIT, FULL, JUMP, TORN_APART, Point
from backprop_rules.subject.ambient import all_finite
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.properties.rule_trial import OfTheRule

HIDDEN = "forward hides a dependence from autograd, as by .item(), .data, detach() or no_grad, that differences see"
# After these other points are asked still, to name the mistake.
GOES_ON = (Kind.VALUE, Kind.SHAPE, Kind.DTYPE, Kind.SUBGRADIENT)


class Trial:
    """One backward, asked at points until something is wrong, or all of them are spent."""

    def __init__(self, subject: Subject, points: Iterable[Point], questions: Questions) -> None:
        self.subject, self.points, self.questions = subject, points, questions
        self.outcome, self._proofs = Outcome(), effort.PROOFS
        self._once_asked = self._calls_asked = False
        self._full: Evidence | None = None  # of a large example at its own size
        self._chosen: dict[int, Point] = {}  # where another choice than torch's is allowed: nor are digits torch's
        self.of_the_rule = _of_the_rule(subject, questions) if questions.of_rules else None

    def run(self, pair: Pair = WIDE) -> Outcome:
        """Return what came of all points; an interrupt ends the loop with what was found so far."""
        try:
            self._asked(pair)
        except KeyboardInterrupt:
            self.outcome.notes["interrupted: this is what was found so far"] = None
            self.outcome.interrupted = True
        return self.outcome

    def _asked(self, pair: Pair) -> None:
        try:
            self._loop(pair)
            self._rest()
        except ComputesNarrower as error:
            (point,) = error.args
            self.outcome, self._once_asked, self._calls_asked = Outcome(), False, False
            self._loop(NARROW)
            if self.subject.in_float64 and not self.outcome.is_wrong:
                self.outcome.findings.append(Finding(Kind.NARROWER, point))
            else:
                self._rest()

    def _rest(self) -> None:
        """Ask what is asked at a few points alone: thresholds of the backward's own, dtypes, NaN, the higher rungs."""
        outcome = self.outcome
        if outcome.is_wrong:
            return
        plain = [p for p in outcome.passed if p.own and p.ordinary and not p.empty and id(p) not in self._chosen]
        full, plain = [p for p in plain if p.where == FULL], [p for p in plain if p.where != FULL]
        if len(plain) > 1 and plain[0].size <= effort.JUMPS and not self.subject.heavy:
            for point in jumps(Evidence(self.subject, plain[0], outcome.pair), plain[1]):
                self._at(point)
        for point, dtypes, device in self._natives(full, plain):
            # Digits are counted from torch's gradient: not where that is the wrong one.
            off = {f.leaf for f in outcome.findings if f.kind is Kind.TORCH}
            found = holds_in(self.subject, point, dtypes, device)
            outcome.findings += [f for f in found if f.kind is not Kind.INACCURATE or f.leaf not in off]
        if not outcome.objects and (full or plain) and not self.subject.heavy and not self.questions.of_rules:
            self._to_the_bit([*full, *plain][0])
        if not outcome.objects and plain and not self.subject.heavy:
            self._specials(Evidence(self.subject, _without_zeros(plain[0]), outcome.pair))
        for point in plain[:3]:
            if not outcome.is_wrong and self.questions.extra:
                from backprop_rules.properties.functions import of_the_function

                outcome.findings += list(of_the_function(self.subject, point, self.questions.extra))
        if self.questions.of_rules and not outcome.is_wrong and self.subject.rule is not None:
            from backprop_rules.properties import special_values

            outcome.findings += list(special_values.wrong(self.subject.rule))
        if not outcome.is_wrong and not outcome.rungs[Rung.PROVED]:  # as it is of a rule, at some of its points
            climb_with_what_passed(self.subject, outcome, self.questions)

    def _natives(
        self, full: Sequence[Point], plain: Sequence[Point]
    ) -> Iterator[tuple[Point, list[torch.dtype | None], str]]:
        """Yield the points, the dtypes and the devices to ask the form and the digits of."""
        outcome = self.outcome
        if self.questions.of_rules:  # whose points are asked in their own dtypes, one by one
            for point in plain[: effort.DRAWN]:
                for device in self.questions.devices:
                    if device != "cpu":
                        yield point, list(point.dtypes), device
            return
        if full and self.subject.dtypes != (outcome.pair.low,):  # of float32 it was asked beside float64
            yield full[0], own_dtypes(self.subject, full[0]), "cpu"
        for point in plain[: 1 if self.subject.heavy else 2]:
            yield point, own_dtypes(self.subject, point), "cpu"
            for dtype in self.subject.dtypes:
                yield (
                    point,
                    in_precision(point, dtype) if not dtype.is_complex else own_dtypes(self.subject, point),
                    "cpu",
                )
        for point in [p for p in outcome.passed if p.dtypes][: effort.DRAWN]:
            yield point, list(point.dtypes), "cpu"
        for point in (*full[:1], *plain[:1]):
            for device in self.questions.devices:
                if device != "cpu":
                    yield point, own_dtypes(self.subject, point), device

    def _to_the_bit(self, point: Point) -> None:
        """Ask for every bit of whole numbers at which nothing rounds."""
        from backprop_rules.properties.exact import is_right_to_the_bit, where_nothing_rounds

        try:
            there = where_nothing_rounds(self.subject, point)
        except Exception as error:  # of our own analysis: then nothing is asked there
            self.outcome.notes[of_ours(error)] = None
            return
        if there is None:
            return
        evidence = Evidence(self.subject, there, self.outcome.pair)
        found = list(self.ask(evidence, {}))
        self.outcome.findings += found
        if all(f.kind.grade is Grade.NOTE for f in found):
            self.outcome.findings += list(is_right_to_the_bit(evidence))
            self.outcome.classes["where nothing rounds"] = 1

    def _specials(self, evidence: Evidence) -> None:
        if self.questions.convention == "torch":
            self.outcome.findings += list(special.answers_nan(evidence))
        self.outcome.findings += list(special.answers_infinity_of_the_cotangent(evidence))

    def _loop(self, pair: Pair) -> None:
        outcome, left, start = self.outcome, self.questions.after, self.subject.work
        outcome.pair = pair
        for point in self.points:
            spent = self.subject.work - start > self.questions.work and outcome.points >= effort.LEAST
            if left < 0 or (spent and self.subject.small is None):
                break
            if spent and point.where != FULL:
                continue  # what is large is asked at its own size in any case
            if self._at(point) and outcome.is_wrong and not all(f.point.empty for f in outcome.of_the_worst()):
                left = left - 1 if all(f.kind in GOES_ON or f.native for f in outcome.of_the_worst()) else -1

    def _at(self, point: Point) -> bool:
        """Ask everything at a point; say whether it is one."""
        rule = self.of_the_rule if point.kind != JUMP else None  # a hunted threshold is no point of the grid
        if rule is None or not (point.spacing or point.kind == EVERY_BIT):
            return self._asked_at(point, rule)
        outcome, exact = self.outcome, self.outcome.exact
        found = list(rule.ask(point, outcome))
        outcome.findings += found
        # Two precisions are compared at values that both hold; where the oracles spoke, they tell nothing more.
        spoke = bool(found) or outcome.exact > exact
        narrow = None if spoke else point if point.spacing else rounded(point)
        if narrow is None or not self._asked_at(narrow, None):
            outcome.points += 1
        if outcome.exact > exact:
            outcome.count_exact(point, self.subject.floats)
        return True

    def _asked_at(self, point: Point, rule: "OfTheRule | None") -> bool:
        outcome, kinks = self.outcome, self.of_the_rule
        if self._full is not None and point.relaid is self._full.point:
            evidence = self._full.relaid(point)
        else:
            evidence = Evidence(self.subject, point if kinks is None else kinks.off_its_kinks(point), outcome.pair)
        self._full = evidence if point.where == FULL and point.relaid is None else self._full
        try:
            _ = evidence.run
        except NoPoint as error:
            outcome.why = outcome.why or str(error)
            return False
        judged: dict[int, Judged] = {}
        found = list(self.ask(evidence, judged))
        if rule is not None and all(f.kind.grade is Grade.NOTE for f in found):
            found += list(rule.ask(point, outcome))
        outcome.points += 1
        outcome.empty = outcome.empty and point.empty
        outcome.custom = outcome.custom or evidence.run.custom
        self._count(evidence, judged, found)
        outcome.findings += found
        return True

    def ask(self, evidence: Evidence, judged: dict[int, Judged]) -> Iterator[Finding]:
        """Yield what is found at a point: first what makes the later questions meaningless."""
        full = evidence.point.where == FULL
        if not self._once_asked and not evidence.point.empty and not full:
            self._once_asked = True
            self._once(evidence)
        found = list(form.writes_to_nothing(evidence)) or list(form.is_answered(evidence))
        found = found or list(self._formed(evidence))
        yield from found
        if any(f.kind.grade is Grade.WRONG or f.leaf is None for f in found):
            return
        if not self._calls_asked and not full and any(isinstance(g, Tensor) and bool(g.any()) for g in evidence.user):
            self._calls_asked = True  # of what answers with nothing but zeros, a second call tells nothing
            calls = list(self._of_calls(evidence))
            yield from calls
            if calls:
                return  # of a backward that answers otherwise each time, its values say nothing
        yield from self._not_a_number(evidence)
        for i in self.subject.floats:
            if not isinstance(evidence.user[i], Tensor) or evidence.gradients_here[i] is None:
                judged[i] = Judged(spoke=True)
                continue
            judged[i] = Judged()
            known = any(f.kind is Kind.VALUE and f.leaf == i for f in self.outcome.findings)
            chosen = sum(f.kind is Kind.CHOICE and f.leaf == i for f in self.outcome.findings) >= effort.CHOICES
            # A rule is held to its own allowance, in its own dtypes, and not to what torch rounds.
            digits = not self.questions.of_rules
            for finding in agrees(evidence, i, self._radius, judged[i], known, chosen, digits):
                judged[i].sides_with_it = judged[i].sides_with_it or finding.kind is Kind.TORCH
                yield from self._graded(evidence, finding)

    def _once(self, evidence: Evidence) -> None:
        """Note once that forward is no function of its arguments."""
        function, point = evidence.function, evidence.point
        if not self.subject.heavy:
            self.outcome.random_forward = form.differs(function, point, seed=1)
        if not self.subject.heavy and form.differs(function, point, seed=None):
            self.outcome.notes["forward gives something else when it is called again: it keeps a state"] = None
        elif self.outcome.random_forward:
            self.outcome.notes["forward draws random numbers: each run starts from the same seed"] = None

    def _formed(self, evidence: Evidence) -> Iterator[Finding]:
        dtypes = in_precision(evidence.point, evidence.pair.high)
        narrower = not self.questions.of_rules and evidence.pair is WIDE and not self.subject.in_float64
        if narrower and form.is_only_narrower(evidence, dtypes):
            raise ComputesNarrower(evidence.point)  # a kernel of float32: its own dtypes are asked for later
        for found in form.has_the_form_of_its_primal(evidence.point, evidence.user, evidence.gradients_here, dtypes):
            if found.kind is Kind.SHAPE and evidence.point.where == TORN_APART:
                yield replace(found, kind=Kind.SIZES, leaf=None, detail=f"shape {found.got} for {found.expected}")
            else:
                yield found

    def _of_calls(self, evidence: Evidence) -> Iterator[Finding]:
        found = list(form.keeps_nothing_between_calls(evidence))
        if not found and not self.subject.heavy and not self.outcome.random_forward:
            found = list(form.draws_nothing(evidence))
        yield from found
        if self.questions.saves is not None and not found:
            yield from form.reads_only_what_it_saves(evidence, self.questions.saves)
        for one, other in form.shared_memory(evidence):
            words = f"{one} shares memory with {other}: who adds to one in place changes the other"
            self.outcome.notes[words] = None
            if self.questions.strict_memory:
                yield Finding(Kind.SHARED, evidence.point, None, detail=words)

    def _bears_out(self, evidence: Evidence) -> bool:
        """Say whether differences bear the backward out where torch's gradient is wrong: else it is wrong too."""
        said = second_witness(evidence, self.outcome.pair.half, evidence.user)
        if said.contradicts:
            finding = Finding(Kind.VALUE, evidence.point, against=("differences",), detail=said.words)
            self.outcome.findings.append(finding)
        return said.agrees

    def _not_a_number(self, evidence: Evidence) -> Iterator[Finding]:
        """Ask for a proof where the backward's gradient and torch's are NaN, and forward is finite: a few times."""
        both = any(
            isinstance(u, Tensor) and t is not None and u.shape == t.shape and bool((u.isnan() & t.isnan()).any())
            for u, t in zip(evidence.user, evidence.gradients_here, strict=True)
        )
        if not both or self._proofs <= 0 or self.subject.rule is None or not evidence.point.ordinary:
            return
        if all_finite(*evidence.run.y):
            from backprop_rules.properties.beyond import not_a_number

            self._proofs -= 1
            yield from not_a_number(self.subject, evidence.point)

    def _radius(self, evidence: Evidence, i: int) -> Tensor | None:
        if evidence.pair is not WIDE or self.subject.heavy:
            return None
        from backprop_rules.evidence.climb import radii_in_float64

        def made() -> tuple[Tensor | None, ...] | None:
            try:
                return radii_in_float64(self.subject, evidence.point)
            except Exception as error:  # of our own analysis: then nothing is excused
                self.outcome.notes[of_ours(error)] = None
                return None

        radii = evidence.kept(("radii",), made)
        return None if radii is None else radii[i]

    def _graded(self, evidence: Evidence, finding: Finding) -> Iterator[Finding]:
        """Yield the finding, unless any choice is allowed, or a proof at its point sides with the backward."""
        if self.questions.of_rules and finding.kind is Kind.INACCURATE:
            return  # a rule is held to its own allowance, in its own dtypes, and not to what torch rounds
        if finding.kind in (Kind.CHOICE, Kind.NAN_CHOICE) and self.questions.convention == "any subgradient":
            self._chosen[id(evidence.point)] = evidence.point
            return
        alike = [f for f in self.outcome.findings if f.kind is Kind.TORCH and f.leaf == finding.leaf]
        off = any(f.point.ordinary for f in alike)  # elsewhere it may be off for once
        if off and finding.kind in (Kind.VALUE, Kind.SUBGRADIENT, Kind.CHOICE) and finding.detail != SETTLED:
            yield replace(finding, kind=Kind.TORCH, detail="as at another point")
            return
        if finding.kind is Kind.CHOICE and self._proof_sides_with(evidence, finding):
            yield replace(finding, kind=Kind.TORCH, detail="proved in ball arithmetic")
            return
        # Differences settle it among ordinary values; of others their steps may not see the function.
        open_ = finding.detail != SETTLED or not evidence.point.ordinary
        if finding.kind is Kind.VALUE and open_ and evidence.pair is WIDE:
            settled = [f for f in self.outcome.findings if f.is_like(finding)]
            if not settled and confirmed(self.subject, finding) is None:
                yield replace(finding, kind=Kind.TORCH, detail="proved in ball arithmetic")
                return
        yield finding

    def _proof_sides_with(self, evidence: Evidence, finding: Finding) -> bool:
        """Say whether a proof holds the backward's gradient and not torch's: at a kink it holds both."""
        rule, point, i = self.subject.rule, evidence.point, finding.leaf
        if rule is None or i is None or self._proofs <= 0:
            return False
        from backprop_rules.evidence.climb import climb

        if not self.questions.of_rules:  # whose points are of all magnitudes: torch cancels at many
            self._proofs -= 1
        climbed = climb(rule, point, precise(self.subject, point), accused=True)
        said, theirs = climbed.of(i), evidence.gradients_here[i]
        if said is None or said.enclosure is None or theirs is None or not (climbed.proved and said.agrees):
            return False
        return said.enclosure.outside(theirs) is not None or is_nearer_than_torchs(self.subject, finding, said)

    def _count(self, evidence: Evidence, judged: dict[int, Judged], found: Sequence[Finding]) -> None:
        """Count a point for the verdict: of ordinary values, with every gradient spoken of."""
        outcome, point = self.outcome, evidence.point
        grades = {f.kind.grade for f in found} - {Grade.NOTE}
        if grades:
            outcome.inaccurate += [point] if grades == {Grade.INACCURATE} else []
            return
        for i, said in judged.items():
            before = outcome.spoke.setdefault(i, Judged())
            said.spoke = said.spoke or said.sides_with_it
            before.spoke = before.spoke or (said.spoke and point.ordinary and not point.empty)
            before.nonzero = before.nonzero or (said.nonzero and point.ordinary)
        if not judged or not all(said.spoke for said in judged.values()):
            return
        outcome.rungs[Rung.WITNESSED] += 1
        outcome.passed.append(point)
        if point.ordinary:
            outcome.classes[point.where] = outcome.classes.get(point.where, 0) + 1
        if any(said.sides_with_it for said in judged.values()) and not self._bears_out(evidence):
            return
        asked = outcome.second + len(outcome.contradicted)
        if (
            asked < (1 if self.subject.heavy else effort.SECOND)
            and point.ordinary
            and point.where != FULL
            and any(said.nonzero or said.sides_with_it for said in judged.values())
        ):
            own = evidence.user if any(said.sides_with_it for said in judged.values()) else None
            said_ = second_witness(evidence, outcome.pair.half, own)
            outcome.second += said_.agrees
            if said_.hidden:
                outcome.notes[HIDDEN] = None
            outcome.contradicted += [said_.words] if said_.contradicts else []


def _of_the_rule(subject: Subject, questions: Questions) -> "OfTheRule":
    from backprop_rules.properties import rule_trial

    return rule_trial.OfTheRule(subject, questions)


def _without_zeros(point: Point) -> Point:
    """Return the point with no zero in a cotangent, that would hide what it is multiplied with."""
    grads = tuple(None if g is None else torch.where(g == 0, torch.ones_like(g), g) for g in point.grads)
    return replace(point, grads=grads)
