"""What evidence is made of besides drawn points: torch's gradients, errors that are caught, rules verified."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.rule import Rule
from backprop_rules.verify import verify_rule


def gradients(function: Callable[..., Tensor], *primals: Tensor, grad_y: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the gradient of the function's value for each primal, as torch's autograd finds it."""
    leaves = [x.detach().clone().requires_grad_() for x in primals]
    return torch.autograd.grad(function(*leaves), leaves, grad_y)


def back(a: Tensor, b: Tensor, grad_y: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of both factors of a product, as torch's autograd finds them."""
    return gradients(torch.matmul, a, b, grad_y=grad_y)


def refused(call: Callable[[], Any]) -> str | None:
    """Return the first line of the error that the call ends in, None if it ends in none."""
    try:
        call()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def verified(rule: Rule, points: int = 40) -> tuple[bool, str]:
    """Say whether the rule agrees with every oracle at so many points, and by which tiers."""
    result = verify_rule(rule, points, dtypes=[torch.float64], devices=["cpu"])
    tiers = ", ".join(["bounded"] + ["exact"] * bool(result.exact))
    outcome = "agrees with every oracle" if not result.problem else result.problem.splitlines()[0]
    return not result.problem, f"the rule {rule} {outcome} at {result.points} points ({tiers})"
