"""``QueryEncoder``: the interface of all query encoders, and checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.errors import AudioError, QueryError

Augment = Callable[[Tensor, Sequence[int]], Tensor]
"""A function that changes the log-mel of an encoder before its network.

It gets the log-mel of some clips, float32 [clips, channels, frames, mels], and the numbers of these
clips in the call of ``embed_audio``. It returns the same shape."""
Sounds = NDArray[np.float32] | Tensor | Sequence[NDArray[np.float32] | Tensor]
"""One sound [samples], several of one length [clips, samples], or a list of any lengths."""


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

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device, on which they run from now on.

        Args:
            device: such as ``cuda``.

        Returns:
            The encoder itself.
        """

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Embed one text or several.

        Returns:
            float32 [texts, dim], unit norm, on the CPU.

        Raises:
            QueryError: there is no text, or a text is blank.
        """

    def embed_audio(
        self,
        audio: Sounds,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Embed one clip or several.

        Clips run through the network in batches. The batch of a clip changes its embedding by
        rounding errors only, because clips are never padded to the length of another clip.

        Args:
            audio: [samples], [clips, samples], or a list of clips of any lengths; full scale 1.
            sample_rate: Hz.
            augment: applied to the log-mel, as ``SpecAugment.masked`` can be. The log-mel,
                [clips, channels, frames, mels], is not normalised and includes padding; its unit
                depends on the encoder. A fused CLAP has four channels: the whole clip and three
                parts of it (four copies of a short clip). Other encoders have one channel. Every
                clip comes once, in one call or in several.

        Returns:
            float32 [clips, dim], unit norm, on the CPU.

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


def waveforms_of(audio: Sounds, rate_in: int, rate_out: int) -> list[Tensor]:
    """The clips to embed, at the rate of an encoder.

    Args:
        audio: [samples], [clips, samples], or a list of clips of any lengths.
        rate_in: of the audio, Hz.
        rate_out: of the result, Hz.

    Returns:
        Each float32 [samples].

    Raises:
        AudioError: the audio has a wrong shape, no samples or samples that are not finite, or the
            rate is impossible.

    Example:
        >>> import numpy as np
        >>> sounds = [np.zeros(48_000, np.float32), np.zeros(24_000, np.float32)]
        >>> [len(waveform) for waveform in waveforms_of(sounds, 48_000, 32_000)]
        [32000, 16000]
    """
    clips = audio if isinstance(audio, Sequence) else _clips_of(torch.as_tensor(audio))
    return [_resampled(torch.as_tensor(clip), rate_in, rate_out) for clip in clips]


def _clips_of(audio: Tensor) -> Sequence[Tensor]:
    if audio.ndim not in (1, 2):
        raise _wrong_shape(audio)
    return [*audio] if audio.ndim == 2 else [audio]


def _resampled(clip: Tensor, rate_in: int, rate_out: int) -> Tensor:
    waveform = clip.float()
    if waveform.ndim != 1 or not len(waveform):
        raise _wrong_shape(waveform)
    if not bool(torch.isfinite(waveform).all()):
        raise AudioError("audio to embed has NaN or infinite samples")
    if rate_in == rate_out:
        return waveform
    from singleout.audio import resample

    return torch.from_numpy(resample(waveform.cpu().numpy(), rate_in, rate_out))


def _wrong_shape(audio: Tensor) -> AudioError:
    return AudioError(
        f"audio to embed must be [samples] or [clips, samples], got {list(audio.shape)}"
    )


def batches_of(waveforms: Sequence[Tensor], most: int) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of waveforms of one length, so that none of them has to be padded.

    Args:
        waveforms: each [samples].
        most: largest number of waveforms in a batch.

    Yields:
        The numbers of the waveforms in a batch, and the batch, [waveforms, samples].

    Example:
        >>> import torch
        >>> waveforms = [torch.zeros(length) for length in (3, 5, 3, 3)]
        >>> [(numbers, list(batch.shape)) for numbers, batch in batches_of(waveforms, most=2)]
        [([0, 2], [2, 3]), ([3], [1, 3]), ([1], [1, 5])]
    """
    by_length: dict[int, list[int]] = {}
    for number, waveform in enumerate(waveforms):
        by_length.setdefault(len(waveform), []).append(number)
    for numbers in by_length.values():
        for first in range(0, len(numbers), most):
            some = numbers[first : first + most]
            yield some, torch.stack([waveforms[number] for number in some])
