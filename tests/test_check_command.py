"""`backprop-rules check`, typed as a user would."""

import json
import re
from functools import partial

import pytest

pytestmark = pytest.mark.xdist_group("processes")

MINE = """
import torch

def right(grad_y, x):
    return grad_y * (x > 0)

def wrong(grad_y, x):
    return grad_y.clamp(min=0)

def raises(grad_y, x):
    raise ValueError("no such key")

def exits(grad_y, x):
    raise SystemExit(0)

def exits_at_times(grad_y, x):
    if (x < -2).any():
        raise SystemExit(0)
    return grad_y * (x > 0)

def nothing(grad_y, x):
    return x * float("nan")

def undefined(x):
    return torch.sqrt(-x * x - 1)

def hides(x):
    return x * x.sin().detach()

layer = torch.nn.Linear(3, 2)
call = (torch.tensor([-1.5, 0.5, 2.0]),)

class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y
"""


@pytest.fixture
def run(all_loaded, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "exiting.py").write_text("raise SystemExit(5)")

    return partial(all_loaded.run, "-m", "backprop_rules", "check", cwd=tmp_path)


def test_a_right_backward_exits_0(run):
    done = run("mine:right", "--rule", "relu", "--max-examples", "50")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("relu: right.\n")


def test_a_wrong_one_exits_1_and_its_case_is_saved_replayed_and_tried_first(run, tmp_path):
    first = run("mine:wrong", "--rule", "relu", "--max-examples", "50")
    assert first.returncode == 1
    (saved,) = (tmp_path / ".backprop_rules").iterdir()
    assert (
        f"    replay    backprop-rules check mine:wrong --rule relu --case {saved.relative_to(tmp_path)}\n"
        in first.stdout
    )
    again = run("mine:wrong", "--rule", "relu", "--case", str(saved))
    assert again.returncode == 1
    assert "\n1 point in float64" in again.stdout
    assert "the cotangent is clamped at 0" in run("mine:wrong", "--rule", "relu", "--max-examples", "50").stdout
    assert run("mine:right", "--rule", "relu", "--case", str(saved)).returncode == 0


def test_a_function_or_a_module_may_be_given_with_an_example_alone(run, tmp_path):
    alone = "--example", "mine:call"
    assert run("mine:layer", *alone).stdout.startswith("Linear: right.\n")
    done = run("mine:hides", *alone)
    (saved,) = (tmp_path / ".backprop_rules").iterdir()
    assert (done.returncode, "hidden from autograd is `x.sin().detach()`" in done.stdout) == (1, True)
    assert run("mine:hides", *alone, "--case", str(saved)).returncode == 1
    assert run("mine:hides", "--forward", "mine:hides", *alone).returncode == 0  # where it is meant


def test_a_case_that_is_mended_is_forgotten(run, tmp_path):
    run("mine:wrong", "--rule", "relu", "--max-examples", "50")
    (tmp_path / "mine.py").write_text(MINE.replace("grad_y.clamp(min=0)", "grad_y * (x > 0)"))
    assert run("mine:wrong", "--rule", "relu", "--max-examples", "50").returncode == 0
    assert not list((tmp_path / ".backprop_rules").iterdir())


def test_a_case_is_kept_until_it_passes_under_the_same_question(run, tmp_path):
    run("mine:wrong", "--rule", "relu", "--max-examples", "50")
    (saved,) = (tmp_path / ".backprop_rules").iterdir()
    for words in (("--rule", "neg"), ("--forward", "torch:relu", "--example", "mine:call"), ("--dtype", "float32")):
        (tmp_path / "mine.py").write_text(MINE)
        run("mine:wrong", *(("--rule", "relu") * (words[0] == "--dtype")), *words, "--max-examples", "5")
        assert saved.exists()
    (tmp_path / "mine.py").write_text(MINE.replace("grad_y.clamp(min=0)", "grad_y * (x > 0)"))
    assert run("mine:wrong", "--rule", "relu", "--max-examples", "5", "--dtype", "float32").returncode == 0
    assert saved.exists()
    assert run("mine:wrong", "--rule", "relu", "--max-examples", "5").returncode == 0
    assert not saved.exists()


@pytest.mark.parametrize("text", [b"", b"{", b'{"format": 1}', None])
def test_a_saved_case_that_cannot_be_tried_is_told_and_blocks_nothing(run, tmp_path, text):
    run("mine:wrong", "--rule", "relu", "--max-examples", "5")
    (saved,) = (tmp_path / ".backprop_rules").iterdir()
    saved.write_bytes(saved.read_bytes().replace(b"relu", b"silu") if text is None else text)
    done = run("mine:right", "--rule", "relu", "--max-examples", "5")
    assert done.returncode == 0, done.stderr
    done = run("mine:wrong", "--rule", "relu", "--max-examples", "5")
    assert done.returncode == 1
    assert done.stderr.startswith(f"the case that was saved is not tried: {saved.relative_to(tmp_path)}")


def test_the_replay_asks_the_same_question(run):
    asked = "--forward torch:relu --example mine:call --dtype float32 --convention catalogue --accuracy catalogue"
    done = run("mine:wrong", *asked.split(), "--device", "cpu", "--framework", "torch", "--max-examples", "5")
    assert done.returncode == 1, done.stderr
    for word in ("--device cpu", "--framework torch", *re.findall(r"--\w+ \S+", asked)):
        assert f" {word} " in done.stdout


def test_the_other_formats(run):
    done = run("mine:wrong", "--rule", "relu", "--max-examples", "50", "--output-format", "json")
    assert json.loads(done.stdout)["mistake"]["name"] == "masked by the cotangent"
    done = run("mine:wrong", "--rule", "relu", "--max-examples", "50", "--output-format", "github")
    assert re.match(r"::error file=mine\.py,line=\d+,title=mine:wrong::relu: wrong\.%0A", done.stdout)
    assert done.stdout.count("\n") == 1
    done = run("mine:Function", "--rule", "relu", "--max-examples", "50", "--output-format", "github")
    assert re.match(r"::error file=mine\.py,line=\d+,title=mine:Function::relu: wrong\.%0A", done.stdout)


def test_a_function_that_is_no_rule(run):
    done = run("mine:right", "--forward", "torch:relu", "--example", "mine:call", "--max-examples", "20")
    assert done.returncode == 0, done.stdout + done.stderr


def test_where_nothing_can_be_said_it_exits_4(run):
    done = run("mine:nothing", "--forward", "mine:undefined", "--example", "mine:call", "--max-examples", "20")
    assert done.returncode == 4, done.stdout + done.stderr


def test_a_backward_that_ends_the_program_at_some_points_is_wrong(run):
    done = run("mine:exits_at_times", "--forward", "torch:relu", "--example", "mine:call", "--max-examples", "20")
    assert done.returncode == 1
    assert "SystemExit: 0" in done.stdout


REFUSALS = {
    "a module that is not there": (
        ("other:right", "--rule", "relu"),
        "the module 'other' cannot be imported: ModuleNotFound",
    ),
    "a function that is not there": (
        ("mine:rigth", "--rule", "relu"),
        "the module 'mine' has no 'rigth'. It has: Function, exits, exits_at_times, hides, layer, nothing,",
    ),
    "no function named": (("mine", "--rule", "relu"), "'mine' names no function: write package.module:function."),
    "no rule": (("mine:right",), "nothing to hold the backward against"),
    "an unknown rule": (("mine:right", "--rule", "rellu"), "there is no rule 'rellu'. Did you mean 'relu'?"),
    "a backward that raises": (
        ("mine:raises", "--forward", "torch:relu", "--example", "mine:call"),
        "raises: the backward raises ValueError: no such key (mine.py, line 11), for the example itself",
    ),
    "a backward that ends the program": (
        ("mine:exits", "--forward", "torch:relu", "--example", "mine:call"),
        "exits: the backward raises SystemExit: 0 (mine.py, line 14), for the example itself",
    ),
    "a module that ends the program": (
        ("exiting:right", "--rule", "relu"),
        "the module 'exiting' cannot be imported: SystemExit: 5 (exiting.py, line 1).",
    ),
    "a case that is not there": (("mine:right", "--rule", "relu", "--case", "lost.json"), "there is no file"),
    "a case that is none": (("mine:right", "--rule", "relu", "--case", "mine.py"), "mine.py is no saved case"),
    "an unknown dtype": (("mine:right", "--rule", "relu", "--dtype", "float31"), "there is no dtype 'float31'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_usage_error_is_one_line_and_exits_2(run, case, tmp_path):
    words, message = REFUSALS[case]
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"backprop-rules: {message}")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not (tmp_path / ".backprop_rules").exists()
