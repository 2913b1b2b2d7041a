"""Kernels whose operations cannot be followed: each example's right version passes, its wrong one fails in words."""

import subprocess
import sys
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


def run(name, *options):
    line = [sys.executable, EXAMPLES / f"{name}.py", *options]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)


@every_example
def test_the_right_version_passes(name):
    made = run(name)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith("Right, as ")


@every_example
def test_the_wrong_version_fails(name):
    made = run(name, "--wrong")
    assert made.returncode == 1
    assert "WrongGradients: The gradient of " in made.stderr and SAID[name] in made.stderr
