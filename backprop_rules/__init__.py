"""The answer key of backpropagation: handwritten backward rules, verified without a chosen tolerance."""

from typing import Any

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import Domain
from backprop_rules.errors import InputError
from backprop_rules.point import vjp
from backprop_rules.rule import Convention, Rule, find, rule
from backprop_rules.tracing import trace


def __getattr__(name: str) -> Any:
    """Load the checker when it is first asked for: it draws points, and so needs Hypothesis, and balls."""
    if name == "WrongGradient":
        from backprop_rules.objection import WrongGradient

        return WrongGradient
    if name in ("check", "check_function", "Report"):
        from backprop_rules import checker

        return getattr(checker, name)
    raise AttributeError(f"module 'backprop_rules' has no attribute '{name}'")


__all__ = [
    "CATALOGUE",
    "Convention",
    "Domain",
    "InputError",
    "Rule",
    "WrongGradient",
    "check",
    "check_function",
    "find",
    "rule",
    "trace",
    "unbroadcast",
    "vjp",
]
__version__ = "0.5.0"
