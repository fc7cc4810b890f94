"""The level gate: targets that are not similar to their query become quieter."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch.nn import functional as F
from typer.testing import CliRunner

from singleout import Example, Extractor, Query
from singleout.audio import read_audio, write_wav
from singleout.cli import app
from singleout.data.clips import Clip
from singleout.data.manifest import scan_folder
from singleout.data.plan import SCORED_MIXTURES
from singleout.evaluate.evaluation import EvaluationConfig, evaluate
from singleout.evaluate.scenarios import calibration_of, evaluate_scenarios
from singleout.model import QueriedSeparator, read_config
from singleout.model.calibration import fit_gate
from singleout.model.level_gate import Gate, LevelGate
from singleout.model.similarity import PresenceCalibration
from tests.recordings import RATE, noise, with_final_stages, without_infrasound

WINDOW, HOP, REACH = RATE, RATE // 2, 16
GATE = Gate(low=-0.1, high=0.3, floor_db=-20.0, gain_db=3.0)


@pytest.fixture(scope="module")
def gated_model_folder(
    calibrated_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the calibrated model with ``GATE``."""
    model = QueriedSeparator.from_pretrained(calibrated_model_folder)
    model.config = model.config.model_copy(update={"gate": GATE})
    folder = tmp_path_factory.mktemp("gated")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gated_model(gated_model_folder: Path) -> QueriedSeparator:
    """The calibrated model with ``GATE``."""
    return QueriedSeparator.from_pretrained(gated_model_folder)


def with_gate(model: QueriedSeparator, gate: Gate | None) -> QueriedSeparator:
    """The same model with another gate."""
    model = copy.copy(model)
    model.config = model.config.model_copy(update={"gate": gate})
    return model


@pytest.mark.parametrize(
    ("similarity", "decibels"),
    [(-1, -20), (-0.1, -20), (0.1, -8.5), (0.3, 3), (0.65, 1.5), (1, 0), (1.1, 0)],
)
def test_the_gain_is_linear_between_its_points(similarity: float, decibels: float) -> None:
    assert float(GATE.decibels(similarity)) == pytest.approx(decibels)


@pytest.mark.parametrize("changes", [{"low": 0.3}, {"high": 1.0}, {"floor_db": 4.0}])
def test_impossible_gates_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="low is below high"):
        Gate(**{**GATE.model_dump(), **changes})


def test_a_gate_is_saved_with_the_model(
    gated_model_folder: Path, calibrated_model_folder: Path
) -> None:
    assert read_config(gated_model_folder).gate == GATE
    assert read_config(calibrated_model_folder).gate is None
    assert "gate" not in (calibrated_model_folder / "config.json").read_text()


def reference_amplitude(
    model: QueriedSeparator,
    target: NDArray[np.float32],
    mixture: NDArray[np.float32],
    query: Query,
) -> NDArray[np.float64]:
    """Amplitude [samples] of a target [channels, samples], computed by the definition."""
    condition = model.embed(query)
    parts = F.normalize(condition.embeddings[0, :, : model.manipulator.dim], dim=-1)
    power, mixture_power, similarity = [], [], []
    for start in range(0, max(1, target.shape[1] - HOP), HOP):
        window = torch.from_numpy(target[:, start : start + WINDOW])
        embedding = model.manipulator.for_inference(model.encoder.embed_audio(window, RATE), False)
        cosines = (condition.weights[0] @ (parts @ F.normalize(embedding, dim=-1).T)).double()
        powers = window.double().square().mean(1)
        power.append(float(powers.sum()))
        similarity.append(float((cosines * powers).sum() / powers.sum()))
        mixture_window = mixture[:, start : start + WINDOW]
        mixture_power.append(float(np.square(mixture_window, dtype=np.float64).mean(1).sum()))
    decibels = []
    for frame in range(len(power)):
        triangle = [max(0.0, 1 - abs(frame - other) / (REACH + 1)) for other in range(len(power))]
        weights = np.array(triangle) * power
        gain_db = float(GATE.decibels((weights * similarity).sum() / weights.sum()))
        level_db = 10 * np.log10(weights.sum() / np.dot(triangle, mixture_power))
        gain_db = max(gain_db, min(0.0, -35 - level_db))
        decibels.append(min(gain_db, max(0.0, -level_db)))
    middles = HOP * (1 + np.arange(len(power)))
    amplitude: NDArray[np.float64] = 10 ** (
        np.interp(np.arange(target.shape[1]), middles, decibels) / 20
    )
    return amplitude


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_samples=st.integers(1, 15 * RATE),
    splits=st.lists(st.integers(0, 15 * RATE), max_size=5),
    channels=st.integers(1, 2),
    loudness=st.sampled_from([1.0, 0.03, 0.005]),
)
def test_the_level_follows_the_similarity_of_neighbouring_windows(
    gated_model: QueriedSeparator,
    num_samples: int,
    splits: list[int],
    channels: int,
    loudness: float,
) -> None:
    queries = [Query("a dog"), Query(Example(noise(9_000, seed=1)[0], RATE), "rain")]
    targets = np.stack([noise(num_samples, channels, seed) for seed in (5, 6)])
    targets *= np.linspace(0.2, 2, num_samples, dtype=np.float32)
    targets[1] *= loudness
    mixture = noise(num_samples, channels, 7)
    level_gate = gated_model.level_gate([gated_model.embed(query) for query in queries])
    places = sorted(min(split, num_samples) for split in splits)
    blocks = (np.split(targets, places, axis=2), np.split(mixture, places, axis=1))
    levelled = [level_gate.push(*pair) for pair in zip(*blocks, strict=True)]
    result = np.concatenate([*levelled, level_gate.finish()], axis=2)
    assert result.dtype == np.float32
    for number, query in enumerate(queries):
        amplitude = reference_amplitude(gated_model, targets[number], mixture, query)
        expected = targets[number] * amplitude
        np.testing.assert_allclose(result[number], expected, rtol=1e-3, atol=1e-6)


def test_buffered_samples_do_not_grow(gated_model: QueriedSeparator) -> None:
    level_gate = gated_model.level_gate([gated_model.embed(Query("a dog"))])
    pushed = returned = 0
    for seed in range(40):
        block = noise(RATE, seed=seed)[None]
        pushed += RATE
        returned += level_gate.push(block, block[0]).shape[2]
        assert pushed - returned <= (REACH + 2) * HOP
    assert level_gate.finish().shape[2] == pushed - returned


def test_a_gate_without_samples_gives_none(gated_model: QueriedSeparator) -> None:
    level_gate = gated_model.level_gate([gated_model.embed(Query("a dog"))] * 2)
    assert level_gate.finish().shape == (2, 1, 0)
    targets = np.stack([noise(RATE, 2)] * 2)
    open_gate = gated_model.level_gate([gated_model.embed(Query("a dog"))] * 2, is_enabled=False)
    assert np.array_equal(open_gate.whole(targets, targets[0]), targets)


def test_silence_stays_silent(gated_model: QueriedSeparator) -> None:
    result = Extractor(gated_model).extract(np.zeros((2, 3 * RATE), np.float32), "a dog", RATE)
    assert not result.target.any()


QUERIES = [
    Query("a dog"),
    Query(Example(noise(9_000, seed=1)[0], RATE)),
    Query("rain", "a dog"),
    Query((), ("a dog",)),
]


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_extraction_sets_the_level_of_targets(
    gated_model: QueriedSeparator, calibrated_model: QueriedSeparator, rate: int
) -> None:
    """This holds for all kinds of queries. Target and residual add up to the mixture."""
    mixture = noise(5 * rate, 2)
    plain = list(Extractor(calibrated_model).extract_many([mixture], QUERIES, rate))
    gated_results = list(Extractor(gated_model).extract_many([mixture], QUERIES, rate))
    for number, (gated, ungated) in enumerate(zip(gated_results, plain, strict=True)):
        assert gated.presence == ungated.presence
        assert gated.target.shape == mixture.shape
        assert np.abs(gated.target + gated.residual - mixture).max() <= 1e-6
        if number == 3:  # a removal is not gated
            np.testing.assert_array_equal(gated.target, ungated.target)
        elif rate == RATE:
            amplitude = reference_amplitude(
                calibrated_model, ungated.target, mixture, QUERIES[number]
            )
            np.testing.assert_allclose(gated.target, ungated.target * amplitude, atol=1e-5)
        else:
            assert np.abs(gated.target - ungated.target).max() > 1e-4


def test_the_gate_can_be_left_out(
    gated_model_folder: Path, gated_model: QueriedSeparator, calibrated_model: QueriedSeparator
) -> None:
    mixture = noise(2 * RATE)
    expected = Extractor(calibrated_model).extract(mixture, "a dog", RATE)
    for extractor in (
        Extractor(gated_model, gate=False),
        Extractor.from_pretrained(gated_model_folder, gate=False),
    ):
        result = extractor.extract(mixture, "a dog", RATE)
        np.testing.assert_array_equal(result.target, expected.target)
        assert result.presence == expected.presence
        ((_, targets),) = extractor.extract_blocks(mixture, "a dog", RATE)
        np.testing.assert_array_equal(targets[0], expected.target)


@pytest.mark.parametrize("chunk_seconds", [0.3, 1.7])
def test_the_level_does_not_depend_on_the_chunks(
    gated_model: QueriedSeparator, chunk_seconds: float
) -> None:
    mixture = noise(12 * RATE + 777)
    whole = Extractor(gated_model, chunk_seconds=100.0).extract(mixture, "a dog", RATE)
    chunked = Extractor(gated_model, chunk_seconds=chunk_seconds)
    result = chunked.extract(mixture, "a dog", RATE)
    np.testing.assert_allclose(result.target, whole.target, atol=1e-5)
    blocks = list(chunked.extract_blocks(mixture, "a dog", RATE))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate([m for m, _ in blocks], axis=1), mixture)
    targets = np.concatenate([t[0] for _, t in blocks], axis=1)
    np.testing.assert_allclose(targets, result.target, atol=1e-6)


def test_evaluation_scores_targets_at_their_final_level(gated_model: QueriedSeparator) -> None:
    mixture = noise(3 * RATE)
    conditions = [gated_model.embed(query) for query in QUERIES]
    audible = torch.from_numpy(without_infrasound(mixture, RATE))
    with torch.inference_mode():
        targets = gated_model.extract_clip(audible[None], conditions).numpy()
    results = Extractor(gated_model).extract_many([mixture], QUERIES, RATE)
    for target, result in zip(with_final_stages(targets, RATE), results, strict=True):
        np.testing.assert_allclose(target, result.target, atol=1e-5)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["extract", *map(str, arguments)])


def test_the_command_leaves_the_gate_out(gated_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    write_wav(path, noise(2 * RATE), RATE)
    levels = []
    for option in ("--gate", "--no-gate"):
        out = tmp_path / option
        assert run(path, "a dog", option, "-o", out, "--model", gated_model_folder).exit_code == 0
        target, _ = read_audio(out / "x.a-dog.target.wav")
        expected = Extractor.from_pretrained(gated_model_folder, gate=option == "--gate")
        np.testing.assert_allclose(target, expected.extract(path, "a dog").target, atol=1e-6)
        levels.append(float(np.square(target).mean()))
    assert levels[0] != pytest.approx(levels[1], rel=0.01)


def test_a_target_that_is_silent_next_to_its_mixture_keeps_its_level(
    gated_model: QueriedSeparator,
) -> None:
    closed = Gate(low=0.9, high=0.95, floor_db=-20, gain_db=0)
    model = with_gate(gated_model, closed)
    level_gate = model.level_gate([model.embed(Query("a dog"))] * 3)
    mixture, target = noise(3 * RATE), noise(3 * RATE, seed=1)
    targets = np.stack([target * 10 ** (level / 20) for level in (-10, -25, -38)])
    levelled = np.concatenate([level_gate.push(targets, mixture), level_gate.finish()], axis=2)
    mixture_power = np.square(mixture).mean()
    below_db = [10 * np.log10(mixture_power / np.square(target).mean()) for target in levelled]
    assert below_db == pytest.approx([30, 35, 38], abs=0.2)


def test_nothing_is_made_louder_than_its_mixture(calibrated_model: QueriedSeparator) -> None:
    """A mixture of nothing but the target cannot become louder."""
    loud = Gate(low=-0.99, high=-0.98, floor_db=-20, gain_db=6)
    conditions = [calibrated_model.embed(Query("a dog"))]
    mixture = noise(3 * RATE)
    for level_db, louder_db in ((0.0, 0.0), (-1.0, 1.0), (-20.0, 1.5)):
        level_gate = LevelGate(loud, calibrated_model.similarity_meter(conditions), [True])
        target = mixture * np.float32(10 ** (level_db / 20))
        blocks = [level_gate.push(target[None], mixture), level_gate.finish()]
        levelled = np.concatenate(blocks, axis=2)
        gain_db = 20 * np.log10(np.abs(levelled[0]).max() / np.abs(target).max())
        if level_db > -10:
            assert gain_db == pytest.approx(louder_db, abs=1e-3)
        else:
            assert gain_db >= louder_db


def test_linked_channels_share_one_level_and_others_do_not(
    gated_model: QueriedSeparator, calibrated_model: QueriedSeparator
) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE).astype(np.float32)
    mixture = np.stack([noise(4 * RATE)[0], tone])
    query = Query(Example(tone[:RATE], RATE))
    gated, plain = Extractor(gated_model), Extractor(calibrated_model)
    apart = gated.extract(mixture, query, RATE, link_channels=False).target
    for channel in range(2):
        single = gated.extract(mixture[channel : channel + 1], query, RATE).target
        np.testing.assert_allclose(apart[channel], single[0], atol=1e-5)
    together = gated.extract(mixture, query, RATE).target
    ungated = plain.extract(mixture, query, RATE).target
    ratio = [np.dot(a, b) / np.dot(b, b) for a, b in zip(together, ungated, strict=True)]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.02)


def test_a_gate_is_dropped_with_another_encoder(gated_model_folder: Path) -> None:
    encoder = QueriedSeparator.from_pretrained(gated_model_folder).encoder
    encoder.fingerprint = "another"
    config = QueriedSeparator.from_pretrained(gated_model_folder, encoder).config
    assert config.gate is None
    assert config.presence is None
    assert config.encoder.fingerprint == "another"


MIXTURES = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.5, "crop_hop_seconds": 0.25})
FEW = EvaluationConfig(num_mixtures=6, mixtures=MIXTURES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Nine tones, one of them with silence in front."""
    folder = tmp_path_factory.mktemp("tones")
    for i in range(9):
        tone = 0.3 * np.sin(2 * np.pi * 300 * 1.4**i * np.arange(RATE) / RATE).astype(np.float32)
        write_wav(folder / f"{i}.wav", tone[None], RATE)
    return [
        replace(clip, caption=f"tone {i}", label=f"a {i % 3}/{i}")
        for i, clip in enumerate(scan_folder(folder))
    ]


CLOSED = Gate(low=0.998, high=0.999, floor_db=-6.0, gain_db=-6.0)


def test_evaluation_scores_gated_targets(
    calibrated_model: QueriedSeparator, clips: list[Clip]
) -> None:
    """A closed gate lowers every target by 6 dB. SDR depends on that, SI-SDR does not."""
    closed = with_gate(calibrated_model, CLOSED)
    for closed_row, plain_row in zip(
        evaluate(closed, clips, FEW, {}), evaluate(calibrated_model, clips, FEW, {}), strict=True
    ):
        assert closed_row["si_sdr_db"] == pytest.approx(plain_row["si_sdr_db"], abs=1e-2)
        assert closed_row["sdr_db"] != pytest.approx(plain_row["sdr_db"], abs=1e-3)
    rows = zip(
        evaluate_scenarios(closed, clips, FEW),
        evaluate_scenarios(calibrated_model, clips, FEW),
        strict=True,
    )
    for closed_row, plain in rows:
        lowered_db = closed_row["suppression_db"] - plain["suppression_db"]
        expected = 0 if plain["question"] == "not the other" else 6
        assert lowered_db == pytest.approx(expected, abs=1e-2)
        assert closed_row["likeness"] == plain["likeness"]


def test_calibration_ignores_an_existing_gate(
    calibrated_model: QueriedSeparator, clips: list[Clip]
) -> None:
    fitted = calibration_of(calibrated_model, clips, FEW)
    assert fitted.presence is not None
    assert calibration_of(with_gate(calibrated_model, CLOSED), clips, FEW) == fitted


def test_a_silent_crop_has_no_level_and_is_ignored(
    calibrated_model: QueriedSeparator, clips: list[Clip], tmp_path: Path
) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros((1, RATE), np.float32), RATE)
    silent = [replace(clips[0], path=tmp_path / "silent.wav"), *clips[1:]]
    fitted = calibration_of(
        calibrated_model, silent, EvaluationConfig(num_mixtures=20, mixtures=MIXTURES)
    )
    assert fitted.presence is not None
    presence = PresenceCalibration(scale=4.0, bias=-1.0)
    gates = [fit_gate(presence, [0.5, 0.6], [-1.0, -1.0])]
    gates.append(fit_gate(presence, [0.5, 0.6, 0.7], [-1.0, -1.0, float("nan")]))
    assert gates[0] == gates[1] is not None
