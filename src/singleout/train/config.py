"""What a training run is told."""

from __future__ import annotations

from pathlib import Path as AnyPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from singleout.config import StrictConfig, added
from singleout.data.dataset import QueryAudioConfig
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig
from singleout.data.queries import QueriesConfig
from singleout.model import ModelConfig

Positive = Annotated[int, Field(gt=0)]
Path = Annotated[AnyPath, AfterValidator(AnyPath.expanduser)]
"""A path in which ~ is the home folder."""


class ValidationConfig(StrictConfig):
    """Fixed mixtures that are scored during training, with text and with audio queries.

    Args:
        num_mixtures: how many; 0 turns validation off.
        every_steps: how often.
        mixtures: how they are drawn.
    """

    num_mixtures: Annotated[int, Field(ge=0)] = 100
    every_steps: Positive = 500
    mixtures: MixtureConfig = SCORED_MIXTURES


class UncaptionedConfig(StrictConfig):
    """More sounds to train on, by their audio alone: captions that they have are not looked at.

    Args:
        manifest: JSONL of sounds; its split ``train`` is used.
        audio: a folder of sounds instead.
        share: of their recordings that are used; a larger share holds every smaller one.
    """

    manifest: Path | None = None
    audio: Path | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _one_source(self) -> UncaptionedConfig:
        if (self.manifest is None) == (self.audio is None):
            raise ValueError("give either a manifest or a folder of audio")
        return self


class TrainConfig(StrictConfig):
    """One run.

    Args:
        manifest: JSONL of sounds; its split ``train`` is trained on, ``validation`` scored.
        audio: a folder of sounds instead of a manifest; a twentieth of them is scored.
        output: folder of the model, its checkpoint and its logs.
        model: what is trained.
        init: folder of a model whose weights to start from; where it has the same manipulation and
            encoder, also with what that has learnt: sounds that it remembers stay, new ones join.
        embeddings: file of an ``EmbeddingCache`` to condition on instead of the encoder's own
            embeddings (the built-in model's recipe makes a cross-fitted one).
        mixtures: how training mixtures are drawn.
        validation: of fixed mixtures.
        uncaptioned: more sounds, without captions.
        query_audio: which sound is the query of an example, and how it is altered.
        queries: what is asked: for sounds that are there or not, with negative prompts or without.
        absent_weight: of an example whose target is silence, in the loss.
        p_text: how often a captioned example is conditioned on its caption instead of a sound.
        query_mixup: condition captioned examples on a random point between sound and caption, as
            CLAPSep does (Ma et al., 2024), where ``p_text`` did not choose the caption alone.
        steps, batch_size: optimiser steps, and mixtures in each (two queries per mixture).
        si_sdr_weight: of the SI-SDR of what is there, which is added to the loss.
        optimizer: see ``singleout.train.muon``; ``weight_decay`` is then of what Muon steps.
        learning_rate, warmup_steps, weight_decay, clip_norm: of the optimiser.
        schedule: after the warm-up; a ``cosine`` falls to a hundredth at the last step, ``flat``
            stays: a second run, whose ``init`` is the model of the first, makes the decay.
        ema_decay: of the averaged weights that are validated and saved.
        device: where to train; ``auto`` is CUDA where there is any. The encoder stays on the CPU.
            Another device gives another run; on a GPU a run need not be the same to the bit.
        precision: ``auto`` is bfloat16 where the device has the instructions, else float32.
        checkpoint_every: steps between checkpoints.
        num_workers: processes that render mixtures.
        seed: of everything random.
    """

    manifest: Path | None = None
    audio: Path | None = None
    output: Path
    model: ModelConfig
    init: Path | None = None
    embeddings: Path | None = None
    mixtures: MixtureConfig = MixtureConfig()
    validation: ValidationConfig = ValidationConfig()
    uncaptioned: UncaptionedConfig | None = None
    query_audio: QueryAudioConfig = QueryAudioConfig()
    p_text: Annotated[float, Field(ge=0, le=1)] = 0.0
    query_mixup: bool = False
    queries: QueriesConfig = added(QueriesConfig())
    absent_weight: Annotated[float, Field(ge=0)] = added(1.0)
    si_sdr_weight: Annotated[float, Field(ge=0)] = added(0.0)
    optimizer: Literal["adamw", "muon"] = added("adamw")
    steps: Positive = 4_000
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "flat"] = added("cosine")
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every: Positive = 200
    num_workers: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _one_source(self) -> TrainConfig:
        if (self.manifest is None) == (self.audio is None):
            raise ValueError("give either a manifest or a folder of audio")
        return self

    @model_validator(mode="after")
    def _as_many_questions(self) -> TrainConfig:
        for name, mixtures in (("", self.mixtures), ("validation.", self.validation.mixtures)):
            fewest, most = mixtures.num_sources
            if fewest == 1 < most:
                raise ValueError(
                    f"{name}mixtures.num_sources is [1, {most}]: mixtures of one sound are asked "
                    "one question, others two, which makes no batch: begin at 2"
                )
        return self

    @model_validator(mode="after")
    def _one_embedding(self) -> TrainConfig:
        if self.embeddings is not None and self.query_audio.is_embedded_on_the_fly:
            raise ValueError(
                "mixup and SpecAugment need the encoder itself, not a file of its embeddings"
            )
        return self

    @model_validator(mode="after")
    def _answers_what_is_asked(self) -> TrainConfig:
        if self.queries.has_negative and not self.model.negative:
            raise ValueError("negative prompts need a model that takes them: model.negative")
        if self.queries.has_negative and self.query_audio.is_embedded_on_the_fly:
            raise ValueError("negative prompts do not go with mixup and SpecAugment of the queries")
        return self
