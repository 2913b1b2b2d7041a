"""What evidence is made of besides drawn points: torch's gradients, errors that are caught, code, rules verified."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.answers.claim import Said, Seen, slip
from backprop_rules.errors import first_line
from backprop_rules.rule import Rule
from backprop_rules.verify import verify_rule


def gradients(function: Callable[..., Tensor], *primals: Tensor, grad_y: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the gradient of the function's value for each primal, as torch's autograd finds it."""
    leaves = [x.detach().clone().requires_grad_() for x in primals]
    return torch.autograd.grad(function(*leaves), leaves, grad_y)


def back(a: Tensor, b: Tensor, grad_y: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of both factors of a product, as torch's autograd finds them."""
    return gradients(torch.matmul, a, b, grad_y=grad_y)


def units(at: Tensor) -> Tensor:
    """Return a tensor of this shape for each of its elements, with a 1 there and 0 elsewhere."""
    return torch.eye(at.numel(), dtype=at.dtype).reshape(at.numel(), *at.shape)


def shape(x: Tensor) -> str:
    """Return the shape as it is written."""
    return str(tuple(x.shape))


def refused(call: Callable[[], Any]) -> str | None:
    """Return the first line of the error that the call ends in, None if it ends in none."""
    try:
        call()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def defined(call: Callable[[], bool]) -> bool:
    """Return what the call does, False where it cannot be computed: shapes that do not fit."""
    with suppress(RuntimeError, IndexError):
        return call()
    return False


def ran(code: str, **names: Any) -> dict[str, Any]:
    """Run a piece of code that an answer writes, with these values, and return the names that it leaves."""
    exec(code, {"torch": torch}, names)
    return names


def computed(code: str, **names: Any) -> Any:
    """Return the value of an expression that an answer writes, with these values."""
    return eval(code, {"torch": torch, **names})


def verified(rule: Rule, points: int = 40) -> tuple[bool, str]:
    """Say whether the rule agrees with every oracle at so many points, and what was seen."""
    result = verify_rule(rule, points, dtypes=[torch.float64], devices=["cpu"])
    if result.problem:
        return False, f"{rule}: {result.problem.splitlines()[0]}"
    return True, f"{rule}: {result.points} «points», «no counterexample»"


def misprint(said: Said) -> Seen:
    """Hold the printed word against the one that is meant: a single character of it is another one."""
    printed, meant = said.formula, said["meant"]
    apart = sum(a != b for a, b in zip(printed, meant, strict=False)) + abs(len(printed) - len(meant))
    return slip(apart == 0, apart == 1, f"{printed} → {meant}")
