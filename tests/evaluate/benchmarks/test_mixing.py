"""Mixtures of a manifest at chosen SNRs, and absent sounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from singleout.audio import write_wav
from singleout.data.plan import SCORED_MIXTURES
from singleout.evaluate.benchmarks.mixing import MixingConfig, mixing
from singleout.evaluate.benchmarks.run import Extras, benchmark_summary, run_benchmark
from singleout.model import QueriedSeparator
from tests.evaluate.benchmarks.replicas import (
    RATE,
    assert_refused,
    db,
    estimates,
    extract,
    result_of,
    sound,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", np.tile(sound(3 * i), 2)[None], RATE)
        row = {"path": f"{i}.wav", "seconds": 1.0, "caption": f"tone {i}", "class": f"tone/{i}"}
        lines.append(json.dumps({**row, "group": f"g{i}", "split": "test"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_mixing_makes_the_same_pairs_at_each_snr(manifest: Path, debug_model_folder: Path) -> None:
    levels = (-6.0, 0.0, 9.0)
    benchmark = mixing(MixingConfig(snr_db=levels, num_mixtures=2))
    items, _ = benchmark.items(manifest)
    pairs = [(item.target, item.interference) for item in items]
    assert pairs[:2] == pairs[2:4] == pairs[4:]
    for number, item in enumerate(items):
        signals = item.load(RATE)
        assert signals.target is not None
        rest = signals.mixture - signals.target
        snr = db(np.mean(signals.target**2), np.mean(rest**2))
        assert snr == pytest.approx(levels[number // 2], abs=1e-2)
    flags = [word for level in levels for word in ("--snr", level)]
    arguments = (*flags, "--mixtures", 2, "--model", debug_model_folder, "--references")
    result = result_of("mix", "--data", manifest, *arguments)
    assert result["num_items"] == 6
    assert result["is_whole"]
    assert list(result["by_label"]) == ["-6 dB", "+0 dB", "+9 dB"]
    means = [scores["sdri_db"]["estimate"] for scores in result["by_label"].values()]
    assert np.mean(means) == pytest.approx(estimates(result)["sdri_db"])
    assert estimates(result, "mixture")["sdr_db"] == pytest.approx(1.0, abs=1e-2)
    assert estimates(result, "zeros")["silent_share"] == 1
    assert estimates(result, "zeros")["ruled_si_sdri_db"] == pytest.approx(-31, abs=0.1)
    assert estimates(result, "oracle_mask")["si_sdri_db"] > 5


def test_absent_sounds_are_scored_by_suppression(
    manifest: Path, debug_model: QueriedSeparator
) -> None:
    short = SCORED_MIXTURES.model_copy(update={"segment_seconds": 1.0, "crop_hop_seconds": 0.5})
    config = MixingConfig(snr_db=(0.0,), num_mixtures=3, absent=True, mixtures=short)
    benchmark = mixing(config)
    items, _ = benchmark.items(manifest)
    rows = run_benchmark(debug_model, benchmark, items, Extras(references=True))
    model_rows = [row for row in rows if row["system"] == "model"]
    expected = []
    for item, row in zip(items, model_rows, strict=True):
        assert row["absent"] == item.is_absent == (item.caption not in captions_of_mixture(item))
        if item.is_absent:
            x = item.load(RATE).mixture
            estimate = extract(debug_model, x, item.caption)
            expected.append(db(np.mean(x.astype(float) ** 2), np.mean(estimate.astype(float) ** 2)))
            assert row["sdr_db"] is row["si_sdr_db"] is None
            assert row["sa_sdr_db"] == pytest.approx(expected[-1] - 10 * np.log10(2), abs=1e-3)
        else:
            assert row["suppression_db"] is None
    result = benchmark_summary(rows, benchmark)
    assert result["model"]["suppression_db"]["estimate"] == pytest.approx(
        np.mean(expected), abs=1e-3
    )
    assert result["model"]["sdri_db"]["count"] == result["model"]["suppression_db"]["count"] == 3
    assert result["zeros"]["suppression_db"]["estimate"] == pytest.approx(100)
    assert result["zeros"]["absent_silent_share"]["estimate"] == 1
    assert result["mixture"]["suppression_db"]["estimate"] == pytest.approx(0)
    assert result["mixture"]["absent_silent_share"]["estimate"] == 0


def captions_of_mixture(item: Any) -> set[str]:
    """Captions of the mixture's sounds; file ``i.wav``, recording ``gi``, is 'tone i'."""
    sounds = item.interference if item.is_absent else (item.target, *item.interference)
    return {f"tone {Path(name).stem.removeprefix('g')}" for name in sounds}


def test_wrong_manifests_are_refused(manifest: Path, debug_model_folder: Path) -> None:
    arguments = ("mix", "--data", manifest, "--model", debug_model_folder)
    assert_refused("no sounds of the split 'train'", *arguments, "--split", "train")
    assert_refused(
        "'snr_db': Value error, an SNR is given twice", *arguments, "--snr", 1, "--snr", 1
    )
    assert_refused("'snr_db.0'", *arguments, "--snr", "nan")
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:2]))
    assert_refused("no captioned sound of another class and group", *arguments, "--absent")
    manifest.write_text("\n".join(lines).replace('"caption": "tone', '"about": "tone'))
    assert_refused("has no caption, which the text query needs", *arguments)
