"""A rule explained: formula, derivation with every shape, code, a worked example, kinks, and the usual mistakes.

Everything is made from the rule's declaration when it is asked for, so that a rule of your own is explained as well.
"""

import inspect
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.diagnosis.bank import BANK
from backprop_rules.diagnosis.mistake import Case, Family, Known, applies
from backprop_rules.diagnosis.twins import asked_of_jax
from backprop_rules.domain import BATCH, Bound, Index, axes_of, kinds_of
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.oracles import ReverseMode
from backprop_rules.evidence.proof.certified import certify, enclosure
from backprop_rules.formula import plain
from backprop_rules.properties import effort
from backprop_rules.properties.same import given
from backprop_rules.question import of_the_catalogue
from backprop_rules.rule import Convention, Rule, installed
from backprop_rules.strategies.drawing.bulk import drawn
from backprop_rules.strategies.of_rules import call_that_fits, widened
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.shrink import plainer, shrunk
from backprop_rules.strategies.shrink_rules import smaller_of_a_rule
from backprop_rules.subject.silence import quiet
from backprop_rules.teaching.pictures import on_one_line, text
from backprop_rules.teaching.symbols import WrittenOut, elements, written

LEGEND = "x̄ is ∂L/∂x for a number L, ȳ what arrives (grad_y in the code); * conjugates, ᴴ transposes and conjugates."
SIZES = (2, 3)  # of the axes of the example in turn: different ones, so that nothing fits by accident
NUMBERS = (2.0, -1.0, 0.5, 3.0, -2.0, 1.0, -0.5, 4.0)
SHOWN = 6  # elements that are written out; of the others it is said how many there are
EXAMPLES = 100  # points drawn in search of mistakes, and of a kink
SMALL = (1, 2)  # the sizes of axes of these points


def example(rule: Rule) -> Call:
    """Return a point of small numbers of the rule's domain, with different sizes on different axes."""
    named = tuple(tuple(name.rstrip("?") for name in names) for names in axes_of(rule.domain.shapes))
    letters = list(dict.fromkeys(name for names in named for name in names if name != BATCH))
    sizes = dict(zip(letters, itertools.cycle(SIZES), strict=False)) or {BATCH: max(SIZES)}
    bounds_in_order = itertools.count()
    params = {
        name: next(bounds_in_order) if isinstance(param, Bound) else kinds_of(param)[0]
        for name, param in rule.domain.params.items()
    }
    primals = tuple(
        _values(rule, k, [sizes[name] for name in names if name in sizes], params) for k, names in enumerate(named)
    )
    blank = Call(rule, primals, params, torch.empty(0))
    return replace(blank, grad_y=_numbers(tuple(blank.y.shape), [1.0, 3.0, -2.0, 5.0, -1.0, 4.0]))


def _values(rule: Rule, k: int, shape: list[int], params: dict[str, Any]) -> Tensor:
    holds = rule.domain.indices.get(rule.primals[k])
    if holds is not None:
        counted = torch.arange(math.prod(shape)).reshape(shape)
        return counted % min(SIZES) if isinstance(holds, Index) else counted % 2 == 0
    low, high = rule.domain.interval(rule.primals[k], params)
    return _numbers(shape, [v for v in NUMBERS[k:] + NUMBERS[:k] if low < v < high])


def _numbers(shape: Sequence[int], values: list[float]) -> Tensor:
    numbers = list(itertools.islice(itertools.cycle(values), math.prod(shape)))
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)


def explained(rule: Rule) -> Iterator[str]:
    """Yield what there is to say of the rule, a section at a time."""
    call = example(rule)
    yield f"{rule}: {rule.summary}\n    {plain(rule.formula)}\n    {rule.source}\n    {LEGEND}"
    yield _section("In numbers, computed now in float64", worked(call))
    yield _section("One element", one_element(call))
    steps = [f"{k}. {step}" for k, step in enumerate(derivation(call), 1)]
    yield _section("Derivation, for these numbers: of a function with branches, the ones that they lie on", steps)
    code = textwrap.dedent(inspect.getsource(rule.backward)).splitlines()
    own = itertools.dropwhile(lambda line: not line.startswith("def "), code)  # without the declaration above them
    yield _section("The rule as code", list(own))
    smooth = [f"{rule} has a derivative everywhere in its domain."]
    yield _section("Kinks and conventions", list(kinks(rule)) or smooth)


def _section(title: str, lines: list[str]) -> str:
    return f"\n{title}\n" + "\n".join(f"    {part}" for line in lines for part in line.splitlines())


def derivation(call: Call) -> Iterator[str]:
    """Yield the steps from the function to the formula, with the shapes of the example."""
    rule, y = call.rule, _shape(call.y)
    given = [f"{rule.primals[i]} {_shape(x)}" for i, x in enumerate(call.primals) if x is not None]
    params = "".join(f", {name}={value!r}" for name, value in call.params.items())
    yield f"y = {rule}({', '.join(rule.primals)}{params}) makes y {y} of {', '.join(given)}."
    found = WrittenOut(call)
    names = elements("y", call.y.shape)
    yield "Element by element:\n" + _few([f"{a} = {b}" for a, b in zip(names, found.outputs(), strict=True)])
    yield (
        f"A number L depends on the primals through y alone. What arrives is ȳ = ∂L/∂y, of y's shape {y}.\n"
        "An element x of a primal moves L through every element of y that it comes into: ∂L/∂x = Σ ȳᵢ · ∂yᵢ/∂x."
    )
    for i in call.given:
        name, x = rule.primals[i], call.primals[i]
        assert x is not None
        lines = [f"∂L/∂{a} = {written(b)}" for a, b in zip(elements(name, x.shape), found.gradient(i), strict=True)]
        yield f"For {name}, a gradient of {name}'s shape {_shape(x)}:\n{_few(lines)}"
    read = ", ".join(rule.saves) if rule.saves else "nothing but shapes"
    yield f"All at once: {plain(rule.formula)}.\nThe backward needs {read} of the forward pass."


def _few(lines: list[str]) -> str:
    more = [f"    … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([f"    {line}" for line in lines[:SHOWN]] + more)


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def worked(call: Call) -> list[str]:
    """Return the example's numbers, and whether the gradients lie in the enclosures of the true ones."""
    named = zip((*call.rule.primals, "y", "grad_y"), (*call.primals, call.y, call.grad_y), strict=True)
    lines = [_named(name, x) for name, x in named if x is not None]
    lines += [f"{name} = {value!r}" for name, value in call.params.items()]
    try:
        balls, radii = certify(call).gradients, bounds(call).gradients
    except Exception as error:  # of the definition, which may be anybody's
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{call.rule}: it cannot be explained before it is verified: {reason}") from error
    right = True
    for i, gradient in given(call, call.gradients):
        ball, radius = balls[i], radii[i]
        assert ball is not None and radius is not None
        lines.append(_named(f"grad_{call.rule.primals[i]}", gradient))
        right &= enclosure(ball, radius, gradient).outside(gradient) is None
    outcome = "each lies" if right else "NOT each lies"
    return [*lines, f"Checked: {outcome} in the proved enclosure of the true gradient (ball arithmetic)."]


def _named(name: str, x: Tensor) -> str:
    return f"{name} = {text(x)}".replace("\n", "\n" + " " * (len(name) + 3))


def one_element(call: Call) -> list[str]:
    """Return the ways that lead from one element of the first primal to y, with what comes back along each."""
    i = call.given[0]
    jacobian = Case(call, i).jacobian
    assert jacobian is not None
    chosen = int((jacobian != 0).sum(0).argmax())
    name, value = elements(call.rule.primals[i], call.tensors[0].shape)[chosen], call.tensors[0].flatten()[chosen]
    slopes = jacobian[:, chosen].tolist()
    ways = zip(call.grad_y.flatten().tolist(), slopes, elements("y", call.y.shape), strict=True)
    reached = [(g, d, a) for g, d, a in ways if d]
    lines = [f"{name} = {value:g}, moved a little, moves L through the elements of y that it comes into:"]
    lines += [f"    by {a}: ∂{a}/∂{name} = {d:.4g}, times ȳ = {g:g}, is {g * d:.4g}" for g, d, a in reached]
    total = sum(g * d for g, d, _ in reached)
    return [*lines, f"Added up: ∂L/∂{name} = {total:.4g}." if reached else f"There is none: ∂L/∂{name} = 0."]


def kinks(rule: Rule) -> Iterator[str]:
    """Yield each point without a derivative, the choice made there, who makes it, and the smallest example."""
    for convention in rule.conventions:
        yield f"Where {convention.at} the rule gives {convention.value}."
        yield f"    torch: {_who(convention.torch)} in reverse mode, {_who(convention.torch_forward)} in forward mode;"
        yield f"    the installed {torch.__version__} {_agrees(convention)}."
        found = smallest(rule, drawn(rule, EXAMPLES, dtypes=[torch.float64]), partial(_stands_on, convention))
        if found is not None:
            yield f"    For {_given(found)} the gradient of {rule.primals[found.given[0]]} is"
            yield f"    {', '.join(_choices(found, found.given[0]))}."


def smallest(rule: Rule, calls: Iterable[Call], shows: Callable[[Call], object]) -> Call | None:
    """Return the smallest call found at which something shows: the smallest in which it does, made smaller."""
    sizes = {call: [x.numel() for x in call.tensors] for call in calls}
    in_order = sorted(sizes, key=lambda call: (0 in sizes[call], sum(sizes[call])))
    first = next(filter(shows, in_order), None)
    if first is None:
        return None
    subject, evaluations = of_the_catalogue(rule, rule.domain.dtypes), iter(range(effort.SHRINKS_OF_A_RULE))

    def again(point: Point) -> Point | None:
        call = call_that_fits(rule, point)
        return point if call is not None and not point.empty and shows(call) else None

    start = replace(widened(first), spacing=0.0)  # off the grid, whose numbers are small
    ways = (partial(smaller_of_a_rule, rule, subject.function, subject.constants), plainer)
    with quiet():
        found = shrunk(start, lambda point: point, again, ways, lambda: next(evaluations, None) is not None)
    return call_that_fits(rule, found)


def _stands_on(convention: Convention, call: Call) -> bool:
    """Say whether an output with a cotangent stands on the kink."""
    return bool((convention.where(*call.primals, **call.params) & (call.grad_y != 0)).any())


def _choices(call: Call, i: int) -> Iterator[str]:
    answers = [("this rule", call.gradients[i]), (f"torch {torch.__version__}", ReverseMode().gradients(call)[i])]
    theirs = asked_of_jax(call, i)
    answers += [(f"JAX {theirs[0]}", theirs[1])] if theirs else []
    return (f"{on_one_line(gradient)} by {who}" for who, gradient in answers if gradient is not None)


def _who(versions: str | None) -> str:
    return f"versions {versions}" if versions else "no version"


def _agrees(convention: Convention) -> str:
    both = installed(convention.torch), installed(convention.torch_forward)
    return {
        (True, True): "makes this choice in both",
        (True, False): "makes it in reverse mode only",
        (False, True): "makes it in forward mode only",
        (False, False): "makes another one",
    }[both]


def mistakes(rule: Rule) -> Iterator[str]:
    """Yield each mistake of the bank that can be made here, with the smallest example found that exposes it.

    A complex point, or one at a kink, where what is right is a choice, is taken only where no other shows the mistake.
    """
    widest = [dtype for dtype in rule.domain.dtypes if dtype in (torch.float64, torch.complex128)]
    points = {dtype: list(drawn(rule, EXAMPLES, dtypes=[dtype], sides=SMALL)) for dtype in widest}
    named: dict[str, Known] = {}
    for known in BANK:
        named.setdefault(known.name, known)
    for known in sorted(named.values(), key=lambda known: known.family is Family.FACTOR):  # constant factors last
        for dtype, at_kinks in itertools.product(widest, (False, True) if rule.conventions else (True,)):
            exposed = partial(_exposed, known, at_kinks)
            shown = smallest(rule, points[dtype], exposed)
            found = None if shown is None else exposed(shown)
            if found is not None:
                yield "\n        ".join([f"\n    {known.name}: {known.words}", *_shown(*found)])
                break


def _exposed(known: Known, at_kinks: bool, call: Call) -> tuple[Case, Tensor] | None:
    """Return the case, and what it gives, where the mistake is farther from the right gradient than rounding can be."""
    for i in call.given:
        case = Case(call, i)
        wrong = applies(known, case)
        if wrong is None or not (case.y.any() and case.right.isfinite().all() and wrong.isfinite().all()):
            continue
        if call.rule.conventions and not at_kinks and bool(case.at_kink.any()):
            continue
        radius = bounds(call, evaluations=2).gradients[i]
        if wrong.shape != case.right.shape or radius is None or bool(((wrong - case.right).abs() > radius).any()):
            return case, wrong
    return None


def _shown(case: Case, wrong: Tensor) -> Iterator[str]:
    yield _given(case.call)
    right, got = on_one_line(case.right), on_one_line(wrong)
    if wrong.shape != case.right.shape:
        right, got = f"{right} of shape {_shape(case.right)}", f"{got} of shape {_shape(wrong)}"
    yield f"gradient of {case.call.rule.primals[case.primal]}: right {right}, with this mistake {got}"


def _given(call: Call) -> str:
    named = zip((*call.rule.primals, "grad_y"), (*call.primals, call.grad_y), strict=True)
    given = [f"{name} = {on_one_line(x)}{_layout(x)}" for name, x in named if x is not None]
    params = ((name, value) for name, value in call.params.items() if value is not None)
    given += [f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in params]
    return ", ".join(given)


def _layout(x: Tensor) -> str:
    return "" if x.is_contiguous() else f" with strides {x.stride()}"
