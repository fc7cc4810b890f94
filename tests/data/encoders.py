"""Small encoders and helpers for the tests of tables and caches of embeddings.

Processes of the tests import this module, so it imports little.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.data import embedding_cache
from singleout.data.clips import Clip
from singleout.data.embeddings import build_table, embeddings_of
from singleout.data.manifest import scan_folder
from singleout.data.plan import MixtureConfig, num_crops
from singleout.data.render import read_crop
from singleout.encoders.encoder import Sounds
from singleout.errors import ModelError

RATE = 8_000
CROPS = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.25)
MANY_CROPS = MixtureConfig(segment_seconds=0.1, crop_hop_seconds=0.02)


class CountingEncoder:
    """Makes a unit vector from the bytes of a sound, and counts its calls."""

    name = "counting"
    window_seconds = 2.0

    def __init__(self, fingerprint: str = "encoder-1", dim: int = 6) -> None:
        self.fingerprint, self.dim, self.calls = fingerprint, dim, 0

    def to(self, device: torch.device | str) -> Self:
        return self

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        raise NotImplementedError

    def embed_audio(self, audio: Sounds, sample_rate: int, augment: object = None) -> Tensor:
        self.calls += 1
        seed = zlib.crc32(np.asarray(audio).tobytes())
        return F.normalize(torch.randn(1, self.dim, generator=torch.Generator().manual_seed(seed)))


class UnusedEncoder(CountingEncoder):
    """Fails when it embeds: the cache should hold everything."""

    def embed_audio(self, audio: Sounds, sample_rate: int, augment: object = None) -> Tensor:
        raise AssertionError("embedded again")


class KilledEncoder(CountingEncoder):
    """Kills its process ten crops after the first batch."""

    def embed_audio(self, audio: Sounds, sample_rate: int, augment: object = None) -> Tensor:
        if self.calls == embedding_cache.BATCH + 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_audio(audio, sample_rate)


class InterruptedEncoder(CountingEncoder):
    """Calls ``interrupt`` before it embeds."""

    interrupt: Callable[[], None]

    def embed_audio(self, audio: Sounds, sample_rate: int, augment: object = None) -> Tensor:
        self.interrupt()
        return super().embed_audio(audio, sample_rate)


def write_noise(path: Path, seed: int, seconds: float) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(RATE * seconds))
    soundfile.write(path, samples, RATE)


def count_crops(clips: list[Clip], config: MixtureConfig = CROPS) -> int:
    return sum(num_crops(clip, config) for clip in clips)


def assert_refused(call: Callable[[], object], path: Path, *parts: str) -> None:
    """``call`` fails with one line that starts with ``path`` and holds the ``parts``."""
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def fill_cache(
    folder: Path, cache: Path, barrier: Barrier | None, encoder: CountingEncoder
) -> None:
    """Runs in another process. With a barrier, it writes every row in its own transaction, and
    starts together with the others."""
    clips = scan_folder(folder)
    if barrier is not None:
        embedding_cache.BATCH = 1
        barrier.wait(60)
    table = embeddings_of(clips, MANY_CROPS, encoder, cache)
    expected = build_table(
        clips,
        MANY_CROPS,
        lambda clip, crop: encoder.embed_audio(read_crop(clips[clip], crop, MANY_CROPS, 32_000), 0)[
            0
        ],
    )
    assert torch.equal(table.embeddings, expected.embeddings)
