"""A group of one process gives what a process without a group gives."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from singleout.train.batch_norm import JointBatchNorm
from singleout.train.processes import Processes


@pytest.fixture(scope="module")
def group() -> Iterator[Any]:
    """A gloo group of this one process."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(
        "gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=30)
    )
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}])
def test_a_joint_batch_norm_is_a_batch_norm(group: Any, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3, **options))
    joint = JointBatchNorm(group, size=1).apply(deepcopy(plain))
    for _ in range(2):
        sounds = 5 + torch.randn(4, 3, 6, 5, generator=generator)
        weights = torch.randn(4, 3, 6, 5, generator=generator)
        results, gradients = [], []
        for model in (plain, joint):
            x = sounds.clone().requires_grad_()
            results.append(model(x))
            (results[-1] * weights).sum().backward()
            gradients.append([x.grad, *(p.grad for p in model.parameters())])
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(joint.named_buffers()), dict(plain.named_buffers()))
    sounds = torch.randn(2, 3, 6, 5, generator=generator)
    torch.testing.assert_close(joint.eval()(sounds), plain.eval()(sounds))
    JointBatchNorm(group, size=1).revert(joint)
    torch.testing.assert_close(joint.train()(sounds), plain.train()(sounds))


def test_a_group_of_one_shares_its_values(group: Any) -> None:
    processes = Processes(group=group)
    values = torch.tensor([[1.0, 2.0]])
    assert torch.equal(processes.total(values), values)
    assert torch.equal(processes.mean(values), values)
    assert processes.from_first(lambda: {"step": 3}) == {"step": 3}
    assert processes.first_then_others(lambda: 4) == 4
    processes.wait()
