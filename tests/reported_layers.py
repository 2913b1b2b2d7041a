"""Reports on normalisations, attention, losses and layers."""

import torch
from reported import Reported, into, numbers
from torch.nn import functional

LAYERS: list[Reported] = []
reported = into(LAYERS)
EPS = 1e-5


def normalised(x, eps=EPS):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def scaled(x, w):
    return normalised(x) * w


def through_rms(grad, x):
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return r, x * r**3 * (grad * x).mean(-1, keepdim=True)


@reported("RMSNorm: the weight twice", "NVIDIA/Megatron-LM#6859", scaled, numbers(3, 4), numbers(4))
def _(grad_y, x, w):
    r, along = through_rms(grad_y * w, x)
    return grad_y * w * r - w * along, (grad_y * x * r).sum(0)


@reported("RMSNorm: the weight forgotten", "karpathy/llm.c#763", scaled, numbers(3, 4), numbers(4))
def _(grad_y, x, w):
    r, along = through_rms(grad_y, x)
    return grad_y * r - along, (grad_y * x * r).sum(0)


def with_its_sum(x, residual, w):
    total = x + residual
    return scaled(total, w), total


@reported("pre-norm: the sum's own cotangent passes the norm", "Dao-AILab/quack#53",
          with_its_sum, numbers(3, 4), numbers(3, 4, seed=1), numbers(4))  # fmt: skip
def _(grad_y, x, residual, w):
    over, total = grad_y[0] + grad_y[1], x + residual
    r, along = through_rms(over * w, total)
    grad = over * w * r - along
    return grad, grad.clone(), (grad_y[0] * total * r).sum(0)


TARGETS = torch.tensor([1, 3, 1])


def of_each_token(x, w, b):
    return functional.cross_entropy(x @ w.mT + b, TARGETS, reduction="none")


@reported("cross entropy of each token: the first cotangent for all", "linkedin/Liger-Kernel#1298",
          of_each_token, numbers(3, 2), numbers(4, 2), numbers(4))  # fmt: skip
def _(grad_y, x, w, b):
    grad = (x @ w.mT + b).softmax(1) - functional.one_hot(TARGETS, 4).to(x)
    return grad_y[0] * grad @ w, grad_y[0] * grad.mT @ x, grad_y[0] * grad.sum(0)


IGNORED = torch.tensor([1, 2, 0])


@reported("cross entropy: ignored rows keep the softmax", "PaddlePaddle/Paddle#28622",
          lambda x: functional.cross_entropy(x, IGNORED, ignore_index=2, reduction="none"), numbers(3, 4))  # fmt: skip
def _(grad_y, x):
    kept = (IGNORED != 2)[:, None]
    return grad_y[:, None] * (x.softmax(1) - torch.where(kept, functional.one_hot(IGNORED, 4), 0))


@reported("cross entropy: the ignored label is always -1", "chainer/chainer#2715",
          lambda x: functional.cross_entropy(x, IGNORED, ignore_index=2), numbers(3, 4))  # fmt: skip
def _(grad_y, x):
    grad = x.softmax(1) - functional.one_hot(IGNORED, 4)
    return grad_y * grad / 2


DROPPED = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1]]) * 1.5


def dropping_attention(q, k, v):
    return ((q @ k.mT).softmax(-1) * DROPPED.to(q)) @ v


@reported("attention with dropout: the softmax's rule of what was dropped", "aws-neuron/nki-samples#81",
          dropping_attention, numbers(3, 2), numbers(3, 2, seed=1), numbers(3, 2, seed=2))  # fmt: skip
def _(grad_y, q, k, v):
    dropped = (q @ k.mT).softmax(-1) * DROPPED.to(q)
    grad = grad_y @ v.mT
    grad = dropped * (grad - (grad * dropped).sum(-1, keepdim=True))
    return grad @ k, grad.mT @ q, dropped.mT @ grad_y


@reported("dropout: scaled by p", "NVIDIA/apex#816", lambda x: x * DROPPED.to(x), numbers(3, 3))
def _(grad_y, x):
    return grad_y * (DROPPED > 0) / 3


@reported(
    "dropout by y / x: all passes where x is 0", "kaldi-asr/kaldi#3890", lambda x: x * DROPPED.to(x), numbers(3, 3)
)
def _(grad_y, y, x):
    return torch.where(x == 0, grad_y, y / x * grad_y)


def linear_attention(q, k, v):
    weights = (q @ k.mT).tril()
    return weights @ v / weights.sum(-1, keepdim=True)


@reported("normalised linear attention: nothing through the denominator for the keys",
          "fla-org/flash-linear-attention#875", linear_attention,
          numbers(3, 2).abs() + 0.25, numbers(3, 2, seed=1).abs() + 0.25, numbers(3, 2, seed=2))  # fmt: skip
def _(grad_y, y, q, k, v):
    weights = (q @ k.mT).tril()
    total = weights.sum(-1, keepdim=True)
    numerator = ((grad_y / total) @ v.mT).tril()
    whole = (numerator - ((grad_y * y).sum(-1, keepdim=True) / total)).tril()
    return whole @ k, numerator.mT @ q, (weights / total).mT @ grad_y


@reported("log_softmax: exp(y) + g", "mlpack/mlpack#2360", lambda x: x.log_softmax(-1), numbers(2, 4))
def _(grad_y, y, x):
    return y.exp() + grad_y


@reported("log_softmax: the product with the output", "uxlfoundation/oneDNN#616",
          lambda x: x.log_softmax(-1), numbers(2, 4))  # fmt: skip
def _(grad_y, y, x):
    return grad_y - (grad_y * y).sum(-1, keepdim=True)


@reported("softmax: the cotangent is missing in one term", "apache/tvm#1201", lambda x: x.softmax(-1), numbers(2, 4))
def _(grad_y, y, x):
    return y - y * (y * grad_y).sum(-1, keepdim=True)


@reported("total variation: half of it at ties", "linkedin/Liger-Kernel#1373",
          lambda p: (p - torch.full_like(p, 0.25)).abs().sum() / 2, numbers(2, 4).softmax(-1))  # fmt: skip
def _(grad_y, p):
    return grad_y * torch.where(p > 0.25, 0.5, -0.5)


LABELS = torch.tensor([1.0, 0.0, 1.0])


@reported("binary cross entropy: the weight of the positive ones is on all", "PaddlePaddle/Paddle#64253",
          lambda x: functional.binary_cross_entropy_with_logits(
              x, LABELS.to(x), pos_weight=torch.tensor(2.0).to(x), reduction="none"), numbers(3))  # fmt: skip
def _(grad_y, x):
    return grad_y * (2 * torch.sigmoid(x) - LABELS.to(x))


MASK = torch.tensor([1.0, 0.0, 1.0, 1.0])


def dice(x):
    return (2 * (x * MASK.to(x)).sum() + EPS) / (x.sum() + MASK.sum() + EPS)


@reported("dice: plus for minus in the quotient's rule", "milesial/Pytorch-UNet#35", dice, numbers(4).sigmoid())
def _(grad_y, x):
    mask = MASK.to(x)
    inside, union = (x * mask).sum(), x.sum() + mask.sum() + EPS
    return grad_y * 2 * (mask * union + inside) / union * union


SAME = torch.tensor([1.0, 0.0, 0.0])


def contrastive(a, b):
    apart = (a - b).square().sum(1)
    same = SAME.to(a)
    return (same * apart + (1 - same) * functional.relu(4 - apart)).mean() / 2


@reported("contrastive loss: the difference is missing for those apart", "BVLC/caffe#7100",
          contrastive, numbers(3, 2) / 2, numbers(3, 2, seed=1) / 2)  # fmt: skip
def _(grad_y, a, b):
    share, near = grad_y / len(a), ((a - b).square().sum(1) < 4)[:, None]
    grad = torch.where(SAME[:, None] == 1, a - b, torch.where(near, -1.0, 0.0).to(a)) * share
    return grad, -grad


def cosine_margin(a, b):
    return functional.relu(functional.cosine_similarity(a, b) - 0.5)


@reported("cosine loss of those apart: the margin is ignored", "torch/nn#169",
          cosine_margin, numbers(4, 3), numbers(4, 3, seed=1))  # fmt: skip
def _(grad_y, a, b):
    cosine = functional.cosine_similarity(a, b)[:, None]
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    g = grad_y[:, None]
    by_a = g * (b / (lengths[0] * lengths[1]) - cosine * a / lengths[0] ** 2)
    return by_a, g * (a / (lengths[0] * lengths[1]) - cosine * b / lengths[1] ** 2)


def turned(x):
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


@reported("rotary embedding: turned before it is multiplied", "PaddlePaddle/Paddle#74716",
          lambda x, cos, sin: x * cos + turned(x) * sin, numbers(3, 4), numbers(4), numbers(4, seed=1))  # fmt: skip
def _(grad_y, x, cos, sin):
    return grad_y * cos - turned(grad_y) * sin, (grad_y * x).sum(0), (grad_y * turned(x)).sum(0)


def over_the_batch(x, w, b):
    return (x - x.mean(0)) * torch.rsqrt(x.var(0, correction=0) + EPS) * w + b


@reported("batch norm in training: mean and variance are taken for constants", "facebookresearch/CrypTen#143",
          over_the_batch, numbers(4, 3), numbers(3), numbers(3, seed=1))  # fmt: skip
def _(grad_y, x, w, b):
    inverse = torch.rsqrt(x.var(0, correction=0) + EPS)
    return grad_y * w * inverse, (grad_y * (x - x.mean(0)) * inverse).sum(0), grad_y.sum(0)


def with_kept_statistics(x, w):
    return (x - 0.25) * torch.rsqrt(torch.full_like(w, 2.0) + EPS) * w


@reported("batch norm in evaluation: the rule of training", "pytorch/xla#913",
          with_kept_statistics, numbers(4, 3), numbers(3))  # fmt: skip
def _(grad_y, x, w):
    scale = (2.0 + EPS) ** -0.5
    unit = (x - 0.25) * scale
    return w * scale * (grad_y - grad_y.mean(0) - unit * (grad_y * unit).mean(0)), (grad_y * unit).sum(0)


def in_groups(x, w):
    parts = x.reshape(x.shape[0], 2, x.shape[1] // 2 * x.shape[2])
    unit = (parts - parts.mean(-1, keepdim=True)) * torch.rsqrt(parts.var(-1, keepdim=True, correction=0) + EPS)
    return unit.reshape(x.shape) * w[:, None]


@reported("group norm: the weight's gradient takes the statistics of another group", "tenstorrent/tt-metal#56202",
          in_groups, numbers(2, 4, 3), numbers(4))  # fmt: skip
def _(grad_y, x, w):
    parts = x.reshape(x.shape[0], 2, -1)
    mean, inverse = parts.mean(-1), torch.rsqrt(parts.var(-1, correction=0) + EPS)
    other = torch.arange(x.shape[1]) % 2
    by_w = (grad_y * (x - mean[:, other, None]) * inverse[:, other, None]).sum((0, 2))
    unit = (parts - mean[..., None]) * inverse[..., None]
    grad = (grad_y * w[:, None]).reshape(parts.shape)
    by_x = inverse[..., None] * (grad - grad.mean(-1, keepdim=True) - unit * (grad * unit).mean(-1, keepdim=True))
    return by_x.reshape(x.shape), by_w


def centred_and_scaled(x, w, b):
    return functional.layer_norm(x, (x.shape[1],), w, b)


def through_layer_norm(grad_y, x, w):
    inverse = torch.rsqrt(x.var(1, keepdim=True, correction=0) + EPS)
    unit, grad = (x - x.mean(1, keepdim=True)) * inverse, grad_y * w
    return unit, inverse * (grad - grad.mean(1, keepdim=True) - unit * (grad * unit).mean(1, keepdim=True))


@reported("layer norm by its output: another column's parameters", "deepspeedai/DeepSpeed#692",
          centred_and_scaled, numbers(3, 4), numbers(4), numbers(4, seed=1))  # fmt: skip
def _(grad_y, y, x, w, b):
    row = torch.arange(x.shape[0]).clamp(max=x.shape[1] - 1)
    by_w = (grad_y * (y - b[row][:, None]) / w[row][:, None]).sum(0)
    return through_layer_norm(grad_y, x, w)[1], by_w, grad_y.sum(0)


@reported("layer norm: the gradients of weight and bias exchanged", "Oneflow-Inc/oneflow#6149",
          centred_and_scaled, numbers(3, 4), numbers(4), numbers(4, seed=1))  # fmt: skip
def _(grad_y, x, w, b):
    unit, by_x = through_layer_norm(grad_y, x, w)
    return by_x, grad_y.sum(0), (grad_y * unit).sum(0)


@reported("local response normalisation: taken for the identity", "andersbll/deeppy#15",
          lambda x: functional.local_response_norm(x, 3, alpha=1.0), numbers(2, 4, 3))  # fmt: skip
def _(grad_y, x):
    return grad_y.clone()


def by_groups(x, w):
    return functional.conv1d(x, w, groups=2)


@reported("convolution in groups: the weight's gradient takes every second channel", "pytorch/pytorch#51430",
          by_groups, numbers(2, 4, 5), numbers(4, 2, 3))  # fmt: skip
def _(grad_y, x, w):
    windows = x.unfold(2, w.shape[2], 1)
    group = torch.arange(w.shape[0]) // (w.shape[0] // 2)
    taken = torch.arange(w.shape[1]) * 2 + group[:, None]
    by_w = torch.einsum("bot,boatk->oak", grad_y, windows[:, taken])
    return functional.conv_transpose1d(grad_y, w, groups=2), by_w


@reported("convolution: the weight's gradient is a mean over batch and places", "sebgao/cTensor#3",
          functional.conv1d, numbers(2, 2, 5), numbers(3, 2, 3))  # fmt: skip
def _(grad_y, x, w):
    by_w = torch.einsum("bot,bitk->oik", grad_y, x.unfold(2, w.shape[2], 1)) / (grad_y.shape[0] * grad_y.shape[2])
    return functional.conv_transpose1d(grad_y, w), by_w


LOW, HIGH = -2.0, 1.0


def fake_quantised(x, step):
    """Rounded to so many steps, and a gradient as if it were not: the derivative is the one that it declares."""
    steps = x / step
    return step * (steps + (steps.round() - steps).detach()).clamp(LOW, HIGH)


def inside_and_left(x, step):
    steps = x / step
    rounded = steps.round()
    inside = (rounded >= LOW) & (rounded <= HIGH)
    return inside, torch.where(inside, rounded - steps, rounded.clamp(LOW, HIGH))


@reported("fake quantisation: the step's gradient without what is cut off", "pytorch/pytorch#42034",
          fake_quantised, 2 * numbers(3, 4), numbers().abs() + 0.5)  # fmt: skip
def _(grad_y, x, step):
    inside, left = inside_and_left(x, step)
    through = torch.where(inside, grad_y, 0)
    return through, (through * left).sum()


@reported("fake quantisation: what is cut off gets a gradient", "microsoft/nni#3160",
          fake_quantised, 2 * numbers(3, 4), numbers().abs() + 0.5)  # fmt: skip
def _(grad_y, x, step):
    return grad_y.clone(), (grad_y * inside_and_left(x, step)[1]).sum()
