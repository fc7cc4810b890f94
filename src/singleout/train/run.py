"""A run from its config to a saved model."""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from singleout.data.dataset import Example, MixtureDataset
from singleout.data.embeddings import EmbeddingTable, table_key, table_of
from singleout.data.manifest import Clip, read_manifest, scan_folder
from singleout.data.plan import MixtureConfig
from singleout.errors import ManifestError
from singleout.model import QueriedSeparator
from singleout.query import QueryEncoder, load_encoder
from singleout.train.checkpoint import FILE_NAME, Checkpoint, restore, saved_step
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.weights import has_fast_bfloat16

VALIDATION_SEED = 1_000_000


def split_clips(config: TrainConfig) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and clips to validate with; the latter may be empty."""
    if config.manifest is not None:
        train = read_manifest(config.manifest, "train")
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


def caption_embeddings(clips: list[Clip], encoder: QueryEncoder) -> Tensor | None:
    """[clips, dim] of the first captions, or None where any clip lacks one."""
    captions = [clip.caption for clip in clips if clip.caption]
    if len(captions) < len(clips):
        return None
    known = sorted(set(captions))
    rows = torch.cat([encoder.embed_text(known[i : i + 64]) for i in range(0, len(known), 64)])
    index = {caption: i for i, caption in enumerate(known)}
    return rows[[index[caption] for caption in captions]].clone()


def _loader(
    config: TrainConfig,
    clips: list[Clip],
    mixtures: MixtureConfig,
    encoder: QueryEncoder,
    seed: int,
    first: int,
    length: int,
    name: str,
) -> DataLoader[Example]:
    if config.embeddings is not None:
        path = config.embeddings / f"{name}.safetensors"
        table = EmbeddingTable.load(path, table_key(clips, mixtures, "given"))
    else:
        path = config.output / "embeddings" / f"{name}.safetensors"
        table = table_of(clips, mixtures, encoder, path)
    texts = caption_embeddings(clips, encoder) if config.p_text or name == "validation" else None
    if config.p_text and texts is None:
        raise ManifestError("p_text is above 0 but some training sounds have no caption")
    rate = config.model.separator.sample_rate
    dataset = MixtureDataset(clips, mixtures, rate, table, texts, seed, first, length)
    workers = config.num_workers if name == "train" else 0
    return DataLoader(
        dataset, config.batch_size, num_workers=workers, persistent_workers=workers > 0
    )


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
    text = config.model_dump_json(indent=2, exclude={"output", "num_workers"})
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    start = saved_step(output / FILE_NAME, key)
    train_clips, validation_clips = split_clips(config)
    reference = config.model.encoder
    if encoder is None:
        encoder = load_encoder(reference.name, reference.fingerprint)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    loader = _loader(
        config, train_clips, config.mixtures, encoder, config.seed,
        start * config.batch_size, (config.steps - start) * config.batch_size, "train",
    )  # fmt: skip
    validation = None
    if config.validation.num_mixtures and validation_clips:
        validation = _loader(
            config, validation_clips, config.validation.mixtures, encoder,
            VALIDATION_SEED, 0, config.validation.num_mixtures, "validation",
        )  # fmt: skip

    torch.manual_seed(config.seed)
    model = QueriedSeparator(config.model, encoder)
    if config.init is not None:
        initial = QueriedSeparator.from_pretrained(config.init, encoder)
        model.separator.load_state_dict(initial.separator.state_dict())  # type: ignore[attr-defined]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = TrainingModule(model, config)
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and has_fast_bfloat16()
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Hints about worker counts and logging intervals; both are the config's to choose.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            precision="bf16-mixed" if bfloat16 else "32-true",
            max_steps=config.steps - start,
            gradient_clip_val=config.clip_norm,
            logger=[
                CSVLogger(output, name="logs", flush_logs_every_n_steps=20),
                TensorBoardLogger(output, name="tensorboard"),
            ],
            callbacks=[
                Checkpoint(output, config.checkpoint_every, key),
                TQDMProgressBar(refresh_rate=10),
            ],
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=min(20, config.steps),
            num_sanity_val_steps=0,
            val_check_interval=min(config.validation.every_steps, config.steps - start)
            if validation is not None and start < config.steps
            else None,
            limit_val_batches=None if validation is not None else 0,
        )
        if start < config.steps:
            trainer.fit(module, loader, validation)
        else:
            restore(module, None, output / FILE_NAME)
    averaged = module.averaged.module.state_dict()
    model.separator.load_state_dict(averaged)  # type: ignore[attr-defined]
    model.save_pretrained(output / "model")
    return output / "model"
