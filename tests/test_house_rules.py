"""The rules of the house that a machine can read."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from backprop_rules import CATALOGUE, Rule

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("backprop_rules/**/*.py"), *ROOT.glob("tests/**/*.py"), ROOT / "conftest.py"])
# Written backwards, so that this file does not hold the words itself.
WORDS = [word[::-1] for word in ("lota", "lotr", "esolclla", "esolcsi", "xorppa")]
CHOSEN_TOLERANCES = re.compile(rf"\b({'|'.join(WORDS)})\b")

in_processes = pytest.mark.xdist_group("processes")
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


# The house wants 15,000: no more than there were when it was last measured.
MOST_LINES = 40_032


def test_the_package_grows_no_longer():
    package = [path for path in SOURCES if path.is_relative_to(ROOT / "backprop_rules")]
    assert sum(len(path.read_text().splitlines()) for path in package) <= MOST_LINES


@every_source
def test_no_file_is_longer_than_four_hundred_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@every_source
def test_no_tolerance_is_chosen(path):
    assert not CHOSEN_TOLERANCES.findall(path.read_text())


@every_source
def test_functions_have_at_most_40_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 40, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", sorted(ROOT.glob("backprop_rules/catalogue/*.py")), ids=lambda path: path.stem)
def test_chapters_have_at_most_200_lines(path):
    assert len(path.read_text().splitlines()) <= 200


def test_a_rule_has_at_most_10_fields():
    assert len(dataclasses.fields(Rule)) <= 10


def test_no_test_of_the_properties_names_a_rule():
    text = (ROOT / "tests" / "test_properties.py").read_text()
    assert not [name for name in CATALOGUE if re.search(rf"['\"]{name}['\"]", text)]


@pytest.fixture
def printed_by(torch_alone):
    def printed_by(code):
        done = torch_alone.run("-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return printed_by


@in_processes
def test_importing_the_package_loads_neither_hypothesis_nor_the_command_line(printed_by):
    loaded = "[name for name in ('hypothesis', 'typer', 'rich', 'pytest') if name in sys.modules]"
    assert printed_by(f"import sys, backprop_rules; print({loaded})") == "[]"


@in_processes
def test_importing_the_package_takes_under_150_ms_beside_torch(printed_by):
    code = "import torch, time; start = time.process_time(); import backprop_rules; print(time.process_time() - start)"
    assert min(float(printed_by(code)) for _ in range(3)) < 0.150
