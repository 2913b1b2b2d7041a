"""A rule explained: formula, derivation with every shape, code, a worked example, kinks, and the usual mistakes.

Everything is made from the rule's declaration when it is asked for, so that a rule of your own is explained as well.
"""

from collections.abc import Iterator

from backprop_rules.formula import plain
from backprop_rules.rule import Rule
from backprop_rules.teaching.told import Words


def explained(rule: Rule, lang: str = "en") -> Iterator[str]:
    """Yield what there is to say of the rule, a section at a time, each as soon as it is ready."""
    words, formula = Words(lang), plain(rule.formula)
    legend = [words("bars"), *([words("complex")] if "*" in formula or "ᴴ" in formula else [])]
    head = [words.formula(formula), words.source(rule.source), *legend]
    yield "\n    ".join([words("colon", name=rule, words=words.of("rules", rule.summary, str(rule))), *head])
    # What the rest needs takes longer to import than this to print.
    from backprop_rules.teaching.sections import sections

    yield from sections(rule, words)
