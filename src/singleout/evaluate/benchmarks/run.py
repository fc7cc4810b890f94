"""Runs a model on a benchmark: one row of scores per item, and the numbers that the field reports.

Scores are taken at the rate of the benchmark. For a model of another rate the mixture is
resampled, and its estimate is resampled back. Frequencies that the model cannot represent count
against it.
"""

from __future__ import annotations

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
from singleout.evaluate.benchmarks.benchmark import Benchmark, Item, Signals
from singleout.evaluate.bss_eval import bss_eval_sdr
from singleout.evaluate.clap_score import clap_score, warn_if_conditioning
from singleout.evaluate.metrics import is_silent, sa_sdr, score, si_sdr, suppression
from singleout.evaluate.references import REFERENCES
from singleout.evaluate.rows import Row, finite_or_none
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
"""Keys of the scores in a row; a score is None where it is not defined."""


@dataclass(frozen=True)
class Extras:
    """Scores besides SDR, SI-SDR, SA-SDR and suppression.

    Attributes:
        bss_eval: also BSS-eval SDR, which takes about as long as a fast model.
        references: also the reference systems; see ``singleout.evaluate.references``.
        judge: the encoder of CLAPScore; None: no CLAPScore.

    Example:
        >>> Extras(bss_eval=True).judge is None
        True
    """

    bss_eval: bool = False
    references: bool = False
    judge: QueryEncoder | None = None


@torch.inference_mode()
def run_benchmark(
    model: QueriedSeparator,
    benchmark: Benchmark,
    items: Sequence[Item],
    extras: Extras | None = None,
) -> list[Row]:
    """Score a model on items of a benchmark.

    Warns (``JudgeWarning``) if the judge of CLAPScore is the encoder that conditions the model.

    Args:
        model: in evaluation mode.
        benchmark: its name and sample rate.
        items: from ``benchmark.items``.
        extras: further scores.

    Returns:
        One row per item and system, in the order of the items. ``benchmark_summary`` makes the
        table of them.

    Raises:
        InputError: the targets are not published and there is no judge; or an item cannot be mixed.
        AudioError: a file is damaged.
        ModelError: the output of the model is not finite.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> from singleout.evaluate.benchmarks import load_benchmark
        >>> from singleout.model import ModelConfig
        >>> from singleout.separators import IdentityConfig
        >>> config = ModelConfig(separator=IdentityConfig())
        >>> model = QueriedSeparator(config, load_encoder("builtin"))  # gives the mixture
        >>> target, noise = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
        >>> signals = Signals((target + noise).numpy(), target.numpy())
        >>> item = Item("example", "a dog", "", "dog.wav", (), (), lambda sample_rate: signals)
        >>> benchmark = load_benchmark("esc50")
        >>> rows = run_benchmark(model, benchmark, [item])
        >>> benchmark_summary(rows, benchmark)["model"]["sdri_db"]["estimate"]
        0.0
    """
    extras = extras or Extras()
    rows: list[Row] = []
    rate = benchmark.sample_rate
    if extras.judge is not None:
        warn_if_conditioning(extras.judge, model.encoder)
    for number, item in enumerate(track(items, benchmark.name, len(items))):
        signals = item.load(rate)
        if signals.target is None and extras.judge is None:
            raise InputError(
                f"{benchmark.name}: its targets are not published, so only CLAPScore can be "
                "computed: name an encoder for it with --clap-score"
            )
        for system, estimate in _estimates(model, item, signals, rate, extras).items():
            scores = _scores(estimate, item, signals, rate, extras)
            rows.append({"item": number, **_names(item, system), **scores})
    return rows


def _names(item: Item, system: str) -> Row:
    return {
        "origin": Path(item.origin).name,
        "system": system,
        "query": item.caption,
        "label": item.label,
        "target": item.target,
        "interference": list(item.interference),
        "absent": item.is_absent,
    }


def benchmark_summary(
    rows: Sequence[Row], benchmark: Benchmark
) -> dict[str, dict[str, dict[str, Any]]]:
    """Aggregate the rows of ``run_benchmark`` as the benchmark defines it.

    Returns:
        By system and score ``estimate``, ``low``, ``high`` (95 % bootstrap interval over targets)
        and ``count``, the number of items for which the score is defined. ``silent_share`` is over
        items whose target may be present, ``absent_silent_share`` over the others.

    Example:
        >>> from singleout.evaluate.benchmarks import load_benchmark
        >>> row = {**dict.fromkeys(SCORES), "system": "model", "label": "", "target": "dog.wav"}
        >>> row |= {"absent": False, "silent": False, "sdri_db": 4.0}
        >>> result = benchmark_summary([row], load_benchmark("esc50"))
        >>> result["model"]["sdri_db"]
        {'estimate': 4.0, 'low': 4.0, 'high': 4.0, 'count': 1}
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        system_rows = [row for row in rows if row["system"] == system]
        result[system] = {
            key: _interval(defined, key, benchmark)
            for key in SCORES
            if (defined := [row for row in system_rows if row[key] is not None])
        }
        for key, is_absent in (("silent_share", False), ("absent_silent_share", True)):
            silent = [row["silent"] for row in system_rows if row["absent"] == is_absent]
            if silent:
                share = float(np.mean(silent))
                result[system][key] = {"estimate": share, "count": len(silent)}
    return result


def by_label(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Means of the model's scores over the items of each label, without intervals.

    Example:
        >>> row = {**dict.fromkeys(SCORES), "system": "model", "label": "violin"}
        >>> by_label([{**row, "sdri_db": 4.0}, {**row, "sdri_db": 6.0}])
        {'violin': {'sdri_db': {'estimate': 5.0, 'count': 2}}}
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for label in dict.fromkeys(row["label"] for row in rows):
        model_rows = [row for row in rows if row["label"] == label and row["system"] == "model"]
        values = {key: [row[key] for row in model_rows if row[key] is not None] for key in SCORES}
        result[label] = {
            key: {"estimate": float(np.mean(scores)), "count": len(scores)}
            for key, scores in values.items()
            if scores
        }
    return result


def _interval(rows: Sequence[Row], key: str, benchmark: Benchmark) -> dict[str, Any]:
    values = [float(row[key]) for row in rows]
    statistic = benchmark.aggregation.statistic([row["label"] for row in rows])
    targets = np.unique([row["target"] for row in rows], return_inverse=True)[1]
    return {**bootstrap_interval(values, targets, statistic), "count": len(values)}


def _estimates(
    model: QueriedSeparator, item: Item, signals: Signals, rate: int, extras: Extras
) -> dict[str, Tensor]:
    """Estimates [samples] by system."""
    estimates = {"model": _extract(model, signals.mixture, rate, item)}
    if extras.references:
        mixture = torch.from_numpy(signals.mixture)
        if signals.target is None:
            estimates["mixture"] = mixture
        else:
            target = torch.from_numpy(signals.target)
            estimates |= {name: system(mixture, target) for name, system in REFERENCES.items()}
    return estimates


def _extract(
    model: QueriedSeparator, mixture: NDArray[np.float32], rate: int, item: Item
) -> Tensor:
    """The model's estimate [samples], of the mixture's rate and length."""
    resampled = torch.from_numpy(resample(mixture, rate, model.sample_rate))
    conditions = [model.embed(Query((item.caption,)))]
    target = model.extract_clip(resampled[None, None], conditions)[0, 0]
    if not target.isfinite().all():
        raise ModelError(
            f"{item.origin}: the output of the model is not finite: its weights may be damaged"
        )
    estimate = resample(target.numpy(), model.sample_rate, rate)
    missing = max(0, len(mixture) - len(estimate))  # rates may not divide
    return torch.from_numpy(np.pad(estimate, (0, missing))[: len(mixture)])


def _scores(estimate: Tensor, item: Item, signals: Signals, rate: int, extras: Extras) -> Row:
    mixture = torch.from_numpy(signals.mixture)
    row: dict[str, Any] = dict.fromkeys(SCORES)
    if signals.target is not None:
        row |= _target_scores(estimate, torch.from_numpy(signals.target), mixture, item, extras)
    if extras.judge is not None and not item.is_absent:
        row["clap_score"] = clap_score(extras.judge, estimate[None], rate, [item.caption])[0]
    finite = {k: None if v is None else finite_or_none(v) for k, v in row.items()}
    return {**finite, "silent": bool(is_silent(estimate, mixture))}


def _target_scores(
    estimate: Tensor, target: Tensor, mixture: Tensor, item: Item, extras: Extras
) -> dict[str, Tensor]:
    """Scores that need the target; NaN where they are not defined."""
    scores = score(estimate, target, mixture)
    row = {"sa_sdr_db": sa_sdr(estimate, target, mixture)}
    if not scores.is_present:
        row["suppression_db"] = suppression(estimate, mixture)
    if item.is_absent:
        return row
    estimate_si_sdr, mixture_si_sdr = si_sdr(estimate, target), si_sdr(mixture, target)
    row |= {
        "sdr_db": scores.sdr,
        "sdri_db": scores.sdr_improvement,
        "si_sdr_db": estimate_si_sdr,
        "si_sdri_db": estimate_si_sdr - mixture_si_sdr,
        "ruled_si_sdri_db": scores.si_sdr_improvement,
    }
    if extras.bss_eval:
        bss = bss_eval_sdr(torch.stack([estimate, mixture]), target.expand(2, -1))
        row |= {"bss_eval_sdr_db": bss[0], "bss_eval_sdri_db": bss[0] - bss[1]}
    return row
