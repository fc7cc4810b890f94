"""What the runs say: rows with intervals, and the paper's four claims, from ``runs.jsonl`` alone.

All intervals are 95 % percentile bootstraps, over seeds and target clips where a row has several
seeds, over target clips alone where it has one. Differences are paired by seed and mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipes.paper.study import Line, Study
from singleout.evaluate.statistics import Interval, bootstrap_interval, summarise

IN_DOMAIN, OUT_OF_DOMAIN = "in_domain", "out_of_domain"
DOMAINS = (IN_DOMAIN, OUT_OF_DOMAIN)
KINDS = ("text", "audio")
EQUAL_DB, FLOOR_DB = -0.5, -1.0
"""Claim 2: no worse than text training by more than half a decibel, and surely not by one."""

Targets = dict[str, list[str]]
"""The target clip of every mixture, by set."""
Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """SI-SDRi in dB of some runs that differ by their seeds.

    Attributes:
        values: [seeds * mixtures].
        groups: [2, seeds * mixtures] seed and target clip of each; [1, …] for a single seed.
    """

    values: Floats
    groups: NDArray[np.int64]

    def minus(self, other: Scores) -> Scores:
        """Paired differences of equally many seeds on the same mixtures."""
        return Scores(self.values - other.values, self.groups)

    def interval(self) -> Interval:
        """Of the mean."""
        return bootstrap_interval(self.values, self.groups)


def scores_of(lines: Sequence[Line], domain: str, kind: str, targets: Targets) -> Scores:
    """Scores of a row's runs on one set by one kind of query."""
    values = np.array([line["si_sdri_db"][domain][kind] for line in lines], dtype=np.float64)
    clip = np.unique(targets[domain], return_inverse=True)[1]
    seed, mixture = np.indices(values.shape)
    groups = clip[mixture].reshape(1, -1)
    if len(lines) > 1:
        groups = np.concatenate([seed.reshape(1, -1), groups])
    return Scores(values.ravel(), groups)


def common(first: Sequence[Line], second: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The runs of two rows whose seeds both have."""
    seeds = sorted({line["seed"] for line in first} & {line["seed"] for line in second})
    return (
        [line for seed in seeds for line in first if line["seed"] == seed],
        [line for seed in seeds for line in second if line["seed"] == seed],
    )


def difference(
    first: Sequence[Line], second: Sequence[Line], domain: str, kind: str, targets: Targets
) -> Scores:
    """First minus second on the same mixtures, by the seeds that both have."""
    ours, theirs = common(first, second)
    return scores_of(ours, domain, kind, targets).minus(scores_of(theirs, domain, kind, targets))


def query_gap(lines: Sequence[Line], domain: str, targets: Targets) -> Scores:
    """Audio minus text queries."""
    audio = scores_of(lines, domain, "audio", targets)
    return audio.minus(scores_of(lines, domain, "text", targets))


def describe(study: Study, row: str, setting: str, targets: Targets) -> dict[str, Any] | None:
    """One row of the table; None as long as it is not trained."""
    lines = study.seeds_of(row, setting)
    if not lines:
        return None
    entry: dict[str, Any] = {
        "row": row,
        "setting": setting,
        "chosen": setting == study.chosen(row),
        "seeds": len(lines),
        "training_minutes": round(float(np.mean([line["training_s"] for line in lines])) / 60, 1),
        "validation_text": round(
            float(np.mean([line["si_sdri_db"]["validation"]["text"] for line in lines[:1]])), 3
        ),
    }
    text = study.seeds_of("text")
    for domain in DOMAINS:
        part: dict[str, Any] = {}
        for kind in KINDS:
            scores = scores_of(lines, domain, kind, targets)
            # No silent estimate improves on its mixture: the silence rule scores it far below.
            part[kind] = summarise(scores.values, scores.values > 0, scores.groups)
        part["query_gap"] = query_gap(lines, domain, targets).interval()
        if text and row != "text":
            part["minus_text"] = difference(lines, text, domain, "text", targets).interval()
        entry[domain] = part
    return entry


Verdict = Literal["held", "not held", "undecided"]


def _claim(interval: Interval, verdict: Verdict, statement: str, **more: Any) -> dict[str, Any]:
    return {
        **interval,
        "held": verdict == "held",
        "verdict": verdict,
        "statement": statement,
        **more,
    }


def above_zero(interval: Interval) -> Verdict:
    """Whether a difference is clear of zero, and on which side."""
    if interval["low"] > 0:
        return "held"
    return "not held" if interval["high"] < 0 else "undecided"


def no_worse(interval: Interval) -> Verdict:
    """Claim 2's rule."""
    if interval["estimate"] >= EQUAL_DB and interval["low"] > FLOOR_DB:
        return "held"
    return "not held" if interval["high"] < EQUAL_DB else "undecided"


def claims(study: Study, targets: Targets) -> dict[str, dict[str, Any]]:
    """The four claims of METHOD.md as far as their rows are trained; decibels of SI-SDRi.

    The first three are judged in domain; the same figure out of domain stands beside it.
    """
    rows = {name: study.seeds_of(name) for name in study.rows}
    text, none, dropout = (rows.get(name, []) for name in ("text", "none", "dropout"))
    captioned, more_audio = (rows.get(name, []) for name in ("captioned", "captioned_audio"))
    result: dict[str, dict[str, Any]] = {}
    if text and none:
        ours, theirs = common(none, text)
        found = {
            domain: query_gap(ours, domain, targets)
            .minus(query_gap(theirs, domain, targets))
            .interval()
            for domain in DOMAINS
        }
        result["1"] = _claim(
            found[IN_DOMAIN],
            above_zero(found[IN_DOMAIN]),
            "overfitting: the query gap (audio minus text queries) of audio-only training without "
            "manipulation is larger than that of text training",
            out_of_domain=found[OUT_OF_DOMAIN],
        )
    if text and dropout:
        scores = {d: difference(dropout, text, d, "text", targets) for d in DOMAINS}
        found = {domain: each.interval() for domain, each in scores.items()}
        result["2"] = _claim(
            found[IN_DOMAIN],
            no_worse(found[IN_DOMAIN]),
            "audio-only training with dropout, text queries, minus text training: no worse "
            f"(estimate at least {EQUAL_DB} dB, low end above {FLOOR_DB:g} dB)",
            out_of_domain=found[OUT_OF_DOMAIN],
        )
        result["4"] = _claim(
            found[OUT_OF_DOMAIN],
            above_zero(found[OUT_OF_DOMAIN]),
            "out of domain, audio-only training with dropout is better than text training",
            margin_over_in_domain=found[OUT_OF_DOMAIN]["estimate"] - found[IN_DOMAIN]["estimate"],
        )
    if captioned and more_audio:
        found = {
            domain: difference(more_audio, captioned, domain, "text", targets).interval()
            for domain in DOMAINS
        }
        result["3"] = _claim(
            found[IN_DOMAIN],
            above_zero(found[IN_DOMAIN]),
            "captions for a quarter of the recordings plus the audio of the others, minus that "
            "quarter alone",
            out_of_domain=found[OUT_OF_DOMAIN],
        )
    return dict(sorted(result.items()))
