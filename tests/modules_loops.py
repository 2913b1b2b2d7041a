"""Loops over time, and functions with a seed or a gradient inside: recurrences, dropout, an energy's force."""

import torch
from modules_common import Module, given, numbers, sigmoid_slope, tanh_slope, through_softmax

LOOPS: list[Module] = []


def rnn(x, h, w, u, b):
    states = []
    for row in x:
        h = torch.tanh(row @ w + h @ u + b)
        states.append(h)
    return torch.stack(states)


def rnn_back(grad_y, y, u):
    """Return the gradients of the pre-activations, the last step first, and that of the first state."""
    grad_h, found = torch.zeros_like(y[0]), []
    for grad, h in zip(grad_y.flip(0), y.flip(0), strict=True):
        found.append((grad + grad_h) * tanh_slope(h))
        grad_h = found[-1] @ u.mT
    return torch.stack(found[::-1]), grad_h


def rnn_backward(grad_y, y, x, h, w, u, b):
    grad_pre, grad_h = rnn_back(grad_y, y, u)
    before = torch.cat([h[None], y[:-1]])
    grad_w, grad_u = (torch.einsum("tbi,tbj->ij", a, grad_pre) for a in (x, before))
    return grad_pre @ w.mT, grad_h, grad_w, grad_u, grad_pre.sum((0, 1))


def rnn_truncated(grad_y, y, x, h, w, u, b):
    grad_pre = grad_y * tanh_slope(y)
    before = torch.cat([h[None], y[:-1]])
    grad_w, grad_u = (torch.einsum("tbi,tbj->ij", a, grad_pre) for a in (x, before))
    return grad_pre @ w.mT, grad_pre[0] @ u.mT, grad_w, grad_u, grad_pre.sum((0, 1))


def rnn_overwritten(grad_y, y, x, h, w, u, b):
    grad_x, grad_h, grad_w, _, grad_b = rnn_backward(grad_y, y, x, h, w, u, b)
    grad_u = torch.zeros_like(u)
    for before, grad in zip(torch.cat([h[None], y[:-1]]), rnn_back(grad_y, y, u)[0], strict=True):
        grad_u = before.mT @ grad
    return grad_x, grad_h, grad_w, grad_u, grad_b


def rnn_not_transposed(grad_y, y, x, h, w, u, b):
    return rnn_backward(grad_y, y, x, h, w, u.mT, b)


LOOPS.append(
    Module(
        "a recurrent network in a Python loop",
        rnn,
        numbers((4, 2, 3), (2, 5), (3, 5), (5, 5), (5,)),
        rnn_backward,
        {
            "no gradient through time": rnn_truncated,
            "recurrent weight overwritten": rnn_overwritten,
            "recurrent weight not transposed": rnn_not_transposed,
        },
    )
)


def lstm_cell(c, pre):
    """Return the cell and the state after a step, from the four gates before their sigmoids and tanh."""
    i, f, g, o = pre.unflatten(-1, (4, c.shape[-1])).unbind(-2)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return c, torch.sigmoid(o) * torch.tanh(c)


def lstm(x, h, c, w, u, b):
    states = []
    for row in x:
        c, h = lstm_cell(c, row @ w + h @ u + b)
        states.append(h)
    return torch.stack(states), h, c


def lstm_cell_backward(grad_h, grad_c, c, pre):
    """Return the gradients of the gates and of the cell before the step."""
    i, f, g, o = pre.unflatten(-1, (4, c.shape[-1])).unbind(-2)
    tanh_g, tanh_c = torch.tanh(g), torch.tanh(lstm_cell(c, pre)[0])
    grad_c = grad_c + grad_h * torch.sigmoid(o) * tanh_slope(tanh_c)
    grads = [
        grad_c * tanh_g * sigmoid_slope(i),
        grad_c * c * sigmoid_slope(f),
        grad_c * torch.sigmoid(i) * tanh_slope(tanh_g),
        grad_h * tanh_c * sigmoid_slope(o),
    ]
    return torch.cat(grads, -1), grad_c * torch.sigmoid(f)


def lstm_not_forgetting(grad_h, grad_c, c, pre):
    return lstm_cell_backward(grad_h, grad_c, c, pre)[0], grad_c


def lstm_cell_overwritten(grad_h, grad_c, c, pre):
    return lstm_cell_backward(grad_h, torch.zeros_like(grad_c), c, pre)


def lstm_back_by(step):
    """Return the backward of the loop with that backward of a step."""

    def backward(grad_y, y, x, h, c, w, u, b):
        grad_ys, grad_h, grad_c = given(grad_y, y)
        before, cells, pres, found = torch.cat([h[None], y[0][:-1]]), [], x @ w + b, []
        pres = pres + before @ u
        for pre in pres:
            cells.append(c)
            c, _ = lstm_cell(c, pre)
        for grad, cell, pre in zip(grad_ys.flip(0), cells[::-1], pres.flip(0), strict=True):
            grad_pre, grad_c = step(grad_h + grad, grad_c, cell, pre)
            grad_h = grad_pre @ u.mT
            found.append(grad_pre)
        grads = torch.stack(found[::-1])
        grad_w, grad_u = (torch.einsum("tbi,tbj->ij", a, grads) for a in (x, before))
        return grads @ w.mT, grad_h, grad_c, grad_w, grad_u, grads.sum((0, 1))

    return backward


lstm_backward = lstm_back_by(lstm_cell_backward)


def lstm_last_cell_ignored(grad_y, y, x, h, c, w, u, b):
    return lstm_backward((grad_y[0], grad_y[1], None), y, x, h, c, w, u, b)


LOOPS.append(
    Module(
        "an LSTM of three outputs",
        lstm,
        numbers((3, 2, 4), (2, 5), (2, 5), (4, 20), (5, 20), (20,)),
        lstm_backward,
        {
            "cotangent of the last cell ignored": lstm_last_cell_ignored,
            "forget gate left out on the way back": lstm_back_by(lstm_not_forgetting),
            "cell's gradient overwritten at each step": lstm_back_by(lstm_cell_overwritten),
        },
    )
)


def scan(x, decay, h):
    states = []
    for row, a in zip(x, torch.sigmoid(decay), strict=True):
        h = a * h + (1 - a) * row
        states.append(h)
    return torch.stack(states), h


def scan_back(grad_y, y, decay):
    """Return the gradient of each state, and that of the first."""
    grad_states, grad_h = given(grad_y, y)
    found = []
    for grad, pre in zip(grad_states.flip(0), decay.flip(0), strict=True):
        found.append(grad_h + grad)
        grad_h = found[-1] * torch.sigmoid(pre)
    return torch.stack(found[::-1]), grad_h


def scan_backward(grad_y, y, x, decay, h):
    grads, grad_h = scan_back(grad_y, y, decay)
    before = torch.cat([h[None], y[0][:-1]])
    return grads * torch.sigmoid(-decay), grads * (before - x) * sigmoid_slope(decay), grad_h


def scan_after(grad_y, y, x, decay, h):
    grads, grad_h = scan_back(grad_y, y, decay)
    return grads * torch.sigmoid(-decay), grads * (y[0] - x) * sigmoid_slope(decay), grad_h


def scan_last_state_ignored(grad_y, y, x, decay, h):
    return scan_backward((grad_y[0], None), y, x, decay, h)


LOOPS.append(
    Module(
        "a scan with learned decay",
        scan,
        numbers((4, 3), (4, 3), (3,)),
        scan_backward,
        {
            "state after the step for the one before": scan_after,
            "last state's cotangent ignored": scan_last_state_ignored,
        },
    )
)

KEPT, SEED = 0.7, 7


def keep(x, seed=SEED):
    """Return which elements are kept: drawn by shape alone, so the same for every dtype and layout."""
    torch.manual_seed(seed)
    return torch.rand(x.shape, device=x.device) < KEPT


def dropout(x):
    return x * keep(x) / KEPT


def dropout_backward(grad_y, x):
    return grad_y * keep(x) / KEPT


def dropout_of_another_seed(grad_y, x):
    return grad_y * keep(x, seed=SEED + 1) / KEPT


def dropout_unscaled(grad_y, x):
    return grad_y * keep(x)


LOOPS.append(
    Module(
        "dropout with a seed",
        dropout,
        numbers((3, 5)),
        dropout_backward,
        {"mask of another seed": dropout_of_another_seed, "scale forgotten": dropout_unscaled},
    )
)


def force(x, w):
    def energy(x):
        return -(x @ w).logsumexp(-1).sum()

    return -torch.func.grad(energy)(x)


def force_backward(grad_y, x, w):
    p = (x @ w).softmax(-1)
    grad_pre = through_softmax(grad_y @ w, p)
    return grad_pre @ w.mT, x.mT @ grad_pre + grad_y.mT @ p


def force_one_path(grad_y, x, w):
    grad_pre = through_softmax(grad_y @ w, (x @ w).softmax(-1))
    return grad_pre @ w.mT, x.mT @ grad_pre


def force_diagonal(grad_y, x, w):
    p = (x @ w).softmax(-1)
    grad_pre = (grad_y @ w) * p * (1 - p)
    return grad_pre @ w.mT, x.mT @ grad_pre + grad_y.mT @ p


LOOPS.append(
    Module(
        "a force, by torch.func.grad of an energy",
        force,
        numbers((2, 3), (3, 4)),
        force_backward,
        {
            "one of the weight's two paths forgotten": force_one_path,
            "diagonal of the softmax alone": force_diagonal,
        },
    )
)
