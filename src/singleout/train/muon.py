"""Muon: gradients of weight matrices are made orthogonal, so that no direction of them dominates.

After "Muon: an optimizer for hidden layers in neural networks" (Jordan et al., 2024); the step is
scaled so that a weight moves about as far as AdamW's would, as in "Muon is scalable for LLM
training" (Liu et al., 2025), and one learning rate serves both. ``torch.optim.Muon`` takes two
dimensions alone, while our weights are those of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from singleout.weights import has_fast_bfloat16

MOMENTUM = 0.95
ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: singular values come to about 0.7 to 1.2."""
RMS_OF_ADAMW = 0.2
"""Of an entry of AdamW's step, at a learning rate of one."""
FAST_BFLOAT16 = has_fast_bfloat16()


def kind_for(device: torch.device) -> torch.dtype:
    """The faster kind of number: without instructions of its own, bfloat16 takes several times as
    long as float32, with them a third of it."""
    return torch.float32 if device.type == "cpu" and not FAST_BFLOAT16 else torch.bfloat16


def orthogonalised(matrix: Tensor) -> Tensor:
    """[rows, columns], about ``U @ V.T`` of its singular value decomposition ``U @ S @ V.T``.

    In bfloat16, which is exact enough for it, or in float32 where that is faster.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(kind_for(matrix.device))
    is_tall = len(x) > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = (x.T if is_tall else x).to(matrix.dtype)
    return orthogonal


class MuonAdamW(torch.optim.AdamW):
    """Muon for weights of two and more dimensions, of which all but the first are taken as one;
    AdamW for vectors and for what the network ends with.

    Args:
        weights: all.
        outputs: those of them that AdamW steps whatever their shape.
        lr: of both.
        weight_decay: of what Muon steps.
    """

    def __init__(
        self, weights: Iterable[Tensor], outputs: Iterable[Tensor], lr: float, weight_decay: float
    ) -> None:
        last = {id(weight) for weight in outputs}
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for weight in weights:
            (matrices if weight.ndim > 1 and id(weight) not in last else others).append(weight)
        groups: list[dict[str, Any]] = [
            {"params": own, "weight_decay": decay, "is_orthogonal": is_orthogonal}
            for own, decay, is_orthogonal in ((matrices, weight_decay, True), (others, 0.0, False))
        ]
        super().__init__(groups, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; of the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["is_orthogonal"]:
                for weight in group["params"]:
                    self._step_matrix(weight, group["lr"], group["weight_decay"])
        super().step()
        return loss

    def _step_matrix(self, weight: Tensor, lr: float, weight_decay: float) -> None:
        if weight.grad is None:
            return
        state = self.state[weight]
        if "momentum" not in state:
            # AdamW looks for steps where a state is loaded.
            state |= {"momentum": torch.zeros_like(weight), "step": torch.zeros(())}
        state["step"] += 1
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        ahead = weight.grad.lerp(state["momentum"], MOMENTUM)
        matrix = orthogonalised(ahead.reshape(len(ahead), -1))
        weight.mul_(1 - lr * weight_decay)
        length = lr * RMS_OF_ADAMW * max(matrix.shape) ** 0.5
        weight.add_(matrix.view(ahead.shape), alpha=-length)
        weight.grad = None  # nothing is left to AdamW's own step
