"""The logarithm of a determinant without the choice that torch's makes: NaN where the determinant is negative."""

from typing import Any

import torch
from torch import Tensor

LOGARITHMS = (torch.logdet, Tensor.logdet)


def logarithm(args: Any, named: Any) -> Tensor | None:
    """Return the logarithm of determinants of which none is negative, and None of others.

    By torch's a right implementation might be NaN wherever rounding may make a matrix singular, which it is not.
    """
    x = args[0] if args else named.get("input")
    if not isinstance(x, Tensor) or x.is_complex():
        return None
    found = torch.linalg.slogdet(x)
    with torch._C._DisableTorchDispatch():
        negative = bool((found.sign.detach() < 0).any())
    return None if negative else found.logabsdet
