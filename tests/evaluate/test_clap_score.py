"""CLAPScore with the tiny encoder, against the cosine written out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from singleout.encoders import BuiltinEncoder
from singleout.errors import InputError
from singleout.evaluate.clap_score import JudgeWarning, clap_score, warn_if_conditioning

RATE = 32_000
QUERIES = ["a dog barking", "rain", "rain"]


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_it_is_the_cosine_of_each_pair(debug_encoder: BuiltinEncoder) -> None:
    audio = noise(3, RATE // 2)
    scores = clap_score(debug_encoder, audio, RATE, QUERIES)
    assert scores.shape == (3,)
    for item, query in enumerate(QUERIES):
        sound = debug_encoder.embed_audio(audio[item].numpy(), RATE)[0].double().numpy()
        text = debug_encoder.embed_text(query)[0].double().numpy()
        expected = sound @ text / np.linalg.norm(sound) / np.linalg.norm(text)
        assert scores[item].item() == pytest.approx(expected, abs=1e-5)
    assert scores[1] != scores[2]


@pytest.mark.parametrize("level", [0.0, 1e-6, 100.0])  # silence, next to it, beyond full scale
def test_any_level_has_a_score(debug_encoder: BuiltinEncoder, level: float) -> None:
    scores = clap_score(debug_encoder, level * noise(1, RATE // 2), RATE, ["rain"])
    assert -1 <= scores.item() <= 1


def test_no_items_give_no_scores(debug_encoder: BuiltinEncoder) -> None:
    assert clap_score(debug_encoder, torch.zeros(0, 100), RATE, []).shape == (0,)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(3, 0), "no samples"),
        (torch.zeros(2, 8), r"shape \[3, samples\], .* \[2, 8\]"),
        (torch.zeros(8), r"shape \[3, samples\]"),
        (torch.full((3, 8), torch.inf), "NaN or infinite"),
    ],
)
def test_errors_name_the_cause(debug_encoder: BuiltinEncoder, audio: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clap_score(debug_encoder, audio, RATE, QUERIES)


def test_a_judge_that_conditions_the_model_is_named(debug_encoder: BuiltinEncoder) -> None:
    with pytest.warns(JudgeWarning, match=debug_encoder.fingerprint):
        warn_if_conditioning(debug_encoder, debug_encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_conditioning(BuiltinEncoder.from_pretrained(None), debug_encoder)
