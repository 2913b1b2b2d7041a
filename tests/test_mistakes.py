"""The bank of mistakes tests the checker: each, planted in every rule that it applies to, is caught and named."""

import functools
import inspect
from collections import Counter
from dataclasses import replace

import pytest
import torch

from backprop_rules import CATALOGUE
from backprop_rules.bounds import bounds
from backprop_rules.checker import check
from backprop_rules.checker.mistakes import BANK, Case, applies
from backprop_rules.draw import search
from backprop_rules.point import Point

WIDEST = {name: [d for d in r.domain.dtypes if d in (torch.float64, torch.complex128)] for name, r in CATALOGUE.items()}
NAMED = {known.name: known for known in BANK}
OFTEN = 4  # points of sixty at which a mistake must show, so that it is no rarity that another sixty may lack


def planted(known, rule):
    """Return the rule's backward with the mistake made wherever it can be told from the right one."""

    def backward(grad_y, y, *primals, **params):
        point = Point(rule, primals, params, grad_y)
        found = list(rule.gradients(grad_y, y, *primals, **params))
        for i in point.given:
            wrong = applies(known, Case(point, i))
            found[i] = found[i] if wrong is None else wrong.to(primals[i].dtype)
        return tuple(found)

    backward.__signature__ = inspect.signature(rule.backward)
    return backward


@functools.cache
def cases(rule):
    """Return a case for each primal of sixty points of the rule."""
    found = []

    def keep(point):
        found.extend(Case(replace(point, spacing=0.0), i) for i in point.given)

    search(rule, keep, 60, devices=("cpu",), dtypes=WIDEST[rule.name])
    return found


def shows(known, case):
    """Say whether the mistake gives something further from the right gradient than rounding can."""
    wrong = applies(known, case)
    if wrong is None or not case.right.isfinite().all():
        return False
    if wrong.shape != case.right.shape:
        return True
    radius = bounds(case.point, evaluations=2).gradients[case.primal]
    return bool(((wrong - case.right).abs() > 2 * radius).any())


@functools.cache
def applicable(rule):
    """Return the mistakes that show at several points."""
    seen = Counter(known.name for known in BANK for case in cases(rule) if shows(known, case))
    return [known for known in BANK if seen[known.name] >= OFTEN]


def alike(known, other, rule):
    """Say whether two mistakes come to the same for this rule, as a cotangent ignored and zero do for softmax."""
    pairs = [(applies(known, c), applies(other, c), c) for c in cases(rule) if shows(known, c)]
    return all(
        b is not None and a.shape == b.shape and bool(((a - b).abs().nan_to_num(0) <= a.abs().max() * 2.0**-40).all())
        for a, b, _ in pairs
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_mistake_is_caught_and_named(name):
    rule, unnamed = CATALOGUE[name], []
    for known in applicable(rule):
        report = check(planted(known, rule), name, dtypes=WIDEST[name], max_examples=40, raise_on_failure=False)
        got = report.mistake and report.mistake.name
        names = (got or "").split(" or ")
        if report.passed or not any(n == known.name or (n in NAMED and alike(known, NAMED[n], rule)) for n in names):
            unnamed.append((known.name, report.verdict, got))
    assert not unnamed


def test_the_table_is_no_small_one():
    assert sum(len(applicable(rule)) for rule in CATALOGUE.values()) >= 200
