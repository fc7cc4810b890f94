"""``Extractor.extract``, with the tiny model and with the packaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout import Extraction, Extractor, Query
from singleout.audio import write_wav
from singleout.errors import AudioError, ModelError, QueryError
from singleout.model import QueriedSeparator
from tests.recordings import RATE, audible, noise


def check_adds_up(result: Extraction, mixture: NDArray[np.float32], rate: int) -> None:
    for part in (result.target, result.residual):
        assert part.shape == mixture.shape
        assert part.dtype == np.float32
    assert np.abs(result.target + result.residual - mixture).max() <= 1e-6
    assert result.sample_rate == rate


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(1, 3),
    num_samples=st.integers(1, 30_000),
    rate=st.sampled_from([1, 997, 8_000, 22_050, 32_000, 44_100, 48_000, 192_000, 2**31 - 1]),
    level=st.sampled_from([1e-9, 0.1, 1.0]),
)
def test_target_and_residual_add_up(
    extractor: Extractor, channels: int, num_samples: int, rate: int, level: float
) -> None:
    num_samples = min(num_samples, 4 * rate)
    mixture = noise(num_samples, channels)
    mixture *= np.float32(level) / max(np.abs(mixture).max(), np.float32(1e-30))
    before = mixture.copy()
    check_adds_up(extractor.extract(mixture, "a dog barking", rate), mixture, rate)
    np.testing.assert_array_equal(mixture, before)


def test_the_target_depends_on_the_query_and_is_not_silent(extractor: Extractor) -> None:
    mixture = noise()
    dog, rain = (extractor.extract(mixture, query, RATE).target for query in ("a dog", "rain"))
    assert np.abs(dog).max() > 0.01
    assert np.abs(dog - rain).max() > 1e-4
    np.testing.assert_array_equal(dog, extractor.extract(mixture, "a dog", RATE).target)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [0.05, 0.1, 0.4, 0.77])
@pytest.mark.parametrize("num_samples", [RATE * 3, RATE * 2 + 4_321])
def test_chunks_equal_the_whole(
    debug_model: QueriedSeparator, chunk_seconds: float, num_samples: int
) -> None:
    mixture = noise(num_samples, 2)
    shares: list[float] = []
    chunked = Extractor(debug_model, chunk_seconds=chunk_seconds).extract(
        mixture, "a dog", RATE, progress=shares.append
    )
    whole = Extractor(debug_model, chunk_seconds=1e6).extract(mixture, "a dog", RATE)
    scale = np.abs(whole.target).max()
    assert np.abs(chunked.target - whole.target).max() <= 1e-5 * scale
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_progress_runs_over_all_channels(extractor: Extractor) -> None:
    shares: list[float] = []
    extractor.extract(noise(RATE, 2), "a dog", RATE, link_channels=False, progress=shares.append)
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_linked_channels_keep_the_stereo_image_and_others_are_independent(
    extractor: Extractor,
) -> None:
    left, right = noise(), noise(seed=1)
    panned = extractor.extract(np.concatenate([left, 0.25 * left]), "a dog", RATE).target
    np.testing.assert_allclose(panned[1], 0.25 * panned[0], atol=1e-6)
    both = np.concatenate([left, right])
    linked = extractor.extract(both, "a dog", RATE).target
    apart = extractor.extract(both, "a dog", RATE, link_channels=False).target
    for number, channel in enumerate((left, right)):
        single = extractor.extract(channel, "a dog", RATE).target[0]
        np.testing.assert_allclose(apart[number], single, atol=1e-6)
        assert np.abs(linked[number] - single).max() > 1e-3


def test_identity_gives_back_the_mixture(identity_model: QueriedSeparator) -> None:
    mixture = noise(RATE, 2)
    result = Extractor(identity_model, chunk_seconds=0.013).extract(mixture, "anything", RATE)
    assert np.abs(result.target - audible(mixture, RATE)).max() <= 1e-6
    inside = slice(100, -100)
    assert np.abs(result.target - mixture)[:, inside].max() < 0.1 * np.abs(mixture).max()
    assert not np.shares_memory(result.target, mixture)


def test_frequencies_above_the_band_go_to_the_residual(identity_model: QueriedSeparator) -> None:
    time = np.arange(96_000) / 96_000
    low = 0.5 * np.sin(2 * np.pi * 1_000 * time).astype(np.float32)
    high = 0.5 * np.sin(2 * np.pi * 20_000 * time).astype(np.float32)
    result = Extractor(identity_model).extract(low + high, "anything", 96_000)
    inside = slice(24_000, -24_000)
    assert np.abs(result.target[0] - low)[inside].max() < 1e-3
    assert np.abs(result.residual[0] - high)[inside].max() < 1e-3


@pytest.mark.parametrize("rate", [8_000, 32_000, 48_000])
def test_silence_gives_silence(extractor: Extractor, rate: int) -> None:
    mixture = noise(rate, 2)
    mixture[1] = 0
    result = extractor.extract(mixture, "a dog", rate)
    assert result.target[0].any()
    assert not result.target[1].any()
    assert not result.residual[1].any()
    assert not extractor.extract(np.zeros(1, np.float32), "a dog", rate).target.any()


def test_paths_and_arrays_give_the_same(extractor: Extractor, tmp_path: Path) -> None:
    mixture = noise(20_000, 2)
    path = tmp_path / "x.wav"
    write_wav(path, mixture, 44_100)
    expected = extractor.extract(mixture, "a dog", 44_100)
    for audio in (path, str(path)):
        result = extractor.extract(audio, Query("a dog"))
        np.testing.assert_array_equal(result.target, expected.target)
        assert result.query == Query("a dog")
    extractor.extract(path, "a dog", 44_100)
    with pytest.raises(AudioError, match="is 44100 Hz, not 48000"):
        extractor.extract(path, "a dog", 48_000)


def test_all_kinds_of_arrays(extractor: Extractor) -> None:
    mixture = noise(2_000)
    expected = extractor.extract(mixture, "a dog", RATE).target
    read_only = mixture.copy()
    read_only.flags.writeable = False
    for audio in (
        mixture[0],
        mixture.tolist(),
        torch.from_numpy(mixture),
        mixture.astype(np.float64),
        mixture.astype(">f4"),
        mixture[:, ::-1].copy()[:, ::-1],
        read_only,
    ):
        np.testing.assert_array_equal(extractor.extract(audio, "a dog", RATE).target, expected)


@pytest.mark.parametrize(
    ("audio", "rate", "reason"),
    [
        (noise(), None, "give sample_rate"),
        (noise(), 0, "must be positive"),
        (noise(), -8_000, "must be positive"),
        (noise(), 44_100.5, "whole number"),
        (noise(), float("nan"), "whole number"),
        (noise(), "32000", "whole number"),
        (noise(100_000), 1, "28 hours at 1 Hz"),
        (np.zeros(0, np.float32), RATE, "no samples"),
        (np.zeros((2, 0), np.float32), RATE, "no samples"),
        (np.zeros((1, 1, 9), np.float32), RATE, "shape"),
        (np.float32(1), RATE, "shape"),
        (noise(9_000).T, RATE, "transpose"),
        (np.zeros(9, np.int16), RATE, "not int16"),
        (np.zeros(9, complex), RATE, "not complex"),
        (np.array([0.1, np.nan]), RATE, "NaN or infinite"),
        (np.array([0.1, -np.inf]), RATE, "NaN or infinite"),
        (np.array([0.1, 1e300]), RATE, "NaN or infinite"),
        ([[0.1], [0.1, 0.2]], RATE, "not an array"),
        (torch.zeros(9, requires_grad=True), RATE, "not an array"),
        (None, RATE, "must be floats"),
    ],
)
def test_bad_audio(extractor: Extractor, audio: object, rate: object, reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as raised:
        extractor.extract(audio, "a dog", rate)  # type: ignore[call-overload]
    assert "\n" not in str(raised.value)


def test_bad_queries(extractor: Extractor) -> None:
    for query, reason in (
        ("", "empty"),
        ("x" * 10_000, "10,000"),
        (Query("a dog", negative=("traffic",)), "negative prompts"),
    ):
        with pytest.raises(QueryError, match=reason):
            extractor.extract(noise(), query, RATE)


def test_output_that_is_not_finite_is_an_error(
    debug_model_folder: Path, extractor: Extractor
) -> None:
    model = QueriedSeparator.from_pretrained(debug_model_folder)
    next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        Extractor(model).extract(noise(), "a dog", RATE)
    with pytest.raises(ModelError, match="beyond full scale"):
        extractor.extract(noise() * np.float32(3e38), "a dog", RATE)


def test_a_model_in_training_is_put_into_evaluation_mode(debug_model_folder: Path) -> None:
    model = QueriedSeparator.from_pretrained(debug_model_folder).train()
    Extractor(model)
    assert not model.training
    assert not model.separator.training


def test_saved_models_come_back(debug_model_folder: Path, tmp_path: Path) -> None:
    first = Extractor.from_pretrained(debug_model_folder)
    first.model.save_pretrained(tmp_path)
    second = Extractor.from_pretrained(str(tmp_path))
    expected, actual = (e.extract(noise(), "a dog", RATE).target for e in (first, second))
    np.testing.assert_array_equal(actual, expected)


def harmonic_and_noise(rate: int) -> NDArray[np.float32]:
    """Two seconds of stereo: a gliding, voice-like tone and hiss left, the same hiss right."""
    time = np.arange(2 * rate) / rate
    phase = 2 * np.pi * (220 * time + 20 * np.sin(2 * np.pi * 3 * time))
    tone = sum(np.sin(k * phase) / k for k in range(1, 9)) * 0.1
    hiss = np.random.default_rng(0).normal(0, 0.03, len(time))
    return np.stack([tone + hiss, hiss]).astype(np.float32)


@pytest.fixture(scope="module")
def packaged() -> Extractor:
    """An extractor of the packaged model; it needs the weights in src/singleout/builtin."""
    return Extractor.from_pretrained()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_packaged_model_adds_up(packaged: Extractor, rate: int) -> None:
    mixture = harmonic_and_noise(rate)
    check_adds_up(packaged.extract(mixture, "a cat meowing", rate), mixture, rate)


def test_packaged_model_chunks_equal_the_whole(packaged: Extractor) -> None:
    mixture = np.tile(harmonic_and_noise(RATE)[:1], (1, 4))
    whole = packaged.extract(mixture, "a cat meowing", RATE).target
    chunked = (
        Extractor(packaged.model, chunk_seconds=3.0).extract(mixture, "a cat meowing", RATE).target
    )
    assert np.abs(chunked - whole).max() <= 1e-5 * np.abs(whole).max()


def test_packaged_model_answers_the_query_and_keeps_silence(packaged: Extractor) -> None:
    mixture = harmonic_and_noise(RATE)
    cat, rain = (
        packaged.extract(mixture, query, RATE).target for query in ("a cat meowing", "rain")
    )
    assert np.abs(cat - rain).max() > 1e-3
    silence = packaged.extract(np.zeros((2, RATE), np.float32), "rain", RATE)
    assert not silence.target.any()
    assert not silence.residual.any()


def test_extract_many_takes_one_array_with_its_rate(extractor: Extractor) -> None:
    audio = (np.zeros(800, np.float32), 8_000)
    assert len(list(extractor.extract_many(audio, "rain"))) == 1
