"""A rule explained: formula, derivation with every shape, code, a worked example, kinks, and the usual mistakes.

Everything is made from the rule's declaration when it is asked for, so that a rule of your own is explained as well.
"""

import re
from collections.abc import Iterator

from backprop_rules.domain import Index
from backprop_rules.errors import InputError
from backprop_rules.formula import in_lines, plain
from backprop_rules.rule import Rule
from backprop_rules.teaching.told import TEXTS, Words

SIGNS = {
    "complex": "[*ᴴ]",
    "conditions": r"\[[^]]*[<>=≤≥cx]",
    "¬": "¬",
    "#": "#",
    "σ": "σ[(]",
    "Φ": "Φ",
    "n": r"1/n|n - c",
}


def explained(rule: Rule, lang: str = "en") -> Iterator[str]:
    """Yield what there is to say of the rule, a section at a time, each as soon as it is ready."""
    words, formula = Words(lang), plain(rule.formula)
    if not rule.backward.__module__.startswith("backprop_rules."):
        # The catalogue's rules are held against the oracles by its tests. It takes longer to import than this to print.
        from backprop_rules.verify import verified

        _, report = verified(rule)
        if not report.passed:
            raise InputError(f"{rule}: it cannot be explained before it is verified. {report}")
    head = [in_lines(words.formula(formula)), words.source(rule.source), words("bars"), *_legend(rule, formula, words)]
    yield "\n".join(
        [
            words("colon", name=rule, words=words.of("rules", rule.summary, str(rule))),
            *(f"    {line}" for text in head for line in text.splitlines()),
        ]
    )
    # What the rest needs takes longer to import than this to print.
    from backprop_rules.teaching.sections import sections

    yield from sections(rule, words)


def _legend(rule: Rule, formula: str, words: Words) -> Iterator[str]:
    """Yield what the signs and letters of the formula stand for, where they need saying."""
    letters = TEXTS["letters"].get(rule.name)
    if letters:
        yield words("letters", letters=words.listed(letters.split(", ")))
    yield from (words(key) for key, sign in SIGNS.items() if re.search(sign, formula))
    indices = [name for name, holds in rule.domain.indices.items() if isinstance(holds, Index)]
    if indices:
        yield words("from 0", names=words.listed(indices))
