"""The table: torch's operations in NumPy notation, for arrays of exact numbers.

What is not here torch expresses in operations that are, by its own decompositions.
"""

import torch

from backprop_rules.evidence.proof.translate import elementwise, products, reductions

aten = torch.ops.aten

# Of numbers.
NUMERIC = {
    **elementwise.ARITHMETIC,
    **elementwise.CURVES,
    **elementwise.COMPARISONS,
    **reductions.REDUCTIONS,
    **reductions.ORDERS,
    **reductions.LOSSES,
    **products.PRODUCTS,
}
# Of True, False and TIE.
LOGIC = {**elementwise.LOGIC, **reductions.TRUTHS}

# Torch itself moves numbers that say which element is where.
MOVES = {
    aten.cat, aten.flip, aten.gather, aten.index, aten.masked_select, aten.constant_pad_nd, aten.scatter,
    aten.masked_scatter, aten.diagonal_scatter, aten.as_strided_scatter,
}  # fmt: skip
# The position, among the arguments, of a number that is written.
WRITTEN = {aten.constant_pad_nd: 2, aten.scatter: 3}

ALIASES = {aten._unsafe_view, aten._reshape_alias, aten.lift_fresh, aten.lift, aten.alias}
EMPTY = {
    aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.empty_permuted
}  # fmt: skip
CREATED = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.zero,
}  # fmt: skip
# Of these torch's decompositions round a constant, or read what the values are.
REFUSED = {
    aten.sinc, aten.logaddexp2, aten.special_log_ndtr, aten.special_erfcx, aten.special_entr, aten.mvlgamma,
    aten.angle, aten.nan_to_num, aten.copysign, aten.heaviside, aten.nextafter, aten.frexp, aten.renorm,
    aten.gelu_backward, aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d,
    aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.grid_sampler_2d,
    aten.affine_grid_generator,
}  # fmt: skip
