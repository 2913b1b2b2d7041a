"""Evidence of lines 65 to 157: forward and backward through one neuron, and PyTorch's tensors and graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from backprop_rules.documents.answers.claim import Evidence, Seen
from backprop_rules.documents.answers.drawn import Point, as_code, counterexample, everywhere, told
from backprop_rules.documents.answers.evidence.linear_model.training import RATE, grad, loss, weight
from backprop_rules.documents.answers.tools import gradients, rather, refused


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
    saved = f"{', '.join(product)} = {as_code(held[0])}, is {themselves}"
    shown = f"x.grad, w.grad = {in_variables}; (x * w).grad_fn: {saved}"
    found = held == [[2, 3], [2, 3]] and all(themselves)
    return Seen(any(value is not None for value in in_variables), found, shown)


@everywhere("z = x * w, loss = (z * v - y)**2: ", x="1", w="1", v="1", y="1")
def the_next_neuron_hands_it_back(x: Tensor, w: Tensor, v: Tensor, y: Tensor) -> bool:
    """Catch what arrives at z from the following neuron, and hold it against ∂loss/∂z."""
    arrived: list[Tensor] = []
    z = x * w.requires_grad_()
    z.register_hook(arrived.append)
    ((z * v - y) ** 2).backward()
    return arrived[0].equal(*gradients(lambda z: (z * v - y) ** 2, z))


def with_factor(name: str) -> Evidence:
    """Return the evidence that the gradients are the local derivatives times the loss's derivative for x, or for z."""

    @everywhere(f"∂loss/∂{name}: ", x="1", w="1", y="1")
    def holds(x: Tensor, w: Tensor, y: Tensor) -> bool:
        grad_x, grad_w = gradients(lambda x, w: (x * w - y) ** 2, x, w)
        (grad_z,) = gradients(lambda z: (z - y) ** 2, x * w)
        factor = {"x": grad_x, "z": grad_z}[name]
        return grad_x.equal(factor * w) and grad_w.equal(factor * x)

    return holds


name_of_what_arrives = rather(with_factor("x"), with_factor("z"))


def products_are_the_gradients() -> Seen:
    """Let x enter several neurons, then ω several; take each product for the gradient, and the sum of them all."""

    def with_products(together: bool, x: str, w: str) -> Point | None:
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


def the_graph_is_the_main_thing() -> Seen:
    """Ask for the gradient with a graph, and without one."""
    w = weight()
    loss(w, 3.0, 6.0).backward()
    with torch.no_grad():
        bare = loss(w, 3.0, 6.0)
    refusal = refused(bare.backward)
    return Seen(w.grad is not None and refusal is not None, None, f"w.grad = {as_code(w.grad)}; no_grad: {refusal}")


def data_holds_the_value() -> Seen:
    """Write into data, and read the weight and the prediction."""
    w = weight()
    before = w.data.tolist() == w.tolist() and w.data.data_ptr() == w.data_ptr()
    w.data[0] = 5.0
    shown = f"w.data[0] = 5: w = {as_code(w)}, 4 * w = {as_code(4 * w)}"
    return Seen(before and w.item() == 5 and (4 * w).item() == 20, None, shown)


def after(calls: int) -> Evidence:
    """Return the evidence that grad is the derivative after so many times backward, with the same weight and sample."""

    @everywhere(f"{calls} × backward(): ", w="1", x="1", y="1")
    def holds(w: Tensor, x: Tensor, y: Tensor) -> bool:
        asked = w.clone().requires_grad_()
        for _ in range(calls):
            ((x * asked - y) ** 2).backward()
        return asked.grad is not None and asked.grad.equal(2 * x * (x * w - y))

    return holds


grad_holds_the_derivative = rather(after(2), after(1))


def grad_is_a_tensor() -> Seen:
    """Look at the type of grad before backward and after it."""
    w = weight()
    before = type(w.grad)
    loss(w, 3.0, 6.0).backward()
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


def value_of_the_weight_is_set() -> Seen:
    """Make the document's tensor."""
    w = torch.Tensor([1.0])
    shown = f"{as_code(w.data)}, {w.dtype}, requires_grad={w.requires_grad}"
    return Seen(w.data.tolist() == [1] and w.shape == (1,), None, shown)


def requires_grad_asks_for_the_gradient() -> Seen:
    """Go back to a weight that has not been told, and to the same one that has."""
    w = torch.Tensor([1.0])
    refusal = refused(lambda: loss(w, 3.0, 6.0).backward())
    w.requires_grad = True
    loss(w, 3.0, 6.0).backward()
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
    before = w.grad
    computed = loss(w, 3.0, 6.0)
    between = w.grad
    computed.backward()
    shown = " → ".join(as_code(g) for g in (before, between, w.grad))
    return Seen(before is None and between is None and w.grad is not None, None, shown)


def the_graph_is_freed() -> Seen:
    """Look at the nodes and at what they keep, before backward and after it, and go back once more."""
    computed = loss(weight(), 3.0, 6.0)
    graph, readable = nodes(computed), refused(lambda: kept(computed.grad_fn)) is None
    computed.backward(retain_graph=True)
    retained = refused(lambda: kept(computed.grad_fn)) is None
    computed.backward()
    freed = refused(lambda: kept(computed.grad_fn)) is not None
    refusal, added = refused(computed.backward), weight() + weight()
    added.backward()
    again = refused(added.backward) is None
    nodes_gone = nodes(computed) != graph
    amended = readable and retained and freed and refusal is not None and again and not nodes_gone
    shown = f"{as_code(names(computed))}; {str(refusal).split('.')[0]}"
    return Seen(nodes_gone, amended, shown)


def item_gives_a_number() -> Seen:
    """Take item() of a gradient of one element, and of one of two."""
    one, two = weight(), torch.Tensor([1.0, 1.0]).requires_grad_()
    for w in (one, two):
        loss(w, 3.0, 6.0).sum().backward()
    number, refusal = grad(one).item(), refused(grad(two).item)
    return Seen(refusal is None, type(number) is float, f"{number}; {as_code(two.grad)}: {refusal}")


def a_step_with_the_tensor_builds_a_graph() -> Seen:
    """Take the step with the tensor, and with its data."""
    w = weight()
    loss(w, 3.0, 6.0).backward()
    with_tensor, with_data = w - RATE * grad(w), w.data - RATE * grad(w).data
    shown = f"w: {names(with_tensor)}, is_leaf={with_tensor.is_leaf}; w.data: {names(with_data)}"
    return Seen(bool(nodes(with_tensor)) and not with_tensor.is_leaf and not nodes(with_data), None, shown)
