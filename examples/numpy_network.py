"""Layers of a NumPy network, in the manner of teaching code: forward returns a cache, backward takes it."""

import numpy as np

from backprop_rules import check


def affine_backward(grad_y, x, w, b):
    """Gradients of x.reshape(n, -1) @ w + b."""
    return grad_y @ w.T, x.T @ grad_y, grad_y.sum(axis=0)


def averaged_bias(grad_y, x, w, b):
    """The same, but the bias gets the mean, although the loss has been averaged already."""
    return grad_y @ w.T, x.T @ grad_y, grad_y.mean(axis=0)


def report(backward):
    numbers = np.random.default_rng(0)
    example = numbers.normal(size=(4, 5)), numbers.normal(size=(5, 3)), numbers.normal(size=3)
    return check(backward, definition=lambda x, w, b: x @ w + b, example=example, raise_on_failure=False)


RIGHT, WRONG = (lambda: report(affine_backward)), (lambda: report(averaged_bias))

if __name__ == "__main__":
    print(RIGHT(), WRONG(), sep="\n\n")
