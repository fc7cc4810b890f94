"""A run from its config to a saved model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import signal
import threading
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from singleout.config import differences
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import EmbeddingTable, embeddings_of, given_embeddings
from singleout.data.manifest import (
    Clip,
    check_splits,
    held_out,
    read_manifest,
    scan_folder,
    share_of,
)
from singleout.data.plan import MixtureConfig
from singleout.data.render import REFERENCE_RMS
from singleout.encoders import QueryEncoder, load_encoder
from singleout.errors import (
    ConfigError,
    ManifestError,
    ModelError,
    SingleoutError,
    TrainingError,
    one_line,
)
from singleout.evaluate.evaluation import EvaluationConfig
from singleout.evaluate.scenarios import calibration_of
from singleout.manipulations import FitEmbeddings, Manipulator
from singleout.model import QueriedSeparator, read_config
from singleout.storage.models import resolve_model
from singleout.storage.tensors import has_fast_bfloat16
from singleout.train.checkpoint import FILE_NAME, Checkpoint, restore, saved_step
from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
from singleout.train.module import TrainingModule
from singleout.train.progress import RunProgress

CONFIG_NAME = "config.json"
"""Of the run, in its folder."""
VALIDATION_SEED = 1_000_000
MIN_CALIBRATION_MIXTURES = 100


def split_clips(config: TrainConfig) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and clips to validate with; the latter may be empty."""
    if config.manifest is not None:
        train = read_manifest(config.manifest, "train")
        check_splits(config.manifest)
        return train, read_manifest(config.manifest, "validation", may_be_empty=True)
    assert config.audio is not None
    clips = scan_folder(config.audio)
    num_held_out = len(clips) // 20
    if num_held_out < config.validation.mixtures.num_sources[1]:
        num_held_out = 0  # too few for one mixture
    held_out = set(np.random.default_rng([config.seed]).permutation(len(clips))[:num_held_out])
    return (
        [clip for i, clip in enumerate(clips) if i not in held_out],
        [clip for i, clip in enumerate(clips) if i in held_out],
    )


def uncaptioned_clips(
    config: UncaptionedConfig,
    known: Sequence[Clip] = (),
    held_out: tuple[Collection[Path], Collection[str]] = ((), ()),
) -> list[Clip]:
    """The share of the recordings that is asked for, stripped of captions, without what is known.

    Args:
        config: where they are.
        known: clips that are trained on or scored already: their files are left out.
        held_out: files and groups that are left out. Groups count in manifests alone: in folders
            they are names, which those of another may be, too.
    """
    if config.manifest is not None:
        clips = read_manifest(config.manifest, "train")
    else:
        assert config.audio is not None
        clips = scan_folder(config.audio)
    files = {clip.path.resolve() for clip in known} | set(held_out[0])
    groups = held_out[1] if config.manifest is not None else ()
    return [
        dataclasses.replace(clip, caption=None, alternatives=())
        for clip in clips
        if share_of(clip.group) < config.share
        and clip.group not in groups
        and clip.path.resolve() not in files
    ]


def caption_embeddings(clips: list[Clip], encoder: QueryEncoder) -> EmbeddingTable | None:
    """Embeddings of all captions of all clips, or None where nothing is captioned."""
    captions = [caption for clip in clips for caption in clip.captions]
    if not captions:
        return None
    known = sorted(set(captions))
    rows = torch.cat([encoder.embed_text(known[i : i + 64]) for i in range(0, len(known), 64)])
    index = {caption: i for i, caption in enumerate(known)}
    offsets = np.cumsum([0, *(len(clip.captions) for clip in clips)])
    return EmbeddingTable(
        rows[[index[caption] for caption in captions]].clone(), tuple(offsets.tolist())
    )


def examples_of(sounds: EmbeddingTable, captions: EmbeddingTable | None) -> FitEmbeddings:
    """What a manipulation is fitted on: every sound's first crop, every caption.

    One crop each: training draws sounds alike, however long they are.
    """
    audio = sounds.embeddings[torch.tensor(sounds.offsets[:-1])]
    if captions is None:
        none = torch.zeros(0, audio.shape[-1])
        return FitEmbeddings(audio, none, torch.zeros(0, dtype=torch.long))
    counts = torch.tensor(captions.offsets).diff()
    pairs = torch.arange(len(audio)).repeat_interleave(counts)
    return FitEmbeddings(audio, captions.embeddings, pairs)


def _dataset(
    config: TrainConfig,
    clips: list[Clip],
    encoder: QueryEncoder,
    is_training: bool,
    first: int,
    length: int,
) -> MixtureDataset:
    mixtures = config.mixtures if is_training else config.validation.mixtures
    if config.embeddings is not None:
        table = given_embeddings(
            clips, mixtures, encoder.fingerprint, encoder.dim, config.embeddings
        )
    else:
        table = embeddings_of(clips, mixtures, encoder)
    asked_by_text = bool(config.p_text or config.query_mixup)
    learns = Manipulator(config.model.manipulation, encoder.dim).state is None
    # Audio-only training has no use for captions, of which a corpus may have very many.
    is_needed = asked_by_text or learns or not is_training
    captions = caption_embeddings(clips, encoder) if is_needed else None
    if captions is None and is_training and asked_by_text:
        raise ManifestError("training by text needs captions, and no training sound has one")
    return MixtureDataset(
        clips, mixtures, config.model.separator.sample_rate, table, captions,
        config.seed if is_training else VALIDATION_SEED, first, length,
        config.query_audio if is_training else None, all_captions=is_training,
        queries=config.queries if is_training else None,
    )  # fmt: skip


def quietest_db(mixtures: MixtureConfig) -> float:
    """RMS over full scale of the quietest mixtures."""
    return round(20 * math.log10(REFERENCE_RMS) + mixtures.gain_db[0], 2)


def _changes(path: Path, config: str) -> str:
    """From the config that a run left in its folder to the one it is to go on with."""
    try:
        old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(config)
        found = differences({key: old.get(key) for key in new}, new)
    except (OSError, ValueError, AttributeError):
        return f"{path} cannot be read, so which keys is not known"
    shown = found[:3] + ([f"and {len(found) - 3} more"] if len(found) > 3 else [])
    return "; ".join(shown) or "its query encoder is another"


def _digest(clips: Sequence[Clip]) -> str:
    """Of what a run is made of: another one would not go on with the same mixtures."""
    found = hashlib.sha256()
    for clip in clips:
        row = (clip.path.as_posix(), clip.seconds, clip.label, clip.group, clip.captions)
        found.update(repr(row).encode(errors="surrogateescape"))
    return found.hexdigest()[:16]


def _is_of(folder: Path, encoder: QueryEncoder) -> bool:
    """Whether a model was made with this very encoder, so that what it has learnt of embeddings
    holds."""
    try:
        return read_config(resolve_model(folder)).encoder.fingerprint == encoder.fingerprint
    except ModelError:  # a checkpoint of others, which has learnt nothing of them
        return False


def _fit(
    trainer: lightning.Trainer,
    module: TrainingModule,
    loader: DataLoader[Any],
    validation: DataLoader[Any] | None,
) -> None:
    """Lightning's, with its ways to end put right.

    Raises:
        KeyboardInterrupt: Ctrl-C, which Lightning turns into exit code 1.
        SingleoutError: raised in a process that renders mixtures, whose whole traceback would be
            the message; or TrainingError: such a process died.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, loader, validation)
    except SystemExit as error:
        if error.code != 1 or not trainer.interrupted:  # such as of SIGTERM
            raise
        raise KeyboardInterrupt from None
    except SingleoutError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.split(f"{type(error).__name__}: ", 1)[-1]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that renders mixtures died ({one_line(error)[:120]}): is there memory "
            "enough? num_workers=0 renders in the run's own process"
        ) from None
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGINT, handler)


def _has_bfloat16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return has_fast_bfloat16()


def calibrate(model: QueriedSeparator, clips: list[Clip], config: ValidationConfig) -> None:
    """Fit what the model makes of likeness, its presence and its gate, by words, on mixtures of the
    validation sounds; if one of these has no caption, it stays as it is."""
    if any(clip.caption is None for clip in clips):
        return
    mixtures = max(config.num_mixtures, MIN_CALIBRATION_MIXTURES)
    asked = EvaluationConfig(
        num_mixtures=mixtures, seed=VALIDATION_SEED + 1, mixtures=config.mixtures
    )
    model.config = model.config.model_copy(update=calibration_of(model, clips, asked)._asdict())


def identity(config: TrainConfig) -> str:
    """The settings that decide what a run computes, as JSON.

    The folder, the number of workers and the device are left out: a run may move.
    """
    return config.model_dump_json(indent=2, exclude={"output", "num_workers", "device"})


def run_key(config: TrainConfig, encoder: QueryEncoder) -> str:
    """Hash of the settings of a run; a checkpoint is resumed only by the run of the same key."""
    # A recipe may write a new table of embeddings, by another encoder, under the same name.
    made_with = "" if config.embeddings is None else encoder.fingerprint
    return hashlib.sha256((identity(config) + made_with).encode()).hexdigest()[:16]


def train(config: TrainConfig, encoder: QueryEncoder | None = None) -> Path:
    """Train, or go on where a checkpoint in ``config.output`` stands; save the averaged model.

    Returns:
        The model's folder, ``config.output / "model"``.

    Raises:
        InputError: the data or config cannot be used.
        ModelError: ``init`` or the checkpoint cannot be loaded.
        TrainingError: the loss is not finite.
    """
    output = config.output
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: there is no CUDA device here: take 'cpu' or 'auto'")
    text = identity(config)
    reference = config.model.encoder
    if encoder is None:
        encoder = load_encoder(reference.name, reference.fingerprint)
    key = run_key(config, encoder)
    train_clips, validation_clips = split_clips(config)
    if config.uncaptioned is not None:
        out = ((), ()) if config.manifest is None else held_out(config.manifest)
        known = [*train_clips, *validation_clips]
        train_clips = train_clips + uncaptioned_clips(config.uncaptioned, known, out)
    marks = {
        "encoder": encoder.fingerprint,
        "sounds": _digest([*train_clips, *validation_clips]),
    }
    start = saved_step(output / FILE_NAME, key, marks, lambda: _changes(output / CONFIG_NAME, text))
    try:
        output.mkdir(parents=True, exist_ok=True)
        written = config.model_dump_json(indent=2) + "\n"
        (output / CONFIG_NAME).write_text(written, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ConfigError(f"output: {output} cannot be written: {reason}") from None
    dataset = _dataset(
        config, train_clips, encoder, True,
        start * config.batch_size, (config.steps - start) * config.batch_size,
    )  # fmt: skip
    workers = config.num_workers
    loader = DataLoader(
        dataset, config.batch_size, num_workers=workers, persistent_workers=workers > 0
    )
    validation = None
    if config.validation.num_mixtures and validation_clips:
        validation = DataLoader(
            _dataset(config, validation_clips, encoder, False, 0, config.validation.num_mixtures),
            config.batch_size,
        )

    torch.manual_seed(config.seed)
    learns_at = {"quietest_db": quietest_db(config.mixtures)}
    model = QueriedSeparator(config.model.model_copy(update=learns_at), encoder)
    if config.init is not None:
        initial = QueriedSeparator.from_pretrained(config.init, encoder)
        if initial.config.manipulation == config.model.manipulation and _is_of(
            config.init, encoder
        ):
            model.manipulator = initial.manipulator
            model.manipulator.extend(examples_of(dataset.table, dataset.captions))
        try:
            model.separator.load_state_dict(initial.separator.state_dict())
        except RuntimeError as error:
            reason = one_line(error)[:200]
            raise ModelError(
                f"{config.init}: its weights do not fit the model of this run: {reason}"
            ) from None
    if model.manipulator.state is None:
        model.manipulator.fit(examples_of(dataset.table, dataset.captions))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = TrainingModule(model, config)
    # Not Lightning's choice, which would be Apple's GPUs, which lack what scoring needs.
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and _has_bfloat16(device)
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Hints about worker counts and logging intervals; both are the config's to choose.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator=device,
            devices=1,
            precision="bf16-mixed" if bfloat16 else "32-true",
            max_steps=config.steps - start,
            gradient_clip_val=config.clip_norm,
            logger=[
                CSVLogger(output, name="logs", flush_logs_every_n_steps=20),
                TensorBoardLogger(output, name="tensorboard"),
            ],
            callbacks=[
                Checkpoint(output, config.checkpoint_every, {"key": key, **marks}),
                RunProgress(start, config.steps),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=max(1, min(20, config.steps // 100)),
            num_sanity_val_steps=0,
            val_check_interval=min(config.validation.every_steps, config.steps - start)
            if validation is not None and start < config.steps
            else None,
            limit_val_batches=None if validation is not None else 0,
        )
        if start < config.steps:
            _fit(trainer, module, loader, validation)
        else:
            restore(module, None, output / FILE_NAME)
    averaged = module.averaged.module.state_dict()
    model.separator.load_state_dict(averaged)
    if validation is not None:
        model.manipulator.to(torch.device("cpu"))  # where Lightning leaves the rest
        model.save_pretrained(output / "model")  # before anything that could fail
        calibrate(model.eval(), validation_clips, config.validation)
    model.save_pretrained(output / "model")
    return output / "model"
