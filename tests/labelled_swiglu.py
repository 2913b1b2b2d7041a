"""SwiGLU with three matrices, and twenty wrong backwards of it, each with its mistake and the line of it.

`Same:` in a comment are the other descriptions of the very same gradients.
"""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)


def swiglu(x, w_gate, w_up, w_down):
    gate = x @ w_gate
    up = x @ w_up
    sigmoid = torch.sigmoid(gate)
    activated = gate * sigmoid
    hidden = activated * up
    return hidden @ w_down


def parts(x, w_gate, w_up):
    """Return the gate, its sigmoid, the activated gate and the other factor."""
    gate = x @ w_gate
    sigmoid = torch.sigmoid(gate)
    return gate, sigmoid, gate * sigmoid, x @ w_up


def slope(gate, sigmoid):
    """Return the derivative of the activation."""
    return sigmoid + gate * sigmoid * (1 - sigmoid)


def of_matrix(rows, grad_rows):
    """Return a matrix's gradient, from what it was multiplied to and the product's gradient."""
    return rows.flatten(0, -2).mT @ grad_rows.flatten(0, -2)


def through_matrices(grad_gate, grad_up, x, w_gate, w_up):
    """Return the gradients of x and of its two matrices."""
    grad_x = grad_gate @ w_gate.mT + grad_up @ w_up.mT
    return grad_x, of_matrix(x, grad_gate), of_matrix(x, grad_up)


def of_three(grad_y, grad_gate, x, w_gate, w_up, w_down):
    """Return the gradients of x and of the first two matrices, for a given gradient of the gate."""
    _, _, activated, _ = parts(x, w_gate, w_up)
    return through_matrices(grad_gate, grad_y @ w_down.mT * activated, x, w_gate, w_up)


def right(grad_y, x, w_gate, w_up, w_down):
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * slope(gate, sigmoid)
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


# Same: branch at gate * sigmoid.
@labelled(Edit("constant", "torch.sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Take the sigmoid for a constant."""
    _, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * sigmoid
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("other value", "torch.sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Take the sigmoid's input for its output in its derivative."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * (sigmoid + gate * gate * (1 - gate))
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


# The gate as the sigmoid's factor is forgotten; its own way is right.
@labelled(Edit("unchanged", "gate * sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Forget the gate before the sigmoid's derivative."""
    _, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * (sigmoid + sigmoid * (1 - sigmoid))
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("branch", "gate * sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Let the gate get only what comes by way of its sigmoid."""
    _, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * activated * (1 - sigmoid)
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("branch", "x @ w_up"), wrong=("x",))
def _(grad_y, x, w_gate, w_up, w_down):
    """Let x get only what comes by way of the gate."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate = grad_hidden * up * slope(gate, sigmoid)
    grad_w_up = of_matrix(x, grad_hidden * activated)
    return grad_gate @ w_gate.mT, of_matrix(x, grad_gate), grad_w_up, of_matrix(activated * up, grad_y)


@labelled(Edit("transposed", "x @ w_gate"), wrong=("w_gate",))
def _(grad_y, x, w_gate, w_up, w_down):
    """Lay the gradient of the gate's matrix out as that of its transpose."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * slope(gate, sigmoid)
    grad_x, _, grad_w_up = of_three(grad_y, grad_gate, x, w_gate, w_up, w_down)
    grad_w_gate = of_matrix(grad_gate, x).reshape(w_gate.shape)
    return grad_x, grad_w_gate, grad_w_up, of_matrix(activated * up, grad_y)


# Same: mask at x @ w_gate.
@labelled(Edit("mask", "gate * sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Let nothing pass where the gate is negative, as if the activation had a threshold."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * slope(gate, sigmoid) * (gate > 0)
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("overwritten", "x @ w_up"), wrong=("w_up",))
def _(grad_y, x, w_gate, w_up, w_down):
    """Overwrite the gradient of the second matrix with each batch entry's."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate = grad_hidden * up * slope(gate, sigmoid)
    grad_x, grad_w_gate, _ = of_three(grad_y, grad_gate, x, w_gate, w_up, w_down)
    grad_w_up = torch.zeros_like(w_up)
    for rows, grad_rows in zip(x, grad_hidden * activated, strict=True):
        grad_w_up = of_matrix(rows, grad_rows)
    return grad_x, grad_w_gate, grad_w_up, of_matrix(activated * up, grad_y)


# Same: sign at gate * sigmoid, of what goes to the sigmoid.
@labelled(Edit("sign", "torch.sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Subtract the sigmoid's derivative."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * (sigmoid - gate * sigmoid * (1 - sigmoid))
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


# Both matrices and x get the gradient of the other product.
@labelled(Edit("other value", "x @ w_gate"), Edit("other value", "x @ w_up"), wrong=("x", "w_gate", "w_up"),
          source="unslothai/unsloth#3314")  # fmt: skip
def _(grad_y, x, w_gate, w_up, w_down):
    """Exchange the gradients of the gate and of the other factor."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate, grad_up = grad_hidden * activated, grad_hidden * up * slope(gate, sigmoid)
    return *through_matrices(grad_gate, grad_up, x, w_gate, w_up), of_matrix(activated * up, grad_y)


# Parentheses are missing: what goes to the gate itself is multiplied by one over the sigmoid, not by the sigmoid.
@labelled(Edit("other value", "gate * sigmoid"), wrong=("x", "w_gate"), source="chelsea0x3b/dfdx#915")
def _(grad_y, x, w_gate, w_up, w_down):
    """Divide only the last term of the activation's derivative by its denominator."""
    gate, _, activated, up = parts(x, w_gate, w_up)
    e = torch.exp(-gate)
    grad_gate = grad_y @ w_down.mT * up * (1 + e + gate * e / (1 + e) ** 2)
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("other value", "hidden @ w_down"), wrong=("w_down",), source="fla-org/flash-linear-attention#1071")
def _(grad_y, x, w_gate, w_up, w_down):
    """Take what was not gated yet for the gradient of the last matrix."""
    gate, sigmoid, _, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * slope(gate, sigmoid)
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(up, grad_y)


def all_in_the_first(grad):
    """Return gradients whose rows were all written to the first one."""
    kept = torch.zeros_like(grad).flatten(0, -2)
    for row in grad.flatten(0, -2):
        kept[0] = row
    return kept.reshape(grad.shape)


# Same: overwritten at both.
@labelled(Edit("index", "x @ w_gate"), Edit("index", "x @ w_up"), wrong=("x", "w_gate", "w_up"),
          source="ByteDance-Seed/Triton-distributed#185")  # fmt: skip
def _(grad_y, x, w_gate, w_up, w_down):
    """Write every row's gradient to the first row."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate = all_in_the_first(grad_hidden * up * slope(gate, sigmoid))
    grad_up = all_in_the_first(grad_hidden * activated)
    return *through_matrices(grad_gate, grad_up, x, w_gate, w_up), of_matrix(activated * up, grad_y)


# Same: branch (the sigmoid) and unchanged (the gate), both at gate * sigmoid.
@labelled(Edit("constant", "torch.sigmoid"), Edit("unchanged", "gate * sigmoid"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Forget the derivative of the activation."""
    _, _, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), of_matrix(activated * up, grad_y)


@labelled(Edit("other value", "activated * up"), Edit("other value", "hidden @ w_down"), wrong=("x", "w_up", "w_down"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Take the gate before its activation where it is a factor."""
    gate, sigmoid, _, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate = grad_hidden * up * slope(gate, sigmoid)
    return *through_matrices(grad_gate, grad_hidden * gate, x, w_gate, w_up), of_matrix(gate * up, grad_y)


@labelled(Edit("mean for sum", "x @ w_gate"), Edit("mean for sum", "x @ w_up"), wrong=("w_gate", "w_up"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Average the gradients of the first two matrices over the rows."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * slope(gate, sigmoid)
    grad_x, grad_w_gate, grad_w_up = of_three(grad_y, grad_gate, x, w_gate, w_up, w_down)
    rows = x[..., 0].numel()
    return grad_x, grad_w_gate / rows, grad_w_up / rows, of_matrix(activated * up, grad_y)


@labelled(Edit("branch", "x @ w_gate"), Edit("cotangent ignored", "hidden @ w_down"), wrong=("x", "w_down"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Let x get nothing by way of the gate, and ignore the cotangent for the last matrix."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate, grad_up = grad_hidden * up * slope(gate, sigmoid), grad_hidden * activated
    grad_w_down = of_matrix(activated * up, torch.ones_like(grad_y))
    return grad_up @ w_up.mT, of_matrix(x, grad_gate), of_matrix(x, grad_up), grad_w_down


@labelled(Edit("unchanged", "activated * up"), Edit("mean for sum", "hidden @ w_down"), wrong=("x", "w_gate", "w_down"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Forget the other factor in the gate's gradient, and average the last matrix's over the rows."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * slope(gate, sigmoid)
    grad_w_down = of_matrix(activated * up, grad_y) / x[..., 0].numel()
    return *of_three(grad_y, grad_gate, x, w_gate, w_up, w_down), grad_w_down


@labelled(Edit("other value", "torch.sigmoid"), Edit("overwritten", "x @ w_gate"), wrong=("x", "w_gate"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Take the tanh's derivative for the sigmoid's, and only the last batch entry for the gate's matrix."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_gate = grad_y @ w_down.mT * up * (sigmoid + gate * (1 - sigmoid**2))
    grad_x, _, grad_w_up = of_three(grad_y, grad_gate, x, w_gate, w_up, w_down)
    grad_w_gate = torch.zeros_like(w_gate)
    for rows, grad_rows in zip(x, grad_gate, strict=True):
        grad_w_gate = of_matrix(rows, grad_rows)
    return grad_x, grad_w_gate, grad_w_up, of_matrix(activated * up, grad_y)


# Same: index at hidden @ w_down.
@labelled(Edit("transposed", "x @ w_up"), Edit("component", "hidden @ w_down"), wrong=("w_up", "w_down"))
def _(grad_y, x, w_gate, w_up, w_down):
    """Lay the second matrix's gradient out as its transpose's, and stop before the last column of the last one's."""
    gate, sigmoid, activated, up = parts(x, w_gate, w_up)
    grad_hidden = grad_y @ w_down.mT
    grad_gate = grad_hidden * up * slope(gate, sigmoid)
    grad_x, grad_w_gate, _ = of_three(grad_y, grad_gate, x, w_gate, w_up, w_down)
    grad_w_up = of_matrix(grad_hidden * activated, x).reshape(w_up.shape)
    grad_w_down = torch.zeros_like(w_down)
    grad_w_down[:, :-1] = of_matrix(activated * up, grad_y[..., :-1])
    return grad_x, grad_w_gate, grad_w_up, grad_w_down


SWIGLU = Forward(
    "SwiGLU",
    swiglu,
    (numbers(2, 3, 4), numbers(4, 6), numbers(4, 6, seed=1), numbers(6, 5, seed=2)),
    right,
    tuple(WRONG),
)
