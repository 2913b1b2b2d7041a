"""Rotary embedding of a part of queries and keys, and twenty wrong backwards, each with its mistake and the line of it.

`Same:` in a comment are the other descriptions of the very same gradients.
"""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)


def rotary(q, k, cos, sin):
    width = cos.shape[-1]
    q_part, q_rest = q[..., :width], q[..., width:]
    k_part, k_rest = k[..., :width], k[..., width:]
    q_first, q_second = q_part.unflatten(-1, (2, -1)).unbind(-2)
    k_first, k_second = k_part.unflatten(-1, (2, -1)).unbind(-2)
    q_turned = torch.cat([-q_second, q_first], -1)
    k_turned = torch.cat([-k_second, k_first], -1)
    q_along = q_part * cos
    k_along = k_part * cos
    q_across = q_turned * sin
    k_across = k_turned * sin
    q_rotated = q_along + q_across
    k_rotated = k_along + k_across
    return torch.cat([q_rotated, q_rest], -1), torch.cat([k_rotated, k_rest], -1)


def cut(values, cos):
    """Return the part that is rotated, and the rest."""
    return values[..., : cos.shape[-1]], values[..., cos.shape[-1] :]


def turned(values):
    """Return values turned by a right angle."""
    first, second = values.chunk(2, -1)
    return torch.cat([-second, first], -1)


def turned_back(values):
    """Return values turned back by a right angle."""
    first, second = values.chunk(2, -1)
    return torch.cat([second, -first], -1)


def rotated_back(grad, cos, sin):
    """Return the gradient of queries or keys."""
    part, rest = cut(grad, cos)
    return torch.cat([part * cos + turned_back(part * sin), rest], -1)


def over_heads(values):
    """Return the sum over batch and heads."""
    return values.sum((0, 1))


def of_cos(grad, values, cos):
    """Return what queries or keys give to the gradient of the cosines."""
    return over_heads(cut(grad, cos)[0] * cut(values, cos)[0])


def of_sin(grad, values, cos):
    """Return what queries or keys give to the gradient of the sines."""
    return over_heads(cut(grad, cos)[0] * turned(cut(values, cos)[0]))


def of_tables(grad_y, q, k, cos):
    """Return the gradients of cosines and sines."""
    grad_q, grad_k = grad_y
    return of_cos(grad_q, q, cos) + of_cos(grad_k, k, cos), of_sin(grad_q, q, cos) + of_sin(grad_k, k, cos)


def right(grad_y, q, k, cos, sin):
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    return grad_q, grad_k, *of_tables(grad_y, q, k, cos)


# Same: sign at q_turned * sin, of what goes to the queries.
@labelled(Edit("sign", "q_turned = "), wrong=("q",))
def _(grad_y, q, k, cos, sin):
    """Turn the queries' cotangent onwards in the place of back."""
    part, rest = cut(grad_y[0], cos)
    grad_q = torch.cat([part * cos + turned(part * sin), rest], -1)
    return grad_q, rotated_back(grad_y[1], cos, sin), *of_tables(grad_y, q, k, cos)


# Same: sign at k_turned * sin, of what goes to the second half.
@labelled(Edit("sign", "k_turned = "), wrong=("k",))
def _(grad_y, q, k, cos, sin):
    """Forget the minus of the keys' second half."""
    part, rest = cut(grad_y[1], cos)
    first, second = (part * sin).chunk(2, -1)
    grad_k = torch.cat([part * cos + torch.cat([second, first], -1), rest], -1)
    return rotated_back(grad_y[0], cos, sin), grad_k, *of_tables(grad_y, q, k, cos)


# Same: branch at k_turned * sin.
@labelled(Edit("constant", "k_turned = "), wrong=("k",))
def _(grad_y, q, k, cos, sin):
    """Let the keys get nothing by way of the turned ones."""
    part, rest = cut(grad_y[1], cos)
    grad_k = torch.cat([part * cos, rest], -1)
    return rotated_back(grad_y[0], cos, sin), grad_k, *of_tables(grad_y, q, k, cos)


@labelled(Edit("unchanged", "q_part * cos"), wrong=("q",))
def _(grad_y, q, k, cos, sin):
    """Forget the cosine in the gradient of the queries."""
    part, rest = cut(grad_y[0], cos)
    grad_q = torch.cat([part + turned_back(part * sin), rest], -1)
    return grad_q, rotated_back(grad_y[1], cos, sin), *of_tables(grad_y, q, k, cos)


# Same: overwritten at k_turned * sin.
@labelled(Edit("branch", "k_turned * sin"), wrong=("sin",))
def _(grad_y, q, k, cos, sin):
    """Let the sines get nothing from the keys."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    grad_cos, _ = of_tables(grad_y, q, k, cos)
    return grad_q, grad_k, grad_cos, of_sin(grad_y[0], q, cos)


# The cosines are used twice, and only the use by the keys counts. Same: branch at q_part * cos.
@labelled(Edit("overwritten", "q_part * cos"), wrong=("cos",))
def _(grad_y, q, k, cos, sin):
    """Overwrite what the queries give to the cosines with what the keys give."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    _, grad_sin = of_tables(grad_y, q, k, cos)
    for grad, values in zip(grad_y, (q, k), strict=True):
        grad_cos = of_cos(grad, values, cos)
    return grad_q, grad_k, grad_cos, grad_sin


@labelled(Edit("other value", "q_turned = "), wrong=("q",))
def _(grad_y, q, k, cos, sin):
    """Read the first half of the queries' cotangent after its gradient was written over it."""
    part, rest = cut(grad_y[0], cos)
    (first, second), (cos_first, cos_second) = part.chunk(2, -1), cos.chunk(2, -1)
    sin_first, sin_second = sin.chunk(2, -1)
    first = first * cos_first + second * sin_second
    second = second * cos_second - first * sin_first
    grad_q = torch.cat([first, second, rest], -1)
    return grad_q, rotated_back(grad_y[1], cos, sin), *of_tables(grad_y, q, k, cos)


# Same: constant at q_rest = .
@labelled(Edit("branch", "torch.cat([q_rotated, q_rest]"), wrong=("q",))
def _(grad_y, q, k, cos, sin):
    """Let the queries get nothing where they are not rotated."""
    part, rest = cut(grad_y[0], cos)
    grad_q = torch.cat([part * cos + turned_back(part * sin), torch.zeros_like(rest)], -1)
    return grad_q, rotated_back(grad_y[1], cos, sin), *of_tables(grad_y, q, k, cos)


# The sine comes after the turn where it belongs before it.
@labelled(Edit("order", "q_turned * sin"), Edit("order", "k_turned * sin"), wrong=("q", "k"),
          source="PaddlePaddle/Paddle#74716")  # fmt: skip
def _(grad_y, q, k, cos, sin):
    """Turn the cotangent back before it is multiplied by the sine."""
    parts = [cut(grad, cos) for grad in grad_y]
    grad_q, grad_k = (torch.cat([part * cos + turned_back(part) * sin, rest], -1) for part, rest in parts)
    return grad_q, grad_k, *of_tables(grad_y, q, k, cos)


# Same: cotangent ignored at torch.cat([q_rotated, q_rest], twice.
@labelled(Edit("cotangent ignored", "q_rest = "), Edit("cotangent ignored", "k_rest = "), wrong=("q", "k"),
          source="NVIDIA/apex#1750")  # fmt: skip
def _(grad_y, q, k, cos, sin):
    """Write ones where queries and keys are not rotated."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    grad_q[..., cos.shape[-1] :] = 1
    grad_k[..., cos.shape[-1] :] = 1
    return grad_q, grad_k, *of_tables(grad_y, q, k, cos)


# The kernel that rotates has no backward. Same: constant at both lines of along and both of across.
@labelled(Edit("constant", "q_rotated = "), Edit("constant", "k_rotated = "), wrong=("q", "k", "cos", "sin"),
          source="NVlabs/LongLive#61")  # fmt: skip
def _(grad_y, q, k, cos, sin):
    """Let nothing pass the rotation."""
    rest = [cut(grad, cos)[1] for grad in grad_y]
    grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
    grad_q[..., cos.shape[-1] :], grad_k[..., cos.shape[-1] :] = rest
    return grad_q, grad_k, torch.zeros_like(cos), torch.zeros_like(sin)


# Same: sign at q_turned * sin and at k_turned * sin, of what goes to queries and keys.
@labelled(Edit("sign", "q_turned = "), Edit("sign", "k_turned = "), wrong=("q", "k"))
def _(grad_y, q, k, cos, sin):
    """Rotate the cotangents as forward rotates queries and keys."""
    grad_q, grad_k = (rotated_back(grad, cos, -sin) for grad in grad_y)
    return grad_q, grad_k, *of_tables(grad_y, q, k, cos)


@labelled(Edit("other value", "q_turned * sin"), Edit("other value", "k_turned * sin"), wrong=("sin",))
def _(grad_y, q, k, cos, sin):
    """Take queries and keys before the turn for the gradient of the sines."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    grad_cos, _ = of_tables(grad_y, q, k, cos)
    return grad_q, grad_k, grad_cos, of_cos(grad_y[0], q, cos) + of_cos(grad_y[1], k, cos)


# Only what goes to the sines: queries and keys get theirs with the right sign.
@labelled(Edit("sign", "q_turned * sin"), Edit("sign", "k_turned * sin"), wrong=("sin",))
def _(grad_y, q, k, cos, sin):
    """Turn queries and keys back in the gradient of the sines."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    grad_cos, _ = of_tables(grad_y, q, k, cos)
    of_q, of_k = (
        over_heads(cut(grad, cos)[0] * turned_back(cut(values, cos)[0]))
        for grad, values in zip(grad_y, (q, k), strict=True)
    )
    return grad_q, grad_k, grad_cos, of_q + of_k


@labelled(Edit("mean for sum", "q_part * cos"), Edit("mean for sum", "k_part * cos"), wrong=("cos",))
def _(grad_y, q, k, cos, sin):
    """Average the gradient of the cosines over batch and heads."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    _, grad_sin = of_tables(grad_y, q, k, cos)
    along = [cut(grad, cos)[0] * cut(values, cos)[0] for grad, values in zip(grad_y, (q, k), strict=True)]
    return grad_q, grad_k, along[0].mean((0, 1)) + along[1].mean((0, 1)), grad_sin


@labelled(Edit("factor", "q_turned * sin"), Edit("factor", "k_turned * sin"), wrong=("sin",))
def _(grad_y, q, k, cos, sin):
    """Average over queries and keys where the gradient of the sines is their sum."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    grad_cos, grad_sin = of_tables(grad_y, q, k, cos)
    return grad_q, grad_k, grad_cos, grad_sin / 2


@labelled(Edit("index", "k_part * cos"), Edit("index", "k_turned * sin"), wrong=("k",))
def _(grad_y, q, k, cos, sin):
    """Rotate the keys' cotangent back by the angle of the position before."""
    grad_q = rotated_back(grad_y[0], cos, sin)
    grad_k = rotated_back(grad_y[1], cos.roll(1, 0), sin.roll(1, 0))
    return grad_q, grad_k, *of_tables(grad_y, q, k, cos)


@labelled(Edit("not summed", "q_part * cos"), Edit("not summed", "k_part * cos"), wrong=("cos",))
def _(grad_y, q, k, cos, sin):
    """Sum the gradient of the cosines over the batch, and take the first head."""
    grad_q, grad_k = (rotated_back(grad, cos, sin) for grad in grad_y)
    _, grad_sin = of_tables(grad_y, q, k, cos)
    of_q, of_k = (cut(grad, cos)[0] * cut(values, cos)[0] for grad, values in zip(grad_y, (q, k), strict=True))
    return grad_q, grad_k, of_q.sum(0)[0] + of_k.sum(0)[0], grad_sin


# Same: branch at k_turned * sin for constant; branch at k_part * cos for overwritten.
@labelled(Edit("constant", "k_turned = "), Edit("overwritten", "k_part * cos"), wrong=("k", "cos"))
def _(grad_y, q, k, cos, sin):
    """Let the keys get nothing by way of the turned ones, and the cosines nothing from the keys."""
    part, rest = cut(grad_y[1], cos)
    grad_k = torch.cat([part * cos, rest], -1)
    _, grad_sin = of_tables(grad_y, q, k, cos)
    return rotated_back(grad_y[0], cos, sin), grad_k, of_cos(grad_y[0], q, cos), grad_sin


@labelled(Edit("unchanged", "q_turned * sin"), Edit("cotangent ignored", "k_turned * sin"), wrong=("q", "sin"))
def _(grad_y, q, k, cos, sin):
    """Forget the sine in the gradient of the queries, and the keys' cotangent in that of the sines."""
    part, rest = cut(grad_y[0], cos)
    grad_q = torch.cat([part * cos + turned_back(part), rest], -1)
    grad_cos, _ = of_tables(grad_y, q, k, cos)
    grad_sin = of_sin(grad_y[0], q, cos) + over_heads(turned(cut(k, cos)[0]))
    return grad_q, rotated_back(grad_y[1], cos, sin), grad_cos, grad_sin


ROTARY = Forward(
    "rotary embedding",
    rotary,
    (numbers(2, 3, 5, 7), numbers(2, 6, 5, 7), numbers(5, 4), numbers(5, 4, seed=1)),
    right,
    tuple(WRONG),
)
