"""Recordings that are quieter than what a model was trained with."""

from __future__ import annotations

import math

import numpy as np

from singleout.audio import AudioReader

LEAST_RMS = 1e-6
"""-120 dB over full scale: what is quieter is rounding, and stays as it is."""


def lift(reader: AudioReader, quietest_db: float) -> float:
    """Gain, 1 or more, that brings a recording to a level.

    Read is only as much as it takes to know that a recording of this length is loud enough; a
    quiet one is read to its end.

    Args:
        reader: of the recording, which is used up.
        quietest_db: RMS over full scale, of all samples of all channels. Where the peak would
            exceed full scale, the gain is less.

    Raises:
        AudioError: it cannot be read.
    """
    wanted = 10 ** (quietest_db / 10)
    energy, peak, count = 0.0, 0.0, 0
    for block in reader.blocks():
        count += block.shape[1]
        energy += float(np.square(block, dtype=np.float64).mean(0).sum())
        peak = max(peak, float(np.abs(block).max(initial=0)))
        if reader.info.num_frames and energy >= wanted * max(reader.info.num_frames, count):
            return 1.0
    power = energy / max(count, 1)
    if power < LEAST_RMS**2:
        return 1.0
    return max(1.0, min(math.sqrt(wanted / power), 1 / peak))
