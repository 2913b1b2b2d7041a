"""A claim of a document: the statement, what is to be said of it in two languages, and the evidence that decides."""

import importlib
import pkgutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from backprop_rules.errors import InputError, unknown

DOCUMENTS = ("matmul_derivatives", "linear_model", "one_parameter_regression", "two_layer_network")
LANGUAGES = ("en", "zh")


class Verdict(StrEnum):
    """What is to be said of a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds if"
    WRONG = "wrong"
    SLIP = "slip of the pen"
    CANNOT_BE_CHECKED = "cannot be checked"


@dataclass(frozen=True)
class Seen:
    """What the evidence of a claim came to when it was run.

    `stated` says whether the statement came out true as it stands, `amended` whether it did under the
    condition, or in the words, of the answer; None where the question does not arise. `shown` is what
    was seen, in numbers and code.
    """

    stated: bool | None
    amended: bool | None
    shown: str


Evidence = Callable[[], Seen]

# What the evidence must see for each verdict: the statement as it stands, and as the answer amends it.
# Of a statement about a missing picture it must see two readings that agree with all that is written.
NEEDED = {
    Verdict.HOLDS: (True, None),
    Verdict.HOLDS_IF: (False, True),
    Verdict.WRONG: (False, True),
    Verdict.SLIP: (False, True),
    Verdict.CANNOT_BE_CHECKED: (None, True),
}


class EvidenceFails(AssertionError):
    """The evidence of a claim, when run, does not bear its verdict out."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a document, restated, with its verdict, the answer, and the evidence.

    `lines` are those of the document; `formula` is the document's own, None where it is in words;
    `number` is the one that the document prints, which the evidence is called with; `claim` and
    `answer` hold a text for each language: the statement, and the condition, the correction or the reason.
    """

    id: str
    document: str
    lines: str
    verdict: Verdict
    formula: str | None = None
    number: Fraction | None = None
    claim: dict[str, str]
    answer: dict[str, str]
    evidence: Callable[..., Seen]

    def settled(self) -> Seen:
        """Run the evidence and return what was seen; EvidenceFails if it does not bear the verdict out."""
        seen = self.evidence() if self.number is None else self.evidence(self.number)
        if (seen.stated, seen.amended) != NEEDED[self.verdict]:
            stated, amended = NEEDED[self.verdict]
            raise EvidenceFails(
                f"{self.document}, line {self.lines}, {self.id}: the verdict '{self.verdict}' needs (stated, amended) "
                f"= {(stated, amended)}, but the evidence came out as {(seen.stated, seen.amended)}: {seen.shown}. "
                "Either what the claim is about has changed, a rule or torch, or the verdict is wrong."
            )
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
    text = files("backprop_rules.documents.answers").joinpath("texts", f"{document}.toml").read_text(encoding="utf-8")
    entries, found = tomllib.loads(text)["claim"], evidence_of(document)
    for entry in entries:
        if entry["id"] not in found:
            raise InputError(f"{document}: the claim {entry['id']} has no evidence, a function of that name.")
        entry |= {"document": document, "verdict": Verdict(entry["verdict"]), "evidence": found[entry["id"]]}
        if "number" in entry:
            entry["number"] = Fraction(entry["number"])
    return tuple(Claim(**entry) for entry in entries)


def evidence_of(document: str) -> dict[str, Any]:
    """Return all that a document's evidence defines, by name: that of one module, or those of a package."""
    module = importlib.import_module(f"backprop_rules.documents.answers.evidence.{document}")
    inside = [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]
    parts = [importlib.import_module(f"{module.__name__}.{name}") for name in inside] or [module]
    return {name: found for part in parts for name, found in vars(part).items()}
