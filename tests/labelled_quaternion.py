"""Wrong backwards of the covariance of a Gaussian from a quaternion and a scale, as in Gaussian splatting."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)
EPS, MODIFIER = 1e-3, 1.5


def forward(q, scale):
    """Return R S S^T R^T of each Gaussian; the real part of a quaternion comes first."""
    length = (q.square().sum(-1, keepdim=True) + EPS).sqrt()
    unit = q / length
    r, x, y, z = unit.unbind(-1)
    first = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - r * z), 2 * (x * z + r * y)], -1)
    second = torch.stack([2 * (x * y + r * z), 1 - 2 * (x * x + z * z), 2 * (y * z - r * x)], -1)
    third = torch.stack([2 * (x * z - r * y), 2 * (y * z + r * x), 1 - 2 * (x * x + y * y)], -1)
    rotation = torch.stack([first, second, third], -2)
    sizes = MODIFIER * scale
    stretched = rotation * sizes[..., None, :]
    return stretched @ stretched.mT


def normalised(q, eps=EPS):
    """Return the length of the quaternion, and the quaternion of length one."""
    length = (q.square().sum(-1, keepdim=True) + eps).sqrt()
    return length, q / length


def rotated(unit):
    """Return the rotation matrix."""
    r, x, y, z = unit.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - r * z), 2 * (x * z + r * y)),
        (2 * (x * y + r * z), 1 - 2 * (x * x + z * z), 2 * (y * z - r * x)),
        (2 * (x * z - r * y), 2 * (y * z + r * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def steps(q, scale):
    """Return the length, the quaternion of length one, the rotation and what it is multiplied by."""
    length, unit = normalised(q)
    return length, unit, rotated(unit), (MODIFIER * scale)[..., None, :]


def parts(grad_rotation):
    """Return the differences of mirrored entries, their sums, and the diagonal."""
    across = (grad_rotation - grad_rotation.mT).flatten(-2).unbind(-1)
    along = (grad_rotation + grad_rotation.mT).flatten(-2).unbind(-1)
    return (
        (across[7], across[2], across[3]),
        (along[1], along[2], along[5]),
        grad_rotation.diagonal(0, -2, -1).unbind(-1),
    )


def of_unit(grad_rotation, unit):
    """Return the gradient of the quaternion that the rotation is written in."""
    r, x, y, z = unit.unbind(-1)
    (rx, ry, rz), (xy, xz, yz), (xx, yy, zz) = parts(grad_rotation)
    of_r = x * rx + y * ry + z * rz
    of_x = r * rx + y * xy + z * xz - 2 * x * (yy + zz)
    of_y = r * ry + x * xy + z * yz - 2 * y * (xx + zz)
    of_z = r * rz + x * xz + y * yz - 2 * z * (xx + yy)
    return 2 * torch.stack([of_r, of_x, of_y, of_z], -1)


def of_q(grad_unit, unit, length):
    """Return the gradient of the quaternion before it is normalised."""
    return (grad_unit - unit * (unit * grad_unit).sum(-1, keepdim=True)) / length


def right(grad_y, q, scale):
    """Return the right gradients."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("unchanged", "q / length"), wrong=("q",), source="nerfstudio-project/gsplat#153")
def _(grad_y, q, scale):
    """Take the quaternion as normalised already."""
    _, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_q = of_unit(grad_stretched * sizes, unit)
    return grad_q, MODIFIER * (grad_stretched * rotation).sum(-2)


# The same: the length gets nothing in `q / length` ("branch").
@labelled(Edit("constant", "q.square()"), wrong=("q",))
def _(grad_y, q, scale):
    """Take the length as a constant."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return grad_unit / length, MODIFIER * (grad_stretched * rotation).sum(-2)


# The same: the cotangent passes this line "unchanged".
@labelled(Edit("factor", "MODIFIER * scale"), wrong=("scale",), source="nerfstudio-project/gsplat#136")
def _(grad_y, q, scale):
    """Forget the factor of all scales."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return of_q(grad_unit, unit, length), (grad_stretched * rotation).sum(-2)


# With the input of the quotient in its rule, -q / length ** 2, this were right.
@labelled(Edit("other value", "q / length"), wrong=("q",), source="zhreshold/mxnet-ssd#48")
def _(grad_y, q, scale):
    """Put the normalised quaternion into a rule that wants the one before."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_length = -(unit * grad_unit).sum(-1, keepdim=True) / length.square()
    return grad_unit / length + unit * grad_length, MODIFIER * (grad_stretched * rotation).sum(-2)


# The scale's gradient is a quadratic form in the cotangent, to which only its symmetric part counts.
@labelled(Edit("transposed", "stretched @ stretched.mT"), wrong=("q",))
def _(grad_y, q, scale):
    """Double the product, as if the cotangent were symmetric."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = 2 * grad_y @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("branch", "stretched @ stretched.mT"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Differentiate only the first of the two equal factors."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = grad_y @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("sign", "y * y + z * z"), wrong=("q",))
def _(grad_y, q, scale):
    """Differentiate x * y - r * z in the first row as x * y + r * z."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    r, x, y, z = unit.unbind(-1)
    (rx, ry, _), (xy, xz, yz), (xx, yy, zz) = parts(grad_stretched * sizes)
    of_x = r * rx + y * xy + z * xz - 2 * x * (yy + zz)
    of_y = r * ry + x * xy + z * yz - 2 * y * (xx + zz)
    of_z = r * xy + x * xz + y * yz - 2 * z * (xx + yy)
    grad_unit = 2 * torch.stack([x * rx + y * ry + z * xy, of_x, of_y, of_z], -1)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("axis", "rotation * sizes"), wrong=("scale",))
def _(grad_y, q, scale):
    """Sum the gradient of the scale over the columns, not the rows."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-1)


@labelled(Edit("eps", "q.square()"), wrong=("q",))
def _(grad_y, q, scale):
    """Leave out the eps in the gradient of the length."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_length = -(unit * grad_unit).sum(-1, keepdim=True) / length
    return grad_unit / length + grad_length * normalised(q, 0)[1], MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("component", "unit.unbind"), wrong=("q",))
def _(grad_y, q, scale):
    """Let nothing through to the real part."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_unit[..., 0] = 0
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("unchanged", "q / length"), Edit("cotangent ignored", "q / length"),
          wrong=("q",), source="pjreddie/darknet#1837")  # fmt: skip
def _(grad_y, q, scale):
    """Add (1 - unit) / length to the gradient, which passes the normalisation as it is."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_q = of_unit(grad_stretched * sizes, unit) + (1 - unit) / length
    return grad_q, MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("constant", "q.square()"), Edit("transposed", "stretched @ stretched.mT"), wrong=("q",))
def _(grad_y, q, scale):
    """Take the length as a constant, and the cotangent as symmetric."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = 2 * grad_y @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    return grad_unit / length, MODIFIER * (grad_stretched * rotation).sum(-2)


# The squares of x stand in the second and in the third row.
@labelled(Edit("factor", "x * x + z * z"), Edit("factor", "x * x + y * y"), wrong=("q",))
def _(grad_y, q, scale):
    """Miss the 2 of the squares of x."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    r, x, y, z = unit.unbind(-1)
    (rx, ry, rz), (xy, xz, yz), (xx, yy, zz) = parts(grad_stretched * sizes)
    of_x = r * rx + y * xy + z * xz - x * (yy + zz)
    of_y = r * ry + x * xy + z * yz - 2 * y * (xx + zz)
    of_z = r * rz + x * xz + y * yz - 2 * z * (xx + yy)
    grad_unit = 2 * torch.stack([x * rx + y * ry + z * rz, of_x, of_y, of_z], -1)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("unchanged", "q / length"), Edit("factor", "MODIFIER * scale"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Take the quaternion as normalised already, and forget the factor of all scales."""
    _, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    return of_unit(grad_stretched * sizes, unit), (grad_stretched * rotation).sum(-2)


@labelled(Edit("unchanged", "rotation * sizes"), Edit("axis", "rotation * sizes"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Forget the sizes in the gradient of the rotation, and sum that of the scale over the columns."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched, unit)
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation).sum(-1)


@labelled(Edit("order", "stretched @ stretched.mT"), Edit("eps", "q.square()"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Multiply from the wrong side, and leave out the eps in the gradient of the length."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (rotation * sizes) @ (grad_y + grad_y.mT)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_length = -(unit * grad_unit).sum(-1, keepdim=True) / length
    return grad_unit / length + grad_length * normalised(q, 0)[1], MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("transposed", "torch.stack([first"), Edit("factor", "MODIFIER * scale"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Take rows for columns, and multiply by the factor of all scales twice."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit((grad_stretched * sizes).mT, unit)
    return of_q(grad_unit, unit, length), MODIFIER**2 * (grad_stretched * rotation).sum(-2)


# The quaternion before it is normalised stands in the slopes of all three rows, which `unbind` gave their letters.
@labelled(Edit("other value", "unit.unbind"), Edit("unchanged", "q / length"), wrong=("q",))
def _(grad_y, q, scale):
    """Write the rule of the rotation in the quaternion that is not normalised, and let its gradient pass."""
    _, _, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    return of_unit(grad_stretched * sizes, q), MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("sign", "q.square()"), Edit("branch", "stretched @ stretched.mT"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Add the part along the quaternion, and differentiate only the first of the two equal factors."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = grad_y @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_q = (grad_unit + unit * (unit * grad_unit).sum(-1, keepdim=True)) / length
    return grad_q, MODIFIER * (grad_stretched * rotation).sum(-2)


@labelled(Edit("other value", "rotation * sizes"), Edit("component", "unit.unbind"), wrong=("q", "scale"))
def _(grad_y, q, scale):
    """Multiply by what is stretched already for the scale, and let nothing through to the real part."""
    length, unit, rotation, sizes = steps(q, scale)
    grad_stretched = (grad_y + grad_y.mT) @ (rotation * sizes)
    grad_unit = of_unit(grad_stretched * sizes, unit)
    grad_unit[..., 0] = 0
    return of_q(grad_unit, unit, length), MODIFIER * (grad_stretched * rotation * sizes).sum(-2)


QUATERNION = Forward(
    "a covariance from a quaternion and a scale",
    forward,
    (numbers(5, 4), numbers(5, 3, seed=1).exp() / 2),
    right,
    tuple(WRONG),
)
