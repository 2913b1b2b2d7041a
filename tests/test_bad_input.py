"""Every refusal names the rule, the argument and both values, and says what to do next."""

import re

import pytest
import torch

from backprop_rules import CATALOGUE, InputError, find, unbroadcast, vjp

X = torch.ones(2, 3)
G = torch.ones(2, 2)

REFUSALS = {
    "integer primal": (
        lambda: vjp("neg", torch.ones(2), torch.arange(2)),
        "neg: primal x has dtype torch.int64, which has no gradient here; it takes float64, float32, float16, bfloat16, "
        "complex128, complex64. Convert it, as in x.to(torch.float64).",
    ),
    "bool primal": (
        lambda: vjp("relu", torch.ones(1), torch.tensor([True])),
        "relu: primal x has dtype torch.bool, which has no gradient here; it takes float64, float32, float16, bfloat16. "
        "Convert it, as in x.to(torch.float64).",
    ),
    "complex primal of a real rule": (
        lambda: vjp("relu", torch.ones(1), torch.tensor([1j])),
        "relu: primal x has dtype torch.complex64, which has no gradient here; it takes float64, float32, float16, "
        "bfloat16. Convert it, as in x.to(torch.float64).",
    ),
    "a list for a tensor": (
        lambda: vjp("neg", torch.ones(1), [1.0]),
        "neg: primal x must be a torch tensor; got list [1.0]. Use torch.as_tensor(x).",
    ),
    "shapes that do not fit": (
        lambda: vjp("matmul", G, X, X),
        "matmul: the primals do not fit together: a has shape (2, 3), b has shape (2, 3). They must match "
        "'... m? n, ... n p?'. torch says: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)",
    ),
    "an axis that is not there": (
        lambda: vjp("sum", torch.ones(()), X, dim=5),
        "sum: the primals do not fit together: x has shape (2, 3), dim=5. They must match '...'. torch says: "
        "Dimension out of range (expected to be in range of [-2, 1], but got 5)",
    ),
    "shapes that torch takes and the rule does not": (
        lambda: vjp("cross_entropy", torch.ones(()), torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.int64)),
        "cross_entropy: the primals do not match 'n? c, n?': x has shape (2, 3, 3), target has shape (2, 3). torch's "
        "forward takes them, the rule does not: bring them to one of these shapes first.",
    ),
    "a mask in the place of indices": (
        lambda: vjp("gather", torch.ones(1, 1, 1), torch.ones(1, 2, 1), torch.ones(1, 1, 1, dtype=torch.bool)),
        "gather: primal index holds indices, of dtype torch.int64; got torch.bool. Convert it, as in index.to(torch.int64).",
    ),
    "unknown rule": (
        lambda: vjp("matmull", G, X, X),
        f"there is no rule 'matmull'. Did you mean 'matmul'? Known: {', '.join(sorted(CATALOGUE))}.",
    ),
    "unknown param": (
        lambda: vjp("sum", torch.ones(()), X, dims=0),
        "there is no param of sum named 'dims'. Did you mean 'dim'? Known: dim, dtype, keepdim.",
    ),
    "param of another type": (
        lambda: vjp("pow", X, X, n="2"),
        "pow: param n must be a real number; got '2' (str).",
    ),
    "missing param": (
        lambda: vjp("pow", X, X),
        "pow: param n is missing; it must be a real number.",
    ),
    "cotangent of another shape": (
        lambda: vjp("sum", torch.ones(3), X, dim=1),
        "sum: the cotangent grad_y has shape (3,), but y has shape (2,); a cotangent has the shape of y, so make it with "
        "torch.ones_like(y) or alike.",
    ),
    "cotangent of another dtype": (
        lambda: vjp("neg", X.double(), X),
        "neg: the cotangent grad_y has dtype torch.float64, but y has dtype torch.float32; a cotangent has the dtype of "
        "y, so make it with torch.ones_like(y) or alike.",
    ),
    "cotangent on another device": (
        lambda: vjp("neg", X.to("meta"), X),
        "neg: the cotangent grad_y has device meta, but y has device cpu; a cotangent has the device of y, so make it "
        "with torch.ones_like(y) or alike.",
    ),
    "cotangent that is no tensor": (
        lambda: vjp("neg", 1.0, torch.ones(())),
        "neg: the cotangent grad_y must be a torch tensor; got float 1.0.",
    ),
    "too many primals": (
        lambda: vjp("neg", X, X, X),
        "neg: it takes 1 primals, x; got 2.",
    ),
    "missing primal": (
        lambda: vjp("matmul", G, X),
        "matmul: primal b is missing; it takes a, b.",
    ),
    "no bound at all": (
        lambda: vjp("clamp", X, X),
        "clamp: it needs at least one of min and max; got x has shape (2, 3), params none.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_gets_one_clear_error(case):
    call, message = REFUSALS[case]
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value) == message


def test_a_name_is_suggested_whatever_the_case_of_its_letters():
    with pytest.raises(InputError, match=r"there is no rule 'ReLU'\. Did you mean 'relu'\?"):
        find("ReLU")


@pytest.mark.parametrize(
    ("grad", "words"),
    [
        ([1.0], "grad is list, x is of shape (2, 3): give two tensors"),
        (
            torch.ones(3, 2),
            "grad is of shape (3, 2), x is of shape (2, 3): give two tensors, the gradient of what",
        ),
    ],
)
def test_what_cannot_be_unbroadcast_is_told_in_words(grad, words):
    with pytest.raises(ValueError, match=re.escape(f"unbroadcast: {words}")):
        unbroadcast(grad, X)


def test_good_input_gets_its_gradients():
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    grad_a, grad_b = vjp("matmul", G, a, b)
    assert torch.equal(grad_a, G @ b.T)
    assert torch.equal(grad_b, a.T @ G)


def test_an_optional_primal_may_be_left_out():
    grad_x, grad_w, grad_b = vjp("linear", torch.ones(2), torch.ones(3), torch.ones(2, 3))
    assert grad_x.tolist() == [2.0, 2.0, 2.0]
    assert grad_w.tolist() == [[1.0, 1.0, 1.0]] * 2
    assert grad_b is None
