"""Embeddings of recordings that serve as queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from singleout.audio import checked_array, log_notes, open_media
from singleout.audio.silence import SILENT_RMS
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import QueryError
from singleout.types import Example

MAX_EXAMPLE_SECONDS = 60
"""Longer examples are refused: an example should hold one sound and nothing else."""


def embed_example(example: Example, encoder: QueryEncoder, strict: bool = False) -> Tensor:
    """Embed an example. Its channels are averaged first. What is missing of its file is logged.

    Args:
        example: a file or an array.
        encoder: of the queries.
        strict: refuse a file that is cut or damaged.

    Returns:
        float32 [1, dim], unit norm.

    Raises:
        QueryError: the example is silent or longer than a minute.
        AudioError: the example cannot be read.

    Example:
        >>> import numpy as np
        >>> from singleout.encoders import load_encoder
        >>> noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
        >>> embed_example(Example(noise, sample_rate=16_000), load_encoder("builtin")).shape
        torch.Size([1, 96])
    """
    if isinstance(example.audio, str | Path):
        name, (audio, rate) = str(example.audio), _read(str(example.audio), strict)
    else:
        name, audio, rate = "the example", *checked_array(example.audio, example.sample_rate)
    _refuse_long(name, audio.shape[1], rate)
    mono = audio.mean(0)
    if float(np.sqrt(np.square(mono, dtype=np.float64).mean())) < SILENT_RMS:
        raise QueryError(f"{name}: is silent: give an example with the sound that is meant")
    return encoder.embed_audio(mono, rate)


def _read(name: str, strict: bool) -> tuple[NDArray[np.float32], int]:
    """Read a file, but not beyond the longest example if its length is unknown."""
    with open_media(name, strict=strict) as reader:
        rate = reader.info.sample_rate
        _refuse_long(name, reader.info.num_frames or 0, rate)
        blocks, num_samples = [], 0
        for block in reader.blocks():
            num_samples += block.shape[1]
            _refuse_long(name, num_samples, rate)
            blocks.append(block.astype(np.float32, copy=False))
        log_notes(reader.notes)
    return np.concatenate(blocks, axis=1), rate


def _refuse_long(name: str, num_samples: int, sample_rate: int) -> None:
    seconds = num_samples / sample_rate
    if seconds > MAX_EXAMPLE_SECONDS:
        raise QueryError(
            f"{name}: lasts {seconds:,.0f} s, an example may last {MAX_EXAMPLE_SECONDS} s: cut out "
            "the sound that is meant"
        )
