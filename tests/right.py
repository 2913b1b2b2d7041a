"""Right backwards of all kinds of operation, as competent people write them: the checker must not object to any."""

from right_complex import COMPLEX
from right_elementwise import ELEMENTWISE
from right_entry import Right
from right_indexing import INDEXING
from right_kinks import KINKS
from right_linear_algebra import LINEAR_ALGEBRA
from right_losses import LOSSES
from right_networks import NETWORKS
from right_normalisations import NORMALISATIONS
from right_reductions import REDUCTIONS

__all__ = ["RIGHT", "Right"]

THEMES = (
    ELEMENTWISE,
    KINKS,
    REDUCTIONS,
    LINEAR_ALGEBRA,
    NORMALISATIONS,
    LOSSES,
    INDEXING,
    NETWORKS,
    COMPLEX,
)

RIGHT: dict[str, Right] = {name: entry for theme in THEMES for name, entry in theme.items()}
