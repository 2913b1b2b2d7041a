"""What the campaign found: sums that overflow in one order and not in another are no objection."""

import pytest
import torch

from backprop_rules import CATALOGUE, layout
from backprop_rules.call import Call
from backprop_rules.properties.of_rules import PROPERTIES, asked

HALF = 2.0**127  # twice this is just past float32's largest number

# The rule, the shape of its input, its params, and what the cotangent holds beside zeros.
CASES = {
    "NaN elsewhere changes the layout": (
        "log_softmax",
        (9, 9),
        {"dim": 0},
        {(2, 5): -6.490371073168535e32, (4, 5): HALF, (5, 5): HALF},
    ),
    "the bias's sum": (
        "layer_norm",
        (1, 3, 3, 1),
        {"eps": 1.0},
        {(0, 0, 0, 0): -HALF, (0, 0, 2, 0): -HALF, (0, 2, 1, 0): 5.192296858534828e33},
    ),
}


@pytest.mark.parametrize("laid_out", [layout.transposed, layout.sliced])
@pytest.mark.parametrize("case", CASES)
def test_an_order_in_which_a_sum_overflows_is_no_objection(case, laid_out):
    name, shape, params, held = CASES[case]
    grad_y = torch.zeros(shape)
    for element, value in held.items():
        grad_y[element] = value
    others = (None, torch.zeros(1)) if name == "layer_norm" else ()
    call = Call(CATALOGUE[name], (torch.zeros(shape), *others), params, laid_out(grad_y))
    assert not [found for holds in PROPERTIES for found in asked(holds, call)]
