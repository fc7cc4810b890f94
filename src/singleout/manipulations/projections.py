"""Manipulations that map both modalities linearly, by what they have learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.config import Positive
from singleout.errors import ConfigError
from singleout.manipulations.base import (
    FitEmbeddings,
    Manipulation,
    State,
    mean_of,
)


class MeanShift(Manipulation):
    """Each modality's own mean is removed: a - mean(a) in training, t - mean(t) at inference.

    With ``Noise`` after it, this is C3 (Zhang et al., "Connect, collapse, corrupt", 2024).

    Args:
        renormalise: bring the result back to unit norm.
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
    """Projection on principal components of the audio embeddings.

    Args:
        k: how many components.
        keep: the first k, or all but these (``rest``: what differs most between sounds may be
            what differs between recordings).
        centre: remove each modality's ``own`` mean, the ``audio`` mean from both, or ``none``.
        renormalise: bring the result to unit norm.
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
    """Both modalities in the directions in which they vary together.

    Singular vectors of the cross-covariance of captions and their sounds, after arXiv 2605.29628
    (partial least squares); each modality keeps its own first k.

    Args:
        k: how many directions.
        renormalise: bring the result to unit norm.
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
        heard = examples.audio[examples.pairs]
        audio_mean = heard.mean(0)
        left, _, right = torch.linalg.svd((heard - audio_mean).T @ (examples.text - text_mean))
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
        heard = (embedding - state["audio_mean"]) @ state["audio_basis"].T
        said = (embedding - state["text_mean"]) @ state["text_basis"].T
        projected = torch.where(is_text[:, None], said, heard)
        return F.normalize(projected, dim=-1) if self.renormalise else projected
