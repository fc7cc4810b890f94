"""Manipulations that are random in training and change nothing at inference.

They learn nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from singleout.manipulations.base import Manipulation, OtherSounds, State
from singleout.manipulations.draws import RowDraws


class NoManipulation(Manipulation):
    """Embeddings pass unchanged: the paper's plain training with audio queries.

    Example:
        >>> import torch
        >>> step, audio = NoManipulation(), torch.eye(3)
        >>> torch.equal(step.corrupt(audio, RowDraws.seeded(0, rows=3), {}), audio)
        True
    """

    type: Literal["none"] = "none"


class Dropout(Manipulation):
    """Each entry is set to zero with probability ``p``; the others are scaled by 1 / (1 - p).

    Args:
        p: probability, in [0, 1).
        renormalise: bring the result back to unit norm.

    Example:
        >>> import torch
        >>> Dropout(p=0.5).corrupt(torch.ones(1, 4), RowDraws.seeded(0, rows=1), {})
        tensor([[2., 2., 2., 0.]])
    """

    type: Literal["dropout"] = "dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    renormalise: bool = False

    def corrupt(
        self,
        embedding: Tensor,
        draws: RowDraws,
        state: State,
        others: OtherSounds | None = None,
    ) -> Tensor:
        drawn = draws.uniform(embedding.shape[1]).to(embedding.device)
        kept = embedding * (drawn >= self.p).to(embedding) / (1 - self.p)
        return F.normalize(kept, dim=-1) if self.renormalise else kept


class Noise(Manipulation):
    """Noise is added: Gaussian (CapDec: Nukrai et al., 2022), or uniform in a ball.

    Args:
        relative_norm: norm of the noise relative to the norm of the embedding. Of Gaussian noise
            it is the root mean square: sigma * sqrt(dim) for unit embeddings. Of a ball it is the
            radius.
        kind: ``gaussian`` or ``ball``.
        renormalise: bring the result back to unit norm.

    Example:
        >>> import torch
        >>> step = Noise(relative_norm=0.5, kind="ball", renormalise=False)
        >>> audio = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
        >>> noisy = step.corrupt(audio, RowDraws.seeded(0, rows=1), {})
        >>> bool((noisy - audio).norm() <= 0.5)
        True
    """

    type: Literal["noise"] = "noise"
    relative_norm: Annotated[float, Field(ge=0, le=1_000)] = 1.0
    kind: Literal["gaussian", "ball"] = "gaussian"
    renormalise: bool = True

    def corrupt(
        self,
        embedding: Tensor,
        draws: RowDraws,
        state: State,
        others: OtherSounds | None = None,
    ) -> Tensor:
        dim = embedding.shape[-1]
        noise = draws.normal(dim)
        if self.kind == "ball":
            radius = draws.uniform(1) ** (1 / dim)
            noise = F.normalize(noise, dim=-1) * radius
        else:
            noise = noise / dim**0.5
        noise = noise.to(embedding.device)
        norm = embedding.norm(dim=-1, keepdim=True)
        noisy = embedding + self.relative_norm * norm * noise
        return F.normalize(noisy, dim=-1) if self.renormalise else noisy
