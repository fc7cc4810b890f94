"""What 5,000 to 1,000,000 hours of audio take. Writes ``results/scale.json`` and fills the page.

    python -m benchmarks.scale [--sounds MANIFEST] [--assumptions FILE] [--keep]

Costs per hour of audio come from the results of other benchmarks, where they exist, and otherwise
from small measurements here: see ``benchmarks.scale_measure``. Prices, speeds of GPUs and sizes of
clusters are assumptions, in ``benchmarks/scale_assumptions.json``. Change them, and run the command
again with ``--keep``, which keeps the measurements. ``recipes.scale`` writes ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import scale_measure
from benchmarks.extract_speed import machine
from benchmarks.revisions import ROOT, revision_of
from benchmarks.scale_plan import Costs, limits_of, plan_of, study_of
from recipes.scale import write_page

RESULTS = ROOT / "results"
SOUNDS = Path("~/.cache/singleout/sounds/unlabelled.jsonl")
SEED = 0
RECORDINGS = "30 s FLAC, 44.1 kHz"
"""The corpus of ``results/loading.json`` that is laid out as corpora are published."""


def measured_here(sounds: Path) -> dict[str, dict[str, Any]]:
    """Values by name, each with its source."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    values: dict[str, float] = {}
    values |= scale_measure.measure_sounds(scale_measure.sample_of(sounds, SEED))
    values |= scale_measure.measure_merge()
    values |= scale_measure.measure_rows()
    values |= scale_measure.measure_encoder()
    values |= scale_measure.measure_clap()
    values |= scale_measure.measure_separator()
    return {name: {"value": value, "source": "measured here"} for name, value in values.items()}


def _preparation(content: dict[str, Any]) -> dict[str, float]:
    most = content["costs"][-1]
    duplicates = content["duplicates"]
    return {
        "prepare_hours_per_core_hour": most["hours_per_core_hour"],
        "decode_share": most["decode_share"],
        "duplicate_bytes_per_clip": duplicates["peak_megabytes_more"] * 1e6 / duplicates["sounds"],
    }


def _loading(content: dict[str, Any]) -> dict[str, float]:
    rates = content["corpora"][RECORDINGS]
    return {
        "mixtures_per_core_second_flac": rates["FLAC shards, default, loaded"]["per_second"],
        "mixtures_per_core_second_pcm": rates["PCM shards, default, loaded"]["per_second"],
    }


def _extraction(content: dict[str, Any]) -> dict[str, float]:
    rate = content["long"]["60_minutes"]["real_time_factor"]
    return {"extraction_core_seconds_per_hour": 3_600 * rate * content["machine"]["cores"]}


READERS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "prepare.json": _preparation,
    "loading.json": _loading,
    "long_recordings.json": _extraction,
}
"""Reads values from the results of other benchmarks. They replace those measured here."""


def collected() -> dict[str, dict[str, Any]]:
    """The values of other benchmarks, each with its source."""
    values: dict[str, dict[str, Any]] = {}
    for name, read in READERS.items():
        path = RESULTS / name
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            source = f"results/{name}"
            values |= {key: {"value": v, "source": source} for key, v in read(content).items()}
    return values


def plans(measured: dict[str, dict[str, Any]], assumptions: dict[str, Any]) -> dict[str, Any]:
    """The plan of every corpus, the study and the limits of the design."""
    assumed = {
        name: entry["value"] for group in assumptions.values() for name, entry in group.items()
    }
    costs = Costs({name: entry["value"] for name, entry in measured.items()}, assumed)
    return {
        "plans": [plan_of(costs, number) for number in range(len(assumed["hours"]))],
        "study": study_of(costs),
        "limits": limits_of(costs),
    }


def main() -> None:
    """Measure, calculate, write the results and fill the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sounds", type=Path, default=SOUNDS, help="manifest of sounds")
    parser.add_argument(
        "--assumptions", type=Path, default=ROOT / "benchmarks" / "scale_assumptions.json"
    )
    parser.add_argument("--keep", action="store_true", help="keep the measurements of the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    arguments = parser.parse_args()
    assumptions = json.loads(arguments.assumptions.read_text(encoding="utf-8"))
    if arguments.keep:
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    else:
        result = {
            "command": "python -m benchmarks.scale",
            "machine": machine(),
            "revision": revision_of(ROOT),
            "seed": SEED,
            "measured": measured_here(arguments.sounds.expanduser()),
        }
        result["machine"]["load_after"] = os.getloadavg()[0]
    result["measured"] |= collected()
    result |= {"assumptions": assumptions, **plans(result["measured"], assumptions)}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_page(result)


if __name__ == "__main__":
    main()
