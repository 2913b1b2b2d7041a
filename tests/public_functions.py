"""Functions that array libraries share: each in torch, and in the NumPy notation of a library, with an example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

special, linalg, nn = torch.special, torch.linalg, torch.nn.functional


class Shared(NamedTuple):
    """A function in torch, the same in a library's notation, and an example."""

    torchs: Callable[..., Tensor]
    theirs: Callable[..., Any]
    example: tuple[Tensor, ...]


def drawn(*shape: int, kind: str = "any", seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    return {
        "any": x, "positive": x.abs() + 0.25, "unit": x.tanh() * 0.9, "above one": x.abs() + 1.25,
        "between": torch.sigmoid(x),
    }[kind]  # fmt: skip


def matrices(n: int = 3, definite: bool = False) -> Tensor:
    x = drawn(n, n)
    return x @ x.mT + n * torch.eye(n, dtype=x.dtype) if definite else x + 2 * torch.eye(n, dtype=x.dtype)


FUNCTIONS: dict[str, Shared] = {}


def one(name: str, torchs: Callable[..., Tensor], kind: str = "any", theirs: Callable[..., Any] | None = None) -> None:
    """A function of one array, element by element, of the same name in the library."""
    FUNCTIONS[name] = Shared(torchs, theirs or (lambda np, x: getattr(np, name)(x)), (drawn(3, 4, kind=kind),))


def two(name: str, torchs: Callable[..., Tensor], kind: str = "any", theirs: Callable[..., Any] | None = None) -> None:
    """A function of two arrays, which are broadcast."""
    example = drawn(3, 4, kind=kind), drawn(4, kind=kind)
    FUNCTIONS[name] = Shared(torchs, theirs or (lambda np, a, b: getattr(np, name)(a, b)), example)


def of(name: str, torchs: Callable[..., Tensor], theirs: Callable[..., Any], *example: Tensor) -> None:
    """Any function."""
    FUNCTIONS[name] = Shared(torchs, theirs, example or (drawn(3, 4),))


for name, function, kind in (
    ("exp", torch.exp, "any"), ("exp2", torch.exp2, "any"), ("expm1", torch.expm1, "any"),
    ("log", torch.log, "positive"), ("log2", torch.log2, "positive"), ("log10", torch.log10, "positive"),
    ("log1p", torch.log1p, "positive"), ("sqrt", torch.sqrt, "positive"), ("square", torch.square, "any"),
    ("cbrt", lambda x: x.sign() * x.abs() ** (1 / 3), "positive"), ("reciprocal", torch.reciprocal, "positive"),
    ("negative", torch.neg, "any"), ("abs", torch.abs, "any"), ("absolute", torch.abs, "any"),
    ("fabs", torch.abs, "any"), ("sign", torch.sign, "any"), ("floor", torch.floor, "any"), ("ceil", torch.ceil, "any"),
    ("sin", torch.sin, "any"), ("cos", torch.cos, "any"), ("tan", torch.tan, "unit"), ("sinh", torch.sinh, "any"),
    ("cosh", torch.cosh, "any"), ("tanh", torch.tanh, "any"), ("arcsin", torch.asin, "unit"),
    ("arccos", torch.acos, "unit"), ("arctan", torch.atan, "any"), ("arcsinh", torch.asinh, "any"),
    ("arccosh", torch.acosh, "above one"), ("arctanh", torch.atanh, "unit"), ("sinc", torch.sinc, "any"),
    ("deg2rad", torch.deg2rad, "any"), ("rad2deg", torch.rad2deg, "any"), ("radians", torch.deg2rad, "any"),
    ("degrees", torch.rad2deg, "any"), ("erf", special.erf, "any"), ("erfc", special.erfc, "any"),
    ("erfinv", special.erfinv, "unit"), ("gammaln", special.gammaln, "positive"), ("psi", special.digamma, "positive"),
    ("digamma", special.digamma, "positive"), ("expit", special.expit, "any"), ("logit", special.logit, "between"),
    ("i0", special.i0, "any"), ("i1", special.i1, "any"), ("i0e", special.i0e, "any"), ("i1e", special.i1e, "any"),
    ("ndtri", special.ndtri, "between"),
    ("ndtr", special.ndtr, "any"), ("log_ndtr", special.log_ndtr, "any"), ("entr", special.entr, "positive"),
    ("sigmoid", torch.sigmoid, "any"), ("relu", torch.relu, "any"), ("relu6", nn.relu6, "any"), ("elu", nn.elu, "any"),
    ("selu", nn.selu, "any"), ("celu", nn.celu, "any"), ("softplus", nn.softplus, "any"), ("silu", nn.silu, "any"),
    ("swish", nn.silu, "any"), ("mish", nn.mish, "any"), ("gelu", lambda x: nn.gelu(x, approximate="tanh"), "any"),
    ("log_sigmoid", nn.logsigmoid, "any"), ("logsigmoid", nn.logsigmoid, "any"), ("soft_sign", nn.softsign, "any"),
    ("softsign", nn.softsign, "any"), ("leaky_relu", nn.leaky_relu, "any"), ("hard_tanh", nn.hardtanh, "any"),
    ("hardtanh", nn.hardtanh, "any"), ("hard_swish", nn.hardswish, "any"), ("hardswish", nn.hardswish, "any"),
    ("hard_sigmoid", nn.hardsigmoid, "any"), ("rsqrt", torch.rsqrt, "positive"), ("trunc", torch.trunc, "any"),
    ("squareplus", lambda x: (x + torch.sqrt(x * x + 4)) / 2, "any"), ("nan_to_num", torch.nan_to_num, "any"),
    ("lgamma", special.gammaln, "positive"), ("positive", torch.positive, "any"), ("round", torch.round, "any"),
    ("zeros_like", lambda x: 0 * x, "any"), ("real", lambda x: x * 1, "any"),
):  # fmt: skip
    one(name, function, kind)

for name, function, kind in (
    ("add", torch.add, "any"), ("subtract", torch.sub, "any"), ("multiply", torch.mul, "any"),
    ("divide", torch.div, "positive"), ("true_divide", torch.div, "positive"), ("power", torch.pow, "positive"),
    ("float_power", torch.pow, "positive"), ("maximum", torch.maximum, "any"), ("minimum", torch.minimum, "any"),
    ("fmax", torch.fmax, "any"), ("fmin", torch.fmin, "any"), ("arctan2", torch.atan2, "any"),
    ("hypot", torch.hypot, "any"), ("logaddexp", torch.logaddexp, "any"), ("logaddexp2", torch.logaddexp2, "any"),
    ("mod", torch.remainder, "positive"), ("remainder", torch.remainder, "positive"), ("fmod", torch.fmod, "positive"),
    ("xlogy", special.xlogy, "positive"), ("xlog1py", special.xlog1py, "positive"), ("copysign", torch.copysign, "any"),
    ("outer", lambda a, b: torch.outer(a.reshape(-1), b.reshape(-1)), "any"), ("kron", torch.kron, "any"),
    ("inner", lambda a, b: a @ b, "any"), ("dot", lambda a, b: a @ b, "any"), ("matmul", torch.matmul, "any"),
    ("gammainc", special.gammainc, "positive"), ("gammaincc", special.gammaincc, "positive"),
):  # fmt: skip
    two(name, function, kind)

for axis in (None, 0, 1):
    said = "" if axis is None else f", axis {axis}"
    dims = (0, 1) if axis is None else axis
    for name, function in (
        ("sum", torch.sum), ("mean", torch.mean), ("max", lambda x, d: x.amax(d)),
        ("min", lambda x, d: x.amin(d)), ("var", lambda x, d: x.var(d, correction=0)),
        ("std", lambda x, d: x.std(d, correction=0)), ("logsumexp", torch.logsumexp),
        ("median", lambda x, d: torch.quantile(x.reshape(-1) if isinstance(d, tuple) else x, 0.5,
                                               dim=0 if isinstance(d, tuple) else d)),
    ):  # fmt: skip
        of(
            f"{name}{said}",
            lambda x, f=function, d=dims: f(x, d),
            lambda np, x, n=name, a=axis: getattr(np, n)(x, axis=a),
        )
    of(f"prod{said}", lambda x, d=axis: x.prod() if d is None else x.prod(d), lambda np, x, a=axis: np.prod(x, axis=a))
    of(f"ptp{said}", lambda x, d=dims: x.amax(d) - x.amin(d), lambda np, x, a=axis: np.ptp(x, axis=a))
    if axis is not None:
        for name, function in (
            ("cumsum", torch.cumsum), ("cumprod", torch.cumprod), ("softmax", torch.softmax),
            ("log_softmax", torch.log_softmax), ("flip", torch.flip), ("sort", lambda x, d: x.sort(d).values),
            ("cumlogsumexp", torch.logcumsumexp), ("squeeze", lambda x, d: x), ("cummax", lambda x, d: x.cummax(d)[0]),
        ):  # fmt: skip
            dimension = [axis] if name == "flip" else axis
            of(f"{name}{said}", lambda x, f=function, d=dimension: f(x, d),
               lambda np, x, n=name, a=axis: getattr(np, n)(x, axis=a))  # fmt: skip
        of(f"diff{said}", lambda x, d=axis: x.diff(dim=d), lambda np, x, a=axis: np.diff(x, axis=a))
        of(
            f"norm{said}",
            lambda x, d=axis: linalg.vector_norm(x, dim=d),
            lambda np, x, a=axis: np.linalg.norm(x, axis=a),
        )
        of(f"roll{said}", lambda x, d=axis: x.roll(1, d), lambda np, x, a=axis: np.roll(x, 1, axis=a))
        of(f"repeat{said}", lambda x, d=axis: x.repeat_interleave(2, d), lambda np, x, a=axis: np.repeat(x, 2, axis=a))
        of(f"expand_dims{said}", lambda x, d=axis: x.unsqueeze(d), lambda np, x, a=axis: np.expand_dims(x, a))
        of(f"concatenate{said}", lambda a, b, d=axis: torch.cat([a, b], d),
           lambda np, a, b, k=axis: np.concatenate([a, b], axis=k), drawn(3, 4), drawn(3, 4, seed=1))  # fmt: skip
        of(f"stack{said}", lambda a, b, d=axis: torch.stack([a, b], d),
           lambda np, a, b, k=axis: np.stack([a, b], axis=k), drawn(3, 4), drawn(3, 4, seed=1))  # fmt: skip
        of(f"take{said}", lambda x, d=axis: x.index_select(d, torch.tensor([0, 2, 0])),
           lambda np, x, a=axis: np.take(x, [0, 2, 0], axis=a))  # fmt: skip

of("transpose", lambda x: x.mT, lambda np, x: np.transpose(x))
of("reshape", lambda x: x.reshape(-1, 2), lambda np, x: np.reshape(x, (-1, 2)))
of("ravel", lambda x: x.reshape(-1), lambda np, x: np.ravel(x))
of("swapaxes", lambda x: x.swapaxes(0, 1), lambda np, x: np.swapaxes(x, 0, 1))
of("moveaxis", lambda x: x.movedim(0, 1), lambda np, x: np.moveaxis(x, 0, 1))
of("flipud", lambda x: x.flip(0), lambda np, x: np.flipud(x))
of("fliplr", lambda x: x.flip(1), lambda np, x: np.fliplr(x))
of("rot90", lambda x: x.rot90(), lambda np, x: np.rot90(x))
of("tile", lambda x: x.tile((2, 1)), lambda np, x: np.tile(x, (2, 1)))
of("tril", lambda x: x.tril(), lambda np, x: np.tril(x))
of("triu", lambda x: x.triu(), lambda np, x: np.triu(x))
of("diagonal", lambda x: x.diagonal(), lambda np, x: np.diagonal(x))
of("trace", lambda x: x.diagonal().sum(), lambda np, x: np.trace(x))
of("diag", lambda x: x.diag(), lambda np, x: np.diag(x), drawn(4))
of("clip", lambda x: x.clamp(-0.5, 0.75), lambda np, x: np.clip(x, -0.5, 0.75))
of("pad", lambda x: nn.pad(x, (1, 2)), lambda np, x: np.pad(x, ((0, 0), (1, 2))))
of(
    "pad, reflect",
    lambda x: nn.pad(x[None], (1, 2), mode="reflect")[0],
    lambda np, x: np.pad(x, ((0, 0), (1, 2)), "reflect"),
)
of(
    "pad, edge",
    lambda x: nn.pad(x[None], (1, 2), mode="replicate")[0],
    lambda np, x: np.pad(x, ((0, 0), (1, 2)), "edge"),
)
of("slice", lambda x: x[1:, ::2], lambda np, x: x[1:, ::2])
of("index", lambda x: x[torch.tensor([0, 2, 0])], lambda np, x: x[[0, 2, 0]])
of(
    "where",
    lambda a, b: torch.where(a > b, a, b * b),
    lambda np, a, b: np.where(a > b, a, b * b),
    drawn(3, 4),
    drawn(3, 4, seed=1),
)
of("power of a constant", lambda x: x**3, lambda np, x: x**3)
of("root of a constant", lambda x: x**0.5, lambda np, x: x**0.5, drawn(3, 4, kind="positive"))
of("a constant to the power", lambda x: 2.0**x, lambda np, x: 2.0**x)
of("einsum ij,jk->ik", lambda a, b: a @ b, lambda np, a, b: np.einsum("ij,jk->ik", a, b), drawn(3, 4), drawn(4, 2))
of("einsum ij->j", lambda x: x.sum(0), lambda np, x: np.einsum("ij->j", x))
of(
    "einsum ij,ij->i",
    lambda a, b: (a * b).sum(1),
    lambda np, a, b: np.einsum("ij,ij->i", a, b),
    drawn(3, 4),
    drawn(3, 4, seed=1),
)
of(
    "einsum bij,bjk->bik",
    lambda a, b: a @ b,
    lambda np, a, b: np.einsum("bij,bjk->bik", a, b),
    drawn(2, 3, 4),
    drawn(2, 4, 2),
)
of("tensordot", lambda a, b: torch.tensordot(a, b, 1), lambda np, a, b: np.tensordot(a, b, 1), drawn(3, 4), drawn(4, 2))
of("matmul of matrices", torch.matmul, lambda np, a, b: np.matmul(a, b), drawn(3, 4), drawn(4, 2))
of("matmul, batched", torch.matmul, lambda np, a, b: np.matmul(a, b), drawn(2, 3, 4), drawn(4, 2))
of("cross", linalg.cross, lambda np, a, b: np.cross(a, b), drawn(4, 3), drawn(4, 3, seed=1))
of("inv", linalg.inv, lambda np, x: np.linalg.inv(x), matrices())
of("pinv", linalg.pinv, lambda np, x: np.linalg.pinv(x), matrices())
of("det", linalg.det, lambda np, x: np.linalg.det(x), matrices())
of("slogdet", lambda x: linalg.slogdet(x)[1], lambda np, x: np.linalg.slogdet(x)[1], matrices())
of("solve", linalg.solve, lambda np, a, b: np.linalg.solve(a, b), matrices(), drawn(3, 2))
of("cholesky", linalg.cholesky, lambda np, x: np.linalg.cholesky(x), matrices(definite=True))
of("eigvalsh", linalg.eigvalsh, lambda np, x: np.linalg.eigvalsh(x), matrices(definite=True))
of("singular values", linalg.svdvals, lambda np, x: np.linalg.svd(x, compute_uv=False), drawn(3, 4))
of("norm", linalg.vector_norm, lambda np, x: np.linalg.norm(x))
of(
    "log-softmax of rows",
    lambda x: torch.log_softmax(x, -1),
    lambda np, x: (
        x - np.max(x, axis=1, keepdims=True)
        - np.log(np.sum(np.exp(x - np.max(x, axis=1, keepdims=True)), axis=1, keepdims=True))
    ),
)  # fmt: skip
of(
    "normalised rows",
    lambda x: x / x.norm(dim=1, keepdim=True),
    lambda np, x: x / np.sqrt(np.sum(x * x, axis=1, keepdims=True)),
)
of(
    "standardised rows",
    lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt(),
    lambda np, x: (x - np.mean(x, axis=1, keepdims=True)) / np.sqrt(np.var(x, axis=1, keepdims=True) + 1e-5),
)
