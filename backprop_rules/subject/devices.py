"""The dtypes and devices that can be asked for by name."""

import torch

from backprop_rules.domain import COMPLEX, REAL, dtype_name
from backprop_rules.errors import InputError, unknown

DTYPES = {dtype_name(dtype): dtype for dtype in REAL + COMPLEX}


def find_dtype(name: str) -> torch.dtype:
    """Return the dtype of that name; InputError, with the nearest name, if rules know none."""
    try:
        return DTYPES[name.removeprefix("torch.")]
    except KeyError:
        raise unknown("dtype", name, DTYPES) from None


def devices_here() -> tuple[str, ...]:
    """Return the devices on which rules can be verified: cpu, cuda if there is one, and meta."""
    return ("cpu", "cuda", "meta") if torch.cuda.is_available() else ("cpu", "meta")


def find_device(name: str) -> str:
    """Return the device's name; InputError if it is unknown, or not to be had here."""
    if name not in ("cpu", "cuda", "meta"):
        raise unknown("device", name, ("cpu", "cuda", "meta"))
    if name not in devices_here():
        raise InputError(
            f"the device '{name}' cannot be used: torch {torch.__version__} finds no CUDA GPU here. "
            f"Devices here: {', '.join(devices_here())}."
        )
    return name
