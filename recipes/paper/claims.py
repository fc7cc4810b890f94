"""Results of the runs in ``runs.jsonl``: the rows with intervals, and the paper's four claims.

All intervals are 95 % percentile bootstraps. They resample seeds and target clips where a row has
several seeds, and target clips only where it has one. Differences are paired by seed and mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipes.paper.study import FLOOR_DB, Line, Study, validation_score
from singleout.evaluate.statistics import Interval, bootstrap_interval, mean, summarise

IN_DOMAIN, OUT_OF_DOMAIN = "in_domain", "out_of_domain"
DOMAINS = (IN_DOMAIN, OUT_OF_DOMAIN)
KINDS = ("text", "audio")
EQUAL_DB, FLOOR_OF_CLAIM_DB = -0.5, -1.0
"""Claim 2 holds if the estimate is at most half a decibel below text training, and the whole
interval less than one decibel below it."""

MIN_SEEDS = 3
"""Claims with fewer seeds stay undecided."""

Sets = dict[str, dict[str, Any]]
"""``mixtures.json``: for each set, the target clip of every mixture, its query, …"""
Floats = NDArray[np.float64]


class View(NamedTuple):
    """Selects scores of a set.

    Attributes:
        floor_db: lower scores count as this one.
        unseen_captions: only queries that are not the caption of any training sound.
    """

    floor_db: float = -np.inf
    unseen_captions: bool = False


ALL = View()
VIEWS = {"floored": View(floor_db=FLOOR_DB), "unseen_captions": View(unseen_captions=True)}


class Scores(NamedTuple):
    """SI-SDRi in dB of some runs that differ by their seeds.

    Attributes:
        values: [seeds * mixtures].
        groups: [2, seeds * mixtures] seed and target clip of each value; with a single seed only
            the target clip, [1, mixtures].
    """

    values: Floats
    groups: NDArray[np.int64]

    def minus(self, other: Scores) -> Scores:
        """Paired differences; both sides have the same seeds and mixtures."""
        return Scores(self.values - other.values, self.groups)

    def interval(self) -> Interval:
        """Interval of the mean."""
        return bootstrap_interval(self.values, self.groups)

    def by_seed(self) -> list[float]:
        """Mean of each seed."""
        if len(self.groups) == 1:
            return [float(self.values.mean())]
        seeds = self.groups[0]
        return [float(self.values[seeds == seed].mean()) for seed in np.unique(seeds)]


def scores_of(
    lines: Sequence[Line], domain: str, kind: str, sets: Sets, view: View = ALL
) -> Scores:
    """Scores of the runs of a row, on one set and by one kind of query.

    Args:
        lines: the runs.
        domain: name of the set.
        kind: of query, ``text`` or ``audio``.
        sets: the mixtures of all sets.
        view: which scores count.
    """
    kept = np.ones(len(sets[domain]["target"]), dtype=bool)
    if view.unseen_captions:
        kept = ~np.array(sets[domain]["seen_caption"], dtype=bool)
    values = np.array([line["si_sdri_db"][domain][kind] for line in lines], dtype=np.float64)
    values = np.maximum(values[:, kept], view.floor_db)
    clip = np.unique(np.array(sets[domain]["target"])[kept], return_inverse=True)[1]
    seed, mixture = np.indices(values.shape)
    groups = clip[mixture].reshape(1, -1)
    if len(lines) > 1:
        groups = np.concatenate([seed.reshape(1, -1), groups])
    return Scores(values.ravel(), groups)


def common(first: Sequence[Line], second: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The runs of two rows with the seeds that both rows have."""
    seeds = sorted({line["seed"] for line in first} & {line["seed"] for line in second})
    return (
        [line for seed in seeds for line in first if line["seed"] == seed],
        [line for seed in seeds for line in second if line["seed"] == seed],
    )


def difference(
    first: Sequence[Line],
    second: Sequence[Line],
    domain: str,
    kind: str,
    sets: Sets,
    view: View = ALL,
) -> Scores:
    """First row minus second row, on the same mixtures and with the seeds that both rows have."""
    first, second = common(first, second)
    return scores_of(first, domain, kind, sets, view).minus(
        scores_of(second, domain, kind, sets, view)
    )


def margin(out_of_domain: Scores, in_domain: Scores) -> Interval:
    """Interval of the mean out of domain minus the mean in domain.

    Both share their seeds, but no clips.
    """
    count = len(out_of_domain.values)
    clips = in_domain.groups[-1] + out_of_domain.groups[-1].max() + 1
    groups = [np.concatenate([out_of_domain.groups[-1], clips])]
    if len(out_of_domain.groups) > 1:
        groups.append(np.concatenate([out_of_domain.groups[0], in_domain.groups[0]]))

    def statistic(values: Floats, weights: Floats) -> Floats:
        return mean(values[:count], weights[:, :count]) - mean(values[count:], weights[:, count:])

    values = np.concatenate([out_of_domain.values, in_domain.values])
    return bootstrap_interval(values, np.stack(groups), statistic)


def query_gap(lines: Sequence[Line], domain: str, sets: Sets, view: View = ALL) -> Scores:
    """Scores of audio queries minus scores of text queries."""
    audio = scores_of(lines, domain, "audio", sets, view)
    return audio.minus(scores_of(lines, domain, "text", sets, view))


def describe(study: Study, row: str, setting: str, sets: Sets) -> dict[str, Any] | None:
    """One row of the table; None as long as the setting is not trained."""
    lines = study.seeds_of(row, setting)
    if not lines:
        return None
    entry: dict[str, Any] = {
        "row": row,
        "setting": setting,
        "chosen": setting == study.chosen(row),
        "seeds": len(lines),
        "training_minutes": round(float(np.mean([line["training_s"] for line in lines])) / 60, 1),
        "validation_seed_0": round(validation_score(lines[0]), 3),
    }
    others = {name: study.seeds_of(name) for name in ("text", "dropout") if name in study.rows}
    for domain in DOMAINS:
        part: dict[str, Any] = {}
        for kind in KINDS:
            scores = scores_of(lines, domain, kind, sets)
            # The score of a silent estimate is far below zero, so it never counts as improved.
            part[kind] = summarise(scores.values, scores.values > 0, scores.groups)
        part["query_gap"] = query_gap(lines, domain, sets).interval()
        for name, view in VIEWS.items():
            part[f"text_{name}"] = scores_of(lines, domain, "text", sets, view).interval()
        for other, other_lines in others.items():
            if other_lines and row != other:
                compared = difference(lines, other_lines, domain, "text", sets)
                part[f"minus_{other}"] = compared.interval()
        entry[domain] = part
    return entry


Verdict = Literal["held", "not held", "undecided"]


def above_zero(interval: Interval) -> Verdict:
    """The claim that a difference is above zero: decided if its interval excludes zero."""
    if interval["low"] > 0:
        return "held"
    return "not held" if interval["high"] < 0 else "undecided"


def no_worse(interval: Interval) -> Verdict:
    """The rule of claim 2: see ``EQUAL_DB`` and ``FLOOR_OF_CLAIM_DB``."""
    if interval["estimate"] >= EQUAL_DB and interval["low"] > FLOOR_OF_CLAIM_DB:
        return "held"
    return "not held" if interval["high"] < EQUAL_DB else "undecided"


def _claim(
    statement: str,
    domain: str,
    scores_in: Callable[[str, View], Scores],
    rule: Callable[[Interval], Verdict],
    also: Sequence[Interval] = (),
    **more: Any,
) -> dict[str, Any]:
    """A claim about ``scores_in(domain, view)``, with the intervals of the other views and domain.

    It is held only if the intervals ``also`` are above zero, too.
    """
    scores = scores_in(domain, ALL)
    interval = scores.interval()
    by_seed = scores.by_seed()
    verdicts = [rule(interval), *(above_zero(each) for each in also)]
    verdict: Verdict = "held"
    if len(by_seed) < MIN_SEEDS:
        verdict = "undecided"
    elif any(each != "held" for each in verdicts):
        verdict = "not held" if "not held" in verdicts else "undecided"
    (other,) = (each for each in DOMAINS if each != domain)
    return {
        **interval,
        "held": verdict == "held",
        "verdict": verdict,
        "statement": statement,
        "domain": domain,
        "by_seed": by_seed,
        **{name: scores_in(domain, view).interval() for name, view in VIEWS.items()},
        other: scores_in(other, ALL).interval(),
        **more,
    }


def claims(study: Study, sets: Sets) -> dict[str, dict[str, Any]]:
    """The four claims of docs/paper.md as far as their rows are trained; decibels of SI-SDRi.

    The first three are judged in domain, the fourth out of domain.
    """
    rows = {name: study.seeds_of(name) for name in study.rows}
    text, none, dropout = (rows.get(name, []) for name in ("text", "none", "dropout"))
    captioned, with_audio = (rows.get(name, []) for name in ("captioned", "captioned_audio"))
    result: dict[str, dict[str, Any]] = {}
    if text and none:
        result["1"] = _overfitting_claim(none, text, sets)
    if text and dropout:
        result |= _dropout_claims(dropout, text, sets)
    if captioned and with_audio:
        result["3"] = _claim(
            "captions for a quarter of the recordings plus the audio of the others, minus that "
            "quarter alone",
            IN_DOMAIN,
            lambda domain, view: difference(with_audio, captioned, domain, "text", sets, view),
            above_zero,
        )
    return dict(sorted(result.items()))


def _overfitting_claim(none: Sequence[Line], text: Sequence[Line], sets: Sets) -> dict[str, Any]:
    """Claim 1, of audio-only and of text training."""
    none, text = common(none, text)

    def difference_of_gaps(domain: str, view: View) -> Scores:
        return query_gap(none, domain, sets, view).minus(query_gap(text, domain, sets, view))

    gap_of_none = query_gap(none, IN_DOMAIN, sets).interval()
    return _claim(
        "overfitting: the query gap (audio minus text queries) of audio-only training without "
        "manipulation is above zero, and larger than that of text training",
        IN_DOMAIN,
        difference_of_gaps,
        above_zero,
        [gap_of_none],
        query_gap_none=gap_of_none,
        query_gap_text=query_gap(text, IN_DOMAIN, sets).interval(),
    )


def _dropout_claims(
    dropout: Sequence[Line], text: Sequence[Line], sets: Sets
) -> dict[str, dict[str, Any]]:
    """Claims 2 and 4, of audio-only training with dropout and of text training."""

    def over_text(domain: str, view: View) -> Scores:
        return difference(dropout, text, domain, "text", sets, view)

    out_of_domain = over_text(OUT_OF_DOMAIN, ALL)
    wider = margin(out_of_domain, over_text(IN_DOMAIN, ALL))
    is_no_worse = no_worse(out_of_domain.interval()) == "held"
    return {
        "2": _claim(
            "audio-only training with dropout, text queries, minus text training: no worse "
            f"(estimate at least {EQUAL_DB} dB, low end above {FLOOR_OF_CLAIM_DB:g} dB)",
            IN_DOMAIN,
            over_text,
            no_worse,
        ),
        "4": _claim(
            "out of domain, audio-only training with dropout is better than text training",
            OUT_OF_DOMAIN,
            over_text,
            above_zero,
            margin_over_in_domain=wider,
            weaker_reading_held=is_no_worse and wider["low"] > 0,
        ),
    }
