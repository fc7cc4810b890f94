"""The plan of docs/scale.md: its arithmetic, and its tables, which are those of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import READERS, plans
from benchmarks.scale_plan import Costs, plan_of, study_of
from recipes import scale

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The committed results."""
    content: dict[str, Any] = json.loads(scale.RESULTS.read_text())
    return content


def test_the_page_has_the_tables_of_the_results(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "scale.md"
    page.write_text(scale.PAGE.read_text())
    monkeypatch.setattr(scale, "PAGE", page)
    scale.write_page(results)
    assert page.read_text() == (ROOT / "docs" / "scale.md").read_text()


def test_the_plans_follow_from_the_measured_and_the_assumed(results: dict[str, Any]) -> None:
    assumptions = json.loads((ROOT / "benchmarks" / "scale_assumptions.json").read_text())
    assert results["assumptions"] == assumptions
    calculated = plans(results["measured"], assumptions)
    for name in ("plans", "study", "limits"):
        for mine, theirs in zip(_each(calculated[name]), _each(results[name]), strict=True):
            assert mine == pytest.approx(theirs)


def _each(values: Any) -> list[dict[str, float]]:
    return values if isinstance(values, list) else [values]


def costs(results: dict[str, Any], **changes: Any) -> Costs:
    """The costs of the results, with some of them changed."""
    entries = [entry for group in results["assumptions"].values() for entry in group.items()]
    measured = {name: entry["value"] for name, entry in results["measured"].items()}
    assumed = {name: entry["value"] for name, entry in entries}
    return Costs(
        {name: changes.get(name, value) for name, value in measured.items()},
        {name: changes.get(name, value) for name, value in assumed.items()},
    )


def test_costs_grow_with_the_hours_and_days_fall_with_the_machines(
    results: dict[str, Any],
) -> None:
    one = plan_of(costs(results, hours=[1_000], cores=[10], gpus=[2]), 0)
    ten = plan_of(costs(results, hours=[10_000], cores=[100], gpus=[20]), 0)
    for name in ("clips", "source_tb", "prepare_usd", "embed_gpu_hours", "flac_tb", "pass_usd"):
        assert ten[name] == pytest.approx(10 * one[name])
    for name in ("prepare_hours", "embed_hours", "pass_days", "extract_hours", "shard_mb"):
        assert ten[name] == pytest.approx(one[name])
    assert one["clips"] == 360_000
    assert one["prepare_core_hours"] == pytest.approx(
        1_000 / results["measured"]["prepare_hours_per_core_hour"]["value"]
    )


def test_a_crop_reads_its_whole_clip_if_the_clip_is_short(results: dict[str, Any]) -> None:
    plan = plan_of(costs(results, segment_seconds=5, clip_seconds=10), 0)
    assert plan["pass_read_tb"] == pytest.approx(2 * plan["flac_tb"])
    hour = plan_of(costs(results, segment_seconds=5, clip_seconds=3_600), 0)
    byte_rate = results["measured"]["flac_megabytes_per_hour"]["value"] * 1e6 / 3_600
    reads = hour["pass_mixtures"] * 2
    assert hour["pass_read_tb"] == pytest.approx(reads * (5 * byte_rate + 2 * 2**20) / 1e12)


def test_results_of_other_benchmarks_replace_small_measurements() -> None:
    costs_of_sizes = [
        {"hours_per_core_hour": 1.0},
        {"hours_per_core_hour": 200.0, "decode_share": 0.4},
    ]
    content = {"costs": costs_of_sizes, "duplicates": {"sounds": 1_000, "peak_megabytes_more": 0.2}}
    values = READERS["prepare.json"](content)
    assert values["prepare_hours_per_core_hour"] == 200.0
    assert Costs(values, {"duplicate_bytes": 1.0}).duplicate_bytes == pytest.approx(200)
    assert Costs({}, {"duplicate_bytes": 1.0}).duplicate_bytes == 1.0
    rates = {f"{kind} shards, default, loaded": {"per_second": 300.0} for kind in ("PCM", "FLAC")}
    values = READERS["loading.json"]({"corpora": {"30 s FLAC, 44.1 kHz": rates}})
    assert values == {"mixtures_per_core_second_flac": 300.0, "mixtures_per_core_second_pcm": 300.0}


def test_a_run_of_the_study_by_hand(results: dict[str, Any]) -> None:
    """Two targets of 5 s at 50 GFLOP/s, three passes: 1.5 TFLOP a mixture, 1.6 million mixtures."""
    study = study_of(costs(results, resunet30_gflop_per_second=50.0, gpu_tflops=100.0,
                           training_share=0.5, gpu_hour=3.0, runs=2))  # fmt: skip
    assert study["run_eflop"] == pytest.approx(2.4)
    assert study["run_gpu_hours"] == pytest.approx(2.4e18 / 50e12 / 3_600)
    assert study["study_usd"] == pytest.approx(2 * 3.0 * study["run_gpu_hours"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (1234567.8, "1,230,000"),
        (99.96, "100"),
        (0.01234, "0.0123"),
        ([1, 2.5], "1 / 2.5"),
    ],
)
def test_numbers_have_three_digits(value: Any, text: str) -> None:
    assert scale.shown(value) == text
