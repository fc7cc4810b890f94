"""Resampling, of whole waveforms and block by block."""

from __future__ import annotations

import numpy as np
import pytest

from singleout.audio import ResampleStream, resample
from singleout.errors import AudioError
from tests.audio.recordings import noise


def test_resampling_keeps_what_fits_the_band() -> None:
    time = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)[None]
    down = resample(tone, 48_000, 32_000)
    assert down.shape == (1, 32_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(32_000) / 32_000)
    assert np.abs(down[0] - expected)[200:-200].max() < 1e-4
    assert resample(tone, 48_000, 48_000) is tone


def test_impossible_rates_are_refused() -> None:
    for rates in ((0, 1), (1, -1)):
        with pytest.raises(AudioError, match="must be positive"):
            resample(noise(), *rates)


@pytest.mark.parametrize(("rate_in", "rate_out"), [(44_100, 32_000), (8_000, 32_000), (1, 1)])
@pytest.mark.parametrize("cuts", [[], [1, 2, 2, 4_999], [700, 1_400, 2_100, 2_800, 3_500]])
def test_blocks_together_equal_the_whole(rate_in: int, rate_out: int, cuts: list[int]) -> None:
    audio = noise()
    stream = ResampleStream(rate_in, rate_out, channels=2)
    parts = [stream.push(block) for block in np.split(audio, cuts, axis=1)] + [stream.finish()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), resample(audio, rate_in, rate_out))
