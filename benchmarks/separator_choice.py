"""Compare variants of the default separator after equal training time.

Command: ``python -m benchmarks.separator_choice``, after ``python -m recipes.builtin.embed``.

Every variant trains from nothing for the same wall time on one thread, conditioned like the
built-in model. All are scored on the same 200 validation mixtures.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from recipes.builtin.experiment import FROM_NOTHING, cost
from singleout.config import load_config
from singleout.separators import ConditionedUNetConfig
from singleout.train.config import TrainConfig
from singleout.train.curve import read_curve
from singleout.train.run import train

VARIANTS: dict[str, dict[str, Any]] = {
    "64 ms window, hop 32 ms": {},
    "64 ms window, hop 16 ms": {"hop": 512},
    "32 ms window, hop 16 ms": {
        "num_fft": 1_024,
        "hop": 512,
        "channels": [32, 64, 128],
        "time_strides": [2, 2],
    },
}


def main() -> None:
    """Train all variants, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each variant")
    parser.add_argument("--output", type=Path, default=Path("results/separator_choice.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, variant in VARIANTS.items():
        row = {"variant": name, **cost(ConditionedUNetConfig(**variant), 256)}
        steps = round(60 * args.minutes / row["seconds_per_step"])
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                f"output={folder}",
                *FROM_NOTHING,
                f"steps={steps}",
                f"warmup_steps={steps // 8}",
                "validation.num_mixtures=200",
                f"validation.every_steps={steps}",
                *(f"model.separator.{key}={json.dumps(value)}" for key, value in variant.items()),
            ]
            started = time.perf_counter()
            train(load_config(TrainConfig, args.config, overrides))
            row |= {"steps": steps, "train_seconds": time.perf_counter() - started}
            last = [row for row in read_curve(Path(folder)) if "text_si_sdri" in row][-1]
        for key in ("text_si_sdri", "audio_si_sdri", "text_improved", "audio_improved"):
            row[f"validation_{key}"] = last[key]
        print(json.dumps(row), flush=True)
        rows.append(row)
    meta = {
        "command": f"python -m benchmarks.separator_choice --minutes {args.minutes:g}",
        "machine": f"{platform.machine()}, 1 thread, bfloat16 autocast in training",
        "torch": torch.__version__,
        "seed": 0,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"meta": meta, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
