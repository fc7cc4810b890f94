"""Scores of a run, its judge, and the files that the command writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from singleout.audio import write_wav
from tests.evaluate.benchmarks.replicas import (
    RATE,
    SECONDS,
    esc50,
    estimates,
    invoke,
    music,
    result_of,
)


def test_another_judge_gives_no_warning(tmp_path: Path, debug_model_folder: Path) -> None:
    esc50(tmp_path)
    arguments = ("--partial", "--limit", 1, "--model", debug_model_folder)
    run = invoke("esc50", "--data", tmp_path, *arguments, "--clap-score", "builtin")
    assert run.exit_code == 0, run.output
    assert run.stderr == ""
    assert "CLAPScore" in run.stdout


def test_a_silent_target_counts_only_where_scores_are_defined(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    esc50(tmp_path)
    silence = np.zeros((1, round(SECONDS * RATE)), np.float32)
    write_wav(tmp_path / "data/esc50/segment-0.wav", silence, RATE)
    arguments = ("--data", tmp_path, "--partial", "--model", debug_model_folder, "--bss-eval")
    systems = result_of("esc50", *arguments)["systems"]["model"]
    counts = {key: entry["count"] for key, entry in systems.items()}
    assert counts["sdr_db"] == counts["sa_sdr_db"] == 3
    assert counts["si_sdr_db"] == counts["bss_eval_sdr_db"] == 2
    assert counts["suppression_db"] == 1


def test_results_are_a_table_a_markdown_row_and_two_files(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    music(tmp_path)
    output = tmp_path / "results" / "music.json"
    arguments = ("music", "--data", tmp_path, "--partial", "--model", debug_model_folder)
    run = invoke(*arguments, "-o", output, "--bss-eval")
    assert run.exit_code == 0, run.output
    result = json.loads(output.read_text())
    assert result["meta"]["command"] == "singleout benchmark music"
    rows = [json.loads(line) for line in output.with_suffix(".rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["violin"] * 3 + ["erhu", "tuba"]
    per_class = [
        np.mean([r["sdri_db"] for r in rows if r["label"] == c]) for c in ("violin", "erhu", "tuba")
    ]
    assert np.mean(per_class) == pytest.approx(estimates(result)["sdri_db"])
    assert "mean over classes of the mean over items" in run.stdout
    assert "AudioSep, published" in run.stdout
    assert "10.508" in run.stdout
    heads, _, row = run.stdout.strip().splitlines()[-3:]
    assert heads.startswith("| set | model | items | SDRi | SI-SDR | SDR | SI-SDRi | BSS-eval SDR")
    assert row.startswith(f"| music | {debug_model_folder.name} | 5 of 5,004 | ")
    assert heads.count("|") == row.count("|")
    assert f"{estimates(result)['sdri_db']:.3f}" in row
