"""Finite in, finite out, at every level; and the same result with one thread and with two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from singleout import AudioError, Extractor, SingleoutError
from tests.recordings import RATE, noise

SECONDS = 2
THREADS_TOLERANCE = 1e-5
"""Largest difference of a target, relative to the peak of the mixture. Measured: 1e-6."""


def square() -> NDArray[np.float32]:
    return np.where(np.arange(SECONDS * RATE) // 37 % 2, 1, -1).astype(np.float32)[None]


def constant(value: float) -> NDArray[np.float32]:
    return np.full((1, SECONDS * RATE), value, np.float32)


def impulse() -> NDArray[np.float32]:
    audio = constant(0)
    audio[0, RATE] = 1
    return audio


SIGNALS = {
    "denormals": noise(SECONDS * RATE) * np.float32(1e-40),
    "the smallest number": constant(1e-45),
    "1e-20": noise(SECONDS * RATE) * np.float32(1e-20),
    "1e20": noise(SECONDS * RATE) * np.float32(1e20),
    "1e30": noise(SECONDS * RATE) * np.float32(1e30),
    "a full-scale square": square(),
    "a square of 1e20": square() * np.float32(1e20),
    "DC": constant(1),
    "DC of 1e20": constant(1e20),
    "DC under 1e-7": noise(SECONDS * RATE) * np.float32(1e-6) + 1,
    "an impulse": impulse(),
    "silence": constant(0),
    "loud, then quiet": np.concatenate([noise(RATE) * np.float32(1e20), noise(RATE)], 1),
}


def check_is_finite(extractor: Extractor, mixture: NDArray[np.float32]) -> None:
    """Target and residual are finite, and add up within rounding."""
    result = extractor.extract(mixture, "a dog barking", RATE)
    assert result.target.shape == result.residual.shape == mixture.shape
    assert np.isfinite(result.target).all()
    assert np.isfinite(result.residual).all()
    total = result.target.astype(np.float64) + result.residual
    peak = float(np.abs(mixture).max())
    assert np.abs(total - mixture).max() <= 1e-6 * peak + 1e-44


@pytest.mark.parametrize("name", SIGNALS)
def test_extremes_with_the_tiny_model(calibrated_extractor: Extractor, name: str) -> None:
    check_is_finite(calibrated_extractor, SIGNALS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_extremes_with_the_packaged_model(packaged: Extractor, name: str) -> None:
    check_is_finite(packaged, SIGNALS[name])


@pytest.mark.parametrize("value", [1e37, float(np.finfo(np.float32).max)])
def test_far_beyond_full_scale_is_refused(extractor: Extractor, value: float) -> None:
    with pytest.raises(SingleoutError, match="far beyond full scale"):
        extractor.extract(constant(value) * np.sign(noise(SECONDS * RATE)), "a dog", RATE)


LEVELS = st.floats(-(2.0**99), 2.0**99, width=32)


@settings(max_examples=20)
@given(arrays(np.float32, (1, 500), elements=LEVELS))
def test_any_samples(extractor: Extractor, mixture: NDArray[np.float32]) -> None:
    check_is_finite(extractor, mixture)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(extractor: Extractor, value: float) -> None:
    mixture = noise(RATE)
    mixture[0, 100] = value
    with pytest.raises(AudioError, match="finite"):
        extractor.extract(mixture, "a dog", RATE)


@pytest.fixture(scope="session")
def packaged() -> Extractor:
    return Extractor.from_pretrained("builtin")


WITH_THREADS = """
import sys
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
from singleout import Extractor
extractor = Extractor.from_pretrained("builtin", chunk_seconds=2)
mixture = np.load(sys.argv[2])
np.save(sys.argv[3], extractor.extract(mixture, "a dog barking", 32_000).target)
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_rounding_only(tmp_path: Path) -> None:
    mixture = noise(5 * RATE, 2)
    np.save(tmp_path / "mixture.npy", mixture)
    targets = []
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.npy"
        subprocess.run(
            [sys.executable, "-c", WITH_THREADS, threads, tmp_path / "mixture.npy", path],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            check=True,
        )
        targets.append(np.load(path))
    assert np.abs(targets[0]).max() > 0
    difference = float(np.abs(targets[0] - targets[1]).max() / np.abs(mixture).max())
    assert difference <= THREADS_TOLERANCE, difference
