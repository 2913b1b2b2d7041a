"""A function of NumPy or JAX arrays is called with the tensors' own values, and what it returns comes back."""

import sys

import numpy as np
import pytest
import torch

from backprop_rules import InputError, WrongGradient, check, check_function, layout
from backprop_rules.subject.frameworks.bridge import Bridge
from backprop_rules.subject.frameworks.carried import BRIDGES, as_torch, carried, framework_of
from backprop_rules.subject.frameworks.of_jax import vjp_of_custom

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.complex128, torch.complex64, torch.int64, torch.int32, torch.uint8, torch.bool]
SHAPES = [(), (3,), (2, 3), (2, 1, 3), (0, 2)]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FOREIGN = [name for name in BRIDGES if name != "torch"]
every_framework = pytest.mark.parametrize("framework", FOREIGN)
# JAX has no 64-bit integers but where it is asked for them: they have a test of their own.
every_pair = pytest.mark.parametrize(
    ("framework", "dtype"),
    [(f, d) for f in FOREIGN for d in DTYPES if (f, d) != ("jax", torch.int64)],
    ids=str,
)


def expanded(x):
    return x[..., :1].expand(x.shape) if x.ndim else x


def laid_out(dtype):
    """Return tensors of every shape in every layout."""
    counted = [torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) for shape in SHAPES]
    return [arrange(x) for x in counted for arrange in (torch.clone, layout.transposed, layout.sliced, expanded)]


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def bits(x):
    return x.view(torch.int16) if x.dtype is torch.bfloat16 else x


@every_dtype
def test_numpy_is_given_the_tensor_s_own_memory(dtype):
    for x in laid_out(dtype):
        seen = []
        carried(seen.append, "numpy")(x)
        (array,) = seen
        assert isinstance(array, np.ndarray)
        assert array.dtype.name == str(dtype).removeprefix("torch.")
        assert array.shape == x.shape
        if x.numel():
            assert array.ctypes.data == x.data_ptr()
            assert array.strides == tuple(stride * x.itemsize for stride in x.stride())


@every_pair
def test_what_a_function_returns_unchanged_has_the_same_bits(framework, dtype):
    for x in laid_out(dtype):
        assert same_bits(bits(carried(lambda a: a, framework)(x)), bits(x))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=str)
@every_framework
def test_every_bit_of_nan_infinity_and_zero_passes(framework, dtype):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, 1.0], dtype=dtype)
    assert same_bits(bits(carried(lambda a: a, framework)(x)), bits(x))


@every_pair
def test_arithmetic_is_that_of_the_tensor_s_dtype(framework, dtype):
    for x in laid_out(dtype):
        y = carried(lambda a: a + a, framework)(x)
        assert y.dtype == dtype
        assert torch.equal(y, x + x)


def test_what_a_numpy_function_writes_is_seen_in_its_tensors():
    def careless(x):
        x[...] = 7

    for dtype in DTYPES:
        for x in laid_out(dtype):
            carried(careless, "numpy")(x)
            assert torch.equal(x, torch.full_like(x, 7))


@every_framework
def test_what_is_written_into_a_result_of_jax_stays_there(framework):
    x = torch.zeros(3)
    carried(lambda a: a, framework)(x).fill_(1)
    assert torch.equal(x, torch.full((3,), 1.0 if framework == "numpy" else 0.0))


@every_framework
def test_none_params_tuples_and_lists_pass(framework):
    x = torch.ones(2)
    y = carried(lambda a, b, *, axis: (a, [b, (axis, a)], "text"), framework)(x, None, axis=(0, 1))
    assert torch.equal(y[0], x)
    assert y[1][0] is None
    assert y[1][1][0] == (0, 1)
    assert torch.equal(y[1][1][1], x)
    assert y[2] == "text"


@every_framework
def test_a_dtype_becomes_the_framework_s(framework):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        y = carried(lambda a, *, to: a.astype(to), framework)(torch.ones(2, dtype=torch.float32), to=dtype)
        assert y.dtype == dtype


def test_numpy_s_scalars_become_tensors_and_python_s_numbers_stay():
    for dtype in FLOATS:
        y = carried(lambda a: (a + a).sum(), "numpy")(torch.ones(2, dtype=dtype))
        assert isinstance(y, torch.Tensor)
        assert y.shape == ()
        assert y == 4
        assert y.dtype == dtype
    assert type(carried(lambda a: float(a.sum()), "numpy")(torch.ones(2))) is float


@pytest.mark.parametrize(
    "made",
    [
        lambda a: a[::-1],
        lambda a: np.broadcast_to(a[::-1], (2, 3)),
        lambda a: a[::-1].astype(">f8"),
        lambda a: np.array([(1, x) for x in a[::-1]], dtype=[("n", "u1"), ("x", "f8")])["x"],
    ],
)
def test_arrays_that_torch_cannot_look_into_are_copied(made):
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(carried(made, "numpy")(x), torch.from_numpy(np.array(made(x.numpy()), dtype=np.float64)))


@every_framework
def test_conjugates_and_graphs_are_resolved(framework):
    x = torch.tensor([1 + 2j, 3 - 4j])
    same = carried(lambda a: a, framework)
    assert torch.equal(same(x.conj()), torch.tensor([1 - 2j, 3 + 4j]))
    assert torch.equal(same(x.conj().imag), torch.tensor([-2.0, 4.0]))
    assert not same(torch.ones(2, requires_grad=True)).requires_grad


def test_a_carried_function_has_the_signature_and_name_of_its_own():
    import inspect

    def backward(grad_y, y, x, *, dim=0):
        """The rule."""

    assert inspect.signature(carried(backward, "numpy")) == inspect.signature(backward)
    assert carried(backward, "jax").__name__ == "backward"
    assert carried(backward, "torch") is backward


def test_64_bit_integers_are_as_wide_as_the_caller_s_jax_has_them():
    import jax

    index = torch.tensor([2, 0])
    assert carried(lambda i: i, "jax")(index).dtype == torch.int32
    with jax.enable_x64(True):
        assert same_bits(carried(lambda i: i, "jax")(index), index)


def test_what_jax_makes_from_nothing_is_no_wider_than_the_caller_s_jax_makes_it():
    import jax.numpy as jnp

    for dtype in (torch.float32, torch.float64):
        assert carried(lambda a: a + jnp.zeros(a.shape), "jax")(torch.ones(2, dtype=dtype)).dtype == dtype
    assert jnp.zeros(2).dtype == jnp.float32


def test_a_custom_vjp_is_called_with_the_cotangent():
    import jax

    @jax.custom_vjp
    def double(x, i):
        return 2 * x

    double.defvjp(lambda x, i: (2 * x, None), lambda _, grad_y: (5 * grad_y, None))  # wrong, so that it shows
    backward = carried(vjp_of_custom(double), "jax")
    grad_x, grad_i = backward(torch.tensor([1.0, 3.0]), torch.ones(2), torch.tensor([0, 1]))
    assert torch.equal(grad_x, torch.tensor([5.0, 15.0]))
    assert grad_i is None


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex128], ids=str)
def test_a_plain_jax_function_is_differentiated(dtype):
    def scaled(x, weight=None, *, by):
        return by * x * (1 if weight is None else weight)

    backward = carried(vjp_of_custom(scaled), "jax")
    g, x, w = (torch.tensor(v, dtype=dtype) for v in ([1, 2], [3, -1], [0.5, 4]))
    grad_x, grad_w = backward(g, x, w, by=2)
    assert same_bits(bits(grad_x), bits(2 * g * w))
    assert same_bits(bits(grad_w), bits(2 * g * x))
    assert backward(g, x, None, by=2)[1] is None


def test_an_example_tells_its_framework_and_becomes_a_tensor():
    import jax.numpy as jnp

    examples = {"torch": torch.ones(2), "numpy": np.ones(2, np.float32), "jax": jnp.ones(2)}
    for framework, x in examples.items():
        assert framework_of(x) == framework
        assert torch.equal(as_torch(x, "x"), torch.ones(2))
    assert as_torch(np.float64(2), "x").dtype == torch.float64
    assert as_torch(jnp.ones(2, jnp.bfloat16), "x").dtype == torch.bfloat16
    assert as_torch(examples["torch"], "x") is examples["torch"]


def refusal(function, *args, **named):
    with pytest.raises(InputError) as caught:
        function(*args, **named)
    return str(caught.value)


def test_what_is_no_array_of_numbers_is_refused_by_name():
    import jax

    assert refusal(as_torch, [1.0], "w") == (
        "w: an example must be an array of torch or jax or numpy; got list [1.0]. Its type says which framework the "
        "function is written for, so make it one, as in np.asarray(...)."
    )
    assert refusal(as_torch, np.array([None, 1]), "w") == (
        "w: a NumPy array of dtype object and shape (2,) has no counterpart in torch. An object array is often made "
        "of rows of unequal length. Make an array of numbers first, as in x.astype(np.float64)."
    )
    for x in (np.ones(2, np.longdouble), np.array("text"), np.ones(2, "M8[s]"), jax.random.key(0)):
        assert refusal(as_torch, x, "w").startswith("w: a ")
    no_gradient = np.zeros(2, jax.dtypes.float0)
    assert refusal(as_torch, no_gradient, "w").startswith("w: it holds no values")


def test_an_unknown_framework_is_refused_with_the_nearest():
    assert refusal(carried, abs, "numpi") == (
        "there is no framework 'numpi'. Did you mean 'numpy'? Known: jax, numpy, torch."
    )


def test_a_tensor_elsewhere_is_refused():
    assert refusal(carried(abs, "numpy"), torch.ones(2, device="meta")) == (
        "a NumPy function cannot take a tensor on meta: NumPy's arrays are in the CPU's memory. "
        "Check it with devices=['cpu'] or call x.cpu() first."
    )
    assert refusal(carried(abs, "jax"), torch.ones(2, device="meta")).startswith("JAX cannot take a tensor of dtype")
    assert "has no counterpart in NumPy" in refusal(carried(abs, "numpy"), torch.ones(2).to_sparse())
    assert "has no counterpart in NumPy" in refusal(carried(abs, "numpy"), torch.ones(2, dtype=torch.float8_e4m3fn))


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    missing = refusal(carried, abs, "jax")
    assert missing.startswith("A function of JAX arrays needs JAX, which cannot be imported here: ")
    assert missing.endswith("Run: pip install 'backprop-rules[jax]'")
    missing = refusal(carried(abs, "numpy"), torch.ones(2, dtype=torch.bfloat16))
    assert missing.startswith("NumPy has no bfloat16 by itself; it takes that of the package ml_dtypes, which cannot")
    assert missing.endswith("Run: pip install ml_dtypes")


def test_numpy_alone_is_asked_in_the_dtypes_that_it_has(monkeypatch):
    def relu(grad_y, x):
        return grad_y * (x > 0)

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    report = check(relu, "relu", framework="numpy")
    assert (report.verdict, report.dtypes) == ("right", (torch.float64, torch.float32, torch.float16))
    assert "Run: pip install ml_dtypes" in refusal(check, relu, "relu", framework="numpy", dtypes=["bfloat16"])


@pytest.mark.xdist_group("processes")
def test_nothing_is_imported_before_it_is_needed(torch_alone):
    code = (
        "import sys, numpy, torch; from backprop_rules.subject.frameworks.carried import carried, framework_of; "
        "carried(abs, 'numpy')(torch.ones(2)); framework_of(numpy.ones(2)); "
        "print([name for name in ('jax', 'jaxlib', 'ml_dtypes') if name in sys.modules])"
    )
    done = torch_alone.run("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.xdist_group("processes")
def test_a_check_loads_neither_hypothesis_nor_a_compiler(torch_alone):
    """They take a second, and Hypothesis would draw constants that it finds in whatever modules are loaded."""
    code = (
        "import sys, torch; from backprop_rules import check; "
        "print([name for name in ('flint', 'rich', 'hypothesis') if name in sys.modules]); "
        "check(lambda g, x: g * x.cos(), forward=torch.sin, example=(torch.rand(3),)); "
        "print([name for name in ('hypothesis', 'torch._dynamo', 'jax') if name in sys.modules])"
    )
    done = torch_alone.run("-c", code)
    assert done.stdout.split() == ["[]", "[]"], done.stderr


def test_jax_compiles_what_is_called_in_one_piece_once_for_each_shape():
    traced = []

    def function(x, n=1):
        traced.append(x.shape)
        return x * n

    over = carried(function, "jax", whole=True)
    for _ in range(3):
        assert torch.equal(over(torch.ones(2), n=3), torch.full((2,), 3.0))
        assert torch.equal(over(torch.ones(4), n=3), torch.full((4,), 3.0))
    assert traced == [(2,), (4,)]
    assert torch.equal(over(torch.ones(2), n=2), torch.full((2,), 2.0))


def test_what_cannot_be_compiled_is_called_as_it_is():
    def function(x, n=()):
        return x * 2 if float(x.sum()) > 0 else x

    over = carried(function, "jax", whole=True)
    for x in (torch.ones(2), -torch.ones(2)):
        assert torch.equal(over(x), x * 2 if x.sum() > 0 else x)
        assert torch.equal(over(x, n=[1]), over(x)), "a list is no key"


class Row:
    """An array of a framework that nobody has heard of: numbers in a list, float64 alone."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def __mul__(self, other):
        return Row(a * b for a, b in zip(self.numbers, other.numbers, strict=True))


def row_of(x):
    if isinstance(x, torch.Tensor) and x.dtype is not torch.float64:
        raise TypeError(f"a Row holds float64, not {x.dtype}")
    return Row(x.tolist()) if isinstance(x, torch.Tensor) else x


def of_row(x):
    return torch.tensor(x.numbers, dtype=torch.float64) if isinstance(x, Row) else x


@pytest.fixture
def rows(monkeypatch):
    bridge = Bridge("rows", lambda x: isinstance(x, Row), row_of, of_row, "Row({}.tolist())", "from rows import Row")
    monkeypatch.setitem(BRIDGES, "rows", bridge)


@pytest.mark.usefixtures("rows")
def test_a_framework_is_one_bridge():
    example = (Row([1.0, 2.0]), Row([3.0, 5.0]))
    right = check(lambda grad_y, x, w: (grad_y * w, grad_y * x), forward=torch.mul, example=example)
    assert right.verdict == "right"
    assert "its operations cannot be followed" not in str(right)
    with pytest.raises(WrongGradient, match="or the gradients are returned in the wrong order") as wrong:
        check(lambda grad_y, x, w: (grad_y * x, grad_y * w), forward=torch.mul, example=example)
    assert "from rows import Row" in str(wrong.value)
    assert "backward(Row(grad_y.tolist()), Row(x1.tolist()), Row(x2.tolist()))" in str(wrong.value)


@pytest.mark.parametrize("conjugated", [False, True])
def test_complex_gradients_are_jax_s_own(conjugated):
    """JAX's cotangents pair without a conjugate: the gradients of z w are g w and g z."""
    jax, jnp = pytest.importorskip("jax"), pytest.importorskip("jax.numpy")

    def of(x):
        return x.conj() if conjugated else x

    @jax.custom_vjp
    def product(z, w):
        return z * w

    product.defvjp(lambda z, w: (z * w, (z, w)), lambda kept, g: (g * of(kept[1]), g * of(kept[0])))
    z, w = (jnp.asarray(np.random.default_rng(n).normal(size=(2, 3)) @ [1, 1j, 0.5]) for n in (0, 1))
    own, custom = (jax.grad(lambda z, f=f: jnp.square(f(z, w).imag).sum())(z) for f in (lambda z, w: z * w, product))
    assert bool(jnp.array_equal(own, custom)) != conjugated
    found = check_function(product, forward=lambda z, w: z * w, example=(z, w), raise_on_failure=False)
    assert found.verdict == ("wrong" if conjugated else "right")
    assert ("JAX's are their conjugates" in str(found)) == conjugated
    assert str(found).startswith("product: ")


def test_an_array_in_bfloat16_which_pythons_numbers_widen_is_no_mistake_of_numpys():
    def backward(grad_y, x):
        y = 1 / (1 + np.exp(-x))
        return grad_y * (1.0 - y) * y

    assert check(backward, "sigmoid", framework="numpy").verdict == "right"
