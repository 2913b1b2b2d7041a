"""What somebody met who used every door for the first time: wrong verdicts, lost reports, and tracebacks."""

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from plugin_words import LOADED

from backprop_rules import InputError, check, check_function, find, trace
from backprop_rules.properties import trial
from backprop_rules.testing import WrongGradients, assert_gradients, enclose, exact_inputs


def numbers(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


X, W, G = (numbers(*shape, dtype=torch.float32) for shape in ((4, 5), (5, 3), (4, 3)))
GX, GW = G @ W.T, X.T @ G
HELD = {"forward": lambda x, w: x @ w, "primals": (X, W), "grad_y": G}
VECTOR = (numbers(3),)


def said(job, error=InputError):
    with pytest.raises(error) as caught:
        job()
    return str(caught.value)


# ------------------------------------------------------------------ gradients by name
def test_gradients_by_name_are_held_by_name():
    assert assert_gradients({"w": GW, "x": GX}, **HELD).right
    x, w, g = X[:, :4], GW[:4] @ G.T, GX[:, :4]
    square = {"forward": HELD["forward"], "primals": (x, w), "grad_y": g}
    assert assert_gradients({"w": x.T @ g, "x": g @ w.T}, **square).right
    assert "in the wrong place" in said(
        lambda: assert_gradients({"x": x.T @ g, "w": g @ w.T}, **square), WrongGradients
    )
    told = said(lambda: assert_gradients({"foo": GX, "w": GW}, **HELD))
    assert told == "gradients are given by the names foo, w, and the primals are x, w: there is no foo."


def test_gradients_of_a_dictionary_are_held_by_its_keys():
    params = {"w": W, "b": numbers(3, dtype=torch.float32)}
    held = {"forward": lambda x, p: x @ p["w"] + p["b"], "primals": (X, params), "grad_y": G}
    own = {"b": G.sum(0), "w": GW}
    assert assert_gradients((GX, own), **held).right
    assert assert_gradients({"p": own, "x": GX}, **held).right
    alone = {"forward": lambda p: X @ p["w"] + p["b"], "primals": (params,), "grad_y": G}
    assert assert_gradients(own, **alone).right
    assert "there is no v" in said(lambda: assert_gradients({"b": G.sum(0), "v": GW}, **alone))


def test_a_backward_may_return_a_dictionary_of_gradients():
    asked = {"forward": lambda x, w: x @ w, "example": (X.double(), W.double()), "raise_on_failure": False}
    assert check(lambda g, x, w: {"w": x.T @ g, "x": g @ w.T}, **asked).verdict == "right"
    assert check(lambda g, x, w: {"w": 2 * x.T @ g, "x": g @ w.T}, **asked).verdict == "wrong"
    assert "there is no a" in said(lambda: check(lambda g, x, w: {"a": x.T @ g, "x": g @ w.T}, **asked))


def test_a_gradient_may_require_a_gradient():
    assert assert_gradients((GX.clone().requires_grad_(), GW), **HELD).right


# ------------------------------------------------------------------ cotangents in the structure of the outputs
OUTPUTS = {
    "nested": (lambda x: (x.sin(), (x.cos(), x * 2)), lambda g: (g[0], g[1][0], g[1][1])),
    "dictionary": (lambda x: {"a": x.sin(), "b": [x.cos(), x * 2]}, lambda g: (g["a"], *g["b"])),
    "list": (lambda x: [x.sin(), x.cos(), x * 2], tuple),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("factor", [2, 3])
def test_cotangents_come_as_forward_returns_its_outputs(name, factor):
    forward, parts = OUTPUTS[name]

    def backward(grad_y, x):
        a, b, c = parts(grad_y)
        return a * x.cos() - b * x.sin() + factor * c

    report = check(backward, forward=forward, example=VECTOR, raise_on_failure=False)
    assert report.verdict == ("right" if factor == 2 else "wrong")
    if factor == 3:
        made = {}
        exec(str(report.counterexample).replace("backward(grad_y, x)", ""), made)
        parts(made["grad_y"])


# ------------------------------------------------------------------ autograd.Functions
class Writes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.add_(1)
        return x * 2

    @staticmethod
    def backward(ctx, grad_y):
        return 2 * grad_y


class Marks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad_y):
        return 2 * grad_y


class Counts(torch.autograd.Function):
    """Which returns one gradient, and its forward takes two arguments."""

    @staticmethod
    def forward(ctx, x, n):
        ctx.n = n
        return x * n

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y * ctx.n


class Either(torch.autograd.Function):
    """Which takes it that both cotangents are there."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, a, b):
        return 2 * a + 3 * b


def of_a_function(function, forward, **options):
    return check_function(function, forward=forward, example=VECTOR, raise_on_failure=False, **options)


def test_a_forward_that_writes_to_its_argument_says_so_or_is_wrong():
    report = of_a_function(Writes, lambda x: 2 * (x + 1))
    assert report.verdict == "wrong" and "has a forward that writes to its argument x" in str(report)
    assert "ctx.mark_dirty" in str(report)
    assert of_a_function(Marks, lambda x: 2 * x).verdict == "right"


def test_another_number_of_gradients_is_told_in_torchs_own_words():
    report = of_a_function(Counts, lambda x, n: x * n, params={"n": 2})
    assert "returned an incorrect number of gradients (expected 2, got 1)" in str(report)


def test_a_counterexample_shows_which_cotangent_was_not_there():
    report = of_a_function(Either, lambda x: (x * 2, x * 3))
    assert report.verdict == "wrong" and ", None)" in report.counterexample


# ------------------------------------------------------------------ what is refused, and how
DOUBLED = {"forward": lambda x: 2 * x, "example": VECTOR}
REFUSED = {
    "seed": (lambda: twice(seed="a"), "seed is a whole number of at most 62 bits; got 'a'."),
    "seed too large": (lambda: twice(seed=2**70), "seed is a whole number"),
    "no devices": (lambda: twice(devices=[]), "devices is empty"),
    "devices": (lambda: twice(devices=None), "there is no device 'None'"),
    "convention": (lambda: twice(convention=None), "there is no convention 'None'"),
    "sizes": (lambda: twice(sizes={3: "a"}), "sizes are whole numbers from 0 on; got 'a'"),
    "negative size": (lambda: twice(sizes={3: (-1,)}), "sizes are whole numbers from 0 on; got -1"),
    "lazy": (lambda: check(lambda g, x: g, forward=torch.nn.LazyLinear(3), example=VECTOR), "call it once before"),
    "trace": (lambda: trace("x", torch.ones(3)), "a function of rules is to be traced; got str 'x'"),
    "find": (lambda: find(5), "there is no rule '5'"),
    "also": (lambda: assert_gradients((GX, GW), **HELD, also=3), "also is another form of the backward"),
    "fill's seed": (lambda: exact_inputs(HELD["forward"], (X, W), seed="a"), "seed is a whole number; got 'a'"),
    "no gradient": (
        lambda: check(lambda g, x: 0 * g, forward=lambda x: x.detach() * 2, example=VECTOR),
        "forward has no gradient by any primal: something cuts it off",
    ),
    "ctx": (lambda: check(lambda ctx, g: 2 * g, **DOUBLED), "takes ctx first"),
    "a class": (lambda: check_function(torch.nn.ReLU, "relu"), "ReLU is a class, and no autograd.Function"),
    "a generator": (lambda: check(lambda g, x: (v for v in [2 * g]), **DOUBLED), "the backward is a generator"),
    "numpy": (lambda: check(lambda g, x: g * np.cos(x), forward=np.sin, example=(np.ones(3),)), "definition=np.exp"),
    "a case": (lambda: twice(cases="lost.json"), "lost.json is no saved case"),
    "meta": (lambda: enclose(torch.sin, (X.to("meta"),)), "primal 0 is on meta, where it has no numbers"),
    "shape": (
        lambda: assert_gradients((GX, GW), **{**HELD, "grad_y": G.mT}),
        "grad_y has the shape (3, 4), and the output (4, 3).",
    ),
    "dictionary": (lambda: enclose(torch.sin, {"x": X}), "as in (q, k, v); got a dict."),
}


def twice(**options):
    return check(lambda g, x: 2 * g, **DOUBLED, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_in_words(name):
    job, words = REFUSED[name]
    assert words in said(job)


def test_a_device_may_be_one_of_torchs():
    assert twice(devices=[torch.device("cpu")]).verdict == "right"


def only_bfloat16(g, x):
    assert x.dtype == torch.bfloat16
    return 2 * g


def test_a_kernel_of_one_narrow_dtype_is_told_so():
    told = said(lambda: check(only_bfloat16, forward=lambda x: 2 * x, example=(numbers(3).bfloat16(),)))
    assert "takes the example (bfloat16), but raises where it is called in float64 and float32" in told
    assert " (test_every_door.py, line " in told


def test_nan_in_the_cotangent_is_told_as_such():
    nothing = {**HELD, "grad_y": torch.full_like(G, torch.nan)}
    told = said(lambda: assert_gradients((GX, GW), **nothing), WrongGradients)
    assert "every element is NaN in the reference itself" in told


# ------------------------------------------------------------------ nothing is lost, nothing is hidden
def test_a_mean_loss_is_held_where_its_forward_does_not_run_in_its_own_dtype():
    def loss(x):
        return torch.stft(x, 16, window=torch.ones(16).to(x.dtype), return_complex=True).abs().square().mean()

    x = numbers(64).bfloat16()
    live = x.double().requires_grad_()
    (right,) = torch.autograd.grad(loss(live), live)
    assert assert_gradients(right.bfloat16(), forward=loss, primals=x).right


def test_at_kinks_no_dependence_is_hidden():
    report = check(lambda g, x: g * (x > 0), "relu", dtypes=["float32"])
    assert trial.HIDDEN not in report.notes


@pytest.mark.xdist_group("processes")
def test_a_case_that_cannot_be_saved_loses_no_report(all_loaded, tmp_path):
    (tmp_path / ".backprop_rules").touch()
    (tmp_path / "mine.py").write_text("def wrong(grad_y, x):\n    return 2 * grad_y * (x > 0)\n")
    done = all_loaded.run("-m", "backprop_rules", "check", "mine:wrong", "--rule", "relu", cwd=tmp_path)
    assert done.returncode == 1 and "relu: wrong." in done.stdout
    assert "the case could not be saved" in done.stderr


@pytest.mark.xdist_group("processes")
def test_a_folder_in_the_place_of_a_file_of_accuracies_is_refused_before_any_test_runs(all_loaded, tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert False\n")
    words = ("-m", "pytest", *LOADED, "-q", "-p", "no:cacheprovider", "--backprop-accuracy-save", ".")
    done = all_loaded.run(*words, cwd=tmp_path)
    assert done.returncode == 4 and "--backprop-accuracy-save: . is a folder; name a file" in done.stderr


def test_a_misspelt_parameter_of_a_module_is_named():
    def backward(g, x, wieght, bias):
        return g @ wieght, g.mT @ x, g.sum(0)

    told = said(lambda: check(backward, forward=torch.nn.Linear(3, 2), example=(numbers(4, 3).float(),)))
    assert told.startswith("there is no parameter of the module 'wieght'. Did you mean 'weight'?")


def test_what_is_returned_is_shown_in_a_line():
    assert repr(enclose(**HELD)) == "<Enclosures of x (4, 5), w (5, 3); float32>"
    assert repr(assert_gradients((GX, GW), **HELD)) == "<Agreement on x, w: right, as float32>"


def test_the_parameters_of_a_module_are_a_dictionary_of_primals():
    layer = torch.nn.Linear(5, 3)
    primals = (X, dict(layer.named_parameters()))
    held = {"forward": lambda x, p: torch.func.functional_call(layer, p, x), "primals": primals, "grad_y": G}
    own = {"bias": G.sum(0), "weight": G.mT @ X}
    assert [one.name for one in enclose(**held)] == ["x", "p['weight']", "p['bias']"]
    assert assert_gradients((G @ layer.weight.detach(), own), **held).right
    told = said(lambda: assert_gradients((G @ layer.weight.detach(), own | {"bias": G[0]}), **held), WrongGradients)
    assert "The gradient of p['bias'] is wrong" in told


def test_nested_outputs_are_held_as_forward_returns_them():
    def forward(x):
        return x * 3, (x * x, x + 1)

    grad_y = X, (None, X)
    held = {"forward": forward, "primals": X, "grad_y": grad_y}
    assert assert_gradients(4 * X, **held, y=forward(X)).right
    with pytest.raises(WrongGradients):
        assert_gradients(4 * X, **held, y=forward(X * 1.01))


def test_who_reads_one_line_gets_no_verdict(tmp_path):
    line = f"{sys.executable} -m backprop_rules documents two_layer_network | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 141 and not done.stderr


# ------------------------------------------------------------------ from reading the change again
class Two(NamedTuple):
    u: torch.Tensor
    v: torch.Tensor


def test_a_named_tuple_is_a_structure_too():
    def backward(grad_y, x):
        return grad_y.u * x.cos() + 3 * grad_y.v

    report = check(backward, forward=lambda x: Two(x.sin(), 2 * x), example=VECTOR, raise_on_failure=False)
    made = {"backward": backward}
    exec(str(report.counterexample), made)
    assert report.verdict == "wrong" and made["grad_y"].v.dtype == torch.float64
    held = {"forward": lambda p, q: p.u @ p.v + q, "primals": (Two(X, W), G), "grad_y": G}
    assert assert_gradients({"q": G, "p": Two(GX, GW)}, **held).right
    asked = {"forward": lambda p: p.u * p.v, "example": (Two(*VECTOR, *VECTOR),), "raise_on_failure": False}
    assert check(lambda g, p: [(g * p.v, g * p.u)], **asked).verdict == "right"


def test_a_list_of_one_tensor_has_the_name_of_its_argument():
    held = {"forward": lambda p, q: p[0] @ q, "primals": ([X], W), "grad_y": G}
    assert assert_gradients({"p": [GX], "q": GW}, **held).right
    assert assert_gradients(
        {"p": {"a": GX, "b": GW}}, forward=lambda p: p["a"] @ p["b"], primals=({"b": W, "a": X},), grad_y=G
    )


def test_cotangents_in_a_dictionary_have_no_order():
    held = {"forward": lambda x: {"a": x, "b": 2 * x}, "primals": X}
    told = said(lambda: assert_gradients(3 * X, **held, grad_y={"b": X, "a": X}))
    assert told.startswith("grad_y holds a dict: give a tuple")


@pytest.mark.parametrize("factor", [1, 2])
def test_gradients_by_name_are_carried_from_numpy(factor):
    asked = {"definition": np.exp, "example": (np.ones(3),), "raise_on_failure": False}
    verdict = check(lambda g, x: {"x": factor * g * np.exp(x)}, **asked).verdict
    assert verdict == ("right" if factor == 1 else "wrong")


def test_a_modules_parameters_are_its_own_after_a_check_with_y_and_threads():
    layer = torch.nn.Linear(4, 3)

    def backward(grad_y, y, x, weight, bias):
        return grad_y @ weight, grad_y.mT @ x, grad_y.sum(0)

    assert check(backward, forward=layer, example=(numbers(5, 4).float(),)).verdict == "right"
    assert all(isinstance(p, torch.nn.Parameter) for p in (layer.weight, layer.bias))
    assert layer(torch.ones(2, 4)).dtype == torch.float32


def test_a_forward_that_does_not_move_has_gradients_of_zeros():
    asked = {"forward": lambda x: (x > 0).to(x.dtype), "example": VECTOR, "raise_on_failure": False}
    assert check(lambda g, x: torch.zeros_like(g), **asked).verdict == "right"
    assert check(lambda g, x: g, **asked).verdict == "wrong"


@pytest.mark.parametrize("k", [1, 20, 40])
def test_a_dependence_is_seen_to_be_hidden_where_a_function_is_steep(k):
    def forward(x):
        return (k * x).sin() * (1 + x.detach())

    report = check(lambda g, x: g * k * (k * x).cos() * (1 + x), forward=forward, example=VECTOR)
    assert trial.HIDDEN in report.notes


def test_one_element_written_twice_among_zeros_is_no_factor():
    x = torch.zeros(50)
    x[7] = 1.0
    grad_y = torch.ones(50)
    told = said(lambda: assert_gradients(4 * x, forward=torch.square, primals=x, grad_y=grad_y), WrongGradients)
    assert "one element: two writes to it" in told
