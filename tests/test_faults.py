"""What a right backward was blamed for, and what a check did that it should not do."""

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from backprop_rules import check

ROOT = Path(__file__).parents[1]
drawn = torch.Generator().manual_seed(11)


def some(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=drawn, dtype=dtype)


def asked(backward, forward, example, **options):
    return check(backward, forward=forward, example=example, raise_on_failure=False, **options)


def product(grad_y, x, w):
    return (grad_y * w).sum_to_size(x.shape), (grad_y * x).sum_to_size(w.shape)


def of_a_row(grad_y, x, w):
    return grad_y * w, (grad_y * x).sum(0, keepdim=True)


def prelu(x, w):
    return torch.where(x > 0, x, w * x)


def prelu_backward(grad_y, x, w):
    below = torch.where(x > 0, torch.zeros_like(x), x)
    return torch.where(x > 0, grad_y, w * grad_y), (below * grad_y).sum((0, 2, 3), keepdim=True)


def quantised(x, step):
    steps = x / step
    return (steps + (steps.round() - steps).detach()) * step


def quantised_backward(grad_y, x, step):
    steps = x / step
    return grad_y.clone(), (grad_y * (steps.round() - steps)).sum().reshape(1)


BROADCAST = {
    "a row": (product, torch.mul, (some(2, 3), some(1, 3))),
    "a row, and it alone": (of_a_row, torch.mul, (some(2, 3), some(1, 3))),
    "a slope for each channel": (prelu_backward, prelu, (some(2, 3, 2, 3), some(1, 3, 1, 1))),
    "a learned step size": (quantised_backward, quantised, (some(2, 3), some(1).abs())),
    "a scale without axes": (lambda g, x, s: (g * s, (g * x).sum()), torch.mul, (some(2, 3), some())),
}


@pytest.mark.parametrize("case", BROADCAST)
def test_an_operand_that_is_broadcast_in_the_example_is_broadcast_at_every_point(case):
    assert asked(*BROADCAST[case]).verdict == "right"


def of_three(a, b, c):
    return a * b + c


def of_three_backward(grad_y, x):
    a, b, _ = x
    return torch.stack((grad_y * b, grad_y * a, grad_y))


def exp_of_numbers(x):
    if x.isnan().any():
        raise ValueError("NaN in the input")
    return x.exp()


def from_the_first_backward(grad_y, x):
    found = grad_y.clone()
    found[0] -= grad_y.sum(0)
    return found


REFUSING = {
    "another number of rows": (of_three_backward, lambda x: of_three(*x), (some(3, 4),)),
    "NaN": (lambda g, x: g * x.exp(), exp_of_numbers, (some(3, 4),)),
    "an empty axis": (from_the_first_backward, lambda x: x - x[0], (some(3, 4),)),
}


@pytest.mark.parametrize("case", REFUSING)
def test_a_forward_may_refuse_a_point(case):
    assert asked(*REFUSING[case]).verdict == "right"


def weights(q, k):
    scale = q.shape[-1] ** -0.5
    later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return torch.softmax((q @ k.mT * scale).masked_fill(later, float("-inf")), -1), scale


def attention(q, k, v):
    return weights(q, k)[0] @ v


def attention_backward(grad_y, q, k, v):
    p, scale = weights(q, k)
    grad_p = grad_y @ v.mT
    grad_s = p * (grad_p - (grad_p * p).sum(-1, keepdim=True)) * scale
    return grad_s @ k, grad_s.mT @ q, p.mT @ grad_y


def convolution_backward(grad_y, x, w, b):
    kernel, flat = w.shape[2:], grad_y.flatten(2)
    columns = functional.unfold(x, kernel)
    grad_columns = torch.einsum("ok,nol->nkl", w.flatten(1), flat)
    grad_x = functional.fold(grad_columns, x.shape[2:], kernel)
    return grad_x, torch.einsum("nol,nkl->ok", flat, columns).reshape(w.shape), grad_y.sum((0, 2, 3))


LAYERS = {
    "a causal attention": (attention_backward, attention, tuple(some(2, 2, 4, 3) for _ in range(3))),
    "a convolution": (convolution_backward, functional.conv2d, (some(2, 3, 5, 5), some(4, 3, 3, 3), some(4))),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_of_four_axes_is_right(case):
    assert asked(*LAYERS[case]).verdict == "right"


def numpy_layer(w, z):
    return 1 / (1 + np.exp(-(w @ z)))


def numpy_layer_backward(grad_y, w, z):
    s = 1 / (1 + np.exp(-(w @ z)))
    d = grad_y * s * (1 - s)
    return d @ z.T, w.T @ d


def test_a_layer_of_numpy_is_right():
    numbers = np.random.default_rng(7)
    example = numbers.normal(size=(3, 2)), numbers.normal(size=(2, 1))
    report = check(numpy_layer_backward, definition=numpy_layer, example=example, raise_on_failure=False)
    assert report.verdict == "right"


def sigmoid_backward(grad_y, x):
    s = torch.sigmoid(x)
    return s * (1 - s) * grad_y


def rendered(density, colour, length):
    depth = density * length.detach()
    until = torch.cumsum(depth, 0)
    return ((torch.exp(depth - until) * (1 - torch.exp(-depth))).unsqueeze(-1) * colour).sum(0)


def rendered_backward(grad_y, density, colour, length):
    depth = density * length
    until = torch.cumsum(depth, 0)
    weight = (torch.exp(depth - until) * (1 - torch.exp(-depth))).unsqueeze(-1)
    so_far = torch.cumsum(weight * colour, 0)
    behind = so_far[-1] - so_far
    inner = torch.exp(-until).unsqueeze(-1) * colour - behind
    return length * (inner * grad_y).sum(-1), weight * grad_y, None


TEXTBOOK = {
    "sigmoid": (sigmoid_backward, torch.sigmoid, (some(3, 4),)),
    "sigmoid, float64": (sigmoid_backward, torch.sigmoid, (some(3, 4, dtype=torch.float64),)),
    "volume rendering": (rendered_backward, rendered, (some(4).abs(), some(4, 3), some(4).abs())),
}


@pytest.mark.parametrize("case", TEXTBOOK)
def test_the_form_of_the_textbook_is_not_inaccurate(case):
    assert asked(*TEXTBOOK[case]).verdict == "right"


def torchs_own(forward, grad_y, x, *others):
    """Return what torch's reverse mode gives for the first primal."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(forward(x, *others), x, grad_y)[0]


def tiled(x):
    return torch.tile(x, (2, 2))


def undropped(x):
    return functional.dropout3d(x, p=0)


REARRANGED = {
    "tile": (lambda g, x: torchs_own(tiled, g, x), tiled, (some(2, 3),)),
    "dropout3d": (lambda g, x: torchs_own(undropped, g, x), undropped, (some(2, 3, 2, 2, 2),)),
    "atleast_1d": (lambda g, x: torchs_own(torch.atleast_1d, g, x), torch.atleast_1d, (some(3),)),
    "atleast_1d without axes": (lambda g, x: torchs_own(torch.atleast_1d, g, x), torch.atleast_1d, (some(),)),
}


def held(which):
    """Return how much memory this process holds (VmSize), or has held at most (VmHWM), in bytes."""
    return int(re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def alone():
    """Check what is only rearranged, and print what came of it: the entry of a process of its own."""
    import resource

    torch.set_num_threads(1)
    most = held("VmSize") + 2**32  # what asks for more is refused it, and does not take the machine's memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before, verdicts = held("VmHWM"), {}
    for case, rearranged in REARRANGED.items():
        try:
            verdicts[case] = asked(*rearranged).verdict
        except Exception as error:
            verdicts[case] = f"{type(error).__name__}: {error}"
    print(json.dumps({"verdicts": verdicts, "bytes": held("VmHWM") - before, "left": os.listdir()}))


@pytest.fixture(scope="module")
def found_alone(torch_alone, tmp_path_factory):
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say how much memory a process has held")
    words = ("-c", "import test_faults; test_faults.alone()")
    done = torch_alone.run(*words, cwd=tmp_path_factory.mktemp("alone"), path=(ROOT, ROOT / "tests"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


in_processes = pytest.mark.xdist_group("processes")


@in_processes
def test_what_is_only_rearranged_is_right(found_alone):
    assert found_alone["verdicts"] == dict.fromkeys(REARRANGED, "right")


@in_processes
def test_a_check_of_a_few_numbers_takes_less_than_a_gigabyte(found_alone):
    assert found_alone["bytes"] < 2**30


@in_processes
def test_a_check_leaves_nothing_in_the_current_folder(found_alone):
    assert found_alone["left"] == []


def softmax(grad_y, x):
    y = torch.softmax(x, -1)
    return y * (grad_y - (grad_y * y).sum(-1, keepdim=True))


def test_a_backward_may_have_the_name_of_a_rule_and_a_large_example():
    assert asked(softmax, lambda x: torch.softmax(x, -1), (some(300, 200),)).verdict == "right"


def inclusive(grad_y, x):
    return torch.where((x >= -1) & (x <= 1), grad_y, 0)


def strict(grad_y, x):
    return torch.where((x > -1) & (x < 1), grad_y, 0)


def shifted(grad_y, x):
    return torch.where((x >= -1) & (x <= 2), grad_y, 0)


def corner(x):
    return torch.where(x > 0.37, 2 * x - 0.37, x)


def wrong_at_the_corner(grad_y, x):
    return torch.where(x > 0.37, 2 * grad_y, torch.where(x == 0.37, 5 * grad_y, grad_y))


def clamped(x):
    return x.clamp(-1, 1)


CALLED = [
    (inclusive, clamped, "right"),
    (strict, clamped, "convention"),
    (shifted, clamped, "wrong"),
    (wrong_at_the_corner, corner, "wrong"),
]


@pytest.mark.parametrize(("backward", "forward", "verdict"), CALLED)
def test_what_a_backward_is_called_changes_no_verdict(backward, forward, verdict, monkeypatch):
    verdicts = {}
    for name in ("mine", "clamp"):
        monkeypatch.setattr(backward, "__name__", name)
        monkeypatch.setattr(backward, "__qualname__", name)
        verdicts[name] = asked(backward, forward, (some(3, 4, dtype=torch.float64),)).verdict
    assert verdicts == {"mine": verdict, "clamp": verdict}


def counted(backward, calls):
    def counting(grad_y, x):
        calls.append(x.shape)
        return backward(grad_y, x)

    return counting


@pytest.mark.parametrize("backward", [inclusive, strict, shifted])
def test_printing_a_report_asks_nothing_again(backward):
    calls = []
    report = asked(counted(backward, calls), clamped, (some(3, 4),))
    before, text = len(calls), str(report)
    assert str(report) == text
    assert len(calls) == before


@pytest.mark.parametrize("factor", [1, 2])
def test_an_interrupt_ends_the_check_with_a_report_or_as_an_interrupt(factor):
    calls = []

    def interrupted(grad_y, x):
        calls.append(x.shape)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return factor * grad_y * x.cos()

    with contextlib.suppress(KeyboardInterrupt):
        report = asked(interrupted, torch.sin, (some(3, 4),))
        assert report.verdict in ("inconclusive", "wrong")[:factor]


def gelu(grad_y, x):
    t = torch.tanh(0.79788456 * (x + 0.044715 * x**3))
    inner = 0.79788456 * (1 + 3 * 0.044715 * x**2)
    return grad_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)


def test_a_constant_of_eight_digits_is_a_note_in_float32():
    report = asked(gelu, lambda x: functional.gelu(x, approximate="tanh"), (some(3, 4),))
    assert report.verdict == "right"
    assert any("digits" in note for note in report.notes)


def test_a_backward_that_raises_at_other_sizes_than_the_examples_gets_a_note():
    def of_four_rows(grad_y, x):
        assert x.shape[0] == 4
        return grad_y * x.cos()

    report = asked(of_four_rows, torch.sin, (some(4, 3),))
    assert report.verdict == "right"
    assert any("raise" in note for note in report.notes)


def entropy_backward(grad_y, logits, target):
    hit = functional.one_hot(target, logits.shape[-1])
    return grad_y * (logits.softmax(-1) - hit) / target.numel(), None


def test_targets_are_drawn_below_the_number_of_classes():
    example = some(4, 5), torch.tensor([0, 4, 2, 2])
    assert asked(entropy_backward, functional.cross_entropy, example).verdict == "right"


# The lengths of an example: 6 and 5 of 6 steps, 3 and 2 of 3 labels.
STEPS, LABELS = torch.tensor([6, 5]), torch.tensor([3, 2])


def test_lengths_are_those_of_the_example():
    received = []

    def loss(scores, labels, steps, counts):
        received.append((set(steps.tolist()), set(counts.tolist())))
        if not (received[-1][0] <= {5, 6} and received[-1][1] <= {2, 3} and (labels > 0).all() and (labels < 4).all()):
            raise ValueError("torch would read memory that is not its own")
        return functional.ctc_loss(scores.log_softmax(-1), labels, steps, counts)

    def backward(grad_y, scores, labels, steps, counts):
        return torchs_own(loss, grad_y, scores, labels, steps, counts), None, None, None

    example = some(6, 2, 4), torch.tensor([[1, 2, 1], [3, 1, 2]]), STEPS, LABELS
    assert asked(backward, loss, example).verdict == "right"
    assert all(steps <= {5, 6} and counts <= {2, 3} for steps, counts in received)


def test_an_output_of_half_precision_complex_numbers_is_asked():
    x = torch.randn(3, dtype=torch.float64)
    report = check(lambda g, x: g.real.to(x), forward=lambda x: x.chalf(), example=(x,), raise_on_failure=False)
    assert report.verdict == "right"
