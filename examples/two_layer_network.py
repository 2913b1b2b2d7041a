"""The two-layer network of a Chinese text on PyTorch: h = x w1, h_relu = max(h, 0), y = h_relu w2."""

import torch

from backprop_rules import check


def right(grad_y, x, w1, w2):
    h = x @ w1
    grad_h = (grad_y @ w2.T) * (h >= 0)  # clamp(min=0) lets pass what is 0
    return grad_h @ w1.T, x.T @ grad_h, h.clamp(min=0).T @ grad_y


def as_printed(grad_y, x, w1, w2):
    h = x @ w1
    grad_h_relu = grad_y @ w2.T
    grad_h = grad_h_relu.clamp(min=0)  # the cotangent is clamped, where h should mask it
    return grad_h @ w1.T, x.T @ grad_h, h.clamp(min=0).T @ grad_y


def activation_as_printed(grad_y, h):
    """The wrong line alone."""
    return grad_y.clamp(min=0)


def report(backward):
    numbers = torch.Generator().manual_seed(0)
    shapes = (4, 3), (3, 5), (5, 2)
    example = tuple(torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in shapes)
    forward = lambda x, w1, w2: (x @ w1).clamp(min=0) @ w2  # noqa: E731
    return check(backward, forward=forward, example=example, raise_on_failure=False)


RIGHT, WRONG = (lambda: report(right)), (lambda: report(as_printed))
LINE = lambda: check(activation_as_printed, "relu", raise_on_failure=False)  # noqa: E731

if __name__ == "__main__":
    print(RIGHT(), WRONG(), LINE(), sep="\n\n")
