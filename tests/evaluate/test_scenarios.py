"""Scores of questions of every kind, and the calibration of presence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from singleout.audio import write_wav
from singleout.cli import app
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import SCORED_MIXTURES, Planner
from singleout.data.render import render
from singleout.encoders import BuiltinEncoder
from singleout.errors import ManifestError
from singleout.evaluate.evaluation import EvaluationConfig
from singleout.evaluate.scenarios import calibration_of, evaluate_scenarios, scenario_summary
from singleout.model import ModelConfig, QueriedSeparator
from singleout.model.calibration import auroc, calibration_error, fit_gate, fit_presence
from singleout.model.similarity import PresenceCalibration
from singleout.separators import Identity, IdentityConfig
from tests.conftest import TINY_SEPARATOR, randomise_statistics

RATE = 32_000
MIXTURES = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.5, "crop_hop_seconds": 0.25})
SHORT = EvaluationConfig(num_mixtures=12, mixtures=MIXTURES)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Nine tones of three families."""
    lines = []
    for i in range(9):
        tone = 0.3 * np.sin(2 * np.pi * 300 * 1.5**i * np.arange(RATE) / RATE).astype(np.float32)
        write_wav(tmp_path / f"{i}.wav", tone[None], RATE)
        row = {"path": f"{i}.wav", "seconds": 1.0, "caption": f"tone {i}", "group": f"g{i}"}
        lines.append(json.dumps({**row, "class": f"family {i % 3}/{i}", "split": "test"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def clips(manifest: Path) -> list[Clip]:
    return read_manifest(manifest, "test")


def asked_model(encoder: BuiltinEncoder) -> QueriedSeparator:
    """Tiny, and with an answer to everything."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = QueriedSeparator(
            ModelConfig(
                separator=TINY_SEPARATOR,
                negative=True,
                presence=PresenceCalibration(scale=9.0, bias=-5.0),
            ),
            encoder,
        )
        randomise_statistics(model)
    return model.eval()


@pytest.fixture
def answering_model(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    return asked_model(debug_encoder)


class AllKnowing(Identity):
    """Knows what the conditions of captions and sounds mean, and answers accordingly."""

    def __init__(
        self, model: QueriedSeparator, clips: list[Clip], config: EvaluationConfig
    ) -> None:
        super().__init__(IdentityConfig(sample_rate=RATE))
        self.dim = model.manipulator.dim
        self.captions = torch.cat([model.encoder.embed_text(clip.caption or "") for clip in clips])
        planner = Planner(clips, config.mixtures, config.seed)
        self.specs = iter([planner.plan(0, i) for i in range(config.num_mixtures)])
        self.clips, self.mixtures = clips, config.mixtures

    def _meant(self, condition: Tensor) -> int | None:
        if not bool(condition.any()):
            return None
        similarity = torch.nn.functional.normalize(condition, dim=-1) @ self.captions.T
        return int(similarity.argmax()) if float(similarity.max()) > 1 - 1e-5 else -1

    def encode(self, mixture: Tensor) -> Tensor:
        self.spec = next(self.specs)
        return mixture

    def decode(self, encoded: Tensor, embedding: Tensor) -> Tensor:
        spec = self.spec
        sources = torch.from_numpy(render(spec, self.clips, self.mixtures, RATE).sources)
        there = {source.clip: sources[i] for i, source in enumerate(spec.sources)}
        targets = []
        for condition in embedding:
            wanted, unwanted = (self._meant(side) for side in condition.split(self.dim))
            nothing = torch.zeros_like(sources[0])
            if wanted is None:
                assert unwanted is not None
                targets.append(encoded[0, 0] - there.get(unwanted, nothing))
            elif wanted < 0:  # a sound, or a sound and words: those of the target
                targets.append(sources[0])
            else:
                targets.append(there.get(wanted, nothing))
        return torch.stack(targets)[:, None]


def test_who_knows_everything_scores_everything(
    debug_encoder: BuiltinEncoder, clips: list[Clip]
) -> None:
    """And each question is asked with its own conditions, of its own target."""
    model = QueriedSeparator(ModelConfig(separator=IdentityConfig(), negative=True), debug_encoder)
    model.separator = AllKnowing(model, clips, SHORT)
    rows = evaluate_scenarios(model, clips, SHORT)
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(row)
    assert {kind: len(own) for kind, own in by_question.items()} == {
        "text": 12,
        "audio": 12,
        "text and audio": 12,
        "absent": 12,
        "near miss": 12,
        "text, not the other": 12,
        "not the other": 12,
    }
    for kind in ("text", "audio", "text and audio", "text, not the other", "not the other"):
        assert all(row["improved"] and row["si_sdri_db"] > 40 for row in by_question[kind])
        assert all(abs(row["level_db"]) < 0.01 for row in by_question[kind])
    for kind in ("absent", "near miss"):
        assert all(row["suppression_db"] == 100 for row in by_question[kind])
        assert all(row["si_sdri_db"] is row["level_db"] is None for row in by_question[kind])
        assert not any(row["improved"] for row in by_question[kind])
    found = scenario_summary(rows)
    assert found["num_mixtures"] == 12
    assert found["questions"]["text"]["level_within_3_db"]["estimate"] == 1
    assert found["questions"]["absent"]["suppression_db"]["estimate"] == 100
    assert "si_sdri_db" not in found["questions"]["absent"]
    for difference in ("text_minus_audio_db", "negative_adds_db"):
        assert found[difference]["estimate"] == pytest.approx(0, abs=1e-3)


def test_what_is_said_of_a_sound_that_is_there_is_not_absent(
    debug_model: QueriedSeparator, clips: list[Clip]
) -> None:
    """Of files without classes many may have the same caption."""
    alike = [replace(clip, caption="a dog", label=clip.path.name) for clip in clips]
    assert {row["question"] for row in evaluate_scenarios(debug_model, alike, SHORT)} == {
        "text",
        "audio",
        "text and audio",
    }
    others = [*alike[:-1], replace(alike[-1], caption="a cat", alternatives=("a dog",))]
    rows = evaluate_scenarios(debug_model, others, SHORT)
    with_cat = {row["mixture"] for row in rows if row["question"] == "absent"}
    assert with_cat  # where there are dogs, the cat is asked for in vain
    assert not {row["target"] for row in rows if row["mixture"] in with_cat} & {"8.wav"}


def test_silent_targets_count_nowhere(answering_model: QueriedSeparator, manifest: Path) -> None:
    """A crop may be silent; the others are scored all the same, and calibrated on."""
    clips = read_manifest(manifest, "test")
    mute = clips[Planner(clips, MIXTURES, SHORT.seed).plan(0, 0).sources[0].clip].path
    write_wav(mute, np.zeros((1, RATE), np.float32), RATE)
    rows = evaluate_scenarios(answering_model, clips, SHORT)
    silent = [row for row in rows if row["question"] == "text" and row["target"] == mute.name]
    assert 0 < len(silent) < 12
    assert all(row["si_sdri_db"] is row["level_db"] is None for row in silent)
    found = scenario_summary(rows)
    assert found["num_mixtures"] == 12
    assert found["questions"]["text"]["count"] == 12 - len(silent)
    assert found["questions"]["text"]["si_sdri_db"]["count"] == 12 - len(silent)
    assert found["presence_calibration_error"] <= 1
    assert calibration_of(answering_model, clips, SHORT).presence is not None


def test_where_nothing_can_be_absent_presence_is_not_measured(
    answering_model: QueriedSeparator, clips: list[Clip]
) -> None:
    rows = evaluate_scenarios(answering_model, clips[:2], SHORT)
    assert not {"absent", "near miss"} & {row["question"] for row in rows}
    found = scenario_summary(rows)
    assert found["presence_auroc"] == {}
    assert "presence_calibration_error" not in found


def test_a_model_that_answers_less_is_asked_less(
    debug_model: QueriedSeparator, clips: list[Clip]
) -> None:
    rows = evaluate_scenarios(debug_model, clips, SHORT)
    assert {row["question"] for row in rows} == {
        "text",
        "audio",
        "text and audio",
        "absent",
        "near miss",
    }
    assert {row["presence"] for row in rows} == {None}
    found = scenario_summary(rows)
    assert "presence_calibration_error" not in found
    assert "negative_adds_db" not in found
    assert rows == evaluate_scenarios(debug_model, clips, SHORT)
    other = SHORT.model_copy(update={"seed": 1})
    assert rows != evaluate_scenarios(debug_model, clips, other)


def test_a_sound_without_caption_is_named(debug_model: QueriedSeparator, manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "caption": None}) + "\n" for row in rows))
    with pytest.raises(ManifestError, match=r"\.wav: has no caption"):
        evaluate_scenarios(debug_model, read_manifest(manifest, "test"), SHORT)


def test_the_command(debug_encoder: BuiltinEncoder, manifest: Path, tmp_path: Path) -> None:
    asked_model(debug_encoder).save_pretrained(tmp_path / "model")
    debug_encoder.save_pretrained(tmp_path / "encoder")
    options = ["--model", str(tmp_path / "model"), "--encoder", str(tmp_path / "encoder")]
    output = tmp_path / "out.json"
    arguments = ["evaluate", str(manifest), *options, "--mixtures", "5", "-o", str(output)]
    run = CliRunner().invoke(app, [*arguments, "--questions", "--sources", "3"])
    assert run.exit_code == 0, run.output
    for name in (
        "text, not the other",
        "near miss",
        "presence, area under the curve",
        "calibration",
    ):
        assert name in run.stdout
    result = json.loads(output.read_text())
    assert result["meta"]["command"].endswith("--sources 3 --questions --model MODEL")
    assert result["meta"]["config"]["mixtures"]["num_sources"] == [3, 3]
    rows = [json.loads(line) for line in output.with_suffix(".rows.jsonl").read_text().splitlines()]
    assert len(rows) == 5 * 7
    assert all(
        row["presence"] is None
        if row["question"] == "not the other"
        else 0 <= row["presence"] <= 1 and -1 <= row["likeness"] <= 1
        for row in rows
    )


# Presence


@settings(deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
)
def test_the_area_is_the_share_of_pairs(positive: list[int], negative: list[int]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auroc(negative, positive) == pytest.approx(1 - np.mean(pairs))


def test_calibration_finds_the_scale_and_bias_that_drew() -> None:
    """However many of each kind there are."""
    rng = np.random.default_rng(0)
    present, absent = rng.normal(2, 1.5, 4_000), rng.normal(-1, 1.5, 9_000)
    # Two Gaussians of one width: the log-odds are (2 - -1) / 1.5² x - (2² - 1²) / (2 · 1.5²).
    fitted = fit_presence(present.tolist(), absent.tolist())
    assert fitted.scale == pytest.approx(3 / 2.25, rel=0.06)
    assert fitted.bias == pytest.approx(-3 / 4.5, abs=0.06)
    probabilities = [fitted.probability(side).tolist() for side in (present, absent)]
    assert calibration_error(*probabilities) < 0.02
    shifted = fit_presence((10 * present + 3).tolist(), (10 * absent + 3).tolist())
    assert shifted.scale == pytest.approx(fitted.scale / 10, rel=1e-3)
    certain = [[1.0] * len(side) for side in (present, absent)]
    assert calibration_error(*certain) == pytest.approx(0.5)


def test_presence_is_calibrated_on_what_is_said_of_validation_sounds(
    debug_encoder: BuiltinEncoder, clips: list[Clip]
) -> None:
    """As the rows of all questions would have it."""
    model = asked_model(debug_encoder)
    rows = evaluate_scenarios(model, clips, SHORT)
    by_question = {
        kind: [row["likeness"] for row in rows if row["question"] == kind]
        for kind in ("text", "absent", "near miss")
    }
    expected = fit_presence(by_question["text"], by_question["absent"] + by_question["near miss"])
    found, gate = calibration_of(model, clips, SHORT)
    assert found is not None
    levels = [row["level_db"] for row in rows if row["question"] == "text"]
    assert gate == fit_gate(found, by_question["text"], levels)
    assert (found.scale, found.bias) == pytest.approx((expected.scale, expected.bias), rel=1e-3)
    auc = scenario_summary(rows)["presence_auroc"]["absent"]["estimate"]
    assert auc == pytest.approx(auroc(by_question["text"], by_question["absent"]))
    # Of two classes, both are there.
    alone = [replace(clip, label=f"tone/{i % 2}") for i, clip in enumerate(clips)]
    assert calibration_of(asked_model(debug_encoder), alone, SHORT) == (None, None)


@pytest.mark.parametrize(
    ("present", "absent"), [([1.0, 2.0], [-1.0, -2.0]), ([1.0], [1.0]), ([0.0, 0.0], [5.0])]
)
def test_calibration_stays_finite(present: list[float], absent: list[float]) -> None:
    """Told apart without an error, not at all, or the wrong way round."""
    fitted = fit_presence(present, absent)
    assert np.isfinite([fitted.scale, fitted.bias]).all()
    sides = [float(fitted.probability(np.mean(side))) for side in (present, absent)]
    assert sides[0] >= sides[1]
    assert np.mean(sides) == pytest.approx(0.5, abs=0.05)
