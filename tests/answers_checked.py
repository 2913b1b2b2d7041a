"""What must be true of a claim of the answer key: each objection in words, none of a claim that holds together."""

import re

import document_lines

from backprop_rules.documents.answers import LANGUAGES, Verdict
from backprop_rules.documents.answers.claim import EvidenceFails
from backprop_rules.documents.answers.report import told_in

FIELD = re.compile(r"{(\w+)}")
LINE = {
    "en": re.compile(r"\b[Ll]ines? (\d+)(?: (?:to|and) (\d+))?"),
    "zh": re.compile(r"第 (\d+)(?: [至和] (\d+))? 行"),
}
NAME = re.compile(r"[A-Za-zŷω][A-Za-z_]*(\.[A-Za-z_]+)*(\(\))?'?")
SIGN = re.compile(r"[0-9=≠<>≤≥·×∗⊙ᵀ²½√Σ∂δ∇′⟺|*/^_+−]")
COUNTED = {
    "en": re.compile(
        r"\b(four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty(?:-\w+)?|hundred|thousand|million|"
        r"twice|double|triple|half|quarter)\b",
        re.I,
    ),
    "zh": re.compile("[四五六七八九十百千万]|[两二三]倍|一半|翻倍"),
}
UNCOUNTED = {"empty", "property", "plenty", "quantity", "identity"}  # words that end as numbers do
HAN = re.compile("[\u4e00-\u9fff]")


def fields(text):
    return set(FIELD.findall(text))


def lines_named(text, lang):
    return {number for found in LINE[lang].findall(text) for number in found if number}


def of_the_texts(claim):
    """Yield what is wrong with the texts: they differ between the languages, or say a number outside of a field."""
    told = {lang: f"{claim.claim[lang]} {claim.answer[lang]}" for lang in LANGUAGES}
    for lang, text in told.items():
        if fields(text) != set(claim.says):
            yield f"{lang} has the fields {sorted(fields(text))}, and what is said is {sorted(claim.says)}"
        if lines_named(text, lang) != set(claim.refers):
            yield f"{lang} names the lines {sorted(lines_named(text, lang))}, and digests are of {sorted(claim.refers)}"
        prose = LINE[lang].sub("", FIELD.sub("", text))
        bare = NAME.sub("", prose)
        if found := SIGN.findall(bare):
            yield f"{lang} says {' '.join(found)} outside of a field: {prose}"
        if counted := [m[0] for m in COUNTED[lang].finditer(prose) if m[0].lower() not in UNCOUNTED]:
            yield f"{lang} counts in words, outside of a field: {', '.join(counted)}"
        if "  " in text or not text.strip():
            yield f"{lang} has no text, or two spaces in a row"
    if not HAN.search(told["zh"]) or HAN.search(told["en"]):
        yield "a text is in the other language"


def of_the_document(claim):
    """Yield where the lines are others than those that the claim was written of, or do not have the formula."""
    for lines, digest in {claim.lines: claim.digest, **claim.refers}.items():
        if (now := document_lines.digest(claim.document, lines)) != digest:
            yield f"line {lines} of {claim.document}.md has the digest {now}, and the claim was written of {digest}"
    meant, around = claim.says.get("meant", ""), ", ".join(claim.refers)
    if claim.verdict == Verdict.SLIP and around and not document_lines.stands_in(meant, claim.document, around):
        yield f"{meant} is not what line {around} says"
    if claim.formula and not document_lines.stands_in(claim.formula, claim.document, claim.lines):
        yield f"{claim.formula} does not stand in line {claim.lines} of {claim.document}.md"


def of_the_evidence(claim):
    """Yield that the evidence does not bear the verdict out, or shows words that are not there in Chinese."""
    try:
        shown = claim.settled().shown
    except EvidenceFails as error:
        yield str(error)
        return
    except Exception as error:  # what is said may be nothing that can be run
        yield f"the evidence ends in {type(error).__name__}: {error}"
        return
    if not shown:
        yield "nothing is shown"
    try:
        told_in("zh", claim.document, shown)
    except KeyError as word:
        yield f"there is no Chinese for {word}"


def problems(claim):
    yield from of_the_texts(claim)
    if document_lines.FOLDER.is_dir():
        yield from of_the_document(claim)
    yield from of_the_evidence(claim)
