"""Scores a model in every kind of scenario: present sounds, absent sounds, negative prompts.

The keys of rows and summaries are those of committed results. There, a scenario is called
``question``, and the similarity between an estimate and its query ``likeness``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.data.clips import Clip
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.plan import MixtureSpec, Planner
from singleout.data.query_plan import QueriesConfig, QueryPlanner
from singleout.data.render import Mixture, read_crop, render
from singleout.data.seeds import Stream, random_stream
from singleout.evaluate.evaluation import EvaluationConfig, required_caption
from singleout.evaluate.metrics import score, suppression
from singleout.evaluate.rows import Row, finite_or_none, paired_differences, recording_numbers
from singleout.evaluate.statistics import Interval, bootstrap_interval, median, summarise
from singleout.model import QueriedSeparator
from singleout.model.calibration import (
    LEVEL_TOLERANCE_DB,
    Calibration,
    auroc,
    calibration_error,
    fit_calibration,
)
from singleout.progress import track

ABSENT = ("absent", "near miss")
"""Scenarios in which the queried sound is not in the mixture.

``absent``: a sound of any other class. ``near miss``: a sound of another class of the same family
as a sound in the mixture."""
NEGATIVE = ("text, not the other", "not the other")
"""Scenarios with a negative prompt, for models that take them."""
SCENARIOS = ("text", "audio", "text and audio", *ABSENT, *NEGATIVE)


class ScenarioQuery(NamedTuple):
    """A query of one scenario.

    Attributes:
        scenario: one of ``SCENARIOS``.
        positive, negative: sides of the query; see ``QueriedSeparator.combine``.
        target: true target, float32 [samples]; zeros where the sound is absent.

    Example:
        >>> dog, no_negative = Condition.single(torch.ones(1, 4)), Condition.missing(4)
        >>> query = ScenarioQuery("absent", dog, no_negative, target=torch.zeros(16_000))
        >>> query.positive.has_positive, query.negative.has_positive
        (True, False)
    """

    scenario: str
    positive: Condition
    negative: Condition
    target: Tensor


class ScenarioResult(NamedTuple):
    """The output of a model for a query.

    Attributes:
        query: the query.
        estimate: estimated target, float32 [samples].
        similarity: between the separator's output, before its level is set, and the positive side
            of the query; None if the query has no positive side.

    Example:
        >>> query = ScenarioQuery("text", Condition.missing(4), Condition.missing(4), torch.ones(8))
        >>> ScenarioResult(query, torch.ones(8), similarity=None).query.scenario
        'text'
    """

    query: ScenarioQuery
    estimate: Tensor
    similarity: float | None


@torch.inference_mode()
def evaluate_scenarios(
    model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
) -> list[Row]:
    """Score a model on every mixture in every scenario that is possible for it.

    The scenarios are ``text``, ``audio`` (as in ``evaluate``), ``text and audio``, ``absent`` and
    ``near miss``. Models that take negative prompts also have ``text, not the other`` and
    ``not the other``. Their negative prompt is the caption of the second sound. The target of
    ``not the other`` is the mixture without the second sound.

    Args:
        model: in evaluation mode.
        clips: sounds to mix, each with a caption.
        config: which mixtures.

    Returns:
        One row per mixture and scenario. ``scenario_summary`` makes the table of them.

    Raises:
        ManifestError: a sound has no caption, or the clips cannot be mixed.
        AudioError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from singleout.audio import write_wav
        >>> from singleout.encoders import load_encoder
        >>> from singleout.model import ModelConfig
        >>> from singleout.separators import IdentityConfig
        >>> config = ModelConfig(separator=IdentityConfig(), negative=True)
        >>> model = QueriedSeparator(config, load_encoder("builtin"))  # gives the mixture
        >>> time = np.arange(8_000, dtype=np.float32) / 8_000  # one second
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = []
        ...     for name, hz in (("low", 200), ("high", 2_000)):
        ...         path = Path(folder) / f"{name}.wav"
        ...         write_wav(path, 0.1 * np.sin(2 * np.pi * hz * time)[None], 8_000)
        ...         clips.append(Clip(path, 1.0, f"a {name} tone", (), name, name, "test"))
        ...     rows = evaluate_scenarios(model, clips, EvaluationConfig(num_mixtures=1))
        >>> [row["question"] for row in rows]  # no third sound that could be absent
        ['text', 'audio', 'text and audio', 'text, not the other', 'not the other']
    """
    runner = _ScenarioRunner(model, clips, config)
    rows: list[Row] = []
    for index in track(range(config.num_mixtures), "evaluating", config.num_mixtures):
        rows += runner.rows(index)
    return rows


@torch.inference_mode()
def calibration_of(
    model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
) -> Calibration:
    """Fit presence and gate of a model to the estimates of text queries on validation mixtures.

    Present sounds are the targets of the scenario ``text``, absent sounds those of ``absent`` and
    ``near miss``. A gate that the model has already is left out.

    Args:
        model: in evaluation mode.
        clips: validation sounds, each with a caption.
        config: which mixtures.

    Returns:
        ``Calibration(None, None)`` if no sound can be absent, as with two classes.

    Raises:
        ManifestError: a sound has no caption, or the clips cannot be mixed.
        AudioError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from singleout.audio import write_wav
        >>> from singleout.encoders import load_encoder
        >>> from singleout.model import ModelConfig
        >>> from singleout.separators import IdentityConfig
        >>> config = ModelConfig(separator=IdentityConfig())
        >>> model = QueriedSeparator(config, load_encoder("builtin"))  # gives the mixture
        >>> noise = np.random.default_rng(0).normal(0, 0.1, (3, 1, 8_000)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = []
        ...     for name, samples in zip(("rain", "wind", "sea"), noise):
        ...         path = Path(folder) / f"{name}.wav"
        ...         write_wav(path, samples, 8_000)
        ...         clips.append(Clip(path, 1.0, name, (), name, name, "validation"))
        ...     calibration = calibration_of(model, clips, EvaluationConfig(num_mixtures=2))
        >>> model.config = config.model_copy(update=calibration._asdict())
        >>> model.config.presence is not None
        True
    """
    runner = _ScenarioRunner(model, clips, config)
    present: list[float] = []
    levels_db: list[float] = []
    absent: list[float] = []
    for index in track(range(config.num_mixtures), "calibrating", config.num_mixtures):
        _, results = runner.results(index, ("text", *ABSENT), is_gated=False)
        for query, estimate, similarity in results:
            if similarity is None:
                continue
            if query.scenario in ABSENT:
                absent.append(similarity)
            elif bool(query.target.any()):  # a crop may be silent
                present.append(similarity)
                levels_db.append(_relative_level_db(estimate, query.target))
    return fit_calibration(present, absent, levels_db)


class _ScenarioRunner:
    """Makes the queries of the planned mixtures, and the estimates of the model for them."""

    def __init__(
        self, model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
    ) -> None:
        self.model, self.clips, self.config = model, clips, config
        self.planner = Planner(clips, config.mixtures, config.seed)
        balance = config.mixtures.class_balance
        self.query_planner = QueryPlanner(clips, QueriesConfig(), balance)
        self._text: dict[str, Tensor] = {}  # embeddings [1, dim] by caption

    def rows(self, index: int) -> Iterator[Row]:
        """Scores of one mixture, a row per scenario."""
        target = self.clips[self.planner.plan(0, index).sources[0].clip]
        mixture, results = self.results(index, SCENARIOS)
        for query, estimate, similarity in results:
            scores = score(estimate, query.target, mixture)
            is_present = bool(scores.is_present)
            yield {
                "mixture": index,
                "question": query.scenario,
                "target": target.path.name,
                "recording": target.group,
                "family": target.family,
                "si_sdri_db": float(scores.si_sdr_improvement) if is_present else None,
                "improved": bool(scores.improved),
                "suppression_db": finite_or_none(suppression(estimate, mixture)),
                "level_db": _relative_level_db(estimate, query.target) if is_present else None,
                "likeness": similarity,
                "presence": self._probability(similarity),
            }

    def results(
        self, index: int, scenarios: Sequence[str], is_gated: bool = True
    ) -> tuple[Tensor, list[ScenarioResult]]:
        """The mixture [samples], and the results of those of ``scenarios`` that are possible."""
        model = self.model
        spec = self.planner.plan(0, index)
        rendered = render(spec, self.clips, self.config.mixtures, model.sample_rate)
        queries = self._queries(index, spec, rendered, scenarios)
        conditions = [model.combine(query.positive, query.negative) for query in queries]
        mixture = torch.from_numpy(rendered.mixture)
        outputs = [each[0].float() for each in model.separate(mixture[None, None], conditions)]
        gate = model.level_gate(conditions, is_gated)
        estimates = gate.whole(torch.stack(outputs).numpy(), rendered.mixture[None])
        similarity = gate.meter.finish().overall.tolist()
        return mixture, [
            ScenarioResult(
                query,
                torch.from_numpy(estimates[number, 0]),
                similarity[number] if query.positive.has_positive else None,
            )
            for number, query in enumerate(queries)
        ]

    def _queries(
        self, index: int, spec: MixtureSpec, rendered: Mixture, scenarios: Sequence[str]
    ) -> list[ScenarioQuery]:
        mixture, sources = torch.from_numpy(rendered.mixture), torch.from_numpy(rendered.sources)
        queries = [
            *self._present(spec, sources[0], with_audio="audio" in scenarios),
            *self._absent(index, spec, torch.zeros_like(mixture)),
            *self._negative(spec, mixture, sources),
        ]
        by_scenario = {query.scenario: query for query in queries}
        return [by_scenario[name] for name in scenarios if name in by_scenario]

    def _present(
        self, spec: MixtureSpec, target: Tensor, with_audio: bool
    ) -> Iterator[ScenarioQuery]:
        model, source = self.model, spec.sources[0]
        text, negative = self._embed_caption(source.clip), model.side()
        yield ScenarioQuery("text", model.side(text), negative, target)
        if with_audio:
            clip = self.clips[source.clip]
            crop = read_crop(clip, source.crop, self.config.mixtures, SAMPLE_RATE)
            audio = model.encoder.embed_audio(crop, SAMPLE_RATE)
            yield ScenarioQuery("audio", model.side(audio=audio), negative, target)
            yield ScenarioQuery("text and audio", model.side(text, audio), negative, target)

    def _absent(self, index: int, spec: MixtureSpec, silence: Tensor) -> Iterator[ScenarioQuery]:
        rng = random_stream(self.config.seed, 0, index, Stream.ABSENT)
        for scenario in ABSENT:
            is_near = scenario == "near miss"
            planned = self.query_planner.absent(spec, is_near, rng, self._shares_caption)
            if planned is not None and planned.absent is not None:
                positive = self.model.side(self._embed_caption(planned.absent))
                yield ScenarioQuery(scenario, positive, self.model.side(), silence)

    def _negative(
        self, spec: MixtureSpec, mixture: Tensor, sources: Tensor
    ) -> Iterator[ScenarioQuery]:
        if not self.model.config.negative or len(spec.sources) < 2:
            return
        target, other = (self._embed_caption(source.clip) for source in spec.sources[:2])
        positive, negative = self.model.side(target), self.model.side(other)
        yield ScenarioQuery(NEGATIVE[0], positive, negative, sources[0])
        yield ScenarioQuery(NEGATIVE[1], self.model.side(), negative, mixture - sources[1])

    def _shares_caption(self, clip: int, other: int) -> bool:
        """Whether the caption of a clip describes another as well, which is then not absent."""
        return self.clips[clip].caption in self.clips[other].captions

    def _embed_caption(self, clip: int) -> Tensor:
        caption = required_caption(self.clips[clip])
        if caption not in self._text:
            self._text[caption] = self.model.encoder.embed_text(caption)
        return self._text[caption]

    def _probability(self, similarity: float | None) -> float | None:
        presence = self.model.config.presence
        if similarity is None or presence is None:
            return None
        return float(presence.probability(similarity))


def _relative_level_db(estimate: Tensor, target: Tensor) -> float:
    """Level of an estimate over its target, which is not silent."""
    estimate_power, target_power = (float(wave.square().mean()) for wave in (estimate, target))
    return 10 * float(np.log10(max(estimate_power, 1e-20) / target_power))


def scenario_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the rows of ``evaluate_scenarios``.

    Intervals are 95 % bootstrap intervals over recordings. Silent targets count only in
    ``num_mixtures``.

    Returns:
        ``questions``: by scenario, SI-SDRi, the share of estimates within 3 dB of the target's
        level (both where the sound is present), and the median suppression. ``presence_auroc``
        and ``presence_calibration_error``: how well similarity tells present from absent sounds.
        ``text_minus_audio_db``, ``negative_adds_db``: paired differences of SI-SDRi.

    Example:
        >>> row = {"mixture": 0, "recording": "a", "si_sdri_db": 6.0, "improved": True}
        >>> row |= {"suppression_db": 3.0, "level_db": -1.0, "likeness": 0.5, "presence": 0.9}
        >>> result = scenario_summary([{"question": name, **row} for name in ("text", "audio")])
        >>> result["questions"]["text"]["level_within_3_db"]["estimate"]
        1.0
    """
    by_scenario: dict[str, list[Row]] = {}
    for row in rows:
        if row["question"] in ABSENT or row["si_sdri_db"] is not None:
            by_scenario.setdefault(row["question"], []).append(row)
    text, audio = by_scenario["text"], by_scenario["audio"]
    absent = {name: by_scenario[name] for name in ABSENT if name in by_scenario}
    result: dict[str, Any] = {
        "questions": {name: _entry(name, rows) for name, rows in by_scenario.items()},
        "num_mixtures": len({row["mixture"] for row in rows}),
        "text_minus_audio_db": bootstrap_interval(*paired_differences(text, audio, "si_sdri_db")),
    }
    if NEGATIVE[0] in by_scenario:
        differences = paired_differences(by_scenario[NEGATIVE[0]], text, "si_sdri_db")
        result["negative_adds_db"] = bootstrap_interval(*differences)
    result["presence_auroc"] = {name: _auroc_interval(text, rows) for name, rows in absent.items()}
    if text[0]["presence"] is not None and absent:
        result["presence_calibration_error"] = calibration_error(
            [row["presence"] for row in text],
            [row["presence"] for rows in absent.values() for row in rows],
        )
    return result


def _entry(scenario: str, rows: Sequence[Row]) -> dict[str, Any]:
    audible = [row for row in rows if row["suppression_db"] is not None]
    suppressions = [row["suppression_db"] for row in audible]
    entry: dict[str, Any] = {
        "suppression_db": bootstrap_interval(suppressions, recording_numbers(audible), median),
        "count": len(rows),
    }
    if scenario not in ABSENT:
        recordings = recording_numbers(rows)
        values, improved = ([row[key] for row in rows] for key in ("si_sdri_db", "improved"))
        entry["si_sdri_db"] = summarise(values, improved, recordings)
        is_close = [abs(row["level_db"]) <= LEVEL_TOLERANCE_DB for row in rows]
        entry["level_within_3_db"] = bootstrap_interval(is_close, recordings)
    return entry


def _auroc_interval(
    present: Sequence[Row], absent: Sequence[Row], num_resamples: int = 500
) -> Interval:
    """Interval by resampling the recordings of the targets, which both kinds of rows have."""
    names = sorted({row["recording"] for row in [*present, *absent]})
    numbers = {name: number for number, name in enumerate(names)}
    sides = []
    for rows in (present, absent):
        scores: list[list[float]] = [[] for _ in names]
        for row in rows:
            scores[numbers[row["recording"]]].append(row["likeness"])
        sides.append(scores)

    def area(drawn: Sequence[int]) -> float:
        positive, negative = ([s for number in drawn for s in side[number]] for side in sides)
        return auroc(positive, negative) if positive and negative else float("nan")

    resampled = [
        area(np.random.default_rng([0, r]).integers(len(names), size=len(names)).tolist())
        for r in range(num_resamples)
    ]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Interval(estimate=area(range(len(names))), low=float(low), high=float(high))
