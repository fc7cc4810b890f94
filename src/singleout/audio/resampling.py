"""Resampling along the last axis, high quality, linear phase."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from singleout.errors import AudioError


def resample(audio: NDArray[np.float32], rate_in: int, rate_out: int) -> NDArray[np.float32]:
    """Float32 [..., samples] from ``rate_in`` to ``rate_out`` Hz.

    Raises:
        AudioError: a rate is not positive.
    """
    if rate_in <= 0 or rate_out <= 0:
        raise AudioError(
            f"sample rate {min(rate_in, rate_out)} Hz is impossible: it must be positive"
        )
    if rate_in == rate_out:
        return audio
    flat = audio.reshape(-1, audio.shape[-1])
    out = soxr.resample(np.ascontiguousarray(flat.T), rate_in, rate_out, quality="HQ")
    return np.ascontiguousarray(out.T).reshape(*audio.shape[:-1], -1)
