"""How many threads torch computes in can be said, for the tests as for `verify`."""

from pathlib import Path

import pytest
import torch
from processes import result_of

from backprop_rules import cli

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.xdist_group("processes")

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text()


@pytest.fixture
def run(all_loaded, pytester, monkeypatch):
    """Return a function that runs pytest with the house's conftest on a test that wants so many threads."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(CONFTEST)

    def run(wanted, *words):
        text = f"import torch\n\ndef test_threads():\n    assert torch.get_num_threads() == {wanted}"
        # A file that is changed within a second, and is as long as before, is taken for what was compiled of it then.
        file = pytester.makepyfile(**{f"test_{wanted}_threads": text})
        words = ("-m", "pytest", "-p", "no:cacheprovider", str(file), *words)
        return result_of(all_loaded.run(*words, cwd=pytester.path))

    return run


def test_the_tests_run_in_one_thread_unless_another_number_is_said(run):
    run(1).assert_outcomes(passed=1)
    run(2, "--threads", "2").assert_outcomes(passed=1)
    run(2, "--threads", "2", "-n", "1").assert_outcomes(passed=1)


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_pytest_refuses_other_numbers_in_words(run, threads):
    result = run(1, f"--threads={threads}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*'{threads}' is no number of threads; torch needs 1 or more: try --threads 1"])


@pytest.fixture
def verify(monkeypatch, capsys):
    """Return a function that runs `verify` and returns the exit code, what was printed, and the threads after it."""
    before = torch.get_num_threads()

    def verify(*words):
        monkeypatch.setattr("sys.argv", ["backprop-rules", "verify", "neg", "--examples", "5", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, "".join(capsys.readouterr()), torch.get_num_threads()

    yield verify
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("words", "threads"), [((), 1), (("--threads", "2"), 2), (("--threads", "2", "--jobs", "2"), 2)]
)
def test_verify_runs_in_the_threads_that_are_said(verify, words, threads):
    code, printed, after = verify(*words)
    assert (code, after) == (0, threads), printed


def test_verify_refuses_no_threads_in_words(verify):
    code, printed, _ = verify("--threads", "0")
    assert code == 2
    assert "--threads" in printed
    assert "greater than or equal to 1" in printed or "range x>=1" in printed
