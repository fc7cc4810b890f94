"""The one interface of query encoders: text and audio into one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class QueryEncoder(Protocol):
    """Embeds what is asked for, in words or as a sound, into one space of unit vectors.

    Attributes:
        name: the kind of encoder as written in a model's config, such as ``builtin``.
        dim: length of an embedding.
        fingerprint: changes whenever the embeddings of the same input would; caches and
            checkpoints carry it.
    """

    name: str
    dim: int
    fingerprint: str

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Float32 [sentences, dim], unit norm."""

    def embed_audio(self, audio: NDArray[np.float32] | Tensor, sample_rate: int) -> Tensor:
        """Audio [samples] or [clips, samples] at ``sample_rate`` Hz to float32 [clips, dim]."""
