"""Scores a model on fixed mixtures of a manifest's sounds, with text and with audio queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.data.clips import Clip
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig, Planner
from singleout.data.render import Mixture, read_crop, render
from singleout.errors import ManifestError
from singleout.evaluate.metrics import score
from singleout.evaluate.references import REFERENCES, Reference
from singleout.evaluate.rows import Row, finite_or_none, paired_differences, recording_numbers
from singleout.evaluate.statistics import bootstrap_interval, summarise
from singleout.model import QueriedSeparator
from singleout.progress import track

QUERY_KINDS = ("text", "audio")


class EvaluationConfig(StrictConfig):
    """Which mixtures are scored.

    Args:
        num_mixtures: number of mixtures.
        seed: of the mixtures. The same seed and manifest give the same mixtures.
        mixtures: how mixtures are drawn. The first sound of a mixture is the target.

    Example:
        >>> EvaluationConfig(num_mixtures=100).mixtures.snr_db
        (-5.0, 5.0)
    """

    num_mixtures: int = 600
    seed: int = 0
    mixtures: MixtureConfig = SCORED_MIXTURES


@dataclass(frozen=True)
class Task:
    """One mixture and its target; see ``tasks``.

    Attributes:
        rendered: the samples.
        target: clip of the target; it has a caption.
        crop: number of the crop of the target's clip that is in the mixture.
        interference: clip of the second sound.

    Example:
        >>> from pathlib import Path
        >>> dog, rain = (
        ...     Clip(Path(f"{name}.wav"), 1.0, f"a {name}", (), name, name, "test")
        ...     for name in ("dog", "rain")
        ... )
        >>> silence = Mixture(np.zeros(4, np.float32), np.zeros((2, 4), np.float32))
        >>> Task(silence, target=dog, crop=0, interference=rain).caption
        'a dog'
    """

    rendered: Mixture
    target: Clip
    crop: int
    interference: Clip

    @property
    def caption(self) -> str:
        """The text query: the first caption of the target."""
        return required_caption(self.target)


def tasks(clips: Sequence[Clip], config: EvaluationConfig, sample_rate: int) -> Iterator[Task]:
    """Render the fixed mixtures, in order.

    Args:
        clips: sounds to mix, of at least two classes.
        config: which mixtures.
        sample_rate: of the mixtures, Hz.

    Raises:
        ManifestError: a target has no caption, or the clips cannot be mixed.
        AudioError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from singleout.audio import write_wav
        >>> noise = np.random.default_rng(0).normal(0, 0.1, (2, 1, 8_000)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = []
        ...     for name, samples in zip(("rain", "wind"), noise):
        ...         path = Path(folder) / f"{name}.wav"
        ...         write_wav(path, samples, 8_000)
        ...         clips.append(Clip(path, 1.0, name, (), name, name, "test"))
        ...     (task,) = tasks(clips, EvaluationConfig(num_mixtures=1), 16_000)
        >>> sorted([task.target.label, task.interference.label])
        ['rain', 'wind']
        >>> task.rendered.mixture.shape  # four seconds
        (64000,)
    """
    planner = Planner(clips, config.mixtures, config.seed)
    for index in range(config.num_mixtures):
        spec = planner.plan(0, index)
        target = clips[spec.sources[0].clip]
        required_caption(target)
        rendered = render(spec, clips, config.mixtures, sample_rate)
        yield Task(rendered, target, spec.sources[0].crop, clips[spec.sources[1].clip])


def required_caption(clip: Clip) -> str:
    """The first caption of a clip, which is its text query.

    Raises:
        ManifestError: the clip has none.

    Example:
        >>> from pathlib import Path
        >>> required_caption(Clip(Path("dog.wav"), 1.0, "a dog barking", (), "dog", "1", "test"))
        'a dog barking'
    """
    if clip.caption is None:
        raise ManifestError(f"{clip.path}: has no caption, which the text query needs")
    return clip.caption


@torch.inference_mode()
def evaluate(
    model: QueriedSeparator,
    clips: Sequence[Clip],
    config: EvaluationConfig,
    references: Mapping[str, Reference] = REFERENCES,
) -> list[Row]:
    """Score a model with text and with audio queries, and the reference systems.

    An audio query is the recording from which the target was made, at its original level and
    length, as in training.

    Args:
        model: in evaluation mode.
        clips: sounds to mix, each with a caption.
        config: which mixtures.
        references: reference systems by name, see ``singleout.evaluate.references``.

    Returns:
        One row per mixture and system (``text``, ``audio`` and the references). ``summary``
        makes the table of them.

    Raises:
        ManifestError: a target has no caption, or the clips cannot be mixed.
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
        >>> time = np.arange(8_000, dtype=np.float32) / 8_000  # one second
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = []
        ...     for name, hz in (("low", 200), ("high", 2_000)):
        ...         path = Path(folder) / f"{name}.wav"
        ...         write_wav(path, 0.1 * np.sin(2 * np.pi * hz * time)[None], 8_000)
        ...         clips.append(Clip(path, 1.0, f"a {name} tone", (), name, name, "test"))
        ...     rows = evaluate(model, clips, EvaluationConfig(num_mixtures=1), references={})
        >>> [row["system"] for row in rows]
        ['text', 'audio']
    """
    rows: list[Row] = []
    text: dict[str, Condition] = {}
    progress = track(tasks(clips, config, model.sample_rate), "evaluating", config.num_mixtures)
    for number, task in enumerate(progress):
        mixture = torch.from_numpy(task.rendered.mixture)
        target = torch.from_numpy(task.rendered.sources[0])
        if task.caption not in text:
            embedding = model.encoder.embed_text(task.caption)
            text[task.caption] = model.condition(embedding, is_text=True)
        audio = _audio_condition(model, task, config.mixtures)
        estimates = model.extract_clip(mixture[None, None], [text[task.caption], audio])[:, 0]
        systems = dict(zip(QUERY_KINDS, estimates, strict=True))
        systems |= {name: estimate(mixture, target) for name, estimate in references.items()}
        rows += [{"mixture": number, **_scores(n, e, task)} for n, e in systems.items()]
    return rows


def _audio_condition(model: QueriedSeparator, task: Task, config: MixtureConfig) -> Condition:
    recording = read_crop(task.target, task.crop, config, SAMPLE_RATE)
    embedding = model.encoder.embed_audio(recording, SAMPLE_RATE)
    return model.condition(embedding, is_text=False)


def _scores(system: str, estimate: Tensor, task: Task) -> Row:
    mixture = torch.from_numpy(task.rendered.mixture)
    scores = score(estimate, torch.from_numpy(task.rendered.sources[0]), mixture)
    return {
        "system": system,
        "target": task.target.path.name,
        "recording": task.target.group,
        "interference": task.interference.path.name,
        "query": task.caption,
        "sdr_db": finite_or_none(scores.sdr),
        "sdri_db": finite_or_none(scores.sdr_improvement),
        "si_sdr_db": finite_or_none(scores.si_sdr),
        "si_sdri_db": finite_or_none(scores.si_sdr_improvement),
        "silent": bool(scores.is_silent),
        "improved": bool(scores.improved),
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the rows of ``evaluate``.

    Mixtures whose target is silent have no scores. They count only in ``num_mixtures``.

    Args:
        rows: of the systems ``text`` and ``audio``, and of any references.

    Returns:
        ``systems``: by name, mean, median and share improved of ``si_sdri_db`` and ``sdri_db``,
        with 95 % bootstrap intervals over recordings, and ``silent_share``. ``query_gap_db``: the
        paired difference of SI-SDRi, audio minus text queries. ``num_mixtures``.

    Raises:
        InputError: every target is silent.

    Example:
        >>> score = {"recording": "a", "sdri_db": 4.0, "improved": True, "silent": False}
        >>> rows = [
        ...     {"system": "text", "si_sdri_db": 3.0, **score},
        ...     {"system": "audio", "si_sdri_db": 3.5, **score},
        ... ]
        >>> result = summary(rows)
        >>> result["systems"]["text"]["si_sdri_db"]["mean"]["estimate"]
        3.0
        >>> result["query_gap_db"]["estimate"]
        0.5
    """
    by_system: dict[str, list[Row]] = {}
    for row in rows:
        by_system.setdefault(row["system"], []).append(row)
    text, audio = by_system["text"], by_system["audio"]
    return {
        "systems": {name: _system_entry(rows) for name, rows in by_system.items()},
        "query_gap_db": bootstrap_interval(*paired_differences(audio, text, "si_sdri_db")),
        "num_mixtures": len(text),
    }


def _system_entry(rows: Sequence[Row]) -> dict[str, Any]:
    scored = [row for row in rows if row["si_sdri_db"] is not None]
    improved, recordings = [row["improved"] for row in scored], recording_numbers(scored)
    entry: dict[str, Any] = {
        key: summarise([row[key] for row in scored], improved, recordings)
        for key in ("si_sdri_db", "sdri_db")
    }
    return {**entry, "silent_share": float(np.mean([row["silent"] for row in rows]))}
