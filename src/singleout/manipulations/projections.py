"""Manipulations that map both modalities by a linear map that they have learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.config import Positive
from singleout.errors import ConfigError
from singleout.manipulations.base import FitEmbeddings, Manipulation, State, mean_of


class MeanShift(Manipulation):
    """The mean of each modality is removed from its embeddings.

    Training sees audio - mean(audio), inference sees text - mean(text). With ``Noise`` after it,
    this is C3 (Zhang et al., "Connect, collapse, corrupt", 2024).

    Args:
        renormalise: bring the result back to unit norm.

    Example:
        >>> import torch
        >>> audio, text = torch.eye(2), torch.tensor([[1.0, 3.0]])
        >>> step = MeanShift(renormalise=False)
        >>> state = step.fit(FitEmbeddings(audio, text, torch.tensor([0])))
        >>> step.map(text, torch.tensor([True]), state)
        tensor([[0., 0.]])
    """

    type: Literal["mean_shift"] = "mean_shift"
    renormalise: bool = True

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        return {
            "audio_mean": mean_of(examples.audio, "sounds", self.type),
            "text_mean": mean_of(examples.text, "captions", self.type),
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"audio_mean": (dim,), "text_mean": (dim,)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        shifted = embedding - torch.where(is_text[:, None], state["text_mean"], state["audio_mean"])
        return F.normalize(shifted, dim=-1) if self.renormalise else shifted


class Pca(Manipulation):
    """Embeddings are projected on principal components of the audio embeddings.

    Args:
        k: number of components.
        keep: ``first`` keeps the first k components. ``rest`` keeps all others: what differs most
            between sounds may be what differs between recordings.
        centre: the mean that is removed first: the ``own`` mean of each modality, the ``audio``
            mean from both, or ``none``.
        renormalise: bring the result back to unit norm.

    Example:
        >>> import torch
        >>> audio = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        >>> step = Pca(k=3, centre="audio")
        >>> state = step.fit(FitEmbeddings(audio, audio[:0], torch.zeros(0, dtype=torch.long)))
        >>> step.map(audio, torch.zeros(20, dtype=torch.bool), state).shape
        torch.Size([20, 3])
    """

    type: Literal["pca"] = "pca"
    k: Positive = 48
    keep: Literal["first", "rest"] = "first"
    centre: Literal["own", "audio", "none"] = "own"
    renormalise: bool = True

    def dim_out(self, dim: int) -> int:
        out = self.k if self.keep == "first" else dim - self.k
        if not 0 < out <= dim:
            raise ConfigError(f"manipulation 'pca': k is {self.k}, embeddings have length {dim}")
        return out

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        audio_mean = mean_of(examples.audio, "sounds", self.type)
        centred = examples.audio - audio_mean
        components = torch.linalg.eigh(centred.T @ centred)[1].flip(1).T
        text_mean = audio_mean
        if self.centre == "own":
            text_mean = mean_of(examples.text, "captions", self.type)
        scale = float(self.centre != "none")
        return {
            "audio_mean": scale * audio_mean,
            "text_mean": scale * text_mean,
            "basis": components[: self.k] if self.keep == "first" else components[self.k :],
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"audio_mean": (dim,), "text_mean": (dim,), "basis": (self.dim_out(dim), dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        mean = torch.where(is_text[:, None], state["text_mean"], state["audio_mean"])
        projected = (embedding - mean) @ state["basis"].T
        return F.normalize(projected, dim=-1) if self.renormalise else projected


class Pls(Manipulation):
    """Both modalities are projected on the directions in which they vary together.

    The directions are the singular vectors of the cross-covariance of captions and their sounds
    (partial least squares, after arXiv 2605.29628). Each modality has its own k directions.

    Args:
        k: number of directions.
        renormalise: bring the result back to unit norm.

    Example:
        >>> import torch
        >>> audio = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        >>> step = Pls(k=3)
        >>> state = step.fit(FitEmbeddings(audio, audio.roll(1, 1), torch.arange(20)))
        >>> step.map(audio, torch.zeros(20, dtype=torch.bool), state).shape
        torch.Size([20, 3])
    """

    type: Literal["pls"] = "pls"
    k: Positive = 48
    renormalise: bool = True

    def dim_out(self, dim: int) -> int:
        if self.k > dim:
            raise ConfigError(f"manipulation 'pls': k is {self.k}, embeddings have length {dim}")
        return self.k

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        text_mean = mean_of(examples.text, "captioned sounds", self.type)
        audio = examples.audio[examples.pairs]
        audio_mean = audio.mean(0)
        left, _, right = torch.linalg.svd((audio - audio_mean).T @ (examples.text - text_mean))
        return {
            "audio_mean": audio_mean,
            "text_mean": text_mean,
            "audio_basis": left[:, : self.k].T,
            "text_basis": right[: self.k],
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {
            "audio_mean": (dim,),
            "text_mean": (dim,),
            "audio_basis": (self.k, dim),
            "text_basis": (self.k, dim),
        }

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        as_audio = (embedding - state["audio_mean"]) @ state["audio_basis"].T
        as_text = (embedding - state["text_mean"]) @ state["text_basis"].T
        projected = torch.where(is_text[:, None], as_text, as_audio)
        return F.normalize(projected, dim=-1) if self.renormalise else projected
