"""Small folders of noises that the tests of ``singleout.data`` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singleout.audio import write_wav
from singleout.data.clips import Clip
from singleout.data.embeddings import embeddings_of
from singleout.data.manifest import scan_folder
from tests.data.encoders import CROPS, CountingEncoder, write_noise
from tests.data.sounds import RATE, noise


@pytest.fixture(scope="session")
def five_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five noises of 0.2 to 2.2 s, two of them at other rates, one in stereo."""
    folder = tmp_path_factory.mktemp("five")
    for i, rate in enumerate([32_000, 32_000, 16_000, 44_100, 32_000]):
        shape = (2 if i == 1 else 1, int(rate * (0.2 + 0.5 * i)))
        audio = np.random.default_rng([i]).normal(0, 0.1, shape).astype(np.float32)
        write_wav(folder / f"{i}.wav", audio, rate)
    return folder


@pytest.fixture(scope="session")
def five_clips(five_sounds: Path) -> list[Clip]:
    return scan_folder(five_sounds)


@pytest.fixture(scope="session")
def eight_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Eight noises of 0.2 to 1.6 s: two families of two classes of two recordings."""
    folder = tmp_path_factory.mktemp("eight")
    for i in range(8):
        write_wav(folder / f"{i}.wav", noise(int(RATE * (0.2 + 0.2 * i)), i)[None], RATE)
    labels = ["a/x", "a/y", "b/x", "b/y"] * 2
    clips = scan_folder(folder)
    return [replace(clip, label=label) for clip, label in zip(clips, labels, strict=True)]


@pytest.fixture
def three_sounds(tmp_path: Path) -> Path:
    """Three noises of 0.3, 0.8 and 1.3 s: 1, 3 and 5 crops. Tests may change the files."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(3):
        write_noise(folder / f"{i}.wav", i, 0.3 + 0.5 * i)
    return folder


@pytest.fixture
def three_clips(three_sounds: Path) -> list[Clip]:
    return scan_folder(three_sounds)


@pytest.fixture
def cache_path(tmp_path: Path) -> Path:
    """A file that does not exist, in a folder that does not exist."""
    return tmp_path / "cache" / "c.sqlite"


@pytest.fixture
def filled_cache(three_clips: list[Clip], cache_path: Path) -> Path:
    """A cache of all crops of ``three_clips``."""
    embeddings_of(three_clips, CROPS, CountingEncoder(), cache_path)
    return cache_path
