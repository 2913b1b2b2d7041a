"""A cell of an LSTM, and twenty wrong backwards of it."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)

ALL = ("x", "h", "c", "w", "u", "b")


def lstm(x, h, c, w, u, b):
    """The next hidden state and the next cell state, stacked."""
    inward = x @ w
    recurrent = h @ u
    gates = inward + recurrent + b
    i, f, g, o = gates.chunk(4, -1)
    write = torch.sigmoid(i)
    keep = torch.sigmoid(f)
    candidate = torch.tanh(g)
    show = torch.sigmoid(o)
    kept = keep * c
    written = write * candidate
    cell = kept + written
    squashed = torch.tanh(cell)
    hidden = show * squashed
    return torch.stack([hidden, cell])


def inside(x, h, c, w, u, b):
    """Return the gates after their functions, and the next cell state."""
    i, f, g, o = (x @ w + h @ u + b).chunk(4, -1)
    write, keep, candidate, show = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    return write, keep, candidate, show, keep * c + write * candidate


def slope(s):
    """Return the derivative of the sigmoid from its value."""
    return s * (1 - s)


def at_cell(grad_y, show, cell):
    """Return the gradient of the next cell state, from both outputs."""
    grad_hidden, grad_cell = grad_y
    return grad_cell + grad_hidden * show * (1 - cell.tanh() ** 2)


def of_gates(grad_y, grad_cell, inner, c):
    """Return the gradients of the four gates before their functions."""
    write, keep, candidate, show, cell = inner
    return [
        grad_cell * candidate * slope(write),
        grad_cell * c * slope(keep),
        grad_cell * write * (1 - candidate**2),
        grad_y[0] * cell.tanh() * slope(show),
    ]


def to_primals(grad_gates, grad_c, x, h, w, u):
    """Return the gradients of all primals from those of the gates, and from that of the old cell state."""
    grad = torch.cat(grad_gates, -1)
    return grad @ w.mT, grad @ u.mT, grad_c, x.mT @ grad, h.mT @ grad, grad.sum(0)


def from_cell(grad_y, grad_cell, inner, primals):
    """Return the gradients of all primals from that of the next cell state."""
    x, h, c, w, u, _ = primals
    return to_primals(of_gates(grad_y, grad_cell, inner, c), grad_cell * inner[1], x, h, w, u)


def right(grad_y, x, h, c, w, u, b):
    inner = inside(x, h, c, w, u, b)
    return from_cell(grad_y, at_cell(grad_y, *inner[3:]), inner, (x, h, c, w, u, b))


# One step.


@labelled(Edit("unchanged", "torch.tanh(cell)"), wrong=ALL)
def _(grad_y, x, h, c, w, u, b):
    """The derivative of the second tanh is forgotten."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = grad_y[1] + grad_y[0] * inner[3]
    return from_cell(grad_y, grad_cell, inner, (x, h, c, w, u, b))


# The same as that the gate gets nothing in keep * c.
@labelled(Edit("constant", "torch.sigmoid(f)"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The forget gate is taken for a constant."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grad_i, grad_f, grad_g, grad_o = of_gates(grad_y, grad_cell, inner, c)
    grads = [grad_i, torch.zeros_like(grad_f), grad_g, grad_o]
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


@labelled(Edit("other value", "write * candidate"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The gradient of the input gate takes the candidate before its tanh."""
    inner = inside(x, h, c, w, u, b)
    before = (x @ w + h @ u + b).chunk(4, -1)[2]
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[0] = grad_cell * before * slope(inner[0])
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


@labelled(Edit("sign", "torch.tanh(cell)"), wrong=ALL)
def _(grad_y, x, h, c, w, u, b):
    """The derivative of the second tanh is the square minus 1."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = grad_y[1] + grad_y[0] * inner[3] * (inner[4].tanh() ** 2 - 1)
    return from_cell(grad_y, grad_cell, inner, (x, h, c, w, u, b))


# The gates are put together in the order of another library.
@labelled(Edit("index", "gates.chunk"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The gradients of candidate and output gate are put in each other's place."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grad_i, grad_f, grad_g, grad_o = of_gates(grad_y, grad_cell, inner, c)
    return to_primals([grad_i, grad_f, grad_o, grad_g], grad_cell * inner[1], x, h, w, u)


@labelled(Edit("overwritten", "x @ w"), wrong=("w",))
def _(grad_y, x, h, c, w, u, b):
    """The gradient of the input's weight is that of the last row of the batch."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grad_x, grad_h, grad_c, _, grad_u, grad_b = to_primals(grads, grad_cell * inner[1], x, h, w, u)
    for row, grad_row in zip(x, torch.cat(grads, -1), strict=True):
        grad_w = torch.outer(row, grad_row)
    return grad_x, grad_h, grad_c, grad_w, grad_u, grad_b


@labelled(Edit("mask", "torch.stack"), wrong=ALL)
def _(grad_y, x, h, c, w, u, b):
    """The cotangent is clipped."""
    return right(grad_y.clamp(-0.5, 0.5), x, h, c, w, u, b)


@labelled(Edit("factor", "torch.tanh(g)"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The tanh is differentiated as 2 sigmoid(2 g) - 1, and the inner 2 is forgotten."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[2] = grad_cell * inner[0] * 2 * slope((inner[2] + 1) / 2)
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


# From trackers.


# The same as that the direct use of the cell state is overwritten by that in the tanh (apache/mxnet#4057).
@labelled(Edit("cotangent ignored", "torch.stack"), wrong=ALL, source="deeplearning4j/deeplearning4j#8838")
def _(grad_y, x, h, c, w, u, b):
    """The cotangent of the next cell state is ignored."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = grad_y[0] * inner[3] * (1 - inner[4].tanh() ** 2)
    return from_cell(grad_y, grad_cell, inner, (x, h, c, w, u, b))


@labelled(Edit("branch", "h @ u"), wrong=("h",), source="ooples/AiDotNet#722")
def _(grad_y, x, h, c, w, u, b):
    """The old hidden state gets nothing."""
    grad_x, grad_h, *rest = right(grad_y, x, h, c, w, u, b)
    return grad_x, torch.zeros_like(grad_h), *rest


@labelled(Edit("mean for sum", "+ b"), wrong=("b",), source="kvfrans/notes#5")
def _(grad_y, x, h, c, w, u, b):
    """The gradient of the bias is the mean over the batch."""
    inner = inside(x, h, c, w, u, b)
    grads = of_gates(grad_y, at_cell(grad_y, *inner[3:]), inner, c)
    *rest, _ = right(grad_y, x, h, c, w, u, b)
    return *rest, torch.cat(grads, -1).mean(0)


# The sigmoid's value is taken for its derivative: the factor 1 - keep is missing.
@labelled(
    Edit("other value", "torch.sigmoid(f)"), wrong=("x", "h", "w", "u", "b"), source="CaptainE/RNN-LSTM-in-numpy#1"
)
def _(grad_y, x, h, c, w, u, b):
    """The forget gate itself stands for the derivative of its sigmoid."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[1] = grad_cell * c * inner[1]
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


# Another part of the same cotangent is taken: "index" describes it as well.
@labelled(Edit("other value", "+ b"), wrong=("b",), source="hanbt/learn_dl#53")
def _(grad_y, x, h, c, w, u, b):
    """The biases of input and output gate get the gradient of the forget gate."""
    inner = inside(x, h, c, w, u, b)
    _, grad_f, grad_g, _ = of_gates(grad_y, at_cell(grad_y, *inner[3:]), inner, c)
    *rest, _ = right(grad_y, x, h, c, w, u, b)
    return *rest, torch.cat([grad_f, grad_f, grad_g, grad_f], -1).sum(0)


# The cotangent is missing in one of the two terms alone.
@labelled(Edit("cotangent ignored", "torch.tanh(cell)"), wrong=ALL, source="apache/tvm#7340")
def _(grad_y, x, h, c, w, u, b):
    """Parentheses are missing in the derivative of the second tanh."""
    inner = inside(x, h, c, w, u, b)
    grad_squashed = grad_y[0] * inner[3]
    grad_cell = grad_y[1] + grad_squashed * 1 - inner[4].tanh() ** 2
    return from_cell(grad_y, grad_cell, inner, (x, h, c, w, u, b))


# Two mistakes.


@labelled(Edit("constant", "torch.sigmoid(f)"), Edit("mean for sum", "+ b"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The forget gate is taken for a constant, and the gradient of the bias is the mean over the batch."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[1] = torch.zeros_like(grads[1])
    *rest, _ = to_primals(grads, grad_cell * inner[1], x, h, w, u)
    return *rest, torch.cat(grads, -1).mean(0)


@labelled(Edit("unchanged", "torch.tanh(g)"), Edit("branch", "keep * c"), wrong=ALL)
def _(grad_y, x, h, c, w, u, b):
    """The derivative of the candidate's tanh is forgotten, and the old cell state gets nothing."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[2] = grad_cell * inner[0]
    return to_primals(grads, torch.zeros_like(c), x, h, w, u)


@labelled(Edit("cotangent ignored", "torch.stack"), Edit("unchanged", "torch.tanh(g)"), wrong=ALL)
def _(grad_y, x, h, c, w, u, b):
    """The cotangent of the next cell state is ignored, and the derivative of the candidate's tanh is forgotten."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = grad_y[0] * inner[3] * (1 - inner[4].tanh() ** 2)
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[2] = grad_cell * inner[0]
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


@labelled(Edit("other value", "show * squashed"), Edit("overwritten", "h @ u"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The output gate's gradient takes the cell state before its tanh; the recurrent weight gets the last row's."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, c)
    grads[3] = grad_y[0] * inner[4] * slope(inner[3])
    grad_x, grad_h, grad_c, grad_w, _, grad_b = to_primals(grads, grad_cell * inner[1], x, h, w, u)
    for row, grad_row in zip(h, torch.cat(grads, -1), strict=True):
        grad_u = torch.outer(row, grad_row)
    return grad_x, grad_h, grad_c, grad_w, grad_u, grad_b


@labelled(Edit("other value", "keep * c"), Edit("unchanged", "torch.sigmoid(o)"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The forget gate's gradient takes the next cell state; the derivative of the output gate is forgotten."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grads = of_gates(grad_y, grad_cell, inner, inner[4])
    grads[3] = grad_y[0] * inner[4].tanh()
    return to_primals(grads, grad_cell * inner[1], x, h, w, u)


@labelled(Edit("index", "gates.chunk"), Edit("branch", "h @ u"), wrong=("x", "h", "w", "u", "b"))
def _(grad_y, x, h, c, w, u, b):
    """The gradients of input and forget gate are put in each other's place; the old hidden state gets nothing."""
    inner = inside(x, h, c, w, u, b)
    grad_cell = at_cell(grad_y, *inner[3:])
    grad_i, grad_f, grad_g, grad_o = of_gates(grad_y, grad_cell, inner, c)
    grads = to_primals([grad_f, grad_i, grad_g, grad_o], grad_cell * inner[1], x, h, w, u)
    return grads[0], torch.zeros_like(h), *grads[2:]


LSTM = Forward(
    "lstm",
    lstm,
    (numbers(2, 3), numbers(2, 4), numbers(2, 4, seed=1), numbers(3, 16) / 2, numbers(4, 16) / 2, numbers(16)),
    right,
    tuple(WRONG),
)
