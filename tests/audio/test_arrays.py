"""Arrays that are recordings, and arrays that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from singleout.audio import MAX_CHANNELS, checked_array
from singleout.errors import AudioError

RATE = 16_000


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (MAX_CHANNELS, 3)])
def test_floats_of_any_width_become_float32(dtype: type[Any], shape: tuple[int, ...]) -> None:
    audio = np.full(shape, 0.5, dtype)
    waveform, rate = checked_array(audio, RATE)
    assert waveform.dtype == np.float32
    assert waveform.shape == (shape if len(shape) == 2 else (1, *shape))
    assert (waveform == 0.5).all()
    assert rate == RATE


def test_the_array_of_the_caller_is_not_changed() -> None:
    audio = np.random.default_rng(0).normal(size=(4, 2)).T
    before = audio.copy()
    waveform, _ = checked_array(audio, RATE)
    assert waveform.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (np.zeros(3, np.int16), "must be floats"),
        (np.zeros(3, np.complex64), "must be floats"),
        (None, "must be floats"),
        ([[0.0], [0.0, 1.0]], "not an array of samples"),
        (np.zeros((1, 1, 3)), r"got the shape \[1, 1, 3\]"),
        (np.float32(0.5), r"got the shape \[\]"),
        (np.zeros((2, 0)), "no samples"),
        (np.zeros((RATE, 2)), "transpose it"),
        (np.array([0.0, np.nan]), "NaN or infinite"),
        (np.array([0.0, -np.inf]), "NaN or infinite"),
        (np.array([1e300]), "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_recording_are_refused(audio: Any, reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as raised:
        checked_array(audio, RATE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        (None, "give sample_rate in Hz"),
        (0, "must be positive"),
        (-1, "must be positive"),
        (44_100.5, "not a whole number of Hz"),
        (float("nan"), "not a whole number of Hz"),
        (float("inf"), "not a whole number of Hz"),
        ("fast", "not a whole number of Hz"),
    ],
)
def test_impossible_rates_are_refused(rate: Any, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        checked_array(np.zeros(3), rate)


def test_a_whole_number_of_any_type_is_a_rate() -> None:
    for rate in (RATE, float(RATE), np.int32(RATE)):
        assert checked_array(np.zeros(3), rate)[1] == RATE  # type: ignore[arg-type]
