"""Functions as people have them, each with its right backward and wrong ones as people write them."""

from modules_algebra import ALGEBRA
from modules_attention import ATTENTION
from modules_common import Module
from modules_indices import INDICES
from modules_layers import LAYERS
from modules_loops import LOOPS
from modules_losses import LOSSES
from modules_windows import WINDOWS

MODULES: list[Module] = [*LAYERS, *WINDOWS, *ATTENTION, *LOSSES, *LOOPS, *INDICES, *ALGEBRA]
