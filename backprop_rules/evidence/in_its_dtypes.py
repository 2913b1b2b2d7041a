"""Whether a gradient that is off in float64 may be what its own dtypes round, element by element."""

from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.precision import precision_named
from backprop_rules.evidence.at_size import Question, at_size
from backprop_rules.evidence.evidence import Evidence, cast
from backprop_rules.strategies.values import cast_like, recast
from backprop_rules.subject.ambient import F64, at, inexact
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoPoint


def outside_of_its_dtypes(evidence: Evidence, i: int) -> Tensor | None:
    """Return where the gradient of leaf i is outside of what the example's dtypes may round; None where it is not.

    Beside the largest element a small one may be lost, and yet be far outside of what it may be itself. It is stored in
    its dtype once: of what is exact there every digit is another matter.
    """
    function, example = evidence.function, evidence.subject.example
    pairs = zip(evidence.point.leaves, example, strict=True)
    leaves = tuple(recast(x, at(own.dtype, x)) if inexact(x) else x for x, own in pairs)
    narrowest = min((example[k].dtype for k in evidence.subject.floats), key=precision)
    try:
        grads = tuple(map(cast_like, evidence.point.grads, function.y(leaves, None)))
        held = at_size(Question(function, leaves, grads), precision_named("eager", narrowest)).gradients[i]
        got = evidence.asked(cast(leaves, F64), tuple(None if g is None else cast([g], F64)[0] for g in grads))[i]
    except (NoPoint, Raised, Misfit, NotImplementedError, InputError):
        return None
    if held is None or held.truth.shape != got.shape:
        return None
    outside = ~held.contains(got.to(held.dtype))
    return outside if bool(outside.any()) else None
