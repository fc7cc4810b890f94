"""Resampling along the last axis, high quality, linear phase."""

from __future__ import annotations

from typing import Any

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


class ResampleStream:
    """``resample``, block by block: the same samples, to the bit.

    Args:
        rate_in, rate_out: Hz, positive.
        channels: of every block.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._channels = channels
        self._stream: Any = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, quality="HQ")

    def push(self, block: NDArray[np.float32], is_last: bool = False) -> NDArray[np.float32]:
        """What is certain after one more float32 [channels, samples]; with the last, the rest."""
        if self._stream is None:
            return block
        out = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=is_last)
        return np.ascontiguousarray(out.T)

    def finish(self) -> NDArray[np.float32]:
        """The rest, where no block follows."""
        return self.push(np.zeros((self._channels, 0), np.float32), is_last=True)
