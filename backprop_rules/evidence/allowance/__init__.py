"""Running error analysis: beside every operation of torch, how far its result may be from the exact one.

A radius is kept for each tensor, such that the exact value of the same formula lies within the radius of the
computed one. It is what the operation's operands, being off by theirs, may do to its exact result, and what
the operation rounds: u |result| for one that is correctly rounded, gamma_k |A| |B| for inner products of
length k, some ulps for a function of the vendor's. (Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., sections 2.2, 3.1, 3.3 and 3.6.)
"""

from backprop_rules.evidence.allowance.mode import Narrower, RunningError
from backprop_rules.evidence.allowance.operation import Sums, accumulated_in, as_computed, no_narrower_than

__all__ = ["Narrower", "RunningError", "Sums", "accumulated_in", "as_computed", "no_narrower_than"]
