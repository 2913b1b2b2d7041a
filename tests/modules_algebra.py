"""Algebra: solving, inverting, rotating, complex numbers, and steps whose size is learned."""

import torch
from modules_common import Module, numbers, through_unit, unit
from torch.nn import functional

ALGEBRA: list[Module] = []


def ridge(features, target):
    """Return the weights of the examples in kernel ridge regression."""
    eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
    return torch.cholesky_solve(target, torch.linalg.cholesky(features @ features.mT + eye))


def ridge_adjoint(grad_y, features):
    eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
    return torch.cholesky_solve(grad_y, torch.linalg.cholesky(features @ features.mT + eye))


def ridge_backward(grad_y, y, features, target):
    u = ridge_adjoint(grad_y, features)
    return -(u @ (y.mT @ features) + y @ (u.mT @ features)), u


def ridge_one_half(grad_y, y, features, target):
    u = ridge_adjoint(grad_y, features)
    return -u @ (y.mT @ features), u


def ridge_sign(grad_y, y, features, target):
    u = ridge_adjoint(grad_y, features)
    return u @ (y.mT @ features) + y @ (u.mT @ features), u


ALGEBRA.append(
    Module(
        "a solve by Cholesky",
        ridge,
        numbers((3, 4), (3, 2)),
        ridge_backward,
        {"one half of the symmetric gradient": ridge_one_half, "sign": ridge_sign},
    )
)


def inverse_backward(grad_y, y, a):
    return -(y.mT @ grad_y @ y.mT)


def inverse_not_transposed(grad_y, y, a):
    return -(y @ grad_y @ y)


def inverse_sign(grad_y, y, a):
    return y.mT @ grad_y @ y.mT


ALGEBRA.append(
    Module(
        "the inverse of a matrix",
        torch.linalg.inv,
        numbers((2, 3, 3)),
        inverse_backward,
        {"missing transposes": inverse_not_transposed, "sign": inverse_sign},
    )
)


def rotation(q):
    """Return the rotation matrix of each quaternion, of any norm."""
    w, x, y, z = functional.normalize(q, dim=-1, eps=1e-12).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotation_of_unit(grad_y, normal):
    """Return the gradient of the quaternion of norm 1."""
    w, v = normal[..., 0], normal[..., 1:]
    both = grad_y + grad_y.mT
    # The axis of the antisymmetric part, and the trace.
    axis = torch.stack([grad_y[..., k, j] - grad_y[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))], -1)
    trace = grad_y.diagonal(dim1=-2, dim2=-1).sum(-1)
    grad_v = (both @ v.unsqueeze(-1)).squeeze(-1) - 2 * trace.unsqueeze(-1) * v + w.unsqueeze(-1) * axis
    return 2 * torch.cat([(axis * v).sum(-1, keepdim=True), grad_v], -1)


def rotation_backward(grad_y, q):
    normal, norm = unit(q, 1e-12)
    return through_unit(rotation_of_unit(grad_y, normal), normal, norm, 1e-12)


def rotation_not_projected(grad_y, q):
    normal, norm = unit(q, 1e-12)
    return rotation_of_unit(grad_y, normal) / norm


def rotation_of_the_transpose(grad_y, q):
    return rotation_backward(grad_y.mT, q)


ALGEBRA.append(
    Module(
        "a quaternion as a rotation",
        rotation,
        numbers((2, 4)),
        rotation_backward,
        {"norm held constant": rotation_not_projected, "of the transposed matrix": rotation_of_the_transpose},
    )
)


def mixer(z, w, b):
    return z @ w + b


def mixer_backward(grad_y, z, w, b):
    return grad_y @ w.mH, z.mH @ grad_y, grad_y.sum(0)


def mixer_not_conjugated(grad_y, z, w, b):
    return grad_y @ w.mT, z.mT @ grad_y, grad_y.sum(0)


def mixer_weight_not_conjugated(grad_y, z, w, b):
    return grad_y @ w.mH, z.mT @ grad_y, grad_y.sum(0)


ALGEBRA.append(
    Module(
        "a complex linear layer",
        mixer,
        numbers((2, 3), (3, 4), (4,), dtype=torch.complex128),
        mixer_backward,
        {"missing conjugates": mixer_not_conjugated, "missing conjugate of the input": mixer_weight_not_conjugated},
    )
)


def power(x, w):
    """Return the power that a beam of antennas receives: real, of complex arguments."""
    z = x @ w.conj()
    return z.real.square() + z.imag.square()


def power_backward(grad_y, x, w):
    grad_z = 2 * grad_y * (x @ w.conj())
    return grad_z.unsqueeze(-1) * w, grad_z.conj() @ x


def power_halved(grad_y, x, w):
    grad_z = grad_y * (x @ w.conj())
    return grad_z.unsqueeze(-1) * w, grad_z.conj() @ x


def power_conjugate_of_the_weights(grad_y, x, w):
    grad_z = 2 * grad_y * (x @ w.conj())
    return grad_z.unsqueeze(-1) * w, grad_z @ x.conj()


ALGEBRA.append(
    Module(
        "the power of a complex beam",
        power,
        numbers((3, 4), (4,), dtype=torch.complex128),
        power_backward,
        {"factor 2 forgotten": power_halved, "conjugate of the right gradient": power_conjugate_of_the_weights},
    )
)


def adapted(weight, gradient, step):
    """Return the weight after one step of a size that is learned, as in meta-learning."""
    return weight - step * gradient


def adapted_backward(grad_y, weight, gradient, step):
    return grad_y.clone(), -step * grad_y, -(grad_y * gradient).sum().reshape(step.shape)


def adapted_first_order(grad_y, weight, gradient, step):
    return grad_y.clone(), torch.zeros_like(gradient), -(grad_y * gradient).sum().reshape(step.shape)


def adapted_unreduced(grad_y, weight, gradient, step):
    return grad_y.clone(), -step * grad_y, -(grad_y * gradient)


ALGEBRA.append(
    Module(
        "a step of learned size",
        adapted,
        numbers((2, 3), (2, 3), (1,)),
        adapted_backward,
        {"gradient taken for a constant": adapted_first_order, "size's gradient not summed": adapted_unreduced},
    )
)

LOW, HIGH = -4, 3  # what three bits hold


def quantised(x, step):
    """Return x on a grid whose step is learned: rounding passes gradients on unchanged, clamping does not."""
    levels = (x / step).clamp(LOW, HIGH)
    return (levels + (levels.round() - levels).detach()) * step


def quantised_backward(grad_y, x, step):
    levels = x / step
    inside = (levels >= LOW) & (levels <= HIGH)
    by_step = levels.clamp(LOW, HIGH).round() - torch.where(inside, levels, 0)
    return torch.where(inside, grad_y, 0), (grad_y * by_step).sum_to_size(step.shape)


def quantised_unclamped(grad_y, x, step):
    return grad_y.clone(), quantised_backward(grad_y, x, step)[1]


def quantised_as_if_rounding_were_constant(grad_y, x, step):
    levels = (x / step).clamp(LOW, HIGH).round()
    return quantised_backward(grad_y, x, step)[0], (grad_y * levels).sum_to_size(step.shape)


ALGEBRA.append(
    Module(
        "a quantiser of learned step",
        quantised,
        (*numbers((2, 3)), torch.tensor([0.3], dtype=torch.float64)),
        quantised_backward,
        {
            "passed on where it is clamped": quantised_unclamped,
            "input left out of the step's gradient": quantised_as_if_rounding_were_constant,
        },
    )
)
