"""Functions whose forward does nothing but move, copy or choose numbers are held to their derivative, not to 0."""

import pytest
import torch

from backprop_rules import check_function


def of(move, back):
    class Moves(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *xs):
            ctx.save_for_backward(*xs)
            return move(*xs)

        @staticmethod
        def backward(ctx, g):
            return back(g, *ctx.saved_tensors)

    return Moves


SHAPES = ((3, 4), (3, 4))
MOVES = {
    "cat": (lambda a, b: torch.cat([a, b]), lambda g, a, b: g.split([len(a), len(b)]), SHAPES),
    "stack": (lambda a, b: torch.stack([a, b]), lambda g, a, b: (g[0], g[1]), SHAPES),
    "clone": (lambda a: a.clone(), lambda g, a: g.clone(), SHAPES[:1]),
    "flip": (lambda a: a.flip(0), lambda g, a: g.flip(0), SHAPES[:1]),
    "where": (lambda a: torch.where(a > 0, a, 0 * a), lambda g, a: g * (a > 0), SHAPES[:1]),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_derivative_is_not_that_of_a_constant(name):
    move, back, shapes = MOVES[name]
    example = tuple(torch.randn(s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate(shapes))
    report = check_function(of(move, back), example=example, raise_on_failure=False)
    assert report.verdict == "right", report
    assert check_function(of(move, back), forward=move, example=example).rungs["proved"]

    def twice(g, *xs):
        found = back(g, *xs)
        return tuple(2 * x for x in found) if isinstance(found, tuple) else 2 * found

    report = check_function(of(move, twice), example=example, raise_on_failure=False)
    assert report.verdict == "wrong", report
