"""Evidence of lines 11 to 63: the model as a network, its weights, and layers with and without a function between."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from backprop_rules.catalogue.arithmetic import add
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents.answers.claim import Said, Seen, cannot_be_checked, holds, holds_if, slip, wrong
from backprop_rules.documents.answers.drawn import as_code, counterexample, difference, told, untrue
from backprop_rules.documents.answers.evidence.linear_model.autograd import names
from backprop_rules.documents.answers.evidence.linear_model.training import SAMPLES
from backprop_rules.documents.answers.notation import holds_of
from backprop_rules.documents.answers.tools import computed, gradients, verified

SIZES = (5, 6, 7, 7, 6, 5)  # of the layers that line 37 counts the weights of, the input first
NODES = "abcdef"  # a letter for the nodes of each of these layers

Function = Callable[[Tensor], Tensor]
Factors = list[tuple[str, Tensor]]  # of a product, each with the letters of the nodes that it depends on


def count(sizes: tuple[int, ...], bias: bool = False) -> int:
    """Return how many numbers torch's fully connected layers of these sizes have to learn."""
    layers = [torch.nn.Linear(n, m, bias) for n, m in pairwise(sizes)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def whole_weights(sizes: tuple[int, ...], most: int = 3) -> list[Tensor]:
    """Return a matrix of whole numbers from -most to most for each layer, the same in every run."""
    generator = torch.Generator().manual_seed(466)
    return [torch.randint(-most, most + 1, (m, n), generator=generator).double() for n, m in pairwise(sizes)]


def through(x: Tensor, weights: Sequence[Tensor], f: Function = torch.positive) -> Tensor:
    """Return what the layers make of the input, with f after each."""
    for w in weights:
        x = f(w @ x)
    return x


def one_weight_is_a_network(said: Said) -> Seen:
    """Let torch's layer compute the formula, and list what it has to learn."""
    layer = computed(said["layer"]).double()

    def right(w: Tensor, x: Tensor) -> bool:
        layer.weight.data = w
        return holds_of(said.formula, {"ŷ": layer(x).detach(), "ω": w, "x": x})

    parameters = [name for name, _ in layer.named_parameters()]
    found = counterexample(right, w="1 1", x="1")
    bare = parameters == ["weight"] and layer.in_features == layer.out_features == 1
    return holds(found is None and bare, f"{layer}, {parameters}: {told(found)}")


def complex_models_take_more_work(said: Said) -> Seen:
    """Count the products that an output, and its derivative for a weight of the first layer, are sums of."""

    def products(sizes: tuple[int, ...]) -> tuple[set[int], set[int]]:
        ones, x = [torch.ones_like(w) for w in whole_weights(sizes)], torch.ones(sizes[0], dtype=torch.float64)
        derivatives = jacobian(lambda first: through(x, [first, *ones[1:]]), ones[0])
        return {int(n) for n in through(x, ones)}, {int(n) for n in derivatives[derivatives != 0]}

    one, many = products((1, 1)), products(SIZES)
    right = one == ({int(said["one"])},) * 2 and many == ({int(said["output"])}, {int(said["derivative"])})
    return holds(right and min(many[1]) > count(SIZES) / count((1, 1)), f"(1, 1): {one}; {SIZES}: {many}")


def each_node_is_a_neuron(said: Said) -> Seen:
    """Count the nodes, and those that have weights of their own: a row of a layer's matrix each."""
    layers = [torch.nn.Linear(n, m) for n, m in pairwise(SIZES)]
    neurons, inputs = sum(len(layer.weight) for layer in layers), layers[0].in_features
    every_node = inputs + sum(layer.out_features for layer in layers)
    figures = [said.number(name) for name in ("inputs", "nodes", "neurons")] == [inputs, every_node, neurons]
    return holds_if(figures and neurons == every_node - inputs, neurons == every_node, f"{neurons} < {every_node}")


def each_link_is_a_weight(said: Said) -> Seen:
    """Work the sum out, and differentiate each output for each weight: a weight acts on one output, by one input."""
    found = untrue(said["sum"], lambda x, w: {"y": w @ x, "W": w, "x": x}, x="d", w="k d")
    one_each = difference(
        lambda x, w: jacobian(lambda v: v @ x, w),
        lambda x, w: torch.eye(len(w)).double()[:, :, None] * x,
        x="d",
        w="k d",
    )
    return holds(found is None and one_each is None, f"∂y_i/∂W_kj = [i = k] x_j: {told(found or one_each)}")


def weights_between(said: Said) -> Seen:
    """Work the product out, and count what torch's layer of the two sizes has to learn."""
    n, m, _ = map(int, re.findall(r"\d+", said.formula))
    layer = computed(said["layer"])
    fits = (layer.in_features, layer.out_features, layer.bias) == (n, m, None)
    counted = sum(p.numel() for p in layer.parameters())
    return holds(fits and holds_of(said.formula, {}) and said.formula.endswith(str(counted)), f"{layer}: {counted}")


weights_from_the_input = weights_to_the_second_hidden_layer = weights_between


def weights_of_the_third_gap(said: Said) -> Seen:
    """Find all sizes of the other layers that agree with the weights on both sides and with the sum."""
    first, second, middle, fourth, fifth, total = map(int, re.findall(r"\d+", said.formula))
    found = [
        (5, 6, 7, n, m, k)
        for n, m, k in product(range(1, total), range(1, fourth + 1), range(1, fifth + 1))
        if n * m == fourth and m * k == fifth and first + second + 7 * n + fourth + fifth == total
    ]
    right = [str(sizes)[1:-1] for sizes in found] == [said["sizes"]] and count(SIZES[2:4]) == middle
    right &= holds_of(said.formula, {}) and (first, second) == (5 * 6, 6 * 7) and found == [SIZES]
    return holds(right and said.holds("product", {}) and str(middle) in said["product"], f"{found}")


def weights_in_all(said: Said) -> Seen:
    """Count what torch's layers of these sizes learn, without biases and with one for each node after the input."""
    bare, biased = count(SIZES), count(SIZES, bias=True)
    right = holds_of(said.formula, {}) and said.formula.endswith(f"={bare}")
    right &= [said.number("biases"), said.number("all")] == [biased - bare, biased]
    return holds(right, f"{SIZES}: bias=False {bare}, bias=True {biased}")


def linear(k: int, x: Tensor, weights: list[Tensor], grad_y: Tensor) -> Factors:
    """Return the factors of a path through a weight of the k-th layer: all its other weights, and both its ends."""
    links = [(NODES[m + 1] + NODES[m], w) for m, w in enumerate(weights)]
    return [(NODES[0], x), *links[:k], *links[k + 1 :], (NODES[-1], grad_y)]


def squared(k: int, x: Tensor, weights: list[Tensor], grad_y: Tensor) -> Factors:
    """Return the factors with f(z) = z² after each layer.

    They are the output of the node before the weight, the f′ = 2z of each node after it, and the weights between.
    """
    found = [(NODES[k], through(x, weights[:k], torch.square)), (NODES[-1], grad_y)]
    for m in range(k, len(weights)):
        found.append((NODES[m + 1], 2 * (weights[m] @ through(x, weights[:m], torch.square))))
        if m > k:
            found.append((NODES[m + 1] + NODES[m], weights[m]))
    return found


def written_out(
    factors: Callable[..., Factors], f: Function, x: Tensor, weights: list[Tensor], grad_y: Tensor
) -> tuple[int, list[int]]:
    """Return how many gradients, written out, are those of a sweep backwards, and how many products each layer has."""
    equal, counts = 0, []
    for k, swept in enumerate(gradients(lambda *ws: through(x, ws, f), *weights, grad_y=grad_y)):
        written = factors(k, x, weights, grad_y)
        formula = f"{','.join(nodes for nodes, _ in written)}->{NODES[k + 1]}{NODES[k]}"
        # not optimised, einsum forms every product of all the factors, as the formula says
        sums = np.einsum(formula, *(factor.numpy() for _, factor in written), optimize=False)
        equal += int((torch.from_numpy(sums) == swept).sum())
        sizes = {node: n for nodes, factor in written for node, n in zip(nodes, factor.shape, strict=True)}
        counts.append(math.prod(sizes.values()))
    return equal, counts


def expressions_cannot_do_it(said: Said) -> Seen:
    """Write all gradients as sums over paths, and hold them against a sweep backwards; once more with f(z) = z²."""
    x, grad_y = (torch.arange(1, n + 1, dtype=torch.float64) for n in (SIZES[0], SIZES[-1]))
    signs = torch.tensor([1, -1, 1, -1, 1], dtype=torch.float64)  # with these, squares of squares stay exact
    straight, _ = written_out(linear, torch.positive, x, whole_weights(SIZES), grad_y)
    bent, products = written_out(squared, torch.square, signs, whole_weights(SIZES, 1), grad_y)
    between, paths = torch.Size(SIZES[1:-1]).numel(), torch.Size(SIZES).numel()
    figures = [said.number(name) for name in ("weights", "pair", "paths")] == [straight, between, paths]
    right = figures and straight == bent == count(SIZES) and max(products) == paths
    return wrong(
        straight < count(SIZES), right, f"{straight} / {count(SIZES)} «gradients», {paths} «paths»; z²: {bent}"
    )


def mm_is_the_matrix_product(said: Said) -> Seen:
    """Hold torch's mm against the sum that is said, and read the names of the nodes."""
    found = untrue(said["product"], lambda a, b: {"A": a, "B": b, "Y": torch.mm(a, b)}, a="n d", b="d k")
    a = torch.ones(1, 1, requires_grad=True)
    named = [names(torch.mm(a, a))[0], names(a + a)[0]]
    return holds(found is None and named == [said["mm"], said["add"]], f"{as_code(named)}: {told(found)}")


def mm_and_add_can_be_differentiated(said: Said) -> Seen:
    """Hold what is said against autograd, sum a column's gradients, and verify the catalogue's rules."""

    def at(a: Tensor, b: Tensor, c: Tensor, g: Tensor) -> dict[str, Tensor]:
        by_a, by_b, by_c, column = gradients(lambda a, b, c, d: a @ b + c + d, a, b, c, c[:, :1], grad_y=g)
        column_right = column.equal(g.sum(1, keepdim=True))
        return {"A": a, "B": b, "g": g, "∂loss/∂A": by_a, "∂loss/∂B": by_b, "∂loss/∂C": by_c + (not column_right)}

    found = untrue([said["by_a"], said["by_b"], said["by_c"]], at, a="n d", b="d k", c="n k", g="n k")
    rules = [verified(rule) for rule in (matmul, add)]
    return holds(found is None and all(right for right, _ in rules), f"{told(found)}; {'; '.join(s for _, s in rules)}")


def two_linear_layers_are_one(said: Said) -> Seen:
    """Work the printed formula, and those that are said, out with layers of whole numbers."""

    def at(x: Tensor, v: Tensor, b: Tensor, w: Tensor, c: Tensor) -> dict[str, Tensor]:
        given = {"X": x, "W₁": v, "b₁": b.expand(-1, x.shape[1]), "W₂": w, "b₂": c.expand(-1, x.shape[1])}
        return given | {
            "W": w @ v, "b": w @ given["b₁"] + given["b₂"], "ŷ": w @ (v @ x + given["b₁"]) + given["b₂"],
        }  # fmt: skip

    every = [said.formula, said["weight"], said["bias"]]
    found = untrue(every, at, x="d n", v="h d", b="h 1", w="k h", c="k 1")
    return holds(found is None, f"{'; '.join(every)}: {told(found)}")


def more_linear_layers_add_nothing(said: Said) -> Seen:
    """Work both sides out, with a layer that is itself any number of layers."""
    shapes = {"x": "d 1", "w": "p d", "b": "p 1", "v": "q p", "c": "q 1"}
    found = untrue(said["next"], lambda x, w, b, v, c: {"X": x, "W": w, "b": b, "V": v, "c": c}, **shapes)
    return holds(found is None, f"{said['next']}: {told(found)}")


def a_nonlinear_function_prevents_it(said: Said) -> Seen:
    """Try two layers with a function between them, and with none: of a straight line the two sums would be equal."""
    a = torch.tensor(2000.0, dtype=torch.float64)  # so large that the sigmoid and tanh are 1
    functions = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "none": torch.positive}
    bent = [name for name, f in functions.items() if said.holds("sums", {"f": f, "a": a})]
    straight = untrue(said["straight"], lambda x: {"relu": torch.relu, "x": x}, x="n")
    shown = f"{said['sums']}: {', '.join(bent)}; {said['straight']}: {told(straight)}"
    return holds_if(bent == ["sigmoid", "tanh", "relu"], straight is not None, shown)


def a_function_in_every_layer(said: Said) -> Seen:
    """Reach for the document's targets with a sigmoid after the last layer, and without it."""
    x, y = torch.tensor(SAMPLES, dtype=torch.float64).T
    hidden = torch.sigmoid(2000.0 * (x[:, None] - torch.tensor([0.5, 1.5, 2.5])))  # so far off that it is 0 or 1
    last = hidden @ torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    most = float(torch.sigmoid(torch.tensor(torch.inf)))
    right = said.number("most") == most and str(y.tolist()) == said["targets"] and last.equal(y)
    shown = f"sigmoid(inf) = {most}; {as_code(hidden)} @ [2, 2, 2] = {as_code(last)}"
    return holds_if(right, bool((most >= y).all()), shown)


def name_of_the_sigmoid(said: Said) -> Seen:
    """Look both names up in torch."""
    found = {name: hasattr(torch, name) for name in (said.formula, said["meant"])}
    return slip(found[said.formula], found[said["meant"]], str(found))


def place_of_the_function(said: Said) -> Seen:
    """Put a function into a layer after the product, and before it."""

    def at(x: Tensor, w: Tensor) -> dict[str, Any]:
        return {"f": torch.relu, "W": w, "X": x, "usual": torch.relu(w @ x)}

    usual = untrue(f"{said['after']} = usual", at, x="d 1", w="k d")
    found = untrue(f"{said['after']} = {said['before']}", at, x="1 1", w="1 1")
    shown = f"{said['after']} ≠ {said['before']}, f = relu: {told(found)}"
    return cannot_be_checked(found is not None and usual is None, shown)
