"""Every function of the target that has a rule's name is checked as that rule's backward."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backprop_rules import CATALOGUE, InputError
from backprop_rules.errors import unknown
from backprop_rules.pytest_plugin import Failed, checked, told


def target(config: pytest.Config) -> ModuleType:
    """Return the module of backward functions that the command line names."""
    name = config.getoption("--backprop-target")
    if not name:
        needed = "--backprop-target MODULE, the module of your backward functions"
        raise pytest.UsageError(f"the conformance suite needs {needed}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise pytest.UsageError(
            f"--backprop-target: {name} cannot be imported: {type(error).__name__}: {error}. It is named without .py, "
            "and must be on the path, as the current folder is for python -m pytest"
        ) from None


def _own(module: ModuleType, name: str) -> Any:
    """Return the function of that name; None if there is none, or only one of torch, NumPy or Python itself."""
    found = getattr(module, name, None)
    foreign = str(getattr(found, "__module__", "")).partition(".")[0] in ("builtins", "torch", "numpy", "jax", "None")
    return found if callable(found) and not foreign else None


def known_failures(config: pytest.Config) -> set[str]:
    """Return the rules that are known to fail."""
    path = config.getoption("--backprop-xfails-file")
    if not path:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # or it is not in UTF-8
        raise pytest.UsageError(f"--backprop-xfails-file: {path} cannot be read: {error}") from error
    names = {line.partition("#")[0].strip() for line in lines} - {""}
    for name in names - set(CATALOGUE):
        raise pytest.UsageError(f"--backprop-xfails-file: {unknown('rule', name, CATALOGUE)}")
    return names


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each rule."""
    module = target(metafunc.config)
    if not any(_own(module, name) for name in CATALOGUE):
        raise pytest.UsageError(
            f"--backprop-target: {module.__name__} defines no function that is named after a rule. The rules are "
            f"{', '.join(CATALOGUE)}"
        )
    known, fails = known_failures(metafunc.config), pytest.mark.xfail(raises=Failed, strict=True)
    metafunc.parametrize("rule", [pytest.param(n, marks=fails if n in known else ()) for n in CATALOGUE])


def test_backward(rule: str, request: pytest.FixtureRequest) -> None:
    """The function of that name is the rule's backward."""
    backward = _own(target(request.config), rule)
    if backward is None:
        pytest.skip(f"{request.config.getoption('--backprop-target')} has no function {rule}")
    try:
        report = checked(request.config, backward, rule)
    except InputError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    told(request.node, report)
