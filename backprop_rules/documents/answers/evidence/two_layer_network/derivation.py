"""Evidence of lines 50 to 116: the sketch, and the formulas of the derivation."""

import itertools
from ast import literal_eval
from collections.abc import Callable

import torch
from torch import Tensor

from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.documents.answers.claim import Said, Seen, holds, holds_if, wrong
from backprop_rules.documents.answers.drawn import Point, as_code, counterexample, told, untrue
from backprop_rules.documents.answers.evidence.two_layer_network.letters import (
    ERROR,
    LAYER,
    ONE,
    TWO,
    W1,
    W2,
    WEIGHTS,
    H,
    Names,
    X,
    names,
    predicted,
    rows,
    second_layer,
    squared_error,
    tie,
    without_the_clamp,
)
from backprop_rules.documents.answers.notation import holds_of
from backprop_rules.documents.answers.tools import back, computed, defined, gradients, refused, shape, verified
from backprop_rules.documents.programs import TWO_LAYER_NETWORK
from backprop_rules.teaching.trace import traced


def graph_of_two_products(said: Said) -> Seen:
    """Trace the program that is named, and list the rules on the way."""
    nodes = traced(TWO_LAYER_NETWORK.forward, TWO_LAYER_NETWORK.inputs()).nodes.values()
    way = [str(node.made_by.rule) for node in nodes if node.made_by]
    steps = [name for name in way if name != "sum_of_squared_errors"]
    named = said["command"] == f"backprop-rules trace {TWO_LAYER_NETWORK.name}"
    right = named and steps == ["matmul", "clamp", "matmul"]
    return wrong(steps == ["matmul", "matmul"], right, " → ".join(way))


def prediction_without_the_clamp(said: Said) -> Seen:
    """Work out both formulas; and the printed one where no hidden unit is negative."""

    def at(x: Tensor, w1: Tensor, w2: Tensor) -> Names:
        return {"x": x, "w1": w1, "w2": w2, "ŷ": predicted(x, w1, w2)}

    printed, instead = (untrue(formula, at, **WEIGHTS) for formula in (said.formula, said["instead"]))
    alike = counterexample(
        lambda x, w1, w2: bool((x @ w1 < 0).any()) or holds_of(said.formula, at(x, w1, w2)), **WEIGHTS
    )
    return wrong(
        printed is None, instead is None and alike is None, f"{told(printed)}; {said['instead']}: {told(instead)}"
    )


def argmin_in_the_loss(said: Said) -> Seen:
    """Find the argument of the minimum among whole numbers, and hold it and the sum against what the program prints."""

    def least(t: Tensor) -> Tensor:
        every_p = itertools.product(range(-4, 5), repeat=t.numel())
        return min((torch.tensor(p, dtype=t.dtype) for p in every_p), key=lambda p: float(((p - t) ** 2).sum()))

    argmin = counterexample(lambda p, t: bool((least(t) == ((p - t) ** 2).sum()).all()), p="1", t="1")
    where = untrue(said["place"], lambda t: {"ŷ": least(t), "y": t}, t="2")
    printed = untrue(said["total"], names, **ONE)
    return wrong(argmin is None, where is None and printed is None, f"{told(argmin)}; {said['total']}: {told(printed)}")


def gradient_of_the_squared_errors(said: Said) -> Seen:
    """Hold the formula against autograd, and verify the catalogue's rule."""
    found, (right, shown) = untrue(said.formula, second_layer, **LAYER), verified(sum_of_squared_errors)
    return holds(found is None and right, f"{told(found)}; {shown}")


def as_a_row(names: Callable[..., Names], *gradients: str) -> Callable[..., Names]:
    """Return the names with these gradients laid out in one row, as a row of derivatives for each output asks for."""
    return lambda *at, **given: {
        name: x.reshape(1, -1) if name in gradients else x for name, x in names(*at, **given).items()
    }


def chain_rule_for_w2(said: Said) -> Seen:
    """Take the Jacobian for the second factor, and the transposed hidden layer."""
    given = second_layer(H, W2, ERROR)
    shapes = [shape(given["∂loss/∂ŷ"]), shape(given["∂ŷ/∂w2"]), shape(H.T)]
    jacobian = untrue(said.formula, as_a_row(second_layer, "∂loss/∂w2"), **LAYER)
    column = defined(lambda: holds_of(said.formula, {**given, "∂ŷ/∂w2": H.T}))
    right = jacobian is None and shapes == [said["row"], said["jacobian"], said["column"]]
    return holds_if(right, column, f"{' @ '.join(shapes[:2])}: {told(jacobian)}; {refused(lambda: ERROR @ H.T)}")


def derivative_of_the_product_for_w2(said: Said) -> Seen:
    """Compare the transposed hidden layer with the Jacobian, and use it as a factor on the left."""

    def at(h: Tensor, w2: Tensor, t: Tensor) -> Names:
        given = second_layer(h, w2, t)
        return {**given, "∂h1w2/∂w2": given["∂ŷ/∂w2"]}

    printed, recipe = (untrue(formula, at, **LAYER) for formula in (said.formula, said["recipe"]))
    shapes = [shape(second_layer(H, W2, ERROR)["∂ŷ/∂w2"]), shape(H.T)]
    right = recipe is None and shapes == [said["jacobian"], said["column"]]
    return wrong(printed is None, right, f"{' ≠ '.join(shapes)}; {said['recipe']}: {told(recipe)}")


def order_of_the_factors_for_w2(said: Said) -> Seen:
    """Multiply as printed, and in the order of the answer; with square matrices both can be formed."""
    printed, meant = (untrue(formula, second_layer, **LAYER) for formula in (said.formula, said["order"]))
    shapes = [shape(x) for x in (ERROR, H.T, W2)] == [said[name] for name in ("left", "right", "shape")]
    row, column, arrives = (torch.tensor(literal_eval(said[name])).double() for name in ("row", "column", "arrives"))
    h, g = column[:, None] * row / row[0], arrives
    square = [as_code(g @ h.T), as_code(back(h, torch.zeros_like(g), g)[1])] == [said["printed"], said["true"]]
    shown = f"{refused(lambda: ERROR @ H.T)}; {said['order']}: {told(meant)}; {as_code(g @ h.T)}"
    return wrong(printed is None, meant is None and shapes and square, shown)


def formula_for_w2_is_the_code(said: Said) -> Seen:
    """Run the formula's product and the code's, each as it is written."""

    def by(code: str) -> Point | None:
        def right(h: Tensor, w2: Tensor, t: Tensor) -> bool:
            at = second_layer(h, w2, t)
            return defined(lambda: bool(computed(code, h1=h, grad_y_pred=at["∂loss/∂ŷ"]).equal(at["∂loss/∂w2"])))

        return counterexample(right, **LAYER)

    printed, code = by(said["printed"]), by(said["code"])
    shown = f"{said['printed']}: {told(printed)}; {said['code']}: {told(code)}"
    return wrong(printed is None, code is None, shown)


def gradient_of_the_hidden_layer(said: Said) -> Seen:
    """Take the layer in front of the clamp for h1, as the graph has it, and the one behind it."""

    def in_front(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        true = gradients(squared_error(lambda h, w2: h.clamp(min=0) @ w2), h, w2, t)[0]
        given = {"ŷ": h.clamp(min=0) @ w2, "y": t, "w2": w2, "∂loss/∂h1": true}
        return bool((h == 0).any()) or holds_of(said.formula, given)

    front, behind = counterexample(in_front, **LAYER), untrue(said.formula, second_layer, **LAYER)
    return holds_if(behind is None, front is None, f"h1 = x·w1: {told(front)}; h1 = max(x·w1, 0): {told(behind)}")


def chain_rule_for_the_hidden_layer(said: Said) -> Seen:
    """Multiply the cotangent by the Jacobian, which is the transposed weight."""
    found, given = untrue([said.formula, said["jacobian"]], second_layer, **LAYER), second_layer(H, W2, ERROR)
    shapes = [shape(given["∂loss/∂ŷ"]), shape(given["∂ŷ/∂h1"])]
    right = found is None and shapes == [said["left"], said["right"]]
    return holds(right, f"{' @ '.join(shapes)}: {told(found)}")


def formula_for_w1_without_the_clamp(said: Said) -> Seen:
    """Work out the formula in either order, and with the mask, wherever no hidden unit stands on the kink."""

    def off(formula: str, **shapes: str) -> Point | None:
        return counterexample(
            lambda x, w1, w2, t: tie(x, w1) or defined(lambda: holds_of(formula, names(x / 4, w1, w2, t))), **shapes
        )

    without = [off(formula, **ONE) for formula in (said.formula, said["turned"])]
    masked, fits = off(said["masked"], **TWO), untrue(said["turned"], without_the_clamp, **TWO)
    return wrong(
        None in without, masked is None and fits is None, f"{told(without[1])}; {said['masked']}: {told(masked)}"
    )


def chain_rule_for_w1_in_this_order(said: Said) -> Seen:
    """Multiply as printed, and in the order of the answer, in a network without the clamp."""
    printed, meant = (untrue(formula, without_the_clamp, **TWO) for formula in (said.formula, said["order"]))
    shapes = [shape(v) for v in (ERROR @ W2.T, X.T, W1)] == [said[name] for name in ("left", "right", "shape")]
    shown = f"{refused(lambda: ERROR @ W2.T @ X.T)}; {said['order']}: {told(meant)}"
    return wrong(printed is None, meant is None and shapes, shown)


def chain_rule_for_w1(said: Said) -> Seen:
    """Take the Jacobian of the whole way for the second factor, and the product of the two transposes."""

    def at(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Names:
        way = {"∂loss/∂ŷ": 2 * (predicted(x, w1, w2) - t), "∂ŷ/∂w1": rows(predicted, 1, x, w1, w2)}
        return {**names(x, w1, w2, t), **way}

    given = at(X, W1, W2, ERROR)
    shapes = [shape(given["∂loss/∂ŷ"]), shape(given["∂ŷ/∂w1"])] == [said["row"], said["jacobian"]]
    jacobian = untrue(said.formula, as_a_row(at, "∂loss/∂w1"), **ONE)
    other = defined(lambda: holds_of(said.formula.replace("∂ŷ/∂w1", "(w2ᵀ × xᵀ)"), given))
    shown = f"{said['row']} @ {said['jacobian']}: {told(jacobian)}; {refused(lambda: ERROR @ W2.T @ X.T)}"
    return holds_if(jacobian is None and shapes, other, shown)


def derivative_of_wx(said: Said) -> Seen:
    """Compare the transposed factor with the Jacobian, a row for each output, and with a row for each element."""
    shapes = {"w": "n d", "x": "d 1", "g": "n 1"}

    def by(laid_out: Callable[[Tensor], Tensor]) -> Callable[..., Names]:
        return lambda w, x, g: {
            "w": w, "∂wx/∂x": laid_out(rows(torch.matmul, 1, w, x)), "grad": g, "∂loss/∂x": back(w, x, g)[1],
        }  # fmt: skip

    by_outputs, by_elements = by(torch.positive), by(lambda j: j.T)
    without = untrue(said.formula, by_outputs, **shapes)
    right = [
        untrue(said.formula, by_elements, **shapes), untrue(said["back"], by_elements, **shapes),
        untrue(said["jacobian"], by_outputs, **shapes),
    ]  # fmt: skip
    shown = f"∂y_i/∂x_j, «in row i»: {told(without)}; «in row j»: {told(right[0])}"
    return holds_if(right == [None] * 3, without is None, shown)


def this_formula_alone(said: Said) -> Seen:
    """Try the one formula on the other factor and on the square, and then what is needed besides."""
    shapes = {"w": "n d", "x": "d m", "g": "n m"}

    def at(w: Tensor, x: Tensor, g: Tensor) -> Names:
        by_w, by_x = back(w, x, g)
        return {"w": w, "x": x, "grad": g, "∂loss/∂w": by_w, "∂loss/∂x": by_x}

    def linear(e: Tensor, f: Tensor) -> bool:  # a product with a constant would be, whatever the constant
        slope = [gradients(torch.square, v)[0] for v in (e, f, torch.zeros_like(e))]
        return slope[0].equal(slope[1]) and slope[2].equal(slope[0])

    alone, square = untrue("∂loss/∂w = xᵀ · grad", at, **shapes), counterexample(linear, e="1", f="1")
    right = [untrue(said[name], at, **shapes) for name in ("right", "left")]
    shown = f"xᵀ · grad: {told(alone)}; e²: {told(square)}; {said['left']}: {told(right[1])}"
    return wrong(alone is None or square is None, right == [None, None], shown)
