"""The gradients of torch's own modules are right, at inputs of torch's own tests, in training and in evaluation."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from samples import seeded
from torch import Tensor
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from backprop_rules import InputError
from backprop_rules.testing import enclose

MODULES = {one.name: one for one in module_db}
# What of these has no formula, and is told so.
REFUSED = {"nn.CTCLoss", "nn.FractionalMaxPool2d", "nn.FractionalMaxPool3d", "nn.MultiLabelMarginLoss",
           "nn.MultiMarginLoss"}  # fmt: skip
INPUTS = 5


def called(module: torch.nn.Module, leaves: list, structure, *tensors: Tensor):
    """Return what a module makes of these tensors in the place of those among its arguments, with one seed."""
    given = iter(tensors)
    args, named = tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], structure)
    torch.default_generator.manual_seed(1)
    return module(*args, **named)


def points(name: str, dtype: torch.dtype) -> Iterator[tuple]:
    """Yield a module as a function, its arguments, and torch's own gradients along drawn cotangents."""
    one = MODULES[name]
    for training in (True, False):
        seeded(0)
        inputs = one.module_inputs_func(one, device="cpu", dtype=dtype, requires_grad=False, training=training)
        for given in inputs[:INPUTS]:
            if given.forward_input is None:
                continue
            module = one.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs).to(dtype)
            module.train(training)
            leaves, structure = tree_flatten((given.forward_input.args, given.forward_input.kwargs))
            forward = partial(called, module, leaves, structure)
            primals = tuple(x for x in leaves if isinstance(x, Tensor))
            found = gradients(forward, primals)
            if found is not None:
                yield forward, primals, *found


def gradients(forward, primals: tuple[Tensor, ...]) -> tuple[tuple, tuple] | None:
    """Return torch's own gradients, and the cotangents; None where it has none of these."""
    live = [x.clone().requires_grad_() if x.is_floating_point() else x for x in primals]
    asked = [x for x in live if x.requires_grad]
    try:
        outs = [y for y in tree_leaves(forward(*live)) if isinstance(y, Tensor)]
        numbers = torch.Generator().manual_seed(7)
        grads = [torch.randn(y.shape, generator=numbers).to(y.dtype) if y.requires_grad else None for y in outs]
        pairs = [(y, g) for y, g in zip(outs, grads, strict=True) if g is not None]
        ys, along = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(ys, asked, along, allow_unused=True))
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    got = tuple(next(found) if x.requires_grad else None for x in live)
    return got, tuple(grads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", MODULES)
def test_torchs_own_gradient_of_its_own_module_is_right(name, dtype):
    precision = None if dtype == torch.float32 else "eager"
    refused = 0
    for forward, primals, got, grads in points(name, dtype):
        try:
            enclosed = enclose(forward, primals, grad_y=grads if len(grads) > 1 else grads[0], precision=precision)
        except InputError as error:
            assert "no formula" in str(error)
            refused += 1
            continue
        found = enclosed.agreement(got, blind="allow")
        assert found.right or found.said.overflow, str(found)
    assert not refused or name in REFUSED


@pytest.mark.filterwarnings("ignore")
def test_most_of_torchs_own_modules_are_asked():
    asked = [name for name in MODULES if any(True for _ in points(name, torch.float32))]
    assert len(asked) > 0.9 * len(MODULES)
