"""Loudness has the values of ITU-R BS.1770 and EBU Tech 3341."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from singleout.prepare.loudness import Loudness
from singleout.prepare.settings import MIN_RATE


def sine(db: float, seconds: float, rate: int = 48_000) -> NDArray[np.float64]:
    """A tone of 1 kHz [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    return 10 ** (db / 20) * np.sin(2 * np.pi * 1_000 * time)


def lufs(audio: NDArray[np.float64], rate: int = 48_000, block: int = 1_234) -> float | None:
    audio = np.atleast_2d(audio)
    loudness = Loudness(rate, len(audio))
    for start in range(0, audio.shape[1], block):
        loudness.push(audio[:, start : start + block])
    return loudness.lufs()


@pytest.mark.parametrize("db", [-23.0, -33.0])
def test_a_stereo_tone_has_its_level(db: float) -> None:
    """EBU Tech 3341, signals 1 and 2."""
    assert lufs(np.stack([sine(db, 20)] * 2)) == pytest.approx(db, abs=0.1)


def test_quiet_parts_are_gated() -> None:
    """EBU Tech 3341, signal 3."""
    tone = np.concatenate([sine(-36, 10), sine(-23, 60), sine(-36, 10)])
    assert lufs(np.stack([tone] * 2)) == pytest.approx(-23, abs=0.1)


def test_silence_is_gated() -> None:
    """EBU Tech 3341, signal 4."""
    parts = [sine(db, seconds) for db, seconds in ((-72, 10), (-36, 10), (-23, 60), (-36, 10))]
    assert lufs(np.stack([np.concatenate(parts)] * 2)) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 96_000])
def test_the_rate_changes_little(rate: int) -> None:
    assert lufs(sine(-20, 5, rate), rate) == pytest.approx(-23.0, abs=0.1)


def test_the_lowest_rate_has_a_loudness() -> None:
    assert lufs(sine(-20, 5, MIN_RATE), MIN_RATE) == pytest.approx(-23.0, abs=0.2)


def test_blocks_do_not_matter() -> None:
    audio = np.random.default_rng(0).normal(0, 0.1, 100_000)
    assert lufs(audio, block=777) == pytest.approx(lufs(audio, block=100_000), abs=1e-9)


def test_short_sounds_have_a_loudness_and_silence_has_none() -> None:
    assert lufs(sine(-20, 0.05)) == pytest.approx(-23, abs=1.5)
    assert lufs(sine(-20, 0.35)) == pytest.approx(-23, abs=0.5)
    assert lufs(np.zeros(48_000)) is None
    assert lufs(np.zeros(0)) is None
    assert lufs(sine(-80, 2)) is None
