"""One point of each rule, of a given size, for the benchmarks."""

import torch

from backprop_rules.call import Call, probe
from backprop_rules.domain import BATCH, Index, axes_of, kinds_of


def primal_of(rule, k, names, side):
    """Return a primal with two axes of that side, whether batch or named ones, and a third of size 1 if it has one."""
    ndim = 2 if names == (BATCH,) or (names[0] == BATCH and len(names) > 2) else len(names)
    shape = (1,) * (ndim - 2) + (side,) * min(ndim, 2)
    holds = rule.domain.indices.get(rule.primals[k])
    if holds:
        return torch.zeros(shape, dtype=torch.int64 if isinstance(holds, Index) else torch.bool)
    low, _ = rule.domain.interval(rule.primals[k], {name: kinds_of(p)[0] for name, p in rule.domain.params.items()})
    x = probe(torch.empty(shape, dtype=torch.float32), k)
    return x if low < -1 else x.abs() + 1


def point_of(rule, side):
    """Return a point whose primals have about the square of `side` elements."""
    primals = [primal_of(rule, k, names, side) for k, names in enumerate(axes_of(rule.domain.shapes))]
    params = {name: kinds_of(param)[0] for name, param in rule.domain.params.items()}
    y = rule.forward(*primals, **params)
    return Call(rule, tuple(primals), params, torch.ones_like(y))
