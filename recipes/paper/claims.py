"""What the runs say: rows with intervals, and the paper's four claims, from ``runs.jsonl`` alone.

All intervals are 95 % percentile bootstraps, over seeds and target clips where a row has several
seeds, over target clips alone where it has one. Differences are paired by seed and mixture.
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
"""Claim 2: no worse than text training by more than half a decibel, and surely not by one."""

MIN_SEEDS = 3
"""Fewer decide no claim."""

Sets = dict[str, dict[str, Any]]
"""``mixtures.json``: by set, the target clip of every mixture, its query, …"""
Floats = NDArray[np.float64]


class View(NamedTuple):
    """Which scores of a set are looked at, and how.

    Attributes:
        floor_db: lower scores count as this.
        unseen_captions: only queries whose very words no training sound has as a caption.
    """

    floor_db: float = -np.inf
    unseen_captions: bool = False


ALL = View()
VIEWS = {"floored": View(floor_db=FLOOR_DB), "unseen_captions": View(unseen_captions=True)}


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

    def by_seed(self) -> list[float]:
        """Mean of every seed."""
        if len(self.groups) == 1:
            return [float(self.values.mean())]
        seeds = self.groups[0]
        return [float(self.values[seeds == seed].mean()) for seed in np.unique(seeds)]


def scores_of(
    lines: Sequence[Line], domain: str, kind: str, sets: Sets, view: View = ALL
) -> Scores:
    """Scores of a row's runs on one set by one kind of query."""
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
    """The runs of two rows whose seeds both have."""
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
    """First minus second on the same mixtures, by the seeds that both have."""
    ours, theirs = common(first, second)
    return scores_of(ours, domain, kind, sets, view).minus(
        scores_of(theirs, domain, kind, sets, view)
    )


def margin(out_of_domain: Scores, in_domain: Scores) -> Interval:
    """Of a mean out of domain minus that in domain: seeds are shared, clips are not."""
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
    """Audio minus text queries."""
    audio = scores_of(lines, domain, "audio", sets, view)
    return audio.minus(scores_of(lines, domain, "text", sets, view))


def describe(study: Study, row: str, setting: str, sets: Sets) -> dict[str, Any] | None:
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
        "validation_seed_0": round(validation_score(lines[0]), 3),
    }
    others = {name: study.seeds_of(name) for name in ("text", "dropout") if name in study.rows}
    for domain in DOMAINS:
        part: dict[str, Any] = {}
        for kind in KINDS:
            scores = scores_of(lines, domain, kind, sets)
            # No silent estimate improves on its mixture: the silence rule scores it far below.
            part[kind] = summarise(scores.values, scores.values > 0, scores.groups)
        part["query_gap"] = query_gap(lines, domain, sets).interval()
        for name, view in VIEWS.items():
            part[f"text_{name}"] = scores_of(lines, domain, "text", sets, view).interval()
        for other, theirs in others.items():
            if theirs and row != other:
                compared = difference(lines, theirs, domain, "text", sets)
                part[f"minus_{other}"] = compared.interval()
        entry[domain] = part
    return entry


Verdict = Literal["held", "not held", "undecided"]


def above_zero(interval: Interval) -> Verdict:
    """Whether a difference is clear of zero, and on which side."""
    if interval["low"] > 0:
        return "held"
    return "not held" if interval["high"] < 0 else "undecided"


def no_worse(interval: Interval) -> Verdict:
    """Claim 2's rule."""
    if interval["estimate"] >= EQUAL_DB and interval["low"] > FLOOR_OF_CLAIM_DB:
        return "held"
    return "not held" if interval["high"] < EQUAL_DB else "undecided"


def _claim(
    statement: str,
    domain: str,
    of: Callable[[str, View], Scores],
    rule: Callable[[Interval], Verdict],
    also: Sequence[Interval] = (),
    **more: Any,
) -> dict[str, Any]:
    """A claim about ``of(domain, view)``, with what other views and the other domain say.

    It is held only if the intervals ``also`` are above zero, too.
    """
    scores = of(domain, ALL)
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
        **{name: of(domain, view).interval() for name, view in VIEWS.items()},
        other: of(other, ALL).interval(),
        **more,
    }


def claims(study: Study, sets: Sets) -> dict[str, dict[str, Any]]:
    """The four claims of docs/paper.md as far as their rows are trained; decibels of SI-SDRi.

    The first three are judged in domain, the fourth out of domain.
    """
    rows = {name: study.seeds_of(name) for name in study.rows}
    text, none, dropout = (rows.get(name, []) for name in ("text", "none", "dropout"))
    captioned, more_audio = (rows.get(name, []) for name in ("captioned", "captioned_audio"))
    result: dict[str, dict[str, Any]] = {}
    if text and none:
        ours, theirs = common(none, text)

        def overfitting(domain: str, view: View) -> Scores:
            return query_gap(ours, domain, sets, view).minus(query_gap(theirs, domain, sets, view))

        own = query_gap(ours, IN_DOMAIN, sets).interval()
        result["1"] = _claim(
            "overfitting: the query gap (audio minus text queries) of audio-only training without "
            "manipulation is above zero, and larger than that of text training",
            IN_DOMAIN,
            overfitting,
            above_zero,
            [own],
            query_gap_none=own,
            query_gap_text=query_gap(theirs, IN_DOMAIN, sets).interval(),
        )
    if text and dropout:

        def remedied(domain: str, view: View) -> Scores:
            return difference(dropout, text, domain, "text", sets, view)

        result["2"] = _claim(
            "audio-only training with dropout, text queries, minus text training: no worse "
            f"(estimate at least {EQUAL_DB} dB, low end above {FLOOR_OF_CLAIM_DB:g} dB)",
            IN_DOMAIN,
            remedied,
            no_worse,
        )
        wider = margin(remedied(OUT_OF_DOMAIN, ALL), remedied(IN_DOMAIN, ALL))
        result["4"] = _claim(
            "out of domain, audio-only training with dropout is better than text training",
            OUT_OF_DOMAIN,
            remedied,
            above_zero,
            margin_over_in_domain=wider,
            weaker_reading_held=no_worse(remedied(OUT_OF_DOMAIN, ALL).interval()) == "held"
            and wider["low"] > 0,
        )
    if captioned and more_audio:

        def added(domain: str, view: View) -> Scores:
            return difference(more_audio, captioned, domain, "text", sets, view)

        result["3"] = _claim(
            "captions for a quarter of the recordings plus the audio of the others, minus that "
            "quarter alone",
            IN_DOMAIN,
            added,
            above_zero,
        )
    return dict(sorted(result.items()))
