"""Resampling along the last axis with a linear-phase filter of high quality (soxr "HQ")."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from singleout.errors import AudioError


def resample(audio: NDArray[np.float32], rate_in: int, rate_out: int) -> NDArray[np.float32]:
    """Change the sample rate of a waveform.

    Args:
        audio: float32 [..., samples].
        rate_in, rate_out: Hz, positive.

    Returns:
        float32 [..., samples] at ``rate_out``; ``audio`` itself if the rates are equal.

    Raises:
        AudioError: a rate is not positive.

    Example:
        >>> import numpy as np
        >>> resample(np.zeros((2, 48_000), np.float32), 48_000, 32_000).shape
        (2, 32000)
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
    """Resamples a recording block by block. Together the blocks equal ``resample`` to the bit.

    Args:
        rate_in, rate_out: Hz, positive.
        channels: number of channels of every block.

    Example:
        >>> import numpy as np
        >>> blocks = np.split(np.random.default_rng(0).normal(size=(1, 4_800)), 4, axis=1)
        >>> blocks = [block.astype(np.float32) for block in blocks]
        >>> stream = ResampleStream(48_000, 32_000, channels=1)
        >>> parts = [stream.push(block) for block in blocks] + [stream.finish()]
        >>> whole = resample(np.concatenate(blocks, axis=1), 48_000, 32_000)
        >>> np.array_equal(np.concatenate(parts, axis=1), whole)
        True
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._channels = channels
        self._stream: Any = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, quality="HQ")

    def push(self, block: NDArray[np.float32], is_last: bool = False) -> NDArray[np.float32]:
        """Append a block.

        Args:
            block: float32 [channels, samples].
            is_last: whether the recording ends with this block.

        Returns:
            float32 [channels, samples] at ``rate_out``: the samples that no later block can change.
            It may be empty. After the last block it holds all remaining samples.
        """
        if self._stream is None:
            return block
        out = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=is_last)
        return np.ascontiguousarray(out.T)

    def finish(self) -> NDArray[np.float32]:
        """The remaining samples, float32 [channels, samples]; no more blocks may follow."""
        return self.push(np.zeros((self._channels, 0), np.float32), is_last=True)
