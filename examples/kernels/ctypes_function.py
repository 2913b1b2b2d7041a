"""A GELU's backward in C, in a shared library that is called through ctypes (which needs a compiler, cc).

python examples/kernels/ctypes_function.py
"""

import ctypes
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from backprop_rules.testing import assert_gradients

SOURCE = """
#include <math.h>
void gelu_backward(const float *grad_y, const float *x, float *grad_x, long n, int forgets_the_density) {
    for (long k = 0; k < n; ++k) {
        float below = 0.5f * erfcf(-x[k] * 0.70710678f);
        float density = 0.39894228f * expf(-0.5f * x[k] * x[k]);
        grad_x[k] = grad_y[k] * (forgets_the_density ? below : below + x[k] * density);
    }
}
"""


@functools.cache
def library():
    folder = Path(tempfile.mkdtemp())
    (folder / "gelu.c").write_text(SOURCE)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "gelu.so", folder / "gelu.c", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "gelu.so"))


def backward(grad_y, x, forgets_the_density=False):
    grad_x, pointer = torch.empty_like(x), lambda t: ctypes.cast(t.data_ptr(), ctypes.POINTER(ctypes.c_float))
    library().gelu_backward(pointer(grad_y), pointer(x), pointer(grad_x), ctypes.c_long(x.numel()), forgets_the_density)
    return grad_x


def held(forgets_the_density):
    g = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(1000, generator=g) for _ in range(2))
    got = backward(grad_y, x, forgets_the_density)
    return assert_gradients(got, forward=torch.nn.functional.gelu, primals=(x,), grad_y=grad_y)


def RIGHT():
    return held(forgets_the_density=False)


def WRONG():
    return held(forgets_the_density=True)


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
