"""Evidence of the claims of `linear_model`: a network of weights alone, and y = xω as PyTorch computes and trains it.

The document's program is run as it stands, in float32; what is to be exact is computed in whole numbers or fractions.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.autograd.graph import saved_tensors_hooks

from backprop_rules.catalogue.arithmetic import add
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.tools import as_code, counterexample, gradients, refused, told, verified

SIZES = (5, 6, 7, 7, 6, 5)  # of the layers that line 37 counts the weights of, the input first
SAMPLES = ((1.0, 2.0), (2.0, 4.0), (3.0, 6.0))
EPOCHS = 100
RATE = 0.01
SATURATED = 2000.0  # here the sigmoid and tanh are 1, and the sigmoid of the negative number is 0

Weights = list[Tensor]
Update = Callable[[Tensor], None]


# The network of line 37: each node linked to each of the next layer.


def count(sizes: tuple[int, ...], bias: bool = False) -> int:
    """Return how many numbers torch's fully connected layers of these sizes have to learn."""
    layers = [torch.nn.Linear(n, m, bias) for n, m in pairwise(sizes)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def whole_weights(sizes: tuple[int, ...], most: int = 3) -> Weights:
    """Return a matrix of whole numbers from -most to most for each layer, the same in every run."""
    generator = torch.Generator().manual_seed(466)
    return [torch.randint(-most, most + 1, (m, n), generator=generator).double() for n, m in pairwise(sizes)]


def through(x: Tensor, weights: Weights) -> Tensor:
    """Return what the layers make of the input."""
    for w in weights:
        x = w @ x
    return x


def along(t: Tensor, nodes: int, *axes: int) -> Tensor:
    """Give each layer of nodes an axis, and lay the tensor along these."""
    return t.reshape([t.shape[axes.index(k)] if k in axes else 1 for k in range(nodes)])


def path_sums(x: Tensor, weights: Weights, grad_y: Tensor) -> Weights:
    """Return each weight's gradient as a sum over all the paths through it, each a product written out."""
    nodes = len(weights) + 1
    factors = [along(w.T, nodes, k, k + 1) for k, w in enumerate(weights)]
    found = []
    for k in range(len(weights)):
        product = along(x, nodes, 0) * along(grad_y, nodes, nodes - 1) * torch.ones_like(factors[k])
        for other in factors[:k] + factors[k + 1 :]:
            product = product * other
        found.append(product.sum([axis for axis in range(nodes) if axis not in (k, k + 1)]).T)
    return found


def squares(x: Tensor, weights: Weights) -> Tensor:
    """Return what the layers make of the input with f(z) = z² after each."""
    for w in weights:
        x = (w @ x) ** 2
    return x


def path_sums_with_squares(x: Tensor, weights: Weights, grad_y: Tensor) -> tuple[Weights, list[int]]:
    """Return the gradients with f(z) = z² after each layer, again as sums, and how many products each layer's have.

    A product is the output of the node before the weight, the f′ = 2z of each node after it, and the weights between.
    """
    nodes, found, counts = len(weights) + 1, [], []
    for k in range(len(weights)):
        before = squares(x, weights[:k])
        product = along(before, nodes, k) * along(grad_y, nodes, nodes - 1)
        for m in range(k, len(weights)):
            product = product * along(2 * (weights[m] @ squares(x, weights[:m])), nodes, m + 1)
            if m > k:
                product = product * along(weights[m].T, nodes, m, m + 1)
        counts.append(product.numel())
        found.append(product.sum([axis for axis in range(nodes) if axis not in (k, k + 1)]).T)
    return found, counts


# The document's program.


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


def backward(y: Tensor, **how: Any) -> None:
    """Go back through the graph."""
    y.backward(**how)


def step(w: Tensor) -> None:
    """Take the document's step."""
    w.data = w.data - RATE * grad(w).data


def training(w: Tensor, update: Update = step, clear: bool = True, epochs: int = EPOCHS) -> Iterator[list[float]]:
    """Train the weight as the document does, and yield the losses of each epoch as they are computed."""
    for _ in range(epochs):
        losses = []
        for x, y in SAMPLES:
            computed = loss(w, x, y)
            backward(computed)
            update(w)
            if clear:
                grad(w).data.zero_()
            losses.append(computed.item())
        yield losses


def trained(update: Update = step, clear: bool = True, epochs: int = EPOCHS) -> Tensor:
    """Return the weight after training from 1."""
    w = weight()
    list(training(w, update, clear, epochs))
    return w


# PyTorch's graph.


def nodes(y: Tensor) -> list[Any]:
    """Return the nodes of a value's graph, its own first; none if it has no graph."""
    found = [] if y.grad_fn is None else [y.grad_fn]
    for node in found:
        found += [following for following, _ in node.next_functions if following is not None and following not in found]
    return found


def leaves(graph: list[Any]) -> list[Tensor]:
    """Return the tensors that these nodes bring their gradients to."""
    return [node.variable for node in graph if hasattr(node, "variable")]


def names(y: Tensor) -> list[str]:
    """Return the names of the nodes of a value's graph."""
    return [node.name() for node in nodes(y)]


def kept(node: Any) -> dict[str, Any]:
    """Return what a node of the graph has kept of the forward computation."""
    return {name: getattr(node, name) for name in dir(node) if name.startswith("_saved_")}


def scalar(value: float) -> Tensor:
    """Return a number that asks for its gradient, in float64."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


# Lines 11 to 37: the model as a network.


def one_weight_is_a_network() -> Seen:
    """Let torch's layer of one input, one output and no bias compute ωx."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)

    def holds(w: Tensor, x: Tensor) -> bool:
        layer.weight.data = w
        return bool(layer(x).equal(w[0] * x))

    found = counterexample(holds, w="1 1", x="1")
    parameters = [name for name, _ in layer.named_parameters()]
    return Seen(found is None and parameters == ["weight"], None, f"{layer}, {parameters}: {told(found)}")


def training_updates_the_weight() -> Seen:
    """Train torch's layer with samples that ask for a gradient, too, and list what differs afterwards."""
    layer = torch.nn.Linear(1, 1, bias=False)
    x, y = (t.clone().requires_grad_() for t in torch.tensor(SAMPLES).T[:, :, None])
    layer.weight.data.fill_(1)

    def values() -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in (("ω", layer.weight), ("x", x), ("y", y))}

    before = values()
    for _ in range(EPOCHS):
        backward(((layer(x) - y) ** 2).sum())
        for parameter in layer.parameters():
            step(parameter)
        layer.zero_grad()
    after = values()
    changed = [name for name in before if not before[name].equal(after[name])]
    asked = [bool(grad(t).any()) for t in (x, y)]
    shown = f"x, y = {as_code(x[:, 0])}, {as_code(y[:, 0])}: ω = {layer.weight.item()}"
    return Seen(changed == ["ω"] and all(asked), None, f"{shown}; {as_code(changed)} != {as_code(list(before))}")


def the_update_follows_the_loss() -> Seen:
    """Train by ∂loss/∂ω as the program does, and by ∂ŷ/∂ω in fractions, and hold the first sample's losses together."""
    w = weight()
    (first, *_), *_ = training(w)  # as the program computes it, before the first step
    (x, y), v = SAMPLES[0], Fraction(1)
    slopes = [gradients(lambda w, x=x: x * w, weight())[0].item() for x, _ in SAMPLES]
    for slope in slopes * EPOCHS:
        v -= Fraction("0.01") * Fraction(slope)
    by_loss, by_prediction = loss(w, x, y).item(), (Fraction(x) * v - Fraction(y)) ** 2
    as_told = first == 1 and by_loss == 9 * 2.0**-46 and v == -5 and by_prediction == 49
    shown = f"∂loss/∂ω: ω = {w.item()}, loss {first} → {by_loss}; ∂ŷ/∂ω: ω = {v}, loss {first} → {by_prediction}"
    return Seen(as_told and by_loss < first < by_prediction, None, shown)


def complex_models_take_more_work() -> Seen:
    """Count the products that an output, and its derivative for a weight of the first layer, are sums of."""

    def products(sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
        ones, x = [torch.ones_like(w) for w in whole_weights(sizes)], torch.ones(sizes[0], dtype=torch.float64)
        derivatives = jacobian(lambda first: through(x, [first, *ones[1:]]), ones[0])
        return [int(n) for n in through(x, ones)], sorted({int(n) for n in derivatives.flatten()})

    one, many = products((1, 1)), products(SIZES)
    more_than_weights = min(many[1]) > count(SIZES) / count((1, 1))
    simple = one == ([1], [1])
    return Seen(simple and more_than_weights, None, f"ŷ, ∂ŷ/∂W₁: (1, 1): {one}; {SIZES}: {many}")


def each_node_is_a_neuron() -> Seen:
    """Count the nodes that have weights of their own, a row of a matrix each."""
    rows, every, hidden_and_output = sum(len(w) for w in whole_weights(SIZES)), sum(SIZES), sum(SIZES[1:])
    return Seen(rows == every, rows == hidden_and_output, f"{SIZES}: {rows} != {every}")


def each_link_is_a_weight() -> Seen:
    """Differentiate the outputs for the weights: each has one output that it acts on, by one input."""

    def holds(x: Tensor, w: Tensor) -> bool:
        found = jacobian(lambda v: v @ x, w)
        one_output = torch.eye(len(w), dtype=torch.float64)[:, :, None]
        return bool(found.equal(one_output * x))

    found = counterexample(holds, x="d", w="k d")
    return Seen(found is None, None, f"∂y[i]/∂W[k, j] == (i == k) * x[j]: {told(found)}")


def weights_from_the_input(number: Fraction) -> Seen:
    """Count the weights of torch's layer from 5 to 6 nodes."""
    found = count((5, 6))
    return Seen(found == number, None, f"torch.nn.Linear(5, 6, bias=False): {found}")


def weights_to_the_second_hidden_layer(number: Fraction) -> Seen:
    """Count the weights of torch's layer from 6 to 7 nodes."""
    found = count((6, 7))
    return Seen(found == number, None, f"torch.nn.Linear(6, 7, bias=False): {found}")


def weights_of_the_third_gap(number: Fraction) -> Seen:
    """Find all sizes of the remaining layers that agree with 30, 42, the last 42 and 30 and the sum 193."""
    found = [
        (5, 6, 7, n, m, k)
        for n in range(1, 194)
        for m in range(1, 43)
        for k in range(1, 31)
        if n * m == 42 and m * k == 30 and 5 * 6 + 6 * 7 + 7 * n + n * m + m * k == 193
    ]
    only = len(found) == 1 and found == [SIZES]
    return Seen(only and count(found[0][2:4]) == number, None, f"{found}: 7 * 7 == {count((7, 7))}")


def weights_in_all(number: Fraction) -> Seen:
    """Count what torch's layers of these sizes learn, without biases and with one for each node after the input."""
    bare, biased = count(SIZES), count(SIZES, bias=True)
    shown = f"{SIZES}: bias=False {bare}, bias=True {biased}"
    return Seen(bare == number and biased == bare + sum(SIZES[1:]), None, shown)


def expressions_cannot_do_it() -> Seen:
    """Write all 193 gradients as sums over paths, and hold them against a sweep backwards; once more with f(z) = z²."""
    weights, small = whole_weights(SIZES), whole_weights(SIZES, 1)
    x, grad_y = (torch.arange(1, n + 1, dtype=torch.float64) for n in (SIZES[0], SIZES[-1]))
    signs = torch.tensor([1, -1, 1, -1, 1], dtype=torch.float64)  # with these, squares of squares stay exact

    def same(written: Weights, swept: tuple[Tensor, ...]) -> int:
        return sum(int((a == b).sum()) for a, b in zip(written, swept, strict=True))

    linear = same(path_sums(x, weights, grad_y), gradients(lambda *ws: through(x, list(ws)), *weights, grad_y=grad_y))
    written, products = path_sums_with_squares(signs, small, grad_y)
    bent = same(written, gradients(lambda *ws: squares(signs, list(ws)), *small, grad_y=grad_y))
    between, paths = torch.Size(SIZES[1:-1]).numel(), torch.Size(SIZES).numel()
    shown = f"{linear} of {count(SIZES)} gradients equal, from {between} * 5 * 5 = {paths} paths"
    every = linear == bent == count(SIZES) and max(products) == paths
    return Seen(linear < count(SIZES), every, f"{shown}; f(z) = z**2: {bent}, from {products}")


# Lines 41 to 63: the graph of two layers, and what lies between them.


def two_layers(x: Tensor, v: Tensor, b: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Return W₂(W₁X + b₁) + b₂, an operation at a time."""
    return w @ (v @ x + b) + c


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
        grad_y, grad_b = gradients(lambda y, b: y + b, y, b, grad_y=g)
        return grad_y.equal(g) and grad_b.equal(g.sum(1, keepdim=True))

    outcomes, found = [verified(rule) for rule in (matmul, add)], counterexample(holds, y="k n", b="k 1", g="k n")
    shown = "; ".join([how for _, how in outcomes] + [f"∂/∂b of Y + b == gY.sum(1): {told(found)}"])
    return Seen(all(right for right, _ in outcomes) and found is None, None, shown)


def two_linear_layers_are_one() -> Seen:
    """Compute the three sides of the equation in whole numbers."""

    def holds(x: Tensor, v: Tensor, b: Tensor, w: Tensor, c: Tensor) -> bool:
        once, offset = w @ v, w @ b + c
        sides = (two_layers(x, v, b, w, c), w @ v @ x + (w @ b + c), once @ x + offset)
        return sides[0].equal(sides[1]) and sides[1].equal(sides[2])

    found = counterexample(holds, x="d n", v="h d", b="h 1", w="k h", c="k 1")
    return Seen(found is None, None, told(found))


def more_linear_layers_add_nothing() -> Seen:
    """Compute chains of one to three layers, and the one layer that each comes to."""

    def holds(x: Tensor, s: Tensor, t: Tensor, u: Tensor, b: Tensor) -> bool:
        whole, offset, y = torch.eye(len(x), dtype=torch.float64), torch.zeros_like(x[:, :1]), x
        same = True
        for w in (s, t, u):
            y, whole, offset = w @ y + b[0, 0], w @ whole, w @ offset + b[0, 0]
            same = same and y.equal(whole @ x + offset)
        return same

    found = counterexample(holds, x="d 1", s="p d", t="q p", u="2 q", b="1 1")
    return Seen(found is None, None, told(found))


def a_nonlinear_function_prevents_it() -> Seen:
    """Try two layers with a function between them, and with none: of wx + b the two sums would be equal."""
    a, zero = (torch.tensor(x, dtype=torch.float64) for x in (SATURATED, 0.0))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "none": lambda x: x,
    }
    sums = {}
    for name, f in functions.items():
        y = [(2 * f(x) + 1).item() for x in (-a, zero, a, 2 * a)]
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

    def same(x: Tensor, v: Tensor, w: Tensor) -> bool:
        after = torch.relu(w @ torch.relu(v @ x))
        before = w @ torch.relu(v @ torch.relu(x))
        return after.equal(before)

    found = counterexample(same, x="1 1", v="1 1", w="1 1")
    return Seen(None, found is not None, f"f(W₂ f(W₁ X)) != W₂ f(W₁ f(X)), f = relu: {told(found)}")


# Lines 65 to 107: forward and backward through one neuron.


def z_goes_on_to_the_loss() -> Seen:
    """Look in the graph of the loss for z's node, and for what leads to x and ω past it."""
    x, w = scalar(3.0), scalar(2.0)
    z = x * w
    computed = (z - 1) ** 2
    graph, behind = nodes(computed), nodes(z)
    past = leaves([node for node in graph if node not in behind])
    shown = f"z = {as_code(z)}, loss = {as_code(computed)}: {as_code(names(computed))}"
    return Seen(z.grad_fn in graph and len(leaves(behind)) == 2 and not past, None, shown)


def saved_by(f: Callable[..., Tensor]) -> tuple[list[float], list[float]]:
    """Return what f(3, 2) saves, and the derivatives that come of it if twice as much is handed back."""
    x, w, packed = scalar(3.0), scalar(2.0), []

    def pack(saved: Tensor) -> Tensor:
        packed.append(saved.item())
        return saved

    with saved_tensors_hooks(pack, lambda saved: 2 * saved):
        z = f(x, w)
    return packed, [g.item() for g in torch.autograd.grad(z, (x, w))]


def forward_computes_the_derivatives() -> Seen:
    """List what a product and a quotient save of 3 and 2; replace it by its double before the way back."""
    derivatives: dict[Callable[..., Tensor], Callable[[float, float], list[float]]] = {
        torch.mul: lambda x, w: [w, x],
        torch.div: lambda x, w: [1 / w, -x / w**2],
    }
    found = {f: saved_by(f) for f in derivatives}
    saves_derivatives = [set(derivatives[f](3, 2)) <= set(saved) for f, (saved, _) in found.items()]
    saves_operands = [sorted(saved) == [2, 3] for saved, _ in found.values()]
    formed_later = [late == derivatives[f](6, 4) for f, (_, late) in found.items()]
    with_float = [v.item() for v in kept((3.0 * scalar(2.0)).grad_fn).values() if isinstance(v, Tensor)]
    saved, late = found[torch.div]
    shown = f"div(3, 2): {as_code(saved)}, ∂z/∂x, ∂z/∂ω = {derivatives[torch.div](3, 2)}; div(6, 4): {late}"
    amended = all(saves_operands + formed_later) and with_float == [3]
    return Seen(all(saves_derivatives), amended, f"{shown}; x * w, x = 3.0: {as_code(with_float)}")


def kept_in_x_and_w() -> Seen:
    """Look at x and ω after a product and a quotient, and at the nodes of the two."""
    x, w = scalar(3.0), scalar(2.0)
    product, quotient = kept((x * w).grad_fn), kept((x / w).grad_fn)
    in_variables = [x.grad, w.grad, *vars(x).values(), *vars(w).values()]
    themselves = [any(value is operand for value in product.values()) for operand in (x, w)]
    held = [sorted(value.item() for value in node.values()) for node in (product, quotient)]
    shown = (
        f"x.grad, w.grad = {in_variables}; (x * w).grad_fn: {', '.join(product)} = {as_code(held[0])}, is {themselves}"
    )
    found = held == [[2, 3], [2, 3]] and all(themselves)
    return Seen(any(value is not None for value in in_variables), found, shown)


def the_next_neuron_hands_it_back() -> Seen:
    """Catch what arrives at z from the following neuron, and hold it against ∂loss/∂z."""

    def holds(x: Tensor, w: Tensor, v: Tensor, y: Tensor) -> bool:
        arrived: list[Tensor] = []
        z = x * w.requires_grad_()
        z.register_hook(arrived.append)
        backward((z * v - y) ** 2)
        return arrived[0].equal(*gradients(lambda z: (z * v - y) ** 2, z))

    found = counterexample(holds, x="1", w="1", v="1", y="1")
    return Seen(found is None, None, f"z = x * w, loss = (z * v - y)**2: {told(found)}")


def name_of_what_arrives() -> Seen:
    """Multiply the local derivatives by ∂loss/∂x, and by ∂loss/∂z."""

    def with_factor(name: str) -> dict[str, Tensor] | None:
        def holds(x: Tensor, w: Tensor, y: Tensor) -> bool:
            grad_x, grad_w = gradients(lambda x, w: (x * w - y) ** 2, x, w)
            (grad_z,) = gradients(lambda z: (z - y) ** 2, x * w)
            factor = {"x": grad_x, "z": grad_z}[name]
            return grad_x.equal(factor * w) and grad_w.equal(factor * x)

        return counterexample(holds, x="1", w="1", y="1")

    printed, right = with_factor("x"), with_factor("z")
    return Seen(printed is None, right is None, f"∂loss/∂x: {told(printed)}; ∂loss/∂z: {told(right)}")


def products_are_the_gradients() -> Seen:
    """Let x enter several neurons, then ω several; take each product for the gradient, and the sum of them all."""

    def with_products(together: bool, x: str, w: str) -> dict[str, Tensor] | None:
        def holds(x: Tensor, w: Tensor, y: Tensor) -> bool:
            found = gradients(lambda x, w: ((x * w - y) ** 2).sum(), x, w)
            (grad_z,) = gradients(lambda z: ((z - y) ** 2).sum(), x * w)
            products = [grad_z * w, grad_z * x]
            if together:
                products = [p.sum_to_size(g.shape) for p, g in zip(products, found, strict=True)]
            return all(bool((p == g).all()) for p, g in zip(products, found, strict=True))

        return counterexample(holds, x=x, w=w, y=w if x == "1" else x)

    each = [with_products(False, "1", "2"), with_products(False, "2", "1")]
    right = [with_products(True, "1", "k"), with_products(True, "k", "1"), with_products(False, "1", "1")]
    amended = all(found is None for found in right) and all(found is not None for found in each)
    shown = f"∂loss/∂z * w: {told(each[0])}; ∂loss/∂z * x: {told(each[1])}; .sum(): {told(right[0] or right[1])}"
    return Seen(all(found is None for found in each), amended, shown)


def the_weight_is_adjusted_by_that_gradient() -> Seen:
    """Hold every step of the document's program against one by the product ∂loss/∂z · ∂z/∂ω."""
    steps = []

    def noted(w: Tensor) -> None:
        before = w.data.clone()
        step(w)
        steps.append((before, w.data.clone()))

    trained(noted)
    same = [
        after.equal(w - RATE * (2 * (x * w - y) * x))
        for (w, after), (x, y) in zip(steps, SAMPLES * EPOCHS, strict=True)
    ]
    return Seen(all(same), None, f"ω - 0.01 * (2 * (x * ω - y) * x): {sum(same)} of {len(same)} steps")


# Lines 109 to 164: tensors, and the program.


def the_graph_is_the_main_thing() -> Seen:
    """Ask for the gradient with a graph, and without one."""
    w = weight()
    backward(loss(w, 3.0, 6.0))
    with torch.no_grad():
        bare = loss(w, 3.0, 6.0)
    refusal = refused(lambda: backward(bare))
    return Seen(w.grad is not None and refusal is not None, None, f"w.grad = {as_code(w.grad)}; no_grad: {refusal}")


def data_holds_the_value() -> Seen:
    """Write into data, and read the weight and the prediction."""
    w = weight()
    before = w.data.tolist() == w.tolist() and w.data.data_ptr() == w.data_ptr()
    w.data[0] = 5.0
    shown = f"w.data[0] = 5: w = {as_code(w)}, 4 * w = {as_code(4 * w)}"
    return Seen(before and w.item() == 5 and (4 * w).item() == 20, None, shown)


def grad_holds_the_derivative() -> Seen:
    """Read grad after one backward and after two, with the same weight and sample."""

    def after(calls: int) -> dict[str, Tensor] | None:
        def holds(w: Tensor, x: Tensor, y: Tensor) -> bool:
            asked = w.clone().requires_grad_()
            for _ in range(calls):
                backward((x * asked - y) ** 2)
            return asked.grad is not None and asked.grad.equal(2 * x * (x * w - y))

        return counterexample(holds, w="1", x="1", y="1")

    once, twice = after(1), after(2)
    return Seen(twice is None, once is None, f"2 × backward(): {told(twice)}; 1 × backward(): {told(once)}")


def grad_is_a_tensor() -> Seen:
    """Look at the type of grad before backward and after it."""
    w = weight()
    before = type(w.grad)
    backward(loss(w, 3.0, 6.0))
    after = type(w.grad)
    return Seen(issubclass(before, Tensor), issubclass(after, Tensor), f"{before.__name__} → {after.__name__}")


def operations_build_the_graph() -> Seen:
    """Compute with a tensor that asks for no gradient, with one that does, without recording, and a comparison."""
    plain, w = torch.Tensor([1.0]), weight()
    with torch.no_grad():
        unrecorded = 2 * w
    found = {"2 * plain": 2 * plain, "2 * w": 2 * w, "2 * w, no_grad": unrecorded, "w > 0": w > 0}
    recorded = {name: bool(nodes(y)) for name, y in found.items()}
    return Seen(all(recorded.values()), list(recorded.values()) == [False, True, False, False], str(recorded))


def the_samples_lie_on_a_line() -> Seen:
    """Find for each sample the weight at which its loss is 0, and compute the program's loss there."""
    roots = {Fraction(y) / Fraction(x) for x, y in SAMPLES}
    losses = [loss(weight(float(root)), x, y).item() for root in roots for x, y in SAMPLES]
    shown = f"y / x = {', '.join(map(str, roots))}: {as_code(losses)}"
    return Seen(roots == {2} and losses == [0] * len(SAMPLES), None, shown)


def value_of_the_weight_is_set() -> Seen:
    """Make the document's tensor."""
    w = torch.Tensor([1.0])
    shown = f"{as_code(w.data)}, {w.dtype}, requires_grad={w.requires_grad}"
    return Seen(w.data.tolist() == [1] and w.shape == (1,), None, shown)


def requires_grad_asks_for_the_gradient() -> Seen:
    """Go back to a weight that has not been told, and to the same one that has."""
    w = torch.Tensor([1.0])
    refusal = refused(lambda: backward(loss(w, 3.0, 6.0)))
    w.requires_grad = True
    backward(loss(w, 3.0, 6.0))
    return Seen(refusal is not None and w.grad is not None, None, f"{refusal}; w.grad = {as_code(w.grad)}")


def the_model_builds_the_graph() -> Seen:
    """Follow the graph of the product to its end."""
    w = weight()
    y = 4 * w
    ends = leaves(nodes(y))
    return Seen(len(nodes(y)) == 2 and len(ends) == 1 and ends[0] is w, None, " → ".join(names(y)))


def x_becomes_a_tensor() -> Seen:
    """Look at x after the product, and at what the product has kept."""
    x = 3.0
    y = x * weight()
    inside = [value for value in kept(y.grad_fn).values() if isinstance(value, Tensor)]
    inner = [(v.item(), v.dim(), v.requires_grad) for v in inside]
    shown = f"x: {type(x).__name__}; {y.grad_fn.name() if y.grad_fn else None}: {inside}; x * w: {y.dtype}"
    return Seen(isinstance(x, Tensor), inner == [(x, 0, False)] and y.dtype is torch.float32, shown)


def loss_is_the_squared_error() -> Seen:
    """Hold the loss against torch's mean squared error of one sample, and its derivative against 2x(xω - y)."""

    def holds(w: Tensor, x: Tensor, y: Tensor) -> bool:
        value = loss(w, x.item(), y.item())
        (grad_w,) = gradients(lambda v: loss(v, x.item(), y.item()), w)
        return value.item() == torch.nn.functional.mse_loss(w * x, y).item() and grad_w.equal(2 * x * (x * w - y))

    found = counterexample(holds, w="1", x="1", y="1")
    return Seen(found is None, None, f"loss == mse_loss(x * w, y), ∂loss/∂w == 2 * x * (x * w - y): {told(found)}")


def prediction_before_training() -> Seen:
    """Predict with the weight that training begins with."""
    found = (4 * weight()).item()
    return Seen(found == 4, None, f"{found}")


def a_hundred_epochs() -> Seen:
    """Train as the document does, and find the last step that changes the weight."""
    weights = [1.0]

    def noted(w: Tensor) -> None:
        step(w)
        weights.append(w.item())

    trained(noted)
    changing = [k for k, (before, after) in enumerate(pairwise(weights), 1) if before != after]
    steps, epochs = len(weights) - 1, -(-changing[-1] // len(SAMPLES))
    shown = f"{steps} steps, the last that changes w: {changing[-1]}, in epoch {epochs}; w = {weights[-1]}"
    return Seen(steps == 300 and epochs == 50, None, shown)


def a_new_graph_at_every_call() -> Seen:
    """Compute the loss of a sample twice, and list the nodes that both graphs have: that of the weight alone."""
    w = weight()
    first, second = loss(w, 3.0, 6.0), loss(w, 3.0, 6.0)
    shared = [node for node in nodes(first) if node in nodes(second)]
    only_w = len(shared) == 1 and leaves(shared)[0] is w
    shown = f"{as_code(names(first))} & {as_code(names(second))} = {[node.name() for node in shared]}"
    return Seen(only_w and len(nodes(first)) > 1, None, shown)


def gradient_only_at_backward() -> Seen:
    """Read grad before the loss is computed, after it, and after backward."""
    w = weight()
    read = [w.grad]
    computed = loss(w, 3.0, 6.0)
    read.append(w.grad)
    backward(computed)
    read.append(w.grad)
    return Seen([g is None for g in read] == [True, True, False], None, " → ".join(as_code(g) for g in read))


def the_graph_is_freed() -> Seen:
    """Look at the nodes and at what they keep, before backward and after it, and go back once more."""
    computed = loss(weight(), 3.0, 6.0)
    graph, readable = nodes(computed), refused(lambda: kept(computed.grad_fn)) is None
    backward(computed, retain_graph=True)
    retained = refused(lambda: kept(computed.grad_fn)) is None
    backward(computed)
    freed = refused(lambda: kept(computed.grad_fn)) is not None
    refusal, added = refused(lambda: backward(computed)), weight() + weight()
    backward(added)
    again = refused(lambda: backward(added)) is None
    nodes_gone = nodes(computed) != graph
    amended = readable and retained and freed and refusal is not None and again and not nodes_gone
    shown = f"{as_code(names(computed))}; {str(refusal).split('.')[0]}"
    return Seen(nodes_gone, amended, shown)


def item_gives_a_number() -> Seen:
    """Take item() of a gradient of one element, and of one of two."""
    one, two = weight(), torch.Tensor([1.0, 1.0]).requires_grad_()
    for w in (one, two):
        backward(loss(w, 3.0, 6.0).sum())
    number, refusal = grad(one).item(), refused(grad(two).item)
    return Seen(refusal is None, type(number) is float, f"{number}; {as_code(two.grad)}: {refusal}")


def a_step_with_the_tensor_builds_a_graph() -> Seen:
    """Take the step with the tensor, and with its data."""
    w = weight()
    backward(loss(w, 3.0, 6.0))
    with_tensor, with_data = w - RATE * grad(w), w.data - RATE * grad(w).data
    shown = f"w: {names(with_tensor)}, is_leaf={with_tensor.is_leaf}; w.data: {names(with_data)}"
    return Seen(bool(nodes(with_tensor)) and not with_tensor.is_leaf and not nodes(with_data), None, shown)


def data_is_the_only_way() -> Seen:
    """Train without data, under no_grad and with detach, and hold the weights against the document's."""

    def unrecorded(w: Tensor) -> None:
        with torch.no_grad():
            w -= RATE * grad(w)

    def detached(w: Tensor) -> None:
        w.detach().sub_(RATE * grad(w))

    expected, others = trained(), [trained(unrecorded), trained(detached)]
    same = [w.equal(expected) and w.is_leaf and not grad(w).requires_grad for w in others]
    return Seen(not any(same), all(same), f"data: {expected.item()}; no_grad, detach: {[w.item() for w in others]}")


def shrinks_by(w: Fraction, rate: Fraction) -> Fraction:
    """Return what one epoch multiplies 2 - w by, computed in fractions."""
    before = 2 - w
    for x, y in SAMPLES:
        w -= rate * 2 * Fraction(x) * (Fraction(x) * w - Fraction(y))
    return (2 - w) / before


STARTS = [Fraction(start) for start in ("1", "0", "-7/3", "1.999")]


def the_step_is_small_enough() -> Seen:
    """Take the program's first step; then an epoch in fractions, with 0.01 and with 0.25."""
    w = weight()
    backward(loss(w, *SAMPLES[0]))
    step(w)
    small, large = ({shrinks_by(start, Fraction(rate)) for start in STARTS} for rate in ("0.01", "0.25"))
    by_samples = Fraction(1)
    for x, _ in SAMPLES:
        by_samples *= 1 - 2 * Fraction("0.01") * Fraction(x) ** 2
    nearer = small == {by_samples} == {Fraction("0.739312")} and large == {Fraction("1.75")}
    factors = [", ".join(map(str, found)) for found in (small, large)]
    shown = f"w = 1 → {w.item()}, w.grad = {as_code(w.grad)}; 0.01: 2 - w ← {factors[0]} * (2 - w); 0.25: {factors[1]}"
    return Seen(w.data.equal(torch.Tensor([1.02])) and grad(w).item() == -2 and nearer, None, shown)


def zero_clears_the_gradient() -> Seen:
    """Clear the gradient once; train with clearing, and without."""
    w = weight()
    backward(loss(w, 3.0, 6.0))
    before = grad(w).item()
    grad(w).data.zero_()
    after = grad(w).item()
    cleared, never = trained().item(), trained(clear=False).item()
    late = [trained(clear=False, epochs=epochs).item() for epochs in range(EPOCHS - 5, EPOCHS + 1)]
    shown = f"w.grad = {before} → {after}; zero_(): w = {cleared}; -: w = {late}"
    return Seen(
        before != 0 and after == 0 and abs(2 - cleared) < abs(2 - never) and min(late) < 2 < max(late), None, shown
    )


def the_progress_printed() -> Seen:
    """Hold the loss printed for each epoch against that of the epoch, and against its last sample's before its step."""
    w, weights = weight(), []

    def noted(w: Tensor) -> None:
        weights.append(w.item())
        step(w)

    printed, of_the_epoch, of_the_last = [], [], []
    for losses in training(w, noted, epochs=3):
        printed.append(losses[-1])  # what l is once the inner loop has ended
        of_the_epoch.append(sum(losses))
        of_the_last.append(loss(torch.Tensor([weights[-1]]), *SAMPLES[-1]).item())
    return Seen(printed == of_the_epoch, printed == of_the_last, f"l.item() = {printed}; sum = {of_the_epoch}")


def prediction_after_training() -> Seen:
    """Predict after training in float32, then train longer; and once through the samples in fractions."""
    factors = {shrinks_by(start, Fraction("0.01")) for start in STARTS}
    w, longer = trained(), trained(epochs=2 * EPOCHS)
    nearer = factors == {Fraction("0.98") * Fraction("0.92") * Fraction("0.82")} and 0 < max(factors) < 1
    stops = w.equal(longer) and w.item() == 1.9999996423721313 and (4 * w).item() == 7.999998569488525
    shown = f"float32: w = {w.item()}, 4 * w = {(4 * w).item()}; 2 - w ← {max(factors)} * (2 - w)"
    four_times = Fraction((4 * w).item()) == 4 * Fraction(w.item())
    return Seen(four_times and nearer and stops, None, shown)
