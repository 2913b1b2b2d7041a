"""What another framework chooses at a kink: asked of it, where it is installed."""

import importlib
from operator import attrgetter

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.subject.frameworks.carried import carried
from backprop_rules.subject.frameworks.of_jax import vjp_of_custom

# The functions of JAX that compute the same as the catalogue's rules with kinks.
TWINS = {
    "relu": "nn.relu",
    "abs": "numpy.abs",
    "maximum": "numpy.maximum",
    "minimum": "numpy.minimum",
    "clamp": "numpy.clip",
    "clamp_tensor": "numpy.clip",
}


def asked_of_jax(call: Call, primal: int) -> tuple[str, Tensor] | None:
    """Return the version of JAX and the gradient that it gives; None where it is not installed, or has no such rule."""
    place = TWINS.get(call.rule.name)
    if place is None:
        return None
    try:
        jax = importlib.import_module("jax")
        function = attrgetter(place)(jax)
        with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
            backward = carried(lambda g, *those: vjp_of_custom(function)(g, *those, **call.params), "jax")
            theirs = backward(call.grad_y, *(x for x in call.primals if x is not None))[primal]
    except Exception:  # not installed, or not for these arguments
        return None
    return None if theirs is None else (str(jax.__version__), theirs)


def as_jax_does(call: Call, primal: int) -> str:
    """Return the version of JAX if it is installed and makes the same choice at this point; nothing otherwise."""
    answer = asked_of_jax(call, primal)
    if answer is None:
        return ""
    version, theirs = answer
    mine, radius = call.gradients[primal], bounds(call, evaluations=2).gradients[primal]
    if mine is None or radius is None or theirs.shape != mine.shape:
        return ""
    near = (theirs.to(torch.float64) - mine.to(torch.float64)).abs() <= radius
    return version if near.all() else ""
