"""The wheel holds all that an installation needs and no more, and a user of it needs pytest alone beside it."""

import ast
import os
import re
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hatchling.build import build_wheel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import backprop_rules
from backprop_rules import CATALOGUE

pytestmark = pytest.mark.xdist_group("processes")

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "backprop_rules"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(PACKAGE.rglob("*.py"))
# Where a distribution is imported by another name than its own.
IMPORTED = {"python-flint": "flint"}
# Who installs these has chosen them: the plugin is loaded by pytest, and JAX is asked only where it is loaded.
PYTEST_ALONE = {"backprop_rules/pytest_plugin.py", "backprop_rules/conformance/test_conformance.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel, built here and now from what is in the checkout, unpacked."""
    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(ROOT)  # where a build backend expects to be
    try:
        built = folder / build_wheel(str(folder))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def within(folder, *patterns):
    """Return the names of the files in a folder, relative to it."""
    found = (path for pattern in patterns for path in folder.rglob(pattern))
    return {str(path.relative_to(folder)) for path in found if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_has_every_file_of_the_package_the_baselines_the_licence_and_nothing_else(wheel):
    about = f"backprop_rules-{backprop_rules.__version__}.dist-info"
    package = {f"backprop_rules/{name}" for name in within(PACKAGE, "*.py", "*.toml", "py.typed")}
    baselines = {f"backprop_rules/baselines/{path.name}" for path in ROOT.glob("tests/baselines/*.json")}
    described = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert len(baselines) == 7
    assert "backprop_rules/py.typed" in package
    assert within(wheel, "*") == package | baselines | described


def test_the_wheel_says_what_the_project_declares(wheel):
    (path,) = wheel.glob("*.dist-info/METADATA")
    said = Parser().parsestr(path.read_text())
    extras = [(name, one) for name, needs in PROJECT["optional-dependencies"].items() for one in needs]
    declared = {(None, Requirement(one)) for one in PROJECT["dependencies"]}
    declared |= {(name, Requirement(one)) for name, one in extras}
    found = {Requirement(one) for one in said.get_all("Requires-Dist")}
    assert {(one.name, str(one.specifier)) for one in found} == {(o.name, str(o.specifier)) for _, o in declared}
    assert {one.name for one in found if one.marker is None} == {one.name for name, one in declared if name is None}
    assert SpecifierSet(said["Requires-Python"]) == SpecifierSet(PROJECT["requires-python"])
    assert (said["Name"], said["Version"]) == ("backprop-rules", backprop_rules.__version__)
    assert (said["License-Expression"], said["License-File"]) == ("BSD-3-Clause", "LICENSE")


def test_the_entry_points_lead_somewhere(wheel):
    (path,) = wheel.glob("*.dist-info/entry_points.txt")
    lines = re.findall(r"^(\S+) = (\S+)$", path.read_text(), re.MULTILINE)
    assert dict(lines) == {
        "backprop-rules": "backprop_rules.cli:main",
        "backprop_rules": "backprop_rules.pytest_plugin",
    }
    for name, value in lines:
        assert EntryPoint(name, value, "").load()


def test_the_declared_ranges_hold_this_python_and_the_pinned_versions():
    assert SpecifierSet(PROJECT["requires-python"]).contains(".".join(map(str, sys.version_info[:3])))
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for one in (*PROJECT["dependencies"], *(one for name in PROJECT["optional-dependencies"].values() for one in name)):
        assert Requirement(one).specifier.contains(pinned[Requirement(one).name]), one


def imports(path):
    """Return the names of the packages that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - {"backprop_rules", *sys.stdlib_module_names}


def test_the_package_imports_what_it_depends_on_and_the_plugin_pytest_beside_it():
    needed = {IMPORTED.get(name, name) for name in (Requirement(one).name for one in PROJECT["dependencies"])}
    assert set().union(*map(imports, MODULES)) == {*needed, "pytest"}
    assert {str(path.relative_to(ROOT)) for path in MODULES if "pytest" in imports(path)} == PYTEST_ALONE


def from_the_wheel(process, wheel, folder, code, *words):
    """Run a program in an empty folder, as a user would who has installed the wheel, and pytest, and no extra."""
    absent = {Requirement(one).name.replace("-", "_") for one in PROJECT["optional-dependencies"]["test"]} - {"pytest"}
    absent |= {"xdist"}
    hidden = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)}))\n"
    return process.run("-c", hidden + code, *words, cwd=folder, path=(wheel,), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_the_wheel_verifies_without_a_clone(torch_alone, wheel, tmp_path):
    code = "from backprop_rules import __file__ as f, cli; print(f); cli.main()"
    words = ("verify", "neg", "one_parameter_regression", "matmul_derivatives_matrix", "--examples", "20")
    done = from_the_wheel(torch_alone, wheel, tmp_path, code, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(wheel))
    assert "1 rule, 20 points" in done.stdout
    assert "3 recorded steps: all right" in done.stdout


def test_the_wheel_has_the_texts_of_the_answer_key(torch_alone, wheel, tmp_path):
    code = (
        "from backprop_rules.documents.answers import DOCUMENTS, claims; print(sum(map(len, map(claims, DOCUMENTS))))"
    )
    done = from_the_wheel(torch_alone, wheel, tmp_path, code)
    assert f"{done.stdout.strip()} in all" in (ROOT / "README.md").read_text(), done.stderr


MARKED = """
import pytest

@pytest.mark.backprop_rule("neg", dtypes=["float64"], max_examples=5)
def my_neg(grad_y, x):
    return -grad_y
"""


def test_the_plugin_and_the_conformance_suite_need_no_package_of_the_test_extra(torch_alone, wheel, tmp_path):
    (tmp_path / "test_marked.py").write_text(MARKED)
    (tmp_path / "mine.py").write_text("def neg(grad_y, x):\n    return -grad_y\n")
    words = ("-p", "backprop_rules.pytest_plugin", "-p", "no:cacheprovider", "--backprop-target", "mine", "--pyargs")
    code = "import sys; sys.path.insert(0, ''); import pytest; sys.exit(pytest.main())"
    done = from_the_wheel(torch_alone, wheel, tmp_path, code, *words, "test_marked.py", "backprop_rules.conformance")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"2 passed, {len(CATALOGUE) - 1} skipped" in done.stdout
