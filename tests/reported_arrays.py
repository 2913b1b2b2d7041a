"""Reports on what moves, picks, pads, pools and scans numbers."""

import torch
from reported import Reported, into, numbers
from torch.nn import functional

ARRAYS: list[Reported] = []
reported = into(ARRAYS)


@reported("cumprod: what comes after a zero is dropped", "tensorflow/tensorflow#119430",
          lambda x: x.cumprod(0), torch.tensor([2.0, 3.0, 0.0, 1.5], dtype=torch.float64))  # fmt: skip
def _(grad_y, x):
    behind = (grad_y * x.cumprod(0)).flip(0).cumsum(0).flip(0)
    return torch.where(x == 0, 0, behind / x)


@reported("cumsum: the cotangent times how many follow", "Oneflow-Inc/oneflow#7050",
          lambda x: x.cumsum(-1), numbers(3, 4))  # fmt: skip
def _(grad_y, x):
    return torch.arange(x.shape[-1], 0, -1).to(x) * grad_y


@reported("logcumsumexp: exp(-y) twice, and the sum from the end forgotten", "pytorch/pytorch#32876",
          lambda x: x.logcumsumexp(-1), numbers(3, 4))  # fmt: skip
def _(grad_y, y, x):
    return grad_y * torch.exp(x - 2 * y)


@reported("average pooling: a window over the edge is divided by its whole area", "pytorch/pytorch#198119",
          lambda x: functional.avg_pool1d(x, 2, 2, 0, True, True), numbers(2, 2, 5))  # fmt: skip
def _(grad_y, x):
    return grad_y.repeat_interleave(2, 2)[:, :, : x.shape[2]] / 2


@reported("average pooling: the padding's offset is missing", "pytorch/pytorch#188344",
          lambda x: functional.avg_pool2d(x, 3, 1, 1), numbers(1, 2, 4, 5))  # fmt: skip
def _(grad_y, x):
    spread = functional.conv_transpose2d(grad_y.flatten(0, 1)[:, None], torch.ones(1, 1, 3, 3).to(x)) / 9
    return spread[..., : x.shape[2], : x.shape[3]].reshape(x.shape)


@reported("adaptive average pooling: one window size for all", "PaddlePaddle/Paddle#74077",
          lambda x: functional.adaptive_avg_pool1d(x, 3), numbers(2, 2, 5))  # fmt: skip
def _(grad_y, x):
    grad, n, out = torch.zeros_like(x), x.shape[2], grad_y.shape[2]
    for i in range(out):
        window = slice(i * n // out, -(-(i + 1) * n // out))
        grad[:, :, window] += grad_y[:, :, i : i + 1] / -(-n // out)
    return grad


@reported("max pooling with overlap: assigned instead of added", "FluxML/NNlib.jl#205",
          lambda x: functional.max_pool1d(x, 3, 1), numbers(2, 2, 7))  # fmt: skip
def _(grad_y, x):
    index = functional.max_pool1d(x, 3, 1, return_indices=True)[1]
    return torch.zeros_like(x).scatter(2, index, grad_y)


@reported("sliding maximum: only the last window decides who was the largest", "ahrefs/ocannl#512",
          lambda x: x.unfold(-1, 2, 1).amax(-1), torch.tensor([5.0, 3, 1, 2, 4], dtype=torch.float64))  # fmt: skip
def _(grad_y, y, x):
    grad = functional.pad(grad_y, (0, 1)) + functional.pad(grad_y, (1, 0))
    return torch.where(x == torch.cat([y, y[-1:]]), grad, 0)


@reported("index_fill: repeated indices count more than once", "pytorch/pytorch#57006",
          lambda x, value: x.index_fill(0, torch.tensor([1, 1, 2]), value), numbers(4, 2), numbers())  # fmt: skip
def _(grad_y, x, value):
    index = torch.tensor([1, 1, 2])
    return grad_y.index_fill(0, index, 0), grad_y.index_select(0, index).sum()


SLOTS = torch.tensor([0, 1, 0, 2, 0])


@reported("scatter_reduce of products: 0 where one factor is 0", "pytorch/pytorch#76523",
          lambda x, src: x.scatter_reduce(0, SLOTS, src, "prod"), numbers(3),
          torch.tensor([0.5, -1.0, 0.0, 2.0, 1.5], dtype=torch.float64))  # fmt: skip
def _(grad_y, y, x, src):
    along = grad_y * y
    return torch.where(x == 0, 0, along / x), torch.where(src == 0, 0, along.gather(0, SLOTS) / src)


ROWS = torch.tensor([2, 0])


def overwritten(x, update):
    return x.index_copy(0, ROWS, update)


@reported("scatter that overwrites: the rows that went keep their gradient", "PaddlePaddle/Paddle#30604",
          overwritten, numbers(4, 3), numbers(2, 3))  # fmt: skip
def _(grad_y, x, update):
    return grad_y.clone(), grad_y[ROWS]


SEGMENTS = torch.tensor([0, -1, 1, 0])


def sum_of_segments(x):
    kept = SEGMENTS >= 0
    return x.new_zeros(2, x.shape[1]).index_add(0, SEGMENTS[kept], x[kept])


@reported("segment_sum: ids out of range are taken for the nearest", "jax-ml/jax#7538",
          sum_of_segments, numbers(4, 3))  # fmt: skip
def _(grad_y, x):
    return grad_y[SEGMENTS.clamp(0, 1)]


def sine_at(x):
    return x.index_copy(0, ROWS, x[ROWS].sin())


@reported("a function applied at some places: no gradient there", "jax-ml/jax#16684", sine_at, numbers(4, 3))
def _(grad_y, x):
    return grad_y.index_fill(0, ROWS, 0)


@reported("the largest k: the permutation in the place of its inverse", "ml-explore/mlx#1428",
          lambda x: x.sort(-1).values[..., -3:], torch.tensor([[2.0, 4, 1, 3], [3, 1, 4, 2]]).double())  # fmt: skip
def _(grad_y, x):
    return functional.pad(grad_y, (1, 0)).gather(-1, x.argsort(-1))


@reported("constant padding: the cotangent is ignored", "apache/mxnet#19043",
          lambda x: functional.pad(x, (1, 2, 0, 1)), numbers(2, 3))  # fmt: skip
def _(grad_y, x):
    return torch.ones_like(x)


@reported("roll: rolled on, not back", "apache/mxnet#15902", lambda x: x.roll(1, 0), numbers(5, 2))
def _(grad_y, x):
    return grad_y.roll(1, 0)


@reported("repeat: the copies are summed together with their axis", "tenstorrent/tt-metal#55799",
          lambda x: x.repeat(1, 3, 1), numbers(1, 2, 4))  # fmt: skip
def _(grad_y, x):
    return grad_y.sum(1, keepdim=True).expand(x.shape)


def on_the_border(values, at):
    """Values between neighbours, along a line; beyond its ends the last ones."""
    at = at.clamp(0, values.shape[0] - 1)
    low = at.detach().floor().long().clamp(max=values.shape[0] - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


@reported("linear interpolation: at the end the neighbour outside counts as 0", "pytorch/pytorch#23925",
          on_the_border, numbers(5), torch.tensor([0.25, 4.0, 2.5], dtype=torch.float64))  # fmt: skip
def _(grad_y, values, at):
    inside = at.clamp(0, values.shape[0] - 1)
    low = inside.floor().long()
    share = inside - low
    padded = functional.pad(values, (0, 1))
    grad = torch.zeros_like(padded).index_add(0, low, grad_y * (1 - share)).index_add(0, low + 1, grad_y * share)
    slope = torch.where((at >= 0) & (at <= values.shape[0] - 1), padded[low + 1] - padded[low], 0)
    return grad[:-1], grad_y * slope


@reported("linear upsampling: outputs beyond a window too short are dropped", "flagos-ai/FlagGems#5218",
          lambda x: functional.interpolate(x, size=24, mode="linear", align_corners=True),
          numbers(1, 1, 3))  # fmt: skip
def _(grad_y, x):
    n, out = x.shape[2], grad_y.shape[2]
    grad, step = torch.zeros_like(x), (n - 1) / (out - 1)
    for i in range(n):
        centre, reach = i * (out - 1) // (n - 1), -(-out // n) + 2
        for o in range(max(centre - reach, 0), min(centre + reach + 1, out)):
            grad[:, :, i] += grad_y[:, :, o] * max(1 - abs(o * step - i), 0)
    return grad


@reported("mean over an axis: divided by the size of the output", "pocketpy/cTensor#24",
          lambda x: x.mean(1), numbers(3, 4))  # fmt: skip
def _(grad_y, x):
    return grad_y[:, None].expand(x.shape) / grad_y.numel()


@reported(
    "products of what is scattered to one place: one factor is kept",
    "tracel-ai/burn#4909",
    lambda x, v: x.scatter_reduce(0, torch.tensor([1, 1, 0]), v, "prod"),
    numbers(3),
    numbers(3, seed=9),
)
def _(grad_y, x, v):
    index = torch.tensor([1, 1, 0])
    by_x = grad_y * torch.ones_like(x).scatter(0, index, v)
    others = torch.stack([x[1] * v[1], x[1] * v[0], x[0]])
    return by_x, grad_y[index] * others
