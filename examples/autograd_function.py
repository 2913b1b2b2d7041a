"""A hand-written torch.autograd.Function: softplus with a temperature, log(1 + exp(b x)) / b."""

import numpy as np
import torch

from backprop_rules import check_function


class Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.logaddexp(2 * x, torch.zeros_like(x)) / 2

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * torch.sigmoid(2 * x)


class ForgottenTemperature(Softplus):
    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * torch.sigmoid(2 * x) * 2  # the chain rule's 2, without the division by it


def report(function):
    def definition(x):
        return np.log1p(np.exp(2 * x)) / 2

    def forward(x):
        return torch.logaddexp(2 * x, torch.zeros_like(x)) / 2

    example = (torch.tensor([-1.5, 0.5, 2.0]),)
    return check_function(function, forward=forward, definition=definition, example=example, raise_on_failure=False)


RIGHT, WRONG = (lambda: report(Softplus)), (lambda: report(ForgottenTemperature))

if __name__ == "__main__":
    print(RIGHT(), WRONG(), sep="\n\n")
