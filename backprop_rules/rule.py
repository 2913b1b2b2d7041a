"""The one data type: a differentiable function, its handwritten backward rule, and what is known about both."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from backprop_rules.domain import Domain, axes_of
from backprop_rules.errors import InputError, unknown

Gradients = tuple[Tensor | None, ...]
T = TypeVar("T")


@cache
def installed(versions: str | None) -> bool:
    """Say whether the installed torch is among the versions (PEP 440; None for no version)."""
    from packaging.specifiers import SpecifierSet

    return versions is not None and SpecifierSet(versions).contains(str(torch.__version__), prereleases=True)


@dataclass(frozen=True)
class Convention:
    """The choice that a rule makes where its function has no derivative.

    `where(*primals, **params)` is a mask of y's shape, True at the outputs that stand on the kink;
    `torch` and `torch_forward` are the versions whose reverse and forward mode make the same choice
    (PEP 440; None where none does).
    """

    at: str
    value: str
    where: Callable[..., Tensor]
    torch: str | None
    torch_forward: str | None


@dataclass(frozen=True, eq=False)
class Roundings:
    """What a backward may round: as much as the `reference` does, whose accuracy is asked for, or as an excuse does.

    The reference is the catalogue's rule of its name where none is given; an excuse is the rule with a backward of
    other operations, such as its own, followed one by one. Sums may be kept in `accumulate` too, and with `flushes`
    subnormal numbers be taken for zero where torch does not, as XLA does.
    """

    reference: "Rule | None" = None
    excuses: tuple["Rule", ...] = ()
    accumulate: torch.dtype | None = None
    flushes: bool = False


@dataclass(frozen=True, eq=False)
class Rule:
    """A backward rule and all that is declared about it.

    `backward(grad_y, y, *primals, **params)` is pure and returns one gradient per primal, None for
    a primal that was not given; `saves` names what it reads of y and the primals, shapes and
    dtypes aside; `definition` is `forward` in NumPy notation, for numbers of any kind,
    None where it follows from `forward`.
    """

    name: str
    forward: Callable[..., Tensor]
    definition: Callable[..., Any] | None
    backward: Callable[..., Any]
    domain: Domain
    saves: tuple[str, ...]
    formula: str
    source: str
    conventions: tuple[Convention, ...] = ()
    roundings: Roundings = Roundings()

    def __str__(self) -> str:
        return self.name

    def __call__(self, *primals: Any, **params: Any) -> Any:
        """Return the function's value: `forward` of tensors, `definition` of NumPy's arrays; `recorded` keeps it."""
        defined = any(isinstance(x, np.ndarray) for x in primals)
        y = (self.definition if defined and self.definition else self.forward)(*primals, **params)
        record = _record.get()
        if record is not None:
            counted = isinstance(y, Tensor) and not y.is_inference()
            record.append(Application(self, primals, params, y, y._version if counted else 0))
        return y

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the rule by its name, as functions without one cannot be."""
        return find, (self.name,)

    @property
    def chapter(self) -> str:
        """The last part of the module's name in which the rule is declared."""
        return self.backward.__module__.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """The first line of the backward's docstring."""
        return (inspect.getdoc(self.backward) or "").partition("\n")[0]

    @cached_property
    def _primals(self) -> tuple[inspect.Parameter, ...]:
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return tuple(p for p in inspect.signature(self.backward).parameters.values() if p.kind is positional)[2:]

    @cached_property
    def primals(self) -> tuple[str, ...]:
        """The names of the primals, in order."""
        return tuple(p.name for p in self._primals)

    @cached_property
    def required_params(self) -> frozenset[str]:
        """The names of the params that have no default."""
        empty, parameters = inspect.Parameter.empty, inspect.signature(self.backward).parameters
        return frozenset(name for name in self.domain.params if parameters[name].default is empty)

    @cached_property
    def optional(self) -> frozenset[str]:
        """The names of the primals that may be left out."""
        return frozenset(p.name for p in self._primals if p.default is None)

    @property
    def reference(self) -> "Rule":
        """The rule whose accuracy is asked for."""
        return self.roundings.reference or CATALOGUE.get(self.name, self)

    @property
    def references(self) -> tuple["Rule", ...]:
        """The rules whose roundings are allowed for, the accurate one first."""
        return (self.reference, *self.roundings.excuses)

    @cached_property
    def differentiable(self) -> tuple[int, ...]:
        """The positions of the primals that have a gradient: all but masks and indices."""
        return tuple(i for i, name in enumerate(self.primals) if name not in self.domain.indices)

    def gradients(self, grad_y: Tensor, y: Tensor, *primals: Tensor | None, **params: Any) -> Gradients:
        """Return what `backward` returns, always as a tuple."""
        result = self.backward(grad_y, y, *primals, **params)
        return tuple(result) if isinstance(result, tuple | list) else (result,)


@dataclass(frozen=True, eq=False)
class Application:
    """A rule that was called: with these primals and params, to give y, which had been written to so many times."""

    rule: Rule
    primals: tuple[Any, ...]
    params: dict[str, Any]
    y: Any
    version: int


_record: ContextVar[list[Application] | None] = ContextVar("record", default=None)


@contextmanager
def within(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Until the end of the block, let the variable have this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def recorded() -> Iterator[list[Application]]:
    """Yield a list to which every call of a rule is added, in order, until the end of the block."""
    record: list[Application] = []
    with within(_record, record):
        yield record


_named: ContextVar[Callable[[str, Any], Any] | None] = ContextVar("named", default=None)


def part(name: str, value: Any) -> Any:
    """Return a value on the way through a definition, which an explanation calls by this name."""
    named = _named.get()
    return value if named is None else named(name, value)


def parts_named(named: Callable[[str, Any], Any]) -> AbstractContextManager[None]:
    """Put what `named` returns in the place of every part, until the end of the block."""
    return within(_named, named)


CATALOGUE: dict[str, Rule] = {}


def find(name: str) -> Rule:
    """Return the rule of that name; InputError, with the nearest name, if there is none."""
    try:
        return CATALOGUE[name]
    except (KeyError, TypeError):
        raise unknown("rule", str(name), CATALOGUE) from None


def rule(
    *,
    forward: Callable[..., Tensor],
    definition: Callable[..., Any],
    domain: Domain,
    saves: str,
    formula: str,
    source: str,
    conventions: tuple[Convention, ...] = (),
) -> Callable[[Callable[..., Any]], Rule]:
    """Declare the decorated backward a rule of the catalogue, under the function's own name.

    `saves` is the names that the backward reads, separated by blanks. Raises InputError where the
    declaration contradicts itself, so that a slip shows when the catalogue is imported.
    """
    kinked = isinstance(conventions, tuple) and all(isinstance(one, Convention) for one in conventions)
    for what, value, fits, kind in (
        ("forward", forward, callable(forward), "a function"),
        ("definition", definition, callable(definition), "a function in NumPy's notation"),
        ("domain", domain, isinstance(domain, Domain), "a Domain, as in Domain('...')"),
        ("saves", saves, isinstance(saves, str), "names with blanks between, as in 'x y'"),
        ("conventions", conventions, kinked, "a tuple of Convention"),
    ):
        if not fits:
            raise InputError(f"@rule: {what} must be {kind}; got {value!r}.")

    def declare(backward: Callable[..., Any]) -> Rule:
        name = backward.__name__
        declared = Rule(name, forward, definition, backward, domain, tuple(saves.split()), formula, source, conventions)
        problem = _contradiction(declared)
        if problem:
            raise InputError(f"rule {name}: {problem}")
        CATALOGUE[name] = declared
        return declared

    return declare


def misfit(rule: Rule) -> str | None:
    """Say how the backward's signature does not fit the rule, None if it does."""
    parameters = inspect.signature(rule.backward).parameters
    if list(parameters)[:2] != ["grad_y", "y"]:
        return f"backward must begin with (grad_y, y, ...), not ({', '.join(parameters)})"
    if len(rule.primals) != len(axes_of(rule.domain.shapes)):
        return f"backward has the primals {rule.primals}, but the domain has the shapes '{rule.domain.shapes}'"
    if not all(axes_of(rule.domain.shapes)):
        return f"a primal has no axes in the shapes '{rule.domain.shapes}'; '...' stands for any number of them"
    keyword_only = {n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if keyword_only != set(rule.domain.params):
        return (
            f"backward has the params {sorted(keyword_only)}, but the domain has {sorted(rule.domain.params)}; "
            "they are keyword-only, after an asterisk"
        )
    return None


def _contradiction(rule: Rule) -> str | None:
    if rule.name in CATALOGUE:
        return f"the catalogue has a rule of that name already, in {CATALOGUE[rule.name].backward.__module__}"
    problem = misfit(rule)
    if problem:
        return problem
    unknown_primals = {*rule.domain.indices, *rule.domain.values} - set(rule.primals)
    if unknown_primals:
        return f"the domain speaks of {sorted(unknown_primals)}, but the primals are {', '.join(rule.primals)}"
    strangers = set(rule.saves) - {"y", *rule.primals}
    if strangers:
        return f"saves names {sorted(strangers)}, but there is only y, {', '.join(rule.primals)}"
    if not (rule.summary and rule.formula and rule.source):
        return "a rule needs a docstring, a formula and a source"
    return None
