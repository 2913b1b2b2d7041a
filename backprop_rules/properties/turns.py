"""What a backward shares with other threads while it runs in one, and how these get their turn."""

import pickle
import random
import sys
import time
from typing import Any

import numpy as np
import torch
from torch.nn.utils import stateless
from torch.overrides import TorchFunctionMode

DRAWS = ("rand", "bernoulli", "dropout", "multinomial", "normal", "uniform", "exponential", "poisson")
TURN = 1e-4  # seconds: longer than a thread needs to wake up; it decides how likely a race shows, and no verdict


class LetsOthers(TorchFunctionMode):
    """While it is entered, another thread gets its turn after each call of a function of torch.

    A thread that is alone `looks` for what all share: two that take the generator's state at once may wait for good.
    """

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self._looks, self._before = looks, _elsewhere()
        self.shares = False  # whether random numbers are drawn, or a module's parameters put in their places

    def __enter__(self) -> "LetsOthers":
        if self._looks:
            sys.setprofile(self._called)  # of this thread alone
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        if self._looks:
            sys.setprofile(None)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _called(self, frame: Any, event: str, _: Any) -> None:
        # There functional_call goes, by each of its names.
        self.shares = self.shares or (event == "call" and frame.f_code.co_filename == stateless.__file__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state = torch.default_generator.get_state() if self._looks else None
        # Another thread comes between two of torch's calls alone: what is seeded before one is drawn behind it.
        seeded = self._looks and _elsewhere() != self._before
        found = func(*args, **(kwargs or {}))
        # Names tell of generators of its own; the state, of what has another name: a gamma function's sample.
        draws = seeded or func.__name__.rstrip("_").startswith(DRAWS)
        draws = draws or (state is not None and not torch.equal(state, torch.default_generator.get_state()))
        self.shares = self.shares or draws
        time.sleep(TURN)
        return found


def _elsewhere() -> bytes:
    """Return the states of Python's and NumPy's random numbers, which all threads share."""
    return pickle.dumps((random.getstate(), np.random.get_state()))
