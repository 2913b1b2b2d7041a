"""The answer key of backpropagation: handwritten backward rules, verified without a chosen tolerance."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from backprop_rules.call import vjp
from backprop_rules.catalogue import CATALOGUE
from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import Domain
from backprop_rules.errors import InputError
from backprop_rules.rule import Convention, Rule, find, rule
from backprop_rules.version import __version__ as __version__

if TYPE_CHECKING:  # so that a type checker knows what is loaded late
    from backprop_rules.checking import check, check_function
    from backprop_rules.report.report import Report, WrongGradient
    from backprop_rules.teaching import pictures
    from backprop_rules.teaching.trace import trace

# What is loaded when it is first asked for: it draws points, proves in balls, or shows a graph.
_LATE = {
    "Report": "backprop_rules.report.report",
    "WrongGradient": "backprop_rules.report.report",
    "check": "backprop_rules.checking",
    "check_function": "backprop_rules.checking",
    "trace": "backprop_rules.teaching.trace",
}


def __getattr__(name: str) -> Any:
    """Load a name of _LATE, or the module `pictures`."""
    if name == "pictures":
        return import_module("backprop_rules.teaching.pictures")
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'backprop_rules' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, those that are loaded late among them."""
    return sorted({*globals(), *__all__})


__all__ = [
    "CATALOGUE",
    "Convention",
    "Domain",
    "InputError",
    "Report",
    "Rule",
    "WrongGradient",
    "check",
    "check_function",
    "find",
    "pictures",
    "rule",
    "trace",
    "unbroadcast",
    "vjp",
]
