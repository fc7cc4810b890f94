"""Write the model card, ``src/singleout/builtin/README.md``, and the README's table of quality
from the manifest and the results."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from recipes.documents import fill_in
from singleout.config import load_config
from singleout.manipulations import Dropout, Neighbours
from singleout.model.calibration import CLOSED, OPEN
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


def short_table(result: dict[str, Any], asked: dict[str, dict[str, Any]]) -> str:
    """For the README: what most users ask, in a few rows."""
    lines = ["| query | mean SI-SDRi | median | mixtures improved |", "|---" * 4 + "|"]
    three = asked["3 sounds"]["questions"]["text"]
    rows = {
        "text": result["systems"]["text"]["si_sdri_db"],
        "audio (the recording that the target was cut from)": result["systems"]["audio"][
            "si_sdri_db"
        ],
        "text, three sounds": three["si_sdri_db"],
    }
    for name, own in rows.items():
        median = own["median"]["estimate"]
        improved = 100 * own["share_improved"]["estimate"]
        lines.append(
            f"| {name} | {decibels(own['mean'])} dB | {median:.2f} dB | {improved:.0f} % |"
        )
    return "\n".join(lines)


def questions_table(results: dict[str, dict[str, Any]]) -> str:
    """One row per kind of question and set of mixtures, of ``evaluate --questions``."""
    lines = [
        "| mixtures | question | mean SI-SDRi, dB | improved | within 3 dB of its level "
        "| output below mixture, dB (median) |",
        "|---|---|---|---|---|---|",
    ]
    for title, result in results.items():
        for kind, entry in result["questions"].items():
            cells = [title, kind, "", "", ""]
            if (own := entry.get("si_sdri_db")) is not None:
                level = share(entry["level_within_3_db"])
                cells = [title, kind, decibels(own["mean"]), share(own["share_improved"]), level]
            lines.append("| " + " | ".join([*cells, decibels(entry["suppression_db"])]) + " |")
    return "\n".join(lines)


def families_table(rows: list[dict[str, Any]]) -> str:
    """Text queries by family of the target, the easiest first."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["question"] == "text":
            by_family.setdefault(row["family"], []).append(row)

    def mean(own: list[dict[str, Any]], key: str) -> float:
        return sum(row[key] for row in own) / len(own)

    lines = [
        "| family | mixtures | sounds | mean SI-SDRi, dB | improved |",
        "|---|---|---|---|---|",
    ]
    ordered = sorted(by_family.items(), key=lambda item: -mean(item[1], "si_sdri_db"))
    for family, own in ordered:
        sounds = len({row["target"] for row in own})
        lines.append(
            f"| {family} | {len(own)} | {sounds} | {mean(own, 'si_sdri_db'):.2f} "
            f"| {100 * mean(own, 'improved'):.0f} % |"
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
    asked = {
        f"{sources} sounds": json.loads(Path(f"results/builtin_questions{suffix}.json").read_text())
        for sources, suffix in ((2, ""), (3, "_3"))
    }
    text = Path("results/builtin_questions.rows.jsonl").read_text(encoding="utf-8")
    questions = [json.loads(line) for line in text.splitlines()]
    two = asked["2 sounds"]
    near_db, absent_db = (
        two["questions"][kind]["suppression_db"]["estimate"] for kind in ("near miss", "absent")
    )
    told = [row["presence"] for row in questions if row["question"] == "text"]
    half_closed, closed = (
        sum(presence < edge for presence in told) / len(told)
        for edge in ((CLOSED + OPEN) / 2, CLOSED)
    )
    encoder = json.loads(Path("results/encoder_quality.json").read_text())["test"]
    hours = sum(row["seconds"] for row in train) / 3600
    unlabelled_hours = sum(row["seconds"] for row in unlabelled) / 3600
    held_out = sorted({row["origin"]["package"] for row in rows if row["split"] == "test"})
    seed = result["meta"]["config"]["seed"]
    steps = config.model.manipulation.steps
    dropout = ", ".join(f"p = {step.p}" for step in steps if isinstance(step, Dropout))
    near = [step for step in steps if isinstance(step, Neighbours)]
    replaced = f", {100 * near[0].p:.0f} % of them of sounds near to it" if near else ""
    answered = (
        f" Words are\n  answered by {near[0].sounds} sounds near to them, one decoding each "
        "([how](../../../docs/questions.md))."
        if near
        else ""
    )
    low, high = config.mixtures.num_sources
    condition = (
        f"**trained on sounds alone**: conditioned on audio embeddings of the target{replaced},\n"
        f"  with dropout ({dropout}), never on a caption"
        if not config.p_text
        else f"conditioned on a caption of the target ({100 * config.p_text:.0f} % of the queries\n"
        f"  for captioned sounds) or on its audio embedding, with dropout ({dropout})"
    )
    beginning = (
        "from nothing"
        if config.init is None
        else "on from v2 (`warm_start`; 6,500 steps from nothing made v0, 3,100 more v1, 3,000\n"
        "  more v2) and 1,000 steps with nearer sounds"
    )
    args.output.write_text(
        f"""# The built-in model, v3

The joint text-audio encoder (`encoder/`) and the extractor (`extractor/`) of singleout. Generated
by `python -m recipes.builtin.card`; the recipe is `make builtin`, but for
the 1,000 steps between v2 and its run.

## What it is
- Extractor: `ConditionedUNet` at 32 kHz, {condition}.{answered} It takes
  negative prompts. {config.steps:,} steps of {config.batch_size} four-second mixtures of {low} to
  {high} sounds with two queries each, on a 2-core CPU, seed {config.seed}, {beginning}:
  {len(train):,} captioned sounds, {hours:.1f} hours (`make sounds TIER=full`), and
  {len(unlabelled):,} without captions, {unlabelled_hours:.1f} hours (`--unlabelled`).
- Encoder: all-MiniLM-L6-v2 (Apache-2.0, int8) with our text heads; a residual network of our own,
  distilled from YAMNet (Apache-2.0), from a network trained on libraries of sound effects (aiSFX:
  Ma and Lerch, 2022, CC BY 4.0) and from heads on both, on the same sounds. The heads were fitted
  on captions.

## Quality
Sounds of packages that no part was trained on ({", ".join(held_out)}); two sounds of different
classes, -5 to 5 dB, 4 s. {result["num_mixtures"]} mixtures, seed {seed}; 95 % bootstrap intervals
over target sounds; from `results/builtin.json` (`make bench`).

{quality_table(result)}

Query gap (audio minus text): {decibels(result["query_gap_db"])} dB.

Questions of every kind, on mixtures of the same sounds (`results/builtin_questions.json`,
`results/builtin_questions_3.json`; [what they are](../../../docs/questions.md)):

{questions_table(asked)}

Presence, which the encoder tells, is higher for sounds that are there than for absent ones with an
area under the curve of
{decibels(two["presence_auroc"]["absent"])}, from near misses with
{decibels(two["presence_auroc"]["near miss"])}; calibration error
{two["presence_calibration_error"]:.3f}. A negative prompt adds
{decibels(two["negative_adds_db"])} dB.

By family of the target (two sounds, asked in words; few mixtures each):

{families_table(questions)}

Cases to listen to, the worst among them: [examples/cases](../../../examples/cases/README.md).

Encoder on the {encoder["num_sounds"]} test sounds (`results/encoder_quality.json`): pair accuracy
{encoder["pair_accuracy_families"]:.3f} between families and {encoder["pair_accuracy_classes"]:.3f}
between classes; text-to-audio hit@1 {encoder["hit_at_1"]:.2f} and hit@5 {encoder["hit_at_5"]:.2f}
over {encoder["num_classes"]} classes; matched cosine {encoder["matched_cosine"]:.2f}.

## What it cannot do
- Tell near misses: asked for another sound of a family that is there, what comes out is
  {near_db:.0f} dB below the mixture (median; for other absent sounds {absent_db:.0f}). Presence
  is a hint and no more: {100 * half_closed:.0f} % of the sounds that are there are taken for
  absent and given quieter, {100 * closed:.0f} % nearly silent
  ([how](../../../docs/questions.md#the-level-of-a-target)).
- Answer words as well as sounds: see the query gap. A negative prompt helps a little.
- Two sounds of one kind (two voices, two dogs) are not told apart.
- Everything above 16 kHz goes to the residual.
- Music, speech in many voices and dense real scenes are far from its training mixtures of a few
  isolated sounds, echoes and noise added.

## Licences of the training sounds
Most of the captioned ones are CC-BY-SA or GPL; those of the others are not told one by one.
`make builtin CONFIG=configs/permissive.yaml` trains encoder and extractor on the
permissively licensed ones alone.

{licence_table(train + unlabelled)}
""",
        encoding="utf-8",
    )
    fill_in(Path("README.md"), {"quality": short_table(result, asked)})
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
