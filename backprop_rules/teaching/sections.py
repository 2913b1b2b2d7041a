"""What there is to say of a rule beyond its formula, a section each, made from its declaration and one example."""

import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.diagnosis.mistake import Case, Known
from backprop_rules.domain import BATCH, axes_of
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.oracles import OneSidedDifferences, ReverseMode
from backprop_rules.evidence.proof.certified import certify, enclosure
from backprop_rules.formula import columns, element, in_lines, of_reals, plain
from backprop_rules.properties.same import given
from backprop_rules.properties.special_values import Special, ordinary, table
from backprop_rules.rule import Convention, Rule, installed
from backprop_rules.teaching.example import example, standing, told
from backprop_rules.teaching.pictures import beside, on_one_line, text
from backprop_rules.teaching.told import TEXTS, Words
from backprop_rules.teaching.usual import usual

if TYPE_CHECKING:
    from backprop_rules.teaching.written_out import WrittenOut

SHOWN = 6  # elements that are written out; of the others it is said how many there are
LONG = 100  # letters of a line that says of one element what has been said of all


def sections(rule: Rule, words: Words) -> Iterator[str]:
    """Yield the sections after the first."""
    call = example(rule)
    yield _section(words("numbers"), worked(call, words))
    yield _section(words("one"), one_element(call, words))
    yield _section(*derivation(call, words))
    code = textwrap.dedent(inspect.getsource(rule.backward)).splitlines()
    own = itertools.dropwhile(lambda line: not line.startswith("def "), code)  # without the declaration above them
    yield _section(words("code"), [*own, *_helpers(rule)])
    yield _section(words("kinks"), list(kinks(rule, words)) or [words("smooth", rule=rule)])
    yield _section(words("special", rule=rule), list(special(rule, words)) or [words("nothing special")])
    yield f"\n{words('mistakes')}"
    found = None
    for found in mistakes(rule, words):
        yield found
    if found is None:
        yield f"    {words('no mistake')}"


def _helpers(rule: Rule) -> Iterator[str]:
    """Yield the code of functions of the rule's own module that it calls, which are its own."""
    backward = inspect.unwrap(rule.backward)
    for name in backward.__code__.co_names:
        helper = backward.__globals__.get(name)
        if name.startswith("_") and inspect.isfunction(helper) and helper.__module__ == backward.__module__:
            yield from ["", *inspect.getsource(helper).splitlines()]


def _section(title: str, lines: Iterable[str]) -> str:
    return f"\n{title}\n" + "\n".join(f"    {part}".rstrip() for line in lines for part in line.splitlines() or [""])


def worked(call: Call, words: Words) -> Iterator[str]:
    """Yield the example's numbers, and whether the gradients lie in the enclosures of the true ones."""
    named = zip((*call.rule.primals, "y", "grad_y"), (*call.primals, call.y, call.grad_y), strict=True)
    yield from (beside(f"{name} = ", text(x)) for name, x in named if x is not None)
    yield from (f"{name} = {value!r}" for name, value in told(call).items())
    try:
        balls, radii = certify(call).gradients, bounds(call).gradients
    except Exception as error:  # of the definition, which may be anybody's
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{call.rule}: it cannot be explained before it is verified: {reason}") from error
    for i, gradient in given(call, call.gradients):
        ball, radius = balls[i], radii[i]
        assert ball is not None and radius is not None
        yield beside(f"grad_{call.rule.primals[i]} = ", text(gradient))
        true = enclosure(ball, radius, gradient)
        if true.outside(gradient) is not None:
            mine, low, high = map(on_one_line, (gradient, true.lo, true.hi))
            said = f"its gradient of {call.rule.primals[i]} is {mine}, and the true one lies from {low} to {high}"
            raise InputError(f"{call.rule}: it cannot be explained before it is verified: {said}.")
    yield words("checked")


def one_element(call: Call, words: Words) -> Iterator[str]:
    """Yield the ways that lead from one element of the first primal to y, with what comes back along each."""
    i = call.given[0]
    jacobian = Case(call, i).jacobian
    assert jacobian is not None
    chosen = int((jacobian != 0).sum(0).argmax())
    name, value = _elements(call.rule.primals[i], call.tensors[0])[chosen], call.tensors[0].flatten()[chosen].item()
    slopes = jacobian[:, chosen].tolist()
    ways = zip(call.grad_y.flatten().tolist(), slopes, _elements("y", call.y), strict=True)
    reached = [{"bar": g, "slope": d, "y": y, "product": g * d} for g, d, y in ways if d]
    yield words("moved" if reached else "nowhere", name=name, value=value)
    yield from (words("by", name=name, **way) for way in reached)
    if reached:
        yield words("total", name=name, total=sum(way["product"] for way in reached))


def _elements(name: str, x: Tensor) -> list[str]:
    return [element(name, [k + 1 for k in place]) for place in np.ndindex(*x.shape)]


def derivation(call: Call, words: Words) -> tuple[str, list[str]]:
    """Return a title, and the steps from the function to the formula, with the shapes of the example."""
    # SymPy takes longer to import than all before to print.
    from backprop_rules.teaching.written_out import WrittenOut

    rule, found, shape = call.rule, WrittenOut(call), _shape(call.y)
    primals = words.listed(f"{rule.primals[i]} {_shape(x)}" for i, x in enumerate(call.primals) if x is not None)
    params = [f"{name}={value!r}" for name, value in told(call).items()]
    made = words("makes", call=f"y = {rule}({', '.join([*rule.primals, *params])})", shape=shape, given=primals)
    steps = [made, _definition(found, words), words("moves", shape=shape)]
    steps += [_gradient(found, i, words) for i in call.given]
    reads = words("reads", names=words.listed(rule.saves)) if rule.saves else words("shapes")
    steps.append(f"{words('at once', formula=in_lines(words.formula(of_reals(plain(rule.formula)))))}\n{reads}")
    title = words("branches" if found.branched else "derivation")
    return title, [beside(f"{k}. ", step) for k, step in enumerate(steps, 1)]


def _definition(found: "WrittenOut", words: Words) -> str:
    """Return how y is made: in the steps that the definition names, and element by element where they do not tell."""
    steps, lines = list(found.steps()), list[str]()
    wide = max((columns(made) for made, slope in steps if slope), default=0)
    for made, slope in steps:
        apart = " " * (wide + 4 - columns(made))
        lines.append(words("picked", made=made) if slope is None else f"{made}{apart}{slope}".rstrip())
    if lines:
        lines = [words("steps", x=found.call.rule.primals[found.call.given[0]]), *_indented(lines)]
    if any("δ" in line for line in lines):
        lines.append(words("delta"))
    lines += [words("used", sum=zero) for zero in found.used()]
    if len(steps) < len(found.parts) or (len(found.parts) == 1 and "Σ" in steps[-1][0]):
        lines += [words("elements"), *_few(found.outputs(), words)]
    return "\n".join(lines)


def _gradient(found: "WrittenOut", i: int, words: Words) -> str:
    """Return the gradient of a primal: for any indices, where there is one form of it, and for the first elements."""
    call, name, (general, each) = found.call, found.call.rule.primals[i], found.told(i)
    x, axes = call.primals[i], axes_of(call.rule.domain.shapes)
    assert x is not None
    lines = [words("gradient", name=name), *_indented([general] if general else [])]
    batched = next((k for k, names in enumerate(axes) if BATCH in names), None)
    if general and batched is not None and BATCH not in axes[i]:
        batch = call.rule.primals[batched]
        lines.append(words("batch", batch=batch, name=name, letter=element("", found.names.letters[batch][0])))
    shown = [] if general and "Σ" not in general else [line for line in each if not general or columns(line) < LONG]
    return "\n".join([*lines, *_few(shown, words)])


def _few(lines: list[str], words: Words) -> list[str]:
    return _indented(lines[:SHOWN] + [words("more", count=len(lines) - SHOWN)] * (len(lines) > SHOWN))


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def kinks(rule: Rule, words: Words) -> Iterator[str]:
    """Yield each point without a derivative, the choice made there, who makes it, and the smallest example."""
    for convention in rule.conventions:
        found = next(filter(partial(_stands_on, convention), standing(rule)), None)
        key = "no kink" if found is not None and _differentiable(found) else "kink"
        yield words(key, at=words.of("kinks", convention.at), value=words.of("kinks", convention.value))
        modes = (convention.torch, convention.torch_forward)
        reverse, forward = (words("some versions", versions=v) if v else words("no version") for v in modes)
        yield "    " + words("versions", reverse=reverse, forward=forward)
        agrees = {(True, True): "both", (True, False): "reverse", (False, True): "forward", (False, False): "none"}
        key = f"agrees in {agrees[installed(modes[0]), installed(modes[1])]}"
        yield "    " + words(key, version=torch.__version__)
        if found is not None:
            i = max(found.given, key=lambda k: _disagree(found, k))
            yield "    " + words("choices", given=words.listed(_given(found)), name=rule.primals[i])
            yield "    " + words("and").join(_choices(found, i, convention, words)) + words("stop")


def _stands_on(convention: Convention, call: Call) -> bool:
    """Say whether an output with a cotangent stands on the kink."""
    return bool((convention.where(*call.primals, **call.params) & (call.grad_y != 0)).any())


def _differentiable(call: Call) -> bool:
    """Say whether the derivatives from both sides are equal, for a cotangent of 1, with respect to each primal."""
    sides = OneSidedDifferences().enclosures(replace(call, spacing=1.0))
    return all(between is None or between.lo.equal(between.hi) for between in sides)


def _disagree(call: Call, i: int) -> int:
    """Return 2 for a primal whose gradient torch gives otherwise, 1 for one with a gradient, or 0."""
    mine, torchs = call.gradients[i], ReverseMode().gradients(call)[i]
    assert mine is not None and torchs is not None
    return 2 if not mine.equal(torchs) else int(bool(mine.any()))


def _choices(call: Call, i: int, convention: Convention, words: Words) -> Iterator[str]:
    mine, torchs = call.gradients[i], ReverseMode().gradients(call)[i]
    assert mine is not None and torchs is not None
    yield words("by rule", value=on_one_line(mine))
    yield words("by torch", value=on_one_line(torchs), version=torch.__version__)
    theirs = TEXTS["jax"].get(call.rule.name, {}).get(convention.at)
    if theirs is not None:
        yield words("by JAX", value=f"{theirs:g}", version=TEXTS["jax"]["version"])


def special(rule: Rule, words: Words) -> Iterator[str]:
    """Yield each special value at which torch gives something else, or the rule is wrong."""
    rows: dict[str, list[Special]] = {}
    for row in table(rule):
        if not row.right or f"{row.gradient:.6g}" != f"{row.torchs:.6g}":
            fields = {"at": row.at, "value": row.value, "name": rule.primals[row.primal], "limit": _limit(row, words)}
            line = words("at special", gradient=f"{row.gradient:.6g}", torch=f"{row.torchs:.6g}", **fields)
            rows.setdefault(line, []).append(row)
    for line, some in rows.items():
        params = [
            f"{name} = {'/'.join(dict.fromkeys(str(row.call.params[name]) for row in some))}"
            for name in rule.domain.params
            if {str(row.call.params[name]) for row in some} != {str(row.call.params[name]) for row in table(rule)}
        ]
        yield line + (words("only for", params=words.listed(params)) if params else "")
    if rows:
        points = dict.fromkeys(words.listed(_tensors(call)) for call in ordinary(rule))
        yield words("elsewhere", given=" / ".join(points))


def _limit(row: Special, words: Words) -> str:
    if row.limit is None:
        return words("no limit")
    if row.limit == (-math.inf, math.inf):
        return words("no bound")
    least, most = row.ends
    return words("limit", limit=least) if least == most else words("between", low=least, high=most)


def mistakes(rule: Rule, words: Words) -> Iterator[str]:
    """Yield each usual mistake, with the smallest example found that exposes it."""
    for known, case, wrong in usual(rule):
        yield "\n        ".join([f"\n    {_told(known, words)}", *_shown(case, wrong, words)])


def _told(known: Known, words: Words) -> str:
    """Return what a mistake is called, and what is done wrong."""
    value = re.fullmatch(r"as if (\w+) were (.*) whatever it is", known.words)
    if value:
        return words("ignored", param=value[1], value=value[2])
    return words.of("mistakes", f"{known.name}: {known.words}", known.name)


def _shown(case: Case, wrong: Tensor, words: Words) -> Iterator[str]:
    yield ", ".join(_given(case.call))
    right, got = on_one_line(case.right), on_one_line(wrong)
    if wrong.shape != case.right.shape:
        right = words("shaped", value=right, shape=_shape(case.right))
        got = words("shaped", value=got, shape=_shape(wrong))
    yield words("right", name=case.call.rule.primals[case.primal], right=right, wrong=got)


def _tensors(call: Call) -> list[str]:
    named = zip((*call.rule.primals, "grad_y"), (*call.primals, call.grad_y), strict=True)
    return [f"{name} = {on_one_line(x)}" for name, x in named if x is not None]


def _given(call: Call) -> list[str]:
    return _tensors(call) + [
        f"{name} = {v:g}" if isinstance(v, float) else f"{name} = {v}" for name, v in told(call).items()
    ]
