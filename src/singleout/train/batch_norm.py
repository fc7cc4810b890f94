"""Batch normalisation over the batch of all processes on CPUs.

PyTorch's ``SyncBatchNorm`` does the same on GPUs, and only there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class JointBatchNorm(LayerSync):
    """Lets the batch norms of a model use the statistics of the whole batch in training.

    The results and gradients are those of one process with the whole batch, apart from rounding.
    All processes have parts of the same shape.

    Args:
        group: of the processes.
        size: number of the processes.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm1d(3)
        >>> layers = JointBatchNorm(group=None, size=2)
        >>> model = layers.revert(layers.apply(torch.nn.Sequential(norm)))
        >>> model(torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """

    def __init__(self, group: Any, size: int) -> None:
        self.group, self.size = group, size

    def apply(self, model: nn.Module) -> nn.Module:
        """Give the batch norms of a model another forward pass."""
        for norm in _norms(model):
            norm.forward = partial(_joint_forward, norm, self)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Give the batch norms of a model back the forward pass of PyTorch."""
        for norm in _norms(model):
            del norm.forward
        return model


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _joint_forward(norm: _BatchNorm, joint: JointBatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        plain: Tensor = type(norm).forward(norm, x)
        return plain
    others = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = joint.size * x.numel() // x.shape[1]
    variance, mean = (part.double() for part in torch.var_mean(x.float(), others, correction=0))
    # In float64, because the variance of the whole is a difference of large numbers.
    moments = torch.stack([mean, variance + mean.square()])
    mean, square = _sum_of_all(moments, joint.group) / joint.size
    variance = (square - mean.square()).clamp(min=0)
    _track(norm, mean.detach(), variance.detach() * count / max(1, count - 1))
    scale = (variance + norm.eps).rsqrt()
    result: Tensor = (x - mean.float().view(shape)) * scale.float().view(shape)
    if norm.affine:
        result = result * norm.weight.view(shape) + norm.bias.view(shape)
    return result.to(x.dtype)


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = norm.momentum or 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)


class _SumOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _sum_of_all(values: Tensor, group: Any) -> Tensor:
    """The sum of the values of all processes. It has gradients in all of them."""
    total: Tensor = _SumOfAll.apply(values, group)  # type: ignore[no-untyped-call]
    return total
