"""Cases of the built-in model that one can listen to: what it did worst, in the middle and best.

Of mixtures of those test sounds that may be passed on freely: mixture, what came out for the words,
and what should have, as small Ogg files, with a table.
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
"""Of the mixtures."""


class Case(NamedTuple):
    """One mixture, asked for its first sound by words; audio [samples]."""

    si_sdri_db: float
    asked: str
    beside: str
    credits: str
    mixture: NDArray[np.float32]
    output: NDArray[np.float32]
    target: NDArray[np.float32]


def chosen(cases: list[Case], each: int = EACH) -> list[tuple[str, Case]]:
    """The worst, those around the median, the best; none of them twice."""
    own = sorted(cases, key=lambda case: case.si_sdri_db)
    middle = max(0, len(own) // 2 - each // 2)
    parts = {"worst": own[:each], "median": own[middle : middle + each], "best": own[-each:]}
    return [(name, case) for name, part in parts.items() for case in part]


def write(path: Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """As Ogg Vorbis."""
    info = AudioInfo(sample_rate, 1)
    with new_audio(path, info, OutputKind("ogg", "VORBIS")) as file:
        file.write(audio[None])


@torch.inference_mode()
def cases_of(model: QueriedSeparator, manifest: Path, num_mixtures: int) -> list[Case]:
    """Mixtures of two redistributable test sounds, and what the model makes of them."""
    listed = [json.loads(line) for line in manifest.read_text().splitlines()]
    facts = {Path(row["path"]).name: row for row in listed}
    clips = [
        clip
        for clip in read_manifest(manifest, "test")
        if facts[clip.path.name]["redistributable"] and clip.caption is not None
    ]
    planner = Planner(clips, SCORED_MIXTURES, SEED)
    found = []
    for index in track(range(num_mixtures), "asking", num_mixtures):
        spec = planner.plan(0, index)
        rendered = render(spec, clips, SCORED_MIXTURES, model.sample_rate)
        sources = [clips[source.clip] for source in spec.sources]
        target, other = (clip.caption or "" for clip in sources[:2])
        mixture = torch.from_numpy(rendered.mixture)
        output = model.extract_clip(mixture[None, None], [model.embed(Query((target,)))])[0, 0]
        gain = score(output, torch.from_numpy(rendered.sources[0]), mixture).si_sdr_improvement
        own = (facts[clip.path.name] for clip in sources)
        credits = dict.fromkeys(f"{f['origin']['package']} ({f['license']})" for f in own)
        parts = (rendered.mixture, output.numpy(), rendered.sources[0])
        found.append(Case(float(gain), target, other, ", ".join(credits), *parts))
    return found


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
        "| case | asked for | beside it | SI-SDRi, dB | sounds from |",
        "|---|---|---|---|---|",
    ]
    for number, (name, case) in enumerate(chosen(cases)):
        stem = f"{name}-{number % EACH + 1}"
        kinds = ("mixture", "output", "target")
        for kind in kinds:
            write(args.output / f"{stem}.{kind}.ogg", getattr(case, kind), model.sample_rate)
        links = " ".join(f"[{kind}]({stem}.{kind}.ogg)" for kind in kinds)
        table.append(
            f"| {name}: {links} | {case.asked} | {case.beside} | {case.si_sdri_db:.1f} "
            f"| {case.credits} |"
        )
    head = (
        f"# Cases to listen to\n\nOf {len(cases)} mixtures (seed {SEED}) of the test sounds that "
        "may be passed on freely, asked by words: the worst, those around the median, the best. "
        "What came out is as `singleout extract` gives it, at the level of the gate. "
        "Written by `python -m recipes.builtin.showcase`.\n\n"
    )
    (args.output / "README.md").write_text(head + "\n".join(table) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
