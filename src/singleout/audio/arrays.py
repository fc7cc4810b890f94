"""Arrays as recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.errors import AudioError

MAX_CHANNELS = 64


def checked_array(audio: ArrayLike, sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
    """An array as a recording: float32 [channels, samples], which may share memory with ``audio``,
    and the rate in Hz.

    Raises:
        AudioError: it is not an array of floats, [samples] or [channels, samples], all finite; or
            its rate is missing or impossible.
    """
    if sample_rate is None:
        raise AudioError("an array does not tell its rate: give sample_rate in Hz")
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if rate != sample_rate:
        raise AudioError(f"sample rate {sample_rate!r} is not a whole number of Hz")
    if rate <= 0:
        raise AudioError(f"sample rate {rate} Hz is impossible: it must be positive")
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
        mixture = np.atleast_2d(np.ascontiguousarray(array, dtype=np.float32))
    if len(mixture) > MAX_CHANNELS:
        raise AudioError(
            f"audio has {len(mixture):,} channels, the limit is {MAX_CHANNELS}: "
            "the shape of an array must be [channels, samples]; transpose it?"
        )
    if not np.isfinite(mixture).all():
        raise AudioError("audio has NaN or infinite samples")
    return mixture, rate
