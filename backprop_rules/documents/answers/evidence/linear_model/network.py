"""Evidence of lines 11 to 63: the model as a network, its weights, and layers with and without a function between."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from backprop_rules.catalogue.arithmetic import add
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.drawn import as_code, counterexample, everywhere, same, told
from backprop_rules.documents.answers.evidence.linear_model.autograd import names
from backprop_rules.documents.answers.evidence.linear_model.training import SAMPLES
from backprop_rules.documents.answers.tools import comes_to, every, gradients, verified

SIZES = (5, 6, 7, 7, 6, 5)  # of the layers that line 37 counts the weights of, the input first
NODES = "abcdef"  # a letter for the nodes of each of these layers
SATURATED = 2000.0  # here the sigmoid and tanh are 1, and the sigmoid of the negative number is 0

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


def through(x: Tensor, weights: Sequence[Tensor], f: Function = lambda z: z) -> Tensor:
    """Return what the layers make of the input, with f after each."""
    for w in weights:
        x = f(w @ x)
    return x


def one_weight_is_a_network() -> Seen:
    """Let torch's layer of one input, one output and no bias compute ωx."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)

    def holds(w: Tensor, x: Tensor) -> bool:
        layer.weight.data = w
        return bool(layer(x).equal(w[0] * x))

    found = counterexample(holds, w="1 1", x="1")
    parameters = [name for name, _ in layer.named_parameters()]
    return Seen(found is None and parameters == ["weight"], None, f"{layer}, {parameters}: {told(found)}")


def complex_models_take_more_work() -> Seen:
    """Count the products that an output, and its derivative for a weight of the first layer, are sums of."""

    def products(sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
        ones, x = [torch.ones_like(w) for w in whole_weights(sizes)], torch.ones(sizes[0], dtype=torch.float64)
        derivatives = jacobian(lambda first: through(x, [first, *ones[1:]]), ones[0])
        return [int(n) for n in through(x, ones)], sorted({int(n) for n in derivatives.flatten()})

    one, many = products((1, 1)), products(SIZES)
    stated = one == ([1], [1]) and min(many[1]) > count(SIZES) / count((1, 1))
    return Seen(stated, None, f"ŷ, ∂ŷ/∂W₁: (1, 1): {one}; {SIZES}: {many}")


def each_node_is_a_neuron() -> Seen:
    """Count the nodes that have weights of their own, a row of a matrix each."""
    rows, every_node = sum(len(w) for w in whole_weights(SIZES)), sum(SIZES)
    return Seen(rows == every_node, rows == sum(SIZES[1:]), f"{SIZES}: {rows} != {every_node}")


each_link_is_a_weight = same(
    "∂y[i]/∂W[k, j] == (i == k) * x[j]: ",
    lambda x, w: jacobian(lambda v: v @ x, w),
    lambda x, w: torch.eye(len(w), dtype=x.dtype)[:, :, None] * x,  # a weight acts on one output, by one input
    x="d",
    w="k d",
)


weights_from_the_input = comes_to(lambda: count((5, 6)), "torch.nn.Linear(5, 6, bias=False): {}")
weights_to_the_second_hidden_layer = comes_to(lambda: count((6, 7)), "torch.nn.Linear(6, 7, bias=False): {}")


def weights_of_the_third_gap(number: Fraction) -> Seen:
    """Find all sizes of the remaining layers that agree with 30, 42, the last 42 and 30 and the sum 193."""
    found = [
        (5, 6, 7, n, m, k)
        for n, m, k in product(range(1, 194), range(1, 43), range(1, 31))
        if n * m == 42 and m * k == 30 and 5 * 6 + 6 * 7 + 7 * n + n * m + m * k == 193
    ]
    return Seen(found == [SIZES] and count(SIZES[2:4]) == number, None, f"{found}: 7 * 7 == {count((7, 7))}")


def weights_in_all(number: Fraction) -> Seen:
    """Count what torch's layers of these sizes learn, without biases and with one for each node after the input."""
    bare, biased = count(SIZES), count(SIZES, bias=True)
    shown = f"{SIZES}: bias=False {bare}, bias=True {biased}"
    return Seen(bare == number and biased == bare + sum(SIZES[1:]), None, shown)


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


def expressions_cannot_do_it() -> Seen:
    """Write all 193 gradients as sums over paths, and hold them against a sweep backwards; once more with f(z) = z²."""
    x, grad_y = (torch.arange(1, n + 1, dtype=torch.float64) for n in (SIZES[0], SIZES[-1]))
    signs = torch.tensor([1, -1, 1, -1, 1], dtype=torch.float64)  # with these, squares of squares stay exact
    straight, _ = written_out(linear, torch.positive, x, whole_weights(SIZES), grad_y)
    bent, products = written_out(squared, torch.square, signs, whole_weights(SIZES, 1), grad_y)
    between, paths = torch.Size(SIZES[1:-1]).numel(), torch.Size(SIZES).numel()
    shown = f"{straight} of {count(SIZES)} gradients equal, from {between} * 5 * 5 = {paths} paths"
    every = straight == bent == count(SIZES) and max(products) == paths
    return Seen(straight < count(SIZES), every, f"{shown}; f(z) = z**2: {bent}, from {products}")


def mm_is_the_matrix_product() -> Seen:
    """Hold torch's mm and add against sums of products and of elements, and read the names of their nodes."""

    def holds(a: Tensor, b: Tensor, c: Tensor) -> bool:
        product = (a[:, :, None] * b[None]).sum(1)
        added = [[p + q for p, q in zip(*rows, strict=True)] for rows in zip(product.tolist(), c.tolist(), strict=True)]
        return torch.mm(a, b).equal(product) and (product + c).tolist() == added

    found = counterexample(holds, a="n d", b="d k", c="n k")
    a = torch.ones(1, 1, requires_grad=True)
    named = [names(torch.mm(a, a))[0], names(a + a)[0]]
    return Seen(found is None and named == ["MmBackward0", "AddBackward0"], None, f"{as_code(named)}: {told(found)}")


def mm_and_add_can_be_differentiated() -> Seen:
    """Verify the rules of both against every oracle, and differentiate a sum with a b for every column."""

    def holds(y: Tensor, b: Tensor, g: Tensor) -> bool:
        grad_y, grad_b = gradients(torch.add, y, b, grad_y=g)
        return grad_y.equal(g) and grad_b.equal(g.sum(1, keepdim=True))

    found = everywhere("∂/∂b of Y + b == gY.sum(1): ", y="k n", b="k 1", g="k n")(holds)
    return every(verified(matmul), verified(add), found)()


@everywhere(x="d n", v="h d", b="h 1", w="k h", c="k 1")
def two_linear_layers_are_one(x: Tensor, v: Tensor, b: Tensor, w: Tensor, c: Tensor) -> bool:
    """Compute the three sides of the equation in whole numbers."""
    layered, multiplied_out = w @ (v @ x + b) + c, w @ v @ x + (w @ b + c)
    once, offset = w @ v, w @ b + c
    return layered.equal(multiplied_out) and multiplied_out.equal(once @ x + offset)


@everywhere(x="d 1", s="p d", t="q p", u="2 q", b="1 1")
def more_linear_layers_add_nothing(x: Tensor, s: Tensor, t: Tensor, u: Tensor, b: Tensor) -> bool:
    """Compute chains of one to three layers, and the one layer that each comes to."""
    whole, offset, y = torch.eye(len(x), dtype=torch.float64), torch.zeros_like(x[:, :1]), x
    same = True
    for w in (s, t, u):
        y, whole, offset = w @ y + b[0, 0], w @ whole, w @ offset + b[0, 0]
        same = same and y.equal(whole @ x + offset)
    return same


def a_nonlinear_function_prevents_it() -> Seen:
    """Try two layers with a function between them, and with none: of wx + b the two sums would be equal."""
    a = torch.tensor(SATURATED, dtype=torch.float64)
    functions: dict[str, Function] = {f.__name__: f for f in (torch.sigmoid, torch.tanh, torch.relu)}
    functions["none"] = torch.positive
    sums = {}
    for name, f in functions.items():
        y = [(2 * f(x) + 1).item() for x in (-a, 0 * a, a, 2 * a)]
        sums[name] = [y[0] + y[3], y[1] + y[2]]
    bent = [name for name, (left, right) in sums.items() if left != right]
    w = torch.tensor([[1.0, -1.0]], dtype=torch.float64)  # W₂, and as a column W₁
    straight = counterexample(lambda x: (w @ torch.relu(w.T @ x)).equal(x), x="1 n")
    shown = f"y(-a) + y(2a), y(0) + y(a): {sums}; relu(x) - relu(-x) == x: {told(straight)}"
    return Seen(straight is not None, bent == ["sigmoid", "tanh", "relu"], shown)


def a_function_in_every_layer() -> Seen:
    """Reach for the document's targets 2, 4, 6 with a sigmoid after the last layer, and without it."""
    x, y = torch.tensor(SAMPLES, dtype=torch.float64).T
    hidden = torch.sigmoid(SATURATED * (x[:, None] - torch.tensor([0.5, 1.5, 2.5])))
    last = hidden @ torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    most = torch.sigmoid(torch.tensor(torch.inf))
    shown = f"sigmoid(inf) = {as_code(most)}; {as_code(hidden)} @ [2, 2, 2] = {as_code(last)}"
    return Seen(bool((most >= y).all()), last.equal(y), shown)


def name_of_the_sigmoid() -> Seen:
    """Look both names up in torch."""
    found = {name: hasattr(torch, name) for name in ("sigmod", "sigmoid")}
    return Seen(found["sigmod"], found["sigmoid"], str(found))


def place_of_the_function() -> Seen:
    """Put a function into each layer after the product, and before it."""

    def alike(x: Tensor, v: Tensor, w: Tensor) -> bool:
        return torch.relu(w @ torch.relu(v @ x)).equal(w @ torch.relu(v @ torch.relu(x)))

    found = counterexample(alike, x="1 1", v="1 1", w="1 1")
    return Seen(None, found is not None, f"f(W₂ f(W₁ X)) != W₂ f(W₁ f(X)), f = relu: {told(found)}")
