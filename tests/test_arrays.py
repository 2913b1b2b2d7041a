"""A NumPy function on tensors gives NumPy's own numbers; gradients and radii pass through it."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from searched import points

from backprop_rules import CATALOGUE, layout
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.subject.frameworks.arrays import Array, on_tensors

# Halves and quarters, without symmetry: sums and products of them do not round.
A = np.array([[1.0, -2.5, 0.5], [-0.25, 4.0, 3.0]])
B = np.array([[2.0, 1.0, -0.5], [4.0, -0.25, 8.0]])
V = np.array([0.5, -2.0, 1.0])
I = np.array([2, 0, -1])  # noqa: E741


def written(a):
    made = np.zeros_like(a)
    made[0] = a[1]
    made[1, 1:] = 3 * a[0, :2]
    made[a > 2] = -1
    made[..., 0] += a[:, 1]
    made *= 2
    made[::-1, 0] = a[:, 2]
    return made


def seen_through_views(a):
    made = a.copy()
    row, turned = made[1], made.T
    row += 10
    turned[0] *= 2
    element = made[0, 0]
    made[0, 0] = 100
    return made + element


def counted(a):
    total = 0.0
    for i, row in enumerate(a):
        for j in range(len(row)):
            total = total + (i - j) * row[j]
        total += row.sum()
    return total


def replaced(a):
    made = 2 * a
    made[[0, 1], [2, 0]] = a[1, :2]
    made[a < 0] = made[a < 0] * 4
    return made


# Functions of A, B and V whose arithmetic does not round.
LINEAR = [
    lambda a, b, v: a + b - v, lambda a, b, v: 2 * a, lambda a, b, v: a / 4, lambda a, b, v: 1 - a, lambda a, b, v: -a,
    lambda a, b, v: +a, lambda a, b, v: np.float64(0.5) * a, lambda a, b, v: np.asarray([2.0, 4.0, 8.0]) * a,
    lambda a, b, v: a.T, lambda a, b, v: a.sum(), lambda a, b, v: a.sum(0), lambda a, b, v: a.sum(axis=(0, 1)),
    lambda a, b, v: a.sum(axis=-1, keepdims=True), lambda a, b, v: np.sum(a, axis=()), lambda a, b, v: np.sum(a, 1),
    lambda a, b, v: a[:, :2].mean(), lambda a, b, v: np.mean(a, 0, keepdims=True), lambda a, b, v: np.mean(a, axis=()),
    lambda a, b, v: a[0], lambda a, b, v: a[1, 2], lambda a, b, v: a[..., None, 1:], lambda a, b, v: a[:, ::2],
    lambda a, b, v: a[::-1], lambda a, b, v: a[1:0:-1, ::-2], lambda a, b, v: a[:, [2, 0]], lambda a, b, v: a[:, I],
    lambda a, b, v: a[None][0, :, I], lambda a, b, v: a[np.array([1, 0]), I[:2]], lambda a, b, v: a[a > 0],
    lambda a, b, v: a[a.sum(1) > 0], lambda a, b, v: a[:, np.array([True, False, True])], lambda a, b, v: a[[]],
    lambda a, b, v: a[np.argmax(a, 0), [0, 1, 2]], lambda a, b, v: a.reshape(3, 2), lambda a, b, v: a.reshape((-1,)),
    lambda a, b, v: np.reshape(a, (2, 1, 3)), lambda a, b, v: a.T.ravel(), lambda a, b, v: a.flatten(),
    lambda a, b, v: a.transpose(1, 0), lambda a, b, v: np.transpose(a[None], (2, 0, 1)), lambda a, b, v: a[None].T,
    lambda a, b, v: np.swapaxes(a[None], 0, 2), lambda a, b, v: np.moveaxis(a[None], 0, -1),
    lambda a, b, v: np.expand_dims(a, (0, -1)), lambda a, b, v: np.squeeze(a[None], 0),
    lambda a, b, v: a[None, :, None].squeeze(), lambda a, b, v: np.broadcast_to(v, (2, 3)),
    lambda a, b, v: np.broadcast_arrays(a, v)[1], lambda a, b, v: np.stack([a, b], axis=1),
    lambda a, b, v: np.concatenate((a, b), axis=-1), lambda a, b, v: np.flip(a), lambda a, b, v: np.flip(a, 1),
    lambda a, b, v: np.roll(a, 1, axis=1), lambda a, b, v: np.tile(v, 2), lambda a, b, v: np.repeat(a, 2, axis=0),
    lambda a, b, v: np.take(a, I, axis=1), lambda a, b, v: np.take(a, 4), lambda a, b, v: np.cumsum(a, axis=1),
    lambda a, b, v: a.cumsum(), lambda a, b, v: np.take_along_axis(a, np.argmin(a, axis=1, keepdims=True), 1),
    lambda a, b, v: np.diagonal(a), lambda a, b, v: np.trace(a), lambda a, b, v: np.tril(a), lambda a, b, v: np.diag(v),
    lambda a, b, v: np.triu(a, 1), lambda a, b, v: a.copy(), lambda a, b, v: np.real(a) - np.imag(a),
    lambda a, b, v: np.conj(a), lambda a, b, v: a.dot(v), lambda a, b, v: list(a)[1],
    lambda a, b, v: written(a), lambda a, b, v: seen_through_views(a), lambda a, b, v: counted(a),
    lambda a, b, v: replaced(a), lambda a, b, v: np.diff(a), lambda a, b, v: np.diff(a, 2),
    lambda a, b, v: np.diff(a, axis=0), lambda a, b, v: np.fft.irfft(np.fft.rfft(a, 4), 4),
    lambda a, b, v: np.fft.ifft(np.fft.fft(a, 4, axis=0), axis=0).real,
]  # fmt: skip
POLYNOMIAL = [
    lambda a, b, v: a * b, lambda a, b, v: a**2, lambda a, b, v: np.square(a), lambda a, b, v: np.power(a, 3),
    lambda a, b, v: a @ b.T, lambda a, b, v: v @ v, lambda a, b, v: a @ v, lambda a, b, v: np.matmul(a[None], b.T),
    lambda a, b, v: np.dot(a, v), lambda a, b, v: np.dot(v, v), lambda a, b, v: np.dot(a, np.stack([b.T, b.T])),
    lambda a, b, v: np.dot(2.0, a), lambda a, b, v: np.outer(a, v), lambda a, b, v: np.inner(a, b),
    lambda a, b, v: np.tensordot(a, b, axes=([0], [0])), lambda a, b, v: np.tensordot(a, b, (1, 1)),
    lambda a, b, v: np.einsum("ij,kj->ik", a, b), lambda a, b, v: np.einsum("ij,j", a, v, optimize=True),
    lambda a, b, v: np.prod(a), lambda a, b, v: a.prod(axis=1), lambda a, b, v: np.prod(a, (0, 1), keepdims=True),
    lambda a, b, v: np.cumprod(a, 1), lambda a, b, v: np.var(a[:, :2], 1), lambda a, b, v: a[:, :2].var(ddof=1, axis=1),
    lambda a, b, v: np.full_like(a, 3) * a, lambda a, b, v: np.ones_like(a) + a * np.zeros_like(b),
]  # fmt: skip
PIECEWISE = [
    lambda a, b, v: np.sort(a), lambda a, b, v: np.sort(a, axis=None), lambda a, b, v: np.sort(a, 0),
    lambda a, b, v: np.maximum(a, 0.0), lambda a, b, v: np.minimum(a, b), lambda a, b, v: np.where(a > b, a, b),
    lambda a, b, v: np.where(a > 0, a, 0.0), lambda a, b, v: np.clip(a, -2, 2), lambda a, b, v: a.clip(min=0),
    lambda a, b, v: np.clip(a, None, v), lambda a, b, v: np.abs(a), lambda a, b, v: abs(a), lambda a, b, v: a.max(),
    lambda a, b, v: np.max(a, axis=1, keepdims=True), lambda a, b, v: a.min(0), lambda a, b, v: np.min(a, axis=(0, 1)),
    lambda a, b, v: a * (a > 0), lambda a, b, v: a if a.sum() > 0 else b, lambda a, b, v: a * np.sign(b),
]  # fmt: skip
# What torch has no gradient of, or no formula for its rounding.
OTHER = [
    lambda a, b, v: np.linalg.inv(a[:, ::2] * 2), lambda a, b, v: np.linalg.solve(b[:, :2], a[:, 2]),
    lambda a, b, v: np.fft.rfft(a.astype(np.int64), 4), lambda a, b, v: np.linalg.det(np.eye(2) * 2 + 0 * a[:, :2]),
    lambda a, b, v: np.sign(a), lambda a, b, v: np.floor(a), lambda a, b, v: np.ceil(a), lambda a, b, v: np.rint(a),
    lambda a, b, v: np.round(a), lambda a, b, v: a // 2, lambda a, b, v: a % 2, lambda a, b, v: a > b,
    lambda a, b, v: (a > b) & ~(a < 1) | (a == b), lambda a, b, v: np.logical_not(a), lambda a, b, v: a.any(0),
    lambda a, b, v: np.all(a > 0, axis=1), lambda a, b, v: np.all(a), lambda a, b, v: np.isnan(a),
    lambda a, b, v: np.argmax(a), lambda a, b, v: a.argmin(axis=1), lambda a, b, v: a.argmax(0), lambda a, b, v: a != 3,
    lambda a, b, v: np.sqrt(v * v), lambda a, b, v: np.exp2(a * 4), lambda a, b, v: np.hypot(a * 0, b),
    lambda a, b, v: np.reciprocal(v), lambda a, b, v: 2.0**(4 * a), lambda a, b, v: a / v, lambda a, b, v: v**-1.0,
    lambda a, b, v: np.arctan2(a * 0, a * a), lambda a, b, v: np.heaviside(a, 0.5), lambda a, b, v: np.copysign(a, b),
    lambda a, b, v: np.sign(a + np.nan), lambda a, b, v: np.linalg.norm(v * 0, axis=0), lambda a, b, v: np.exp(a * 0),
    lambda a, b, v: a.astype(np.int32), lambda a, b, v: a.astype(np.float32) * 0.5, lambda a, b, v: a.astype(bool),
    lambda a, b, v: a.astype(np.float32) * np.float64(2), lambda a, b, v: a.astype(np.float32) * V,
    lambda a, b, v: a.astype(np.float32) * b[0, 0], lambda a, b, v: a.astype(np.int32) / 2, lambda a, b, v: True * a,
    lambda a, b, v: a.astype(np.int32) * a.astype(np.float32), lambda a, b, v: np.mean(a.astype(np.int64)[:, :2]),
    lambda a, b, v: np.where(a > 0, 1.0, 0.0), lambda a, b, v: np.where(a, a.astype(np.float32), b),
    lambda a, b, v: np.sum(a > 0), lambda a, b, v: np.prod(a > 0), lambda a, b, v: np.sum(a, dtype=np.float32),
    lambda a, b, v: 1j * a, lambda a, b, v: np.abs(3j * a), lambda a, b, v: (a + 2j * b).conj().T,
    lambda a, b, v: (a + 2j * b).imag, lambda a, b, v: np.zeros_like(a, dtype=np.int64), lambda a, b, v: (a, [b, None]),
    lambda a, b, v: np.zeros(3), lambda a, b, v: v.sum() * np.ones(2), lambda a, b, v: len(a) + a.ndim + a.size,
    lambda a, b, v: np.shape(a), lambda a, b, v: np.size(a, 1), lambda a, b, v: a.dtype == np.float64,
    lambda a, b, v: float(a[0, 0]), lambda a, b, v: int(a[1, 1]), lambda a, b, v: a.shape,
    lambda a, b, v: a[0, 1].item(), lambda a, b, v: a >= 2,
]  # fmt: skip


def every(snippets):
    return pytest.mark.parametrize("snippet", snippets, ids=[str(i) for i in range(len(snippets))])


def tensors(requires_grad=False):
    return [torch.tensor(x, requires_grad=requires_grad) for x in (A, B, V)]


def agree(found, expected):
    if isinstance(expected, tuple | list):
        return type(found) is type(expected) and all(map(agree, found, expected))
    if isinstance(found, torch.Tensor):
        same = str(found.dtype) == f"torch.{expected.dtype.name}" and found.shape == expected.shape
        return same and np.array_equal(found.resolve_conj().numpy(), expected, equal_nan=found.is_floating_point())
    return type(found) is type(expected) and found == expected


@every(LINEAR + POLYNOMIAL + PIECEWISE + OTHER)
def test_the_numbers_and_the_dtype_are_numpy_s(snippet):
    assert agree(on_tensors(snippet)(*tensors()), snippet(A.copy(), B.copy(), V.copy()))


@every(LINEAR + POLYNOMIAL + PIECEWISE)
def test_the_gradient_flows(snippet):
    def value(*those):
        return float(np.sum(snippet(*those)))

    given = tensors(requires_grad=True)
    gradients = torch.autograd.grad(on_tensors(snippet)(*given).sum(), given, materialize_grads=True)
    # Exact for degrees up to 4 in one element; no element is within two steps of a kink.
    step = 2.0**-6
    for i, (x, gradient) in enumerate(zip((A, B, V), gradients, strict=True)):
        for at in np.ndindex(x.shape):
            moved = [[y.copy() for y in (A, B, V)] for _ in range(4)]
            for those, by in zip(moved, (1, -1, 2, -2), strict=True):
                those[i][at] += by * step
            near, back, far, further = (value(*those) for those in moved)
            assert gradient[at] == (8 * (near - back) - (far - further)) / (12 * step)


@every(LINEAR + POLYNOMIAL + PIECEWISE)
def test_the_radius_is_followed(snippet):
    with RunningError() as errors:
        found = on_tensors(snippet)(*(x * 1.1 for x in tensors()))
    assert errors.radius(found).isfinite().all()
    assert errors.radius(found).any() or not found.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("arrange", [torch.clone, layout.transposed, layout.sliced])
def test_every_dtype_and_layout_computes_in_its_own_dtype(arrange, dtype):
    a, v = (arrange(x.to(dtype)) for x in (tensors()[0], tensors()[2]))
    expected = torch.tensor(0.5 * (A @ V) + 1).to(dtype)
    assert torch.equal(on_tensors(lambda x, w: 0.5 * (x @ w) + 1)(a, v), expected)
    assert on_tensors(lambda x, w: np.sum(np.exp(x) * w, axis=0))(a, v).dtype == dtype


@pytest.mark.parametrize("rule", [rule for rule in CATALOGUE.values() if rule.domain.degree is not None], ids=str)
@settings(max_examples=30)
@given(st.data())
def test_a_definition_of_the_catalogue_gives_y_where_nothing_rounds(rule, data):
    point = data.draw(points(rule, "exact"))
    found = on_tensors(rule.definition)(*point.primals, **point.params)
    assert found.shape == point.y.shape
    assert ((found == point.y) | (found.isnan() & point.y.isnan())).all()  # the mean of nothing is NaN


def test_params_none_and_dtypes_pass():
    def function(x, weight=None, *, axis, dtype):
        assert weight is None
        return np.sum(x, axis, dtype=dtype), None, axis

    total, nothing, axis = on_tensors(function)(tensors()[0], None, axis=1, dtype=torch.float32)
    assert (total.dtype, nothing, axis) == (torch.float32, None, 1)
    half = on_tensors(lambda x, *, dtype: x.astype(dtype))(tensors()[0], dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_a_write_into_an_argument_is_seen_unless_torch_forbids_it():
    def careless(x):
        x *= 2
        x[0] = 0

    x = torch.ones(3)
    on_tensors(careless)(x)
    assert torch.equal(x, torch.tensor([0.0, 2, 2]))
    with pytest.raises(NotImplementedError, match="a write into an argument"):
        on_tensors(careless)(torch.ones(3, requires_grad=True))


UNKNOWN = {
    "np.fft.fft2": np.fft.fft2, "np.sort": lambda x: np.sort(x, kind="stable"), "np.cbrt": np.cbrt,
    "np.add.reduce": np.add.reduce, "np.add.at": lambda x: np.add.at(x, 0, 1),
    "np.sum with initial": lambda x: np.sum(x, initial=1.0), "np.exp with where": lambda x: np.exp(x, where=x > 0),
    "np.array and np.asarray": np.asarray, "ndarray.sort": lambda x: x.sort(),
    "would lose it": lambda x: float(x[0]), "np.add writes into an ndarray": lambda x: np.add(x, x, out=np.zeros(3)),
    "item() of": lambda x: np.zeros(3).__setitem__(0, x[0]), "np.asarray": lambda x: np.zeros((2, 3)).__setitem__(0, x),
    "more than once": lambda x: x.copy().__setitem__([0, 0], x[:2]), "np.multiply of": lambda x: x * "text",
    "steps backwards": lambda x: np.add(x, x, out=x[::-1]), "True and False": lambda x: x[True],
    "the dtype": lambda x: x.astype("M8[s]"),
}  # fmt: skip


@pytest.mark.parametrize("named", UNKNOWN)
def test_what_is_unknown_is_named(named):
    with pytest.raises(NotImplementedError, match=re.escape(named)):
        on_tensors(UNKNOWN[named])(torch.ones(3, requires_grad=True))


def test_an_in_place_operation_keeps_what_the_gradient_needs():
    def halved(x):
        powers = np.exp2(x)
        powers /= 2
        return powers

    x = torch.tensor([1.0, 3.0], requires_grad=True)
    on_tensors(halved)(x).sum().backward()
    assert torch.equal(x.grad, torch.autograd.functional.vjp(lambda x: torch.exp2(x) / 2, x.detach(), torch.ones(2))[1])


def test_an_unknown_attribute_is_absent():
    assert not hasattr(Array(torch.ones(2)), "device")


@pytest.mark.parametrize(
    "wrong", [lambda x: x + np.ones(4), lambda x: x[5], lambda x: np.squeeze(x, 0), lambda x: x @ x.T[1:]]
)
def test_what_numpy_refuses_is_refused(wrong):
    for function, x in ((wrong, np.ones(3)), (on_tensors(wrong), torch.ones(3))):
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            function(x)
