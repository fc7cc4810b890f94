"""Run a model on a benchmark: one row of scores per item, and the numbers the field reports.

Scores are taken at the protocol's rate. A model of another rate hears the mixture resampled, and
its estimate is resampled back: what it cannot represent counts against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.audio import resample
from singleout.encoders import QueryEncoder
from singleout.errors import InputError, ModelError
from singleout.evaluate.benchmarks import Item, Protocol, Signals
from singleout.evaluate.bss_eval import bss_eval_sdr
from singleout.evaluate.clap_score import clap_score, warn_if_conditioning
from singleout.evaluate.metrics import is_silent, sa_sdr, score, si_sdr, suppression
from singleout.evaluate.references import REFERENCES
from singleout.evaluate.statistics import bootstrap_interval
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.types import Query

SCORES = (
    "sdr_db",
    "sdri_db",
    "si_sdr_db",
    "si_sdri_db",
    "ruled_si_sdri_db",
    "sa_sdr_db",
    "bss_eval_sdr_db",
    "bss_eval_sdri_db",
    "suppression_db",
    "clap_score",
)
"""What a row may hold besides what was asked; None where it is undefined."""


@dataclass(frozen=True)
class Extras:
    """What is scored besides SDR, SI-SDR, SA-SDR and suppression.

    Attributes:
        bss_eval: BSS-eval SDR, about as costly as a fast model.
        references: the reference systems too, see `singleout.evaluate.references`.
        judge: the encoder of CLAPScore.
    """

    bss_eval: bool = False
    references: bool = False
    judge: QueryEncoder | None = None


@torch.inference_mode()
def run(
    model: QueriedSeparator,
    protocol: Protocol,
    items: Sequence[Item],
    extras: Extras,
) -> list[dict[str, Any]]:
    """One row per item and system, in order.

    Warns (`JudgeWarning`) if the judge is the encoder that conditions the model.

    Raises:
        InputError: the items have no targets and there is no judge; or an item cannot be mixed.
        AudioError: a file is damaged.
        ModelError: the model's output is not finite.
    """
    rows: list[dict[str, Any]] = []
    rate = protocol.sample_rate
    if extras.judge is not None:
        warn_if_conditioning(extras.judge, model.encoder)
    for number, item in enumerate(track(items, protocol.name, len(items))):
        signals = item.load(rate)
        if signals.target is None and extras.judge is None:
            raise InputError(
                f"{protocol.name}: its targets are not published, CLAPScore alone can be computed: "
                "name an encoder for it (--clap-score)"
            )
        for system, estimate in _estimates(model, item, signals, rate, extras).items():
            rows.append(
                {
                    "item": number,
                    "origin": Path(item.origin).name,
                    "system": system,
                    "query": item.caption,
                    "label": item.label,
                    "target": item.target,
                    "interference": list(item.interference),
                    "absent": item.is_absent,
                    **_scores(estimate, item, signals, rate, extras),
                }
            )
    return rows


def summary(
    rows: Sequence[dict[str, Any]], protocol: Protocol
) -> dict[str, dict[str, dict[str, Any]]]:
    """Per system and score the protocol's aggregate, with a 95 % bootstrap interval over targets.

    Each entry holds ``estimate``, ``low``, ``high`` and ``count``, the number of items on which
    the score is defined. ``silent_share`` is over items whose target is not known to be absent,
    ``absent_silent_share`` over the others.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        result[system] = {
            key: _interval(defined, key, protocol)
            for key in SCORES
            if (defined := [row for row in own if row[key] is not None])
        }
        for key, is_absent in (("silent_share", False), ("absent_silent_share", True)):
            if asked := [row for row in own if row["absent"] == is_absent]:
                share = float(np.mean([row["silent"] for row in asked]))
                result[system][key] = {"estimate": share, "count": len(asked)}
    return result


def by_label(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Means of the model's scores over the items of each label, without intervals."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label and row["system"] == "model"]
        values = {key: [row[key] for row in own if row[key] is not None] for key in SCORES}
        result[label] = {
            key: {"estimate": float(np.mean(found)), "count": len(found)}
            for key, found in values.items()
            if found
        }
    return result


def _interval(rows: Sequence[dict[str, Any]], key: str, protocol: Protocol) -> dict[str, Any]:
    values = [float(row[key]) for row in rows]
    statistic = protocol.aggregation.statistic([row["label"] for row in rows])
    targets = np.unique([row["target"] for row in rows], return_inverse=True)[1]
    return {**bootstrap_interval(values, targets, statistic), "count": len(values)}


def _estimates(
    model: QueriedSeparator, item: Item, signals: Signals, rate: int, extras: Extras
) -> dict[str, Tensor]:
    found = {"model": _extract(model, signals.mixture, rate, item)}
    if extras.references:
        mixture = torch.from_numpy(signals.mixture)
        if signals.target is None:
            found["mixture"] = mixture
        else:
            target = torch.from_numpy(signals.target)
            found |= {name: system(mixture, target) for name, system in REFERENCES.items()}
    return found


def _extract(
    model: QueriedSeparator, mixture: NDArray[np.float32], rate: int, item: Item
) -> Tensor:
    """The model's estimate [samples], of the mixture's rate and length."""
    heard = torch.from_numpy(resample(mixture, rate, model.sample_rate))
    found = model.extract_clip(heard[None, None], [model.embed(Query((item.caption,)))])[0, 0]
    if not found.isfinite().all():
        raise ModelError(f"{item.origin}: the model's output is not finite: are its weights whole?")
    estimate = resample(found.numpy(), model.sample_rate, rate)
    missing = max(0, len(mixture) - len(estimate))  # rates may not divide
    return torch.from_numpy(np.pad(estimate, (0, missing))[: len(mixture)])


def _scores(
    estimate: Tensor, item: Item, signals: Signals, rate: int, extras: Extras
) -> dict[str, Any]:
    mixture = torch.from_numpy(signals.mixture)
    row: dict[str, Any] = dict.fromkeys(SCORES)
    if signals.target is not None:
        target = torch.from_numpy(signals.target)
        scores = score(estimate, target, mixture)
        row["sa_sdr_db"] = sa_sdr(estimate, target, mixture)
        if not scores.is_present:
            row["suppression_db"] = suppression(estimate, mixture)
        if not item.is_absent:
            plain, unprocessed = si_sdr(estimate, target), si_sdr(mixture, target)
            row |= {
                "sdr_db": scores.sdr,
                "sdri_db": scores.sdr_improvement,
                "si_sdr_db": plain,
                "si_sdri_db": plain - unprocessed,
                "ruled_si_sdri_db": scores.si_sdr_improvement,
            }
            if extras.bss_eval:
                found = bss_eval_sdr(torch.stack([estimate, mixture]), target.expand(2, -1))
                row |= {"bss_eval_sdr_db": found[0], "bss_eval_sdri_db": found[0] - found[1]}
    if extras.judge is not None and not item.is_absent:
        row["clap_score"] = clap_score(extras.judge, estimate[None], rate, [item.caption])[0]
    values = {key: None if value is None else float(value) for key, value in row.items()}
    defined = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
    return {**defined, "silent": bool(is_silent(estimate, mixture))}
