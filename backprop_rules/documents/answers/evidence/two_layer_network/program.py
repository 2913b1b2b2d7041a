"""Evidence of lines 12 to 48: the program, run as it is printed, and over many draws."""

import itertools
from ast import literal_eval

import torch
from torch import Tensor

from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.documents.answers.claim import Said, Seen, holds, holds_if, wrong
from backprop_rules.documents.answers.drawn import counterexample, difference, told, untrue
from backprop_rules.documents.answers.evidence.two_layer_network.letters import (
    DRAWS,
    ONE,
    TWO,
    WEIGHTS,
    Names,
    active,
    cotangent,
    drawn_networks,
    followed,
    for_w1,
    for_w2,
    loss,
    losses,
    names,
    off_the_kink,
    one_sided,
    point,
    predicted,
    recorded,
    share,
    tie,
    true_losses,
    with_the_step,
)
from backprop_rules.documents.answers.notation import holds_of
from backprop_rules.documents.answers.tools import back, defined, ran, refused, shape
from backprop_rules.documents.programs import AS_PRINTED, TWO_LAYER_NETWORK
from backprop_rules.rule import installed

AT_A_BOUND = clamp.conventions[0]  # the choice that torch makes where a hidden unit is 0, and the versions that make it


def derivation_explains_the_code(said: Said) -> Seen:
    """Ask whether the derived formula is what the code computes, and whether either is the gradient."""
    printed, without_the_clamp = with_the_step(said.formula), with_the_step("")

    def two_alike(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        formula, code, true = (found(x, w1, w2, t) for found in (without_the_clamp, printed, for_w1))
        return tie(x, w1) or formula.equal(code) or code.equal(true) or true.equal(formula)

    same, three = difference(without_the_clamp, printed, **ONE), counterexample(two_alike, **ONE)
    return wrong(same is None, three is not None, f"{told(same)}; «different from both»: {told(three)}")


def shapes_fit(said: Said) -> Seen:
    """Run every line of the program with the shapes that are said, which are those of the recorded draw."""
    x, y, w1, w2 = (torch.ones(literal_eval(said[name])) for name in ("x", "y", "first", "second"))
    as_drawn = [shape(v) for v in (x, y, w1, w2)] == [
        shape(AS_PRINTED.inputs()[n]) for n in ("x", "target", "w1", "w2")
    ]

    def found() -> list[str]:
        return [shape(g) for g in (for_w1(x, w1, w2, y), for_w2(x, w1, w2, y))]

    fits = defined(lambda: found() == [said["first"], said["second"]])
    return holds(as_drawn and fits, f"grad_w1, grad_w2: {', '.join(found()) if fits else refused(found)}")


def the_same_losses_every_time(said: Said) -> Seen:
    """Draw the program's numbers twice, without the seed and after it."""

    def first_loss(seed: int | None) -> float:
        if seed is not None:
            torch.manual_seed(seed)
        return float(loss(torch.randn(1, 2), torch.randn(2, 4), torch.randn(4, 3), torch.randn(1, 3)))

    with torch.random.fork_rng():
        seeded, free = [first_loss(0) for _ in range(2)], [first_loss(None) for _ in range(2)]
    shown = f"«without a seed»: {free[0]:.4g}, {free[1]:.4g}; «with it»: {seeded[0]:.4g}, {seeded[1]:.4g}"
    return holds_if(seeded[0] == seeded[1], free[0] == free[1], shown)


def learning_rate_learns(said: Said) -> Seen:
    """Follow the printed program over many draws, and the recorded one by both rules at a higher rate."""
    settings = ran(said.formula.replace(" … ", "\n"))
    networks = drawn_networks()
    run = losses(networks, settings["learning_rate"], settings["epoch_n"] - 1)
    falls, alive, lost = run[-1] < run[0], active(networks), 1 - run[-1] / run[0]
    here = losses(recorded(), settings["learning_rate"], settings["epoch_n"] - 1)
    its_own = float(1 - here[-1] / here[0])
    rate, epochs = float(said["rate"]), int(said["epochs"])
    printed, right = (followed(program, rate, epochs) for program in (AS_PRINTED, TWO_LAYER_NETWORK))
    found = {"middle": float(lost.median()), "recorded": its_own, "share": share(lost >= its_own)}
    found |= {"first": printed[0], "printed": printed[1], "right": right[1]}
    figures = said.number("draws") == DRAWS and all(said.rounds(name, value) for name, value in found.items())
    shown = f"{len(lost)} «draws»: {100 * float(lost.median()):.3f}%, «at most» {100 * float(lost.max()):.2f}%; "
    shown += f"{epochs} «epochs», {rate}: {printed[1]:.6g}, {right[1]:.6g}"
    return holds_if(bool(falls[alive].all()) and figures, bool(falls[~alive].any()), shown)


def forward_code(said: Said) -> Seen:
    """Hold lines 29 to 31 against the layers written out element by element."""
    found = untrue(said["layers"], lambda x, w1, w2: names(x, w1, w2, predicted(x, w1, w2)), **WEIGHTS)
    return holds(found is None, told(found))


def loss_code(said: Said) -> Seen:
    """Run the program's line, and hold what it gives against the sum written out."""

    def by_the_code(p: Tensor, t: Tensor) -> Names:
        return {"loss": ran(said.formula, y_pred=p, y=t)["loss"], "ŷ": p, "y": t}

    found = untrue(said["total"], by_the_code, p="1 k", t="1 k")
    return holds(found is None, told(found))


def loss_falls(said: Said) -> Seen:
    """Print the losses of many draws as the program does, follow the recorded one in balls, and flip all signs."""
    networks, epochs, decimals = drawn_networks(), int(said["epochs"]), int(said["decimals"])
    run = losses(networks, AS_PRINTED.learning_rate or 0.0, epochs - 1)
    printed = torch.tensor([[float(f"{v:.{decimals}f}") for v in row] for row in run.T.tolist()])
    shows, enough = (printed.diff() < 0).all(1), (run.diff(dim=0) <= -(10.0**-decimals)).all(0)
    x, _, w1, _ = (v[:1] for v in networks)
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=w1.shape[-1])), dtype=w1.dtype)
    none = ~active([x.expand(len(signs), -1, -1), None, w1 * signs[:, None], None])
    alike = printed[:, 0] == printed[:, -1]
    figures = said.number("draws") == DRAWS and said.number("none") == share(none)
    figures &= said.rounds("every", share(shows)) and said.rounds("equal", share(alike))
    proved = [step["loss"] for step in true_losses(AS_PRINTED)]
    down = len(proved) == epochs and all(bool((b.hi < a.lo).all()) for a, b in itertools.pairwise(proved))
    shown = f"{len(shows)} «draws»: {int(shows.sum())}, {int(alike.sum())}; "
    shown += f"«as recorded»: {float(proved[0].lo):.6f} → {float(proved[-1].lo):.6f}"
    return holds_if(bool(shows[enough].all() and enough.any()) and down and figures, bool(shows.all()), shown)


def code_for_w2(said: Said) -> Seen:
    """Run the program's line with two samples, and hold it against autograd."""

    def by_the_code(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
        given = {"h1": x.mm(w1).clamp(min=0), "grad_y_pred": 2 * (predicted(x, w1, w2) - t)}
        found: Tensor = ran(said.formula, **given)["grad_w2"]
        return found

    found = difference(by_the_code, for_w2, **TWO)
    return holds(found is None, told(found))


def the_cotangent_must_be_copied(said: Said) -> Seen:
    """Run lines 39 and 40 with the copy, and the one line without it."""

    def alike(w2: Tensor, g: Tensor) -> bool:
        arrived = g.clone()
        copied = ran(f"{said.formula}\ngrad_h = grad_h.mm(w2.t())", grad_y_pred=g, w2=w2)["grad_h"]
        alone = ran(said["alone"], grad_y_pred=g, w2=w2)["grad_h"]
        return copied.equal(alone) and g.equal(arrived) and copied.equal(back(g @ w2.T, w2, g)[0])

    found = counterexample(alike, w2="h k", g="1 k")
    return wrong(found is not None, found is None, f"{said['alone']}: {told(found)}")


def cotangent_clamped(said: Said) -> Seen:
    """Put masks where the program clamps: away from the kink, on it, and at the two single units that are said."""
    printed, mask, before = (with_the_step(code) for code in (said.formula, said["mask"], said["before"]))
    found, masked = off_the_kink(printed, **ONE), off_the_kink(mask, **TWO)
    chosen = difference(before if installed(AT_A_BOUND.torch) else mask, for_w1, **TWO)
    zero = point(said["at_zero"])
    at_zero = [float(rule(*zero)) for rule in (mask, before)]
    right = (
        AT_A_BOUND.torch == f"<{said['version']}"
        and at_zero == [said.number("stopped"), said.number("passed")]
        and sorted(at_zero) == sorted(one_sided(*zero))
    )
    for at, gradient, rule in (("active", "true", "lost"), ("idle", "none", "made")):
        unit = point(said[at])
        both = [float(for_w1(*unit)), float(printed(*unit))]
        right = right and both == [said.number(gradient), said.number(rule)] and both[0] == float(mask(*unit))
    shown = (
        f"«printed»: {told(found)}; {said['mask']}, x·w1 ≠ 0: {told(masked)}; torch {torch.__version__}: {told(chosen)}"
    )
    return wrong(found is None, masked is None and chosen is None and right, shown)


def code_for_w1(said: Said) -> Seen:
    """Count the draws in which the code agrees, and ask whether it does exactly where the signs do."""
    by_the_code = with_the_step("grad_h.clamp_(min=0)", said.formula)

    def exactly_where_signs_agree(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        h, g = x @ w1, cotangent(x, w1, w2, t)
        signs_agree = bool((x == 0).all() or ((g == 0) | ((h > 0) == (g > 0))).all())
        return tie(x, w1) or by_the_code(x, w1, w2, t).equal(for_w1(x, w1, w2, t)) == signs_agree

    def at_zero(x: Tensor, w2: Tensor, t: Tensor) -> bool:
        return float(by_the_code(x, 0 * x, w2, t)) in one_sided(x, 0 * x, w2, t)

    networks = list(zip(*drawn_networks(), strict=True))
    right = torch.tensor([by_the_code(x, w1, w2, t).equal(for_w1(x, w1, w2, t)) for x, t, w1, w2 in networks])
    found, exactly = off_the_kink(by_the_code, **ONE), counterexample(exactly_where_signs_agree, **ONE)
    zero = counterexample(at_zero, x="1 1", w2="1 1", t="1 1")
    instead = exactly is None and zero is None and said.number("draws") == DRAWS and said.rounds("share", share(right))
    return wrong(found is None, instead, f"{told(found)}; {int(right.sum())} / {len(right)} «draws»; {told(exactly)}")


def step_goes_downhill(said: Said) -> Seen:
    """Look for an update that raises the loss, with one sample and with two; with one, by the sums that are said."""
    printed = with_the_step("grad_h.clamp_(min=0)")

    def fall(*at: Tensor) -> Tensor:  # along the printed updates, for each unit of the learning rate
        return (for_w1(*at) * printed(*at)).sum() + (for_w2(*at) ** 2).sum()

    def downhill(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        moves = bool((x @ w1 > 0).any()) and not predicted(x, w1, w2).equal(t)
        return tie(x, w1) or bool(fall(x, w1, w2, t) > 0 if moves else fall(x, w1, w2, t) == 0)

    def as_said(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        at = x, w1, w2, t
        return tie(x, w1) or holds_of(said["fall"], {**names(*at), "fall": fall(*at), "grad_w2": for_w2(*at)})

    rise, two = float(fall(*point(said["point"]))), counterexample(downhill, **TWO)
    one, proof = counterexample(downhill, **ONE), counterexample(as_said, **ONE)
    shown = f"«two samples»: {told(two)}, {said['point']}: {rise:g}; «one sample»: {told(one or proof)}"
    return holds_if(one is None and proof is None and rise == -said.number("rise"), two is None, shown)


def updates_are_gradient_descent(said: Said) -> Seen:
    """Run the two lines in both orders, and torch's own gradient descent, at a rate of 1/8."""
    lines = said.formula.split(" … ")

    def alike(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        given = {"grad_w1": with_the_step("grad_h.clamp_(min=0)")(x, w1, w2, t), "grad_w2": for_w2(x, w1, w2, t)}
        weights = [w.clone().requires_grad_() for w in (w1, w2)]
        for w, g in zip(weights, given.values(), strict=True):
            w.grad = g.clone()
        torch.optim.SGD(weights, lr=0.125).step()
        left = [
            ran("\n".join(code), learning_rate=0.125, w1=w1.clone(), w2=w2.clone(), **given)
            for code in (lines, lines[::-1])
        ]
        return all(one["w1"].equal(weights[0].detach()) and one["w2"].equal(weights[1].detach()) for one in left)

    found = counterexample(alike, **TWO)
    return holds(found is None, f"torch.optim.SGD: {told(found)}")
