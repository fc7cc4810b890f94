"""Write the model card and the README's table of quality from the manifest and the results.

The card is ``src/singleout/builtin/README.md``. Command: ``make card``.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from recipes.documents import fill_in
from singleout.config import load_config
from singleout.manipulations import Dropout, Neighbours
from singleout.model.calibration import CLOSED, OPEN
from singleout.train.config import TrainConfig

RESULTS = Path("results")


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
        scores = entry["si_sdri_db"]
        lines.append(
            f"| {names.get(name, name.replace('_', ' '))} | {decibels(scores['mean'])} "
            f"| {decibels(scores['median'])} | {share(scores['share_improved'])} "
            f"| {decibels(entry['sdri_db']['mean'])} |"
        )
    return "\n".join(lines)


def short_table(result: dict[str, Any], by_kind: dict[str, dict[str, Any]]) -> str:
    """The table of the README: a few rows for the most common queries.

    Args:
        result: of ``singleout evaluate``.
        by_kind: results of ``singleout evaluate --questions``, by the number of sounds.
    """
    lines = ["| query | mean SI-SDRi | median | mixtures improved |", "|---" * 4 + "|"]
    three = by_kind["3 sounds"]["questions"]["text"]
    rows = {
        "text": result["systems"]["text"]["si_sdri_db"],
        "audio (the recording that the target was cut from)": result["systems"]["audio"][
            "si_sdri_db"
        ],
        "text, three sounds": three["si_sdri_db"],
    }
    for name, scores in rows.items():
        median = scores["median"]["estimate"]
        improved = 100 * scores["share_improved"]["estimate"]
        lines.append(
            f"| {name} | {decibels(scores['mean'])} dB | {median:.2f} dB | {improved:.0f} % |"
        )
    return "\n".join(lines)


def questions_table(results: dict[str, dict[str, Any]]) -> str:
    """One row per set of mixtures and kind of query, of ``singleout evaluate --questions``."""
    lines = [
        "| mixtures | query | mean SI-SDRi, dB | improved | within 3 dB of its level "
        "| output below mixture, dB (median) |",
        "|---|---|---|---|---|---|",
    ]
    for title, result in results.items():
        for kind, entry in result["questions"].items():
            cells = [title, kind, "", "", ""]
            if (scores := entry.get("si_sdri_db")) is not None:
                level = share(entry["level_within_3_db"])
                improved = share(scores["share_improved"])
                cells = [title, kind, decibels(scores["mean"]), improved, level]
            lines.append("| " + " | ".join([*cells, decibels(entry["suppression_db"])]) + " |")
    return "\n".join(lines)


def families_table(rows: list[dict[str, Any]]) -> str:
    """Scores of text queries by the family of the target, the easiest first."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["question"] == "text":
            by_family.setdefault(row["family"], []).append(row)

    def mean(members: list[dict[str, Any]], key: str) -> float:
        return sum(float(row[key]) for row in members) / len(members)

    lines = [
        "| family | mixtures | sounds | mean SI-SDRi, dB | improved |",
        "|---|---|---|---|---|",
    ]
    ordered = sorted(by_family.items(), key=lambda item: -mean(item[1], "si_sdri_db"))
    for family, members in ordered:
        sounds = len({row["target"] for row in members})
        lines.append(
            f"| {family} | {len(members)} | {sounds} | {mean(members, 'si_sdri_db'):.2f} "
            f"| {100 * mean(members, 'improved'):.0f} % |"
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


def description(
    config: TrainConfig, train: list[dict[str, Any]], unlabelled: list[dict[str, Any]]
) -> str:
    """What the extractor is, and how it was trained.

    Args:
        config: of the run that made it.
        train, unlabelled: rows of the manifests of its sounds, with and without captions.
    """
    steps = config.model.manipulation.steps
    dropout = ", ".join(f"p = {step.p}" for step in steps if isinstance(step, Dropout))
    near = [step for step in steps if isinstance(step, Neighbours)]
    lines = [
        "Extractor: `ConditionedUNet` at 32 kHz.",
        f"It is conditioned on embeddings, with dropout ({dropout}).",
    ]
    if config.p_text:
        lines.append(
            f"{100 * config.p_text:.0f} % of the queries for captioned sounds are a caption of the "
            "target, the others its audio embedding."
        )
    else:
        lines.append(
            "It was **trained on sounds alone**: the queries are audio embeddings of the target"
            + (
                f", or in {100 * near[0].p:.0f} % of the cases of a sound near to it"
                if near
                else ""
            )
            + ", and never a caption."
        )
    if near:
        lines.append(
            f"A text is answered by {near[0].sounds} sounds near to it, with one decoding each "
            "([how](../../../docs/questions.md#how-a-text-is-answered))."
        )
    lines.append("It takes negative prompts.")
    low, high = config.mixtures.num_sources
    hours, unlabelled_hours = (
        sum(row["seconds"] for row in rows) / 3600 for rows in (train, unlabelled)
    )
    training = [
        f"Training: {config.steps:,} steps of {config.batch_size} four-second mixtures of {low} to "
        f"{high} sounds, with two queries each, on a 2-core CPU, seed {config.seed}.",
        "It started from nothing."
        if config.init is None
        else "It continued v2 (`warm_start`) after 1,000 steps with nearer sounds. v0 had 6,500 "
        "steps from nothing, v1 3,100 more, and v2 3,000 more.",
    ]
    sounds = [
        f"Sounds: {len(train):,} with captions, {hours:.1f} hours (`make sounds TIER=full`), and "
        f"{len(unlabelled):,} without, {unlabelled_hours:.1f} hours (`--unlabelled`)."
    ]
    return "\n".join(_wrapped(" ".join(["-", *each])) for each in (lines, training, sounds))


def quality(
    rows: list[dict[str, Any]], result: dict[str, Any], by_kind: dict[str, dict[str, Any]]
) -> str:
    """The section with all scores.

    Args:
        rows: of the manifest.
        result: of ``singleout evaluate``.
        by_kind: results of ``singleout evaluate --questions``, by the number of sounds.
    """
    test_packages = sorted({row["origin"]["package"] for row in rows if row["split"] == "test"})
    two = by_kind["2 sounds"]
    encoder = _read(RESULTS / "encoder_quality.json")["test"]
    setting = _wrapped(
        "The mixtures have two sounds of different classes, -5 to 5 dB, 4 s. The sounds are from "
        "packages that no part of the model was trained on: "
        f"{', '.join(f'`{package}`' for package in test_packages)}. There are "
        f"{result['num_mixtures']} mixtures, seed {result['meta']['config']['seed']}. Intervals "
        "are 95 % bootstrap intervals over target sounds. The scores are in `results/builtin.json` "
        "(`make bench`)."
    )
    presence = _wrapped(
        "Presence is measured by the encoder. It is higher for present sounds than for absent ones "
        f"with an area under the curve of {decibels(two['presence_auroc']['absent'])}, and than "
        f"for near misses with {decibels(two['presence_auroc']['near miss'])}. The calibration "
        f"error is {two['presence_calibration_error']:.3f}. A negative prompt adds "
        f"{decibels(two['negative_adds_db'])} dB."
    )
    return f"""{setting}

{quality_table(result)}

Query gap (audio minus text): {decibels(result["query_gap_db"])} dB.

All kinds of queries, on mixtures of the same sounds (`results/builtin_questions.json`,
`results/builtin_questions_3.json`; [what they are](../../../docs/questions.md)):

{questions_table(by_kind)}

{presence}

Text queries by family of the target (two sounds, few mixtures each):

{families_table(_lines(RESULTS / "builtin_questions.rows.jsonl"))}

Listen to [some cases](../../../examples/cases/README.md), the worst among them.

Encoder on the {encoder["num_sounds"]} test sounds (`results/encoder_quality.json`):

- pair accuracy {encoder["pair_accuracy_families"]:.3f} between families and
  {encoder["pair_accuracy_classes"]:.3f} between classes;
- text-to-audio hit@1 {encoder["hit_at_1"]:.2f} and hit@5 {encoder["hit_at_5"]:.2f} over
  {encoder["num_classes"]} classes;
- matched cosine {encoder["matched_cosine"]:.2f}."""


def limits(two: dict[str, Any]) -> str:
    """What the model cannot do.

    Args:
        two: result of ``singleout evaluate --questions`` on two sounds.
    """
    near_db, absent_db = (
        two["questions"][kind]["suppression_db"]["estimate"] for kind in ("near miss", "absent")
    )
    rows = _lines(RESULTS / "builtin_questions.rows.jsonl")
    presence = [row["presence"] for row in rows if row["question"] == "text"]
    half_closed, closed = (
        sum(probability < edge for probability in presence) / len(presence)
        for edge in ((CLOSED + OPEN) / 2, CLOSED)
    )
    points = (
        "It cannot tell near misses. For an absent sound of a family that is present, the output "
        f"is {near_db:.0f} dB below the mixture (median; {absent_db:.0f} dB for other absent "
        "sounds).",
        f"Presence is a hint and no more. {100 * half_closed:.0f} % of the present sounds are "
        f"taken for absent and become quieter, {100 * closed:.0f} % nearly silent "
        "([how](../../../docs/questions.md#the-level-of-a-target)).",
        "It does not answer texts as well as sounds: see the query gap. A negative prompt helps a "
        "little.",
        "It cannot separate two sounds of one kind, such as two voices or two dogs.",
        "Everything above 16 kHz goes to the residual.",
        "Music, speech in many voices and dense real scenes are far from its training mixtures. "
        "These have a few isolated sounds, with echoes and noise added.",
    )
    return "\n".join(_wrapped(f"- {point}") for point in points)


def card(
    config: TrainConfig,
    rows: list[dict[str, Any]],
    unlabelled: list[dict[str, Any]],
    result: dict[str, Any],
    by_kind: dict[str, dict[str, Any]],
) -> str:
    """The whole model card; the arguments are those of its sections."""
    train = [row for row in rows if row["split"] == "train"]
    return f"""# The built-in model, v3

This folder has the joint text-audio encoder (`encoder/`) and the extractor (`extractor/`) of
singleout. `python -m recipes.builtin.card` wrote this page. `make builtin` is the recipe, except
for the 1,000 steps between v2 and its run.

## What it is
{description(config, train, unlabelled)}
- Encoder: all-MiniLM-L6-v2 (Apache-2.0, int8) with our text heads, and a residual network of ours
  for audio. The network was distilled on the same sounds from YAMNet (Apache-2.0), from a network
  trained on libraries of sound effects (aiSFX: Ma and Lerch, 2022, CC BY 4.0), and from heads on
  both. The heads were fitted on captions.

## Quality
{quality(rows, result, by_kind)}

## What it cannot do
{limits(by_kind["2 sounds"])}

## Licences of the training sounds
Most of the captioned sounds are CC-BY-SA or GPL. The licences of the others are in the copyright
files of their packages. `make builtin CONFIG=configs/permissive.yaml` trains encoder and extractor
on the permissively licensed sounds only.

{licence_table(train + unlabelled)}
"""


def main() -> None:
    """Write the card, and the table of the README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--output", type=Path, default=Path("src/singleout/builtin/README.md"))
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    unlabelled = config.manifest.with_name("unlabelled.jsonl")
    result = _read(RESULTS / "builtin.json")
    by_kind = {
        "2 sounds": _read(RESULTS / "builtin_questions.json"),
        "3 sounds": _read(RESULTS / "builtin_questions_3.json"),
    }
    text = card(
        config,
        _lines(config.manifest),
        [] if config.uncaptioned is None else _lines(unlabelled),
        result,
        by_kind,
    )
    args.output.write_text(text, encoding="utf-8")
    fill_in(Path("README.md"), {"quality": short_table(result, by_kind)})
    print(f"wrote {args.output}")


def _wrapped(text: str) -> str:
    """A paragraph, or a list item that begins with ``- ``, in lines of 96 characters."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, 96, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
