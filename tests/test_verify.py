"""What `verify` says, and exits with, where a rule is neither right nor wrong."""

import pytest
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
