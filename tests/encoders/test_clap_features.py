"""CLAP's features, compared with those of transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleout.encoders.clap_features import ClapFeatures
from singleout.errors import ModelError
from tests.encoders.clap_models import (
    RATE,
    extractor_of,
    noise,
    varied,
)


@pytest.fixture
def middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor draws the middle of whatever it draws from NumPy's global generator."""
    monkeypatch.setattr(np.random, "randint", lambda low, high: (high - 1) // 2)
    monkeypatch.setattr(np.random, "choice", lambda values: values[len(values) // 2])


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize("seconds", [0.01, 3.3, 9.999, 10.0, 10.005, 10.01, 10.03, 24.7])
@pytest.mark.parametrize("fused", [False, True])
def test_features_are_those_of_the_processor(fused: bool, seconds: float) -> None:
    extractor = extractor_of(fused)
    audio = torch.stack([noise(seconds), varied(seconds)])
    ours, is_longer = ClapFeatures(extractor)(audio)
    theirs = extractor(list(audio.numpy()), sampling_rate=RATE)
    expected = torch.tensor(np.array(theirs["input_features"]))
    assert ours.shape == expected.shape == (2, 4 if fused else 1, 1001, 64)
    assert ours.dtype == torch.float32
    assert (ours - expected).abs().max() <= 2e-5, "dB"
    assert is_longer.tolist() == [[fused and seconds >= 10.01]] * 2


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("seconds", [0.7, 4.0, 6.0])
def test_settings_are_the_checkpoints_own(padding: str, seconds: float) -> None:
    extractor = extractor_of(
        False, sampling_rate=32_000, hop_length=320, fft_window_size=512, max_length_s=4,
        feature_size=32, frequency_min=100, frequency_max=12_000, padding=padding,
    )  # fmt: skip
    audio = varied(seconds, 32_000)[None]
    ours, _ = ClapFeatures(extractor)(audio)
    theirs = extractor(audio[0].numpy(), sampling_rate=32_000)["input_features"][0]
    assert ours.shape == (1, 1, 401, 32)
    assert (ours[0] - torch.tensor(theirs)).abs().max() <= 2e-5


def test_a_truncation_that_no_clap_has_is_refused() -> None:
    with pytest.raises(ModelError, match="truncation 'sometimes'"):
        ClapFeatures(extractor_of(False, truncation="sometimes"))
