"""The oracles: independent sources of enclosures, in the order in which they are listed.

Each has the name that reports use. `speaks_for` returns a mask of y's shape, or one bool for all: the outputs whose
derivative it knows; and `enclosures` the enclosure of each gradient at a point whose cotangent is zero elsewhere, or
raises Silent where the oracle itself fails.
"""

from backprop_rules.evidence.oracles.autodiff import ForwardMode, ReverseMode
from backprop_rules.evidence.oracles.differences import CentralDifferences, OneSidedDifferences

Oracle = ReverseMode | ForwardMode | CentralDifferences | OneSidedDifferences
ORACLES: tuple[Oracle, ...] = (ReverseMode(), ForwardMode(), CentralDifferences(), OneSidedDifferences())
