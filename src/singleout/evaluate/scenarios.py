"""Score a model on questions of every kind: what is meant, what is not, what is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.manifest import Clip
from singleout.data.plan import MixtureSpec, Planner
from singleout.data.query_plan import QueriesConfig, QueryPlanner
from singleout.data.render import Mixture, read_crop, render
from singleout.data.seeds import Stream, random_stream
from singleout.errors import ManifestError
from singleout.evaluate.evaluation import EvaluationConfig, defined, paired, recordings
from singleout.evaluate.metrics import score, suppression
from singleout.evaluate.statistics import Interval, bootstrap_interval, median, summarise
from singleout.model import QueriedSeparator
from singleout.model.level_gate import HIGHEST, Gate
from singleout.model.similarity import PresenceCalibration
from singleout.progress import track

LEVEL_TOLERANCE_DB = 3.0
PRIOR = 1e-3
CLOSED, OPEN = 0.3, 0.4
"""Probabilities of presence between which a gate opens, about a third. Where both are alike likely,
as in calibration, half are there; of what people ask for, most is."""
FLOOR_DB = -20.0
GAINS_DB = tuple(float(gain) for gain in np.arange(0.0, 6.01, 0.25))
"""Of a gate, from which one is chosen."""
ABSENT = ("absent", "near miss")
"""Questions for a sound that is not there: of any other class, or of another class of a family
that is there."""

NEGATIVE = ("text, not the other", "not the other")
"""Questions with a negative prompt."""
KINDS = ("text", "audio", "text and audio", *ABSENT, *NEGATIVE)


class Question(NamedTuple):
    """What is asked of a mixture.

    Attributes:
        kind: of ``KINDS``.
        wanted, unwanted: sides of the query.
        target: [samples].
    """

    kind: str
    wanted: Condition
    unwanted: Condition
    target: Tensor


@torch.inference_mode()
def ask(
    model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """One row per mixture and question.

    Questions: ``text``, ``audio`` (as in ``evaluate``), ``text and audio``, ``absent``,
    ``near miss``; of a model that takes negative prompts also ``text, not the other`` and
    ``not the other`` (the target is all but the second sound), both in words.

    Raises:
        ManifestError: a sound has no caption.
    """
    asker = _Asker(model, clips, config)
    rows: list[dict[str, Any]] = []
    for index in track(range(config.num_mixtures), "asking", config.num_mixtures):
        rows += asker.rows(index)
    return rows


class _Asker:
    def __init__(
        self, model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
    ) -> None:
        self.model, self.clips, self.config = model, clips, config
        self.planner = Planner(clips, config.mixtures, config.seed)
        self.questioner = QueryPlanner(clips, QueriesConfig(), config.mixtures.class_balance)
        self._captions: dict[str, Tensor] = {}

    def questions(
        self, index: int, spec: MixtureSpec, rendered: Mixture, kinds: Sequence[str]
    ) -> list[Question]:
        """Those of some kinds, in their order, as far as there are any."""
        model, mixtures = self.model, self.config.mixtures
        mixture, sources = torch.from_numpy(rendered.mixture), torch.from_numpy(rendered.sources)
        target, *others = (self.clips[source.clip] for source in spec.sources)
        text = self._said(target)
        none = model.side()
        found: dict[str, Question] = {"text": Question("text", model.side(text), none, sources[0])}
        if {"audio", "text and audio"} & set(kinds):
            crop = read_crop(target, spec.sources[0].crop, mixtures, SAMPLE_RATE)
            audio = model.encoder.embed_audio(crop, SAMPLE_RATE)
            for kind, words in (("audio", None), ("text and audio", text)):
                found[kind] = Question(kind, model.side(words, audio), none, sources[0])
        rng = random_stream(self.config.seed, 0, index, Stream.ABSENT)
        for kind in ABSENT:
            absent = self.questioner.absent(spec, kind == "near miss", rng, self._said_alike)
            if absent is not None and absent.absent is not None:
                in_vain = model.side(self._said(self.clips[absent.absent]))
                found[kind] = Question(kind, in_vain, none, torch.zeros_like(mixture))
        if model.config.negative and others:
            unwanted = model.side(self._said(others[0]))
            asked = Question(NEGATIVE[0], model.side(text), unwanted, sources[0])
            found[NEGATIVE[0]] = asked
            found[NEGATIVE[1]] = Question(NEGATIVE[1], none, unwanted, mixture - sources[1])
        return [found[kind] for kind in kinds if kind in found]

    def _said_alike(self, clip: int, other: int) -> bool:
        """Whether the words of a clip are said of another, too: it is not absent then."""
        return self.clips[clip].caption in self.clips[other].captions

    def answered(
        self, index: int, spec: MixtureSpec, kinds: Sequence[str], is_gated: bool = True
    ) -> tuple[Tensor, list[tuple[Question, Tensor, float | None]]]:
        """The mixture [samples]; questions, their estimates [samples], and how like what is wanted
        these sound as the separator gives them."""
        model = self.model
        rendered = render(spec, self.clips, self.config.mixtures, model.sample_rate)
        questions = self.questions(index, spec, rendered, kinds)
        conditions = [model.combine(question.wanted, question.unwanted) for question in questions]
        mixture = torch.from_numpy(rendered.mixture)
        answers = [e[0].float() for e in model.separate(mixture[None, None], conditions)]
        stream = model.level_gate(conditions, is_gated)
        found = stream.whole(torch.stack(answers).numpy(), rendered.mixture[None])
        estimates = torch.from_numpy(found)
        likeness = stream.meter.finish().overall.tolist()
        return mixture, [
            (question, estimate[0], like if bool(question.wanted.embeddings.any()) else None)
            for question, estimate, like in zip(questions, estimates, likeness, strict=True)
        ]

    def rows(self, index: int) -> Iterator[dict[str, Any]]:
        spec = self.planner.plan(0, index)
        target = self.clips[spec.sources[0].clip]
        mixture, answered = self.answered(index, spec, KINDS)
        calibration = self.model.config.presence
        for question, estimate, likeness in answered:
            scores = score(estimate, question.target, mixture)
            is_there = bool(scores.is_present)
            level_db = _level_db(estimate, question.target) if is_there else None
            yield {
                "mixture": index,
                "question": question.kind,
                "target": target.path.name,
                "recording": target.group,
                "family": target.family,
                "si_sdri_db": float(scores.si_sdr_improvement) if is_there else None,
                "improved": bool(scores.improved),
                "suppression_db": defined(suppression(estimate, mixture)),
                "level_db": level_db,
                "likeness": likeness,
                "presence": None
                if likeness is None or calibration is None
                else float(calibration.probability(likeness)),
            }

    def _said(self, clip: Clip) -> Tensor:
        """Embedding [1, dim] of what a clip is asked for by: its first caption."""
        if clip.caption is None:
            raise ManifestError(f"{clip.path}: has no caption to be asked for by text")
        if clip.caption not in self._captions:
            self._captions[clip.caption] = self.model.encoder.embed_text(clip.caption)
        return self._captions[clip.caption]


def _level_db(estimate: Tensor, target: Tensor) -> float:
    """Of an estimate over its target, which is not silent."""
    power, own = (float(wave.square().mean()) for wave in (estimate, target))
    return 10 * float(np.log10(max(power, 1e-20) / own))


class Calibration(NamedTuple):
    """What a model is to make of likeness.

    Attributes:
        presence: None where every sound is there.
        gate: None where likeness does not tell what is there.
    """

    presence: PresenceCalibration | None
    gate: Gate | None


@torch.inference_mode()
def calibrated(
    model: QueriedSeparator, clips: Sequence[Clip], config: EvaluationConfig
) -> Calibration:
    """From the likeness, and the level, of what is singled out by words for sounds that are there,
    and that are not.

    Raises:
        ManifestError: a sound has no caption.
    """
    asker = _Asker(model, clips, config)
    present: list[float] = []
    levels_db: list[float] = []
    absent: list[float] = []
    for index in track(range(config.num_mixtures), "listening", config.num_mixtures):
        spec = asker.planner.plan(0, index)
        answers = asker.answered(index, spec, ("text", *ABSENT), is_gated=False)[1]
        for question, estimate, likeness in answers:
            if likeness is None:
                continue
            if question.kind in ABSENT:
                absent.append(likeness)
            elif bool(question.target.any()):  # a crop may be silent
                present.append(likeness)
                levels_db.append(_level_db(estimate, question.target))
    if not absent or not present:
        return Calibration(None, None)
    presence = fit_presence(present, absent)
    return Calibration(presence, fit_gate(presence, present, levels_db))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """How often a positive has the higher score than a negative; ties count half."""
    scores = np.concatenate([positive, negative])
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    total = float(middle[ranks][: len(positive)].sum())
    pairs = len(positive) * len(negative)
    return (total - len(positive) * (len(positive) + 1) / 2) / pairs


def fit_presence(
    present: Sequence[float], absent: Sequence[float], num_steps: int = 50
) -> PresenceCalibration:
    """Platt's scaling (1999) of the likeness of sounds that are there and of sounds that are not,
    both alike likely: scale and bias of least cross-entropy, by Newton's method.

    A weak prior keeps the scale finite where the two can be told apart without an error.
    """
    values = np.concatenate([present, absent]).astype(np.float64)
    is_there = np.repeat([1.0, 0.0], [len(present), len(absent)])
    weight = np.repeat([0.5 / len(present), 0.5 / len(absent)], [len(present), len(absent)])
    middle, spread = values.mean(), max(float(values.std()), 1e-6)
    inputs = np.stack([(values - middle) / spread, np.ones_like(values)], 1)
    solution = np.zeros(2)
    for _ in range(num_steps):
        probability = 0.5 + 0.5 * np.tanh(0.5 * inputs @ solution)
        slope = inputs.T @ (weight * (probability - is_there)) + PRIOR * solution
        curve = inputs.T @ (inputs * (weight * probability * (1 - probability))[:, None])
        step = np.linalg.solve(curve + PRIOR * np.eye(2), slope)
        solution = solution - step / max(1.0, float(np.abs(step).max()))
    scale = float(solution[0]) / spread
    return PresenceCalibration(scale=scale, bias=float(solution[1]) - scale * float(middle))


def fit_gate(
    presence: PresenceCalibration, likeness: Sequence[float], levels_db: Sequence[float]
) -> Gate | None:
    """Closed where a sound is probably not there, and as loud as brings those for which it is open
    nearest to their level.

    Args:
        presence: tells the likeness at which it closes and opens.
        likeness, levels_db: of sounds that are there; their level over that of the targets, NaN of
            silent ones.

    Returns:
        None where more likeness is not more presence, or never enough.
    """
    if presence.scale <= 0:
        return None
    low, high = (
        (float(np.log(p / (1 - p))) - presence.bias) / presence.scale for p in (CLOSED, OPEN)
    )
    if high >= HIGHEST:
        return None
    gates = [Gate(low=low, high=high, floor_db=FLOOR_DB, gain_db=gain) for gain in GAINS_DB]
    is_open = (np.asarray(likeness) >= high) & np.isfinite(levels_db)
    if not is_open.any():
        return None
    found = np.asarray(likeness)[is_open], np.asarray(levels_db)[is_open]
    off_db = [np.abs(found[1] + gate.decibels(found[0])) for gate in gates]
    # What is farther off is a failure, which no gain mends.
    missed = [np.minimum(off, 2 * LEVEL_TOLERANCE_DB).mean() for off in off_db]
    return gates[int(np.argmin(missed))]


def calibration_error(
    present: Sequence[float], absent: Sequence[float], num_bins: int = 10
) -> float:
    """Mean distance, over equal bins of the probability, between it and the share that is there;
    sounds that are there and sounds that are not count alike."""
    probability = np.concatenate([present, absent])
    is_there = np.repeat([1.0, 0.0], [len(present), len(absent)])
    weight = np.repeat([0.5 / len(present), 0.5 / len(absent)], [len(present), len(absent)])
    which = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    missed = np.bincount(which, weight * (probability - is_there), minlength=num_bins)
    return float(np.abs(missed).sum())


def findings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per question: SI-SDRi, share within 3 dB of the target's level; suppression where the sound
    is absent; how well presence tells present from absent; what a negative prompt adds.

    Intervals: 95 % bootstrap over recordings. Targets that are silent, as a crop may be, count
    nowhere but in ``num_mixtures``.
    """
    num_mixtures = len({row["mixture"] for row in rows})
    rows = [row for row in rows if row["question"] in ABSENT or row["si_sdri_db"] is not None]
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(row)
    found: dict[str, Any] = {"questions": {}, "num_mixtures": num_mixtures}
    for kind, own in by_question.items():
        groups = recordings(own)
        heard = [row for row in own if row["suppression_db"] is not None]
        left_db = [row["suppression_db"] for row in heard]
        entry: dict[str, Any] = {
            "suppression_db": bootstrap_interval(left_db, recordings(heard), median),
            "count": len(own),
        }
        if kind not in ABSENT:
            values = [row["si_sdri_db"] for row in own]
            entry["si_sdri_db"] = summarise(values, [row["improved"] for row in own], groups)
            close = [abs(row["level_db"]) <= LEVEL_TOLERANCE_DB for row in own]
            entry["level_within_3_db"] = bootstrap_interval(close, groups)
        found["questions"][kind] = entry
    text = by_question["text"]
    found["text_minus_audio_db"] = _difference(text, by_question["audio"])
    if NEGATIVE[0] in by_question:
        found["negative_adds_db"] = _difference(by_question[NEGATIVE[0]], text)
    found["presence_auroc"] = {
        kind: _auroc_interval(text, by_question[kind]) for kind in ABSENT if kind in by_question
    }
    if text[0]["presence"] is not None and found["presence_auroc"]:
        absent = [row["presence"] for kind in ABSENT for row in by_question.get(kind, ())]
        present = [row["presence"] for row in text]
        found["presence_calibration_error"] = calibration_error(present, absent)
    return found


def _difference(rows: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> Interval:
    """Of SI-SDRi, paired by mixture."""
    return bootstrap_interval(*paired(rows, other, "si_sdri_db"))


def _auroc_interval(
    present: Sequence[dict[str, Any]], absent: Sequence[dict[str, Any]], num_resamples: int = 500
) -> Interval:
    """Resampled over the recordings of the mixtures' targets, which both are questions to."""
    names = sorted({row["recording"] for row in [*present, *absent]})
    place = {name: number for number, name in enumerate(names)}
    sides = []
    for rows in (present, absent):
        scores: list[list[float]] = [[] for _ in names]
        for row in rows:
            scores[place[row["recording"]]].append(row["likeness"])
        sides.append(scores)

    def of(drawn: Sequence[int]) -> float:
        yes, no = ([s for number in drawn for s in side[number]] for side in sides)
        return auroc(yes, no) if yes and no else float("nan")

    resampled = [
        of(np.random.default_rng([0, r]).integers(len(names), size=len(names)).tolist())
        for r in range(num_resamples)
    ]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Interval(estimate=of(range(len(names))), low=float(low), high=float(high))
