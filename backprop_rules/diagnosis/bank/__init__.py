"""The bank of mistakes: what a backward returns that does one thing otherwise than the right one.

Each mistake predicts, at a point and for one primal, what it would return there; None where it is no mistake, or cannot
be made. A prediction is formed from the right rule alone, so that it serves twice: to name a mistake, by matching what
was returned over several points, and to plant it, in any rule.
"""

from backprop_rules.diagnosis.bank import cotangents, elementwise, operands, sums
from backprop_rules.diagnosis.bank.known import Known

# Of two that predict the same, the first is the plainer one.
BANK: tuple[Known, ...] = (
    *cotangents.DECLARED,
    *sums.DECLARED,
    *elementwise.DECLARED,
    *operands.DECLARED,
)
