"""Muon: steps of weight matrices are made orthogonal, so that no direction dominates.

"Muon: an optimizer for hidden layers in neural networks" (Jordan et al., 2024). The step is scaled
to the size of AdamW's step, as in "Muon is scalable for LLM training" (Liu et al., 2025), so that
one learning rate serves both. ``torch.optim.Muon`` takes matrices only; the weights of convolutions
have more dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from singleout.storage.tensors import has_fast_bfloat16

MOMENTUM = 0.95
ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration, which brings singular values to about 0.7 to 1.2."""
RMS_OF_ADAMW = 0.2
"""Typical root mean square of AdamW's step at a learning rate of one."""
FAST_BFLOAT16 = has_fast_bfloat16()
"""Whether this CPU has instructions for bfloat16."""


def number_type(device: torch.device) -> torch.dtype:
    """The faster number type for the iteration on a device.

    Without instructions for bfloat16, a CPU needs several times as long for it as for float32. With
    them it needs a third of the time.

    Example:
        >>> number_type(torch.device("cuda"))
        torch.bfloat16
    """
    return torch.float32 if device.type == "cpu" and not FAST_BFLOAT16 else torch.bfloat16


def orthogonalised(matrix: Tensor) -> Tensor:
    """Roughly ``U @ V.T`` of the singular value decomposition ``U @ S @ V.T``.

    The iteration runs in bfloat16, which is exact enough for it, or in float32 where that is
    faster (``number_type``).

    Args:
        matrix: [rows, columns].

    Returns:
        [rows, columns], of the type of ``matrix``.

    Example:
        >>> import torch
        >>> step = orthogonalised(torch.diag(torch.tensor([100.0, 1.0])))
        >>> bool((step.diagonal() > 0.5).all())
        True
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(number_type(matrix.device))
    is_tall = len(x) > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = (x.T if is_tall else x).to(matrix.dtype)
    return orthogonal


class MuonAdamW(torch.optim.AdamW):
    """Muon for weights of two or more dimensions; AdamW for vectors and for the output layers.

    Muon flattens all dimensions of a weight but the first.

    Args:
        weights: all weights of the network.
        outputs: weights of the output layers. AdamW steps them, whatever their shape.
        lr: learning rate of both.
        weight_decay: of the weights that Muon steps; the others have none.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 4)
        >>> optimizer = MuonAdamW(layer.parameters(), [], lr=0.1, weight_decay=0.0)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> before = layer.weight.detach().clone()
        >>> optimizer.step()
        >>> bool((layer.weight != before).any())
        True
    """

    def __init__(
        self, weights: Iterable[Tensor], outputs: Iterable[Tensor], lr: float, weight_decay: float
    ) -> None:
        output_ids = {id(weight) for weight in outputs}
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for weight in weights:
            (matrices if weight.ndim > 1 and id(weight) not in output_ids else others).append(
                weight
            )
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": weight_decay, "is_orthogonal": True},
            {"params": others, "weight_decay": 0.0, "is_orthogonal": False},
        ]
        super().__init__(groups, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every weight that has a gradient.

        Args:
            closure: computes the loss and its gradients; optional.

        Returns:
            The loss of ``closure``.
        """
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
            # AdamW expects a step when a state is loaded.
            state |= {"momentum": torch.zeros_like(weight), "step": torch.zeros(())}
        state["step"] += 1
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        ahead = weight.grad.lerp(state["momentum"], MOMENTUM)
        matrix = orthogonalised(ahead.reshape(len(ahead), -1))
        weight.mul_(1 - lr * weight_decay)
        length = lr * RMS_OF_ADAMW * max(matrix.shape) ** 0.5
        weight.add_(matrix.view(ahead.shape), alpha=-length)
        weight.grad = None  # so that AdamW skips this weight
