"""The claims of a document as a reader sees them, and as JSON."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers.claim import Claim, EvidenceFails, Seen, claims
from backprop_rules.documents.answers.words import WORDS, drift_told
from backprop_rules.documents.baselines import load
from backprop_rules.documents.drift import drift

COLOURS = {"holds": "green", "holds if": "cyan", "wrong": "red", "slip of the pen": "yellow"}


@dataclass(frozen=True)
class Settled:
    """A claim with what its evidence came to, or with the error where it does not bear the verdict out."""

    claim: Claim
    seen: Seen | None
    error: str | None


def settled(document: str) -> Iterable[Settled]:
    """Run the evidence of a document's claims, and yield what each came to."""
    for claim in claims(document):
        try:
            yield Settled(claim, claim.settled(), None)
        except EvidenceFails as error:
            yield Settled(claim, None, str(error))


def shown(one: Settled, lang: str) -> RenderableType:
    """Return a claim: its place and verdict, the statement, the answer, and what was seen."""
    claim, words = one.claim, WORDS[lang]
    head = Text(f"{words['line'].format(lines=claim.lines)}  ")
    head.append(words[claim.verdict], style=f"bold {COLOURS.get(claim.verdict, 'magenta')}")
    if claim.formula:
        head.append(f"  {claim.formula}")
    outcome = words["fails"].format(error=one.error) if one.seen is None else words["seen"].format(shown=one.seen.shown)
    body = [Text(claim.claim[lang]), Text(f"→ {claim.answer[lang]}"), Text(outcome, style="dim" if one.seen else "red")]
    return Group(head, *(Padding(line, (0, 0, 0, 4)) for line in body), Text())


def summary(document: str, all_of_them: list[Settled], lang: str) -> str:
    """Return how many claims have which verdict."""
    counts = Counter(one.claim.verdict for one in all_of_them)
    verdicts = ", ".join(f"{count} {WORDS[lang][verdict]}" for verdict, count in counts.most_common())
    return WORDS[lang]["count"].format(document=f"{document}.md", claims=len(all_of_them), verdicts=verdicts)


def runs_told(document: str, lang: str) -> str:
    """Return how far the document's runs, as recorded, are from the true ones."""
    drifts = [drift(one, load(one)) for one in PROGRAMS.values() if one.document == f"{document}.md"]
    return "\n".join("\n    ".join(drift_told(found, lang)) for found in drifts)


def as_dict(one: Settled) -> dict[str, Any]:
    """Return a claim with everything that is known of it, for JSON."""
    claim = one.claim
    return {
        "document": f"{claim.document}.md",
        "lines": claim.lines,
        "id": claim.id,
        "verdict": str(claim.verdict),
        "formula": claim.formula,
        "number": None if claim.number is None else str(claim.number),
        "claim": claim.claim,
        "answer": claim.answer,
        "borne_out": one.seen is not None,
        "seen": one.error if one.seen is None else one.seen.shown,
    }
