"""What the reference oracle refuses, and in which words."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from backprop_rules import InputError, check, check_function
from backprop_rules.testing import assert_gradients


def relu(grad_y, x):
    return grad_y * (x > 0)


def vector():
    return torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64)


def by_autograd(grad_y, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(x.sin(), x, grad_y)


def broken(grad_y, x):
    raise ValueError("no such key")


REFUSALS = {
    "nothing to hold it against": (
        lambda: check(relu),
        "nothing to hold the backward against: give the name of a rule",
    ),
    "no example": (lambda: check(relu, forward=torch.relu), "an example is missing"),
    "an unknown rule": (lambda: check(relu, "rellu"), "there is no rule 'rellu'. Did you mean 'relu'?"),
    "a framework that is no name": (
        lambda: check(relu, "relu", framework=["torch"]),
        "there is no framework '['torch']'. Did you mean 'torch'? Known: jax, numpy, torch.",
    ),
    "no function": (lambda: check(3, "relu"), "a backward is a function; got int 3."),
    "both a rule and a forward": (
        lambda: check(relu, "relu", forward=torch.relu),
        "give rule, or forward and definition",
    ),
    "a backward that raises": (
        lambda: check(broken, forward=torch.relu, example=(vector(),)),
        "broken: the backward raises ValueError: no such key (test_check_refusals.py, line",
    ),
    "a backward that needs a graph": (
        lambda: check(by_autograd, forward=torch.sin, example=(vector(),)),
        "It is called as f(grad_y, x), without a graph, as autograd calls it: inside, torch.enable_grad() makes one.",
    ),
    "too many gradients": (
        lambda: check(lambda grad_y, x: (grad_y, grad_y), forward=torch.relu, example=(vector(),)),
        "the backward returns 2 gradients for 1 primals",
    ),
    "too few primals": (
        lambda: check(relu, "matmul"),
        "matmul: the backward takes the primals a, but the rule has a, b.",
    ),
    "a param that it needs": (lambda: check(relu, "softmax"), "softmax: relu has no param dim, which the rule needs."),
    "an example of integers": (
        lambda: check(relu, forward=torch.relu, example=(torch.tensor([1, 2]),)),
        "relu: the example has no floating-point or complex array",
    ),
    "an example of numbers": (
        lambda: check(relu, forward=torch.relu, example=(3.0,)),
        "an example must be an array of torch or jax or numpy",
    ),
    "a forward that is not the definition": (
        lambda: check(relu, forward=torch.relu, definition=lambda x: x * 2, example=(vector(),)),
        "relu: forward and definition are different functions",
    ),
    "an unknown convention": (lambda: check(relu, "relu", convention="mine"), "there is no convention 'mine'"),
    "a dtype that the rule has not": (
        lambda: check(relu, "relu", dtypes=["complex64"]),
        "none of the dtypes asked for",
    ),
    "a forward of NumPy arrays": (
        lambda: check(relu, forward=np.linalg.inv, example=(vector(),)),
        "NumPy arrays is a definition",
    ),
    "a forward of whole numbers": (
        lambda: check(relu, forward=torch.argmax, example=(vector(),)),
        "the forward returns a tensor of torch.int64, which has no gradient",
    ),
    "an example that is no call": (
        lambda: check(relu, forward=torch.relu, example={"x": vector()}),
        "example is one call of the function, the tuple of its arrays, as in example=(x, w); got a dict.",
    ),
    "a sparse example": (
        lambda: check(relu, forward=torch.relu, example=(torch.eye(3).to_sparse(),)),
        "x of the example has the layout torch.sparse_coo",
    ),
    "params that are no names": (lambda: check(relu, "relu", params=[1]), "params is a dict of names and values"),
    "a rule that is no name": (lambda: check(relu, torch.relu), "rule is the name of a rule, as in rule='linear'"),
    "part of a point": (lambda: check(relu, "relu", max_examples=1.5), "max_examples must be a number of points"),
    "a module": (lambda: check(torch.nn.ReLU(), "relu"), "a module computes forward: give its backward"),
    "an unknown option": (
        lambda: check_function(relu, "relu", max_example=3),
        "there is no option 'max_example'. Did you mean 'max_examples'?",
    ),
    "a backward in the place of a function": (
        lambda: check_function(relu, forward=torch.relu),
        "takes a parameter called grad_y, as a backward does",
    ),
    "a function without a signature": (lambda: check_function(torch.exp, "exp"), "Wrap it in a lambda."),
    "sums in whole numbers": (lambda: check(relu, "relu", accumulate="int64"), "there is no dtype 'int64'"),
    "an unknown accuracy": (lambda: check(relu, "relu", accuracy="high"), "there is no accuracy 'high'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_asked_is_refused_in_words(case):
    asked, words = REFUSALS[case]
    with pytest.raises(InputError) as refusal:
        asked()
    assert words in str(refusal.value)


NUMBER = {"dtype": "float64", "device": "cpu", "shape": [], "stored": [], "layout": "contiguous", "values": ["0x1p0"]}
SAVED = {"format": 2, "operation": "relu", "primals": [NUMBER], "params": {}, "grad_y": [NUMBER]}
BROKEN = {
    "another device": ({"device": "nope"}, "there is no device 'nope'"),
    "no numbers": ({"device": "meta"}, "a tensor of shape [] is told, contiguous on meta,"),
    "another layout": ({"layout": "zigzag"}, "a tensor of shape [] is told, zigzag on cpu,"),
    "another shape": ({"shape": [-1]}, "a tensor of shape [-1] is told, contiguous on cpu, and one of [] is stored"),
    "too many values": ({"values": [1.0, 2.0]}, "is invalid for input of size 2"),
    "a number too large": ({"values": [10**400]}, "OverflowError"),
    "digits too large": ({"values": ["0x1p99999"]}, "OverflowError"),
}


def refused(text, tmp_path):
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(InputError) as refusal:
        check(relu, "relu", cases=[tmp_path / "case.json"], only_cases=True)
    assert "case.json is no saved case: " in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_case_that_is_broken_is_refused_in_words(name, tmp_path):
    change, words = BROKEN[name]
    case = deepcopy(SAVED)
    case["primals"][0].update(change)
    assert words in refused(json.dumps(case), tmp_path)


def test_a_case_that_is_nested_too_deeply_is_refused_in_words(tmp_path):
    assert "RecursionError" in refused("[" * 100_000, tmp_path)


def test_a_case_on_a_device_that_is_not_here_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    case = {**SAVED, "grad_y": [{**NUMBER, "device": "cuda"}]}
    assert "finds no CUDA GPU here" in refused(json.dumps(case), tmp_path)


def test_code_that_ends_the_program_is_refused_in_words():
    def form(grad_y, x):
        raise SystemExit(0)

    x = torch.ones(3)
    with pytest.raises(InputError, match=r"ends the program, by SystemExit: 0 \(test_check_refusals.py, line "):
        assert_gradients((2 * x,), forward=lambda x: x * x, primals=(x,), grad_y=x, also=form)
