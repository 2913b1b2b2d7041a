"""What evidence is made of besides drawn points: torch's gradients, errors that are caught, rules verified, numbers."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.answers.claim import Evidence, Seen
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


def works(call: Callable[[], Any]) -> Evidence:
    """Return the evidence that the call ends in no error."""

    def evidence() -> Seen:
        refusal = refused(call)
        return Seen(refusal is None, None, str(refusal))

    return evidence


def verified(rule: Rule, points: int = 40) -> Evidence:
    """Return the evidence that the rule agrees with every oracle at so many points; it shows by which tiers."""

    def evidence() -> Seen:
        result = verify_rule(rule, points, dtypes=[torch.float64], devices=["cpu"])
        tiers = ", ".join(["bounded"] + ["exact"] * bool(result.exact))
        outcome = "agrees with every oracle" if not result.problem else result.problem.splitlines()[0]
        return Seen(not result.problem, None, f"the rule {rule} {outcome} at {result.points} points ({tiers})")

    return evidence


def comes_to(value: Callable[[], Any], shown: str = "{}") -> Callable[[Fraction], Seen]:
    """Return the evidence that the document's number is what this comes to."""

    def evidence(number: Fraction) -> Seen:
        found = value()
        return Seen(found == number, None, shown.format(found))

    return evidence


def every(*parts: Evidence) -> Evidence:
    """Return the evidence of all of them together."""

    def evidence() -> Seen:
        seen = [part() for part in parts]
        amended = [one.amended for one in seen if one.amended is not None]
        shown = "; ".join(one.shown for one in seen)
        return Seen(all(one.stated for one in seen), all(amended) if amended else None, shown)

    return evidence


def rather(stated: Evidence, amended: Evidence) -> Evidence:
    """Return the evidence that decides between a statement and what the answer puts in its place."""

    def evidence() -> Seen:
        first, second = stated(), amended()
        return Seen(first.stated, second.stated, f"{first.shown}; {second.shown}")

    return evidence
