"""What torch's operations do beside computing, by their names and schemas: make memory, write, draw, look at a form."""

from functools import cache
from typing import Any

import torch

from backprop_rules.evidence.allowance import moves

aten = torch.ops.aten

# Of these torch has decompositions that say less: x is finite where x == x and |x| != inf; of the nearest by its place.
UNDIVIDED = {aten.isfinite, aten.isinf, aten.isnan, aten.reshape, *moves.NEAREST}
# These write a shape, and no value.
RESHAPING = {aten.squeeze_, aten.unsqueeze_, aten.t_, aten.transpose_, aten.as_strided_}
# Of whole numbers these put what is chosen among others, or compare it.
OF_THE_CHOSEN = {*moves.COMPARED, aten.scatter, aten.scatter_, aten.index_put, aten.index_put_}
# Numbers are made of whole ones by these.
OF_NUMBERS = {aten._to_copy, aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.pow}
# These look at all numbers of a tensor in another form, of the shape that is named, if it is one of these.
SHAPED = {aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default}
LOOKS = {
    *SHAPED, aten.t.default, aten.transpose.int, aten.permute.default, aten.expand.default, aten.unsqueeze.default,
    aten.alias.default, aten.detach.default,
}  # fmt: skip
# These say something of a tensor's form, and nothing of its numbers.
OF_FORM = {aten.is_same_size, aten._has_same_storage_numel}
# These make memory, or take over what something else has made; what is in it comes from there.
MEMORY = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.zeros,
    aten.zeros_like, aten.new_zeros, aten.lift_fresh,
}  # fmt: skip
# These fill a tensor with what was drawn.
DRAWN = {aten.bernoulli_, aten.uniform_, aten.normal_, aten.random_, aten.exponential_}


@cache
def out_of_place(func: Any) -> Any:
    """Return the operation that computes what this one writes into its first argument; None if there is none."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    types = [str(a.type) for a in func._schema.arguments]
    made = (getattr(packet, overload) for overload in (packet.overloads() if packet is not None else ()))
    return next((one for one in made if [str(a.type) for a in one._schema.arguments] == types), None)


@cache
def composite(func: Any) -> bool:
    """Say whether torch makes the operation of others, which come here one by one."""
    return func._can_decompose() and func.overloadpacket not in UNDIVIDED


@cache
def tagged(func: Any, tag: torch.Tag) -> bool:
    """Say whether torch says this of an operation: its own answer takes as long as a small product."""
    return tag in func.tags
