"""Scores of every scenario, and the calibration that is fitted to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from singleout.audio import write_wav
from singleout.cli import app
from singleout.condition import Condition
from singleout.data.clips import Clip
from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES, Planner
from singleout.data.render import render
from singleout.encoders import BuiltinEncoder
from singleout.errors import ManifestError
from singleout.evaluate import (
    EvaluationConfig,
    calibration_of,
    evaluate_scenarios,
    scenario_summary,
)
from singleout.model import ModelConfig, QueriedSeparator
from singleout.model.calibration import Calibration, auroc, fit_gate, fit_presence
from singleout.model.similarity import PresenceCalibration
from singleout.separators import Identity, IdentityConfig
from tests.conftest import TINY_SEPARATOR, randomise_statistics

RATE = 32_000
MIXTURES = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.5, "crop_hop_seconds": 0.25})
SHORT = EvaluationConfig(num_mixtures=12, mixtures=MIXTURES)
FEW = SHORT.model_copy(update={"num_mixtures": 3})
POSITIVE_SCENARIOS = {"text", "audio", "text and audio"}
ABSENT_SCENARIOS = {"absent", "near miss"}


def write_manifest(folder: Path) -> Path:
    """Nine tones of three families."""
    lines = []
    for i in range(9):
        tone = 0.3 * np.sin(2 * np.pi * 300 * 1.5**i * np.arange(RATE) / RATE).astype(np.float32)
        write_wav(folder / f"{i}.wav", tone[None], RATE)
        row = {"path": f"{i}.wav", "seconds": 1.0, "caption": f"tone {i}", "group": f"g{i}"}
        lines.append(json.dumps({**row, "class": f"family {i % 3}/{i}", "split": "test"}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Clip]:
    """Of all tests that leave the files as they are."""
    return [*read_manifest(write_manifest(tmp_path_factory.mktemp("tones")), "test")]


@pytest.fixture(scope="module")
def full_model(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """A tiny model that takes negative prompts and gives presence."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = QueriedSeparator(
            ModelConfig(
                separator=TINY_SEPARATOR,
                negative=True,
                presence=PresenceCalibration(scale=9.0, bias=-5.0),
            ),
            debug_encoder,
        )
        randomise_statistics(model)
    return model.eval()


@pytest.fixture(scope="module")
def full_rows(full_model: QueriedSeparator, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    return evaluate_scenarios(full_model, clips, SHORT)


def by_scenario(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["question"], []).append(row)
    return grouped


class Oracle(Identity):
    """Recognises the conditions of captions, and gives the true targets."""

    def __init__(
        self, model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
    ) -> None:
        super().__init__(IdentityConfig(sample_rate=RATE))
        self.captions = torch.cat([model.encoder.embed_text(clip.caption or "") for clip in clips])
        planner = Planner(clips, config.mixtures, config.seed)
        self.specs = iter([planner.plan(0, i) for i in range(config.num_mixtures)])
        self.clips, self.mixtures = clips, config.mixtures

    def _clip(self, embedding: Tensor) -> int | None:
        """The clip of a caption; None for the embedding of a sound."""
        similarity = torch.nn.functional.normalize(embedding, dim=-1) @ self.captions.T
        return int(similarity.argmax()) if float(similarity.max()) > 1 - 1e-5 else None

    def encode(self, mixture: Tensor) -> Tensor:
        self.spec = next(self.specs)
        return mixture

    def estimate(self, encoded: Tensor, condition: Condition) -> Tensor:
        sources = torch.from_numpy(render(self.spec, self.clips, self.mixtures, RATE).sources)
        by_clip: dict[int | None, Tensor] = {
            source.clip: sources[i] for i, source in enumerate(self.spec.sources)
        }
        silence = torch.zeros_like(sources[0])
        positive, negative = condition.embeddings[0, 0].chunk(2)
        has_positive, has_negative = condition.mask[0].tolist()
        if not has_positive:
            assert has_negative
            target = encoded[0, 0] - by_clip.get(self._clip(negative), silence)
        elif (clip := self._clip(positive)) is None:  # a sound, with text or without
            target = sources[0]
        else:
            target = by_clip.get(clip, silence)
        return target[None, None]


def test_an_oracle_has_perfect_scores(debug_encoder: BuiltinEncoder, clips: Sequence[Clip]) -> None:
    """Every scenario has its own conditions and its own target."""
    model = QueriedSeparator(ModelConfig(separator=IdentityConfig(), negative=True), debug_encoder)
    model.separator = Oracle(model, clips, SHORT)
    rows = evaluate_scenarios(model, clips, SHORT)
    grouped = by_scenario(rows)
    present = (*POSITIVE_SCENARIOS, "text, not the other", "not the other")
    counts = {name: len(scenario) for name, scenario in grouped.items()}
    assert counts == dict.fromkeys((*present, *ABSENT_SCENARIOS), 12)
    for name in present:
        assert all(row["improved"] and row["si_sdri_db"] > 40 for row in grouped[name])
        assert all(abs(row["level_db"]) < 0.01 for row in grouped[name])
    for name in ABSENT_SCENARIOS:
        assert all(row["suppression_db"] == 100 for row in grouped[name])
        assert all(row["si_sdri_db"] is row["level_db"] is None for row in grouped[name])
        assert not any(row["improved"] for row in grouped[name])
    result = scenario_summary(rows)
    assert result["num_mixtures"] == 12
    assert result["questions"]["text"]["level_within_3_db"]["estimate"] == 1
    assert result["questions"]["absent"]["suppression_db"]["estimate"] == 100
    assert "si_sdri_db" not in result["questions"]["absent"]
    for difference in ("text_minus_audio_db", "negative_adds_db"):
        assert result[difference]["estimate"] == pytest.approx(0, abs=1e-3)


def test_a_sound_that_shares_a_caption_is_not_absent(
    debug_model: QueriedSeparator, clips: Sequence[Clip]
) -> None:
    """Files without classes may share a caption."""
    dogs = [replace(clip, caption="a dog", label=clip.path.name) for clip in clips]
    assert set(by_scenario(evaluate_scenarios(debug_model, dogs, FEW))) == POSITIVE_SCENARIOS
    cat = replace(dogs[-1], caption="a cat", alternatives=("a dog",))
    rows = evaluate_scenarios(debug_model, [*dogs[:-1], cat], SHORT)
    with_absent = {row["mixture"] for row in rows if row["question"] == "absent"}
    assert with_absent  # the cat is absent from mixtures of dogs
    targets = {row["target"] for row in rows if row["mixture"] in with_absent}
    assert not targets & {"8.wav"}


def test_silent_targets_are_not_scored(full_model: QueriedSeparator, manifest: Path) -> None:
    """A crop may be silent. The other targets are scored, and used for the calibration."""
    clips = read_manifest(manifest, "test")
    silenced = clips[Planner(clips, MIXTURES, SHORT.seed).plan(0, 0).sources[0].clip].path
    write_wav(silenced, np.zeros((1, RATE), np.float32), RATE)
    rows = evaluate_scenarios(full_model, clips, SHORT)
    silent = [row for row in by_scenario(rows)["text"] if row["target"] == silenced.name]
    assert 0 < len(silent) < 12
    assert all(row["si_sdri_db"] is row["level_db"] is None for row in silent)
    result = scenario_summary(rows)
    assert result["num_mixtures"] == 12
    assert result["questions"]["text"]["count"] == 12 - len(silent)
    assert result["questions"]["text"]["si_sdri_db"]["count"] == 12 - len(silent)
    assert result["presence_calibration_error"] <= 1
    assert calibration_of(full_model, clips, FEW).presence is not None


def test_presence_is_not_scored_without_absent_sounds(
    full_model: QueriedSeparator, clips: Sequence[Clip]
) -> None:
    """With two classes, both are in every mixture."""
    rows = evaluate_scenarios(full_model, clips[:2], FEW)
    assert not ABSENT_SCENARIOS & set(by_scenario(rows))
    result = scenario_summary(rows)
    assert result["presence_auroc"] == {}
    assert "presence_calibration_error" not in result
    two_classes = [replace(clip, label=f"tone/{i % 2}") for i, clip in enumerate(clips)]
    assert calibration_of(full_model, two_classes, FEW) == Calibration(None, None)


def test_a_model_without_negative_prompts_and_presence_has_fewer_scenarios(
    debug_model: QueriedSeparator, clips: Sequence[Clip]
) -> None:
    rows = evaluate_scenarios(debug_model, clips, FEW)
    assert set(by_scenario(rows)) == POSITIVE_SCENARIOS | ABSENT_SCENARIOS
    assert {row["presence"] for row in rows} == {None}
    result = scenario_summary(rows)
    assert "presence_calibration_error" not in result
    assert "negative_adds_db" not in result


def test_the_seed_decides_the_rows(debug_model: QueriedSeparator, clips: Sequence[Clip]) -> None:
    rows = evaluate_scenarios(debug_model, clips, FEW)
    assert rows == evaluate_scenarios(debug_model, clips, FEW)
    assert rows != evaluate_scenarios(debug_model, clips, FEW.model_copy(update={"seed": 1}))


def test_a_sound_without_caption_is_named(
    debug_model: QueriedSeparator, clips: Sequence[Clip]
) -> None:
    without = [replace(clip, caption=None) for clip in clips]
    with pytest.raises(ManifestError, match=r"\.wav: has no caption"):
        evaluate_scenarios(debug_model, without, FEW)


def test_only_queries_without_positive_side_have_no_similarity(
    full_model: QueriedSeparator, clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding of zeros is a query like any other: the mask tells which sides there are."""
    dim = full_model.encoder.dim
    monkeypatch.setattr(full_model.encoder, "embed_text", lambda text: torch.zeros(1, dim))
    rows = evaluate_scenarios(full_model, clips, FEW.model_copy(update={"num_mixtures": 1}))
    without = {row["question"] for row in rows if row["likeness"] is None}
    assert without == {"not the other"}


def test_the_calibration_is_fitted_to_text_queries(
    full_model: QueriedSeparator, clips: Sequence[Clip], full_rows: list[dict[str, Any]]
) -> None:
    grouped = by_scenario(full_rows)
    text, absent, near = (
        [row["likeness"] for row in grouped[name]] for name in ("text", "absent", "near miss")
    )
    expected = fit_presence(text, absent + near)
    presence, gate = calibration_of(full_model, clips, SHORT)
    assert presence is not None
    assert gate == fit_gate(presence, text, [row["level_db"] for row in grouped["text"]])
    assert (presence.scale, presence.bias) == pytest.approx(
        (expected.scale, expected.bias), rel=1e-3
    )
    area = scenario_summary(full_rows)["presence_auroc"]["absent"]["estimate"]
    assert area == pytest.approx(auroc(text, absent))


def test_the_command_scores_every_scenario(
    full_model: QueriedSeparator, debug_encoder_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    full_model.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--encoder", str(debug_encoder_folder)]
    output = tmp_path / "out.json"
    arguments = ["evaluate", str(manifest), *options, "--mixtures", "3", "-o", str(output)]
    run = CliRunner().invoke(app, [*arguments, "--questions", "--sources", "3"])
    assert run.exit_code == 0, run.output
    for text in (
        "text, not the other",
        "near miss",
        "presence, area under the curve",
        "calibration",
    ):
        assert text in run.stdout
    result = json.loads(output.read_text())
    assert result["meta"]["command"].endswith("--sources 3 --questions --model MODEL")
    assert result["meta"]["config"]["mixtures"]["num_sources"] == [3, 3]
    rows = [json.loads(line) for line in output.with_suffix(".rows.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 7
    assert all(
        row["presence"] is None
        if row["question"] == "not the other"
        else 0 <= row["presence"] <= 1 and -1 <= row["likeness"] <= 1
        for row in rows
    )
