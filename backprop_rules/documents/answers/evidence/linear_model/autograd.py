"""Evidence of lines 65 to 157: forward and backward through one neuron, and PyTorch's tensors and graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from backprop_rules.documents.answers.claim import Said, Seen, cannot_be_checked, holds, holds_if, slip, wrong
from backprop_rules.documents.answers.drawn import Point, as_code, counterexample, told, untrue
from backprop_rules.documents.answers.evidence.linear_model.training import grad, loss, weight
from backprop_rules.documents.answers.notation import worked_out
from backprop_rules.documents.answers.tools import computed, gradients, ran, refused


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


def z_goes_on_to_the_loss(said: Said) -> Seen:
    """Look in the graph of the loss for z's node, and for what leads to x and ω past it."""
    x, w = scalar(3.0), scalar(2.0)
    z = x * w
    computed = (z - 1) ** 2
    graph, behind = nodes(computed), nodes(z)
    past = leaves([node for node in graph if node not in behind])
    shown = f"z = {as_code(z)}, loss = {as_code(computed)}: {as_code(names(computed))}"
    return holds(z.grad_fn in graph and len(leaves(behind)) == 2 and not past, shown)


def saved_by(f: Callable[..., Tensor], x: float, w: float) -> tuple[list[float], list[float]]:
    """Return what f saves, and the derivatives that come of it if twice as much is handed back."""
    packed = []

    def pack(saved: Tensor) -> Tensor:
        packed.append(saved.item())
        return saved

    given = scalar(x), scalar(w)
    with saved_tensors_hooks(pack, lambda saved: 2 * saved):
        z = f(*given)
    return packed, [g.item() for g in torch.autograd.grad(z, given)]


def forward_computes_the_derivatives(said: Said) -> Seen:
    """List what a product and a quotient save; replace it by its double before the way back."""
    x, w = float(said["x"]), float(said["w"])
    derivatives: dict[Callable[..., Tensor], Callable[[float, float], list[float]]] = {
        torch.mul: lambda x, w: [w, x],
        torch.div: lambda x, w: [1 / w, -x / w**2],
    }
    found = {f: saved_by(f, x, w) for f in derivatives}
    stored = [set(derivatives[f](x, w)) <= set(saved) for f, (saved, _) in found.items()]
    operands = [sorted(saved) == sorted([x, w]) for saved, _ in found.values()]
    late = [formed == derivatives[f](2 * x, 2 * w) for f, (_, formed) in found.items()]
    plain = [v.item() for v in kept((x * scalar(w)).grad_fn).values() if isinstance(v, Tensor)]
    of_div = [said.number(name) for name in ("by_x", "by_w")] == derivatives[torch.div](x, w)
    right = all(operands + late) and plain == [said.number("alone")] and said["quotient"] == f"{x:g}/{w:g}"
    shown = f"div({x:g}, {w:g}): {as_code(found[torch.div][0])}; x * w, x = {x}: {as_code(plain)}"
    return wrong(all(stored), right and of_div, shown)


def kept_in_x_and_w(said: Said) -> Seen:
    """Look at x and ω after a product and a quotient, and at the nodes of the two."""
    x, w = scalar(3.0), scalar(2.0)
    product, quotient = kept((x * w).grad_fn), kept((x / w).grad_fn)
    in_variables = [x.grad, w.grad, *vars(x).values(), *vars(w).values()]
    themselves = [any(value is operand for value in product.values()) for operand in (x, w)]
    held = [sorted(value.item() for value in node.values()) for node in (product, quotient)]
    shown = f"x.grad, w.grad = {in_variables}; (x * w).grad_fn: {', '.join(product)} = {as_code(held[0])}"
    right = held == [[2, 3], [2, 3]] and all(themselves)
    return wrong(any(value is not None for value in in_variables), right, shown)


def function_of_the_picture(said: Said) -> Seen:
    """Take two functions for f: what the lines say of forward and backward is true of both."""
    x, w = scalar(3.0), scalar(2.0)
    found = []
    for z in (worked_out(said["product"].partition("=")[2], {"x": x, "ω": w}), x + w):
        local = torch.autograd.grad(z, (x, w), retain_graph=True)
        (arrives,) = gradients(lambda z: (z - 1) ** 2, z)
        whole = torch.autograd.grad((z - 1) ** 2, (x, w))
        fits = all(g.equal(arrives * own) for g, own in zip(whole, local, strict=True))
        found.append((fits, [g.item() for g in local]))
    product = found[0][1] == [w.item(), x.item()]
    shown = "; ".join(f"∂z/∂x, ∂z/∂ω = {own}" for _, own in found)
    return cannot_be_checked(product and all(fits for fits, _ in found) and found[0][1] != found[1][1], shown)


def the_next_neuron_hands_it_back(said: Said) -> Seen:
    """Catch what arrives at z from the following neuron, and hold it against the derivative."""

    def right(x: Tensor, w: Tensor, v: Tensor, y: Tensor) -> bool:
        arrived: list[Tensor] = []
        z = x * w.clone().requires_grad_()
        z.register_hook(arrived.append)
        ((z * v - y) ** 2).backward()
        return arrived[0].equal(gradients(lambda z: (z * v - y) ** 2, z)[0])

    found = counterexample(right, x="1", w="1", v="1", y="1")
    return holds(found is None, f"{said.formula}: {told(found)}")


def neuron(x: Tensor, w: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the derivatives of a neuron z = xω and of a loss behind it."""
    by_x, by_w = gradients(lambda x, w: (x * w - y) ** 2, x, w)
    (by_z,) = gradients(lambda z: (z - y) ** 2, x * w)
    return {"∂loss/∂x": by_x, "∂loss/∂ω": by_w, "∂loss/∂z": by_z, "∂z/∂x": w, "∂z/∂ω": x}


def name_of_what_arrives(said: Said) -> Seen:
    """Multiply the local derivatives by what is printed, and by what is meant."""
    products = [said["by_x"], said["by_w"]]
    as_printed = [one.replace(f"= {said['meant']}", f"= {said.formula}") for one in products]
    printed, meant = ([untrue(one, neuron, x="1", w="1", y="1") for one in every] for every in (as_printed, products))
    shown = f"{as_printed[0]}: {told(printed[0])}; {products[0]}: {told(meant[0])}"
    return slip(printed == [None, None], meant == [None, None] and as_printed != products, shown)


def products_are_the_gradients(said: Said) -> Seen:
    """Let x enter several neurons, then ω several; take each product for the gradient, and the sum of them all."""

    def with_products(together: bool, x: str, w: str) -> Point | None:
        def right(x: Tensor, w: Tensor, y: Tensor) -> bool:
            found = gradients(lambda x, w: ((x * w - y) ** 2).sum(), x, w)
            (grad_z,) = gradients(lambda z: ((z - y) ** 2).sum(), x * w)
            products = [grad_z * w, grad_z * x]
            if together:
                products = [p.sum_to_size(g.shape) for p, g in zip(products, found, strict=True)]
            return all(bool((p == g).all()) for p, g in zip(products, found, strict=True))

        return counterexample(right, x=x, w=w, y=w if x == "1" else x)

    each = [with_products(False, "1", "2"), with_products(False, "2", "1")]
    right = [with_products(True, "1", "k"), with_products(True, "k", "1"), with_products(False, "1", "1")]
    condition = right == [None] * 3 and None not in each
    return holds_if(condition, None in each, f"{told(each[0])}; {told(each[1])}; Σ: {told(right[0] or right[1])}")


def data_holds_the_value(said: Said) -> Seen:
    """Write into data, and read the weight and the prediction."""
    w = weight()
    before = w.data.tolist() == w.tolist() and w.data.data_ptr() == w.data_ptr()
    ran(said["code"], w=w)
    product = computed(said["product"], w=w)
    right = w.item() == said.number("value") and product.item() == said.number("found")
    return holds(before and right, f"{said['code']}: w = {as_code(w)}, {said['product']} = {as_code(product)}")


def grad_holds_the_derivative(said: Said) -> Seen:
    """Go backward once, and as often as is said, with the same weight and sample."""

    def after(calls: int, times: int) -> Point | None:
        def right(w: Tensor, x: Tensor, y: Tensor) -> bool:
            asked = w.clone().requires_grad_()
            for _ in range(calls):
                ((x * asked - y) ** 2).backward()
            return grad(asked).equal(times * 2 * x * (x * w - y))

        return counterexample(right, w="1", x="1", y="1")

    calls = int(said["calls"])
    once, more, as_told = after(1, 1), after(calls, 1), after(calls, calls)
    shown = f"{calls} × backward(): {told(more)}; 1 × backward(): {told(once)}"
    return holds_if(once is None and as_told is None and calls == 2, more is None, shown)


def grad_is_a_tensor(said: Said) -> Seen:
    """Look at the type of grad before backward and after it."""
    w = weight()
    before = type(w.grad)
    loss(w, 3.0, 6.0).backward()
    after = type(w.grad)
    return holds_if(issubclass(after, Tensor), issubclass(before, Tensor), f"{before.__name__} → {after.__name__}")


def operations_build_the_graph(said: Said) -> Seen:
    """Compute with a tensor that asks for no gradient, with one that does, without recording, and a comparison."""
    w = weight()
    with torch.no_grad():
        unrecorded = 2 * w
    found = {"requires_grad=False": 2 * torch.Tensor([1.0]), "no_grad": unrecorded, "2 * w": 2 * w, "w > 0": w > 0}
    recorded = {name: bool(nodes(y)) for name, y in found.items()}
    return holds_if([*recorded.values()] == [False, False, True, False], all(recorded.values()), str(recorded)[1:-1])


def value_of_the_weight_is_set(said: Said) -> Seen:
    """Run the document's line."""
    w = ran(said.formula)["w"]
    right = [str(w.data.tolist()), str(w.dtype)] == [said["data"], said["dtype"]] and not w.requires_grad
    return holds(right, f"{as_code(w.data)}, {w.dtype}, requires_grad={w.requires_grad}")


def requires_grad_asks_for_the_gradient(said: Said) -> Seen:
    """Go back to a weight that has not been told, and to the same one that has."""
    w = torch.Tensor([1.0])
    refusal = refused(lambda: loss(w, 3.0, 6.0).backward())
    ran(said.formula, w=w)
    loss(w, 3.0, 6.0).backward()
    return holds(refusal is not None and w.grad is not None, f"{refusal}; w.grad = {as_code(w.grad)}")


def the_model_builds_the_graph(said: Said) -> Seen:
    """Compute the document's model, and follow the graph of the product to its end."""
    w = weight()
    y = ran(said.formula, w=w, x=4)["y"]
    ends = leaves(nodes(y))
    return holds(len(nodes(y)) == 2 and len(ends) == 1 and ends[0] is w, " → ".join(names(y)))


def x_becomes_a_tensor(said: Said) -> Seen:
    """Look at x after the product, and at what the product has kept."""
    x = 3.0
    y = x * weight()
    inside = [value for value in kept(y.grad_fn).values() if isinstance(value, Tensor)]
    inner = [(v.item(), v.dim(), v.requires_grad) for v in inside]
    shown = f"x: {type(x).__name__}; {names(y)[0]}: {inside}; x * w: {y.dtype}"
    return holds_if(inner == [(x, 0, False)] and str(y.dtype) == said["dtype"], isinstance(x, Tensor), shown)


def a_new_graph_at_every_call(said: Said) -> Seen:
    """Run the document's line twice, and list the nodes that both graphs have: that of the weight alone."""
    w = weight()
    first, second = (ran(said.formula, loss=lambda x, y: loss(w, x, y), x=3.0, y=6.0)["l"] for _ in range(2))
    shared = [node for node in nodes(first) if node in nodes(second)]
    only_w = len(shared) == 1 and leaves(shared)[0] is w
    shown = f"{as_code(names(first))} & {as_code(names(second))} = {[node.name() for node in shared]}"
    return holds(only_w and len(nodes(first)) > 1, shown)


def gradient_only_at_backward(said: Said) -> Seen:
    """Read grad before the loss is computed, after it, and after the document's call."""
    w = weight()
    before, computed = w.grad, loss(w, 3.0, 6.0)
    between = w.grad
    ran(said.formula, l=computed)
    shown = " → ".join(as_code(g) for g in (before, between, w.grad))
    return holds(before is None and between is None and w.grad is not None, shown)


def the_graph_is_freed(said: Said) -> Seen:
    """Look at the nodes and at what they keep, before backward and after it, and go back once more."""
    once = loss(weight(), 3.0, 6.0)
    graph, readable = nodes(once), refused(lambda: kept(once.grad_fn)) is None
    ran(f"once.backward({said['kept']})", once=once)
    retained = refused(lambda: kept(once.grad_fn)) is None
    once.backward()
    freed = refused(lambda: kept(once.grad_fn)) is not None
    refusal, added = refused(once.backward), computed(said["none"], w=weight())
    added.backward()
    again, gone = refused(added.backward) is None, nodes(once) != graph
    condition = readable and retained and freed and refusal is not None and again
    return holds_if(condition and not gone, gone, f"{as_code(names(once))}; {str(refusal).split('.')[0]}")


def item_gives_a_number(said: Said) -> Seen:
    """Take the document's number of a gradient of one element, and of one of more."""
    one, more = weight(), torch.ones(int(said["more"])).requires_grad_()
    for w in (one, more):
        loss(w, 3.0, 6.0).sum().backward()
    number, refusal = computed(said.formula, w=one), refused(lambda: computed(said.formula, w=more))
    right = type(number) is float and len(more) == 2
    return holds_if(right, refusal is None, f"{number}; {as_code(more.grad)}: {refusal}")


def a_step_with_the_tensor_builds_a_graph(said: Said) -> Seen:
    """Take the step with the tensor, and with its data."""
    w = weight()
    loss(w, 3.0, 6.0).backward()
    with_tensor, with_data = computed(said["tensor"], w=w), computed(said["data"], w=w)
    same = with_tensor.equal(with_data) and float(with_data) == float(w.data - 0.01 * grad(w))
    shown = f"w: {names(with_tensor)}, is_leaf={with_tensor.is_leaf}; w.data: {names(with_data)}"
    return holds(same and bool(nodes(with_tensor)) and not with_tensor.is_leaf and not nodes(with_data), shown)
