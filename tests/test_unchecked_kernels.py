"""Where torch's own kernel writes past the end of an image, a check does not ask it: the process would die."""

import pytest

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
