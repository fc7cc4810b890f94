"""``QueryEncoder``: the interface of all query encoders, and checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.errors import AudioError, QueryError

Augment = Callable[[Tensor], Tensor]
"""A function that changes the log-mel, float32 [clips, channels, frames, mels], of an encoder
before its network; it returns the same shape."""


class QueryEncoder(Protocol):
    """Embeds text and sounds into one space of unit vectors.

    Attributes:
        name: name of the encoder in a model's config, such as ``builtin``.
        dim: length of an embedding.
        fingerprint: differs between encoders that give different embeddings. Caches and
            checkpoints record it.
        window_seconds: length of the windows in which the similarity of a target is measured.

    Example:
        >>> import torch
        >>> from singleout.encoders import load_encoder
        >>> encoder = load_encoder("builtin")
        >>> text = encoder.embed_text(["a dog barking", "rain"])
        >>> audio = encoder.embed_audio(torch.randn(32_000), sample_rate=32_000)
        >>> (audio @ text.T).shape  # cosine similarities
        torch.Size([1, 2])
    """

    name: str
    dim: int
    fingerprint: str
    window_seconds: float

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Embed one text or several.

        Returns:
            float32 [texts, dim], unit norm.

        Raises:
            QueryError: there is no text, or a text is blank.
        """

    def embed_audio(
        self,
        audio: NDArray[np.float32] | Tensor,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Embed one clip or several.

        Args:
            audio: [samples] or [clips, samples], full scale 1.
            sample_rate: Hz.
            augment: applied to the log-mel, for example ``SpecAugment.masked``. The log-mel,
                [clips, channels, frames, mels], is not normalised and includes padding; its unit
                depends on the encoder. A fused CLAP has four channels: the whole clip and three
                parts of it (four copies of a short clip). Other encoders have one channel. Clips
                come in their order, in one call or in several.

        Returns:
            float32 [clips, dim], unit norm.

        Raises:
            AudioError: the audio has a wrong shape, no samples or samples that are not finite, or
                the rate is impossible.
        """


def sentences_of(text: str | Sequence[str]) -> list[str]:
    """The texts to embed, as a list.

    Raises:
        QueryError: there is no text, or a text is blank.

    Example:
        >>> sentences_of("a dog barking")
        ['a dog barking']
    """
    sentences = [text] if isinstance(text, str) else list(text)
    if not sentences or any(not sentence.strip() for sentence in sentences):
        raise QueryError("the query is empty: describe a sound, such as 'a dog barking'")
    return sentences


def waveforms_of(audio: NDArray[np.float32] | Tensor, rate_in: int, rate_out: int) -> Tensor:
    """The clips to embed, at the rate of an encoder.

    Args:
        audio: [samples] or [clips, samples].
        rate_in: of the audio, Hz.
        rate_out: of the result, Hz.

    Returns:
        float32 [clips, samples].

    Raises:
        AudioError: the audio has a wrong shape, no samples or samples that are not finite, or the
            rate is impossible.

    Example:
        >>> import numpy as np
        >>> waveforms_of(np.zeros(48_000, np.float32), 48_000, 32_000).shape
        torch.Size([1, 32000])
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
