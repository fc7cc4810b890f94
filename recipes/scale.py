"""Fill the tables of docs/scale.md from results/scale.json.

Command: ``python -m recipes.scale``. ``python -m benchmarks.scale`` makes the results, and calls
this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.documents import fill_in

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "results" / "scale.json"

MEASURED = {
    "prepare_hours_per_core_hour": "hours of audio that a core prepares in an hour",
    "decode_share": "part of it for decoding and resampling",
    "flac_megabytes_per_hour": "FLAC shards at 32 kHz, MB per hour",
    "pcm_megabytes_per_hour": "PCM shards at 32 kHz, MB per hour",
    "row_bytes_per_clip": "row of a manifest in the process that starts a preparation, bytes",
    "index_bytes_per_clip": "index, bytes per clip",
    "index_seconds_per_million_clips": "writing the index, core-seconds per million clips",
    "duplicate_seconds_per_million_clips": "comparing fingerprints, core-seconds per million clips",
    "duplicate_bytes_per_clip": "memory for comparing fingerprints, bytes per clip",
    "encoder_core_seconds_per_crop": "packaged encoder, core-seconds per crop of 10 s",
    "clap_core_seconds_per_crop": "CLAP's audio tower, core-seconds per crop of 10 s",
    "clap_gflop_per_crop": "CLAP's audio tower, GFLOP per crop",
    "resunet30_parameters_millions": "ResUNet30, million parameters",
    "resunet30_gflop_per_second": "ResUNet30, one query, GFLOP per second of audio",
    "resunet30_core_gflop_per_second": "ResUNet30 without gradients, GFLOP per second of one core",
    "mixtures_per_core_second_flac": "mixtures of two sounds and 3 s from FLAC shards, per second",
    "mixtures_per_core_second_pcm": "the same from PCM shards",
    "extraction_core_seconds_per_hour": "extraction with the packaged model, core-seconds per hour",
}
"""What a measured value is, by its name."""

PLAN: dict[str, dict[str, str]] = {
    "summary": {
        "clips": "clips of 10 s",
        "cores": "cores",
        "gpus": "GPUs",
        "download_hours": "download, hours",
        "prepare_hours": "preparation, hours",
        "embed_hours": "CLAP embeddings, hours",
        "duplicate_hours": "duplicates, hours",
        "index_hours": "index, hours",
        "pass_days": "a pass of training, days",
        "total_days": "all of these in turn, days",
        "total_usd": "all of these and a month of storage, USD",
    },
    "download": {
        "clips": "clips",
        "source_tb": "recordings as published, TB",
        "download_hours": "download, hours",
    },
    "preparation": {
        "cores": "cores",
        "prepare_core_hours": "preparation, core-hours",
        "prepare_hours": "preparation, hours",
        "prepare_usd": "preparation, USD",
        "gpus": "GPUs",
        "embed_gpu_hours": "CLAP embeddings, GPU-hours",
        "embed_hours": "CLAP embeddings, hours",
        "embed_usd": "CLAP embeddings, USD",
        "embed_core_usd": "the same on cores, USD",
        "duplicate_hours": "duplicates, hours on one core",
        "index_hours": "index, hours on one core",
    },
    "storage": {
        "shards": "shards",
        "shard_mb": "size of a shard, MB",
        "flac_tb": "FLAC shards, TB",
        "pcm_tb": "PCM shards instead, TB",
        "embeddings_gb": "CLAP embeddings, GB",
        "index_gb": "index, GB",
        "put_usd": "writing them into a store, USD",
        "storage_usd_month": "FLAC shards, embeddings and index, USD a month",
    },
    "training": {
        "pass_mixtures": "mixtures of one pass",
        "pass_gpu_hours": "a pass, GPU-hours",
        "pass_days": "a pass, days",
        "pass_usd": "a pass, USD",
        "pass_read_tb": "a pass reads, TB",
        "pass_reads_usd": "requests of a pass, USD",
        "pass_egress_usd": "a pass from a store of another provider, USD",
        "reads_per_second": "reads per second",
        "reads_at_a_time": "reads at a time",
        "read_gigabits": "network, Gbit/s",
        "loader_cores": "cores that make mixtures",
    },
    "extraction": {
        "extract_core_hours": "one query from all audio, core-hours",
        "extract_hours": "the same, hours",
        "extract_usd": "the same, USD",
    },
    "merge": {
        "rows_gb": "rows of the manifest, GB",
        "duplicates_gb": "what is compared for duplicates, GB",
        "index_gb": "index, GB",
        "duplicate_hours": "duplicates, hours on one core",
    },
}
"""Rows of the tables that have a column for each corpus, by table and by name of the value."""

STUDY = {
    "run_mixtures": "mixtures of a run",
    "run_crop_hours": "hours of crops of a run",
    "run_eflop": "operations of a run, EFLOP",
    "run_gpu_hours": "a run, GPU-hours",
    "run_core_years": "a run, years of one core",
    "runs": "runs",
    "study_gpu_hours": "all runs, GPU-hours",
    "study_usd": "all runs, USD",
    "checkpoint_gb": "a checkpoint, GB",
    "checkpoints_gb": "a checkpoint of every run, GB",
}
LIMITS = {
    "duplicates_hours": "what is compared for duplicates fills the memory of one machine at, h",
    "index_hours": "the index fills it at, h",
    "embeddings_hours": "the table of embeddings fills it at, h",
    "reads_per_gpu": "reads per second of one GPU in training",
    "prefix_gpus": "GPUs at which reads reach the limit of one prefix of a bucket",
}


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(heads), _row(["---"] * len(heads)), *map(_row, rows)])


def shown(value: Any) -> str:
    """A number with three digits at least, as a reader compares them; a list as its numbers.

    Example:
        >>> shown(1234567.8), shown(0.012345), shown(3.0), shown([64, 1024])
        ('1,230,000', '0.0123', '3', '64 / 1,024')
    """
    if isinstance(value, list):
        return " / ".join(map(shown, value))
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:,.0f}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def measured_table(measured: Mapping[str, Any]) -> str:
    """One row per measured value, with its source."""
    rows = [
        (text, shown(measured[name]["value"]), measured[name]["source"])
        for name, text in MEASURED.items()
        if name in measured
    ]
    return _table(("per hour, clip or core", "measured", "where"), rows)


def assumptions_table(assumptions: Mapping[str, Any]) -> str:
    """One row per assumption, with its source."""
    rows = []
    for group in assumptions.values():
        for name, entry in group.items():
            date = f" (read {entry['read']})" if "read" in entry else ""
            value = f"{shown(entry['value'])} {entry['unit']}"
            rows.append((f"`{name}`", value, f"{entry['source']}{date}"))
    return _table(("assumption", "value", "source"), rows)


def plan_table(plans: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """One column per corpus."""
    heads = ["", *(f"{shown(plan['hours'])} h" for plan in plans)]
    rows = [(text, *(shown(plan[name]) for plan in plans)) for name, text in names.items()]
    return _table(heads, rows)


def values_table(values: Mapping[str, float], names: Mapping[str, str]) -> str:
    """One row per value."""
    return _table(("", "value"), [(text, shown(values[name])) for name, text in names.items()])


def write_page(results: Mapping[str, Any]) -> None:
    """Fill the tables of the page.

    Args:
        results: of ``benchmarks.scale``.
    """
    machine = results["machine"]
    origin = (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, one thread, at revision "
        f"{results['revision']}. Other programs ran: the load of the machine was "
        f"{machine['load_before']:.0f} at the start and {machine['load_after']:.0f} at the end."
    )
    parts = {name: plan_table(results["plans"], names) for name, names in PLAN.items()}
    parts["measured"] = f"{origin}\n\n{measured_table(results['measured'])}"
    parts["assumptions"] = assumptions_table(results["assumptions"])
    parts["study"] = values_table(results["study"], STUDY)
    parts["limits"] = values_table(results["limits"], LIMITS)
    fill_in(PAGE, parts)


def main() -> None:
    """Fill the tables."""
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
