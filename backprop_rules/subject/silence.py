"""What torch and NumPy say of inputs that are made on purpose, and that nobody needs to hear."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch says of inputs that are drawn on purpose."""
    with warnings.catch_warnings():
        # Its own forward mode of mixed dtypes passes through complex32 under vmap.
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
        # A variance over an axis that is long enough, in a tensor that is empty along another.
        warnings.filterwarnings("ignore", r"var\(\): degrees of freedom")
        warnings.filterwarnings("ignore", r"(Mean of empty slice|Degrees of freedom <= 0)")  # NumPy's
        # What poisons the memory that is handed out asks for deterministic operations too, where there are any.
        warnings.filterwarnings("ignore", r".*does not have a deterministic implementation")
        warnings.filterwarnings("ignore", r"Deterministic behavior was enabled")
        yield
