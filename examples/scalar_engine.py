"""An engine of scalars that remember how they were made, after the model of micrograd."""

import numpy as np

from backprop_rules import check


class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = data, 0.0, parents

    def __add__(self, other):
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    def backward(self, grad, accumulate=True):
        """Pass the gradient on along every path."""
        for parent, slope in self.parents:
            parent.grad = parent.grad + grad * slope if accumulate else grad * slope
            parent.backward(grad * slope, accumulate)


def product_and_sum(x, z):
    """The function: x z + x."""
    return x * z + x


def engine(accumulate):
    def backward(grad_y, x, z):
        grad_x, grad_z = np.zeros_like(x), np.zeros_like(z)
        for i in np.ndindex(x.shape):
            a, b = Value(x[i]), Value(z[i])
            (a * b + a).backward(grad_y[i], accumulate)
            grad_x[i], grad_z[i] = a.grad, b.grad
        return grad_x, grad_z

    return backward


def report(backward):
    example = np.array([1.0, -2.0, 3.0]), np.array([0.5, 4.0, -1.0])
    return check(backward, definition=product_and_sum, example=example, raise_on_failure=False)


# A value that is used twice gets only the gradient of its last use.
RIGHT, WRONG = (lambda: report(engine(accumulate=True))), (lambda: report(engine(accumulate=False)))

if __name__ == "__main__":
    print(RIGHT(), WRONG(), sep="\n\n")
