"""Products of arrays of numbers: NumPy's values, and an end at the first exception."""

import numpy as np
import pytest
from flint import arb

from backprop_rules.evidence.proof.balls import Number, leaves, on_tape, outputs

SHAPES = [
    ((3, 4), (4, 2)),
    ((2, 3, 4), (4, 2)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((4,), (4,)),
    ((4,), (4, 2)),
    ((2, 3, 4), (4,)),
    ((3, 0), (0, 2)),
]
STACKED = ((2, 2, 2), (2, 2, 2))


def whole(shape, first=0):
    """Return small whole numbers, which sum without rounding."""
    return (np.arange(np.prod(shape, dtype=int)) % 7 - 3.0 + first).reshape(shape)


def numbers(shape, tape, first=0):
    return leaves([arb(v) for v in whole(shape, first).ravel()], shape, tape)


def as_floats(found):
    return np.array([float(n.value if isinstance(n, Number) else n) for n in outputs(found)]).reshape(found.shape)


@pytest.mark.parametrize("function", [np.matmul, np.dot, np.inner, np.tensordot])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_a_product_is_that_of_numpy(function, shapes):
    def applied(a, b):
        return np.tensordot(a, b, (-1, 0)) if function is np.tensordot else function(a, b)

    try:
        wanted = np.asarray(applied(whole(shapes[0]), whole(shapes[1], 1)))
    except ValueError:
        wanted = None
    tape: list[Number] = []
    a, b = numbers(shapes[0], tape), numbers(shapes[1], tape, 1)
    with on_tape(tape):
        if wanted is None:
            with pytest.raises(ValueError, match=r"shape|mismatch|product"):
                applied(a, b)
            return
        found = applied(a, b)
    assert np.array_equal(as_floats(found), wanted)


def test_the_first_of_equal_ones_is_the_largest():
    tape: list[Number] = []
    x = leaves([arb(v) for v in (1, 3, 2, 5, 4, 0)], (2, 3), tape)
    assert np.argmax(x, 1).tolist() == [1, 0]
    assert x.argmin(0).tolist() == [0, 0, 1]
    assert int(np.argmax(x)) == 3
    assert np.argmax(x, axis=-1, keepdims=True).tolist() == x.argmax(axis=-1, keepdims=True).tolist() == [[1], [0]]
    assert x.argmax(keepdims=True).tolist() == [[3]]


def test_a_product_into_an_array_is_written_there():
    tape: list[Number] = []
    a, b, into = numbers((2, 3), tape), numbers((3, 2), tape, 1), numbers((2, 2), tape)
    with on_tape(tape):
        found = np.matmul(a, b, out=into)
    assert np.array_equal(as_floats(into), whole((2, 3)) @ whole((3, 2), 1))
    assert np.shares_memory(found, into)


class Breaks(Number):
    """A number whose third product fails, and which must not be asked again."""

    count = 0

    def __mul__(self, other):
        Breaks.count += 1
        if Breaks.count == 3:
            raise ZeroDivisionError("the third")
        return super().__mul__(other)


@pytest.mark.parametrize("function", [np.matmul, np.dot, np.inner, lambda a, b: np.tensordot(a, b, 1)])
def test_nothing_is_computed_after_an_exception(function):
    tape: list[Number] = []
    a, b = (leaves([0.0] * 8, shape, tape) for shape in STACKED)
    for place in np.ndindex(2, 2, 2):
        a[place] = Breaks(arb(1), tape)
    Breaks.count = 0
    with pytest.raises(ZeroDivisionError, match="the third"):
        function(a, b)
    assert Breaks.count == 3
