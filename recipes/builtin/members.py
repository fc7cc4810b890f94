"""Compare settings of ``Neighbours``: the number, diversity and weights of the sounds for words.

Command: ``python -m recipes.builtin.members [--model MODEL] [--mixtures N]``.

The packaged model separates mixtures of two validation sounds with every setting of the grid. The
scores go to ``results/members.json``, and ``docs/experiments.md`` shows them as a table. Each sound
is decoded once per mixture, even if several settings use it.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from recipes.documents import fill_in
from singleout.config import load_config
from singleout.data.clips import Clip
from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES, Planner
from singleout.data.render import render
from singleout.evaluate.metrics import score
from singleout.manipulations import Neighbours
from singleout.model import QueriedSeparator
from singleout.model.calibration import LEVEL_TOLERANCE_DB
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig

RESULTS = Path("results/members.json")
DOCUMENT = Path("docs/experiments.md")
SEED = 7
"""Of the mixtures."""
EQUAL = 1e3
"""A temperature at which all sounds have the same weight."""
GRID = [
    Neighbours(sounds=1),
    *(Neighbours(sounds=k, diversity=0.5, temperature=EQUAL) for k in (2, 4, 8)),
    *(Neighbours(sounds=k, diversity=0.5, temperature=0.1) for k in (2, 4, 6, 8)),
    *(Neighbours(sounds=4, diversity=d, temperature=0.1) for d in (0.0, 0.35, 0.75)),
    *(Neighbours(sounds=4, diversity=0.5, temperature=t) for t in (0.05, 0.2)),
]


def separate(
    model: QueriedSeparator, memory: Tensor, words: Tensor, mixture: Tensor
) -> Iterator[Tensor]:
    """For each setting of the grid, the estimate [samples] of the target.

    Args:
        model: the extractor.
        memory: sounds of ``Neighbours``, [sounds, dim].
        words: embedding of the text query, [1, dim].
        mixture: [samples].
    """
    settings = [step.condition(words, True, {"memory": memory}) for step in GRID]
    sounds = torch.cat([condition.embeddings[0] for condition in settings])
    different, place = torch.unique(sounds, dim=0, return_inverse=True)
    conditions = [model.condition(sound[None], is_text=False) for sound in different]
    estimates = torch.stack([e[0, 0] for e in model.separate(mixture[None, None], conditions)])
    first = 0
    for condition in settings:
        parts = place[first : first + condition.weights.shape[1]]
        first += len(parts)
        yield (condition.weights[0, :, None] * estimates[parts]).sum(0).float()


@torch.inference_mode()
def scored(model: QueriedSeparator, clips: list[Clip], num_mixtures: int) -> list[dict[str, Any]]:
    """Scores of each setting of the grid.

    Raises:
        SystemExit: the model has no ``Neighbours``.
    """
    state = model.manipulator.state
    if state is None or not isinstance(model.config.manipulation.steps[0], Neighbours):
        raise SystemExit("error: the manipulation of this model does not begin with 'neighbours'")
    mixtures = SCORED_MIXTURES.model_copy(update={"num_sources": (2, 2)})
    planner = Planner(clips, mixtures, SEED)
    gains: list[list[float]] = [[] for _ in GRID]
    close: list[list[bool]] = [[] for _ in GRID]
    for index in track(range(num_mixtures), "separating"):
        spec = planner.plan(0, index)
        rendered = render(spec, clips, mixtures, model.sample_rate)
        mixture, target = (torch.from_numpy(x) for x in (rendered.mixture, rendered.sources[0]))
        caption = clips[spec.sources[0].clip].caption
        assert caption is not None
        words = model.encoder.embed_text(caption)
        for number, estimate in enumerate(separate(model, state["0.memory"], words, mixture)):
            gains[number].append(float(score(estimate, target, mixture).si_sdr_improvement))
            ratio = estimate.square().mean() / target.square().mean()
            close[number].append(abs(10 * float(ratio.log10())) <= LEVEL_TOLERANCE_DB)
    return [
        {
            "sounds": step.sounds,
            "diversity": step.diversity,
            "temperature": step.temperature,
            "mean_si_sdri_db": round(float(np.mean(gain)), 3),
            "median_si_sdri_db": round(float(np.median(gain)), 3),
            "share_improved": round(float(np.mean(np.array(gain) > 0)), 4),
            "share_level_within_3_db": round(float(np.mean(level)), 4),
        }
        for step, gain, level in zip(GRID, gains, close, strict=True)
    ]


def table(rows: list[dict[str, Any]], chosen: Neighbours) -> str:
    """Markdown table of the settings; the chosen one is bold."""
    lines = [
        "| sounds | diversity | temperature | mean, dB | median, dB | improved | level |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        setting = (row["sounds"], row["diversity"], row["temperature"])
        is_chosen = setting == (chosen.sounds, chosen.diversity, chosen.temperature)
        weighted = "equal" if row["temperature"] == EQUAL else f"{row['temperature']}"
        cells = [str(row["sounds"]), str(row["diversity"]), weighted]
        if row["sounds"] == 1:
            cells[1:] = ["", ""]
        cells = [f"**{cell}**" if is_chosen and cell else cell for cell in cells]
        cells += [f"{row['mean_si_sdri_db']:.2f}", f"{row['median_si_sdri_db']:.2f}"]
        cells += [f"{100 * row[k]:.0f} %" for k in ("share_improved", "share_level_within_3_db")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Score the grid, and write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--model", help="default: the packaged model")
    parser.add_argument("--mixtures", type=int, default=150)
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    model = QueriedSeparator.from_pretrained(args.model)
    rows = scored(model, list(read_manifest(config.manifest, "validation")), args.mixtures)
    meta = {
        "command": f"python -m recipes.builtin.members --mixtures {args.mixtures}",
        "seed": SEED,
        "encoder": model.encoder.fingerprint,
        "model": model.config.sha256,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    with replacing(RESULTS) as partial:
        partial.write_text(json.dumps({"meta": meta, "rows": rows}, indent=1) + "\n")
    chosen = config.model.manipulation.steps[0]
    assert isinstance(chosen, Neighbours)
    fill_in(DOCUMENT, {"members": table(rows, chosen)})


if __name__ == "__main__":
    main()
