"""The document's program, y = xω trained to y = 2x in float32, as it stands, and evidence of what is said of it."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.drawn import as_code, everywhere
from backprop_rules.documents.answers.tools import gradients

SAMPLES = ((1.0, 2.0), (2.0, 4.0), (3.0, 6.0))
EPOCHS = 100
RATE = 0.01
STARTS = [Fraction(start) for start in ("1", "0", "-7/3", "1.999")]  # of the weight


class Step(NamedTuple):
    """A step of training: the weight before it, the loss that it computes, and the weight after it."""

    before: float
    loss: float
    after: float


def weight(value: float = 1.0) -> Tensor:
    """Return the document's weight, which asks for its gradient."""
    w = torch.Tensor([value])
    w.requires_grad = True
    return w


def loss(w: Tensor, x: float, y: float) -> Tensor:
    """Return the loss of a sample."""
    return (x * w - y) ** 2


def grad(w: Tensor) -> Tensor:
    """Return the weight's gradient, which must be there."""
    assert w.grad is not None
    return w.grad


def step(w: Tensor) -> None:
    """Take the document's step."""
    w.data = w.data - RATE * grad(w).data


def trained(
    update: Callable[[Tensor], None] = step, clear: bool = True, epochs: int = EPOCHS
) -> tuple[Tensor, list[Step]]:
    """Train the weight from 1 as the document does, and return it with the steps."""
    w, steps = weight(), []
    for x, y in SAMPLES * epochs:
        before, computed = w.item(), loss(w, x, y)
        computed.backward()
        update(w)
        if clear:
            grad(w).data.zero_()
        steps.append(Step(before, computed.item(), w.item()))
    return w, steps


def training_updates_the_weight() -> Seen:
    """Train torch's layer with samples that ask for a gradient, too, and list what differs afterwards."""
    layer = torch.nn.Linear(1, 1, bias=False)
    x, y = (t.clone().requires_grad_() for t in torch.tensor(SAMPLES).T[:, :, None])
    layer.weight.data.fill_(1)
    tensors = {"ω": layer.weight, "x": x, "y": y}
    before = {name: t.detach().clone() for name, t in tensors.items()}
    for _ in range(EPOCHS):
        ((layer(x) - y) ** 2).sum().backward()
        for parameter in layer.parameters():
            step(parameter)
        layer.zero_grad()
    changed = [name for name, t in tensors.items() if not t.equal(before[name])]
    asked = [bool(grad(t).any()) for t in (x, y)]
    shown = f"x, y = {as_code(x[:, 0])}, {as_code(y[:, 0])}: ω = {layer.weight.item()}"
    return Seen(changed == ["ω"] and all(asked), None, f"{shown}; {as_code(changed)} != {as_code(list(tensors))}")


def the_update_follows_the_loss() -> Seen:
    """Train by ∂loss/∂ω as the program does, and by ∂ŷ/∂ω in fractions, and hold the first sample's losses together."""
    w, steps = trained()
    (x, y), v, first = SAMPLES[0], Fraction(1), steps[0].loss
    slopes = [gradients(lambda w, x=x: x * w, weight())[0].item() for x, _ in SAMPLES]
    for slope in slopes * EPOCHS:
        v -= Fraction("0.01") * Fraction(slope)
    by_loss, by_prediction = loss(w, x, y).item(), (Fraction(x) * v - Fraction(y)) ** 2
    as_told = first == 1 and by_loss == 9 * 2.0**-46 and v == -5 and by_prediction == 49
    shown = f"∂loss/∂ω: ω = {w.item()}, loss {first} → {by_loss}; ∂ŷ/∂ω: ω = {v}, loss {first} → {by_prediction}"
    return Seen(as_told and by_loss < first < by_prediction, None, shown)


def the_weight_is_adjusted_by_that_gradient() -> Seen:
    """Hold every step of the document's program against one by the product ∂loss/∂z · ∂z/∂ω."""
    same = []
    for (x, y), taken in zip(SAMPLES * EPOCHS, trained()[1], strict=True):
        w = torch.Tensor([taken.before])
        same.append(taken.after == (w - RATE * (2 * (x * w - y) * x)).item())
    return Seen(all(same), None, f"ω - 0.01 * (2 * (x * ω - y) * x): {sum(same)} of {len(same)} steps")


def the_samples_lie_on_a_line() -> Seen:
    """Find for each sample the weight at which its loss is 0, and compute the program's loss there."""
    roots = {Fraction(y) / Fraction(x) for x, y in SAMPLES}
    losses = [loss(weight(float(root)), x, y).item() for root in roots for x, y in SAMPLES]
    shown = f"y / x = {', '.join(map(str, roots))}: {as_code(losses)}"
    return Seen(roots == {2} and losses == [0] * len(SAMPLES), None, shown)


@everywhere("loss == mse_loss(x * w, y), ∂loss/∂w == 2 * x * (x * w - y): ", w="1", x="1", y="1")
def loss_is_the_squared_error(w: Tensor, x: Tensor, y: Tensor) -> bool:
    """Hold the loss against torch's mean squared error of one sample, and its derivative against 2x(xω - y)."""
    value = loss(w, x.item(), y.item())
    (grad_w,) = gradients(lambda v: loss(v, x.item(), y.item()), w)
    return value.item() == torch.nn.functional.mse_loss(w * x, y).item() and grad_w.equal(2 * x * (x * w - y))


def prediction_before_training() -> Seen:
    """Predict with the weight that training begins with."""
    found = (4 * weight()).item()
    return Seen(found == 4, None, f"{found}")


def a_hundred_epochs() -> Seen:
    """Train as the document does, and find the last step that changes the weight."""
    w, steps = trained()
    last = max(k for k, taken in enumerate(steps, 1) if taken.before != taken.after)
    epochs = -(-last // len(SAMPLES))
    shown = f"{len(steps)} steps, the last that changes w: {last}, in epoch {epochs}; w = {w.item()}"
    return Seen(len(steps) == 300 and epochs == 50, None, shown)


def data_is_the_only_way() -> Seen:
    """Train without data, under no_grad and with detach, and hold the weights against the document's."""

    def unrecorded(w: Tensor) -> None:
        with torch.no_grad():
            w -= RATE * grad(w)

    def detached(w: Tensor) -> None:
        w.detach().sub_(RATE * grad(w))

    expected, others = trained()[0], [trained(update)[0] for update in (unrecorded, detached)]
    same = [w.equal(expected) and w.is_leaf and not grad(w).requires_grad for w in others]
    return Seen(not any(same), all(same), f"data: {expected.item()}; no_grad, detach: {[w.item() for w in others]}")


def shrinks_by(w: Fraction, rate: Fraction) -> Fraction:
    """Return what one epoch multiplies 2 - w by, computed in fractions."""
    before = 2 - w
    for x, y in SAMPLES:
        w -= rate * 2 * Fraction(x) * (Fraction(x) * w - Fraction(y))
    return (2 - w) / before


def the_step_is_small_enough() -> Seen:
    """Take the program's first step; then an epoch in fractions, with 0.01 and with 0.25."""
    w = weight()
    loss(w, *SAMPLES[0]).backward()
    step(w)
    small, large = ({shrinks_by(start, Fraction(rate)) for start in STARTS} for rate in ("0.01", "0.25"))
    nearer = small == {Fraction("0.98") * Fraction("0.92") * Fraction("0.82")} and large == {Fraction("1.75")}
    factors = [", ".join(map(str, found)) for found in (small, large)]
    shown = f"w = 1 → {w.item()}, w.grad = {as_code(w.grad)}; 0.01: 2 - w ← {factors[0]} * (2 - w); 0.25: {factors[1]}"
    return Seen(w.data.equal(torch.Tensor([1.02])) and grad(w).item() == -2 and nearer, None, shown)


def zero_clears_the_gradient() -> Seen:
    """Clear the gradient once; train with clearing, and without."""
    w = weight()
    loss(w, 3.0, 6.0).backward()
    before = grad(w).item()
    grad(w).data.zero_()
    after = grad(w).item()
    cleared, (never, steps) = trained()[0].item(), trained(clear=False)
    late = [taken.after for taken in steps[len(SAMPLES) - 1 :: len(SAMPLES)]][-6:]  # after each of the last epochs
    shown = f"w.grad = {before} → {after}; zero_(): w = {cleared}; -: w = {late}"
    farther = abs(2 - cleared) < abs(2 - never.item()) and min(late) < 2 < max(late)
    return Seen(before != 0 and after == 0 and farther, None, shown)


def the_progress_printed() -> Seen:
    """Hold the loss printed for each epoch against that of the epoch, and against its last sample's before its step."""
    _, steps = trained(epochs=3)
    epochs = [steps[k : k + len(SAMPLES)] for k in range(0, len(steps), len(SAMPLES))]
    printed = [epoch[-1].loss for epoch in epochs]  # what l is once the inner loop has ended
    of_the_epoch = [sum(taken.loss for taken in epoch) for epoch in epochs]
    of_the_last = [loss(torch.Tensor([epoch[-1].before]), *SAMPLES[-1]).item() for epoch in epochs]
    return Seen(printed == of_the_epoch, printed == of_the_last, f"l.item() = {printed}; sum = {of_the_epoch}")


def prediction_after_training() -> Seen:
    """Predict after training in float32, then train longer; and once through the samples in fractions."""
    factors = {shrinks_by(start, Fraction("0.01")) for start in STARTS}
    (w, _), (longer, _) = trained(), trained(epochs=2 * EPOCHS)
    nearer = factors == {Fraction("0.739312")}
    stops = w.equal(longer) and w.item() == 1.9999996423721313 and (4 * w).item() == 7.999998569488525
    shown = f"float32: w = {w.item()}, 4 * w = {(4 * w).item()}; 2 - w ← {max(factors)} * (2 - w)"
    return Seen(nearer and stops, None, shown)
