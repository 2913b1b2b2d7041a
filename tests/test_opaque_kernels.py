"""Kernels whose operations cannot be followed: each example's right version passes, its wrong one fails in words."""

import ctypes
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from backprop_rules import check, check_function

EXAMPLES = Path(__file__).parents[1] / "examples" / "kernels"
# What is said of the wrong version.
SAID = {
    "compiled": "The gradient of x is wrong:",
    "cpp_extension": "The gradient of x is wrong:",
    "ctypes_function": "The gradient of x is wrong:",
    "custom_op": "The gradient of x is wrong:",
    "triton_attention": "Within what a right implementation may round: q, y.",
    "triton_rms_norm": "only at axis 0 index 3 of 64",
}
every_example = pytest.mark.parametrize("name", SAID)
# What is compiled is compiled once, and two of these at a time are enough.
pytestmark = pytest.mark.xdist_group("compiled")


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)


@every_example
def test_the_right_version_passes(name, all_loaded):
    made = all_loaded.run(str(EXAMPLES / f"{name}.py"))
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith("Right, as ")


@every_example
def test_the_wrong_version_fails(name, all_loaded):
    made = all_loaded.run(str(EXAMPLES / f"{name}.py"), "--wrong")
    assert made.returncode == 1
    assert "WrongGradients: The gradient of " in made.stderr and SAID[name] in made.stderr


def gelu(x):
    return torch.nn.functional.gelu(x, approximate="tanh")


def in_c_into(make, grad_y, x, factor=1.0):
    """As C in a shared library computes, in float32 whatever there is: it gets addresses, and a number of elements."""

    def at(address, kind=ctypes.c_float):
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (x.numel(),))

    grad_y, x = grad_y.contiguous(), x.contiguous()
    grad_x = make(x)
    if x.numel():
        g, z, k, c = at(grad_y.data_ptr()), at(x.data_ptr()), np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
        t = np.tanh(k * (z + c * z * z * z))
        slope = (1 + t) / 2 + z * (1 - t * t) * k * (1 + 3 * c * z * z) / 2
        at(grad_x.data_ptr())[:] += np.float32(factor) * slope * g
    return grad_x


in_c = partial(in_c_into, torch.zeros_like)
in_c_with_room_by_dtype = partial(in_c_into, lambda x: torch.zeros(x.shape, dtype=x.dtype))


def in_c_of_float32(grad_y, x, factor=1.0):
    if x.dtype is not torch.float32:
        raise TypeError(f"float32 is wanted, and not {x.dtype}")
    return in_c(grad_y, x, factor)


def in_numpy(grad_y, x, factor=1.0):
    if x.dtype is not torch.float32:
        raise TypeError(f"float32 is wanted, and not {x.dtype}")
    z, k, c = x.numpy(), np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
    t = np.tanh(k * (z + c * z * z * z))
    slope = (1 + t) / 2 + z * (1 - t * t) * k * (1 + 3 * c * z * z) / 2
    return torch.from_numpy(np.asarray(np.float32(factor) * slope * grad_y.numpy()))


@pytest.mark.parametrize("n", [3, 33])
@pytest.mark.parametrize("kernel", [in_c, in_c_with_room_by_dtype, in_c_of_float32, in_numpy])
def test_what_a_kernel_of_float32_rounds_is_no_mistake_and_a_factor_is_one(kernel, n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    report = check(kernel, forward=gelu, example=(x,), raise_on_failure=False)
    assert report.verdict == "right", report
    assert "in float64" not in str(report)  # which it was never asked in
    for factor in (1.001, 1.00001):
        report = check(partial(kernel, factor=factor), forward=gelu, example=(x,), raise_on_failure=False)
        assert report.verdict in ("wrong", "inaccurate"), report


def partly_of_float32(grad_y, x, w, factor=1.0):
    """As a kernel that casts one of the arguments that it loads: its products have the dtype of the others."""
    z, g = x.numpy().astype(np.float32), grad_y.numpy()
    s = 1 / (1 + np.exp(-z))
    slope = s * (1 + z * (1 - s)) * np.float32(factor)
    return torch.from_numpy(np.asarray(g * w.numpy() * slope)), torch.from_numpy(np.asarray(g * (z * s)))


def test_what_computes_in_float32_in_part_may_round_as_float32_does():
    example = tuple(torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def gated(x, w):
        return torch.nn.functional.silu(x) * w

    report = check(partly_of_float32, forward=gated, example=example, raise_on_failure=False)
    assert report.verdict == "right", report
    for factor in (1.001, 1.00001):
        backward = partial(partly_of_float32, factor=factor)
        report = check(backward, forward=gated, example=example, raise_on_failure=False)
        assert report.verdict in ("wrong", "inaccurate"), report


class InC(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return gelu(x)

    @staticmethod
    def backward(ctx, grad_y):
        return in_c(grad_y, *ctx.saved_tensors)


@pytest.mark.parametrize("kernel", [in_c_of_float32, in_numpy])
def test_what_is_farther_off_than_rounding_goes_is_told_so_and_not_as_lost_digits(kernel):
    example = (torch.randn(7, 33, generator=torch.Generator().manual_seed(0)),)
    report = check(partial(kernel, factor=1.00001), forward=gelu, example=example, raise_on_failure=False)
    assert report.verdict == "inaccurate"
    assert "nearly the right function, and farther off than rounding goes" in str(report)
    assert "a factor near 1" in str(report) and "digits" not in str(report).split("likely")[0]


@pytest.mark.parametrize("kernel", [in_c_of_float32, in_numpy])
def test_the_mistake_of_what_takes_no_float64_is_named(kernel):
    example = (torch.randn(7, 33, generator=torch.Generator().manual_seed(0)),)
    for factor, words in ((1.001, "is off by the factor 1.001"), (-1.0, "the sign"), (2.0, "is off by the factor 2")):
        report = check(partial(kernel, factor=factor), forward=gelu, example=example, raise_on_failure=False)
        assert report.verdict == "wrong"
        assert words in report.mistake.words, report


def test_a_function_that_takes_addresses_is_asked_in_its_own_dtype():
    report = check_function(InC, forward=gelu, example=(torch.randn(7, 9),), raise_on_failure=False)
    assert report.verdict == "right", report


SEEN = {}


def in_torch(grad_y, x, factor=1.0):
    """It computes with no address: it looks whether two are one, and takes note of them."""
    scratch = grad_y if grad_y.data_ptr() != x.data_ptr() else grad_y.clone()
    SEEN[x.data_ptr()] = x.numel()
    return 2 * x * scratch * factor


class InTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_y):
        return in_torch(grad_y, *ctx.saved_tensors)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.bfloat16, 1 + 2.0**-5), (torch.float32, 1 + 2.0**-22)])
def test_code_of_torch_that_looks_at_addresses_is_asked_in_float64_all_the_same(dtype, factor):
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert check(in_torch, forward=torch.square, example=(x,)).verdict == "right"
    assert check_function(InTorch, forward=torch.square, example=(x,)).verdict == "right"
    wrong = check(partial(in_torch, factor=factor), forward=torch.square, example=(x,), raise_on_failure=False)
    assert wrong.verdict == "wrong", wrong


def the_sign_in_c(grad_y, x):
    """Only a mask, of whole numbers, is made by address: the same of many numbers."""
    x, mask = x.contiguous(), torch.zeros(x.shape, dtype=torch.uint8)
    if x.numel():
        z, m = (
            np.ctypeslib.as_array(ctypes.cast(t.data_ptr(), ctypes.POINTER(kind)), (x.numel(),))
            for t, kind in ((x, ctypes.c_float), (mask, ctypes.c_uint8))
        )
        m[:] = z > 0
    return grad_y * mask


def test_a_mask_that_is_made_by_address_is_asked_for_in_its_own_dtype():
    x = torch.linspace(-2, 3, 12)
    report = check(the_sign_in_c, forward=torch.relu, example=(x,), raise_on_failure=False)
    assert report.verdict == "right", report


# Triton's interpreter keeps the place in the grid for all threads alike: a right kernel is none of two calls at once.
INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch, triton, triton.language as tl
from backprop_rules import check

@triton.jit
def halve(grad_y, grad_x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(grad_x + at, tl.load(grad_y + at, mask=at < n) * 0.5, mask=at < n)

def backward(grad_y, x):
    grad_y, grad_x = grad_y.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        halve[(triton.cdiv(x.numel(), 8),)](grad_y, grad_x, x.numel(), BLOCK=8)
    return grad_x

SCRATCH = torch.zeros(1 << 16, dtype=torch.float64)

def one_scratch(grad_y, x):
    scratch = SCRATCH[: x.numel()].view(x.shape)
    torch.mul(grad_y, 0.5, out=scratch) if grad_y.dtype == scratch.dtype else scratch.copy_(grad_y * 0.5)
    return (scratch + torch.zeros_like(x)).to(x.dtype)

for f in (backward, one_scratch):
    report = check(f, forward=lambda x: x / 2, example=(torch.randn(5, 7),), raise_on_failure=False, explain=False)
    print(report.verdict, "at the same time" in str(report))
"""


def test_an_interpreted_kernel_is_not_asked_in_two_threads_and_others_are(all_loaded):
    made = all_loaded.run("-c", INTERPRETED)
    assert made.stdout.splitlines() == ["right False", "wrong True"], made.stdout + made.stderr
