"""A definition made of a torch function, and one by hand, evaluated in exact numbers and compared."""

import numpy as np
import torch
from flint import arb, ctx

from backprop_rules.evidence.proof.balls import ball, leaves, outputs, pull_back
from backprop_rules.evidence.proof.translate import definition_of

ROOT_2 = arb(2).sqrt()
ROW = [0.5625, -1.25, 2.125, -0.375, 0.75, 3.5]
R = np.array(ROW)
MATRIX = [ROW[:3], ROW[3:]]
IMAGE = np.sin(np.arange(2 * 4 * 5 * 5.0)).reshape(2, 4, 5, 5).tolist()
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 2 * 2, dtype=torch.float64).reshape(3, 4, 2, 2)


def each(function):
    return np.frompyfunc(function, 1, 1)


def evaluated(definition, *values):
    """Return the balls of y and of the gradients for a cotangent without symmetry, and y's shape."""
    tape = []
    with ctx.workprec(128):
        arrays = [leaves(np.ravel(x).tolist(), np.shape(x), tape) for x in values]
        y = definition(*arrays)
        elements = list(outputs(y))
        pull_back(y, [1 + k / 4 for k in range(len(elements))], tape)
        gradients = [leaf.adjoint for x in arrays for leaf in outputs(x)]
        return [ball(e) for e in elements] + gradients, np.shape(y)


def agree(forward, definition, *values):
    """Assert that both give balls that hold a number in common, in arrays of one shape, none of them wide."""
    (mine, shape), (theirs, known) = evaluated(definition_of(forward), *values), evaluated(definition, *values)
    assert shape == known
    for found, expected in zip(mine, theirs, strict=True):
        assert found.overlaps(expected)
        assert (found.rad() if isinstance(found, arb) else found.real.rad() + found.imag.rad()) < arb(2) ** -80


def gradient(forward, value):
    """Return the balls of y and of the gradient at a number."""
    return evaluated(definition_of(forward), value)[0]


# ---- functions that several files say in other words


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kinked(at, below, above):
    """Return the function of numbers that is one below `at`, and another above it."""
    return each(lambda v: below(v) if v < at else above(v))


def same(x):
    return x


def mean(x, axis=None, keepdims=False):
    return np.sum(x, axis, keepdims=keepdims) / (x.size if axis is None else x.shape[axis])


def softmax(x, axis=-1):
    return np.exp(x) / np.sum(np.exp(x), axis, keepdims=True)


def written(x):
    y = x.clone()
    y[y < 0] = 0
    y[0] += 1
    y.mul_(2).relu_()
    return y
