"""The samples with which torch's own tests call its operations."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

SEED = 1234  # with which torch's own tests draw each sample


def seeded(seed: int) -> None:
    """Begin all random numbers anew; torch.manual_seed tells every device, and writes down who called it."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def samples_of(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    """Yield the samples of an operation as its `sample_inputs` does, which looks each time who called it."""
    seeded(0)
    samples = iter(op.sample_inputs_func(op, "cpu", dtype, True))
    while True:
        seeded(SEED)
        try:
            yield next(samples)
        except StopIteration:
            return
