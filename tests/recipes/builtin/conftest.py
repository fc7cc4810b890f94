"""Fixtures of the built-in model's recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.data.clips import Clip
from singleout.encoders.audio_tower import SAMPLE_RATE
from tests.recipes.builtin.corpora import clip


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Forty sounds in ten packages, four classes of two families."""
    rng = np.random.default_rng(0)
    labels = ["animal/dog", "animal/cat", "tool/saw", "tool/drill"]
    sounds = []
    for i in range(40):
        path = tmp_path / f"package{i % 10}" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, SAMPLE_RATE // 4 + 999 * i), SAMPLE_RATE)
        sounds.append(clip(path, labels[i % 4], f"g{i}"))
    return sounds
