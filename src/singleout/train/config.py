"""Config of a training run."""

from __future__ import annotations

from pathlib import Path as AnyPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from singleout.config import Positive, StrictConfig, added, is_path
from singleout.data.dataset import QueryAudioConfig
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig
from singleout.data.query_plan import QueriesConfig
from singleout.errors import shortened
from singleout.model import ModelConfig
from singleout.storage.addresses import address_of
from singleout.storage.models import BUILTIN


def _expanded(path: AnyPath) -> AnyPath:
    if not is_path(str(path)):
        raise ValueError("no file can have this name")
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder of {shortened(path.parts[0])}") from None


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("the name is empty: give one, or . for the current folder")
    return value


Path = Annotated[AnyPath, BeforeValidator(_not_empty), AfterValidator(_expanded)]
"""A path in which ~ is the home folder. It is not empty, as a variable that is not set would be."""


def _place(value: object) -> object:
    """A path or an address as text. A path would make one slash of two."""
    if not isinstance(value, str | AnyPath) or address_of(value) is not None:
        return value
    return str(_expanded(AnyPath(value)))


Place = Annotated[str, BeforeValidator(_place), BeforeValidator(_not_empty)]
"""A path, in which ~ is the home folder, or an address such as ``s3://bucket/corpus``."""


def _init_place(value: object) -> object:
    """The folder ``./builtin`` as an absolute path: a path forgets the ``./``, and ``builtin`` is
    the name of the packaged model."""
    is_folder = isinstance(value, str) and value != BUILTIN and AnyPath(value) == AnyPath(BUILTIN)
    return AnyPath(BUILTIN).absolute() if is_folder else value


ModelName = Annotated[Path, BeforeValidator(_init_place)]
"""A model, as ``resolve_model`` takes it."""


class ValidationConfig(StrictConfig):
    """Fixed mixtures that are scored during training, by text and by audio queries.

    Args:
        num_mixtures: number of mixtures; 0 turns validation off.
        every_steps: training steps from one validation to the next.
        mixtures: how the mixtures are drawn.

    Example:
        >>> ValidationConfig(num_mixtures=0).every_steps
        500
    """

    num_mixtures: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    every_steps: Positive = 500
    mixtures: MixtureConfig = SCORED_MIXTURES


class UncaptionedConfig(StrictConfig):
    """More sounds to train on, by their audio alone. Captions that they have are ignored.

    Args:
        manifest: JSONL of sounds; the split ``train`` is used.
        audio: folder of sounds, instead of a manifest.
        shards: prepared corpus, instead of a manifest; the split ``train`` is used.
        share: of the recordings that is used, 0 to 1. A larger share contains every smaller one.

    Example:
        >>> UncaptionedConfig(audio="my_sounds", share=0.5).share
        0.5
    """

    manifest: Path | None = None
    audio: Path | None = None
    shards: Place | None = added(None)
    share: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _one_source(self) -> UncaptionedConfig:
        _check_one(self.manifest, self.audio, self.shards)
        return self


def _check_one(*sources: object) -> None:
    if sum(source is not None for source in sources) != 1:
        raise ValueError("give either a manifest, or a folder of audio, or shards")


class TrainConfig(StrictConfig):
    """One training run.

    Args:
        manifest: JSONL of sounds. The split ``train`` is trained on, ``validation`` is scored.
        audio: folder of sounds, instead of a manifest. One sound in twenty is held out and scored.
        shards: folder or address of a corpus that ``singleout prepare`` wrote, instead of a
            manifest. It has the splits of its manifest.
        output: folder of the run: the model, the checkpoint and the logs.
        model: the model that is trained.
        init: model to start from: ``builtin``, a folder, or a hub id such as ``owner/name``. If it
            has the same manipulation and the same encoder, what its manipulation has learned is
            kept: sounds in its memory stay, and those of this run are added.
        embeddings: file of an ``EmbeddingCache`` with the embeddings of the sounds, instead of the
            encoder's. (The recipe of the built-in model makes a cross-fitted one.)
        mixtures: how training mixtures are drawn.
        validation: fixed mixtures that are scored.
        uncaptioned: more sounds, without captions.
        query_audio: which sound is the query of an example, and how it is altered.
        queries: shares of the kinds of queries: for sounds that are present or absent, with
            negative prompts or without.
        absent_weight: weight, in the loss, of an example whose target is silence.
        p_text: probability, 0 to 1, that the query of an example with a caption is the caption
            instead of a sound.
        query_mixup: condition examples with captions on a random point between sound and caption,
            unless ``p_text`` chose the caption. CLAPSep does so (Ma et al., 2024).
        si_sdr_weight: weight of the negative SI-SDR, which is added to the loss of examples whose
            target is not silence. See ``singleout.train.losses``.
        steps: optimiser steps.
        batch_size: mixtures in a step, over all processes and accumulated parts. Each mixture has
            two queries.
        accumulate: parts into which each process cuts its share of a batch. The gradients of the
            parts are added, so that a batch needs the memory of one part.
        optimizer: ``adamw`` or ``muon`` (``singleout.train.muon``). With ``muon``, weight decay
            applies to the weights that Muon steps.
        learning_rate: at the end of the warm-up.
        schedule: of the learning rate after the warm-up. ``cosine`` falls to a hundredth at the
            last step. ``flat`` does not change: a second run, whose ``init`` is the model of the
            first, then lets the rate fall.
        warmup_steps: steps in which the learning rate rises from 0.
        weight_decay: of the optimiser.
        clip_norm: longer gradients are shortened to this norm.
        ema_decay: of the averaged weights, which are validated and saved.
        device: ``auto`` is CUDA if there is a CUDA device, else the CPU. Results differ between
            devices, and a GPU need not repeat them to the bit.
        devices: processes on each node, and on a GPU machine also GPUs. ``auto`` is the number
            that a launcher such as torchrun started; without a launcher it is one process.
            Without a launcher, a number starts so many processes on this machine.
        num_nodes: machines. ``auto`` is the number that a launcher started.
        precision: ``auto`` is bfloat16 if the device has instructions for it, else float32.
        checkpoint_every: steps from one checkpoint to the next.
        num_workers: processes that render mixtures; 0 renders in the main process.
        seed: of all random draws.
        skip_bad: train without sounds that cannot be read, are cut or damaged, or are silent. By
            default such sounds are refused.

    Example:
        >>> config = TrainConfig(
        ...     audio="my_sounds",
        ...     output="run",
        ...     model={"separator": {"type": "conditioned_unet"}},
        ... )
        >>> config.steps, config.batch_size, config.mixtures.segment_seconds
        (4000, 8, 4.0)
    """

    manifest: Path | None = None
    audio: Path | None = None
    shards: Place | None = added(None)
    output: Path
    model: ModelConfig
    init: ModelName | None = None
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
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "flat"] = added("cosine")
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    accumulate: Annotated[int, Field(gt=0, le=65_536)] = added(1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Literal["auto"] | Annotated[int, Field(gt=0, le=1_024)] = added("auto")
    num_nodes: Literal["auto"] | Annotated[int, Field(gt=0, le=65_536)] = added("auto")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every: Positive = 200
    num_workers: Annotated[int, Field(ge=0, le=1_024)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    skip_bad: bool = added(False)

    @model_validator(mode="after")
    def _one_source(self) -> TrainConfig:
        _check_one(self.manifest, self.audio, self.shards)
        return self

    @model_validator(mode="after")
    def _equal_numbers_of_queries(self) -> TrainConfig:
        for name, mixtures in (("", self.mixtures), ("validation.", self.validation.mixtures)):
            fewest, most = mixtures.num_sources
            if fewest == 1 < most:
                raise ValueError(
                    f"{name}mixtures.num_sources is [1, {most}]: a mixture of one sound has one "
                    "query, other mixtures have two, and these make no batch: start at 2"
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
    def _model_takes_the_queries(self) -> TrainConfig:
        if self.queries.has_negative and not self.model.negative:
            raise ValueError("negative prompts need a model that takes them: model.negative")
        if self.queries.has_negative and self.query_audio.is_embedded_on_the_fly:
            raise ValueError(
                "negative prompts cannot be combined with mixup or SpecAugment of the queries"
            )
        return self
