"""Quality of extraction at several levels of the recording. Writes ``results/levels.json``.

    python -m benchmarks.levels [--mixtures 60] [--model FOLDER]

Mixtures of two validation sounds are scaled to several levels and extracted by text queries. Quiet
recordings are amplified to the level of the model, as always, or not amplified at all.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES, Planner
from singleout.data.render import render
from singleout.evaluate.metrics import score
from singleout.evaluate.statistics import bootstrap_interval
from singleout.extract import Extractor
from singleout.model import QueriedSeparator

LEVELS_DB = (-20.0, -40.0, -50.0, -60.0, -70.0)
"""RMS of the mixtures relative to full scale."""
SEED = 7


def improvements(
    extractor: Extractor, manifest: Path, num_mixtures: int
) -> dict[str, dict[str, list[float]]]:
    """SI-SDRi in dB of all mixtures, by amplification and by level."""
    clips = read_manifest(manifest, "validation")
    mixtures = SCORED_MIXTURES.model_copy(update={"num_sources": (2, 2)})
    planner = Planner(clips, mixtures, SEED)
    plain = extractor.model.config.model_copy(update={"quietest_db": None})
    configs = {"lifted": extractor.model.config, "as it is": plain}
    result: dict[str, dict[str, list[float]]] = {
        name: {f"{level:g}": [] for level in LEVELS_DB} for name in configs
    }
    for index in track(range(num_mixtures), "extracting"):
        spec = planner.plan(0, index)
        rate = extractor.model.sample_rate
        rendered = render(spec, clips, mixtures, rate)
        caption = clips[spec.sources[0].clip].caption
        assert caption is not None
        mixture_db = 20 * np.log10(np.sqrt(np.square(rendered.mixture).mean()))
        for name, config in configs.items():
            extractor.model.config = config
            for level_db in LEVELS_DB:
                gain = np.float32(10 ** ((level_db - mixture_db) / 20))
                mixture = rendered.mixture * gain
                target = extractor.extract(mixture, caption, rate).target[0]
                signals = (target / gain, rendered.sources[0], rendered.mixture)
                scores = score(*(torch.from_numpy(signal) for signal in signals))
                result[name][f"{level_db:g}"].append(float(scores.si_sdr_improvement))
        extractor.model.config = configs["lifted"]
    return result


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixtures", type=int, default=60)
    parser.add_argument("--model", type=Path)
    parser.add_argument(
        "--manifest", type=Path, default=Path("~/.cache/singleout/sounds/manifest.jsonl")
    )
    parser.add_argument("--output", type=Path, default=Path("results/levels.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    extractor = Extractor(QueriedSeparator.from_pretrained(args.model))
    by_name = improvements(extractor, args.manifest.expanduser(), args.mixtures)
    loudest = f"{LEVELS_DB[0]:g}"
    result: dict[str, Any] = {
        "meta": {
            "command": f"python -m benchmarks.levels --mixtures {args.mixtures}",
            "seed": SEED,
            "quietest_db": extractor.model.config.quietest_db,
            "model": extractor.model.config.sha256,
            "machine": f"{platform.machine()}, 1 thread",
            "torch": torch.__version__,
        },
        "si_sdri_db": {
            name: {level: bootstrap_interval(values) for level, values in by_level.items()}
            for name, by_level in by_name.items()
        },
        "over_the_loudest_db": {
            name: {
                level: bootstrap_interval(np.subtract(values, by_level[loudest]))
                for level, values in by_level.items()
            }
            for name, by_level in by_name.items()
        },
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, by_level in result["over_the_loudest_db"].items():
        for level, change in by_level.items():
            print(f"{name:9} {level:>4} dB: {change['estimate']:+.2f} dB")


if __name__ == "__main__":
    main()
