"""The oracles: independent sources of enclosures, in the order in which they are listed."""

from backprop_rules.evidence.oracles.autodiff import ForwardMode, ReverseMode
from backprop_rules.evidence.oracles.differences import CentralDifferences, OneSidedDifferences
from backprop_rules.evidence.oracles.oracle import Oracle

ORACLES: tuple[Oracle, ...] = (ReverseMode(), ForwardMode(), CentralDifferences(), OneSidedDifferences())

__all__ = [
    "ORACLES",
    "CentralDifferences",
    "ForwardMode",
    "OneSidedDifferences",
    "Oracle",
    "ReverseMode",
]
