"""Fixtures for the tests of media files."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing  # NumPy 1 starts a process for it, which `in_process` replaces
import pytest
from numpy.typing import NDArray

from singleout.audio.ffmpeg import process
from tests.audio.media import NUM_FRAMES, TAGS, av, encode


@pytest.fixture(scope="session")
def integers() -> NDArray[np.int16]:
    """[channels, samples] of 16 bits: three seconds of two different noises."""
    drawn = np.random.default_rng(0).normal(0, 3_000, (2, NUM_FRAMES))
    return np.clip(np.rint(drawn), -32_768, 32_767).astype(np.int16)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory, integers: NDArray[np.int16]) -> Path:
    """A folder of recordings of the same noises in many containers."""
    folder = tmp_path_factory.mktemp("media")
    index_first = {"movflags": "faststart"}
    fragments = {"movflags": "frag_keyframe+empty_moov+skip_trailer", "frag_duration": "500000"}
    encode(folder / "aac.m4a", "aac", integers, tags=TAGS)
    encode(folder / "alac.m4a", "alac", integers, coded_format="s16p", tags=TAGS)
    encode(folder / "fragments.m4a", "alac", integers, coded_format="s32p", options=fragments)
    encode(folder / "video.mp4", "aac", integers, pictures="mpeg4", options=index_first, tags=TAGS)
    encode(folder / "aac first.m4a", "aac", integers, options=index_first)
    encode(folder / "silent.mp4", None, integers, pictures="mpeg4")
    encode(folder / "opus.mkv", "libopus", integers, pictures="mpeg4", tags=TAGS)
    encode(folder / "opus.webm", "libopus", integers)
    encode(folder / "adts.aac", "aac", integers, container="adts")
    encode(folder / "pcm.mkv", "pcm_s16le", integers)
    encode(folder / "pcm.mov", "pcm_s16le", integers)
    encode(folder / "flac.mka", "flac", integers, tags=TAGS)
    return folder


class InProcess:
    """Does what the process of a ``Decoder`` does, with the face of ``subprocess.Popen``."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self.stdin, self.stdout = io.BytesIO(), io.BytesIO()
        path, track = command[-2:]
        process.decode(path, self.stdout, int(track) if track else None)
        self.stdout.seek(0)

    def wait(self) -> int:
        return 0

    def kill(self) -> None:
        """It has ended."""


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode in this process: a process for every file would take most of the time."""
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    skips = av.logging.get_skip_repeated()
    av.logging.set_skip_repeated(False)  # FFmpeg would give a warning for the first file only
    yield
    av.logging.set_skip_repeated(skips)
