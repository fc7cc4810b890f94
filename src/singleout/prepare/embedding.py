"""Embeddings of all crops of sounds, and how pure a sound is by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.audio import resample
from singleout.data.clips import Clip
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.plan import MixtureConfig, num_crops
from singleout.encoders import load_encoder
from singleout.prepare.settings import PrepareConfig
from singleout.prepare.sounds import Sound

BATCH = 16
"""Crops that the encoder embeds at once. Larger batches were no faster on a processor."""


@dataclass(frozen=True)
class EmbeddedCrops:
    """The crops of a sound.

    Attributes:
        embeddings: float16 [crops, dim].
        purity: mean similarity between the crops and their mean direction, from -1 to 1.
        similarity: between that direction and the text of the sound; None without a text.

    Example:
        >>> EmbeddedCrops(np.eye(2, dtype=np.float16), 0.707, None).reason(
        ...     PrepareConfig(embed="builtin", min_purity=0.8)
        ... )
        'is not pure: the similarity between its crops is 0.707, the limit is 0.8'
    """

    embeddings: NDArray[np.float16]
    purity: float
    similarity: float | None

    def reason(self, config: PrepareConfig) -> str | None:
        """Why the sound is left out; None if it stays."""
        if config.min_purity is not None and self.purity < config.min_purity:
            return (
                f"is not pure: the similarity between its crops is {self.purity:g}, the limit is "
                f"{config.min_purity:g}"
            )
        limit = config.min_caption_similarity
        if limit is not None and self.similarity is not None and self.similarity < limit:
            return (
                f"does not fit its caption or class: the similarity is {self.similarity:g}, the "
                f"limit is {limit:g}"
            )
        return None


class CropEmbedder:
    """Embeds all crops of sounds by an encoder.

    A GPU computes, if the process has one. Otherwise one thread does, as in a process of a cluster,
    so that the bits are the same.

    Args:
        config: the encoder and the crops.
        fingerprint: that the encoder must have.

    Raises:
        ModelError: there is no such encoder, or it has another fingerprint.

    Example:
        >>> embed = CropEmbedder(PrepareConfig(embed="builtin"), None)
        >>> noise = np.random.default_rng(0).normal(0, 3_000, (256_000, 1)).astype(np.int16)
        >>> (crops,) = embed([Sound(noise, {}, (), 0.0)], ["rain"])
        >>> crops.embeddings.shape, crops.purity > 0.9
        ((3, 96), True)
    """

    def __init__(self, config: PrepareConfig, fingerprint: str | None) -> None:
        assert config.embed is not None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._encoder = load_encoder(config.embed, fingerprint).to(device)
        self._rate = config.sample_rate
        self._crops = MixtureConfig(
            segment_seconds=config.crop_seconds, crop_hop_seconds=config.crop_hop_seconds
        )

    def __call__(self, sounds: Sequence[Sound], texts: Sequence[str | None]) -> list[EmbeddedCrops]:
        """Embed sounds.

        Args:
            sounds: at the rate of the config.
            texts: caption or class of each sound.
        """
        with _one_thread():
            crops = [(i, crop) for i, sound in enumerate(sounds) for crop in self._crops_of(sound)]
            embeddings = self._embedded([crop for _, crop in crops])
            owners = np.array([i for i, _ in crops])
            return [self._described(embeddings[owners == i], text) for i, text in enumerate(texts)]

    def _crops_of(self, sound: Sound) -> Iterator[NDArray[np.float32]]:
        """The crops as training reads them."""
        total = len(sound.samples)
        clip = Clip(Path("sound"), total / self._rate, None, (), "", "", "train")
        length = round(self._crops.segment_seconds * self._rate)
        for crop in range(num_crops(clip, self._crops)):
            start = min(round(crop * self._crops.crop_hop_seconds * self._rate), total - 1)
            yield resample(sound.mono(start, start + length), self._rate, SAMPLE_RATE)

    def _embedded(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings [crops, dim]. A batch has crops of one length."""
        embeddings = np.zeros((len(crops), self._encoder.dim), np.float32)
        order = sorted(range(len(crops)), key=lambda i: len(crops[i]))
        for _, equal in groupby(order, key=lambda i: len(crops[i])):
            numbers = list(equal)
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                batch = np.stack([crops[i] for i in some])
                embeddings[some] = self._encoder.embed_audio(batch, SAMPLE_RATE).cpu().numpy()
        return embeddings

    def _described(self, embeddings: NDArray[np.float32], text: str | None) -> EmbeddedCrops:
        mean = embeddings.mean(0)
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        similarity = None
        if text is not None:
            similarity = _rounded(float(self._encoder.embed_text(text)[0].cpu().numpy() @ mean))
        purity = _rounded(float((embeddings @ mean).mean()))
        return EmbeddedCrops(embeddings.astype(np.float16), purity, similarity)


def _rounded(similarity: float) -> float:
    return round(similarity, 4)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
