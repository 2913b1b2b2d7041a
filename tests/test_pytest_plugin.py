"""A marked backward is a test; a module of backwards is a conformance suite."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from plugin_words import LOADED
from processes import ROOT, result_of

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.xdist_group("processes")

MARKED = """
import pytest

@pytest.mark.backprop_rule("relu", dtypes=["float64"], max_examples=30)
def my_relu(grad_y, x):
    return grad_y * (x > 0)

@pytest.mark.backprop_rule("relu", dtypes=["float64"], max_examples=30)
def clamped(grad_y, x):
    return grad_y.clamp(min=0)
"""


@pytest.fixture
def run(all_loaded, pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*words):
        words = ("-m", "pytest", *LOADED, "-p", "no:cacheprovider", *words)
        return result_of(all_loaded.run(*words, cwd=pytester.path, path=(pytester.path, ROOT)))

    return run


def test_a_marked_function_is_a_test_and_its_failure_is_the_report(pytester, run):
    pytester.makepyfile(MARKED)
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "relu: wrong: * in the place of * (masked by the cotangent).",
            "*likely    the cotangent is clamped at 0*",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "checking.py" not in result.stdout.str()


ALL_KINDS = """
import pytest

@pytest.mark.backprop_rule("relu")
def raising(grad_y, x):
    raise RuntimeError("kaboom")

@pytest.mark.backprop_rule(forward=lambda x: x / 0, example=([1.0],))
def saying_nothing(grad_y, x):
    return x

@pytest.mark.backprop_rule("relu")
@pytest.mark.xfail(raises=AssertionError, strict=True)
def known_to_be_wrong(grad_y, x):
    return grad_y
"""


def test_the_summary_says_what_was_found_and_a_wrong_one_is_an_assertion_that_fails(pytester, run):
    pytester.makepyfile(ALL_KINDS.replace("[1.0]", "__import__('torch').ones(2)"))
    result = run()
    result.assert_outcomes(failed=2, xfailed=1)
    result.stdout.fnmatch_lines(["relu: wrong: backward raises RuntimeError: kaboom (*).", "*: inconclusive: *."])


def test_the_command_line_goes_before_the_mark(pytester, run):
    pytester.makepyfile(MARKED)
    result = run(
        "--backprop-dtype", "float32", "--backprop-max-examples", "20", "-k", "clamped", "--backprop-device", "cpu"
    )
    result.stdout.fnmatch_lines(["*dtype=torch.float32*"])


def test_the_reports_are_written_under_xdist_too(pytester, run):
    pytester.makepyfile(MARKED)
    run("--backprop-report", "reports.json", "-n", "2").assert_outcomes(passed=1, failed=1)
    reports = json.loads((pytester.path / "reports.json").read_text())
    assert sorted(report["verdict"] for report in reports) == ["right", "wrong"]


def test_junit_properties_carry_rule_rung_and_seed(pytester, run):
    pytester.makepyfile(MARKED)
    run("--junitxml", "junit.xml", "--backprop-seed", "3")
    found = ET.parse(pytester.path / "junit.xml").getroot().iter("property")
    assert {(p.get("name"), p.get("value")) for p in found} == {("rule", "relu"), ("rung", "proved"), ("seed", "3")}


def test_a_question_that_cannot_be_asked_fails_in_words(pytester, run):
    pytester.makepyfile(MARKED.replace('"relu"', '"rellu"'))
    result = run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*there is no rule 'rellu'. Did you mean 'relu'?*"])


def test_a_report_that_cannot_be_written_is_refused_at_once(pytester, run):
    pytester.makepyfile(MARKED)
    result = run("--backprop-report", "nowhere/reports.json")
    result.stderr.fnmatch_lines(["*--backprop-report: there is no folder *nowhere*"])


BACKWARDS = """
def relu(grad_y, x):
    return grad_y * (x > 0)

def exp(grad_y, x):
    return grad_y * x
"""
SUITE = ("--pyargs", "backprop_rules.conformance", "--backprop-target", "backwards", "--backprop-max-examples", "20")


def test_an_implementation_is_held_to_the_conformance_suite(pytester, run):
    pytester.makepyfile(backwards=BACKWARDS)
    pytester.syspathinsert()
    result = run(*SUITE, "-rfs", "--backprop-dtype", "float64")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (1, 1)
    assert outcomes["skipped"] >= 45
    result.stdout.fnmatch_lines(["*backwards has no function matmul*"])
    assert "test_backward[exp] - Failed: exp: wrong" in result.stdout.str()
    result = run(*SUITE, "-k", "relu", "--backprop-dtype", "float23")
    assert "During handling" not in result.stdout.str()


def test_a_suite_of_numpy_functions_is_asked_with_its_arrays(pytester, run):
    pytester.makepyfile(backwards="import numpy\ndef relu(grad_y, x):\n    return numpy.where(x > 0, grad_y, x * 0)\n")
    pytester.syspathinsert()
    result = run(*SUITE, "-k", "relu")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*as framework="numpy" (--framework numpy) is not said*'])
    run(*SUITE, "-k", "relu", "--backprop-framework", "numpy").assert_outcomes(passed=1)


def test_known_failures_are_named_in_a_file(pytester, run):
    pytester.makepyfile(backwards=BACKWARDS)
    pytester.syspathinsert()
    (pytester.path / "known.txt").write_text("exp  # the derivative at the output\n")
    result = run(*SUITE, "--backprop-dtype", "float64", "--backprop-xfails-file", "known.txt")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["xfailed"]) == (1, 1)
    (pytester.path / "known.txt").write_text("expp\n")
    result = run(*SUITE, "--backprop-xfails-file", "known.txt")
    assert "there is no rule 'expp'. Did you mean 'exp'?" in result.stdout.str() + result.stderr.str()
    (pytester.path / "known.txt").write_bytes(b"\xff")
    result = run(*SUITE, "--backprop-xfails-file", "known.txt")
    assert "--backprop-xfails-file: known.txt cannot be read" in result.stdout.str() + result.stderr.str()


def test_a_target_that_cannot_be_imported_is_refused(run):
    result = run("--pyargs", "backprop_rules.conformance", "--backprop-target", "no_such_module")
    assert "no_such_module cannot be imported" in result.stdout.str() + result.stderr.str()
    assert result.ret in (2, 4)


IN_A_CLASS = """
import pytest

class TestMine:
    @pytest.mark.backprop_rule("relu")
    def relu(self, grad_y, x):
        return grad_y * (x > 0)
"""
VARIED = """
import pytest

@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.backprop_rule("relu")
def relu(grad_y, x):
    return grad_y * (x > 0)
"""


@pytest.mark.parametrize("text", [IN_A_CLASS, VARIED])
def test_a_mark_that_would_not_be_asked_is_an_error(text, pytester, run):
    pytester.makepyfile(text)
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*backprop_rule marks functions of a module; relu*would not be checked*"])


STACKED = """
import pytest

@pytest.mark.backprop_rule("abs", dtypes=["float64"], max_examples=20)
@pytest.mark.backprop_rule("relu", dtypes=["float64"], max_examples=20)
def both(grad_y, x):
    return grad_y * (x > 0)
"""


def test_each_of_several_marks_is_a_test(pytester, run):
    pytester.makepyfile(STACKED)
    result = run("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines_random(["*::both?relu? PASSED*", "*::both?abs? FAILED*"])


@pytest.mark.parametrize("mark", ["{}", "[{}]"])
def test_a_mark_of_a_whole_module_is_an_error(mark, pytester, run):
    mark = mark.format('pytest.mark.backprop_rule("relu")')
    pytester.makepyfile(f"import pytest\npytestmark = {mark}\ndef relu_backward(grad_y, x):\n    return grad_y\n")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*backprop_rule marks functions of a module; pytestmark*would not be checked*"])


def test_a_target_without_a_rule_s_name_is_refused(pytester, run):
    pytester.makepyfile(backwards="from torch import exp, sin\n")
    pytester.syspathinsert()
    result = run(*SUITE)
    assert result.ret != 0
    assert "defines no function that is named after a rule" in result.stdout.str() + result.stderr.str()


def test_an_autograd_function_can_be_marked(pytester, run):
    pytester.makepyfile(
        """
        import pytest
        import torch

        @pytest.mark.backprop_rule("exp", dtypes=["float64"], max_examples=20)
        class MyExp(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x.exp())
                return x.exp()

            @staticmethod
            def backward(ctx, grad_y):
                return grad_y * ctx.saved_tensors[0]
        """
    )
    run().assert_outcomes(passed=1)


HELD = """
import torch
from backprop_rules.testing import assert_gradients

def test_a_product():
    x, w, g = (torch.linspace(-1, 1, n).reshape(shape) for n, shape in ((12, (3, 4)), (8, (4, 2)), (6, (3, 2))))
    off = FACTOR
    assert_gradients((g @ w.T * off, x.T @ g), forward=lambda x, w: x @ w, primals=(x, w), grad_y=g)
"""


def test_accuracies_are_kept_and_shown_where_they_got_worse(pytester, run):
    pytester.makepyfile(HELD.replace("FACTOR", "1.0"))
    first = run("--backprop-accuracy-save", "before.json", "--junitxml", "report.xml")
    first.assert_outcomes(passed=1)
    (name, other) = sorted(json.loads((pytester.path / "before.json").read_text()))
    assert name.endswith("::test_a_product w") and other.endswith("::test_a_product x")
    properties = {p.get("name") for p in ET.parse(pytester.path / "report.xml").iter("property")}
    assert {"gradient of w", "gradient of x"} <= properties
    pytester.makepyfile(HELD.replace("FACTOR", "(1 + 2**-23)"))
    second = run("--backprop-accuracy-compare", "before.json")
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines(
        [
            "*accuracy of gradients*",
            "*::test_a_product x: * % of its allowance, * % before",
            "1 less accurate than before, 1 as accurate or more, of 2",
        ]
    )


def test_files_of_an_earlier_run_stay_where_no_test_ran(pytester, run):
    pytester.makepyfile(MARKED)
    words = ("--backprop-report", "reports.json", "--backprop-accuracy-save", "accuracies.json")
    for path in (words[1], words[3]):
        (pytester.path / path).write_text("earlier")
    for more in (("--collect-only",), ("-k", "nosuch"), ("--fixtures",), ("no_such_file.py",)):
        run(*words, *more)
        assert {(pytester.path / path).read_text() for path in (words[1], words[3])} == {"earlier"}
    run(*words)
    assert len(json.loads((pytester.path / "reports.json").read_text())) == 2
    assert not list(pytester.path.glob("*.unfinished"))


INTERRUPTED = """
import pytest
from backprop_rules import check

calls = []

def relu(grad_y, x):
    calls.append(x)
    if len(calls) == 20:
        raise KeyboardInterrupt
    return grad_y * (x > 0)

marked = pytest.mark.backprop_rule("relu")(relu)

def test_called():
    check(relu, "relu")
"""


@pytest.mark.parametrize("which", ["marked", "test_called"])
def test_an_interrupt_in_a_check_ends_the_run_and_leaves_accuracies(which, pytester, run):
    pytester.makepyfile(test_a=HELD.replace("FACTOR", "1.0"), test_b=INTERRUPTED, test_c="def test_after(): pass")
    (pytester.path / "accuracies.json").write_text("earlier")
    result = run("--backprop-accuracy-save", "accuracies.json", "-k", f"test_a_product or {which} or test_after")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*accuracies.json is not written: not all tests ran.*"])
    assert (pytester.path / "accuracies.json").read_text() == "earlier"


@pytest.mark.parametrize("which", ["marked", "test_called"])
@pytest.mark.parametrize("at", [45, 70, 110])  # at a point, while a smaller counterexample, and a name, are looked for
def test_an_interrupt_in_a_check_that_has_found_something_fails_and_ends_the_run(which, at, pytester, run):
    found = INTERRUPTED.replace("== 20", f"== {at}").replace("(x > 0)", "(x > 0) * 2")
    pytester.makepyfile(test_b=found, test_c="def test_after(): pass")
    result = run("-k", f"{which} or test_after")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*interrupted*", "*! Interrupted: a check was interrupted !*"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_file_that_cannot_be_written_is_an_error_in_words(pytester, run):
    pytester.makepyfile(HELD.replace("FACTOR", "1.0"))
    result = run("--backprop-accuracy-save", "/dev/full")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["ERROR: /dev/full cannot be written: No space left on device. *"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


IN_FIXTURES = """
import pytest
import torch
from backprop_rules.testing import assert_gradients

def held(name, x=2.0):
    x = torch.full((2,), x)
    forward = eval(f"lambda {name}: {name} * {name}")
    assert_gradients((2 * x,), forward=forward, primals=(x,), grad_y=torch.ones(2))

@pytest.fixture
def around():
    held("before")
    yield
    held("after")

def test_first(around):
    held("inside")

def test_second():
    held("zero", 0.0)
"""


def test_what_fixtures_assert_belongs_to_their_own_test_and_no_slope_is_null(pytester, run):
    pytester.makepyfile(test_it=IN_FIXTURES)
    run("--backprop-accuracy-save", "found.json").assert_outcomes(passed=2)
    text = (pytester.path / "found.json").read_text()
    found = {name.partition("::")[2]: figures for name, figures in json.loads(text).items()}
    first = {"test_first before", "test_first inside (2)", "test_first after (3)"}
    assert set(found) == {*first, "test_second zero"}
    assert found["test_second zero"]["slope"] is None and "NaN" not in text
    result = run("--backprop-accuracy-compare", "found.json")
    result.stdout.fnmatch_lines(["0 less accurate than before, 4 as accurate or more, of 4"])


def test_nothing_is_kept_for_a_plugin_that_is_not_there(all_loaded):
    count = "from backprop_rules.report.agreement import ASSERTED\nprint(len(ASSERTED))"
    for first, kept in (("", 0), ("import backprop_rules.pytest_plugin\n", 1)):
        done = all_loaded.run("-c", f"{first}{IN_FIXTURES}held('x')\n{count}", PYTEST_CURRENT_TEST="a test")
        assert done.stdout == f"{kept}\n", done.stderr


def test_a_file_of_accuracies_that_is_none_is_refused(pytester, run):
    pytester.makepyfile(HELD.replace("FACTOR", "1.0"))
    (pytester.path / "before.json").write_text("[]")
    (pytester.path / "broken.json").write_text('{"a x": {"used": "much"}}')
    (pytester.path / "deep.json").write_text("[" * 100_000)
    for words, said in (
        (("--backprop-accuracy-compare", "broken.json"), "broken.json was not written by --backprop-accuracy-save"),
        (("--backprop-accuracy-compare", "deep.json"), "deep.json cannot be read"),
        (("--backprop-accuracy-compare", "before.json"), "before.json was not written by --backprop-accuracy-save"),
        (("--backprop-accuracy-compare", "none.json"), "none.json cannot be read"),
        (("--backprop-accuracy-save", "nowhere/file.json"), "there is no folder"),
    ):
        result = run(*words)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{said}*"])
