"""Short recordings for the tests of audio files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputKind, new_audio, open_audio

RATE = 48_000

WITH_FILES = [HealthCheck.function_scoped_fixture]

SUBTYPES: dict[str, str] = {
    "wav": "PCM_16",
    "flac": "PCM_16",
    "aiff": "PCM_24",
    "ogg": "VORBIS",
    "mp3": "MPEG_LAYER_III",
}


def noise(channels: int = 2, num_samples: int = 5_000, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(0, 0.1, (channels, num_samples))
    return drawn.astype(np.float32)


def write(path: Path, block: NDArray[Any], info: AudioInfo, kind: OutputKind) -> None:
    with new_audio(path, info, kind) as file:
        file.write(block)


def read(path: Path) -> tuple[NDArray[Any], AudioInfo]:
    """The samples in the type of the recording, where ``read_audio`` gives float32."""
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.info
