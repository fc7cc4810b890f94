"""Similarity between targets and queries, and the presence that follows from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from singleout import Example, Extractor, Query
from singleout.encoders import BuiltinEncoder
from singleout.errors import ModelError
from singleout.model import PresenceCalibration, QueriedSeparator, read_config
from singleout.model.similarity import SimilarityMeter
from tests.recordings import RATE, noise, write_recording


@given(
    similarity=st.lists(st.floats(-1, 1), min_size=1, max_size=9),
    scale=st.floats(0.1, 30),
    bias=st.floats(-5, 5),
)
def test_a_probability_is_the_sigmoid(similarity: list[float], scale: float, bias: float) -> None:
    calibration = PresenceCalibration(scale=scale, bias=bias)
    probability = calibration.probability(similarity)
    assert probability.dtype == np.float32
    expected = 1 / (1 + np.exp(-(scale * np.array(similarity) + bias)))
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    assert calibration.probability(similarity[0]).shape == ()


def test_any_calibration_gives_a_probability() -> None:
    """An overflow would be a warning, which is an error in these tests."""
    similarity = np.array([-1, 0, 1], np.float32)
    probability = PresenceCalibration(scale=1e30, bias=0.0).probability(similarity)
    np.testing.assert_array_equal(probability, [0, 0.5, 1])


def test_a_calibration_is_saved_with_its_model(
    calibrated_model: QueriedSeparator, debug_model_folder: Path, calibrated_model_folder: Path
) -> None:
    saved = json.loads((calibrated_model_folder / "config.json").read_text())
    assert saved["presence"] == {"scale": 3.0, "bias": -0.2}
    assert saved["negative"] is True
    assert read_config(calibrated_model_folder) == calibrated_model.config
    assert calibrated_model.config.presence == PresenceCalibration(scale=3.0, bias=-0.2)
    plain = json.loads((debug_model_folder / "config.json").read_text())
    assert not plain.keys() & {"presence", "negative"}


WINDOW, HOP = RATE, RATE // 2
BARK = Example(noise(9_000, seed=1)[0], RATE)


def reference_similarity(
    model: QueriedSeparator, target: NDArray[np.float32], query: Query
) -> tuple[float, list[float]]:
    """Similarity of a target [channels, samples] and of its windows, computed by the definition."""
    condition = model.embed(query)
    parts = F.normalize(condition.embeddings[0, :, : model.manipulator.dim], dim=-1)
    powers, similarities = [], []
    for start in range(0, max(1, target.shape[1] - HOP), HOP):
        window = torch.from_numpy(target[:, start : start + WINDOW])
        embedding = model.manipulator.for_inference(model.encoder.embed_audio(window, RATE), False)
        similarities.append(
            (condition.weights[0] @ (parts @ F.normalize(embedding, dim=-1).T)).numpy()
        )
        powers.append(window.double().square().mean(1).numpy())
    power, similarity = np.stack(powers), np.stack(similarities)
    level = power.sum(1)
    over_time = (power * similarity).sum(1) / level
    over_time[level < 1e-3 * level.max()] = -1
    return float((power * similarity).sum() / power.sum()), over_time.tolist()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_samples=st.integers(1, 4 * RATE),
    splits=st.lists(st.integers(0, 4 * RATE), max_size=4),
    channels=st.integers(1, 2),
)
def test_similarity_is_the_mean_over_windows_by_power(
    neighbours_model: QueriedSeparator, num_samples: int, splits: list[int], channels: int
) -> None:
    queries = [Query("a dog"), Query((BARK,), "rain")]
    targets = np.stack([noise(num_samples, channels, seed) for seed in (5, 6)])
    targets *= np.linspace(1, 3, num_samples, dtype=np.float32)  # some windows are louder
    targets[1, :, : num_samples // 3] *= 1e-3
    meter = neighbours_model.similarity_meter([neighbours_model.embed(query) for query in queries])
    for block in np.split(targets, sorted(min(split, num_samples) for split in splits), axis=2):
        meter.push(block)
    result = meter.finish()
    assert meter.frame_seconds == 0.5
    for number, query in enumerate(queries):
        whole, over_time = reference_similarity(neighbours_model, targets[number], query)
        assert result.overall[number] == pytest.approx(whole, abs=2e-5)
        np.testing.assert_allclose(result.over_time[number], over_time, rtol=0, atol=2e-5)


def test_similarity_over_time_is_highest_where_the_sound_is(
    calibrated_model: QueriedSeparator,
) -> None:
    bark = noise(RATE, seed=1)
    target = np.concatenate([0.3 * noise(3 * RATE, seed=9), bark, noise(2 * RATE, seed=8)], axis=1)
    meter = calibrated_model.similarity_meter([calibrated_model.embed(Query(Example(bark, RATE)))])
    meter.push(target[None])
    similarity = meter.finish().over_time[0]
    assert int(similarity.argmax()) == 6
    assert float(similarity[6]) == pytest.approx(1, abs=1e-4)


def test_silence_has_the_lowest_similarity(calibrated_model: QueriedSeparator) -> None:
    conditions = [calibrated_model.embed(Query("a dog"))]
    meter = calibrated_model.similarity_meter(conditions)
    meter.push(np.zeros((1, 2, 2 * RATE), np.float32))
    meter.push(np.concatenate([noise(RATE), np.zeros((1, RATE), np.float32)])[None])
    whole, over_time = meter.finish()
    assert over_time[0, :3].tolist() == [-1, -1, -1]
    assert (over_time[0, 3:] > -1).all()
    noise_meter = calibrated_model.similarity_meter(conditions)
    noise_meter.push(noise(RATE)[None])
    assert whole[0] > -1
    assert np.sign(whole[0]) == np.sign(noise_meter.finish().overall[0])
    silent = calibrated_model.similarity_meter(conditions)
    silent.push(np.zeros((1, 1, RATE), np.float32))
    assert silent.finish().overall.tolist() == [-1]
    nothing = calibrated_model.similarity_meter(conditions).finish()
    assert nothing.over_time.shape == (1, 0)


@pytest.mark.parametrize("chunk_seconds", [0.05, 0.33, 100.0])
@pytest.mark.parametrize("num_samples", [RATE * 2, RATE * 2 + 777, 100])
def test_presence_is_the_calibrated_similarity(
    calibrated_model: QueriedSeparator, chunk_seconds: float, num_samples: int
) -> None:
    """The last stages of the pipeline change the target a little after it was measured."""
    mixture = noise(num_samples)
    result = Extractor(calibrated_model, chunk_seconds=chunk_seconds).extract(
        mixture, "a dog", RATE
    )
    whole, over_time = reference_similarity(calibrated_model, result.target, Query("a dog"))
    calibration = calibrated_model.config.presence
    assert calibration is not None
    presence = result.presence
    assert presence is not None
    expected = float(calibration.probability(whole))
    assert presence.probability == pytest.approx(expected, abs=2e-4)
    assert isinstance(presence.probability, float)
    assert 0 < presence.probability < 1
    assert presence.frame_seconds == 0.5
    assert presence.over_time.dtype == np.float32
    np.testing.assert_allclose(
        presence.over_time, calibration.probability(over_time), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_presence_over_time_has_the_time_of_the_recording(
    calibrated_extractor: Extractor, rate: int
) -> None:
    result = calibrated_extractor.extract(noise(2 * rate), "a dog", rate)
    assert result.presence is not None
    frames = len(result.presence.over_time)
    assert frames * result.presence.frame_seconds == pytest.approx(2, abs=0.5)


def test_a_level_far_beyond_full_scale_is_refused_with_the_file_name(
    calibrated_extractor: Extractor, calibrated_model: QueriedSeparator, tmp_path: Path
) -> None:
    meter = calibrated_model.similarity_meter([calibrated_model.embed(Query("a dog"))])
    meter.push(np.full((1, 1, RATE), 3e38, np.float32))
    meter.push(np.full((1, 1, RATE), np.inf, np.float32))
    whole, over_time = meter.finish()
    assert np.isfinite(whole).all()
    assert np.isfinite(over_time).all()
    # After resampling, a float32 cannot hold the samples.
    alternating = np.where(np.arange(44_100) % 2, 3e38, -3e38)[None]
    path = write_recording(tmp_path / "loud.wav", alternating, 44_100, "FLOAT")
    with pytest.raises(ModelError, match=r"loud\.wav: the output of the model is not finite"):
        calibrated_extractor.extract_file(path, "a dog", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recording_too_short_to_measure_has_no_presence(
    calibrated_extractor: Extractor, tmp_path: Path
) -> None:
    """One sample at 384 kHz is less than one sample of the model."""
    result = calibrated_extractor.extract(np.full((1, 1), 0.1, np.float32), "a dog", 384_000)
    assert result.target.shape == (1, 1)
    assert result.presence is None


def test_many_channels_are_embedded_a_few_clips_at_a_time(
    debug_encoder: BuiltinEncoder, calibrated_model: QueriedSeparator
) -> None:
    """Memory must not grow with the number of channels."""
    clips: list[int] = []

    class Counting(BuiltinEncoder):
        def embed_audio(self, audio: Any, *arguments: Any) -> Tensor:
            clips.append(len(audio))
            return super().embed_audio(audio, *arguments)

    encoder = Counting(debug_encoder.network, debug_encoder.tokenizer_json, debug_encoder.config)
    conditions = [calibrated_model.manipulator.condition(encoder.embed_text("a dog"), True)]
    for channels, most in ((1, 5), (5, 25), (40, 32)):
        clips.clear()
        meter = SimilarityMeter(encoder, calibrated_model.manipulator, conditions, RATE)
        meter.push(noise(3 * RATE, channels)[None])
        assert meter.finish().over_time.shape == (1, 5)
        assert max(clips) == most
        assert sum(clips) == 5 * channels


def test_each_of_several_queries_has_its_presence(
    calibrated_extractor: Extractor, tmp_path: Path
) -> None:
    """All ways to extract several queries give the presence of each query by itself."""
    path = write_recording(tmp_path / "x.wav", noise(2 * RATE, 2))
    queries: list[str | Path | Example | Query] = [
        "a dog",
        BARK,
        Query("rain", "a dog"),
        Query((), (BARK,)),
        path,
    ]
    single = [calibrated_extractor.extract(path, query) for query in queries]
    many = list(calibrated_extractor.extract_many([path, path], queries))
    written = calibrated_extractor.extract_file(path, queries, tmp_path / "out")
    assert len(many) == 10
    for number, (result, files) in enumerate(zip(single, written, strict=True)):
        if number == 3:  # a removal has no presence
            assert result.presence is None
            assert files.presence is None
            continue
        assert result.presence is not None
        for other in (many[number], many[number + 5]):
            assert other.presence is not None
            probability = other.presence.probability
            assert probability == pytest.approx(result.presence.probability, abs=1e-5)
            np.testing.assert_allclose(
                other.presence.over_time, result.presence.over_time, rtol=0, atol=1e-5
            )
        assert files.presence == pytest.approx(result.presence.probability, abs=1e-5)
        assert files.as_json()["presence"] == files.presence
        saved = result.save(tmp_path / "saved")
        assert saved.presence == result.presence.probability
        assert saved.query == files.query
    probabilities = {r.presence.probability for r in single if r.presence}
    assert len({round(probability, 4) for probability in probabilities}) == 4


def test_a_model_without_calibration_gives_no_presence(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(9_000))
    result = extractor.extract(path, Query(("a dog", BARK)))
    assert result.presence is None
    assert result.save(tmp_path).presence is None
    (written,) = extractor.extract_file(path, "a dog", tmp_path)
    assert written.presence is None
    assert written.as_json()["presence"] is None
