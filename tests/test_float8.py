"""What is cast to float8, with which torch hardly computes."""

import pytest
import torch

from backprop_rules import InputError, check, check_function
from backprop_rules.testing import assert_gradients, enclose

EIGHT = pytest.mark.parametrize("eight", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@EIGHT
def test_a_cast_to_float8_and_back_is_a_rounding_as_to_any_narrow_dtype(eight):
    def forward(x):
        return x.to(eight).to(x.dtype) * x

    backwards = {
        "right": [lambda g, x: g * (x.to(eight).to(x.dtype) + x), lambda g, x: 2 * g * x],
        "wrong": [lambda g, x: g * x.to(eight).to(x.dtype)],
    }
    for verdict, every in backwards.items():
        for backward in every:
            report = check(backward, forward=forward, example=(X.abs() + 1,), raise_on_failure=False)
            assert report.verdict == verdict, report
    told = str(check_function(forward, example=(X,)))
    assert "contradicted" not in told
    assert "error of backprop_rules" not in told


@EIGHT
def test_an_output_in_float8_is_to_be_given_in_float32(eight):
    def forward(x):
        return x.sin().to(eight)

    def both(x):
        return x.sin(), x.to(eight)

    words = f"returns a tensor of {eight}, with which torch cannot compute: let it return this output by .float()"
    for one in (forward, both):
        with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
            check(lambda g, x: g, forward=one, example=(X,))
        with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
            check_function(one, example=(X,))
    assert check_function(lambda x: forward(x).float(), example=(X,)).verdict == "right"


@EIGHT
def test_at_a_point_outputs_and_gradients_in_float8_are_to_be_given_in_float32(eight):
    def forward(x):
        return x.sin().to(eight)

    held = {"forward": forward, "primals": (X,), "grad_y": torch.ones_like(X)}
    assert assert_gradients(X.cos(), y=forward(X).float(), **held).right
    with pytest.raises(InputError, match=rf"the output y has dtype {eight}: give it by \.float\(\)"):
        assert_gradients(X.cos(), y=forward(X), **held)
    with pytest.raises(InputError, match=rf"the gradient of x has dtype {eight}: give it by \.float\(\)"):
        enclose(forward, (X,), grad_y=torch.ones_like(X)).contains(X.cos().to(eight))
