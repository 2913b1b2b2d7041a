"""The document's program, y = xω trained to y = 2x in float32, as it stands, and evidence of what is said of it."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_rules.documents.answers.claim import Said, Seen, holds, holds_if, wrong
from backprop_rules.documents.answers.drawn import as_code, counterexample, told
from backprop_rules.documents.answers.notation import holds_of, worked_out
from backprop_rules.documents.answers.tools import computed, gradients, ran

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
    update: Callable[[Tensor], object] = step, clear: bool = True, epochs: int = EPOCHS
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


def training_updates_the_weight(said: Said) -> Seen:
    """Train torch's layer, sample by sample, with samples that ask for a gradient too, and list what differs after."""
    layer = torch.nn.Linear(1, 1, bias=False)
    x, y = (t.clone().requires_grad_() for t in torch.tensor(SAMPLES).T[:, :, None])
    layer.weight.data.fill_(float(said["start"]))
    tensors = {"ω": layer.weight, "x": x, "y": y}
    before = {name: t.detach().clone() for name, t in tensors.items()}
    for k in [*range(len(SAMPLES))] * EPOCHS:
        ((layer(x[k]) - y[k]) ** 2).sum().backward()
        for parameter in layer.parameters():
            step(parameter)
        layer.zero_grad()
    changed = [name for name, t in tensors.items() if not t.equal(before[name])]
    asked = [bool(grad(t).any()) for t in (x, y)]
    shown = f"ω: {said['start']} → {layer.weight.item()}; {as_code(changed)} ≠, x, y ="
    right = [str(weight().item()), str(layer.weight.item())] == [said["start"], said["end"]]
    return holds(changed == ["ω"] and all(asked) and right, shown)


def the_update_follows_the_loss(said: Said) -> Seen:
    """Train by ∂loss/∂ω as the program does, and by ∂ŷ/∂ω in fractions, and hold the first sample's losses together."""
    (w, steps), (x, y), v = trained(), SAMPLES[0], Fraction(1)
    slopes = [gradients(lambda w, x=x: x * w, weight())[0].item() for x, _ in SAMPLES]
    for slope in slopes * EPOCHS:
        v -= Fraction("0.01") * Fraction(slope)
    by_loss, by_output = Fraction(loss(w, x, y).item()), (Fraction(x) * v - Fraction(y)) ** 2
    right = said.number("first") == steps[0].loss > by_loss == worked_out(said["last"], {})
    right &= said.rounds("about", by_loss) and said.number("other") == v and said.number("loss") == by_output
    right &= said.number("steps") == len(steps) and said.rounds("printed", steps[len(SAMPLES) - 1].loss)
    shown = (
        f"∂loss/∂ω: ω = {w.item()}, {steps[0].loss} → {float(by_loss)}; ∂ŷ/∂ω: ω = {v}, {steps[0].loss} → {by_output}"
    )
    return holds(bool(right and by_output > steps[0].loss), shown)


def the_weight_is_adjusted_by_that_gradient(said: Said) -> Seen:
    """Hold every step of the document's program against the one that is said."""
    same = [
        computed(said["step"], w=torch.Tensor([taken.before]), x=x, y=y).item() == taken.after
        for (x, y), taken in zip(SAMPLES * EPOCHS, trained()[1], strict=True)
    ]
    return holds(all(same) and len(same) == said.number("steps"), f"{said['step']}: {sum(same)} / {len(same)} «steps»")


def the_samples_lie_on_a_line(said: Said) -> Seen:
    """Find for each sample the weight at which its loss is 0, and compute the program's loss there."""
    data = ran(said.formula.replace(" … ", "\n"))
    samples = list(zip(data["x_data"], data["y_data"], strict=True))
    roots = {Fraction(y) / Fraction(x) for x, y in samples}
    losses = {loss(weight(float(root)), x, y).item() for root in roots for x, y in samples}
    line = all(said.holds("line", {"x": Fraction(x), "y": Fraction(y)}) for x, y in samples)
    right = line and roots == {said.number("weight")} and losses == {said.number("loss")} and (*samples,) == SAMPLES
    return holds(right, f"y / x = {', '.join(map(str, roots))}: {losses}")


def loss_is_the_squared_error(said: Said) -> Seen:
    """Hold the document's expression against torch's mean squared error, and its derivative against the one said."""

    def right(w: Tensor, x: Tensor, y: Tensor) -> bool:
        value = computed(said.formula, y_pred=w * x, y=y)
        (by_w,) = gradients(lambda v: computed(said.formula, y_pred=v * x, y=y), w)
        same = value.equal(loss(w, x.item(), y.item())) and value == torch.nn.functional.mse_loss(w * x, y)
        return bool(same) and said.holds("derivative", {"x": x, "ω": w, "y": y, "∂loss/∂ω": by_w})

    found = counterexample(right, w="1", x="1", y="1")
    return holds(found is None, f"mse_loss, {said['derivative']}: {told(found)}")


def prediction(said: Said, w: Tensor) -> str:
    """Return what the document's expression prints with this weight."""
    return str(computed(said.formula, forward=lambda x: x * w))


def prediction_before_training(said: Said) -> Seen:
    """Predict with the weight that training begins with."""
    printed = prediction(said, weight())
    return holds(printed == said["printed"], printed)


def a_hundred_epochs(said: Said) -> Seen:
    """Train as the document does, and find the last step that changes the weight."""
    w, steps = trained(epochs=len(computed(said.formula)))
    last = max(k for k, taken in enumerate(steps, 1) if taken.before != taken.after)
    epochs = -(-last // len(SAMPLES))
    right = said.number("steps") == len(steps) and said.number("last") == epochs and str(w.dtype) == said["dtype"]
    return holds(right, f"{len(steps)} «steps», «last change» {last}, «epoch» {epochs}; w = {w.item()}")


def data_is_the_only_way(said: Said) -> Seen:
    """Train by the other two ways that are said, and hold the weights against the document's."""

    def by(code: str) -> Tensor:
        return trained(lambda w: ran(code, w=w))[0]

    expected, *others = map(by, (said.formula, f"with torch.no_grad(): {said['unrecorded']}", said["detached"]))
    same = [w.equal(expected) and w.is_leaf and not grad(w).requires_grad for w in others]
    right = all(same) and expected.equal(trained()[0])
    return wrong(not any(same), right, f"data: {expected.item()}; no_grad, detach: {[w.item() for w in others]}")


def shrinks_by(w: Fraction, rate: Fraction) -> Fraction:
    """Return what one epoch multiplies 2 - w by, computed in fractions."""
    before = 2 - w
    for x, y in SAMPLES:
        w -= rate * 2 * Fraction(x) * (Fraction(x) * w - Fraction(y))
    return (2 - w) / before


def the_step_is_small_enough(said: Said) -> Seen:
    """Take the program's first step; then steps and epochs in fractions, with its factor and with a larger one."""
    w, rate = weight(), Fraction(said.formula.partition(" ")[0])
    loss(w, *SAMPLES[0]).backward()
    taken = w.data - computed(said.formula, w=w)
    step(w)
    small, large = ({shrinks_by(start, r) for start in STARTS} for r in (rate, said.number("large")))
    each = [
        said.holds("sample", {"w": v, "x": x, "lr": rate, "w_new": v - rate * 2 * x * (x * v - 2 * x)})
        for v in STARTS
        for x in (Fraction(x) for x, _ in SAMPLES)
    ]
    right = small == {said.number("epoch")} and large == {said.number("away")} and taken.equal(w.data)
    return holds(all(each) and right, f"{said.formula}: w = 1 → {w.item()}; {rate}: {small}, {said['large']}: {large}")


def zero_clears_the_gradient(said: Said) -> Seen:
    """Clear the gradient once; train without clearing, and see how far w swings in the first epochs and the last."""
    w = weight()
    loss(w, 3.0, 6.0).backward()
    before = grad(w).item()
    ran(said.formula, w=w)
    after, cleared, (_, steps) = grad(w).item(), trained()[0].item(), trained(clear=False)
    third = len(steps) // 3
    swings = [(min(t.after for t in part), max(t.after for t in part)) for part in (steps[:third], steps[-third:])]
    right = all(said.rounds("low", low) and said.rounds("high", high) for low, high in swings)
    right &= len(steps) == said.number("epochs") * len(SAMPLES) and before != 0 and after == 0
    shown = f"w.grad = {before} → {after}; zero_(): w = {cleared}; -: {swings[0]}, «at the end» {swings[1]}"
    return holds(right and abs(2 - cleared) < min(high - low for low, high in swings), shown)


def the_progress_printed(said: Said) -> Seen:
    """Hold the loss printed for each epoch against that of the epoch, and against its last sample's before its step."""
    _, steps = trained(epochs=3)
    epochs = [steps[k : k + len(SAMPLES)] for k in range(0, len(steps), len(SAMPLES))]
    printed = [epoch[-1].loss for epoch in epochs]  # what l is once the inner loop has ended
    of_the_epoch = [sum(taken.loss for taken in epoch) for epoch in epochs]
    of_the_last = [loss(torch.Tensor([epoch[-1].before]), *SAMPLES[-1]).item() for epoch in epochs]
    right = printed == of_the_last and said.rounds("sum", of_the_epoch[0]) and said.rounds("last", printed[0])
    return holds_if(right, printed == of_the_epoch, f"{said.formula} = {printed}; Σ = {of_the_epoch}")


def prediction_after_training(said: Said) -> Seen:
    """Predict after training, then train longer; and once through the samples in fractions."""
    (w, _), (longer, _) = trained(), trained(epochs=2 * EPOCHS)
    (factor,) = {shrinks_by(start, Fraction("0.01")) for start in STARTS}
    each = [Fraction(part) for part in said["factor"].partition(" = ")[0].split("·")]
    right = said.holds("factor", {}) and holds_of("f = " + said["factor"], {"f": factor})
    right &= each == [1 - 2 * Fraction("0.01") * Fraction(x) ** 2 for x, _ in SAMPLES]
    stops = w.equal(longer) and str(w.item()) == said["weight"] and prediction(said, w) == said["printed"]
    return holds(right and stops, f"w = {w.item()}, {said.formula} = {prediction(said, w)}; {factor}")
