"""What corpora of thousands to a million hours take: arithmetic on measured costs and assumptions.

All functions are pure. ``benchmarks.scale`` measures, and ``recipes.scale`` writes the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from singleout.data.members import BUFFER_BYTES

TERA, GIGA, MEGA = 1e12, 1e9, 1e6
HOUR_S, DAY_H = 3_600, 24
BACKWARD = 3
"""Forward and backward passes cost three times the forward pass."""
LOADED_SECONDS = 3
"""Length of the mixtures that ``mixtures_per_core_second_flac`` counts; longer ones cost more."""
FILES_OF_SHARD = 3
"""The tar, its sidecar and its embeddings."""


@dataclass(frozen=True)
class Costs:
    """Measured values and assumptions, each by its name.

    Attributes:
        measured: numbers by name, see ``benchmarks.scale``.
        assumed: values by name, of all groups of ``scale_assumptions.json``.

    Example:
        >>> Costs({"x": 1.0}, {"y": 2.0}).assumed["y"]
        2.0
    """

    measured: Mapping[str, float]
    assumed: Mapping[str, Any]

    def gpu_hours(self, flop: float, share: str) -> float:
        """Hours of one GPU for some operations, at a share of its peak.

        Example:
            >>> costs = Costs({}, {"gpu_tflops": 100, "training_share": 0.5})
            >>> costs.gpu_hours(180e15, "training_share")
            1.0
        """
        rate = self.assumed["gpu_tflops"] * TERA * self.assumed[share]
        return float(flop / rate / HOUR_S)

    @property
    def duplicate_bytes(self) -> float:
        """Memory for each clip that is compared: measured, or else assumed."""
        measured = self.measured.get("duplicate_bytes_per_clip")
        return float(self.assumed["duplicate_bytes"] if measured is None else measured)

    @property
    def mixture_flop(self) -> float:
        """Operations of one mixture in training, for all its queries."""
        seconds = self.assumed["segment_seconds"] * self.assumed["queries"]
        return float(BACKWARD * seconds * self.measured["resunet30_gflop_per_second"] * GIGA)


def plan_of(costs: Costs, number: int) -> dict[str, float]:
    """What a corpus takes, from its download to a pass of training over it.

    Args:
        costs: measured and assumed.
        number: of the corpus in the lists of the assumptions.

    Returns:
        Values by name; the unit is the end of the name.
    """
    a = costs.assumed
    hours, cores, gpus = a["hours"][number], a["cores"][number], a["gpus"][number]
    clips = hours * HOUR_S / a["clip_seconds"]
    plan = {
        "hours": hours,
        "cores": cores,
        "gpus": gpus,
        "clips": clips,
        "shards": ceil(clips / a["shard_clips"]),
        **_download(costs, hours),
        **_preparation(costs, hours, cores, gpus, clips),
        **_storage(costs, hours, clips),
        **_training(costs, hours, gpus),
        **_extraction(costs, hours, cores),
    }
    return {**plan, **_sums(plan)}


def _sums(plan: dict[str, float]) -> dict[str, float]:
    """Time and money from the download to the end of a pass, with a month of storage."""
    steps = ("download_hours", "prepare_hours", "embed_hours", "duplicate_hours", "index_hours")
    prices = ("prepare_usd", "embed_usd", "put_usd", "storage_usd_month", "pass_usd")
    return {
        "total_days": sum(plan[name] for name in steps) / DAY_H + plan["pass_days"],
        "total_usd": sum(plan[name] for name in (*prices, "pass_reads_usd")),
    }


def _download(costs: Costs, hours: float) -> dict[str, float]:
    a = costs.assumed
    source_bytes = hours * HOUR_S * a["source_kilobits"] * 1e3 / 8
    return {
        "source_tb": source_bytes / TERA,
        "download_hours": source_bytes * 8 / (a["download_gigabits"] * GIGA) / HOUR_S,
    }


def _preparation(
    costs: Costs, hours: float, cores: int, gpus: int, clips: float
) -> dict[str, float]:
    a, m = costs.assumed, costs.measured
    core_hours = hours / m["prepare_hours_per_core_hour"]
    crops = clips * a["crops_per_clip"]
    gpu_hours = costs.gpu_hours(crops * m["clap_gflop_per_crop"] * GIGA, "embedding_share")
    clap_core_hours = crops * m["clap_core_seconds_per_crop"] / HOUR_S
    return {
        "prepare_core_hours": core_hours,
        "prepare_hours": core_hours / cores,
        "prepare_usd": core_hours * a["core_hour"],
        "embed_gpu_hours": gpu_hours,
        "embed_hours": gpu_hours / gpus,
        "embed_usd": gpu_hours * a["gpu_hour"],
        "embed_core_hours": clap_core_hours,
        "embed_core_usd": clap_core_hours * a["core_hour"],
        "index_hours": clips * m["index_seconds_per_million_clips"] / MEGA / HOUR_S,
        "duplicate_hours": clips * m["duplicate_seconds_per_million_clips"] / MEGA / HOUR_S,
        "rows_gb": clips * m["row_bytes_per_clip"] / GIGA,
    }


def _storage(costs: Costs, hours: float, clips: float) -> dict[str, float]:
    a, m = costs.assumed, costs.measured
    flac_tb = hours * m["flac_megabytes_per_hour"] * MEGA / TERA
    embeddings = clips * a["crops_per_clip"] * a["embedding_dim"] * 2
    index = clips * m["index_bytes_per_clip"]
    kept_tb = flac_tb + (embeddings + index) / TERA
    return {
        "flac_tb": flac_tb,
        "pcm_tb": hours * m["pcm_megabytes_per_hour"] * MEGA / TERA,
        "embeddings_gb": embeddings / GIGA,
        "index_gb": index / GIGA,
        "duplicates_gb": clips * costs.duplicate_bytes / GIGA,
        "storage_usd_month": kept_tb * a["terabyte_month"],
        "put_usd": FILES_OF_SHARD * clips / a["shard_clips"] / MEGA * a["million_writes"],
        "shard_mb": a["shard_clips"] * flac_tb * TERA / clips / MEGA,
    }


def _training(costs: Costs, hours: float, gpus: int) -> dict[str, float]:
    """One pass over all hours: each stretch of a clip is in one mixture."""
    a, m = costs.assumed, costs.measured
    mixtures = hours * HOUR_S / (a["segment_seconds"] * a["queries"])
    gpu_hours = costs.gpu_hours(mixtures * costs.mixture_flop, "training_share")
    reads = mixtures * a["queries"]
    reads_per_second = reads / (gpu_hours / gpus * HOUR_S)
    mixtures_per_second = reads_per_second / a["queries"]
    byte_rate = m["flac_megabytes_per_hour"] * MEGA / HOUR_S
    crop_bytes, clip_bytes = byte_rate * a["segment_seconds"], byte_rate * a["clip_seconds"]
    # A small member is read whole; of a large one, a part with the header and parts of the crop.
    read_bytes = min(clip_bytes, crop_bytes + 2 * BUFFER_BYTES)
    return {
        "pass_mixtures": mixtures,
        "pass_gpu_hours": gpu_hours,
        "pass_days": gpu_hours / gpus / DAY_H,
        "pass_usd": gpu_hours * a["gpu_hour"],
        "pass_read_tb": reads * read_bytes / TERA,
        "pass_egress_usd": reads * read_bytes / TERA * a["egress_terabyte"],
        "pass_reads_usd": reads / MEGA * a["million_reads"],
        "reads_per_second": reads_per_second,
        "read_gigabits": reads_per_second * read_bytes * 8 / GIGA,
        "reads_at_a_time": reads_per_second * a["read_seconds"],
        "loader_cores": mixtures_per_second
        / m["mixtures_per_core_second_flac"]
        * a["segment_seconds"]
        / LOADED_SECONDS,
    }


def _extraction(costs: Costs, hours: float, cores: int) -> dict[str, float]:
    core_hours = hours * costs.measured["extraction_core_seconds_per_hour"] / HOUR_S
    return {
        "extract_core_hours": core_hours,
        "extract_hours": core_hours / cores,
        "extract_usd": core_hours * costs.assumed["core_hour"],
    }


def study_of(costs: Costs) -> dict[str, float]:
    """What the full-size study with CLAP takes: see ``docs/paper_full.md``.

    Args:
        costs: measured and assumed.

    Returns:
        Values by name; the unit is the end of the name.
    """
    a, m = costs.assumed, costs.measured
    mixtures = a["steps"] * a["batch_size"]
    run_flop = mixtures * costs.mixture_flop
    run_hours = costs.gpu_hours(run_flop, "training_share")
    core_rate = m["resunet30_core_gflop_per_second"] * GIGA
    state_gb = m["resunet30_parameters_millions"] * MEGA * a["bytes_per_parameter"] / GIGA
    return {
        "run_mixtures": mixtures,
        "run_crop_hours": mixtures * a["queries"] * a["segment_seconds"] / HOUR_S,
        "run_eflop": run_flop / 1e18,
        "run_gpu_hours": run_hours,
        "run_core_years": run_flop / core_rate / HOUR_S / DAY_H / 365,
        "runs": a["runs"],
        "study_gpu_hours": run_hours * a["runs"],
        "study_usd": run_hours * a["runs"] * a["gpu_hour"],
        "checkpoint_gb": state_gb,
        "checkpoints_gb": a["runs"] * state_gb,
    }


def limits_of(costs: Costs) -> dict[str, float]:
    """Hours of audio at which a part of the design stops to fit one machine or one prefix.

    Args:
        costs: measured and assumed.

    Returns:
        Hours, GPUs or machines by name.
    """
    a, m = costs.assumed, costs.measured
    memory = a["machine_gigabytes"] * GIGA
    hours_per_clip = a["clip_seconds"] / HOUR_S
    reads_per_gpu = a["queries"] / (costs.gpu_hours(costs.mixture_flop, "training_share") * HOUR_S)
    table = a["crops_per_clip"] * a["embedding_dim"] * 2
    return {
        "duplicates_hours": memory / costs.duplicate_bytes * hours_per_clip,
        "index_hours": memory / m["index_bytes_per_clip"] * hours_per_clip,
        "embeddings_hours": memory / table * hours_per_clip,
        "prefix_gpus": a["prefix_reads"] / reads_per_gpu,
        "reads_per_gpu": reads_per_gpu,
    }
