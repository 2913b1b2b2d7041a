"""A formula in LaTeX, written for a terminal: in Unicode, with what has no letter there in words and parentheses."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[^\\]")
SYMBOLS = {
    "alpha": "α", "epsilon": "ε", "mu": "μ", "sigma": "σ", "pi": "π", "Phi": "Φ", "varphi": "φ", "infty": "∞",
    "le": "≤", "ge": "≥", "ne": "≠", "lor": " ∨ ", "lnot": "¬", "mid": " | ", "sum": "Σ", "prod": "Π", "top": "T",
    "quad": "  ", ",": " ", " ": " ", "|": "‖", "{": "{", "}": "}", "#": "#",
}  # fmt: skip
ACCENTS = {"bar": "\u0304", "hat": "\u0302"}
RAISED = dict(zip("0123456789+-=()nijkpxTH*", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱʲᵏᵖˣᵀᴴ*", strict=True))
LOWERED = dict(zip("0123456789+-=()ijkmnptx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ᵢⱼₖₘₙₚₜₓ", strict=True))
SUBSCRIPTS = str.maketrans(LOWERED)
HALF = {("1", "2"): "½"}
WIDTH = 100  # columns of a line


def plain(tex: str) -> str:
    r"""Return the formula in Unicode: \bar x as x̄, x^2 as x², \frac ab as a/b."""
    said = re.sub(" +", " ", _all(iter(TOKEN.findall(tex))))
    return unicodedata.normalize("NFC", re.sub(r" *([,:]) *", r"\1 ", said)).strip()


def element(name: str, indices: Iterable[object]) -> str:
    """Return the name of an element: x₁₂ stands for the one in row 1 and column 2, xᵢⱼ for any."""
    return name + "".join(str(k).translate(SUBSCRIPTS) for k in indices)


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese letter, none for a mark above one."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def in_lines(formula: str) -> str:
    """Return a formula with what is too long for a line below, each part of it whole."""
    lines = [""]
    for part in re.split(r"(?<=[,:]) ", formula):
        if lines[-1] and columns(lines[-1]) + columns(part) >= WIDTH:
            lines.append("    ")
        lines[-1] += f"{part} "
    return "\n".join(line.rstrip() for line in lines)


def of_reals(formula: str) -> str:
    """Return a plain formula as it is for real numbers, whose conjugates they are themselves."""
    return re.sub(r"\(([^() ]+)\)\*|\*", r"\1", formula).replace("ᴴ", "ᵀ")


def _all(tokens: Iterator[str]) -> str:
    """Return what the tokens say, up to the brace that closes the group."""
    said = ""
    for token in tokens:
        if token == "}":
            break
        said += _said(token, tokens)
    return said


def _said(token: str, tokens: Iterator[str]) -> str:
    if token == "{":
        return _all(tokens)
    if token in ("^", "_"):
        return _moved(_argument(tokens), *((RAISED, "^") if token == "^" else (LOWERED, "_")))
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name in ACCENTS:
        return _argument(tokens) + ACCENTS[name]
    if name in ("frac", "tfrac"):
        parts = _argument(tokens), _argument(tokens)
        quotient = HALF.get(parts) or "/".join(map(_one, parts))
        return f"({quotient})" if name == "tfrac" and len(quotient) > 1 else quotient
    if name == "sqrt":
        return f"√{_one(_argument(tokens))}"
    if name in ("operatorname", "text"):
        return _argument(tokens)
    return SYMBOLS.get(name, name)


def _argument(tokens: Iterator[str]) -> str:
    return _said(next(token for token in tokens if token != " "), tokens)


def _one(term: str) -> str:
    """Return the term, in parentheses if it is made of several."""
    return f"({term})" if re.search(r"[ +\-/]", term.strip()) else term.strip()


def _moved(term: str, letters: dict[str, str], mark: str) -> str:
    """Return a superscript or a subscript: in raised or lowered letters if there are all of them."""
    bare = term.replace(" ", "")
    if all(letter in letters for letter in bare):
        return "".join(letters[letter] for letter in bare)
    return f"{mark}{bare}" if re.fullmatch(r"\w+", bare) else f"{mark}({term})"
