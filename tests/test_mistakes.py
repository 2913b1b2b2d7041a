"""The bank of mistakes tests the checker: each, planted in every rule that it applies to, is caught and named."""

import functools
import inspect
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from grouped import by_rule

from backprop_rules import CATALOGUE
from backprop_rules.call import Call
from backprop_rules.diagnosis.mistake import Case, Family, Known, applies
from backprop_rules.diagnosis.naming import named_mistake
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.evidence.oracles import ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.properties.finding import Grade
from backprop_rules.properties.outcome import Questions
from backprop_rules.properties.trial import Trial
from backprop_rules.question import Asked, question
from backprop_rules.strategies.drawing import bulk
from backprop_rules.strategies.of_rules import RulePoints
from backprop_rules.subject.kept import Keeps
from backprop_rules.teaching.example import example
from backprop_rules.teaching.taught import TAUGHT

pytestmark = pytest.mark.filterwarnings(r"ignore:var\(\)")


@pytest.fixture(autouse=True)
def small_jacobians(monkeypatch):
    """A Jacobian that is planted is formed anew by every property: none is planted for more outputs than these."""
    monkeypatch.setattr("backprop_rules.diagnosis.mistake.MANY", 30)


@pytest.fixture(autouse=True)
def shared_points(monkeypatch):
    """The points that tell explanations apart depend on the rule alone: they are drawn once."""
    monkeypatch.setattr("backprop_rules.strategies.of_rules.RulePoints", points_to_name_by)


@pytest.fixture(autouse=True)
def shared_truth(monkeypatch):
    """What torch gives at a point depends on the rule alone: it is asked once for all mistakes of the test."""
    known = functools.cache(lambda *_: Keeps())
    monkeypatch.setattr(Evidence, "known", property(lambda e: known(e.subject.function, e.point, e.pair)))


@functools.cache
def points_to_name_by(rule, count, seed, dtypes):
    return tuple(RulePoints(rule, count, seed, dtypes))


WIDEST = {name: [d for d in r.domain.dtypes if d in (torch.float64, torch.complex128)] for name, r in CATALOGUE.items()}
OF_SOME = ("masked by the cotangent",)  # planted where the rule's example shows it: of what has no mask it is none
NOT_PLANTED = ("not unsqueezed", "not divided by n", "factors in the wrong order", "exponent not lowered")
PLANTED = (
    *(known for known in TAUGHT if known.name not in NOT_PLANTED),
    Known("zero", "it is zero everywhere", predict=lambda c: torch.zeros_like(c.right)),
    Known(
        "first element of the cotangent",
        "only the first element of the cotangent is read",
        predict=lambda c: c.gradient(torch.full_like(c.g, c.g.reshape(-1)[0].item())),
    ),
)
NAMED = {known.name: known for known in PLANTED}
# What surgery calls some of them: as if the function, or a step in it, were a constant; summed over an axis, too.
CALLED = {
    **dict.fromkeys(("zero", "statistics held constant", "mean held constant", "variance held constant"), "constant"),
    "sum over every axis": "axis",
}
OFTEN = 4  # points of sixty at which a mistake must show, so that it is no rarity that another sixty may lack


def planted(known, rule):
    """Return the rule's backward with the mistake made wherever it can be told from the right one."""

    def backward(grad_y, y, *primals, **params):
        call = Call(rule, primals, params, grad_y)
        found = list(rule.gradients(grad_y, y, *primals, **params))
        for i in call.given:
            case = Case(call, i)
            case.right = found[i]  # or it is asked for once more
            wrong = applies(known, case)
            found[i] = found[i] if wrong is None else wrong.to(primals[i].dtype)
        return tuple(found)

    backward.__signature__ = inspect.signature(rule.backward)
    return backward


@functools.cache
def cases(rule):
    """Return a case for each primal of sixty points of the rule."""
    points = list(bulk.drawn(rule, 60, dtypes=WIDEST[rule.name]))
    return [Case(replace(call, spacing=0.0), i) for call in points for i in call.given]


def shows(known, case):
    """Say whether the mistake gives something further from the right gradient, and from torch's, than rounding can.

    What torch gives is its choice at a kink, which a check that asks for torch's choices accepts.
    """
    wrong = applies(known, case)
    if wrong is None or not case.right.isfinite().all():
        return False
    if wrong.shape != case.right.shape:
        return True
    radius, passed = accepted(case)
    return all(bool(((wrong - other).abs() > 2 * radius).any()) for other in passed)


@functools.cache
def accepted(case):
    """Return how far rounding may take a gradient, and what a check accepts: the right one, and torch's if it has one.

    They are the same for every mistake.
    """
    passed = [case.right]
    with suppress(Silent):
        passed.append(ReverseMode().gradients(case.call)[case.primal])
    return bounds(case.call, evaluations=2).gradients[case.primal], passed


@functools.cache
def applicable(rule):
    """Return the mistakes that show at several points."""
    here = [Case(example(rule), i) for i in rule.differentiable]
    some = [k for k in PLANTED if k.name not in OF_SOME or any(applies(k, case) is not None for case in here)]
    seen = Counter(known for known in some for case in cases(rule) if shows(known, case))
    return [known for known in some if seen[known] >= OFTEN]


def alike(known, other, rule, leaf):
    """Say whether two mistakes come to the same for that gradient, as a cotangent ignored and zero do for softmax."""
    either = [c for c in cases(rule) if c.primal == leaf and (shows(known, c) or shows(other, c))]
    return all(same(made(known, c), made(other, c)) for c in either)


def apart(known, rule, leaf, named):
    """Say what the mistake is called instead, and show the first point at which that is another one."""
    told = f"{rule}: {known.name} is caught, and called {named or 'nothing'}"
    pairs = [(c, made(known, c), made(NAMED[n], c)) for n in named.split(" or ") if n in NAMED for c in cases(rule)]
    for case, one, other in pairs:
        if case.primal == leaf and not same(one, other):
            return f"{told}; they differ here, as {one.tolist()} and {other.tolist()}:\n{case.call}"
    return told


def made(known, case):
    wrong = applies(known, case)
    return case.right if wrong is None else wrong


def same(one, other):
    """Say whether these are the same gradients, but for rounding and what overflows."""
    if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return False
    finite = one.isfinite() & other.isfinite()
    if not finite.any():
        return True
    return bool(((one - other)[finite].abs() <= one[finite].abs().max() * 2.0**-40).all())


@functools.cache
def drawn(rule, examples, seed):
    """Return the points at which every mistake planted in the rule is tried: which they are depends on none."""
    return tuple(RulePoints(rule, examples, seed, tuple(WIDEST[rule.name])))


def asked_of(backward, rule):
    held = (rule.name, None, None, None, {}, None)
    subject, _ = question(backward, held, Asked(dtypes=WIDEST[rule.name]))
    return subject


@functools.cache
def function_of(rule):
    """Return the function that all mistakes are held against."""
    return asked_of(rule.backward, rule).function


def named_by_the_checker(known, rule):
    """Return the name that the checker finds from a few drawn points, and of which gradient, without shrinking.

    Another choice at a kink may be all that a few points show. None where it objects to nothing.
    """
    subject = replace(asked_of(planted(known, rule), rule), function=function_of(rule))
    found = None, None
    for seed, examples in enumerate((60, 400, 400)):
        outcome = Trial(subject, drawn(rule, examples, seed), Questions(work=10**9, after=12)).run()
        if outcome.worst in (Grade.WRONG, Grade.CONVENTION):
            mistake = named_mistake(subject, outcome, outcome.chief)
            found = "" if mistake is None else mistake.name, outcome.chief.leaf
            if outcome.worst is Grade.WRONG or mistake is not None:
                break
    return found


@by_rule(CATALOGUE.values())
def test_every_mistake_is_caught_and_named(rule):
    otherwise = {}
    for known in applicable(rule):
        named, leaf = named_by_the_checker(known, rule)
        assert named is not None, f"{known.name} is not caught"
        if named == "ties shared wrongly" and known.family is Family.TIES:
            continue  # which it is as well, where several operands are tied
        if named == CALLED.get(known.name):
            continue
        if not any(n == known.name or (n in NAMED and alike(known, NAMED[n], rule, leaf)) for n in named.split(" or ")):
            otherwise[known.name] = apart(known, rule, leaf, named)
    assert not otherwise, "\n".join(otherwise.values())


def test_the_table_is_no_small_one():
    counts = accumulate(len(applicable(rule)) for rule in CATALOGUE.values())
    assert any(count >= 200 for count in counts)
