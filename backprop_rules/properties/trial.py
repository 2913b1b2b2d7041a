"""The loop: points on the cheapest rung first, the smallest counterexample on the strongest, then what passed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from torch import Tensor

from backprop_rules.evidence.differences import not_seen_together, second_witness
from backprop_rules.evidence.evidence import NARROW, WIDE, Evidence, Pair, in_precision, precise
from backprop_rules.evidence.jumps import is_beyond_its_dtypes, is_of_one_number
from backprop_rules.properties import calls, effort, form
from backprop_rules.properties.agreement import SETTLED, ComputesNarrower, Judged, agrees
from backprop_rules.properties.finding import Finding, Grade, Kind, Rung
from backprop_rules.properties.native import shows_in_its_dtypes
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.properties.rest import rest
from backprop_rules.properties.smallest import confirmed, is_nearer_than_torchs, not_its_derivative
from backprop_rules.strategies.of_rules import rounded
from backprop_rules.strategies.point import EVERY_BIT, FULL, JUMP, NOTHING_KEPT, TORN_APART, Point
from backprop_rules.subject.ambient import all_finite, inexact
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.properties.of_rules import OfTheRule

HIDDEN = "forward hides a dependence from autograd, as by .item(), .data, detach() or no_grad, that differences see"
# Of these torch has another choice, or none.
OF_A_KINK = (Kind.CHOICE, Kind.SUBGRADIENT)
# After these other points are asked still, to name the mistake.
GOES_ON = (Kind.VALUE, Kind.SHAPE, Kind.DTYPE, Kind.SUBGRADIENT)


class Trial:
    """One backward, asked at points until something is wrong, or all of them are spent."""

    def __init__(self, subject: Subject, points: Iterable[Point], questions: Questions) -> None:
        self.subject, self.points, self.questions = subject, points, questions
        self.outcome, self._proofs = Outcome(), effort.PROOFS
        self._once_asked = self._calls_asked = False
        self._begun: list[Point] = []
        self._itself = 0  # points at which a function was held to its own differences
        self._full: Evidence | None = None  # of a large example at its own size
        self.answered: calls.Answered | None = None  # the first point that was asked of calls
        self.chosen: dict[int, Point] = {}  # where another choice than torch's is allowed: nor are digits torch's
        self.of_the_rule: OfTheRule | None = None
        if questions.of_rules:
            from backprop_rules.properties import of_rules

            self.of_the_rule = of_rules.OfTheRule(subject, questions)

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
            rest(self)
        except ComputesNarrower as error:
            (point,) = error.args
            self.points = chain(self._begun, self.points)  # an iterator, which comes back to none of these
            self.outcome, self._once_asked, self._calls_asked, self.answered = Outcome(), False, False, None
            self._loop(NARROW)
            if self.subject.in_float64 and not self.outcome.is_wrong:
                self.outcome.findings.append(Finding(Kind.NARROWER, point))
            else:
                rest(self)

    def _loop(self, pair: Pair) -> None:
        outcome, left, start = self.outcome, self.questions.after, self.subject.work
        outcome.pair = pair
        for point in self.points:
            self._begun += [point] if pair is WIDE else []
            spent = self.subject.work - start > self.questions.work and outcome.points >= effort.LEAST
            if left < 0 or (spent and self.subject.small is None):
                break
            if spent and point.where != FULL:
                continue  # what is large is asked at its own size in any case
            if self.at(point) and outcome.is_wrong and not all(f.point.empty for f in outcome.of_the_worst()):
                left = left - 1 if all(f.kind in GOES_ON or f.native for f in outcome.of_the_worst()) else -1
        if self.answered is not None and not outcome.is_wrong and not self.questions.of_rules:
            for point in calls.one_changed(self.answered.evidence.point, self.subject.constants.kept):
                if self.answered is not None and not outcome.is_wrong:
                    self.at(point)

    def at(self, point: Point) -> bool:
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
        try:
            found = list(self.ask(evidence, judged))
        except ComputesNarrower:
            found = self._not_of_the_values(evidence)
            if not found:
                raise
        if point.where == NOTHING_KEPT:  # NaN there spoils what it is added to; what else is another may be nobody's
            found = [f if f.is_not_finite or f.kind.grade is Grade.NOTE else f.where_nothing_is_kept() for f in found]
        if rule is not None and all(f.kind.grade is Grade.NOTE for f in found):
            found += list(rule.ask(point, outcome))
        if point.kind == JUMP:
            found = [f for f in found if f.kind not in OF_A_KINK or self._is_of_one_number(evidence, f)]
            found = [f for f in found if f.kind is not Kind.VALUE or not is_beyond_its_dtypes(evidence, f.leaf)]
        if any(f.kind is Kind.VALUE for f in found):
            found = self._not_of_the_values(evidence) or found
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
        found = found or list(self._formed(evidence)) or list(calls.writes_every_element(evidence))
        yield from found
        if any(f.kind.grade is Grade.WRONG or f.leaf is None for f in found):
            return
        if not self._calls_asked and not full and any(isinstance(g, Tensor) and bool(g.any()) for g in evidence.user):
            self._calls_asked = True  # of what answers with nothing but zeros, a second call tells nothing
            of_calls = list(self._of_calls(evidence))
            yield from of_calls
            if of_calls:
                return  # of a backward that answers otherwise each time, its values say nothing
        yield from self._not_a_number(evidence)
        for i in self.subject.floats:
            if not isinstance(evidence.user[i], Tensor) or evidence.gradients_here[i] is None:
                judged[i] = Judged(spoke=True)
                continue
            judged[i] = Judged()
            known = any(f.kind is Kind.VALUE and f.leaf == i for f in self.outcome.findings)
            chosen = sum(f.kind is Kind.CHOICE and f.leaf == i for f in self.outcome.findings) >= effort.CHOICES
            # A rule is held to its own allowance, in its own dtypes, and not to what torch rounds; who has lost digits
            # at one point is not asked for them at the next.
            lost = any(f.kind is Kind.INACCURATE and f.leaf == i for f in self.outcome.findings)
            digits = not self.questions.of_rules and not lost
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
            apart = evidence.point.where == TORN_APART
            if found.kind is Kind.SHAPE and (apart or self._reads_no_more(evidence, found)):
                yield replace(found, kind=Kind.SIZES, leaf=None, detail=f"shape {found.got} for {found.expected}")
            else:
                yield found

    def _reads_no_more(self, evidence: Evidence, found: Finding) -> bool:
        """Say whether a gradient has the example's sizes, where forward does not read what lies beyond these."""
        i, got = found.leaf, found.got
        truth = None if i is None else evidence.gradients_here[i]
        by_index = any(isinstance(x, Tensor) and not inexact(x) for x in self.subject.example)  # which may reach others
        if i is None or truth is None or by_index or not isinstance(got, tuple):
            return False
        own = self.subject.example[i].shape
        if not len(got) == truth.ndim == len(own):
            return False
        pairs = zip(got, truth.shape, own, strict=True)
        beyond = truth.clone()
        beyond[tuple(map(slice, got))] = 0
        return all(g == n or g == m < n for g, n, m in pairs) and not bool(beyond.any())

    def _of_calls(self, evidence: Evidence) -> Iterator[Finding]:
        several = not self.subject.heavy and not self.outcome.random_forward
        found = list(calls.asked_of_calls(evidence, several, self.questions.deterministic))
        yield from found
        if self.questions.saves is not None and not found:
            yield from form.reads_only_what_it_saves(evidence, self.questions.saves)
        for one, other in calls.shared_memory(evidence):
            words = f"{one} shares memory with {other}: who adds to one in place changes the other"
            self.outcome.notes[words] = None
            if self.questions.strict_memory:
                yield Finding(Kind.SHARED, evidence.point, None, detail=words)
        if not found and self.questions.deterministic:
            self.answered = calls.Answered.now(evidence)

    def _not_of_the_values(self, evidence: Evidence) -> list[Finding]:
        """Return why a value is wrong where that lies in the calls before, and not in the numbers."""
        first, self.answered = self.answered, None  # asked once: it is no question of values, or it is one
        if first is None or first.evidence is evidence:
            return []
        passed = any(p is first.evidence.point for p in self.outcome.passed)
        return list(first.again()) or (list(first.replayed(evidence)) if passed else [])

    def _bears_out(self, evidence: Evidence) -> bool:
        """Say whether differences bear the backward out where torch's gradient is wrong: else it is wrong too."""
        said = second_witness(evidence, self.outcome.pair.half, evidence.user)
        if said.contradicts:
            finding = Finding(Kind.VALUE, evidence.point, against=("differences",), detail=said.words)
            self.outcome.findings.append(finding)
        return said.agrees

    def _not_a_number(self, evidence: Evidence) -> Iterator[Finding]:
        """Ask for a proof where the backward's gradient and torch's are NaN, and forward is finite: a few times."""
        point = evidence.point
        if self._proofs <= 0 or self.subject.rule is None or not point.ordinary or point.empty:
            return
        both = any(
            isinstance(u, Tensor) and t is not None and u.shape == t.shape and bool((u.isnan() & t.isnan()).any())
            for u, t in zip(evidence.user, evidence.gradients_here, strict=True)
        )
        if both and all_finite(*evidence.run.y):
            from backprop_rules.properties.beyond import not_a_number

            self._proofs -= 1
            yield from not_a_number(self.subject, point)

    def _radius(self, evidence: Evidence, i: int) -> Tensor | None:
        if evidence.pair is not WIDE or self.subject.heavy:
            return None
        from backprop_rules.evidence.climb import radii_in_float64

        def made() -> tuple[Tensor | None, ...] | None:
            return self.outcome.unless_ours(lambda: radii_in_float64(evidence), None)

        radii = evidence.kept(("radii",), made)
        return None if radii is None else radii[i]

    def _graded(self, evidence: Evidence, finding: Finding) -> Iterator[Finding]:
        """Yield the finding, unless any choice is allowed, or a proof at its point sides with the backward."""
        if self.questions.of_rules and finding.kind is Kind.INACCURATE:
            return  # a rule is held to its own allowance, in its own dtypes, and not to what torch rounds
        if finding.kind in (Kind.CHOICE, Kind.NAN_CHOICE) and self.questions.convention == "any subgradient":
            self.chosen[id(evidence.point)] = evidence.point
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

    def _is_of_one_number(self, evidence: Evidence, finding: Finding) -> bool:
        """Say whether a choice at a cornered jump is made by one number of a primal, in the example's dtypes as well.

        Of what is computed from several, two right conditions may come out otherwise between neighbours of float64.
        """
        i, at = finding.leaf, finding.element
        assert i is not None and at is not None
        return shows_in_its_dtypes(self.subject, evidence.point, i) and is_of_one_number(evidence, i, at)

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
            before.spoke = before.spoke or (said.spoke and point.says)
            before.nonzero = before.nonzero or (said.nonzero and point.ordinary)
        if not judged or not all(said.spoke for said in judged.values()):
            return
        outcome.rungs[Rung.WITNESSED] += 1
        outcome.passed.append(point)
        if point.ordinary:
            outcome.classes[point.where] = outcome.classes.get(point.where, 0) + 1
        if any(said.sides_with_it for said in judged.values()) and not self._bears_out(evidence):
            return
        self._of_itself(evidence)
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

    def _of_itself(self, evidence: Evidence) -> None:
        """Hold a function's gradients to its own differences, at as many points as the second witness is asked."""
        point, most = evidence.point, 1 if self.subject.heavy else effort.SECOND
        asked = self.questions.itself and point.ordinary and not point.empty and point.where != FULL
        if not asked or self._itself >= most:
            return
        self._itself += 1
        floats = self.subject.floats
        for i in not_seen_together(evidence, floats) if self.subject.heavy else floats:
            found = not_its_derivative(evidence, i)
            self.outcome.findings += [] if found is None else [found]
            if found is not None and self.subject.heavy:
                return
