"""A softmax's backward in C++, built by torch's own loader (which needs a compiler, and ninja).

pip install ninja && python examples/kernels/cpp_extension.py
"""

import functools
import sys

import torch
from torch.utils.cpp_extension import load_inline

from backprop_rules.testing import assert_gradients

SOURCE = """
torch::Tensor softmax_backward(torch::Tensor grad_y, torch::Tensor y, bool forgets_the_sum) {
    auto grad_x = torch::empty_like(y);
    const auto rows = y.size(0), n = y.size(1);
    const float *g = grad_y.data_ptr<float>(), *p = y.data_ptr<float>();
    float *out = grad_x.data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row, g += n, p += n, out += n) {
        float dot = 0;
        for (int64_t k = 0; k < n; ++k) dot += g[k] * p[k];
        for (int64_t k = 0; k < n; ++k) out[k] = forgets_the_sum ? p[k] * (1 - p[k]) * g[k] : p[k] * (g[k] - dot);
    }
    return grad_x;
}
"""


@functools.cache
def built():
    return load_inline("backprop_rules_softmax", SOURCE, functions=["softmax_backward"])


def held(forgets_the_sum):
    g = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(32, 100, generator=g) for _ in range(2))
    got = built().softmax_backward(grad_y, torch.softmax(x, -1), forgets_the_sum)
    return assert_gradients(got, forward=lambda x: torch.softmax(x, -1), primals=(x,), grad_y=grad_y)


def RIGHT():
    return held(forgets_the_sum=False)


def WRONG():
    return held(forgets_the_sum=True)


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
