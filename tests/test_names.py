"""The public names are those of `backprop_rules.__all__`: they are there, explained, and no others are used."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import backprop_rules
from backprop_rules import testing

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/**/*.[mp][dy]")),
]
# A module of the package, which printed counterexamples import.
MODULES = ["layout"]
NAMES = [*backprop_rules.__all__, *MODULES]

# Imports each name in a package that is not loaded yet; torch stays.
EACH_FIRST = """
import importlib, sys
for name in sys.argv[1:]:
    for module in [module for module in sys.modules if module.partition('.')[0] == 'backprop_rules']:
        del sys.modules[module]
    exec(f'from backprop_rules import {name}')
"""

every_name = pytest.mark.parametrize("name", NAMES)


def taken(text):
    """Return what a text imports from the package: the module, and the name."""
    lines = re.findall(r"^ *from (backprop_rules[\w.]*) import \(?([\w, ]+)", text, re.MULTILINE)
    whole = re.findall(r"^ *import (backprop_rules\.[\w.]+)", text, re.MULTILINE)
    return [(module, name.strip()) for module, names in lines for name in names.split(",")] + [(m, "") for m in whole]


@pytest.mark.xdist_group("processes")
def test_each_name_can_be_the_first_that_a_program_imports(torch_alone):
    done = torch_alone.run("-c", EACH_FIRST, *NAMES)
    assert done.returncode == 0, done.stderr


@every_name
def test_a_name_says_what_it_is(name):
    value = getattr(import_module("backprop_rules"), name)
    if name == "CATALOGUE":  # a dictionary, whose docstring is that of all dictionaries
        assert all(rule.summary for rule in value.values())
        return
    assert inspect.getdoc(value) and inspect.getdoc(value) != inspect.getdoc(type(value))


def test_the_names_for_testing_say_what_they_are():
    assert all(inspect.getdoc(getattr(testing, name)) for name in testing.__all__)


def test_docs_check_md_lists_the_names():
    section = (ROOT / "docs" / "check.md").read_text().partition("## What can be imported")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted([*NAMES, *testing.__all__])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_imports_public_names_alone(page):
    public = {("backprop_rules", name) for name in NAMES} | {(testing.__name__, name) for name in testing.__all__}
    assert set(taken(page.read_text())) <= public


def test_nothing_public_is_left_out():
    names = {name for name, value in vars(backprop_rules).items() if not isinstance(value, ModuleType)}
    public = {name for name in {*names, *backprop_rules._LATE} if not name.startswith("_")}
    assert public - {"Any", "TYPE_CHECKING", "import_module"} <= set(backprop_rules.__all__)


def test_what_is_loaded_late_can_be_completed_and_is_known_to_type_checkers():
    assert set(backprop_rules.__all__) <= set(dir(backprop_rules))
    source = Path(backprop_rules.__file__).read_text()
    known = source.partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    late = {*backprop_rules._LATE, "pictures"}
    assert {name for _, name in taken(known)} == late
