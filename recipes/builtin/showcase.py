"""Write cases of the built-in model to listen to: the worst, those around the median, the best.

Command: ``python -m recipes.builtin.showcase --manifest FILE``, a step of ``make card``.

The mixtures are of test sounds that may be passed on freely. Each case has the mixture, the output
for the text query and the target as small Ogg files, and a row in a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputKind, new_audio
from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES, Planner
from singleout.data.render import render
from singleout.evaluate.metrics import score
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.types import Query

EACH = 3
SEED = 0
"""Seed of the mixtures."""


class Case(NamedTuple):
    """A mixture and the output for a text query, which is the caption of its first sound.

    Attributes:
        si_sdri_db: of the output.
        query: caption of the target.
        other: caption of the other sound.
        credits: packages and licences of the sounds.
        mixture, output, target: [samples].
    """

    si_sdri_db: float
    query: str
    other: str
    credits: str
    mixture: NDArray[np.float32]
    output: NDArray[np.float32]
    target: NDArray[np.float32]


def chosen(cases: list[Case], each: int = EACH) -> list[tuple[str, Case]]:
    """The worst cases, those around the median and the best, each with its name.

    Args:
        cases: all cases.
        each: number of cases of each kind.
    """
    ordered = sorted(cases, key=lambda case: case.si_sdri_db)
    middle = max(0, len(ordered) // 2 - each // 2)
    parts = {
        "worst": ordered[:each],
        "median": ordered[middle : middle + each],
        "best": ordered[-each:],
    }
    return [(name, case) for name, part in parts.items() for case in part]


def write(path: Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write audio [samples] as Ogg Vorbis."""
    info = AudioInfo(sample_rate, 1)
    with new_audio(path, info, OutputKind("ogg", "VORBIS")) as file:
        file.write(audio[None])


@torch.inference_mode()
def cases_of(model: QueriedSeparator, manifest: Path, num_mixtures: int) -> list[Case]:
    """Mixtures of two redistributable test sounds, with the outputs of the model."""
    listed = [json.loads(line) for line in manifest.read_text().splitlines()]
    facts = {Path(row["path"]).name: row for row in listed}
    clips = [
        clip
        for clip in read_manifest(manifest, "test")
        if facts[clip.path.name]["redistributable"] and clip.caption is not None
    ]
    planner = Planner(clips, SCORED_MIXTURES, SEED)
    cases = []
    for index in track(range(num_mixtures), "separating", num_mixtures):
        spec = planner.plan(0, index)
        rendered = render(spec, clips, SCORED_MIXTURES, model.sample_rate)
        sources = [clips[source.clip] for source in spec.sources]
        target, other = (clip.caption or "" for clip in sources[:2])
        mixture = torch.from_numpy(rendered.mixture)
        output = model.extract_clip(mixture[None, None], [model.embed(Query((target,)))])[0, 0]
        gain = score(output, torch.from_numpy(rendered.sources[0]), mixture).si_sdr_improvement
        rows = (facts[clip.path.name] for clip in sources)
        credits = dict.fromkeys(f"{row['origin']['package']} ({row['license']})" for row in rows)
        parts = (rendered.mixture, output.numpy(), rendered.sources[0])
        cases.append(Case(float(gain), target, other, ", ".join(credits), *parts))
    return cases


def main() -> None:
    """Write ``examples/cases``: the files, and README.md with their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--mixtures", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("examples/cases"))
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    model = QueriedSeparator.from_pretrained(args.model)
    cases = cases_of(model, args.manifest, args.mixtures)
    args.output.mkdir(parents=True, exist_ok=True)
    for old in args.output.glob("*.ogg"):
        old.unlink()
    table = [
        "| case | query | other sound | SI-SDRi, dB | sounds from |",
        "|---|---|---|---|---|",
    ]
    for number, (name, case) in enumerate(chosen(cases)):
        stem = f"{name}-{number % EACH + 1}"
        kinds = ("mixture", "output", "target")
        for kind in kinds:
            write(args.output / f"{stem}.{kind}.ogg", getattr(case, kind), model.sample_rate)
        links = " ".join(f"[{kind}]({stem}.{kind}.ogg)" for kind in kinds)
        table.append(
            f"| {name}: {links} | {case.query} | {case.other} | {case.si_sdri_db:.1f} "
            f"| {case.credits} |"
        )
    head = (
        f"# Cases to listen to\n\nOf {len(cases)} mixtures (seed {SEED}) of the test sounds that "
        "may be passed on freely, with text queries: the worst, those around the median, the best. "
        "The outputs are those of `singleout extract`, at the level of the gate. "
        "Written by `python -m recipes.builtin.showcase`.\n\n"
    )
    (args.output / "README.md").write_text(head + "\n".join(table) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
