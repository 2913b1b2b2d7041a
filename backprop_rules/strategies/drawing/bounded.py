"""Points of the bounded tier: values of any magnitude, whose roundings are bounded afterwards."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.domain import EVERYWHERE, Bound, Dtype, Factor, Interval
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.draw import Draw
from backprop_rules.strategies.drawing.exact import draw_dtypes, draw_factor, draw_without_gradient, tied
from backprop_rules.strategies.drawing.shapes import draw_param, draw_shapes, left_out, outputs
from backprop_rules.strategies.drawing.values import of_any_magnitude, tensor


def bounded_point(
    draw: Draw,
    rule: Rule,
    dtypes: Sequence[torch.dtype],
    sides: Sequence[int],
) -> Call:
    """Draw a point of the bounded tier: shapes, params, dtypes, layouts, values and a cotangent."""
    every, sizes, _ = draw_shapes(draw, rule, sides)
    first = every[rule.differentiable[0]]
    params = {name: draw_param(draw, p, first, sizes, exact=False) for name, p in rule.domain.params.items()}
    shapes, params = left_out(draw, rule, every, params)
    outputs(rule, shapes, params)  # what does not take its domain is refused here
    own = draw_dtypes(draw, rule, shapes, params, [d for d in rule.domain.dtypes if d in dtypes])

    def primal(k: int) -> Tensor | None:
        name, shape = rule.primals[k], shapes[k]
        if shape is None:
            return None
        if name in rule.domain.indices:
            return draw_without_gradient(draw, rule, name, shape, sizes)
        within: Interval = rule.domain.interval(name, params)
        return tensor(draw, shape, own[k], of_any_magnitude(draw, own[k], within, bool(rule.conventions)))

    primals = tuple(primal(k) for k in range(len(shapes)))
    if rule.conventions:
        primals = tied(draw, primals)
    params = {name: _value(draw, rule, name, params[name], primals, own[0]) for name in rule.domain.params}
    draw.assume(rule.domain.accepts(*primals, **params))  # some functions take not every layout
    y = Call(rule, primals, params, torch.empty(0)).y
    grad_y = tensor(draw, tuple(y.shape), y.dtype, of_any_magnitude(draw, y.dtype, EVERYWHERE))
    return Call(rule, primals, params, grad_y)


def _value(
    draw: Draw, rule: Rule, name: str, value: object, primals: Sequence[Tensor | None], dtype: torch.dtype
) -> object:
    """Draw a param that depends on the primals: a bound, a factor, a dtype; any other is drawn already."""
    param = rule.domain.params[name]
    if isinstance(param, Bound) and value is not None:
        x = primals[0]
        if x is None or not x.numel() or draw.flag():
            return float(torch.tensor(draw.whole(-8, 8) / 4, dtype=dtype))
        return float(x.flatten()[draw.whole(0, x.numel() - 1)])
    if isinstance(param, Factor):
        return draw_factor(draw, param, dtype.is_complex)
    if isinstance(param, Dtype):
        return draw.pick([None, *(d for d in rule.domain.dtypes if d.is_complex == dtype.is_complex)])
    return value
