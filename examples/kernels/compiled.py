"""A backward under torch.compile, which fuses it into other operations than those that were written.

python examples/kernels/compiled.py
"""

import sys

import torch

from backprop_rules.testing import assert_gradients


@torch.compile
def backward(grad_y, x, w, loses_the_branch: bool):
    a = x @ w
    s = torch.sigmoid(a)
    da = grad_y * s if loses_the_branch else grad_y * (s + a * s * (1 - s))
    return da @ w.T, x.T @ da


def held(loses_the_branch):
    g = torch.Generator().manual_seed(0)
    x, w, grad_y = (torch.randn(*shape, generator=g) for shape in ((64, 48), (48, 80), (64, 80)))
    got = backward(grad_y, x, w, loses_the_branch)
    return assert_gradients(got, forward=lambda x, w: torch.nn.functional.silu(x @ w), primals=(x, w), grad_y=grad_y)


def RIGHT():
    return held(loses_the_branch=False)


def WRONG():
    return held(loses_the_branch=True)


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
