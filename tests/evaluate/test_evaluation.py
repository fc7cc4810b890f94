"""The evaluation run and its command on small manifests of synthetic sounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from singleout.audio import write_wav
from singleout.cli import app
from singleout.data.manifest import read_manifest
from singleout.data.plan import MixtureConfig
from singleout.encoders import BuiltinEncoder
from singleout.errors import ManifestError
from singleout.evaluate import EvaluationConfig, evaluate, summary
from singleout.evaluate.evaluation import tasks
from singleout.manipulations import Chain, Dropout, Manipulator, MeanShift
from singleout.model import ModelConfig, QueriedSeparator
from singleout.separators import Identity, IdentityConfig

RATE = 32_000
SHORT = EvaluationConfig(
    num_mixtures=12,
    mixtures=MixtureConfig(
        segment_seconds=0.5,
        crop_hop_seconds=0.25,
        num_sources=(2, 2),
        snr_db=(-5, 5),
        gain_db=(0, 0),
        speed=(1, 1),
        source_band_share=0,
        mixture_band_share=0,
    ),
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i in range(5):
        time = np.arange(RATE) / RATE
        tone = 0.3 * np.sin(2 * np.pi * 300 * 1.7**i * time).astype(np.float32)
        write_wav(tmp_path / f"{i}.wav", tone[None], RATE)
        row = {"path": f"{i}.wav", "seconds": 1.0, "caption": f"tone {i}", "class": f"tone/{i}"}
        lines.append(json.dumps({**row, "group": f"g{i}", "split": "test"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_identity_improves_nothing_and_the_oracle_everything(
    manifest: Path, identity_model: QueriedSeparator
) -> None:
    rows = evaluate(identity_model, read_manifest(manifest, "test"), SHORT)
    result = summary(rows)
    systems = result["systems"]
    assert set(systems) == {"text", "audio", "zeros", "mixture", "half_mixture", "oracle_mask"}
    for kind in ("text", "audio", "mixture"):
        assert systems[kind]["si_sdri_db"]["mean"]["estimate"] == pytest.approx(0, abs=1e-6)
        assert systems[kind]["si_sdri_db"]["share_improved"]["estimate"] == 0
    assert systems["oracle_mask"]["si_sdri_db"]["share_improved"]["estimate"] == 1
    assert systems["oracle_mask"]["si_sdri_db"]["mean"]["low"] > 10
    assert systems["zeros"]["silent_share"] == 1
    assert systems["half_mixture"]["sdri_db"]["mean"]["estimate"] > 1
    assert result["query_gap_db"]["estimate"] == pytest.approx(0, abs=1e-9)


def test_the_caller_chooses_the_references(manifest: Path, debug_model: QueriedSeparator) -> None:
    clips = read_manifest(manifest, "test")
    few = SHORT.model_copy(update={"num_mixtures": 3})
    full = evaluate(debug_model, clips, few)
    assert len(full) == 3 * 6
    query_rows = [row for row in full if row["system"] in ("text", "audio")]
    assert evaluate(debug_model, clips, few, references={}) == query_rows
    assert set(summary(query_rows)["systems"]) == {"text", "audio"}
    rows = evaluate(debug_model, clips, few, references={"target": lambda mixture, target: target})
    assert [row for row in rows if row["system"] != "target"] == query_rows
    assert all(row["improved"] for row in rows if row["system"] == "target")


def test_a_silent_target_has_no_score(manifest: Path, identity_model: QueriedSeparator) -> None:
    """A crop may be silent. The other targets are scored."""
    write_wav(manifest.with_name("0.wav"), np.zeros((1, RATE), np.float32), RATE)
    rows = evaluate(identity_model, read_manifest(manifest, "test"), SHORT)
    text = [row for row in rows if row["system"] == "text"]
    silent = [row for row in text if row["target"] == "0.wav"]
    assert 0 < len(silent) < len(text)
    assert {row["si_sdri_db"] for row in silent} == {None}
    result = summary(rows)
    scored = result["systems"]["text"]["si_sdri_db"]
    assert scored["count"] == len(text) - len(silent)
    assert scored["mean"]["estimate"] == pytest.approx(0, abs=1e-6)
    assert result["num_mixtures"] == len(text)


def test_intervals_are_over_recordings_of_any_file_name(
    manifest: Path, debug_model: QueriedSeparator
) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for i, row in enumerate(rows):
        (manifest.parent / str(i)).mkdir()
        (manifest.parent / row["path"]).rename(manifest.parent / str(i) / "audio.wav")
    renamed = [{**row, "path": f"{i}/audio.wav"} for i, row in enumerate(rows)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    clips = read_manifest(manifest, "test")
    result = summary(evaluate(debug_model, clips, SHORT, references={}))
    mean = result["systems"]["text"]["si_sdri_db"]["mean"]
    assert mean["low"] < mean["estimate"] < mean["high"]


def test_each_query_is_conditioned_by_its_modality(
    manifest: Path, debug_encoder: BuiltinEncoder
) -> None:
    conditions: list[Tensor] = []

    class Recorder(Identity):
        def decode(self, encoded: Tensor, embedding: Tensor) -> Tensor:
            conditions.append(embedding)
            return super().decode(encoded, embedding)

    chain = Chain(steps=(MeanShift(renormalise=False), Dropout()))
    model = QueriedSeparator(
        ModelConfig(separator=IdentityConfig(), manipulation=chain), debug_encoder
    )
    model.separator = Recorder(IdentityConfig())
    audio_mean, text_mean = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    state = {"0.audio_mean": audio_mean, "0.text_mean": text_mean}
    model.manipulator = Manipulator(chain, 32, state)
    clips = read_manifest(manifest, "test")
    few = SHORT.model_copy(update={"num_mixtures": 2})
    evaluate(model, clips, few, references={})
    assert len(conditions) == 4
    pairs = zip(conditions[::2], conditions[1::2], strict=True)
    for pair, task in zip(pairs, tasks(clips, few, RATE), strict=True):
        text = debug_encoder.embed_text(task.caption)[0]
        audio = debug_encoder.embed_audio(task.rendered.sources[0], RATE)[0]
        expected = torch.stack([text - text_mean, audio - audio_mean])
        torch.testing.assert_close(torch.cat(pair), expected)


def test_the_same_seed_gives_the_same_rows(manifest: Path, debug_model: QueriedSeparator) -> None:
    clips = read_manifest(manifest, "test")
    few = SHORT.model_copy(update={"num_mixtures": 5})
    first, again = (evaluate(debug_model, clips, few) for _ in range(2))
    other = evaluate(debug_model, clips, few.model_copy(update={"seed": 1}))
    assert first == again
    assert [row["query"] for row in first] != [row["query"] for row in other]


def test_targets_without_caption_are_named(manifest: Path, debug_model: QueriedSeparator) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "caption": None}) + "\n" for row in rows))
    with pytest.raises(ManifestError, match=r"\.wav: has no caption"):
        evaluate(debug_model, read_manifest(manifest, "test"), SHORT)


def test_command_writes_summary_and_rows(manifest: Path, debug_model_folder: Path) -> None:
    output = manifest.parent / "results" / "out.json"
    arguments = ["evaluate", str(manifest), "--model", str(debug_model_folder)]
    run = CliRunner().invoke(app, [*arguments, "--mixtures", "3", "-o", str(output), "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == json.loads(output.read_text())
    rows = output.with_suffix(".rows.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 6
    table = CliRunner().invoke(app, [*arguments, "--mixtures", "3"])
    assert "oracle_mask" in table.stdout
    assert "query gap" in table.stdout


def test_bad_sounds_are_named_or_skipped(
    manifest: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(manifest.parent / "cache"))
    folder = manifest.parent
    cut = (folder / "3.wav").read_bytes()
    (folder / "3.wav").write_bytes(cut[: len(cut) // 2])
    write_wav(folder / "4.wav", np.zeros((1, RATE), np.float32), RATE)
    (folder / "2.wav").unlink()
    arguments = ["evaluate", str(manifest), "--model", str(debug_model_folder), "--mixtures", "3"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1
    (error,) = run.stderr.splitlines()
    assert error.startswith("error: 3 sounds cannot be used: ")
    assert all(f"{folder / name}: " in error for name in ("2.wav", "3.wav", "4.wav"))
    run = CliRunner().invoke(app, [*arguments, "--skip-bad", "--json"])
    assert run.exit_code == 0, run.output
    (warning,) = run.stderr.splitlines()
    assert warning.startswith(f"warning: left out 3 sounds: {folder / '2.wav'}: no such file")
    meta = json.loads(run.stdout)["meta"]
    assert meta["num_sounds"] == 2
    assert sorted(Path(path).name for path in meta["left_out"]) == ["2.wav", "3.wav", "4.wav"]
    assert meta["left_out"][str(folder / "4.wav")] == "is silent"
    run = CliRunner().invoke(app, [*arguments, "--skip-bad", "--sources", "3"])
    assert run.exit_code == 1
    assert "mixtures of 3 sounds need 3 sounds" in run.stderr.splitlines()[1]


@pytest.mark.parametrize("name", ["mixed.jsonl", "mixed.json"])
def test_results_do_not_overwrite_the_manifest(manifest: Path, name: str) -> None:
    """Neither the summary nor the rows."""
    mine = manifest.rename(manifest.with_name("mixed.rows.jsonl" if "jsonl" not in name else name))
    before = mine.read_bytes()
    output = str(mine.with_name(name))
    run = CliRunner().invoke(app, ["evaluate", str(mine), "-o", output])
    assert run.exit_code == 1
    assert "would overwrite" in run.stderr
    run = CliRunner().invoke(app, ["benchmark", "mix", "--data", str(mine), "-o", output])
    assert run.exit_code == 1
    assert "would overwrite" in run.stderr
    assert mine.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{manifest}", "-o", "{folder}"], "is a folder: give the name of a file"),
        (["{manifest}", "-o", "."], "is a folder: give the name of a file"),
        (["{manifest}", "-o", os.devnull], "is a device or a pipe: give the name of a file"),
        (["{manifest}", "-o", "{manifest}/results.json"], "is a file, the output needs a folder"),
        (["{manifest}", "--split", "nowhere"], "no sounds of the split 'nowhere'"),
        (["{manifest}x"], "cannot be read as a manifest"),
        (["{manifest}", "--model", "missing"], "model 'missing' does not exist"),
    ],
)
def test_bad_input_is_one_line(
    manifest: Path, debug_model_folder: Path, arguments: list[str], message: str
) -> None:
    given = [argument.format(manifest=manifest, folder=manifest.parent) for argument in arguments]
    if "--model" not in given:
        given += ["--model", str(debug_model_folder)]
    run = CliRunner().invoke(app, ["evaluate", *given])
    assert run.exit_code == 1
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
