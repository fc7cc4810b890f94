"""Effects that make mixtures harder: band limits, silences, rooms, backgrounds and codecs.

Every effect is deterministic. What is random in it follows from a number in its plan.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.data.plan import BackgroundSpec

FADE_SECONDS = 0.01
"""Length of the fade at each edge of a silence."""
DIRECT_TO_ROOM_DB = 3.0
"""Level of a sound over its echoes, which start a few milliseconds after it."""
DULL_HZ = 2_000.0
"""Above this frequency, the echoes of a room decay twice as fast."""
BACKGROUND_FLOOR_HZ = 40.0
"""Below this frequency, the spectrum of a background is flat."""
WANDER_DB = 4.0
"""How far the level of a background wanders to either side."""
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Sample rates of MP3 files, Hz."""


def low_pass(audio: NDArray[np.float32], cutoff_hz: float, sample_rate: int) -> NDArray[np.float32]:
    """Zero-phase low-pass with a raised-cosine slope of a third of an octave.

    Args:
        audio: [samples].
        cutoff_hz: the slope starts here.
        sample_rate: of ``audio``, Hz.

    Returns:
        float32 [samples].

    Example:
        >>> import numpy as np
        >>> hiss = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
        >>> dull = low_pass(hiss, 1_000.0, 8_000)
        >>> bool(np.abs(np.fft.rfft(dull))[2_000:].max() < 1e-3)
        True
    """
    spectrum = np.fft.rfft(audio).astype(np.complex128)
    # The gain is 1 below the slope and 0 above it, so that only the slope is computed.
    hz_per_bin = sample_rate / len(audio)
    first = min(int(cutoff_hz / hz_per_bin), len(spectrum)) if cutoff_hz >= 1 else 0
    last = min(int(cutoff_hz * 2 ** (1 / 3) / hz_per_bin) + 2, len(spectrum))
    hz = np.fft.rfftfreq(len(audio), 1 / sample_rate)[first:last]
    octaves = np.log2(np.maximum(hz, 1.0) / cutoff_hz)
    spectrum[first:last] *= 0.5 + 0.5 * np.cos(np.pi * np.clip(3 * octaves, 0, 1))
    spectrum[last:] = 0
    return np.fft.irfft(spectrum, len(audio)).astype(np.float32)


def apply_silences(
    audio: NDArray[np.float32], silences_seconds: Sequence[tuple[float, float]], sample_rate: int
) -> NDArray[np.float32]:
    """Silence a sound between pairs of times, with fades of 10 ms.

    A sound that would lose 99 % of its power is returned unchanged: a target must be audible.

    Args:
        audio: [samples].
        silences_seconds: start and end of each silence.
        sample_rate: of ``audio``, Hz.

    Returns:
        float32 [samples].

    Example:
        >>> import numpy as np
        >>> tone = np.ones(1_000, np.float32)
        >>> apply_silences(tone, [(0.2, 0.6)], 1_000)[[100, 400, 800]]
        array([1., 0., 1.], dtype=float32)
    """
    gain = np.ones(len(audio) + 1, np.float32)
    for start, stop in silences_seconds:
        gain[round(start * sample_rate) : round(stop * sample_rate)] = 0
    width = max(1, round(FADE_SECONDS * sample_rate))
    total = np.cumsum(np.pad(gain[:-1], (width // 2 + 1, width - width // 2 - 1), mode="edge"))
    smooth = np.pad(total[width:] - total[:-width], (0, 1), mode="edge")[: len(audio)] / width
    silenced = (audio * smooth).astype(np.float32)
    return silenced if np.square(silenced).mean() > 0.01 * np.square(audio).mean() else audio


def apply_room(
    audio: NDArray[np.float32], rt60_seconds: float, number: int, sample_rate: int
) -> NDArray[np.float32]:
    """Add the echoes of a room to a sound.

    The impulse response is noise that decays by 60 dB in ``rt60_seconds``, high frequencies in
    half of it. Echoes after the end of ``audio`` are cut off.

    Args:
        audio: [samples].
        rt60_seconds: decay time of the room.
        number: seed of the noise: another number is another room.
        sample_rate: of ``audio``, Hz.

    Returns:
        float32 [samples].

    Example:
        >>> import numpy as np
        >>> click = np.zeros(800, np.float32)
        >>> click[0] = 1
        >>> echoes = apply_room(click, 0.05, number=1, sample_rate=8_000)[1:]
        >>> round(float(10 * np.log10(np.square(echoes).sum())))
        -3
    """
    rng = np.random.default_rng([number])
    length = max(1, round(rt60_seconds * sample_rate))
    time = np.arange(length) / sample_rate
    tail = rng.normal(0, 1, length)
    bright = tail * 10 ** (-3 * time / (0.5 * rt60_seconds))
    dull = low_pass(tail.astype(np.float32), DULL_HZ, sample_rate) * 10 ** (
        -3 * time / rt60_seconds
    )
    response = bright + 2 * dull
    response[: round(rng.uniform(0.002, 0.02) * sample_rate)] = 0
    level = 10 ** (-DIRECT_TO_ROOM_DB / 20) / max(float(np.sqrt(np.square(response).sum())), 1e-9)
    response *= level
    response[0] = 1
    padded = len(audio) + length
    spectrum = np.fft.rfft(audio, padded) * np.fft.rfft(response, padded)
    reverberant: NDArray[np.float32] = np.fft.irfft(spectrum, padded)[: len(audio)].astype(
        np.float32
    )
    return reverberant


def background_noise(
    spec: BackgroundSpec, num_samples: int, sample_rate: int
) -> NDArray[np.float32]:
    """Noise of unit power with a straight spectrum and a slowly wandering level.

    Args:
        spec: slope of the spectrum and number of the noise; the level is not applied.
        num_samples: length.
        sample_rate: Hz.

    Returns:
        float32 [samples].

    Example:
        >>> import numpy as np
        >>> from singleout.data.plan import BackgroundSpec
        >>> noise = background_noise(BackgroundSpec(10.0, -3.0, number=1), 8_000, 8_000)
        >>> round(float(np.square(noise).mean()), 3)
        1.0
    """
    rng = np.random.default_rng([spec.number])
    hz = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    spectrum = np.fft.rfft(rng.normal(0, 1, num_samples))
    spectrum *= np.maximum(hz, BACKGROUND_FLOOR_HZ) ** (spec.slope_db / (20 * np.log10(2)))
    noise = np.fft.irfft(spectrum, num_samples)
    points = rng.uniform(-WANDER_DB, WANDER_DB, 8)
    wander_db = np.interp(np.linspace(0, 7, num_samples), np.arange(8), points)
    noise *= 10 ** (wander_db / 20)
    unit: NDArray[np.float32] = (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)
    return unit


def apply_codec(
    audio: NDArray[np.float32], kind: str, compression: float, sample_rate: int
) -> NDArray[np.float32]:
    """Encode with a lossy codec and decode again, without a shift in time.

    Args:
        audio: [samples].
        kind: ``MP3`` or ``OGG``. Ogg replaces MP3 at sample rates that MP3 does not have.
        compression: 0 (best) to 1 (smallest).
        sample_rate: of ``audio``, Hz.

    Returns:
        float32 [samples].

    Example:
        >>> import numpy as np
        >>> tone = np.sin(np.arange(8_000) / 10).astype(np.float32)
        >>> decoded = apply_codec(tone, "OGG", 0.5, 8_000)
        >>> decoded.shape, bool(np.abs(decoded - tone).mean() < 0.1)
        ((8000,), True)
    """
    if sample_rate not in MP3_RATES:
        kind = "OGG"
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format=kind, compression_level=compression)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    padded: NDArray[np.float32] = np.pad(decoded, (0, max(0, len(audio) - len(decoded))))
    return padded[: len(audio)]
