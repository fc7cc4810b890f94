"""Cases of the built-in model that one can listen to: what it did worst, in the middle and best.

Of the mixtures of ``singleout evaluate --questions`` (its rows), those whose sounds may be passed
on freely: mixture, what came out for the words, and what should have, as small Ogg files, with a
table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputKind, new_audio
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import MixtureConfig, Planner
from singleout.data.render import render
from singleout.model import QueriedSeparator
from singleout.types import Query

EACH = 3


def chosen(
    rows: list[dict[str, Any]], free: set[int], each: int = EACH
) -> list[tuple[str, dict[str, Any]]]:
    """Of the mixtures ``free``, asked by text: the worst, those around the median, the best."""
    own = [row for row in rows if row["question"] == "text" and row["mixture"] in free]
    own.sort(key=lambda row: row["si_sdri_db"])
    middle = max(0, len(own) // 2 - each // 2)
    parts = {"worst": own[:each], "median": own[middle : middle + each], "best": own[-each:]}
    return [(name, row) for name, part in parts.items() for row in part]


def write(path: Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """As Ogg Vorbis."""
    info = AudioInfo(sample_rate, 1)
    with new_audio(path, info, OutputKind("ogg", "VORBIS")) as file:
        file.write(audio[None])


def free_mixtures(
    clips: list[Clip], planner: Planner, num_mixtures: int, licences: dict[str, dict[str, Any]]
) -> dict[int, str]:
    """Numbers of the mixtures of redistributable sounds alone, and where those come from."""
    found = {}
    for index in range(num_mixtures):
        sources = [clips[source.clip] for source in planner.plan(0, index).sources]
        facts = [licences[source.path.name] for source in sources]
        if all(fact["redistributable"] for fact in facts):
            credits = (f"{f['origin']['package']} ({f['license']})" for f in facts)
            found[index] = ", ".join(dict.fromkeys(credits))
    return found


def main() -> None:
    """Write ``examples/cases``: the files, and README.md with their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/builtin_questions.json"))
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("examples/cases"))
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    meta = json.loads(args.results.read_text())["meta"]
    lines = args.results.with_suffix(".rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    model = QueriedSeparator.from_pretrained(args.model)
    clips = read_manifest(args.manifest, "test")
    listed = [json.loads(line) for line in args.manifest.read_text().splitlines()]
    licences = {Path(row["path"]).name: row for row in listed}
    mixtures = MixtureConfig(**meta["config"]["mixtures"])
    planner = Planner(clips, mixtures, meta["config"]["seed"])
    free = free_mixtures(clips, planner, meta["config"]["num_mixtures"], licences)

    args.output.mkdir(parents=True, exist_ok=True)
    for old in args.output.glob("*.ogg"):
        old.unlink()
    table = [
        "| case | asked for | beside it | SI-SDRi, dB | sounds from |",
        "|---|---|---|---|---|",
    ]
    for number, (name, row) in enumerate(chosen(rows, set(free))):
        spec = planner.plan(0, row["mixture"])
        rendered = render(spec, clips, mixtures, model.sample_rate)
        target, other = (clips[source.clip] for source in spec.sources[:2])
        assert target.caption is not None
        with torch.inference_mode():
            condition = model.embed(Query(positive=(target.caption,)))
            estimate = model(torch.from_numpy(rendered.mixture)[None, None], condition)
        stem = f"{name}-{number % EACH + 1}"
        parts = {
            "mixture": rendered.mixture,
            "output": estimate[0, 0].float().numpy(),
            "target": rendered.sources[0],
        }
        for kind, audio in parts.items():
            write(args.output / f"{stem}.{kind}.ogg", audio, model.sample_rate)
        links = " ".join(f"[{kind}]({stem}.{kind}.ogg)" for kind in parts)
        table.append(
            f"| {name}: {links} | {target.caption} | {other.caption} | {row['si_sdri_db']:.1f} "
            f"| {free[row['mixture']]} |"
        )
    head = (
        "# Cases to listen to\n\nOf the held-out mixtures of freely redistributable sounds, asked "
        f"by words: the worst, those around the median, the best; {len(free)} mixtures of "
        f"`{args.results}`. Written by `python -m recipes.builtin.showcase`.\n\n"
    )
    (args.output / "README.md").write_text(head + "\n".join(table) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
