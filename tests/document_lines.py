"""The lines of the documents, wherever their folder is: digests of them, and the formulas that stand there."""

import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "shared" / "documents"  # others' texts: beside the project, and not in it
PLACES = re.compile(r"(\d+)(?:-(\d+))?")
SIGNS = {
    r"\\widehat y|\\hat\{?y\}?|y\^(?!\{)": "ŷ", r"\\partial": "∂", r"\\delta": "δ", r"\\omega": "ω", r"\\sum": "Σ",
    r"\^\{?T\}?": "ᵀ", r"\^\{?2\}?": "²", r"’|‘": "'", "−": "-", "½": "1/2", "₁": "1", "₂": "2", r"_\{(\w+)\}": r"\1",
    r"\\begin\{\w+\}|\\end\{\w+\}|\\times|\\begin|\\end": "",
}  # fmt: skip
FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
UNTOLD = r"[\s·×*∗$&{}\\[\]()（）,_]"  # products are written in several ways, rows and brackets as well


def of(document, lines):
    """Return these lines, '24-26, 34', of a document, without what surrounds each."""
    text = (FOLDER / f"{document}.md").read_text("utf-8").splitlines()
    spans = [(int(first), int(last or first)) for first, last in PLACES.findall(lines)]
    return [text[k].strip() for first, last in spans for k in range(first - 1, last)]


def digest(document, lines):
    return hashlib.sha256("\n".join(of(document, lines)).encode()).hexdigest()[:12]


def signed(text):
    """Return a formula of TeX, of code or of ours, with the same signs for the same things."""
    for sign, ours in SIGNS.items():
        text = re.sub(sign, ours, text)
    while FRACTION.search(text):
        text = FRACTION.sub(r"\1/\2", text)
    return text


def stands_in(formula, document, lines):
    """Say whether the sides of a formula, and the parts that … leaves out something between, stand there in order."""
    parts = (re.sub(UNTOLD, "", signed(part)) for part in re.split("…|(?==)", formula))
    pattern = ".*".join(f"{UNTOLD}*".join(map(re.escape, part)) for part in parts)
    return re.search(f"{pattern}(?![ᵀ²'A-Za-z0-9])", signed(" ".join(of(document, lines))), re.S) is not None
