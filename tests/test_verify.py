"""What commands say, and exit with, where a rule is neither right nor wrong, or they cannot write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT
from typer.testing import CliRunner

from backprop_rules import verify
from backprop_rules.checking import tried
from backprop_rules.cli.verify import app


def ended(*words):
    done = CliRunner().invoke(app, ["verify", *words, "--examples", "5", "--jobs", "1"])
    return done.exit_code, done.output


def test_where_nothing_was_asked_it_says_so():
    code, out = ended("relu", "--device", "meta")
    assert code == 5
    assert ": 1 not asked. Seed 0." in out
    assert "relu: nothing was asked on meta" in out


@pytest.mark.parametrize(
    ("name", "value", "verdict"), [("interrupted", True, "not finished"), ("spoke", {}, "inconclusive")]
)
def test_what_is_not_known_is_not_called_wrong(name, value, verdict, monkeypatch):
    def cut_short(*asked):
        outcome, finding, mistake = tried(*asked)
        setattr(outcome, name, value)
        return outcome, finding, mistake

    monkeypatch.setattr(verify, "tried", cut_short)
    code, out = ended("neg", "--device", "cpu")
    assert code == 4, out
    assert f": 1 {verdict}. Seed 0." in out
    assert "wrong" not in out


LIST = f"{sys.executable} -m backprop_rules list"
VERIFY = f"{sys.executable} -m backprop_rules verify neg --examples 5 --jobs 1 --device cpu"
WHERE = {
    "closed": (f"{LIST} >&-", 2, "backprop-rules: the output is closed, "),
    "full": (f"{LIST} > /dev/full", 2, "backprop-rules: the output cannot be written: No space left on device. "),
    "letters are missing": (f"PYTHONIOENCODING=ascii {LIST} > letters", 0, ""),
    "errors are closed": (f"{VERIFY} 2>&-", 0, ""),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize("name", WHERE)
def test_an_output_that_cannot_be_written_ends_in_words(name, tmp_path):
    command, code, said = WHERE[name]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, shell=True, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
    assert name != "letters are missing" or "\\u0233" in (tmp_path / "letters").read_text()
