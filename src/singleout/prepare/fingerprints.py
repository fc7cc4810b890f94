"""Fingerprints: bits that stay when a recording changes its level, codec or start a little.

The method: energies in bands over time, as in Haitsma and Kalker, "A Highly Robust Audio
Fingerprinting System" (ISMIR 2002). They search for exact words of 32 bits at many positions. Here
one fingerprint describes the whole clip: magnitudes of the modulation spectrum of each band, which
a shift in time does not change. Random projections turn them into bits (Charikar, "Similarity
Estimation Techniques from Rounding Algorithms", STOC 2002), so that few bits differ between
versions of one recording.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

NUM_BITS = 256
ANALYSED_SECONDS = 20.0
"""Longer sounds are described by their first seconds after the onset."""
FRAME_SECONDS, HOP_SECONDS = 0.032, 0.016
NUM_BANDS, BAND_HZ = 16, (150.0, 6_000.0)
MODULATIONS_HZ = np.geomspace(0.5, 16.0, 64)
FLOOR = 1e-4
"""Power of the floor below the loudest band of a sound: codecs change what is below -40 dB."""
ONSET = 1e-3
MIN_FRAMES = 30
"""A shorter sound, of half a second, has too little that tells it apart."""
MIN_CHANGE = 0.02
"""Standard deviation of the logarithmic energies in a band (base 10). A steadier sound, such as a
tone, resembles every other steady one."""


def fingerprint(samples: NDArray[np.floating], sample_rate: int) -> bytes | None:
    """The fingerprint of a sound.

    Args:
        samples: [samples], full scale 1.
        sample_rate: Hz.

    Returns:
        ``NUM_BITS / 8`` bytes; None if the sound is too short or too steady to have one.

    Example:
        >>> rain = np.random.default_rng(0).normal(0, 0.1, 64_000)
        >>> wind = np.random.default_rng(1).normal(0, 0.1, 64_000)
        >>> def distance(one, other):
        ...     return num_different(fingerprint(one, 32_000), fingerprint(other, 32_000))
        >>> distance(rain, 0.1 * rain[1_000:]) < MAX_DIFFERENT < distance(rain, wind)
        True
    """
    energies = _energies(samples, sample_rate)
    if len(energies) < MIN_FRAMES:
        return None
    energies -= energies.mean(0)
    if energies.std() < MIN_CHANGE:
        return None
    window = np.hanning(len(energies) + 2)[1:-1, None]
    times = np.arange(len(energies)) * HOP_SECONDS
    waves = np.exp(-2j * np.pi * MODULATIONS_HZ[:, None] * times)
    magnitudes = np.sqrt(np.abs(waves @ (window * energies)))
    magnitudes -= magnitudes.mean(0)
    magnitudes -= magnitudes.mean(1, keepdims=True)
    return np.packbits(_directions() @ magnitudes.ravel() > 0).tobytes()


def _energies(samples: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Logarithmic energies [frames, bands] after the onset of a sound."""
    frame, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    most = round(2 * ANALYSED_SECONDS * sample_rate)  # the onset may come late
    if len(samples) < frame:
        return np.zeros((0, NUM_BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples[:most], frame)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(frame).astype(np.float32))))
    energies = power @ _bands(sample_rate, frame)
    total = energies.sum(1)
    if not total.any():
        return np.zeros((0, NUM_BANDS))
    onset = int(np.argmax(total > ONSET * total.max()))
    energies = energies[onset : onset + round(ANALYSED_SECONDS / HOP_SECONDS)]
    logarithmic: NDArray[np.float64] = np.log10(energies / energies.max() + FLOOR)
    return logarithmic


@cache
def _bands(sample_rate: int, frame: int) -> NDArray[np.float64]:
    """Weights [bins, bands] of bands of equal width on a logarithmic scale."""
    edges = np.geomspace(*BAND_HZ, NUM_BANDS + 1)
    bins = np.fft.rfftfreq(frame, 1 / sample_rate)[:, None]
    is_inside: NDArray[np.bool_] = (bins >= edges[:-1]) & (bins < edges[1:])
    return is_inside.astype(np.float64)


@cache
def _directions() -> NDArray[np.float64]:
    """Random signs [bits, values], the same on every machine and with every version of NumPy."""
    size = NUM_BANDS * len(MODULATIONS_HZ)
    content = hashlib.shake_256(b"singleout fingerprint 1").digest(NUM_BITS * size // 8)
    signs = np.unpackbits(np.frombuffer(content, np.uint8)).reshape(NUM_BITS, size)
    return 2 * signs.astype(np.float64) - 1


MAX_DIFFERENT = 39
"""Two sounds are one recording if at most so many of the 256 bits differ.

The limit is low: it is worse to join two recordings than to miss a version.
"""


def num_different(one: bytes, other: bytes) -> int:
    """Number of bits that differ between two fingerprints.

    Example:
        >>> num_different(bytes([1, 2]), bytes([1, 1]))
        2
    """
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()
