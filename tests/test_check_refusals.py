"""What the reference oracle refuses, and in which words."""

import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from backprop_rules import InputError, check, check_function
from backprop_rules.layout import LAYOUTS, arranged
from backprop_rules.report.case import FORMAT, load, save
from backprop_rules.strategies.point import Point
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
    "a definition of more outputs": (
        lambda: check(relu, forward=torch.relu, definition=lambda x: (x, x, x), example=(vector(),)),
        f"forward gives {vector().numel()} elements, and the definition {3 * vector().numel()} numbers",
    ),
    "a definition of fewer outputs": (
        lambda: check(
            relu, forward=lambda x: (x, x.sin(), x), definition=lambda x: (x, np.sin(x)), example=(vector(),)
        ),
        f"forward gives {3 * vector().numel()} elements, and the definition {2 * vector().numel()} numbers",
    ),
    "a definition of none": (
        lambda: check(relu, forward=lambda x: (x, x.sin()), definition=lambda x: None, example=(vector(),)),
        "and the definition 0 numbers",
    ),
    "a definition of a dict": (
        lambda: check(relu, forward=torch.relu, definition=lambda x: {"y": x}, example=(vector(),)),
        "the definition raises TypeError: cannot create arb from type <class 'dict'>",
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


NUMBER = torch.ones((), dtype=torch.float64)
SAVED = (FORMAT, "relu", (NUMBER,), (NUMBER,), {})
BROKEN = {
    "another format": ((2, *SAVED[1:]), "it has format 2, and this version reads 3"),
    "no numbers": ((*SAVED[:2], (NUMBER.to("meta"),), (NUMBER,), {}), "a primal or a cotangent in it is no tensor of"),
    "another layout": ((*SAVED[:2], (torch.eye(2).to_sparse(),), (NUMBER,), {}), "in it is no tensor of numbers"),
    "no tensor": ((*SAVED[:3], (1.0,), {}), "a primal or a cotangent in it is no tensor of numbers"),
    "too little": (SAVED[:4], "ValueError: not enough values to unpack"),
    "code": ((FORMAT, print), "it holds something else"),
    "another function": ((FORMAT, "silu", *SAVED[2:]), "is a case of silu with 1 primals, not of relu"),
    "another count": (
        (FORMAT, "relu", (NUMBER, NUMBER), (NUMBER,), {}),
        "is a case of relu with 2 primals, not of relu",
    ),
}


def refused(case, tmp_path):
    if isinstance(case, bytes):
        (tmp_path / "case.pt").write_bytes(case)
    else:
        torch.save(case, tmp_path / "case.pt")
    with pytest.raises(InputError) as refusal:
        check(relu, "relu", cases=[tmp_path / "case.pt"], only_cases=True)
    assert re.search(r"case\.pt is (no saved case: |a case of )", str(refusal.value))
    return str(refusal.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_case_that_is_broken_is_refused_in_words(name, tmp_path):
    case, words = BROKEN[name]
    assert words in refused(case, tmp_path)


def test_a_file_that_is_no_case_is_refused_in_words(tmp_path):
    for text, words in (
        (b"", "EOFError"),
        (b"[" * 100_000, "it holds something else"),
        (b"PK\x03\x04", "RuntimeError"),
    ):
        assert words in refused(text, tmp_path)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int8])
def test_a_case_is_read_as_it_was_saved(how, dtype, tmp_path):
    x = arranged(torch.tensor([[1, 2, 3]]).to(dtype), how, [2, 3])
    subject = SimpleNamespace(name="relu", names=("x", "weight"))
    given = Point((x, None), (x.conj(),), {"dtype": dtype, "by": 1 + 2j, "sizes": (1, 2), "like": None})
    save(subject, given, tmp_path / "case.pt")
    found = load(tmp_path / "case.pt", subject)
    (read, nothing), (g,) = found.leaves, found.grads
    assert nothing is None and (read.dtype, read.stride(), read.storage_offset()) == (
        dtype,
        x.stride(),
        x.storage_offset(),
    )
    assert read.equal(x) and g.equal(x.conj()) and found.params == given.params


def test_code_that_ends_the_program_is_refused_in_words():
    def form(grad_y, x):
        raise SystemExit(0)

    x = torch.ones(3)
    with pytest.raises(InputError, match=r"ends the program, by SystemExit: 0 \(test_check_refusals.py, line "):
        assert_gradients((2 * x,), forward=lambda x: x * x, primals=(x,), grad_y=x, also=form)


@pytest.mark.parametrize("forward", [jnp.tanh, lambda x: jnp.power(x, 2)])
def test_a_forward_of_jaxs_arrays_is_told_to_be_a_definition(forward):
    with pytest.raises(InputError, match=r"a function of JAX or NumPy arrays is a definition, with np"):
        check(lambda g, x: g, forward=forward, example=(jnp.ones(3),))


def test_an_error_that_speaks_of_arrays_says_nothing_of_a_definition():
    def forward(x):
        raise ValueError("there is no ndarray in numpy.txt, nor in jax.txt")

    with pytest.raises(InputError) as refusal:
        check(lambda g, x: g, forward=forward, example=(vector(),))
    assert "definition" not in str(refusal.value)
    with pytest.raises(InputError, match="NumPy arrays is a definition"):
        check(lambda g, x: g, forward=lambda x: np.ones(3) * x, example=(vector(),))
