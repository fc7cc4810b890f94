"""Write the model card, ``src/singleout/builtin/README.md``, from the manifest and the results."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from singleout.config import load_config
from singleout.query.manipulations import Dropout
from singleout.train.config import TrainConfig


def share(interval: dict[str, float]) -> str:
    """A share with its interval, in per cent."""
    return (
        f"{100 * interval['estimate']:.0f} % "
        f"[{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"
    )


def decibels(interval: dict[str, float]) -> str:
    """A level with its interval."""
    return f"{interval['estimate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def quality_table(result: dict[str, Any]) -> str:
    """One row per system of ``results/builtin.json``."""
    lines = [
        "| system | mean SI-SDRi, dB | median, dB | improved | mean SDRi, dB |",
        "|---|---|---|---|---|",
    ]
    names = {"text": "text queries", "audio": "audio queries"}
    for name, entry in result["systems"].items():
        own = entry["si_sdri_db"]
        lines.append(
            f"| {names.get(name, name.replace('_', ' '))} | {decibels(own['mean'])} "
            f"| {decibels(own['median'])} | {share(own['share_improved'])} "
            f"| {decibels(entry['sdri_db']['mean'])} |"
        )
    return "\n".join(lines)


def licence_table(rows: list[dict[str, Any]]) -> str:
    """Packages and licences of the training sounds."""
    count: Counter[tuple[str, str]] = Counter()
    for row in rows:
        licence = row["license"] or "see the package's copyright file (unlabelled files)"
        count[(row["origin"]["package"], licence)] += 1
    lines = ["| Debian package | licence | sounds |", "|---|---|---|"]
    lines += [f"| {package} | {name} | {n} |" for (package, name), n in sorted(count.items())]
    return "\n".join(lines)


def main() -> None:
    """Assemble the card."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--output", type=Path, default=Path("src/singleout/builtin/README.md"))
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    rows = [json.loads(line) for line in config.manifest.read_text().splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    unlabelled_path = config.manifest.with_name("unlabelled.jsonl")
    unlabelled = (
        []
        if config.uncaptioned is None
        else [json.loads(line) for line in unlabelled_path.read_text().splitlines()]
    )
    result = json.loads(Path("results/builtin.json").read_text())
    encoder = json.loads(Path("results/encoder_quality.json").read_text())["test"]
    hours = sum(row["seconds"] for row in train) / 3600
    unlabelled_hours = sum(row["seconds"] for row in unlabelled) / 3600
    held_out = sorted({row["origin"]["package"] for row in rows if row["split"] == "test"})
    seed = result["meta"]["config"]["seed"]
    dropout = ", ".join(
        f"p = {step.p}" for step in config.model.manipulation.steps if isinstance(step, Dropout)
    )
    args.output.write_text(
        f"""# The built-in model, v0

The joint text-audio encoder (`encoder/`) and the extractor (`extractor/`) of singleout. Generated
by `python -m recipes.builtin.card`; the recipe is `make builtin`.

## What it is
- Extractor: `ConditionedUNet` at 32 kHz, **trained on sounds alone**: conditioned on audio
  embeddings of the target with dropout ({dropout}), never on a caption.
  {config.steps:,} steps of {config.batch_size} four-second mixtures with two queries each, one
  thread of a 2-core CPU, seed {config.seed}; {len(train):,} sounds, {hours:.1f} hours (`make
  sounds TIER=full`).
- Encoder: all-MiniLM-L6-v2 (Apache-2.0, int8) with our text head; a residual network of our own,
  distilled from YAMNet and a head on it, on the same sounds and {len(unlabelled):,} unlabelled
  files ({unlabelled_hours:.1f} hours) of the same packages. The heads, not the extractor, were
  fitted on captions.

## Quality
Sounds of packages that no part was trained on ({", ".join(held_out)}); two sounds of different
classes, -5 to 5 dB, 4 s. {result["num_mixtures"]} mixtures, seed {seed}; 95 % bootstrap intervals
over target sounds; from `results/builtin.json` (`make bench`).

{quality_table(result)}

Query gap (audio minus text): {decibels(result["query_gap_db"])} dB.

Encoder on the {encoder["num_sounds"]} test sounds (`results/encoder_quality.json`): pair accuracy
{encoder["pair_accuracy_families"]:.3f} between families and {encoder["pair_accuracy_classes"]:.3f}
between classes; text-to-audio hit@1 {encoder["hit_at_1"]:.2f} and hit@5 {encoder["hit_at_5"]:.2f}
over {encoder["num_classes"]} classes; matched cosine {encoder["matched_cosine"]:.2f}.

## What it cannot do
- It does not say that a sound is absent: asked for something that is not there, it returns whatever
  is nearest.
- Negative prompts are refused.
- Two sounds of one kind (two voices, two dogs) are not told apart.
- Everything above 16 kHz goes to the residual.
- Music, speech in many voices and dense real scenes are far from its training mixtures of two or
  three isolated sounds.

## Licences of the training sounds
Most are CC-BY-SA or GPL. `make builtin CONFIG=configs/permissive.yaml` trains encoder and
extractor on the permissively licensed ones alone.

{licence_table(train + unlabelled)}
""",
        encoding="utf-8",
    )
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
