"""Evidence of the claims of `two_layer_network`."""

from torch import Tensor

from backprop_rules.answers.claim import Seen
from backprop_rules.answers.tools import counterexample, gradients, refused, told


def order_of_the_factors_for_w2() -> Seen:
    """Multiply in the printed order, and in the other one."""

    def holds(h: Tensor, w: Tensor, y: Tensor) -> bool:
        (grad_w,) = gradients(lambda v: ((h @ v - y) ** 2).sum(), w)
        return grad_w.equal(h.T @ (2 * (h @ w - y)))

    import torch

    error, h = torch.ones(1, 3), torch.ones(1, 4)
    refusal = refused(lambda: error @ h.T)
    found = counterexample(holds, h="1 d", w="d k", y="1 k")
    return Seen(refusal is None, found is None, f"{refusal}; h.T @ error: {told(found)}")
