"""Right backwards of what picks, moves and repeats elements."""

import torch
from right_entry import Right, indices, into, normal
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

INDEXING: dict[str, Right] = {}
right = into(INDEXING)


@right("gather", lambda x, index: x.gather(1, index), (*normal(float64, (3, 4)), indices(4, 3, 2)))
def _(grad_y, x, index):
    return torch.zeros_like(x).scatter_add(1, index, grad_y), None


@right("index_select", lambda x, index: x.index_select(0, index), (*normal(float32, (4, 3)), indices(4, 5)))
def _(grad_y, x, index):
    return torch.zeros_like(x).index_add(0, index, grad_y), None


@right("embedding", functional.embedding, (indices(5, 2, 3), *normal(bfloat16, (5, 4))))
def _(grad_y, index, w):
    return None, torch.zeros_like(w).index_add(0, index.flatten(), grad_y.flatten(0, 1))


def scattered(x, source, index):
    return x.scatter_add(1, index, source)


@right("scatter_add", scattered, (*normal(float64, (3, 4), (3, 2)), indices(4, 3, 2)))
def _(grad_y, x, source, index):
    rows, columns = index.shape
    grad_source = torch.zeros_like(source)
    grad_source[:rows, :columns] = grad_y.gather(1, index)
    return grad_y, grad_source, None


@right("take_along", lambda x, index: torch.take_along_dim(x, index, 1), (*normal(float32, (3, 4)), indices(4, 1, 2)))
def _(grad_y, x, index):
    rows, wrapped = grad_y.shape[0], index.remainder(max(x.shape[1], 1))  # as torch does, for negative ones
    spread = torch.zeros(rows, x.shape[1], dtype=x.dtype).scatter_add(1, wrapped.expand(rows, -1), grad_y)
    return spread.sum_to_size(x.shape), None


def sums_of_segments(x, segment):
    return torch.zeros_like(x).index_add(0, segment, x)


@right("segment_sum", sums_of_segments, (*normal(float16, (4, 3)), indices(4, 4)))
def _(grad_y, x, segment):
    return grad_y.index_select(0, segment), None


@right("sort", lambda x: x.sort(dim=1, stable=True).values, normal(float64, (2, 4)))
def _(grad_y, x):
    order = x.sort(dim=1, stable=True).indices
    return torch.zeros_like(x).scatter(1, order, grad_y)


@right("topk", lambda x: x.topk(2, dim=1).values, normal(float32, (2, 4)))
def _(grad_y, x):
    return torch.zeros_like(x).scatter(1, x.topk(2, dim=1).indices, grad_y)


@right("max_of_axis", lambda x: x.max(dim=1).values, normal(bfloat16, (2, 3)))
def _(grad_y, x):
    first = x.max(dim=1, keepdim=True).indices
    return torch.zeros_like(x).scatter(1, first, grad_y.unsqueeze(1))


@right("flip", lambda x: x.flip(1), normal(float16, (2, 3)))
def _(grad_y, x):
    return grad_y.flip(1)


@right("roll", lambda x: x.roll(1, 1), normal(float64, (2, 3)))
def _(grad_y, x):
    return grad_y.roll(-1, 1)


@right("pad", lambda x: functional.pad(x, (1, 2)), normal(float32, (2, 3)))
def _(grad_y, x):
    return grad_y.narrow(-1, 1, x.shape[-1])


@right("reflection_pad", lambda x: functional.pad(x, (1, 2), mode="reflect"), normal(float64, (2, 3, 5)))
def _(grad_y, x):
    n = x.shape[-1]
    source = n - 1 - (n - 1 - torch.arange(-1, n + 2).abs()).abs()
    return torch.zeros_like(x).index_add(2, source, grad_y)


@right("unfold", lambda x: x.unfold(1, 3, 2), normal(float64, (2, 6)))
def _(grad_y, x):
    source = torch.arange(x.shape[1]).unfold(0, 3, 2)
    return torch.zeros_like(x).index_add(1, source.flatten(), grad_y.flatten(1))


@right("concatenate", lambda a, b: torch.cat([a, b], 1), normal(bfloat16, (2, 3), (2, 4)))
def _(grad_y, a, b):
    return grad_y[:, : a.shape[1]], grad_y[:, a.shape[1] :]


@right("stack", lambda a, b: torch.stack([a, b], -1), normal(float16, (2, 3), (2, 3)))
def _(grad_y, a, b):
    return grad_y[..., 0], grad_y[..., 1]


@right("permute", lambda x: x.permute(2, 0, 1), normal(float32, (2, 3, 4)))
def _(grad_y, x):
    return grad_y.permute(1, 2, 0)


@right("every_second", lambda x: x[:, 1::2], normal(float64, (2, 5)))
def _(grad_y, x):
    grad_x = torch.zeros_like(x)
    grad_x[:, 1::2] = grad_y
    return grad_x


@right("masked_fill", lambda x, mask: x.masked_fill(mask, -1.0), (*normal(float32, (2, 3)), indices(2, 2, 3).bool()))
def _(grad_y, x, mask):
    return grad_y.masked_fill(mask, 0), None


@right("upper_triangle", lambda x: x.triu(1), normal(bfloat16, (3, 4)))
def _(grad_y, x):
    return grad_y.triu(1)


@right("diagonal_matrix", torch.diag_embed, normal(float64, (2, 3)))
def _(grad_y, x):
    return grad_y.diagonal(dim1=-2, dim2=-1)


@right("repeat", lambda x: x.repeat(2, 3), normal(float32, (2, 3)))
def _(grad_y, x):
    return grad_y.reshape(2, x.shape[0], 3, x.shape[1]).sum((0, 2))


@right("repeat_interleave", lambda x: x.repeat_interleave(3, 1), normal(float16, (2, 3)))
def _(grad_y, x):
    return grad_y.reshape(*x.shape, 3).sum(-1)
