"""Every example's right version is right, and its wrong one is caught and named."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = {
    "autograd_function": "factor 2",
    "numpy_network": "mean instead of sum",
    "jax_custom_vjp": "output in the place of the input",
    "scalar_engine": "branch",
    "fused_linear_gelu": "other value",
    "two_layer_network": "masked by the cotangent",
}


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_right_version_is_right(name):
    report = loaded(name).RIGHT()
    assert report.verdict == "right", str(report)


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_version_is_caught_and_named(name):
    report = loaded(name).WRONG()
    assert report.verdict == "wrong"
    assert (report.mistake and report.mistake.name) == NAMES[name]


def test_the_documents_wrong_line_is_named():
    report = loaded("two_layer_network").LINE()
    assert "clamped at 0 where `relu` (forward) should mask it by its input (the pre-activation)" in str(report)
