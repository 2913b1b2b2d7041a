"""A cumulative sum's backward as a torch.library.custom_op, made by NumPy: its operations cannot be followed.

python examples/kernels/custom_op.py
"""

import sys

import numpy as np
import torch

from backprop_rules.testing import assert_gradients


@torch.library.custom_op("backprop_rules_examples::cumsum_backward", mutates_args=())
def cumsum_backward(grad_y: torch.Tensor, forwards: bool) -> torch.Tensor:
    g = grad_y.numpy()
    return torch.from_numpy(np.cumsum(g, -1) if forwards else np.cumsum(g[..., ::-1], -1)[..., ::-1].copy())


def held(forwards):
    g = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(16, 300, generator=g) for _ in range(2))
    got = cumsum_backward(grad_y, forwards)
    return assert_gradients(got, forward=lambda x: x.cumsum(-1), primals=(x,), grad_y=grad_y)


def RIGHT():
    return held(forwards=False)


def WRONG():
    return held(forwards=True)


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
