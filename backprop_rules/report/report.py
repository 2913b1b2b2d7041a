"""What came of a check, for a reader, a notebook and a machine: all of it known before it is printed."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from backprop_rules.domain import dtype_name, precision
from backprop_rules.formula import plain
from backprop_rules.properties.finding import Finding, Grade, Kind, Rung
from backprop_rules.properties.outcome import Outcome
from backprop_rules.report.code import code_of
from backprop_rules.subject.subject import Subject, shapes_of
from backprop_rules.version import __version__

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.diagnosis.mistake import Mistake

MANY_ULPS = 1e4  # more than these tell a reader nothing
SAID = {
    "right": "right",
    "wrong": "wrong",
    "inaccurate": "inaccurate: the right function, with half of its digits or more lost on the way",
    "convention": "another convention: a valid choice at a kink, but not the one asked for",
    "inconclusive": "inconclusive",
}
FARTHER = "inaccurate: nearly the right function, and farther off than rounding goes"
CONTRADICTED = (
    "not the backward is at fault here, but one of the oracles, or what the rule declares: on the grid, forward must "
    "be a polynomial of the degree and power that the domain states and must not round, and every kink must be among "
    "the conventions; off the grid, definition must be the same function. If all that holds, then the checker is "
    "wrong: please report it"
)
LIKELY = {Kind.ORACLES: CONTRADICTED}  # in the place of a mistake that is recognised
OF_SIZES = (Kind.SIZES, Kind.EMPTY, Kind.EMPTY_SHAPE)  # a note on these shows the shapes at which it was found
RUNGS = {Rung.WITNESSED: "witnessed", Rung.ALLOWED: "within the allowance", Rung.PROVED: "proved"}


@dataclass(frozen=True)
class Report:
    """The verdict on a backward: right, wrong, inaccurate, convention or inconclusive; and what led to it.

    `finding` tells of the smallest counterexample, `mistake` what the backward does instead of the right thing, where
    that was recognised; `points` were tried, with this `seed`, and `rungs` says how many stand on which rung of
    evidence: witnessed, allowed, proved.
    """

    subject: Subject
    verdict: str
    finding: Finding | None
    mistake: "Mistake | None"
    points: int
    rungs: Mapping[str, int]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[str, ...]
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()
    why: str = ""
    replay: str = ""
    right: str = ""
    also: str = ""
    twin: str = ""
    classes: Mapping[str, int] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether there is nothing to object to."""
        return self.verdict == "right"

    def __bool__(self) -> bool:
        return self.passed  # as in assert check(..., raise_on_failure=False)

    def __repr__(self) -> str:
        return f"<Report on {self.subject}: {self.verdict}, {self.points} points>"

    @property
    def counterexample(self) -> str:
        """The smallest counterexample as Python code, without the call of the backward; nothing if there is none."""
        found = self.finding
        return "" if found is None else "\n".join(code_of(self.subject, found)[:-1])

    def __str__(self) -> str:
        found = self.finding
        said = FARTHER if found is not None and found.kind is Kind.FARTHER else SAID[self.verdict]
        lines = [f"{self.subject}: {said}."]
        if found is None:
            lines += [f"    why       {self.why}"] if self.verdict == "inconclusive" else []
            lines += [f"    note      {note}" for note in self.notes]
        else:
            lines += [f"    {name:9} {text}" for name, text in self._what(found) if text]
            lines += ["The smallest counterexample found:"]
            lines += [f"    {line}" for line in code_of(self.subject, found)]
            lines += [f"The function: {plain(self.subject.formula)}"] if self.subject.formula else []
        return "\n".join([*lines, self._how_much()])

    def _what(self, finding: Finding) -> list[tuple[str, str]]:
        """Return what was found, a row each; one without a text is left out."""
        which = "" if finding.leaf is None else f"the gradient of {self.subject.names[finding.leaf]} "
        numbers, choice = finding.expected is not None or finding.got is not None, self.verdict == "convention"
        recognised = self.mistake.words if self.mistake else f"not {'looked for' if self.interrupted else 'recognised'}"
        accept = "convention='any subgradient' (--convention any-subgradient) allows any valid choice"
        return [
            ("what", f"{which}{finding.kind.words}{_told(finding)}{finding.where}"),
            ("expected", said(finding.expected) if numbers else ""),
            ("got", f"{said(finding.got)}{_ulps(finding, self.subject)}" if numbers else ""),
            ("against", ", ".join(finding.against)),
            ("wrong too", self.also),
            ("right", self.right),
            ("likely", LIKELY.get(finding.kind, recognised)),
            ("seen at", self.mistake.made if self.mistake and finding.kind is not Kind.ORACLES else ""),
            ("instead", self.mistake.instead if self.mistake and finding.kind is not Kind.ORACLES else ""),
            ("choice", f"JAX {self.twin} makes the same" if self.twin and choice else ""),
            ("accept", accept if choice and finding.kind is not Kind.ANTISYMMETRIC else ""),
            ("replay", self.replay),
            *(("note", note) for note in self.notes),
        ]

    def _how_much(self) -> str:
        dtypes = ", ".join(map(dtype_name, self.dtypes)) or "no dtype"
        strong = ", ".join(f"{self.rungs[rung.value]} {RUNGS[rung]}" for rung in Rung)
        where = f"{self.points} {'point' if self.points == 1 else 'points'} in {dtypes} on {', '.join(self.devices)}"
        agreed = f": {strong}" if any(self.rungs.values()) or self.passed else ""  # a wrong one may agree nowhere
        return f"{where}{agreed}; {self.seconds:.1f} s. Seed {self.seed}."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as numbers, strings, lists and dicts."""
        found: dict[str, Any] = {
            "operation": self.subject.name,
            "verdict": self.verdict,
            "points": self.points,
            "rungs": dict(self.rungs),
            "size_classes": dict(self.classes),
            "dtypes": [dtype_name(dtype) for dtype in self.dtypes],
            "devices": list(self.devices),
            "seed": self.seed,
            "seconds": self.seconds,
            "versions": {"backprop_rules": __version__, "torch": str(torch.__version__)},
            "notes": list(self.notes),
            "why": self.why,
            "replay": self.replay,
            "also": self.also,
            "mistake": None if self.mistake is None else _mistake(self.mistake),
            "finding": None,
        }
        if self.finding is not None:
            finding = self.finding
            found["finding"] = {
                "kind": finding.kind.name.lower(),
                "words": f"{finding.kind.words}{_told(finding)}",
                "primal": None if finding.leaf is None else self.subject.names[finding.leaf],
                "where": finding.where.strip(" ,"),
                "rung": finding.rung.value,
                "right": self.right,
                "expected": None if finding.expected is None else said(finding.expected),
                "got": None if finding.got is None else said(finding.got),
                "against": list(finding.against),
                "counterexample": "\n".join(code_of(self.subject, finding)),
            }
        return found

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def _repr_html_(self) -> str:
        colour = {"right": "#1a7f37", "inconclusive": "#9a6700", "convention": "#9a6700"}.get(self.verdict, "#cf222e")
        title, _, rest = str(self).partition("\n")
        return f'<p style="color:{colour}"><b>{html.escape(title)}</b></p><pre>{html.escape(rest)}</pre>'


class WrongGradient(AssertionError):
    """A backward failed a check; its text is the report."""

    __module__ = "backprop_rules"  # from where it is imported: pytest's summary shows no more of a line

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report, self.finding = report, report.finding

    def __reduce__(self) -> tuple[Any, ...]:
        return AssertionError.__new__, (type(self), str(self))  # a report holds functions, which no process sends


def _mistake(mistake: "Mistake") -> dict[str, str]:
    return {"name": mistake.name, "words": mistake.words, "made": mistake.made, "instead": mistake.instead}


def report_of(
    subject: Subject,
    outcome: Outcome,
    finding: Finding | None,
    mistake: "Mistake | None",
    devices: Sequence[str],
    seed: int,
    seconds: float,
) -> Report:
    """Return the report on what came of a trial."""
    verdict, why = _verdict(subject, outcome)
    shown = finding
    if verdict in ("right", "inconclusive") or (finding is not None and finding.kind.grade is Grade.NOTE):
        shown = None
    return Report(
        subject,
        verdict,
        shown,
        mistake if shown is not None else None,
        outcome.points,
        {rung.value: count for rung, count in outcome.rungs.items()},
        subject.dtypes,
        tuple(devices),
        seed,
        seconds,
        tuple(dict.fromkeys((*outcome.notes, *_notes(subject, outcome, shown)))),
        why,
        right=_right(subject, outcome, shown),
        also=_also(subject, outcome, shown),
        twin=_twin(subject, shown),
        classes=dict(outcome.classes),
        interrupted=outcome.interrupted,
    )


def _twin(subject: Subject, shown: Finding | None) -> str:
    """Return the version of JAX, if it makes the choice at a kink that was found."""
    if shown is None or shown.leaf is None or shown.kind is not Kind.CHOICE or subject.right is None:
        return ""
    from backprop_rules.diagnosis.naming import as_jax_does, point_of

    point = point_of(subject, shown.point, shown.dtype)
    return as_jax_does(point, shown.leaf) if point is not None else ""


def _verdict(subject: Subject, outcome: Outcome) -> tuple[str, str]:
    """Return the verdict, and why nothing can be said where it is inconclusive."""
    worst = outcome.worst
    if worst in (Grade.WRONG, Grade.INACCURATE, Grade.CONVENTION):
        if outcome.random_forward and outcome.of_the_worst()[0].kind in (Kind.VALUE, Kind.RANDOM):
            return "inconclusive", (
                "forward draws random numbers, others in each dtype, and a backward may draw others than it: draw them "
                "outside, and give them as an argument"
            )
        assert worst is not None
        return worst.value, ""
    if outcome.interrupted:
        return "inconclusive", "it was interrupted before all was asked"
    if not outcome.points:
        return "inconclusive", outcome.why or "at no point does forward have a value"
    spoke = [i for i, judged in outcome.spoke.items() if judged.spoke]
    silent = [subject.names[i] for i in subject.floats if i not in spoke]
    if silent and outcome.empty:
        empty = "the primals or the outputs have no elements: give an example in which they have some"
        return "inconclusive", outcome.why or empty
    if silent:
        return "inconclusive", (
            f"at no point of ordinary values can anything be said of the gradient of {', '.join(silent)}: forward has "
            "no finite derivative where it was tried. Give an example inside its domain."
        )
    borne_out = outcome.second or outcome.exact  # where nothing rounds, every oracle spoke
    if outcome.contradicted and not borne_out and (outcome.custom or not outcome.rungs[Rung.PROVED]):
        whose = (
            "the gradient that somebody's autograd.Function gives in" if outcome.custom else "torch's own gradient of"
        )
        return "inconclusive", (
            f"{whose} forward is contradicted: {outcome.contradicted[0]}. If it is meant, as straight "
            f"through a rounding, say so in forward: x + (rounded - x).detach()"
        )
    nonzero = any(judged.nonzero for judged in outcome.spoke.values())
    if nonzero and not borne_out and not outcome.rungs[Rung.PROVED]:
        return "inconclusive", "only torch's reverse mode speaks: neither its forward mode nor differences bear it out"
    return "right", ""


def _notes(subject: Subject, outcome: Outcome, shown: Finding | None) -> list[str]:
    distinct: dict[object, str] = {}
    for finding in outcome.findings:
        if finding.kind.grade is Grade.NOTE:
            which = "the backward" if finding.leaf is None else f"the gradient of {subject.names[finding.leaf]}"
            note = f"{which} {_note_words(subject, finding)}"
            of_sizes = finding.kind in (*OF_SIZES, Kind.DOMAIN)  # one of many sizes tells enough
            distinct.setdefault((finding.kind, finding.leaf) if of_sizes else note.partition(":")[0], note)
    notes = list(distinct.values())
    if shown is None:
        if outcome.lower and not outcome.rungs[Rung.PROVED]:
            notes.append(f"witnessed only, no proof: {next(iter(outcome.lower))}")
        if outcome.contradicted:
            notes.append(f"torch's own gradient of forward is contradicted at a point: {outcome.contradicted[0]}")
        if outcome.custom:
            notes.append("forward's own derivative is somebody's autograd.Function, which is no witness")
    elif shown.kind is Kind.NONE and shown.leaf is not None and subject.right is None:
        name = subject.names[shown.leaf]
        notes.append(f"if {name} is meant to have no gradient, as a mask of 0 and 1, write {name}.detach() in forward")
    if shown is not None and subject.backward.bridge.conjugates and any(x.is_complex() for x in subject.example):
        notes.append("complex cotangents and gradients are written as torch has them: JAX's are their conjugates")
    return notes


def _note_words(subject: Subject, finding: Finding) -> str:
    if finding.kind is Kind.DIGITS and finding.bits is not None:
        return "has fewer digits in float64 than torch's: within the rounding of every dtype that is asked for"
    if finding.kind is Kind.DIGITS and finding.dtype is not None:
        return f"has fewer digits in {dtype_name(finding.dtype)} than torch's"
    if finding.kind in OF_SIZES:
        shapes = shapes_of(subject.names, finding.point.leaves)
        return f"{finding.kind.words} ({finding.detail.strip()}): {shapes}"
    return f"{finding.kind.words}{', ' + finding.detail.strip() if finding.detail else ''}"


def _right(subject: Subject, outcome: Outcome, shown: Finding | None) -> str:
    """Say what is right: the form of the gradients, and which of them are right altogether."""
    if shown is None or shown.leaf is None or shown.kind is not Kind.VALUE:
        return ""
    wrong = {f.leaf for f in outcome.findings if f.kind.grade is not Grade.NOTE}
    others = [subject.names[i] for i in subject.floats if i not in wrong and i in outcome.spoke]
    return f"shape, dtype and device{'; the gradient of ' + ', '.join(others) if others else ''}"


def _also(subject: Subject, outcome: Outcome, shown: Finding | None) -> str:
    """Say which other gradients have wrong values."""
    if shown is None or shown.leaf is None:
        return ""
    wrong = {f.leaf for f in outcome.findings if f.kind is Kind.VALUE and f.leaf is not None} - {shown.leaf}
    names = ", ".join(subject.names[i] for i in sorted(wrong))
    return f"the gradient{'s' * (len(wrong) > 1)} of {names}" if names else ""


# Of these the words end with what is particular.
DETAILED = {Kind.RAISES, Kind.COUNT, Kind.WRITES, Kind.DIRTY, Kind.OUTSIDE, Kind.VARIES, Kind.ENGINE, Kind.UNDEFINED}
DETAILED |= {Kind.NO_TENSOR, Kind.ALONE, Kind.FORWARDS, Kind.FUNCTION}


def _told(finding: Finding) -> str:
    if finding.kind in DETAILED or finding.native:
        return finding.detail
    if finding.kind is Kind.VALUE and finding.leaf is None:
        return f": {finding.detail}"
    return ""


def said(value: Any) -> str:
    """Return a number, or an interval, as it is read."""
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, float | complex) for v in value):
        one, other = value
        if isinstance(one, complex) or isinstance(other, complex):
            return f"from {one} to {other}"
        if math.isfinite(other - one) and other > one:
            if one <= 0 <= other and max(-one, other) < torch.finfo(torch.float64).smallest_normal:
                return "0.0"
            places = 2 - math.floor(math.log10(other - one))
            if places <= 300:
                one, other = round(one, places) + 0.0, round(other, places) + 0.0
        return f"from {one} to {other}" if one != other else str(one)
    return str(value)


def _ulps(finding: Finding, subject: Subject) -> str:
    """Return how far the gradient is from the nearest right number, in units in the last place of its dtype."""
    got, expected = finding.got, finding.expected
    ends = expected if isinstance(expected, tuple) else (expected,)
    if not isinstance(got, float) or not all(isinstance(e, float) and math.isfinite(e) for e in (*ends, got)):
        return ""
    own = finding.point.dtypes[finding.leaf] if finding.native and finding.leaf is not None else finding.dtype
    dtype = own or max(subject.dtypes, key=precision)
    info = torch.finfo(dtype)
    nearest = min(ends, key=lambda end: abs(got - end))
    unit = max(2.0 ** (math.frexp(nearest)[1] - precision(dtype)), info.smallest_normal * info.eps)
    away = abs(got - nearest) / unit
    # Where half of the digits are wrong, a number of last places says nothing.
    return f", {away:.3g} ulps away" if 0 < away < min(2.0 ** (precision(dtype) / 2), MANY_ULPS) else ""
