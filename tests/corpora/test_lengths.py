"""Lengths by headers: every failure is a reason, and order stays in threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singleout.corpora.lengths import BATCH, in_threads, length_or_reason
from tests.corpora.replicas import SECONDS, sound, table
from tests.recordings import noise, write_recording


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_sounds(suffix: str, tmp_path: Path) -> None:
    path = write_recording(tmp_path / f"rain{suffix}", noise(16_000), 16_000)
    assert length_or_reason(str(path)) == pytest.approx(1, abs=0.2)


def test_media_that_ffmpeg_reads(tmp_path: Path) -> None:
    path = sound(tmp_path / "rain.wav").rename(tmp_path / "rain.mka")  # a WAV by its content
    assert length_or_reason(str(path)) == pytest.approx(SECONDS)


def test_failures_are_reasons(tmp_path: Path) -> None:
    reasons = {
        "empty.wav": (b"", "is empty (0 bytes)"),
        "text.wav": (b"no sound", "cannot be read as audio: Format not recognised"),
        "text.m4a": (b"no sound", "cannot be read as audio"),
    }
    for name, (content, reason) in reasons.items():
        given = length_or_reason(str(table(tmp_path / name, content)))
        assert isinstance(given, str)
        assert given.startswith(reason)
    assert length_or_reason(str(tmp_path)) == "is not a regular file"
    assert length_or_reason(f"{tmp_path}/no.wav") == "cannot be read: No such file or directory"


def test_a_sound_without_samples(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "none.wav", noise(0), 16_000)
    assert length_or_reason(str(path)) == "has no samples, or does not state its length"


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rain.wav")
    assert length_or_reason(f"{tmp_path}/rain.wav") == "is not a regular file"


def test_order_stays_and_few_items_are_taken_ahead() -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for number in range(3 * BATCH):
            taken += 1
            yield number

    results = in_threads(str, items())  # type: ignore[arg-type]
    assert next(results) == (0, "0")
    assert taken == BATCH
    assert [text for _, text in results] == [str(number) for number in range(1, 3 * BATCH)]
