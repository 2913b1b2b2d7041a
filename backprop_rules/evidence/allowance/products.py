"""The formulas of inner products: gamma_k times the product of the absolute values, in the mode that torch is in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operand, Operation, plus
from backprop_rules.evidence.allowance.units import NARROW, unit

aten = torch.ops.aten

Multiply = Callable[[Any, Any], Tensor]

# A complex term is four real products and two sums more: |fl - exact| <= sqrt(2) gamma_(k+1) |A| |B| (Higham,
# problem 3.7); by three real multiplications, as some libraries do, within 4 times that.
COMPLEX = 6

# What a float32 operand loses before a product of reduced precision: rounded to nearest to bf16's 8 bits, or cut
# to TF32's 11 (the tensor core reads 19 of the 32 bits; NVIDIA, PTX ISA, "Matrix fragments for .tf32").
LOST_OF_OPERANDS = {"tf32": 2.0**-10, "bf16": 2.0**-8}


def _lost(op: Operation) -> float:
    """Return what each operand loses, in proportion, in the mode that torch is in."""
    if op.dtype not in (torch.float32, torch.complex64):
        return 0.0
    backend = torch.backends.cuda if op.result.is_cuda else torch.backends.mkldnn
    modes = [backend.matmul.fp32_precision, torch.backends.fp32_precision]  # type: ignore[attr-defined]
    if not op.result.is_cuda:
        modes.insert(1, torch.backends.mkldnn.fp32_precision)
    # The first that is not "none" is in force; the older API, torch.set_float32_matmul_precision, sets the first.
    return LOST_OF_OPERANDS.get(next((mode for mode in modes if mode != "none"), "ieee"), 0.0)


def inner(op: Operation, a: Tensor, b: Tensor, multiply: Multiply, length: int, added: Operand | None = None) -> Any:
    """Return the radius of sums of `length` products, to which a result so far may be added."""
    # Instructions for bf16 (VDPBF16PS, TDPBF16PS) take subnormal numbers for zero, and flush, in every mode.
    flushes = op.dtype == torch.bfloat16 and not op.result.is_cuda
    x, y = op.operand(a, flushed=flushes), op.operand(b, flushed=flushes)
    size = multiply(x.size, y.size)
    varies = _varies(x, y, multiply)
    lost = _lost(op)
    if lost:
        varies = plus(varies, size * (2 * lost + lost * lost))
    if added is not None:
        size, varies = size + added.size, plus(varies, added.radius)
    roundings, narrow = _roundings(op, length + (added is not None), lost)
    # Four products to a complex term: twice for either part.
    underflows = float(length) * (3 if op.result.is_complex() else 1)
    if flushes:
        normal = unit(op.dtype).normal
        varies = plus(varies, torch.full_like(size, length * normal))
    return op.summed(varies, size, roundings, underflows, narrow)


def _varies(x: Operand, y: Operand, multiply: Multiply) -> Any:
    if y.radius is None:
        return None if x.radius is None else multiply(x.radius, y.size)
    first = multiply(x.grown(), y.radius)
    return first if x.radius is None else first + multiply(x.radius, y.size)


def _roundings(op: Operation, length: int, lost: float) -> tuple[int, bool]:
    """Return the number of roundings, of u each, and whether they are in the narrow dtype."""
    if op.result.is_complex():
        return COMPLEX * (length + 1), False
    if not op.result.is_cuda or not (lost or op.dtype in NARROW):
        return length, False
    # A tensor core aligns the products of a block to the largest of them and cuts them off, to 2^-23 in proportion,
    # and cuts its sum off as well (Fasi, Higham, Mikaitis & Pranesh, Numerical behavior of NVIDIA tensor cores, 2021).
    modes = torch.backends.cuda.matmul
    reduced = {
        torch.float16: modes.allow_fp16_reduced_precision_reduction,
        torch.bfloat16: modes.allow_bf16_reduced_precision_reduction,
    }
    return 4 * length, bool(reduced.get(op.dtype))


def matrix_product(op: Operation, a: Tensor, b: Tensor) -> Any:
    """A @ b, of matrices, of stacks of them, or with vectors."""
    return inner(op, a, b, torch.matmul, a.shape[-1])


def dot(op: Operation, a: Tensor, b: Tensor) -> Any:
    """The inner product of two vectors."""
    return inner(op, a, b, torch.dot, a.numel())


def added_product(op: Operation, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """C + a @ b."""
    if beta != 1 or alpha != 1:
        raise op.refuse("with an alpha or a beta")
    return inner(op, a, b, torch.matmul, a.shape[-1], op.operand(c))


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.mm: matrix_product, aten.bmm: matrix_product, aten.mv: matrix_product, aten.dot: dot, aten.vdot: dot,
    aten.addmm: added_product, aten.baddbmm: added_product, aten.addmv: added_product,
}  # fmt: skip
