"""The formulas of a loss over all alignments of labels (CTC): sums of probabilities of paths, in logarithms.

    alpha_t(s) = log(exp(alpha_t-1(s)) + exp(alpha_t-1(s - 1)) + [may skip] exp(alpha_t-1(s - 2))) + log p_t(l_s)

over labels l with blanks between; beta is the same from the end (Graves et al., Connectionist temporal classification,
2006). Such a logarithm is off by no more than the farthest of its terms, and what is rounded at this step: so alpha
and beta by no more than these of all steps until then.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation
from backprop_rules.evidence.allowance.units import FEW, gamma

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class _Alignments:
    """The sequences of one call: how far the logarithms of their paths are off."""

    op: Operation
    scores: Tensor  # (T, N, C)
    targets: Tensor
    steps: list[int]
    lengths: list[int]
    blank: int

    @property
    def rows(self) -> list[Tensor]:
        """The labels of each sequence."""
        if self.targets.ndim == 1:
            return list(self.targets.split(self.lengths))
        return [row[:length] for row, length in zip(self.targets, self.lengths, strict=True)]

    @cached_property
    def counts(self) -> Tensor:
        """Which moments count, by time and sequence."""
        moments, steps = torch.arange(len(self.scores)), torch.tensor(self.steps)
        return (moments.unsqueeze(1) < steps).to(self.scores.device)

    def _added(self) -> float:
        """Return how far the logarithm of a sum of exponentials of three terms less the largest is off."""
        ulps = 2 * (self.op.ulps("exp") + self.op.ulps("log") * 1.1)
        return gamma(6 + ulps, self.op.unit.u) * FEW

    @cached_property
    def sizes(self) -> Tensor:
        """The largest score of each moment, 0 of those behind the end."""
        return torch.where(self.counts, self.scores.abs().amax(-1), 0.0)

    @cached_property
    def given(self) -> Tensor:
        """How far the scores of each moment are off."""
        radius = self.op.operand(self.scores).radius
        return torch.zeros_like(self.sizes) if radius is None else radius.amax(-1)

    def _until(self, scores: Tensor, rows: list[Tensor], sizes: Tensor, given: Tensor) -> Tensor:
        """Return how far the paths of each sequence are off at each moment, by all steps until then."""
        alpha = aten._ctc_loss(scores, torch.cat(rows), self.steps, self.lengths, self.blank)[1].transpose(0, 1)
        # What lies behind the places of a shorter sequence was never written.
        own = torch.arange(alpha.shape[-1]) <= 2 * torch.tensor(self.lengths).unsqueeze(-1)
        size = torch.where(own.to(alpha.device) & alpha.isfinite(), alpha.abs(), 0.0).amax(-1)
        each = given + 3 * self.op.unit.u * (size + sizes) + self._added()
        return torch.where(self.counts, each, 0.0).cumsum(0) * FEW

    @cached_property
    def forwards(self) -> Tensor:
        """How far alpha is off, by time and sequence."""
        return self._until(self.scores, self.rows, self.sizes, self.given)

    @property
    def in_the_end(self) -> Tensor:
        """How far the loss of each sequence is off."""
        return self.forwards[-1:].sum(0)

    @cached_property
    def backwards(self) -> Tensor:
        """The same of beta: as alpha, with time and labels turned round."""
        moments = torch.arange(len(self.scores)).unsqueeze(1)
        turned = (torch.tensor(self.steps) - 1 - moments).clamp_min(0).to(self.scores.device)
        scores = self.scores.gather(0, turned.unsqueeze(-1).expand_as(self.scores))
        sizes, given = (each.gather(0, turned) for each in (self.sizes, self.given))
        return self._until(scores, [row.flip(0) for row in self.rows], sizes, given).gather(0, turned)


def _alignments(op: Operation, scores: Tensor, targets: Tensor, steps: Any, lengths: Any, blank: int) -> _Alignments:
    steps, lengths = (torch.as_tensor(those).reshape(-1).tolist() for those in (steps, lengths))
    return _Alignments(op, scores.double(), targets, steps, lengths, blank)


def loss(op: Operation, scores: Tensor, targets: Tensor, steps: Any, lengths: Any, blank: int = 0, *_: Any) -> Any:
    """The negative logarithm of the probability of each sequence; nobody else looks at alpha."""
    own = replace(op, result=op.result[0])
    off = _alignments(own, scores, targets, steps, lengths, blank).in_the_end
    return [own.rounded(off * FEW), torch.full_like(op.result[1], torch.inf, dtype=torch.float64)]


def loss_backward(
    op: Operation, grad: Tensor, scores: Tensor, targets: Tensor, steps: Any, lengths: Any, loss: Tensor, _: Tensor,
    blank: int, zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """grad (p - share), where the share is exp(log(sum(exp(alpha + beta))) + loss - log p) over places of one label."""
    all_of, g, x = _alignments(op, scores, targets, steps, lengths, blank), op.operand(grad), op.operand(scores)
    p, u = all_of.scores.exp(), op.unit.u
    along = grad.double().reshape(1, -1, 1)
    shares = torch.where(along != 0, (p - op.result.double() / along).clamp_min(0), 1.0)  # no more, if nobody knows
    # Of the places of a label, one after the other, none weighs more than by its share of a sum of logarithms.
    places = 2 * max(all_of.lengths, default=0) + 1
    together = all_of.sizes.sum(0) + loss.double().abs()
    away = all_of.forwards + all_of.backwards + all_of.in_the_end + places * (3 * u * together + all_of._added())
    off = shares * torch.expm1(away.unsqueeze(-1)) + op.up((p + shares) * gamma(4 + 2 * op.ulps("exp"), u))
    off = off if x.radius is None else off + p * torch.expm1(x.radius)
    varies = off * g.grown().reshape(1, -1, 1)
    varies = varies if g.radius is None else varies + (p + shares) * g.radius.reshape(1, -1, 1)
    # Labels that no path has, in so few steps, have none whatever rounds.
    nought = (loss == math.inf) & all_of.sizes.sum(0).isfinite() & zero_infinity
    return torch.where(all_of.counts.unsqueeze(-1) & ~nought.reshape(1, -1, 1), op.rounded(varies * FEW), 0.0)


FORMULAS: dict[Any, Callable[..., Any]] = {aten._ctc_loss: loss, aten._ctc_loss_backward: loss_backward}
