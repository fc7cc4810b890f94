"""Separate a whole mixture with ``ChunkedSeparator``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from singleout.condition import Condition
from singleout.extract.chunking import ChunkedSeparator
from singleout.separators import Separator


def separate_in_chunks(
    separator: Separator,
    blocks: Iterable[NDArray[np.float32]],
    conditions: Sequence[Condition],
    chunk_samples: int,
    link_channels: bool = True,
) -> list[NDArray[np.float32]]:
    """Push all blocks; the targets of every chunk, each [queries, channels, samples]."""
    stage = ChunkedSeparator(separator, conditions, chunk_samples, link_channels)
    chunks = [chunk for block in blocks for chunk in stage.push(block)]
    return [chunk.targets for chunk in [*chunks, *stage.finish()]]
