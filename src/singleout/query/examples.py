"""Sounds to ask with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from singleout.audio import SILENT_RMS, checked_array, open_audio, read_audio
from singleout.errors import QueryError
from singleout.query.encoder import QueryEncoder
from singleout.types import Example

MAX_EXAMPLE_SECONDS = 60


def heard(example: Example, encoder: QueryEncoder) -> Tensor:
    """Embedding [1, dim] of an example, its channels averaged.

    Raises:
        QueryError: it is silent or longer than a minute.
        AudioError: it cannot be read.
    """
    if isinstance(example.audio, str | Path):
        name = str(example.audio)
        with open_audio(name) as reader:  # one that says it is long is not read
            _refuse_long(name, reader.info.num_frames or 0, reader.info.sample_rate)
        audio, rate = read_audio(name)
    else:
        name, audio, rate = "the example", *checked_array(example.audio, example.sample_rate)
    _refuse_long(name, audio.shape[1], rate)
    mono = audio.mean(0)
    if float(np.sqrt(np.square(mono, dtype=np.float64).mean())) < SILENT_RMS:
        raise QueryError(f"{name}: is silent: give an example with the sound that is meant")
    return encoder.embed_audio(mono, rate)


def _refuse_long(name: str, num_samples: int, sample_rate: int) -> None:
    seconds = num_samples / sample_rate
    if seconds > MAX_EXAMPLE_SECONDS:
        raise QueryError(
            f"{name}: lasts {seconds:,.0f} s, an example {MAX_EXAMPLE_SECONDS} s at most: cut out "
            "the sound that is meant"
        )
