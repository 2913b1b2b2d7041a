"""Where torch's own kernel writes past the end of an image, a check does not ask it: the process would die."""

from functools import partial

import pytest
import torch

from backprop_rules.testing import assert_gradients

pytestmark = pytest.mark.xdist_group("processes")

PROGRAM = """
import sys
import torch
import torch.nn.functional as F
from backprop_rules import check

PADDING, MODE = sys.argv[1], {"border": 1, "reflection": 2}[sys.argv[1]]
f = lambda image, grid: F.grid_sample(image, grid, padding_mode=PADDING, align_corners=False)

def by_autograd(grad_y, image, grid):
    live = [x.detach().requires_grad_() for x in (image, grid)]
    with torch.enable_grad():
        y = f(*live)
    return torch.autograd.grad(y, live, grad_y)

def by_the_kernel(grad_y, image, grid):
    return torch.ops.aten.grid_sampler_2d_backward(grad_y, image, grid, 0, MODE, False, [True, True])

draws = torch.Generator().manual_seed(0)
example = [torch.rand(shape, generator=draws, dtype=torch.float64) - 0.5 for shape in ((1, 2, 4, 5), (1, 3, 2, 2))]
for backward in (by_autograd, by_the_kernel):
    print(check(backward, forward=f, example=example, raise_on_failure=False).verdict)
"""


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_a_grid_sample_is_checked_where_a_place_of_the_grid_is_no_number(all_loaded, padding):
    done = all_loaded.run("-c", PROGRAM, padding)
    assert (done.returncode, done.stdout.split()) == (0, ["right", "right"]), done.stderr


def test_places_are_asked_for_under_vmap():
    def sampled(image, grid):
        one = partial(torch.nn.functional.grid_sample, padding_mode="border", align_corners=False)
        return torch.vmap(lambda a, b: one(a[None], b[None])[0])(image, grid)

    draws = torch.Generator().manual_seed(0)
    image, grid = (torch.rand(shape, generator=draws) - 0.5 for shape in ((2, 1, 4, 5), (2, 3, 2, 2)))
    leaves = [x.clone().requires_grad_() for x in (image, grid)]
    y = sampled(*leaves)
    grad_y = torch.rand(y.shape, generator=draws)
    got = torch.autograd.grad(y, leaves, grad_y)
    assert_gradients(got, forward=sampled, primals=(image, grid), grad_y=grad_y)
