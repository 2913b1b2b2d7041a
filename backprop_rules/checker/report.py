"""What came of a check, for a reader, a notebook and a machine."""

import html
import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from backprop_rules import __version__
from backprop_rules.checker.diagnosis import Mistake
from backprop_rules.checker.subject import Subject
from backprop_rules.checker.twins import as_jax_does
from backprop_rules.domain import dtype_name
from backprop_rules.formula import plain
from backprop_rules.grid import precision
from backprop_rules.objection import OraclesDisagree, WrongGradient
from backprop_rules.point import Point, code
from backprop_rules.verdict import Verdict, judge

PASSED = ("right",)
MANY_ULPS = 1e4  # more than these tell a reader nothing
SAID = {
    "right": "right",
    "wrong": "wrong",
    "inaccurate": "inaccurate: the right function, with most of its digits lost on the way",
    "convention": "another convention: a valid choice at a kink, but not the one asked for",
    "inconclusive": "inconclusive",
}


@dataclass(frozen=True)
class Report:
    """The verdict on a backward: right, wrong, inaccurate, convention or inconclusive; and what led to it.

    `objection` tells of the smallest counterexample, `mistake` what the backward does instead of the
    right thing, where that was recognised; `points` were tried, with this `seed`, and `proved` is the
    part of their elements of which the enclosures say something.
    """

    subject: Subject
    verdict: str
    objection: WrongGradient | None
    mistake: Mistake | None
    points: int
    proved: float
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[str, ...]
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()
    why: str = ""
    replay: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is nothing to object to."""
        return self.verdict in PASSED

    def __repr__(self) -> str:
        return f"<Report on {self.subject}: {self.verdict}, {self.points} points>"

    def error(self) -> "CheckFailed":
        """Return the exception whose text is this report."""
        return CheckFailed(self)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {SAID[self.verdict]}."]
        if self.objection is not None:
            lines += self._what(self.objection)
            lines += ["The smallest counterexample found:"]
            lines += [f"    {line}" for line in str(self.objection.point).splitlines()]
            lines += [f"    {line}" for line in _call(self.objection.point)]
        else:
            if self.verdict == "inconclusive":
                lines += [f"    why       {self.why}"]
            lines += [f"    note      {note}" for note in self.notes]
        if self.objection is not None and self.subject.formula:
            lines += [f"The function: {plain(self.subject.formula)}"]
        return "\n".join([*lines, self._how_much()])

    def _what(self, objection: WrongGradient) -> list[str]:
        names = self.subject.primals
        which = "" if objection.primal is None else f"the gradient of {names[objection.primal]} "
        rows = [("what", f"{which}{objection.kind}{objection.where}")]
        if objection.expected is not None or objection.got is not None:
            away = _ulps(objection)
            rows += [("expected", str(objection.expected)), ("got", f"{objection.got}{away}")]
        if objection.oracles:
            rows += [("against", ", ".join([*objection.oracles, *_witness(objection)]))]
        right = _right(objection)
        rows += [("right", right)] if right else []
        if isinstance(objection, OraclesDisagree):
            rows += [("why", "two oracles contradict each other, so nothing is said of the backward: please report it")]
        elif self.verdict != "inconclusive":
            rows += [("likely", self.mistake.words if self.mistake else "not recognised")]
        if self.verdict == "convention":
            twin = as_jax_does(objection)
            rows += [("choice", f"JAX {twin} makes the same")] if twin else []
            rows += [("accept", "convention='any subgradient' (--convention any-subgradient) allows any valid choice")]
        rows += [("replay", self.replay)] if self.replay else []
        rows += [("note", note) for note in self.notes]
        return [f"    {name:9} {text}" for name, text in rows]

    def _how_much(self) -> str:
        dtypes = ", ".join(map(dtype_name, self.dtypes)) or "no dtype"
        return (
            f"{self.points} {'point' if self.points == 1 else 'points'} in {dtypes} on {', '.join(self.devices)}, "
            f"{self.proved:.0%} of the elements proved, {self.seconds:.1f} s. Seed {self.seed}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as numbers, strings, lists and dicts."""
        found: dict[str, Any] = {
            "operation": self.subject.name,
            "verdict": self.verdict,
            "points": self.points,
            "proved": self.proved,
            "dtypes": [dtype_name(dtype) for dtype in self.dtypes],
            "devices": list(self.devices),
            "seed": self.seed,
            "seconds": self.seconds,
            "versions": {"backprop_rules": __version__, "torch": str(torch.__version__)},
            "notes": list(self.notes),
            "replay": self.replay,
            "mistake": None if self.mistake is None else {"name": self.mistake.name, "words": self.mistake.words},
            "objection": None,
        }
        if self.objection is not None:
            objection = self.objection
            found["objection"] = {
                "kind": objection.kind,
                "primal": None if objection.primal is None else self.subject.primals[objection.primal],
                "where": objection.where.strip(" ,"),
                "right": _right(objection),
                "witness": _witness(objection),
                "expected": None if objection.expected is None else str(objection.expected),
                "got": None if objection.got is None else str(objection.got),
                "oracles": list(objection.oracles),
                "counterexample": str(objection.point),
            }
        return found

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def _repr_html_(self) -> str:
        colour = {"right": "#1a7f37", "inconclusive": "#9a6700", "convention": "#9a6700"}.get(self.verdict, "#cf222e")
        title, _, rest = str(self).partition("\n")
        return f'<p style="color:{colour}"><b>{html.escape(title)}</b></p><pre>{html.escape(rest)}</pre>'


class CheckFailed(WrongGradient):
    """A backward failed a check; its text is the report."""

    def __init__(self, report: Report) -> None:
        AssertionError.__init__(self, str(report))
        self.report = report
        for name in ("point", "kind", "primal", "where", "expected", "got", "oracles"):
            setattr(self, name, getattr(report.objection, name, None))

    def __str__(self) -> str:
        return str(self.report)


# How an array of each framework is made of a tensor.
MADE = {"torch": "{}", "numpy": "{}.numpy()", "jax": "jnp.from_dlpack({})"}


def _call(point: Point) -> list[str]:
    """Return the call as code: with what the backward takes, as its framework's arrays."""
    subject, given = point.rule, dict(zip(point.rule.primals, point.primals, strict=True))
    assert isinstance(subject, Subject)
    names = subject.takes or ("grad_y", *subject.primals)
    arguments = [
        MADE[subject.framework].format(name) if given.get(name, 0) is not None else name
        for name in names
    ]  # fmt: skip
    lines = [f"y = {code(point.y)}"] if "y" in names and "y" not in given else []
    lines += ["import jax.numpy as jnp"] if subject.framework == "jax" else []
    return [*lines, f"backward({', '.join([*arguments, *(f'{name}={name}' for name in subject.takes_params)])})"]


def _ulps(objection: WrongGradient) -> str:
    """Return how far the gradient is from the nearest right number, in units in the last place of its dtype."""
    got, primal = objection.got, objection.primal
    if primal is None or not isinstance(got, float) or not isinstance(objection.expected, float | str):
        return ""
    ends = (
        [float(word) for word in str(objection.expected).replace("from ", "").split(" to ")]
        if _numeric(objection.expected)
        else []
    )
    x = objection.point.primals[primal]
    if not ends or x is None or not all(map(math.isfinite, (got, *ends))):
        return ""
    nearest = min(ends, key=lambda end: abs(got - end))
    info = torch.finfo(x.dtype)
    unit = max(2.0 ** (math.frexp(nearest)[1] - precision(x.dtype)), info.smallest_normal * info.eps)
    away = abs(got - nearest) / unit
    # Where no digit is right, a number of last places says nothing.
    return f", {away:.3g} ulps away" if 0 < away < min(2.0 ** precision(x.dtype), MANY_ULPS) else ""


def _numeric(text: object) -> bool:
    try:
        [float(word) for word in str(text).replace("from ", "").split(" to ")]
    except ValueError:
        return False
    return True


def _verdicts(objection: WrongGradient) -> list[Verdict]:
    if objection.primal is None or not objection.oracles:
        return []
    try:
        return [v for v in judge(objection.point) if v.primal == objection.primal]
    except Exception:  # a backward that answers otherwise when asked again
        return []


def _witness(objection: WrongGradient) -> list[str]:
    for verdict in _verdicts(objection):
        if verdict.witness and verdict.agrees:
            return ["torch's own gradient agrees"]
        if verdict.witness and verdict.disagrees:
            return ["torch's own gradient lies outside too"]
    return []


def _right(objection: WrongGradient) -> str:
    """Say what is right: the form of the gradients, and which of them are right altogether."""
    if not objection.oracles or objection.primal is None:
        return ""
    point, names = objection.point, objection.point.rule.primals
    try:
        wrong = {v.primal for v in judge(point) if v.disagrees and not v.witness}
    except Exception:  # as above
        return ""
    others = [names[i] for i in point.given if i not in wrong and i != objection.primal]
    there = f"; the gradient of {', '.join(others)}" if others else ""
    return f"shape, dtype and device{there}"
