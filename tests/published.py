"""How a published wrong rule is kept: with the place where it was reported, and one call of its function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from backprop_rules import CATALOGUE, Rule

Backward = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A published wrong backward for a rule of the catalogue: what is wrong, and where it was reported."""

    rule: str
    what: str
    reported: str
    backward: Backward
    saves: str | None
    example: Sequence[Any]
    params: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"

    def as_rule(self) -> Rule:
        """Return the catalogue's rule with this backward, and what it saves, in the place of the right one."""
        right = CATALOGUE[self.rule]
        saves = right.saves if self.saves is None else tuple(self.saves.split())
        return replace(right, backward=self.backward, saves=saves)


# One ordinary call of each function: shapes, arrays that are no such thing, and params.
CALLS: dict[str, tuple[Any, ...]] = {
    "matmul": ((2, 3, 4), (4, 5)),
    "linear": ((2, 5, 4), (3, 4), (3,)),
    "relu": ((2, 3),),
    "clamp": ((2, 3), {"min": -0.5, "max": 1.0}),
    "clamp_tensor": ((3,), (3,), (3,)),
    "pow": ((3,), {"n": 0}),
    "pow_tensor": ((2, 3), (3,)),
    "sum": ((3, 3), {"dim": 1}),
    "mean": ((2, 3), {"dim": -1}),
    "add": ((4, 5), (4, 1)),
    "sub": ((2, 3), (2, 3)),
    "mul": ((2, 3), (2, 3)),
    "mean_squared_error": ((4, 3), (4, 3), {"reduction": "mean"}),
    "sigmoid": ((2, 3),),
    "tanh": ((2, 3),),
    "expm1": ((2, 3),),
    "softmax": ((2, 3), {"dim": -1}),
    "maximum": ((2, 3), (2, 3)),
    "where": (torch.tensor([True, False, True]), (3,), (3,)),
    "index_select": ((3, 4), torch.tensor([1, 1, 3])),
    "gather": ((3, 4), torch.tensor([[0, 0], [1, 3], [2, 2]])),
    "prod": ((2, 3), {"dim": 1}),
    "cross_entropy": ((3, 4), torch.tensor([1, 3, -100]), {"reduction": "mean"}),
    "layer_norm": ((2, 4), (4,), (4,)),
    "var": ((3, 4), {"dim": 1}),
    "norm": ((3, 4), {"p": 2, "dim": 1}),
}


class Published(list[Mistake]):
    """The published wrong rules of one file."""

    def mistake(
        self,
        rule: str,
        what: str,
        reported: str,
        saves: str | None = None,
        call: tuple[Any, ...] | None = None,
        dtype: torch.dtype | tuple[torch.dtype, ...] = torch.float64,
    ) -> Callable[[Backward], Backward]:
        def keep(backward: Backward) -> Backward:
            *arrays, params = call or CALLS[rule]
            if not isinstance(params, dict):
                arrays, params = [*arrays, params], {}
            numbers = torch.Generator().manual_seed(0)
            dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(arrays)
            example = [
                x if torch.is_tensor(x) else torch.randn(x, generator=numbers, dtype=d)
                for x, d in zip(arrays, dtypes, strict=True)
            ]
            if rule == "pow_tensor":
                example = [x.abs() for x in example]
            self.append(Mistake(rule, what, reported, backward, saves, example, params))
            return backward

        return keep


right = {name: rule.backward for name, rule in CATALOGUE.items()}
