"""The claims of a document as a reader sees them, in each language, and as JSON."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from backprop_rules.documents.answers.claim import Claim, EvidenceFails, Seen, claims, texts_of
from backprop_rules.documents.answers.remembered import Remembered
from backprop_rules.domain import dtype_name
from backprop_rules.formula import columns
from backprop_rules.teaching.told import LANGUAGES

if TYPE_CHECKING:
    from backprop_rules.documents.drift import Drift

CHINESE = "\u2e80-\u9fff"
OPENS, CLOSES = "（“《", "，。；：、！？）”》"
# What a line is filled with: a word, or a Chinese letter, with the punctuation that stays with it.
PIECE = re.compile(rf"[{OPENS}]*(?:[{CHINESE}]|[^\s{CHINESE}{OPENS}{CLOSES}]*)[{CLOSES}]*\s*")
COLOURS = {"holds": "green", "holds if": "cyan", "wrong": "red", "slip of the pen": "yellow"}


WORDS: Mapping[str, Mapping[str, str]] = tomllib.loads(
    files("backprop_rules.documents.answers").joinpath("words.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Settled:
    """A claim with what its evidence came to, or with the error where it does not bear the verdict out.

    Neither is there where it was not run.
    """

    claim: Claim
    seen: Seen | None = None
    error: str | None = None


def unsettled(document: str) -> Iterable[Settled]:
    """Yield a document's claims, without running their evidence."""
    yield from map(Settled, claims(document))


def settled(document: str, remembered: Remembered | None = None) -> Iterable[Settled]:
    """Run the evidence of a document's claims, and yield what each came to; what is remembered is not run again."""
    known = {} if remembered is None else remembered.found
    for claim in claims(document):
        name = f"{document}.{claim.id}"
        if name not in known:
            try:
                seen = claim.settled()
            except EvidenceFails as error:
                yield Settled(claim, None, str(error))
                continue
            known[name] = seen.shown
        yield Settled(claim, Seen(claim.verdict, True, known[name]))


def shown(one: Settled, lang: str) -> RenderableType:
    """Return a claim: its place and verdict, the statement, the answer, and what was seen."""
    claim, words = one.claim, WORDS[lang]
    several = "lines" if set("-,") & set(claim.lines) else "line"
    head = Text(f"{words[several].format(lines=claim.lines.replace(', ', words['and']))}  ")
    head.append(words[claim.verdict], style=f"bold {COLOURS.get(claim.verdict, 'magenta')}")
    if claim.formula:
        head.append(f"  {claim.formula}")
    body = [_Indented(claim.statement(lang)), _Indented(f"→ {claim.answered(lang)}")]
    if one.seen is not None:
        body.append(_Indented(words["seen"].format(shown=told_in(lang, claim.document, one.seen.shown)), "dim"))
    if one.error is not None:
        body.append(_Indented(words["fails"].format(error=told_in(lang, claim.document, one.error)), "red"))
    return Group(head, *body, Text())


@dataclass(frozen=True)
class _Indented:
    """A text below a claim. Rich would break Chinese at its few spaces alone."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in _lines(self.text, options.max_width - 4):
            yield Text(f"    {line}", style=self.style)


def _lines(text: str, width: int) -> Iterator[str]:
    """Yield a text in lines of so many columns."""
    line = ""
    for piece in PIECE.findall(text):
        if line and columns(line + piece.rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += piece
    yield line


def told_in(lang: str, document: str, shown: str) -> str:
    """Return what was seen with its words, those in «», in the language."""
    if lang == "en":
        return re.sub("«(.*?)»", r"\1", shown)
    chinese = {**WORDS["shown"], **texts_of(document).get("seen", {})}
    return re.sub("«(.*?)»", lambda found: chinese[found[1]], shown).replace("; ", "；")


def summary(document: str, all_of_them: list[Settled], lang: str) -> str:
    """Return how many claims have which verdict."""
    counts = Counter(one.claim.verdict for one in all_of_them)
    verdicts = WORDS[lang]["and"].join(f"{count} {WORDS[lang][verdict]}" for verdict, count in counts.most_common())
    return WORDS[lang]["count"].format(document=f"{document}.md", claims=len(all_of_them), verdicts=verdicts)


def runs_told(document: str, lang: str, remembered: Remembered | None = None) -> str:
    """Return how far the document's runs, as recorded, are from the true ones."""
    known, name = {} if remembered is None else remembered.found, f"{document}, {lang}"
    if name not in known:
        # Ball arithmetic takes longer to import than all claims to print, and is needed for this alone.
        from backprop_rules.documents import PROGRAMS
        from backprop_rules.documents.baselines import load
        from backprop_rules.documents.drift import drift

        drifts = [drift(one, load(one)) for one in PROGRAMS.values() if one.document == f"{document}.md"]
        known[name] = "\n".join("\n    ".join(_drift_told(found, WORDS[lang])) for found in drifts)
    return str(known[name])


def _drift_told(drift: "Drift", words: Mapping[str, str]) -> list[str]:
    """Return how far a run is from the true one, and why, a sentence to a line."""
    program = drift.program
    lines = [words["run"].format(program=program.name, steps=drift.steps, dtype=dtype_name(program.dtype))]
    gaps = [words["gap"].format(**vars(gap) | {"name": _named(gap.name, words)}) for gap in drift.gaps]
    lines += gaps or [words["true"]]
    if drift.lost:
        lines.append(words["lost"].format(count=drift.count, updates=drift.updates, step=drift.lost.step))
    if drift.standstill:
        lines.append(words["standstill"].format(**vars(drift.standstill)))
    return lines


def _named(value: str, words: Mapping[str, str]) -> str:
    kind, _, parameter = value.rpartition(" ")
    return words[kind or value].format(parameter=parameter)


def as_dict(one: Settled) -> dict[str, Any]:
    """Return a claim with everything that is known of it, for JSON."""
    claim = one.claim
    return {
        "document": f"{claim.document}.md",
        "lines": claim.lines,
        "id": claim.id,
        "verdict": str(claim.verdict),
        "formula": claim.formula,
        "says": dict(claim.says),
        "claim": {lang: claim.statement(lang) for lang in LANGUAGES},
        "answer": {lang: claim.answered(lang) for lang in LANGUAGES},
        "borne_out": one.error is None and (one.seen is not None or None),
        "seen": one.error or (one.seen and {lang: told_in(lang, claim.document, one.seen.shown) for lang in LANGUAGES}),
    }
