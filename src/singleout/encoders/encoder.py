"""The one interface of query encoders: text and audio into one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.errors import AudioError, QueryError

Augment = Callable[[Tensor], Tensor]
"""What changes an encoder's log-mel, float32 [clips, channels, frames, mels], before its network
sees it; returns the same shape."""


class QueryEncoder(Protocol):
    """Embeds what is asked for, in words or as a sound, into one space of unit vectors.

    Attributes:
        name: the kind of encoder as written in a model's config, such as ``builtin``.
        dim: length of an embedding.
        fingerprint: changes whenever the embeddings of the same input would; caches and
            checkpoints carry it.
        window_seconds: how much of a recording it is given at once to tell what is there.
    """

    name: str
    dim: int
    fingerprint: str
    window_seconds: float

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Float32 [sentences, dim], unit norm."""

    def embed_audio(
        self,
        audio: NDArray[np.float32] | Tensor,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Audio [samples] or [clips, samples] at ``sample_rate`` Hz to float32 [clips, dim].

        Args:
            audio: what to embed.
            sample_rate: Hz.
            augment: applied to the log-mel, such as ``SpecAugment.masked``. It gets [clips,
                channels, frames, mels] as the encoder computes them: not normalised, in the
                encoder's own unit, padding included; four channels where a fused CLAP looks at
                a long clip as a whole and at three parts (a short one is there four times),
                otherwise one. Clips come in order, in one call or, where an encoder bounds its
                memory, in several.
        """


def sentences_of(text: str | Sequence[str]) -> list[str]:
    """What to embed, as a list.

    Raises:
        QueryError: no text, or a blank one.
    """
    sentences = [text] if isinstance(text, str) else list(text)
    if not sentences or any(not sentence.strip() for sentence in sentences):
        raise QueryError("the query is empty: describe a sound, such as 'a dog barking'")
    return sentences


def waveforms_of(audio: NDArray[np.float32] | Tensor, rate_in: int, rate_out: int) -> Tensor:
    """Audio [samples] or [clips, samples] at ``rate_in`` Hz to float32 [clips, samples] at
    ``rate_out`` Hz.

    Raises:
        AudioError: wrong shape, no samples, not finite, or an impossible rate.
    """
    waveforms = torch.as_tensor(audio, dtype=torch.float32)
    waveforms = waveforms.unsqueeze(0) if waveforms.ndim == 1 else waveforms
    if waveforms.ndim != 2 or waveforms.shape[-1] == 0:
        raise AudioError(
            f"audio to embed must be [samples] or [clips, samples], got {list(waveforms.shape)}"
        )
    if not bool(torch.isfinite(waveforms).all()):
        raise AudioError("audio to embed has NaN or infinite samples")
    if rate_in == rate_out:
        return waveforms
    from singleout.audio import resample

    return torch.from_numpy(resample(waveforms.cpu().numpy(), rate_in, rate_out))
