"""Score a model on fixed mixtures of a manifest's sounds, with text and with audio queries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.manifest import Clip
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig, Planner
from singleout.data.render import Mixture, read_crop, render
from singleout.errors import ManifestError
from singleout.evaluate.metrics import score
from singleout.evaluate.references import REFERENCES, Reference
from singleout.evaluate.statistics import bootstrap_interval, summarise
from singleout.model import QueriedSeparator
from singleout.progress import track

QUERY_KINDS = ("text", "audio")


class EvaluationConfig(StrictConfig):
    """What is scored.

    Args:
        num_mixtures: how many.
        seed: of the mixtures; the same seed and manifest give the same mixtures.
        mixtures: how they are drawn; the first sound of each is the target.
    """

    num_mixtures: int = 600
    seed: int = 0
    mixtures: MixtureConfig = SCORED_MIXTURES


@dataclass(frozen=True)
class Task:
    """One mixture and what is asked of it; ``crop`` of the target's clip is in the mixture."""

    rendered: Mixture
    target: Clip
    crop: int
    interference: Clip


def tasks(clips: Sequence[Clip], config: EvaluationConfig, sample_rate: int) -> Iterator[Task]:
    """The fixed mixtures, in order.

    Raises:
        ManifestError: a target has no caption.
    """
    planner = Planner(clips, config.mixtures, config.seed)
    for index in range(config.num_mixtures):
        spec = planner.plan(0, index)
        target = clips[spec.sources[0].clip]
        if target.caption is None:
            raise ManifestError(f"{target.path}: has no caption to be asked for by text")
        rendered = render(spec, clips, config.mixtures, sample_rate)
        yield Task(rendered, target, spec.sources[0].crop, clips[spec.sources[1].clip])


def defined(score: Tensor) -> float | None:
    """A score; None where there is none, such as of a target that is silent, as a crop may be."""
    value = float(score)
    return value if math.isfinite(value) else None


def recordings(rows: Sequence[dict[str, Any]]) -> NDArray[np.intp]:
    """Number of the recording that each row's target is of: rows of one are not independent."""
    numbers: NDArray[np.intp] = np.unique([row["recording"] for row in rows], return_inverse=True)[
        1
    ]
    return numbers


def paired(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], key: str
) -> tuple[list[float], NDArray[np.intp]]:
    """Differences of a score where both have it, and whose they are."""
    both = [
        (row, other)
        for row, other in zip(rows, others, strict=True)
        if row[key] is not None and other[key] is not None
    ]
    return [row[key] - other[key] for row, other in both], recordings([row for row, _ in both])


def _row(name: str, estimate: Tensor, task: Task) -> dict[str, Any]:
    mixture = torch.from_numpy(task.rendered.mixture)
    scores = score(estimate, torch.from_numpy(task.rendered.sources[0]), mixture)
    return {
        "system": name,
        "target": task.target.path.name,
        "recording": task.target.group,
        "interference": task.interference.path.name,
        "query": task.target.caption,
        "sdr_db": defined(scores.sdr),
        "sdri_db": defined(scores.sdr_improvement),
        "si_sdr_db": defined(scores.si_sdr),
        "si_sdri_db": defined(scores.si_sdr_improvement),
        "silent": bool(scores.is_silent),
        "improved": bool(scores.improved),
    }


@torch.inference_mode()
def evaluate(
    model: QueriedSeparator,
    clips: Sequence[Clip],
    config: EvaluationConfig,
    references: Mapping[str, Reference] = REFERENCES,
) -> list[dict[str, Any]]:
    """One row per mixture and system: text and audio queries, and the reference systems.

    An audio query is the recording that the target was made of, at its own level and length, as
    in training: what somebody who asks with an example has at hand.
    """
    rows: list[dict[str, Any]] = []
    rate = model.sample_rate
    said: dict[str, Condition] = {}
    progress = track(tasks(clips, config, rate), "evaluating", config.num_mixtures)
    for number, task in enumerate(progress):
        mixture = torch.from_numpy(task.rendered.mixture)
        target = torch.from_numpy(task.rendered.sources[0])
        assert task.target.caption is not None
        caption = task.target.caption
        if caption not in said:
            said[caption] = model.condition(model.encoder.embed_text(caption), is_text=True)
        example = read_crop(task.target, task.crop, config.mixtures, SAMPLE_RATE)
        heard = model.condition(model.encoder.embed_audio(example, SAMPLE_RATE), is_text=False)
        estimates = model.extract_clip(mixture[None, None], [said[caption], heard])[:, 0]
        systems = dict(zip(QUERY_KINDS, estimates, strict=True))
        systems |= {name: estimate(mixture, target) for name, estimate in references.items()}
        rows += [{"mixture": number, **_row(n, e, task)} for n, e in systems.items()]
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, median and share improved per system, with 95 % bootstrap intervals over recordings.

    ``query_gap_db`` is the paired difference of SI-SDRi, audio minus text queries. Mixtures whose
    target is silent have no scores, and count nowhere but in ``num_mixtures``.

    Raises:
        InputError: every target is silent.
    """
    by_system: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_system.setdefault(row["system"], []).append(row)
    result: dict[str, Any] = {"systems": {}}
    for name, own in by_system.items():
        scored = [row for row in own if row["si_sdri_db"] is not None]
        improved = [row["improved"] for row in scored]
        entry: dict[str, Any] = {}
        for key in ("si_sdri_db", "sdri_db"):
            values = [row[key] for row in scored]
            entry[key] = summarise(values, improved, recordings(scored))
        entry["silent_share"] = float(np.mean([row["silent"] for row in own]))
        result["systems"][name] = entry
    text, audio = by_system["text"], by_system["audio"]
    result["query_gap_db"] = bootstrap_interval(*paired(audio, text, "si_sdri_db"))
    result["num_mixtures"] = len(text)
    return result
