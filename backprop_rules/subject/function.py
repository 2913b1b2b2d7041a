"""What is differentiated: somebody's forward, run in any precision, and torch's gradients of it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.errors import OwnError, first_line
from backprop_rules.subject.ambient import Ambient, at, inexact, running

Outputs = tuple[Tensor, ...]
Cotangents = tuple[Tensor | None, ...]
Gradients = tuple[Tensor | None, ...]

# Steps of autograd's graph whose algorithms are stable in the norm of a matrix, and not in each of its elements.
FACTORISATIONS = (
    "Cholesky", "Geqrf", "LinalgCholesky", "LinalgDet", "LinalgEig", "LinalgHouseholder", "LinalgInv", "LinalgLstsq",
    "LinalgLu", "LinalgMatrixExp", "LinalgPinv", "LinalgQr", "LinalgSlogdet", "LinalgSolve", "LinalgSvd",
    "TriangularSolve",
)  # fmt: skip


class NoAnswer(Exception):
    """Somebody's code gives no answer to what is asked of it at a point."""


class NoPoint(NoAnswer):
    """The forward does not take these primals, or torch has no derivative of it there: such a point is none."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the forward: its outputs, and a gradient for each leaf; None where no derivative reaches it."""

    y: Outputs
    gradients: Gradients
    custom: bool = False  # whether somebody's autograd.Function was differentiated on the way
    factorises: bool = False  # whether a matrix was factorised, or solved with: it loses digits in the norm


@dataclass(frozen=True, eq=False)
class Function:
    """A forward, and how it is called: with leaves, the tensors of the example in order, put back into its structure.

    `differentiates` says that forward itself asks autograd for a gradient, as of an energy, and so needs a graph.
    """

    call: Callable[..., Any]
    structure: Any
    params: Mapping[str, Any]
    module: torch.nn.Module | None = None
    differentiates: bool = False
    ambients: dict[torch.dtype, Ambient] = field(default_factory=dict)

    def ambient(self, dtype: torch.dtype) -> Ambient:
        """Return the precision to run in, which keeps the constants that it has cast."""
        return self.ambients.setdefault(dtype, Ambient(dtype))

    @property
    def work(self) -> int:
        """How many calls of torch's functions all runs made, or what they read in calls that cost as much."""
        return sum(ambient.work for ambient in self.ambients.values())

    def at(self, params: Mapping[str, Any]) -> "Function":
        """Return the same function with other params."""
        return self if params is self.params else replace(self, params=params)

    def arguments(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments of a call: the leaves in the structure of the example."""
        if self._flat == len(leaves):
            return tuple(leaves)
        found: tuple[Any, ...] = _pytree.tree_unflatten(list(leaves), self.structure)
        return found

    @cached_property
    def _flat(self) -> int | None:
        """How many arguments there are, where these are the leaves themselves, as of most functions."""
        its = self.structure
        return its.num_leaves if its.type is tuple and its.num_leaves == its.num_nodes - 1 else None

    def raw(self, leaves: Sequence[Any]) -> Any:
        """Return what the forward returns, whatever it is."""
        return self.call(*self.arguments(leaves), **self.params)

    def outputs(self, leaves: Sequence[Any], inside: AbstractContextManager[Any]) -> Outputs:
        """Return the outputs as tensors; those of integers too. Raises NoPoint if it raises, or returns no tensor."""
        try:
            with inside:
                found = self.raw(leaves)
        except OwnError:
            raise
        except (Exception, SystemExit) as error:
            raise NoPoint(f"forward raises {type(error).__name__}: {first_line(error)}") from error
        flat = tuple(y for y in _pytree.tree_leaves(found) if isinstance(y, Tensor))
        if not any(map(inexact, flat)):
            raise NoPoint(f"forward returns {kind_of(found)}, of which there is no gradient")
        return flat

    def y(self, leaves: Sequence[Any], dtype: torch.dtype | None) -> Outputs:
        """Return the outputs in a precision; None: as the leaves are."""
        graph = self.differentiates
        with running(None if dtype is None else self.ambient(dtype)) as inside, torch.set_grad_enabled(graph):
            found = self.outputs(live_ones(leaves) if graph else leaves, inside)
        return tuple(y.detach() for y in found) if graph else found

    def run(
        self,
        leaves: Sequence[Any],
        grads: Cotangents | Callable[[Outputs], Cotangents],
        dtype: torch.dtype | None,
        looks: bool = False,
    ) -> tuple[Run, Cotangents]:
        """Return the outputs and torch's gradients; the cotangents may depend on the outputs' shapes.

        Raises NoPoint where forward or torch's backward raises. Whether somebody's own Function, or a factorisation,
        was on the way is known if it `looks`.
        """
        with running(None if dtype is None else self.ambient(dtype)) as inside, torch.enable_grad():
            live = live_ones(leaves)
            y = self.outputs(live, inside)
            own = grads(y) if callable(grads) else grads
            _fit(own, y)
            trivial = all(not inexact(out) or not out.numel() for out in y) or all(
                not inexact(x) or not x.numel() for x in live
            )
            pairs = [
                (out, g.to(at(dtype, g)) if dtype is not None else g)
                for out, g in zip(y, own, strict=True)
                if g is not None and out.requires_grad
            ]
            try:
                found = gradients_along(pairs, live)
            except OwnError:
                raise
            except (Exception, SystemExit) as error:
                if not trivial:
                    raise NoPoint(f"torch's backward raises {type(error).__name__}: {first_line(error)}") from error
                found = (None,) * len(live)  # zeros, or empty: some of torch's backwards die of it
            steps = list(steps_to(out.grad_fn for out, _ in pairs)) if looks else []
            factorises = any(step.name().startswith(FACTORISATIONS) for step in steps)
            custom = bool(somebodys_function(steps))
        detached = tuple(None if g is None else g.detach() for g in found)
        return Run(tuple(out.detach() for out in y), detached, custom, factorises), own

    def cut_off(self, leaves: Sequence[Any]) -> frozenset[int]:
        """Return the places of the leaves from which no derivative reaches y; NoPoint where forward takes none such."""
        run, _ = self.run(leaves, ones, None)
        return frozenset(k for k, g in enumerate(run.gradients) if g is None and inexact(leaves[k]))

    def value(self, leaves: Sequence[Any], grads: Cotangents) -> tuple[float, float]:
        """Return Re⟨ȳ, f(x)⟩ in float64, and the sum of the magnitudes of its terms."""
        y = self.y(leaves, torch.float64)
        _fit(grads, y)
        total, size = 0.0, 0.0
        for out, g in zip(y, grads, strict=True):
            if g is not None:
                terms = (out * g.conj()).real if out.is_complex() or g.is_complex() else out * g
                total, size = total + float(terms.sum()), size + float(terms.abs().sum())
        return total, size


def ones(y: Outputs) -> Cotangents:
    """Return a cotangent of ones for each output that can have one."""
    return tuple(torch.ones_like(out) if inexact(out) else None for out in y)


def _fit(grads: Cotangents, y: Outputs) -> None:
    """Raise NoPoint where outputs have not the shapes of their cotangents, which were made elsewhere."""
    if len(grads) != len(y):
        raise NoPoint(f"forward returns {len(y)} tensors here, and {len(grads)} elsewhere")
    if any(g is not None and g.shape != out.shape for out, g in zip(y, grads, strict=True)):
        raise NoPoint("forward returns another shape here, which depends on the values")


def gradients_along(
    pairs: Sequence[tuple[Tensor, Tensor]], live: Sequence[Any], create_graph: bool = False
) -> Gradients:
    """Return torch's gradients of outputs along their cotangents, one for each leaf; None where none reaches it."""
    if not pairs:
        return (None,) * len(live)
    outs, along = zip(*pairs, strict=True)
    return by_autograd(outs, live, along, allow_unused=True, create_graph=create_graph)


def function_of(forward: Any, structure: Any, params: Mapping[str, Any]) -> Function:
    """Return the function of a callable or a module; what is compiled is taken as it was written."""
    if isinstance(forward, torch.nn.Module):
        module = getattr(forward, "_orig_mod", forward)
        return Function(module, structure, params, module)
    return Function(as_written(forward), structure, params)


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what was compiled as it was written; any other function itself."""
    call = inspect.unwrap(function, stop=lambda f: not hasattr(f, "_torchdynamo_orig_callable"))
    found: Callable[..., Any] = getattr(call, "_torchdynamo_orig_callable", call)
    return found


def cloned(leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves, the tensors among them in memory of their own, and without a graph."""
    return [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]


def live_ones(leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves, those that can have a gradient without a graph of their own, and as such that require one."""
    return [x.detach().requires_grad_() if inexact(x) else x for x in leaves]


def by_autograd(y: Any, leaves: Sequence[Any], grad_y: Any, **options: bool) -> Gradients:
    """Return what autograd gives for each leaf that requires a gradient, as dense numbers, and None for the others."""
    asked = [isinstance(x, Tensor) and x.requires_grad for x in leaves]
    found = iter(torch.autograd.grad(y, [x for x, live in zip(leaves, asked, strict=True) if live], grad_y, **options))
    gradients = (next(found) if live else None for live in asked)
    return tuple(g.to_dense() if g is not None and g.is_sparse else g for g in gradients)


def kind_of(found: Any) -> str:
    """Say what was returned."""
    if isinstance(found, Tensor):
        return f"a tensor of {found.dtype}"
    return f"a {type(found).__name__}"


def somebodys_function(steps: Iterable[Any]) -> str:
    """Return the name of somebody's autograd.Function among steps, "" if there is none: torch's own do not count."""
    for step in steps:
        if isinstance(step, torch.autograd.function.BackwardCFunction):
            function: Any = step._forward_cls  # type: ignore[attr-defined]
            if function.__module__.partition(".")[0] not in ("torch", "backprop_rules"):
                return str(function.__qualname__)
    return ""


def steps_to(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield each node of autograd's graph that these lead back to, once."""
    seen, left = set(), [node for node in nodes if node is not None]
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            yield one
            left += [other for other, _ in one.next_functions if other is not None]
