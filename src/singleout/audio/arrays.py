"""Arrays as recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.errors import AudioError

MAX_CHANNELS = 64
"""More channels are taken for samples: the array is transposed."""


def checked_array(audio: ArrayLike, sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
    """Check that an array can be used as a recording.

    Args:
        audio: floats with full scale 1, [samples] or [channels, samples], all finite.
        sample_rate: Hz, a positive whole number.

    Returns:
        The waveform, float32 [channels, samples], and its rate in Hz. The waveform may share memory
        with ``audio``.

    Raises:
        AudioError: the audio or its rate is missing, or is not as above.

    Example:
        >>> import numpy as np
        >>> waveform, rate = checked_array(np.zeros(16_000), 16_000)
        >>> waveform.shape, waveform.dtype, rate
        ((1, 16000), dtype('float32'), 16000)
    """
    rate = _checked_rate(sample_rate)
    try:
        array = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"audio is not an array of samples: {error}") from None
    if array.dtype.kind != "f":
        raise AudioError(
            f"audio must be floats with full scale 1, not {array.dtype}: "
            "divide integer samples by their full scale first"
        )
    if array.ndim not in (1, 2):
        raise AudioError(
            f"audio must be [samples] or [channels, samples], got the shape {list(array.shape)}"
        )
    if array.size == 0:
        raise AudioError("audio has no samples")
    with np.errstate(over="ignore"):
        waveform = np.atleast_2d(np.ascontiguousarray(array, dtype=np.float32))
    if len(waveform) > MAX_CHANNELS:
        raise AudioError(
            f"audio has {len(waveform):,} channels, the limit is {MAX_CHANNELS}: "
            "the shape of an array must be [channels, samples]; transpose it?"
        )
    if not np.isfinite(waveform).all():
        raise AudioError("audio has NaN or infinite samples")
    return waveform, rate


def _checked_rate(sample_rate: int | None) -> int:
    if sample_rate is None:
        raise AudioError("an array has no sample rate: give sample_rate in Hz")
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if rate != sample_rate:
        raise AudioError(f"sample rate {sample_rate!r} is not a whole number of Hz")
    if rate <= 0:
        raise AudioError(f"sample rate {rate} Hz is impossible: it must be positive")
    return rate
