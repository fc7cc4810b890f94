"""A model whose texts are replaced by several sounds."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from singleout.encoders import BuiltinEncoder
from singleout.manipulations import Chain, FitEmbeddings, Neighbours
from singleout.model import ModelConfig, QueriedSeparator
from tests.conftest import TINY_SEPARATOR, randomise_statistics


@pytest.fixture
def neighbours_model(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """A tiny model with negative prompts. Three sounds stand for each text."""
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        manipulation=Chain(steps=(Neighbours(sounds=3, candidates=20),)),
        negative=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = QueriedSeparator(config, debug_encoder)
        randomise_statistics(model)
        audio = F.normalize(torch.randn(40, debug_encoder.dim), dim=-1)
    no_text = torch.zeros(0, debug_encoder.dim)
    model.manipulator.fit(FitEmbeddings(audio, no_text, torch.zeros(0, dtype=torch.long)))
    return model.eval()
