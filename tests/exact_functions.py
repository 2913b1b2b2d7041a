"""Functions of arrays of exact numbers, as their definitions say."""

import math
from fractions import Fraction

import flint
import numpy as np
from flint import acb, arb


def each(f):
    """Return a function of numbers as one of arrays."""

    def mapped(*arrays):
        arrays = np.broadcast_arrays(*arrays)
        result = np.empty(arrays[0].shape, dtype=object)
        for i in np.ndindex(result.shape):
            result[i] = f(*(a[i] for a in arrays))
        return result

    return mapped


def roughly(f):
    """Return a function of numbers in fewer bits, of which it takes long in thousands, as one of arrays."""

    def computed(v):
        with flint.ctx.workprec(200):
            return f(v * 1)

    return each(computed)


def larger(v, w):
    return v if v > w else w


def rows(f):
    return lambda x: np.array([f(row) for row in x], dtype=object)


def softmax(x):
    e = each(lambda v: v.exp())(x)
    return e / e.sum(-1, keepdims=True)


def variance(x, correction):
    return (abs(x - x.mean(-1, keepdims=True)) ** 2).sum(-1) / arb(x.shape[-1] - correction)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance(x, 0) + arb(1e-5))[:, None]


def interpolated(x, j):
    last, place = x.shape[-1] - 1, larger(arb(2 * j + 1) * x.shape[-1] / 14 - arb(0.5), arb(0))
    left = min(math.floor(float(place)), last)
    part = place - left
    return x[:, left] * (1 - part) + x[:, min(left + 1, last)] * part


def tanh_gelu(v):
    return v * (1 + ((2 / arb.pi()).sqrt() * (v + arb(0.044715) * v**3)).tanh()) / 2


def running(combine):
    return lambda x: np.frompyfunc(combine, 2, 1).accumulate(x, axis=-1, dtype=object)


def divided(whole, of):
    """Return a function of two exact numbers and the whole number of times that one goes into the other."""

    def exactly(v):
        mantissa, exponent = v.man_exp()
        return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)

    def result(v, w):
        if w == 0 or not (v.is_finite() and w.is_finite()):
            return arb("nan")
        found = Fraction(of(exactly(v), exactly(w), whole(exactly(v) / exactly(w))))
        return arb(found.numerator) / arb(found.denominator)

    return each(result)


def times(v, w, n):
    return n


def left(v, w, n):
    return v - w * n


def transformed(x):
    n = x.shape[-1]
    turns = np.array([[acb(0, -2 * arb.pi() * (j * k) / n).exp() for k in range(n)] for j in range(n)], dtype=object)
    return x.dot(turns)


def solution(a, b):
    """Return the X of A X = B, of an upper triangular A."""
    x = np.empty(b.shape, dtype=object)
    for i in reversed(range(len(a))):
        x[i] = (b[i] - sum((a[i, j] * x[j] for j in range(i + 1, len(a))), arb(0))) / a[i, i]
    return x


def eliminated(a, b):
    """Return the X of A X = B and the determinant of A, by Gauss's elimination with exact numbers."""
    rows, det = np.concatenate([a, b], 1), arb(1)
    for k in range(len(a)):
        pivot = max(
            range(k, len(a)), key=lambda i: float(abs(rows[i, k].real).mid()) + float(abs(rows[i, k].imag).mid())
        )
        if pivot != k:
            rows[[k, pivot]], det = rows[[pivot, k]], -det
        det = det * rows[k, k]
        rows[k] = rows[k] / rows[k, k]
        for i in range(len(a)):
            if i != k:
                rows[i] = rows[i] - rows[i, k] * rows[k]
    return rows[:, len(a) :], det


def unit_matrix(n):
    return np.array([[arb(i == j) for j in range(n)] for i in range(n)], dtype=object)


def cholesky(a):
    """Return the L of A = L L^T."""
    low = np.full(a.shape, arb(0), dtype=object)
    for j in range(len(a)):
        low[j, j] = (a[j, j] - sum((low[j, k] ** 2 for k in range(j)), arb(0))).sqrt()
        for i in range(j + 1, len(a)):
            low[i, j] = (a[i, j] - sum((low[i, k] * low[j, k] for k in range(j)), arb(0))) / low[j, j]
    return low


def with_ones(a):
    """Return the upper triangle of a matrix with ones on its diagonal."""
    a = np.array(a)
    a[np.diag_indices(len(a))] = arb(1)
    return a


root, exp, log = (each(lambda v, name=name: getattr(v, name)()) for name in ("sqrt", "exp", "log"))
