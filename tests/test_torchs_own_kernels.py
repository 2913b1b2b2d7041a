"""Torch's own gradients in narrow dtypes are right: what its kernels store on the way is known."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from operations import operations
from operations_at_size import agreement, points

from backprop_rules.testing import WrongGradients, assert_gradients, enclose

KNOWN = functools.cache(operations)  # which takes seconds to load: one process does
# Each has a kernel that was called off once: parts, or sums, in the narrow dtype; a constant in it; a quotient.
NAMES = [
    "_unsafe_masked_index", "cross", "gradient", "native_group_norm", "nn.functional.binary_cross_entropy",
    "nn.functional.binary_cross_entropy_with_logits", "nn.functional.conv1d", "nn.functional.conv2d",
    "nn.functional.conv3d", "nn.functional.conv_transpose1d", "nn.functional.conv_transpose2d",
    "nn.functional.conv_transpose3d", "nn.functional.cosine_embedding_loss", "nn.functional.cross_entropy",
    "nn.functional.embedding", "nn.functional.glu", "nn.functional.huber_loss", "nn.functional.layer_norm",
    "nn.functional.linear_cross_entropy", "nn.functional.mse_loss", "nn.functional.multilabel_soft_margin_loss",
    "nn.functional.pad.reflect", "nn.functional.poisson_nll_loss", "nn.functional.rms_norm", "nn.functional.unfold",
    "prod", "sigmoid", "unfold",
    # These were refused.
    "addmm", "baddbmm", "floor", "masked_select", "nn.functional.adaptive_avg_pool2d",
    "nn.functional.batch_norm", "nn.functional.interpolate.bilinear", "nn.functional.interpolate.nearest",
    "nn.functional.pad.replicate", "nn.functional.pad.replicate_negative", "round", "sort", "topk",
    "addbmm", "logcumsumexp", "nn.functional.avg_pool2d", "nn.functional.embedding_bag", "nn.functional.nll_loss",
    "nn.functional.smooth_l1_loss", "angle", "copysign", "erfinv", "i0", "nn.functional.interpolate.bicubic",
    "special.i0e",
]  # fmt: skip


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Torch has no narrow kernel of these.
WIDE = [
    "cdist", "linalg.solve_triangular", "nn.functional.pdist", "linalg.solve", "linalg.inv", "linalg.det",
    "linalg.slogdet", "linalg.cholesky", "cholesky_solve", "lgamma", "digamma", "_upsample_bilinear2d_aa",
    "nanquantile", "nn.functional.ctc_loss", "nn.functional.multi_margin_loss", "polygamma.polygamma_n_2", "quantile",
    "special.erfcx", "special.i1e", "special.log_ndtr", "special.ndtri", "triangular_solve",
]  # fmt: skip
IN_ANY = [(name, dtype) for name in NAMES for dtype in (torch.bfloat16, torch.float16, torch.float32)]


@pytest.mark.xdist_group("torch's list of its operations")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dtype"), IN_ANY + [(name, torch.float32) for name in WIDE], ids=lambda x: str(x).removeprefix("torch.")
)
def test_torchs_own_output_and_gradient_of_its_own_operation_are_right(name, dtype):
    found = [agreement(*point) for point in points(KNOWN()[name], dtype, 8)]
    judged = [one for one in found if one is not None and not one.said.overflow]
    assert judged
    assert not [str(one) for one in judged if not one.right]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_a_module_that_counts_its_batches_is_a_reference(dtype):
    norm = torch.nn.BatchNorm2d(4).to(dtype)
    got, asked = eager(norm, numbers(8, 4, 5, 5).to(dtype))
    batches, mean = norm.num_batches_tracked.clone(), norm.running_mean.clone()
    assert_gradients(got, **asked, blind="allow")
    assert norm.num_batches_tracked == batches
    assert torch.equal(norm.running_mean, mean)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * 1.5,), **asked)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_a_recurrent_module_writes_into_parts_of_its_gates(kind, dtype):
    torch.manual_seed(0)
    module = kind(8, 8).to(dtype)
    got, asked = eager(lambda x: module(x)[0], numbers(5, 2, 8).to(dtype))
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * 1.05,), **asked)


def test_a_router_takes_the_largest():
    def routed(x, w):
        best, which = (x @ w).softmax(-1).topk(2, -1)
        return (best / best.sum(-1, keepdim=True)) * (1 + which)

    x, w = numbers(16, 8), numbers(8, 6, seed=1)
    got, asked = eager(routed, x, w)
    assert_gradients(got, **{**asked, "precision": None})


def eager(forward, *primals, seed=5):
    """Return what is asked of torch's own gradient of a function, and the gradient."""
    live = [x.clone().requires_grad_() for x in primals]
    y = forward(*live)
    g = numbers(*y.shape, seed=seed).to(y.dtype)
    got = torch.autograd.grad(y, live, g)
    return got, {"forward": forward, "primals": primals, "grad_y": g, "precision": "eager", "y": y.detach()}


def rotated(x):
    angles = torch.outer(torch.arange(16.0), 10000 ** (-torch.arange(0, 8, dtype=torch.float32) / 8))
    a, b = x.chunk(2, -1)
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def masked(x):
    mask = (torch.arange(16) % 3 != 0).to(x.dtype)
    return torch.softmax(x.mT + (1.0 - mask) * -100.0, -1, dtype=torch.float32).to(x.dtype)


LONG = torch.tensor([0.3, 0.1, 1.7, 0.9])
TABLE = numbers(4, seed=9).abs().add(0.1).bfloat16()
HALVES = torch.tensor([0.3, 0.1, 1.7, 0.9]).bfloat16()
CONSTANTS = {
    "in float32": (rotated, (numbers(16, 16).bfloat16(),)),
    "made in its dtype": (masked, (numbers(16, 16).bfloat16(),)),
    "computed in bfloat16": (lambda x: x * (HALVES * HALVES + 1) - x / HALVES, (numbers(64, 4).bfloat16(),)),
    "a term in float32": (lambda x: (x * 1.1 + LONG) * x, (numbers(64, 4).bfloat16(),)),
    "weights in float32": (lambda x: F.layer_norm(x, (4,), LONG, LONG) * 1.1, (numbers(64, 4).bfloat16(),)),
    "named": (
        lambda x: (
            F.linear(input=torch.cat(tensors=(x, x * 1.3), dim=-1), weight=torch.eye(8, dtype=x.dtype) * 0.7) * 1.1
        ),
        (numbers(64, 4).bfloat16(),),
    ),
    "widened": (lambda x: x * (TABLE.float() * 1.1), (numbers(64, 4).bfloat16(),)),
    "a number of float32": (lambda x: x * torch.tensor(0.1) + x * torch.tensor(0.3).item(), (numbers(64, 4),)),
    "many numbers": (lambda x: (x + torch.tensor([0.1, 0.3, 0.7, 1.1])) * x, (numbers(64, 4),)),
    "a table": (lambda x: x * torch.sin(torch.arange(64) * 0.1)[:, None], (numbers(64, 4),)),
    "a new tensor": (lambda x: x * x.new_tensor(0.3), (numbers(64, 4).bfloat16(),)),
    "subtracted": (lambda x: torch.subtract(x, LONG) * x, (numbers(64, 4).bfloat16(),)),
    "a target in float32": (
        lambda x: F.mse_loss(x, LONG.expand(64, 4), reduction="none"),
        (numbers(64, 4).bfloat16(),),
    ),
    "added in place": (lambda x: (x * 1.0).add_(LONG).square(), (numbers(64, 4).bfloat16(),)),
    "mapped": (torch.vmap(lambda row: row * row + row), (numbers(64, 4),)),
    "a norm by name": (lambda x: torch.rms_norm(input=x, normalized_shape=(4,)) * 1.1, (numbers(64, 4).bfloat16(),)),
    "zeros in float32": (lambda x: (torch.zeros(4) + x) * 1.1 * x, (numbers(64, 4).bfloat16(),)),
    "a number that the dtype has not": (lambda x: x * torch.tensor(0.1, dtype=x.dtype), (numbers(64, 4).bfloat16(),)),
}


def test_beside_float64_a_constant_is_in_float32():
    def forward(x):
        return x * torch.sin(torch.arange(16) / 10000 ** (torch.arange(16) / 16))

    got, asked = eager(forward, numbers(6, 16).double())
    assert_gradients(got, **{**asked, "precision": None})
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * 1.0001,), **{**asked, "precision": None})


def lowered(x, w):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ w).float().softmax(-1)


def put(x):
    y = torch.empty_like(x)
    y[:, :8], y[:, 8:] = x[:, 8:] * 1.3, x[:, :8]
    return y * 1.1


@pytest.mark.parametrize(("forward", "shapes"), [(lowered, [(6, 16), (16, 8)]), (put, [(6, 16)])])
def test_autocast_and_what_is_put_into_a_tensor_are_followed(forward, shapes):
    got, asked = eager(forward, *(numbers(*shape) for shape in shapes))
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients((1.5 * got[0], *got[1:]), **asked)


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_the_dtype_in_which_the_reference_makes_it(name):
    forward, primals = CONSTANTS[name]
    got, asked = eager(forward, *primals)
    asked["precision"] = None if primals[0].dtype == torch.float32 else "eager"
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients(tuple(1.05 * g for g in got), **asked)


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_no_sample_and_complex_numbers_are_followed():
    for forward, x in [
        (lambda x: F.conv2d(x, WEIGHTS).sum() + WEIGHTS.sum() * x.sum(), numbers(0, 4, 9, 9).half()),
        (lambda x: torch.view_as_real(torch.view_as_complex(x) * 2j), numbers(8, 2).half()),
    ]:
        got, asked = eager(forward, x)
        assert_gradients(got, **asked)


WEIGHTS = numbers(2, 4, 3, 3).half()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_that_stores_its_columns_is_told_from_a_wrong_one(dtype, transposed):
    multiply = F.conv_transpose2d if transposed else F.conv2d
    primals = [x.to(dtype) for x in (numbers(6, 4, 9, 9), numbers(4, 4, 3, 3, seed=1) / 6, numbers(4, seed=2))]
    got, asked = eager(lambda x, w, b: multiply(x, w, b, stride=2, padding=1, dilation=2), *primals)
    assert_gradients(got, **asked)
    for k, g in enumerate(got):
        wrong = [*got[:k], 1.25 * g, *got[k + 1 :]]
        with pytest.raises(WrongGradients):
            assert_gradients(tuple(wrong), **asked)


def test_the_rounding_of_a_quotient_is_not_known_if_its_operands_are_rounded():
    x, w = (numbers(4096, seed=k).abs().add(1).bfloat16() for k in (0, 1))
    got, asked = eager(lambda x, w: (x * w) / (w + 0.3), x, w)
    assert assert_gradients(got, **asked).right
    exact = enclose(lambda x: x / 4, (x,), grad_y=x, precision="eager")
    assert not bool(exact.radius.any())


def test_the_default_eps_is_that_of_the_dtype_in_which_torch_computes():
    x = numbers(4, 8) * 2.0**-14
    for dtype in (torch.float32, torch.bfloat16):
        got, asked = eager(lambda x: F.rms_norm(x, (8,)), x.to(dtype))
        assert_gradients(got, **asked)


def test_what_overflows_in_the_reference_itself_is_named():
    got, asked = eager(lambda x: 1 / (x * x + 1).sqrt(), (numbers(64) * 1000).half())
    with pytest.raises(
        WrongGradients, match=r"The reference itself overflows: aten.mul.Tensor gives .*e\+0\d on the way"
    ):
        assert_gradients(got, **asked)


STORED = {
    "sub": lambda x: torch.sigmoid(x - 1.234),
    "rsub": lambda x: torch.sigmoid(1.234 - x),
    "a tensor of one number": lambda x: torch.sigmoid(x + torch.tensor(1.234)),
    "add times a number": lambda x: torch.sigmoid(torch.add(x, x * x, alpha=1.2345)),
    "pow": lambda x: x.abs() ** 1.2345,
    "a number to a power": lambda x: 1.2345**x,
    "remainder": lambda x: torch.remainder(x, 1.2345).square(),
    "fmod": lambda x: torch.fmod(x, 1.2345).square(),
    "multiplied, not stored": lambda x: torch.sigmoid(x * 1.2345) / 2.3456,
    "an error function": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", STORED)
def test_numbers_are_stored_in_the_dtype_of_what_they_are_added_to(name, dtype):
    got, asked = eager(STORED[name], numbers(64, 128).to(dtype))
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * 1.1,), **asked)


def test_a_number_that_is_stored_is_off_in_one_direction():
    def attention(q, k, v):
        return torch.sigmoid(q @ k.mT / 8 - 4.852) @ v

    got, asked = eager(attention, *(numbers(4, 128, 64, seed=k).bfloat16() for k in range(3)))
    assert_gradients(got, **asked)
    with pytest.raises(WrongGradients):
        assert_gradients((*got[:2], got[2] * 1.02), **asked)


@pytest.mark.parametrize("fill", [-1e4, -9e15, -3.38e38, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_what_is_masked_hides_nothing_of_the_rest(fill, dtype):
    mask = torch.arange(16)[:, None] < torch.arange(16)
    got, asked = eager(lambda x: x.masked_fill(mask, fill).softmax(-1), numbers(4, 16, 16).to(dtype))
    found = assert_gradients(got, **asked)
    assert found.gradients[0].blind <= 0.1


def test_a_gelu_in_float32_may_have_a_polynomial_of_few_digits():
    x = numbers(64, 512)
    got, asked = eager(F.gelu, x)
    assert_gradients(got, **asked)
    z = x / math.sqrt(2.0)
    t = 1 / (1 + 0.3275911 * z.abs())
    of_t = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = z.sign() * (1 - of_t * torch.exp(-z * z))
    slope = 0.5 * (1 + erf) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    assert_gradients((asked["grad_y"] * slope,), **{**asked, "y": 0.5 * x * (1 + erf)})
    with pytest.raises(WrongGradients):
        assert_gradients((asked["grad_y"] * (slope + 3e-5),), **asked)


def quantised(x, w):
    """Weights of -1, 0 and 1, and activations of 8 bits, whose gradients go straight through."""
    scale = 127 / x.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    mean = 1 / w.abs().mean().clamp_min(1e-5)
    rounded = x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()
    return rounded @ (w + ((w * mean).round().clamp(-1, 1) / mean - w).detach()).T


def scaled_unseen(x, w):
    with torch.no_grad():
        scale = w.abs().mean()
        rows = scale * torch.tanh(w)
    return x @ rows.T + x @ w.T


def written_unseen(x, w):
    with torch.no_grad():
        rows = w.abs().mean() * torch.tanh(w)
        rows[0] = rows[0] * 1.1
    return x @ rows.T + x @ w.T


def committed(x, codes):
    """The squares of the differences from the nearest codes, each side held in turn."""
    nearest = codes[(x[:, None] - codes).square().sum(-1).argmin(-1)]
    return (nearest - x.detach()).square().sum(-1) + 0.25 * (x - nearest.data).square().sum(-1)


@pytest.mark.parametrize("precision", ["eager", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layer", [quantised, scaled_unseen, written_unseen, committed])
def test_what_is_cut_off_from_autograd_rounds_too(layer, dtype, precision):
    shapes = ((128, 16), (32, 16)) if layer is committed else ((64, 128), (96, 128))
    primals = [numbers(*shape, seed=k).to(dtype) for k, shape in enumerate(shapes)]
    wide = dtype if precision == "eager" else torch.float32
    live = [x.to(wide).requires_grad_() for x in primals]
    y = layer(*live)
    grad_y = numbers(*y.shape, seed=5).to(dtype)
    got = [g.to(dtype) for g in torch.autograd.grad(y, live, grad_y.to(wide))]
    asked = {"forward": layer, "primals": primals, "grad_y": grad_y, "precision": precision}
    assert_gradients(got, **asked, blind="allow")
    for k, g in enumerate(got):
        with pytest.raises(WrongGradients):
            assert_gradients((*got[:k], g * 1.05, *got[k + 1 :]), **asked)


SEEN = {
    "finite": lambda x, w: torch.nan_to_num(x @ w),
    "a part": lambda x, w: F.softplus(x)[:4] @ w,
    "steps": lambda x, w: x @ (torch.round(w / 0.8) * 0.8),
    "a mask as numbers": lambda x, w: (x @ w) * (x @ w * 0.7 > 0.3).to(x.dtype),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_is_zero_or_finite_is_seen_to_be(name):
    got, asked = eager(SEEN[name], numbers(16, 8), numbers(8, 12))
    assert all(one.blind == 0 for one in assert_gradients(got, **asked).gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_a_mask_of_what_was_computed_may_become_numbers(dtype):
    got, asked = eager(SEEN["a mask as numbers"], numbers(16, 8).to(dtype), numbers(8, 12).to(dtype))
    assert_gradients(got, **asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_a_gelu_by_tanh_vanishes_early(dtype):
    got, asked = eager(lambda x: F.gelu(x, approximate="tanh"), (3 * numbers(64, 512)).to(dtype))
    assert_gradients(got, **asked)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_batch_norms_variance_is_stored_before_its_root(dtype):
    """Where a bias cancels the rest, an output is nothing but what the factor is off by: 1.5 roundings, not one."""
    for seed in range(6):
        x, w, b, g = (
            numbers(*shape, seed=seed).to(dtype) for shape in ((1, 32, 64, 64), (32,), (32,), (1, 32, 64, 64))
        )

        def norm(x, w, b):
            return F.batch_norm(x, None, None, w, b, training=True)

        live = [t.clone().requires_grad_() for t in (x, w, b)]
        y = norm(*live)
        got = torch.autograd.grad(y, live, g)
        held = {"forward": norm, "primals": (x, w, b), "grad_y": g, "precision": "eager", "blind": "allow"}
        assert assert_gradients(got, **held, y=y.detach()).right
