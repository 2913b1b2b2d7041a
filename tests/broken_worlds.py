"""Worlds in which something that evidence looks at is otherwise: each claim must fall in one of them."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.documents.answers.claim import EvidenceFails, Verdict

ARITHMETIC = (
    *("mul", "__mul__", "__rmul__", "matmul", "__matmul__", "mm", "linear", "addmm", "sum", "div", "__truediv__"),
    *("add", "__add__", "sub", "__sub__", "__rsub__", "pow", "__pow__", "square", "clamp", "relu", "sigmoid"),
)


class _Off(TorchFunctionMode):
    """A world in which these functions come to one more."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        named = getattr(func, "__name__", "") in ARITHMETIC
        return found + 1 if named and isinstance(found, Tensor) and found.is_floating_point() else found


class _Straight(TorchFunctionMode):
    """A world in which functions with a kink are straight lines, and a transpose is turned about."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("relu", "sigmoid", "tanh", "clamp"):
            return args[0]
        found = func(*args, **(kwargs or {}))
        return found.flip(-1) if func == Tensor.T.__get__ else found


@contextmanager
def other_sums():
    with _Off():
        yield


@contextmanager
def straight_functions():
    with _Straight():
        yield


@contextmanager
def no_graph():
    with torch.no_grad():
        yield


@contextmanager
def other_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def double_gradients():
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def doubled(*args, **kwargs):
        return tuple(None if g is None else 2 * g for g in grad(*args, **kwargs))

    def louder(tensors, grad_tensors=None, *args, **kwargs):
        y = tensors[0] if isinstance(tensors, tuple | list) else tensors
        own = torch.ones_like(y) if grad_tensors is None else grad_tensors
        return backward(y, 2 * own, *args, **kwargs)

    with patch.object(torch.autograd, "grad", doubled), patch.object(torch.autograd, "backward", louder):
        yield


@contextmanager
def narrow_tensors():
    made = torch.tensor

    def narrow(*args, **kwargs):
        x = made(*args, **kwargs)
        return x.detach().float().requires_grad_(x.requires_grad) if x.is_floating_point() else x

    with patch.object(torch, "tensor", narrow):
        yield


@contextmanager
def wider_layers():
    made = torch.nn.Linear.__init__

    def wider(self, n, m, bias=True, **kwargs):
        made(self, n, m + 1, bias, **kwargs)

    with patch.object(torch.nn.Linear, "__init__", wider):
        yield


@contextmanager
def other_names():
    with patch.object(torch, "sigmod", torch.sigmoid, create=True):
        yield


@contextmanager
def no_seed():
    with patch.object(torch, "manual_seed", lambda seed: None):
        yield


@contextmanager
def other_models():
    """The document's functions, which are run on fractions too, come to one more."""
    from backprop_rules.documents.answers.evidence import one_parameter_regression as one

    linreg, loss = one.linreg, one.squared_loss
    with ExitStack() as changed:
        changed.enter_context(patch.object(one, "linreg", lambda x, w: linreg(x, w) + x * x * w * w))
        changed.enter_context(patch.object(one, "squared_loss", lambda p, y: loss(p, y) * 3 + 1))
        changed.callback(one.by_hand.cache_clear)
        one.by_hand.cache_clear()
        yield


WORLDS = (
    *(other_sums, straight_functions, double_gradients, no_graph, other_default, narrow_tensors),
    *(wider_layers, other_names, no_seed, other_models),
)


def falls(claim):
    """Return the first world in which the evidence no longer bears the claim out, None if there is none."""
    claim.settled()  # what is computed once is computed in this world
    if claim.verdict == Verdict.SLIP and claim.formula and "meant" in claim.says:
        try:
            replace(claim, formula=claim.says["meant"]).settled()
        except EvidenceFails:
            return "the document prints what it means"
    for world in WORLDS:
        try:
            with world():
                claim.settled()
        except EvidenceFails:
            return world.__name__
        except Exception as error:  # it cannot even be run there
            return f"{world.__name__}: {type(error).__name__}"
    return None
