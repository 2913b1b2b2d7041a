"""A gated linear scan over the steps of a sequence, and twenty wrong backwards of it."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)

FLOOR = 0.25
ALL = ("x", "gate", "start")


def gated_scan(x, gate, start):
    """The states after each step: what is kept of the one before, and the rest of what comes in."""
    opened = torch.sigmoid(gate)
    keep = FLOOR + (1 - FLOOR) * opened
    wide = keep[..., None].expand_as(x)
    leak = 1 - wide
    fresh = leak * x
    state = start.expand(len(x), -1)
    states = []
    for t in range(x.shape[1]):
        carried = wide[:, t] * state
        state = carried + fresh[:, t]
        states.append(state)
    return torch.stack(states, 1)


def inside(x, gate, start):
    """Return the gate's sigmoid, what is kept, and the states before and after each step."""
    opened = gate.sigmoid()
    wide = (FLOOR + (1 - FLOOR) * opened)[..., None].expand_as(x)
    after = gated_scan(x, gate, start)
    before = torch.cat([start.expand(len(x), 1, -1), after[:, :-1]], 1)
    return opened, wide, before, after


def reversed_scan(grad_y, wide):
    """Return the gradients of the states after each step, and of the one before the first."""
    carry, grads = torch.zeros_like(grad_y[:, 0]), []
    for t in reversed(range(grad_y.shape[1])):
        grad_state = grad_y[:, t] + carry
        grads.append(grad_state)
        carry = wide[:, t] * grad_state
    return torch.stack(grads[::-1], 1), carry


def overwriting_scan(grad_y, wide):
    """Return the same where the next step's gradient overwrites that of the output."""
    grad_state, grads = grad_y[:, -1], []
    for t in reversed(range(grad_y.shape[1])):
        grads.append(grad_state)
        grad_state = wide[:, t] * grad_state
    return torch.stack(grads[::-1], 1), grad_state


def to_gate(grad_wide, opened):
    """Return the gradient of the gate from that of what is kept."""
    return grad_wide.sum(-1) * (1 - FLOOR) * opened * (1 - opened)


def right(grad_y, x, gate, start):
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_wide = grad_states * before - grad_states * x
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


# One step.


# The same as that what leaks gets nothing in leak * x.
@labelled(Edit("constant", "1 - wide"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """What leaks is taken for a constant."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    return grad_states * (1 - wide), to_gate(grad_states * before, opened), grad_first.sum(0)


@labelled(Edit("sign", "1 - wide"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """The sign is forgotten in the derivative of 1 - wide."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_wide = grad_states * before + grad_states * x
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


@labelled(Edit("other value", "torch.sigmoid(gate)"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """The derivative of the sigmoid is made of what is kept, after the floor is added."""
    _, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_wide = grad_states * (before - x)
    keep = wide[..., 0]
    grad_gate = grad_wide.sum(-1) * (1 - FLOOR) * keep * (1 - keep)
    return grad_states * (1 - wide), grad_gate, grad_first.sum(0)


# The same as the factor 1 / (1 - FLOOR) at this line.
@labelled(Edit("unchanged", "(1 - FLOOR) * opened"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """The floor is forgotten in the derivative."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_gate = (grad_states * (before - x)).sum(-1) * opened * (1 - opened)
    return grad_states * (1 - wide), grad_gate, grad_first.sum(0)


@labelled(Edit("mean for sum", "start.expand"), wrong=("start",))
def _(grad_y, x, gate, start):
    """The gradient of the first state is the mean over the batch."""
    _, wide, _, _ = inside(x, gate, start)
    grad_x, grad_gate, _ = right(grad_y, x, gate, start)
    _, grad_first = reversed_scan(grad_y, wide)
    return grad_x, grad_gate, grad_first.mean(0)


# A state is used twice, in the next step and as an output. The same as that all outputs but the last get nothing.
@labelled(Edit("overwritten", "states.append"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The gradient from the next step overwrites that of the output."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = overwriting_scan(grad_y, wide)
    grad_wide = grad_states * (before - x)
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


@labelled(Edit("mask", "torch.stack"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The cotangent is clipped."""
    return right(grad_y.clamp(-0.5, 0.5), x, gate, start)


@labelled(Edit("cotangent ignored", "torch.stack"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The cotangent is ignored, as if the sum of the states were the loss."""
    return right(torch.ones_like(grad_y), x, gate, start)


# From trackers.


@labelled(Edit("branch", "wide[:, t] * state"), wrong=ALL, source="qixianbiao/RNN#2")
def _(grad_y, x, gate, start):
    """A step hands nothing to the state before it."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_wide = grad_y * (before - x)
    return grad_y * (1 - wide), to_gate(grad_wide, opened), torch.zeros_like(start)


# The same as another value: the state after the step for the one before it.
@labelled(Edit("index", "wide[:, t] * state"), wrong=("gate",), source="VikParuchuri/zero_to_gpt#9")
def _(grad_y, x, gate, start):
    """The gradient of what is kept takes the state one step too late."""
    opened, wide, _, after = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_wide = grad_states * after - grad_states * x
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


@labelled(Edit("index", "wide[:, t] * state"), wrong=ALL, source="lmnt-com/haste#43")
def _(grad_y, x, gate, start):
    """The gradient passes every step with what the first one keeps."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, _ = reversed_scan(grad_y, wide[:, :1].expand_as(wide))
    grad_first = wide[:, 0] * grad_states[:, 0]
    grad_wide = grad_states * (before - x)
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


@labelled(Edit("index", "wide[:, t] * state"), wrong=ALL, source="hanbt/learn_dl#29")
def _(grad_y, x, gate, start):
    """The gradient passes every step with what the step before keeps, and the first one with what it keeps."""
    opened, wide, before, _ = inside(x, gate, start)
    earlier = torch.cat([wide[:, :1], wide[:, :-1]], 1)
    grad_states, grad_first = reversed_scan(grad_y, earlier)
    grad_wide = grad_states * (before - x)
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


# What is kept multiplies the output's cotangent, which it should not, and not what is carried, which it should.
@labelled(
    Edit("unchanged", "wide[:, t] * state"), Edit("factor", "states.append"),
    wrong=ALL, source="proger/accelerated-scan#15",
)  # fmt: skip
def _(grad_y, x, gate, start):
    """What is kept multiplies the wrong one of the two gradients of a state."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states = (grad_y * wide).flip(1).cumsum(1).flip(1)
    grad_wide = grad_states * (before - x)
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_states[:, 0].sum(0)


# Two mistakes.


@labelled(Edit("constant", "1 - wide"), Edit("mean for sum", "start.expand"), wrong=("gate", "start"))
def _(grad_y, x, gate, start):
    """What leaks is taken for a constant, and the first state's gradient is the mean over the batch."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    return grad_states * (1 - wide), to_gate(grad_states * before, opened), grad_first.mean(0)


@labelled(Edit("unchanged", "torch.sigmoid(gate)"), Edit("overwritten", "states.append"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The derivative of the sigmoid is forgotten, and the next step's gradient overwrites that of the output."""
    _, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = overwriting_scan(grad_y, wide)
    grad_gate = (grad_states * (before - x)).sum(-1) * (1 - FLOOR)
    return grad_states * (1 - wide), grad_gate, grad_first.sum(0)


@labelled(Edit("sign", "1 - wide"), Edit("index", "wide[:, t] * state"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """The sign of what leaks is forgotten, and the state is taken one step too late."""
    opened, wide, _, after = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    grad_wide = grad_states * after + grad_states * x
    return grad_states * (1 - wide), to_gate(grad_wide, opened), grad_first.sum(0)


# The mean over the features is the sum's n-th part: a factor 1 / n at any line of the gate says as much.
@labelled(Edit("other value", "torch.sigmoid(gate)"), Edit("mean for sum", "expand_as"), wrong=("gate",))
def _(grad_y, x, gate, start):
    """The sigmoid's derivative is made of what is kept, and the gate's gradient is the mean over the features."""
    _, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(grad_y, wide)
    keep = wide[..., 0]
    grad_gate = (grad_states * (before - x)).mean(-1) * (1 - FLOOR) * keep * (1 - keep)
    return grad_states * (1 - wide), grad_gate, grad_first.sum(0)


@labelled(Edit("cotangent ignored", "torch.stack"), Edit("unchanged", "(1 - FLOOR) * opened"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The cotangent is ignored, and the floor is forgotten in the derivative."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_states, grad_first = reversed_scan(torch.ones_like(grad_y), wide)
    grad_gate = (grad_states * (before - x)).sum(-1) * opened * (1 - opened)
    return grad_states * (1 - wide), grad_gate, grad_first.sum(0)


@labelled(Edit("factor", "(1 - FLOOR) * opened"), Edit("branch", "wide[:, t] * state"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The floor stands where 1 minus the floor belongs, and a step hands nothing to the state before it."""
    opened, wide, before, _ = inside(x, gate, start)
    grad_gate = (grad_y * (before - x)).sum(-1) * FLOOR * opened * (1 - opened)
    return grad_y * (1 - wide), grad_gate, torch.zeros_like(start)


@labelled(Edit("other value", "leak * x"), Edit("mask", "torch.stack"), wrong=ALL)
def _(grad_y, x, gate, start):
    """The gradient of what comes in takes what is kept for what leaks, and the cotangent is clipped."""
    _, wide, _, _ = inside(x, gate, start)
    clipped = grad_y.clamp(-0.5, 0.5)
    _, grad_gate, grad_start = right(clipped, x, gate, start)
    grad_states, _ = reversed_scan(clipped, wide)
    return grad_states * wide, grad_gate, grad_start


SCAN = Forward("gated scan", gated_scan, (numbers(2, 4, 3), numbers(2, 4), numbers(3)), right, tuple(WRONG))
