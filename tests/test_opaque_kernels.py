"""Kernels whose operations cannot be followed: each example's right version passes, its wrong one fails in words."""

from pathlib import Path

import pytest

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
        halve[(triton.cdiv(x.numel(), 2),)](grad_y, grad_x, x.numel(), BLOCK=2)
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
