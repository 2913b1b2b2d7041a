"""The words of `explain` and `trace` in each language, and what the catalogue and the bank say, in Chinese."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from backprop_rules.errors import unknown

LANGUAGES = ("en", "zh")
TEXTS: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    files("backprop_rules.teaching").joinpath("words.toml").read_text(encoding="utf-8")
)


def language(asked: str | None) -> str:
    """Return the language that was asked for, or the locale's, or English; InputError for one that there is not."""
    if asked is not None:
        if asked not in LANGUAGES:
            raise unknown("language", asked, LANGUAGES)
        return asked
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((name for name in names if name), "").startswith("zh") else "en"


class Words:
    """What is said in one language."""

    def __init__(self, lang: str = "en") -> None:
        self.lang = language(lang)

    def __call__(self, key: str, **fields: object) -> str:
        """Return a text with its fields filled in."""
        text: str = TEXTS[self.lang][key]
        return text.format(**fields)

    def of(self, kind: str, english: str, name: str = "") -> str:
        """Return a rule's, a kink's or a mistake's own words; English ones, where a rule of yours has no others."""
        table = TEXTS["english"].get(kind, {}) if self.lang == "en" else TEXTS[kind]
        return str(table.get(name or english, english))

    def listed(self, items: Iterable[object]) -> str:
        """Return what stands in a sentence one after the other."""
        return self("listed").join(map(str, items))

    def formula(self, plain: str) -> str:
        """Return a formula with its words."""
        return re.sub(r" (for|with) (.*?)(?=, \S+ = |$)", lambda found: self(found[1], when=found[2]), plain)

    def source(self, english: str) -> str:
        """Return a source with the words that are no names."""
        if self.lang != "en":
            for pattern, others in TEXTS["sources"].items():
                english = re.sub(pattern, others, english)
        return english
