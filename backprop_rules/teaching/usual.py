"""The mistakes that people make in a rule, each with the smallest of some small points that shows it."""

import re
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.diagnosis.bank import params_ignored
from backprop_rules.diagnosis.mistake import Case, Family, Known, applies
from backprop_rules.domain import BATCH, Factor, Index, Whole, axes_of
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.formula import plain
from backprop_rules.rule import Rule
from backprop_rules.subject.ambient import quiet
from backprop_rules.teaching.example import example, small, standing
from backprop_rules.teaching.pictures import on_one_line
from backprop_rules.teaching.taught import TAUGHT
from backprop_rules.teaching.told import TEXTS
from backprop_rules.teaching.trace import formula_of

USUAL = TEXTS["usual"]  # where each mistake is made, in the order in which they are told
LEFT_OUT = (Factor, Whole)  # the kinds of params that people leave out


def traits(rule: Rule, i: int) -> set[str]:
    """Return what of a rule, and of a primal of it, invites mistakes, by what is declared and by the example."""
    named, power, case = axes_of(rule.domain.shapes), rule.domain.power, Case(example(rule), i)
    whole, own, several = plain(rule.formula), formula_of(rule, i), [len(named[k]) for k in rule.differentiable]
    batches, jacobian = sum(BATCH in names for names in named), case.jacobian
    is_power, by_index = callable(power) or power > 1, any(isinstance(h, Index) for h in rule.domain.indices.values())
    of_matrices, met = re.search("[ᵀᴴ]", whole), len(named[i]) == 1 and BATCH not in named[i] and batches > 0
    mixes = case.y.shape == case.x.shape and jacobian is not None and bool(((jacobian != 0).sum(0) > 1).any())
    found = {
        "a kink": rule.conventions,
        "one number of many": case.y.ndim < case.x.ndim or "reduction" in rule.domain.params,
        "a product of matrices": of_matrices,
        "a product of batches": of_matrices and len(named[i]) > 2,
        "a transpose": re.search("[ᵀᴴ]", own),
        "an axis that mixes": mixes and not rule.domain.indices,
        "an index": by_index,
        "broadcasting": met or (BATCH in named[i] and batches > 1),
        "a vector that a batch meets": met,
        "a function of a number": named == ((BATCH,),)
        and not (rule.domain.params or is_power)
        and rule.saves == ("x",),
        "several alike": len(several) > 1 and len(set(several)) == 1 and not of_matrices,
        "a power": is_power and len(rule.primals) == 1,
        "a conjugate": re.search(r"\*|ᴴ", whole),
        "a minus": re.search("= -", own),
        "a half": re.search(r"½ (?!\[)|/ ?\(2", whole),
        "a two": re.search(r"= \(?2\b", own),
        "a mean": re.search(r"= \(1/n\)", whole) and not rule.domain.indices,
        "a reduced axis": 0 < case.y.ndim < case.x.ndim or "keepdim" in rule.domain.params,
    }
    return {trait for trait, holds in found.items() if holds}


def usual(rule: Rule) -> Iterator[tuple[Known, Case, Tensor]]:
    """Yield each usual mistake, the smallest case found that tells it from those before, and what it gives there.

    A complex point is taken only where no other shows the mistake, and one at a kink for what is done at kinks.
    """
    dtypes = [dtype for dtype in (torch.float64, torch.complex128) if dtype in rule.domain.dtypes]
    cases = [Case(call, i) for dtype in dtypes for call in small(rule, dtype) for i in call.given]
    smooth = [case for case in cases if not _kinks_at(case.call)]
    kinks = [Case(call, i) for call in sorted(standing(rule), key=_kinks_at) for i in call.given if rule.conventions]
    here, told = {i: traits(rule, i) for i in rule.differentiable}, list[Known]()
    for known in (*sorted(TAUGHT, key=_place), *params_ignored(cases[0])):
        primals = [i for i in here if _is_usual(known, rule, i, here[i])]
        cases = [case for case in (kinks if known.family is Family.TIES else smooth) if case.primal in primals]
        with quiet():
            found = next(_shown(known, cases, told), None)
        if found is not None:
            told.append(known)
            yield known, *found


def _place(known: Known) -> int:
    return [*USUAL, known.name].index(known.name)


def _is_usual(known: Known, rule: Rule, i: int, here: set[str]) -> bool:
    """Say whether people make the mistake here; some of them wherever it can be made, by no coincidence of numbers."""
    where, left_out = USUAL.get(known.name), known.name.removesuffix(" ignored")
    if where == "wherever it can be made":
        return applies(known, Case(example(rule), i)) is not None
    return where in here or left_out == "reduction" or isinstance(rule.domain.params.get(left_out), LEFT_OUT)


def _shown(known: Known, cases: Iterable[Case], told: Sequence[Known]) -> Iterator[tuple[Case, Tensor]]:
    """Yield each case that shows a mistake, and none of those that were told, with what the mistake gives."""
    for case in cases if known.name not in [one.name for one in told] else ():
        wrong = _seen(known, case)
        if wrong is None or any(_same(known, case, wrong, one) for one in told):
            continue
        if _beyond_rounding(case, wrong):
            yield case, wrong


def _same(known: Known, case: Case, wrong: Tensor, told: Known) -> bool:
    """Say whether a mistake that was told comes to the same; at a tie many do."""
    other = None if known.family is Family.TIES else applies(told, case)
    return other is not None and torch.equal(wrong, other)


def _kinks_at(call: Call) -> int:
    """Return how many kinks a point stands on."""
    return sum(bool(c.where(*call.primals, **call.params).any()) for c in call.rule.conventions)


def _seen(known: Known, case: Case) -> Tensor | None:
    """Return what the mistake gives, where that is something else to a reader."""
    wrong = applies(known, case)
    if wrong is None or not (case.right.isfinite().all() and wrong.isfinite().all()):
        return None
    alike = wrong.reshape(case.right.shape) if wrong.numel() == case.right.numel() else wrong
    return None if on_one_line(alike) == on_one_line(case.right) else wrong  # another shape alone would tell little


def _beyond_rounding(case: Case, wrong: Tensor) -> bool:
    """Say whether what a mistake gives is farther from the right gradient than rounding can be."""
    radius = bounds(case.call, evaluations=2).gradients[case.primal]
    if radius is None or wrong.numel() != case.right.numel():
        return True
    return bool(((wrong.reshape(case.right.shape) - case.right).abs() > radius).any())
