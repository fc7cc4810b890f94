"""The sets of AudioSep, end to end on small replicas.

Expected numbers are computed here, with numpy, from the files and the output of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr

from singleout.audio import write_wav
from singleout.errors import ManifestError
from singleout.evaluate.benchmarks import load_benchmark
from singleout.model import QueriedSeparator
from tests.evaluate.benchmarks.replicas import (
    RATE,
    REPLICAS,
    clotho,
    esc50,
    estimates,
    extract,
    read_samples,
    result_of,
    sdr,
    si_sdr,
    sound,
)

AGGREGATES: dict[str, Callable[[list[list[float]]], float]] = {
    "audioset": lambda classes: float(np.mean([np.median(scores) for scores in classes])),
    "music": lambda classes: float(np.mean([np.mean(scores) for scores in classes])),
}


def plain_mean(classes: list[list[float]]) -> float:
    return float(np.mean(np.concatenate(classes)))


@pytest.mark.parametrize("name", REPLICAS)
def test_audiosep_sets_are_scored_as_published(
    name: str, tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    items = REPLICAS[name](tmp_path)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for mixture, target, caption, label in items:
        x, s = read_samples(mixture), read_samples(target)
        estimate = extract(debug_model, x, caption)
        item_scores = (sdr(estimate, s), sdr(estimate, s) - sdr(x, s), si_sdr(estimate, s))
        scores.setdefault(label, []).append(item_scores)
    result = result_of(name, "--data", tmp_path, "--partial", "--model", debug_model_folder)
    aggregate = AGGREGATES.get(name, plain_mean)
    for number, key in enumerate(("sdr_db", "sdri_db", "si_sdr_db")):
        expected = aggregate([[score[number] for score in each] for each in scores.values()])
        entry = result["systems"]["model"][key]
        assert entry["estimate"] == pytest.approx(expected, abs=2e-3), key
        assert entry["count"] == len(items)
        assert entry["low"] <= entry["estimate"] <= entry["high"]
    assert result["num_items"] == len(items)
    assert result["num_published_items"] > 999
    assert not result["is_whole"]
    assert result["sample_rate"] == 32_000
    assert set(result["published"]["AudioSep"]) == {"sdri_db", "si_sdr_db"}


@pytest.mark.parametrize("name", REPLICAS)
def test_only_an_incomplete_set_needs_a_flag(name: str, tmp_path: Path) -> None:
    count = len(REPLICAS[name](tmp_path))
    benchmark = replace(load_benchmark(name), num_items=count)
    items, missing = benchmark.items(tmp_path)
    assert len(items) == count
    assert missing == []
    with pytest.raises(ManifestError, match=rf"has {count} items, .* were published: use"):
        load_benchmark(name).items(tmp_path)


def test_both_interferences_of_clotho_are_kept(tmp_path: Path) -> None:
    clotho(tmp_path)
    items, _ = load_benchmark("clotho").items(tmp_path, is_partial=True)
    assert items[1].interference == ("river, near.wav", "coin 1.wav")


@pytest.mark.parametrize("place", ["data/esc50", "separate"])
def test_a_set_may_be_in_a_copy_of_the_repository_or_in_a_separate_folder(
    place: str, tmp_path: Path
) -> None:
    esc50(tmp_path)
    if place == "separate":
        (tmp_path / "data/esc50").rename(tmp_path / "separate")
        (tmp_path / "metadata/esc50_eval.csv").rename(tmp_path / "separate/esc50_eval.csv")
    items, _ = load_benchmark("esc50").items(tmp_path / place, is_partial=True)
    assert [item.files[0].parent for item in items] == [tmp_path / place] * 3


def test_stereo_files_of_another_rate_are_scored_at_the_rate_of_the_set(
    tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    esc50(tmp_path)
    folder = tmp_path / "data/esc50"
    stereo = [np.stack([sound(seed, 44_100), sound(seed + 1, 44_100)]) for seed in (0, 7)]
    write_wav(folder / "segment-0.wav", stereo[0], 44_100)
    write_wav(folder / "mixture-0.wav", stereo[0] + stereo[1], 44_100)
    target, mixture = (
        soxr.resample(audio.mean(0), 44_100, RATE, quality="HQ")
        for audio in (stereo[0], stereo[0] + stereo[1])
    )
    expected = sdr(extract(debug_model, mixture, "dog"), target)
    arguments = ("--partial", "--limit", 1, "--model", debug_model_folder)
    result = result_of("esc50", "--data", tmp_path, *arguments)
    assert estimates(result)["sdr_db"] == pytest.approx(expected, abs=2e-3)
    assert result["num_items"] == 1
