"""A claim of a document: the statement, what is to be said of it in two languages, and the evidence that decides."""

import importlib
import pkgutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from backprop_rules.documents.answers.notation import holds_of, rounds_to
from backprop_rules.errors import InputError, unknown

DOCUMENTS = ("matmul_derivatives", "linear_model", "one_parameter_regression", "two_layer_network")


class Verdict(StrEnum):
    """What is to be said of a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds if"
    WRONG = "wrong"
    SLIP = "slip of the pen"
    CANNOT_BE_CHECKED = "cannot be checked"


@dataclass(frozen=True)
class Seen:
    """What the evidence of a claim came to when it was run: the one verdict that it speaks for, and whether it does.

    `shown` is what was seen, in numbers and code; words in «» are English, and the texts have them in Chinese.
    """

    verdict: Verdict
    sound: bool
    shown: str


def holds(stated: bool, shown: str) -> Seen:
    """Speak for a statement that is true as it stands."""
    return Seen(Verdict.HOLDS, stated, shown)


def holds_if(condition: bool, without: bool, shown: str) -> Seen:
    """Speak for a statement that is true under the answer's condition, and false without it."""
    return Seen(Verdict.HOLDS_IF, condition and not without, shown)


def wrong(stated: bool, instead: bool, shown: str) -> Seen:
    """Speak against a statement: it is false, and what the answer puts in its place is true."""
    return Seen(Verdict.WRONG, instead and not stated, shown)


def slip(printed: bool, meant: bool, shown: str) -> Seen:
    """Speak of a misprint: what is printed is false, and what the document means, by the lines around, is true."""
    return Seen(Verdict.SLIP, meant and not printed, shown)


def cannot_be_checked(readings: bool, shown: str) -> Seen:
    """Speak of what a missing picture shows: different readings agree with all that is written."""
    return Seen(Verdict.CANNOT_BE_CHECKED, readings, shown)


@dataclass(frozen=True)
class Said:
    """The numbers, formulas and pieces of code of a claim's texts, by name; what the evidence has looked at is known.

    `formula` is the document's own, as it prints it.
    """

    texts: Mapping[str, str]
    printed: str | None = None
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self.texts[name]

    @property
    def formula(self) -> str:
        """The formula that the document prints."""
        assert self.printed is not None
        return self.printed

    def number(self, name: str) -> Fraction:
        """Return the number that is said."""
        return Fraction(self[name].replace("−", "-"))

    def rounds(self, name: str, value: float | Fraction) -> bool:
        """Say whether the value is the number that is said, to the digits that are said of it."""
        return rounds_to(value, self[name].replace("−", "-"))

    def holds(self, name: str, names: Mapping[str, Any]) -> bool:
        """Say whether the formula that is said is true of these values."""
        return holds_of(self[name], names)


Evidence = Callable[[Said], Seen]


class EvidenceFails(AssertionError):
    """The evidence of a claim, when run, does not bear its verdict out."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a document, restated, with its verdict, the answer, and the evidence.

    `lines` are those of the document, and `digest` is theirs; `refers` has the digests of other lines that the texts
    name; `formula` is the document's own, None where it is in
    words. `claim` and `answer` hold a text for each language: the statement, and the condition, the correction or the
    reason. What they say in numbers, formulas and code stands in `says`, by the names in the texts' braces, and is
    what the evidence runs.
    """

    id: str
    document: str
    lines: str
    digest: str
    verdict: Verdict
    formula: str | None = None
    says: Mapping[str, str] = field(default_factory=dict)
    refers: Mapping[str, str] = field(default_factory=dict)
    claim: dict[str, str]
    answer: dict[str, str]
    evidence: Evidence

    def statement(self, lang: str) -> str:
        """Return the statement in a language."""
        return self.claim[lang].format(**self.says)

    def answered(self, lang: str) -> str:
        """Return the condition, the correction or the reason in a language."""
        return self.answer[lang].format(**self.says)

    def settled(self) -> Seen:
        """Run the evidence and return what was seen; EvidenceFails if it does not bear the verdict out."""
        said = Said(self.says, self.formula)
        where = f"{self.document}, line {self.lines}, {self.id}"
        seen = self.evidence(said)
        if seen.verdict != self.verdict or not seen.sound:
            against = "does not bear it out" if seen.verdict == self.verdict else f"speaks for '{seen.verdict}'"
            raise EvidenceFails(
                f"{where}: the verdict is '{self.verdict}', and the evidence {against}: {seen.shown}. "
                "Either what the claim is about has changed, a rule or torch, or what is said of it is wrong."
            )
        if unread := set(self.says) - said.read:
            raise EvidenceFails(f"{where}: the evidence does not look at what is said of {', '.join(sorted(unread))}.")
        return seen


def find_document(name: str) -> str:
    """Return the document's name; InputError, with the nearest name, if there is none."""
    if name.removesuffix(".md") not in DOCUMENTS:
        raise unknown("document", name, DOCUMENTS)
    return name.removesuffix(".md")


@cache
def claims(document: str) -> tuple[Claim, ...]:
    """Return a document's claims, in its order; InputError for an unknown document, or texts without evidence."""
    document = find_document(document)
    return tuple(claim_of(document, entry) for entry in texts_of(document)["claim"])


@cache
def texts_of(document: str) -> dict[str, Any]:
    """Return a document's texts: its claims, and in Chinese the words of what their evidence shows."""
    text = files("backprop_rules.documents.answers").joinpath("texts", f"{document}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def claim_of(document: str, entry: Mapping[str, Any]) -> Claim:
    """Return the claim of an entry of a document's texts; its evidence is looked up when it is run."""

    def evidence(said: Said) -> Seen:
        found = evidence_of(document)
        if entry["id"] not in found:
            raise InputError(f"{document}: the claim {entry['id']} has no evidence, a function of that name.")
        seen: Seen = found[entry["id"]](said)
        return seen

    return Claim(**{**entry, "document": document, "verdict": Verdict(entry["verdict"]), "evidence": evidence})


@cache
def evidence_of(document: str) -> dict[str, Any]:
    """Return all that a document's evidence defines, by name: that of one module, or those of a package."""
    module = importlib.import_module(f"backprop_rules.documents.answers.evidence.{document}")
    inside = [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]
    parts = [importlib.import_module(f"{module.__name__}.{name}") for name in inside] or [module]
    return {name: found for part in parts for name, found in vars(part).items()}
