"""The computation graph of a composition of rules: what was computed, and the sweep back through it.

The mechanism is a list of the rules that were called, each with its primals and its y. The sweep goes
through it from the end, hands each rule the cotangent that has arrived at its y, and adds what the rule
returns to what has arrived at its primals. (Griewank & Walther, Evaluating Derivatives, 2nd ed., section 3.2.)
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError
from backprop_rules.formula import of_reals, plain
from backprop_rules.rule import Application, Rule, recorded
from backprop_rules.subject.ambient import inexact

MOST = 1 << 26  # entries of a local derivative: half a gigabyte in float64


@dataclass(frozen=True, eq=False)
class Edge:
    """The way from a node to one of its primals: which primal of the rule, which node, what gradient goes along it.

    `jacobian` is the local derivative, of shape (*y.shape, *x.shape), and `formula` the rule's own for this primal.
    """

    primal: str
    source: str
    gradient: Tensor
    jacobian: Tensor
    formula: str


@dataclass(eq=False)
class Node:
    """A value in the computation: an input, a constant, or what a rule made of other nodes.

    `arrives` is the gradient of the end with respect to the value, the sum over all nodes that were made
    from it; None where the end does not depend on it. `edges` are the ways back to the primals, each with
    the gradient that leaves along it and the local derivative.
    """

    name: str
    value: Tensor
    made_by: Application | None = None
    sources: tuple[str | None, ...] = ()
    arrives: Tensor | None = None
    edges: list[Edge] = field(default_factory=list)

    @property
    def computed(self) -> str:
        """How it was computed, as code; empty for an input."""
        if self.made_by is None:
            return ""
        primals = ["None" if name is None else name for name in self.sources]
        params = [f"{name}={value!r}" for name, value in self.made_by.params.items()]
        return f"{self.made_by.rule}({', '.join(primals + params)})"


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A computation graph, in the order in which it was computed, swept backwards from its last node."""

    nodes: dict[str, Node]
    inputs: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Trace of {len(self.nodes)} nodes, from {', '.join(self.gradients)} to {self.y.name}>"

    @property
    def y(self) -> Node:
        """The node at the end."""
        return next(reversed(self.nodes.values()))

    @property
    def gradients(self) -> dict[str, Tensor | None]:
        """The gradient of each input; None where the end does not depend on it."""
        return {name: self.nodes[name].arrives for name in self.inputs}


def trace(function: Callable[..., Any], *primals: Tensor, grad_y: Tensor | None = None) -> Trace:
    """Return the computation graph of a composition of rules, swept backwards.

    x̄ = Σ J_kᵀ ȳ_k, over all the y_k that were made from x. `function` calls rules of the catalogue as
    functions, as in `clamp(matmul(x, w), min=0)`, and returns y, or a dict that names values, y the last.
    `grad_y` has y's shape; it may be left out where y has one element, and is 1 then.

    Raises InputError where a value was computed from the inputs by something that is no rule, or was
    changed in place, where integers are taken for numbers, where a local derivative has too many entries
    to be kept, where grad_y is missing or has another shape, and where the function takes more or fewer
    tensors. Source: Griewank & Walther, Evaluating Derivatives, 2nd ed., section 3.2.
    """
    return traced(lambda values: function(*values.values()), _named(function, primals), grad_y)


def _named(function: Callable[..., Any], primals: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names of the function's arguments; InputError unless it takes so many.

    They are x1, x2 and so on where it takes any number, or has no signature, as a function of C.
    """
    if not callable(function):
        raise InputError(f"trace: a function of rules is to be traced; got {type(function).__name__} {function!r}.")
    names, count = [f"x{k + 1}" for k in range(len(primals))], len(primals)
    if isinstance(function, Rule):
        most, least = len(function.primals), len(function.primals) - len(function.optional)
        if least <= count <= most:
            return dict(zip(function.primals, primals, strict=False))
        name, takes = str(function), f"{', '.join(function.primals)}: {most if least == most else f'{least} to {most}'}"
    else:
        try:
            signature = inspect.signature(function)
            signature.bind(*primals)
            own = [k for k, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
            return dict(zip(own if len(own) >= count else names, primals, strict=False))
        except ValueError:
            return dict(zip(names, primals, strict=True))
        except TypeError:
            name, takes = getattr(function, "__name__", "function"), str(signature)
    raise InputError(f"trace: {name} takes {takes}; got {count} tensors. Give one for each, in this order.")


def traced(
    function: Callable[[Mapping[str, Tensor]], Any], inputs: Mapping[str, Tensor], grad_y: Tensor | None = None
) -> Trace:
    """Return the trace of a function that takes its inputs by name, in a dict."""
    leaves = {name: _leaf(name, x) for name, x in inputs.items()}
    with recorded() as applications, torch.enable_grad():
        found = function(leaves)
    names = dict(found) if isinstance(found, Mapping) else {} if "y" in leaves else {"y": found}
    end = list(names.values())[-1] if names else found
    if not isinstance(end, Tensor):
        what = f"{type(found).__name__} {found!r}"
        raise InputError(f"trace: the function returned {what}: return a tensor, or a dict that names several, y last.")
    graph = _Graph(leaves, names)
    for application in applications:
        graph.add(application)
    made = [node.name for node in graph.nodes.values() if not node.made_by and inexact(node.value)]
    read = {source for node in graph.nodes.values() for source in node.sources}
    for name, x in leaves.items():
        if not inexact(x) and name not in read and {*made} - {*leaves}:
            raise _integers(name, x)  # of which those numbers may have been made
    return Trace(_swept(graph.nodes, graph.known(end, "the end"), grad_y, leaves), tuple(leaves))


def _leaf(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        several = isinstance(x, list | tuple) and any(isinstance(one, Tensor) for one in x)
        hint = "Give each of its tensors as an argument of its own." if several else f"Write torch.tensor({x!r})."
        raise InputError(f"trace: {name} is {type(x).__name__}, not a tensor. {hint}")
    return x.detach().requires_grad_(inexact(x)).clone()  # no leaf of autograd: of those torch refuses changes itself


class _Graph:
    """The nodes by name, and the name of each tensor that is one."""

    def __init__(self, leaves: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> None:
        self.nodes = {name: Node(name, x) for name, x in leaves.items()}
        self._name_of = {id(x): name for name, x in leaves.items()}
        self._given = {id(x): name for name, x in names.items()}
        self._versions = dict.fromkeys(self._name_of, 0)
        for name, x in names.items():
            if name in leaves and x is not leaves[name]:
                raise InputError(f"trace: the function returns a value as '{name}', as an input is called: rename it.")

    def known(self, x: Tensor, where: str) -> str:
        """Return the tensor's name, a new one if it is a constant."""
        if not isinstance(x, Tensor):
            raise InputError(f"trace: {where} is {type(x).__name__} {x!r}: give a tensor, and params by name.")
        if id(x) not in self._name_of:
            if x.grad_fn is not None:
                raise InputError(
                    f"trace: {where} was computed from the inputs by torch ({x.grad_fn.name()}), not by a rule, so "
                    "that its gradient would be lost. Call the rule of the catalogue in its place: 'backprop-rules "
                    "list' names them, and @rule declares your own."
                )
            self._take(self._fresh("constant"), x)
        if x._version != self._versions[id(x)]:
            raise InputError(
                f"trace: {self._name_of[id(x)]} was changed in place after it was computed, so that its value, and the "
                "gradients that need it, are lost. Make a new tensor instead."
            )
        return self._name_of[id(x)]

    def add(self, application: Application) -> None:
        """Add the node that a rule made."""
        rule = application.rule
        if len(application.primals) > len(rule.primals):
            taken, got = ", ".join(rule.primals), len(application.primals)
            raise InputError(f"trace: {rule} takes {taken} by position; got {got} arguments. Give the params by name.")
        for i, x in enumerate(application.primals):
            if isinstance(x, Tensor) and i in rule.differentiable and not inexact(x):
                raise _integers(f"the primal {rule.primals[i]} of {rule}", x)
        labels = [f"the primal {name} of {rule}" for name in rule.primals]
        sources = tuple(
            None if x is None else self.known(x, label) for x, label in zip(application.primals, labels, strict=False)
        )
        name = self._given.get(id(application.y)) or self._fresh(rule.name)
        self._take(name, application.y, application, sources)

    def _take(
        self, name: str, x: Tensor, application: Application | None = None, sources: tuple[str | None, ...] = ()
    ) -> None:
        self.nodes[name] = Node(name, x, application, sources)
        self._name_of[id(x)] = name
        self._versions[id(x)] = application.version if application else x._version

    def _fresh(self, stem: str) -> str:
        taken = self.nodes.keys() | set(self._given.values())
        return next(name for k in range(1, len(taken) + 2) if (name := f"{stem}{k}") not in taken)


def _integers(what: str, x: Tensor) -> InputError:
    return InputError(f"trace: {what} holds {x.dtype}, whose gradient would be lost. Use x.double().")


def _swept(nodes: dict[str, Node], end: str, grad_y: Tensor | None, inputs: Mapping[str, Tensor]) -> dict[str, Node]:
    """Sweep back from the end, and return the nodes up to it, and the inputs."""
    names = list(nodes)[: list(nodes).index(end)]
    kept = {name: nodes[name] for name in dict.fromkeys([*inputs, *names]) if name != end} | {end: nodes[end]}
    with torch.no_grad():
        kept[end].arrives = _cotangent(kept[end].value.detach(), grad_y)
        for node in reversed(kept.values()):
            if node.made_by is not None and node.arrives is not None:
                _through(node, kept)
        for node in kept.values():
            node.value = node.value.detach()
    return kept


def _cotangent(y: Tensor, grad_y: Tensor | None) -> Tensor:
    if grad_y is None and y.numel() != 1:
        raise InputError(f"trace: y has shape {tuple(y.shape)}, so that its cotangent must be given: grad_y=...")
    if grad_y is not None and not isinstance(grad_y, Tensor):
        raise InputError(f"trace: grad_y is {type(grad_y).__name__}, not a tensor. Write torch.tensor({grad_y!r}).")
    if grad_y is not None and grad_y.shape != y.shape:
        raise InputError(f"trace: grad_y has shape {tuple(grad_y.shape)}, but y has shape {tuple(y.shape)}.")
    return torch.ones_like(y) if grad_y is None else grad_y.detach()


def _through(node: Node, nodes: dict[str, Node]) -> None:
    """Hand the rule what has arrived at its y, and what it returns to its primals."""
    made_by, arrives, y = node.made_by, node.arrives, node.value.detach()
    assert made_by is not None and arrives is not None
    rule, params = made_by.rule, made_by.params
    primals = [None if x is None else x.detach() for x in made_by.primals]
    entries = y.numel() * max(x.numel() for x in primals if x is not None)
    if entries > MOST:
        what = f"{node.name}, of shape {tuple(y.shape)}, has a derivative of {entries} entries"
        raise InputError(f"trace: {what}, and at most {MOST} are kept. Trace the function at smaller inputs.")
    units = torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(y.numel(), *y.shape)
    rows = [rule.gradients(unit, y, *primals, **params) for unit in units]
    gradients = rule.gradients(arrives, y, *primals, **params)
    for i, (source, gradient) in enumerate(zip(node.sources, gradients, strict=False)):
        if gradient is None or source is None:
            continue
        jacobian = gradient.new_empty(len(rows), *gradient.shape)
        for k, row in enumerate(rows):
            jacobian[k] = row[i]  # type: ignore[assignment]
        jacobian = jacobian.reshape((*y.shape, *gradient.shape))
        formula = formula_of(rule, i) if y.is_complex() or gradient.is_complex() else of_reals(formula_of(rule, i))
        node.edges.append(Edge(rule.primals[i], source, gradient, jacobian, formula))
        there = nodes[source]
        there.arrives = gradient if there.arrives is None else there.arrives + gradient


def formula_of(rule: Rule, i: int) -> str:
    """Return the part of the rule's formula that is for this primal; nothing where the parts cannot be told apart."""
    parts = plain(rule.formula).partition(": ")[2].split(", ")
    return parts[rule.differentiable.index(i)] if len(parts) == len(rule.differentiable) else ""
