"""A run, from its config to a saved model, in three phases: corpus, model, loop."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch

from singleout.config import differences
from singleout.data.clips import Clip
from singleout.data.dataset import MixtureDataset
from singleout.data.plan import MixtureConfig
from singleout.data.render import REFERENCE_RMS
from singleout.documents import DocumentError, read_json
from singleout.encoders import QueryEncoder, load_encoder
from singleout.errors import ModelError, one_line
from singleout.evaluate.evaluation import EvaluationConfig
from singleout.evaluate.scenarios import calibration_of
from singleout.model import QueriedSeparator, read_config
from singleout.storage.atomic import replacing
from singleout.storage.models import BUILTIN, resolve_model
from singleout.train.checkpoint import Checkpoint, saved_step
from singleout.train.config import TrainConfig, ValidationConfig
from singleout.train.corpus import (
    VALIDATION_SEED,
    Corpus,
    fit_embeddings,
    read_corpus,
    training_dataset,
    validation_dataset,
)
from singleout.train.launching import launched
from singleout.train.lock import only_training
from singleout.train.loop import Precision, chosen_device, chosen_precision, run_loop
from singleout.train.module import TrainingModule
from singleout.train.places import Device, Place, check_fit, needs_launch
from singleout.train.processes import Processes, joined
from singleout.train.stops import Stops

CONFIG_NAME = "config.json"
"""Name, in the folder of a run, of the run's config."""
MODEL_NAME = "model"
"""Name, in the folder of a run, of the folder of its model."""
MOVING = {
    "output", "num_workers", "device", "devices", "num_nodes", "accumulate", "skip_bad",
    "shards",  # the index says whether the sounds are the same
}  # fmt: skip
"""Settings that a run may change when it goes on."""
MIN_CALIBRATION_MIXTURES = 100
"""Fewer mixtures do not tell how reliable a similarity is."""


def train(config: TrainConfig, encoder: QueryEncoder | None = None) -> Path:
    """Train a model, or resume from the checkpoint in ``config.output``; save the averaged model.

    A run that is stopped continues when ``train`` is called again with the same config and the
    same sounds. A finished run only saves its model again.

    Args:
        config: of the run.
        encoder: of the queries, instead of the one that ``config.model.encoder`` names.

    Returns:
        The folder of the model, ``config.output / "model"``. ``Extractor.from_pretrained`` and
        ``config.init`` take it.

    Raises:
        InputError: the sounds or the config cannot be used, or the folder cannot be written.
        ModelError: ``init`` or the checkpoint cannot be loaded, or the checkpoint belongs to
            another run.
        TrainingError: the loss is not finite, or another training writes to the same folder.
    """
    if (number := needs_launch(config)) > 1:
        check_fit(config, Place(size=number, local_size=number), chosen_device(config))
        launched(_train_here, number, config, encoder)
        return config.output / MODEL_NAME
    return _train_here(None, config, encoder)


def _train_here(store: Any, config: TrainConfig, encoder: QueryEncoder | None) -> Path:
    """Train in this process, with the others that a launcher started."""
    device = chosen_device(config)
    with (
        joined(config, device, store) as processes,
        only_training(config.output) if processes.is_first else nullcontext(),
    ):
        return _train(config, encoder, device, processes)


def _train(
    config: TrainConfig, encoder: QueryEncoder | None, device: Device, processes: Processes
) -> Path:
    # Corpus
    if encoder is None:
        encoder = load_encoder(config.model.encoder.name, config.model.encoder.fingerprint)
    corpus = processes.from_first(lambda: read_corpus(config))
    precision = chosen_precision(config, device)
    identity = {
        "encoder": encoder.fingerprint,
        "sounds": corpus.digest,
        "precision": precision,
        "devices": processes.described(device, config.accumulate),
    }
    key = run_key(config, encoder)

    def begin() -> int:
        step = saved_step(
            config.output,
            key,
            identity,
            lambda: _changes(config),
            lambda may_rename: equal_keys(config, encoder, precision if may_rename else None),
        )
        _write_config(config)
        return step

    start = processes.from_first(begin)
    with processes.moved(encoder, device):
        dataset, validation = processes.first_then_others(
            lambda: _datasets(config, corpus, encoder, start)
        )

    # Model
    torch.manual_seed(config.seed)
    model = initial_model(config, encoder, dataset)
    module = TrainingModule(model, config, processes)

    # Loop
    checkpoints = Checkpoint(
        config.output, config.checkpoint_every, {"key": key, **identity}, Stops()
    )
    with processes.moved(encoder, device):
        run_loop(module, dataset, validation, start, device, checkpoints)
    model.separator.load_state_dict(module.averaged.module.state_dict())
    folder = config.output / MODEL_NAME
    if processes.is_first:
        if validation is not None:
            model.save_pretrained(folder)  # before a calibration that may fail
            calibrate(model.eval(), corpus.validation, config.validation)
        model.save_pretrained(folder)
    return folder


def _datasets(
    config: TrainConfig, corpus: Corpus, encoder: QueryEncoder, start: int
) -> tuple[MixtureDataset, MixtureDataset | None]:
    """The mixtures that are left to train on, and those to validate with."""
    training = training_dataset(config, corpus.training, encoder, start)
    if not (config.validation.num_mixtures and corpus.validation):
        return training, None
    return training, validation_dataset(config, corpus.validation, encoder)


def settings_json(config: TrainConfig) -> str:
    """The settings that decide what a run computes, as JSON.

    A run may move: its folder, its devices, its numbers of processes, parts and workers are left
    out. So is whether bad sounds are skipped, because the identity of a run has its sounds.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> moved = config.model_copy(update={"output": Path("elsewhere"), "num_workers": 4})
        >>> settings_json(moved) == settings_json(config)
        True
    """
    return config.model_dump_json(indent=2, exclude=MOVING)


def run_key(config: TrainConfig, encoder: QueryEncoder) -> str:
    """Hash of the settings of a run. A checkpoint is resumed only by a run of the same key.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> encoder = load_encoder("builtin")
        >>> len(run_key(config, encoder))
        16
        >>> run_key(config.model_copy(update={"steps": 5}), encoder) == run_key(config, encoder)
        False
    """
    # A recipe may write a new file of embeddings, by another encoder, under the same name.
    made_with = "" if config.embeddings is None else encoder.fingerprint
    return hashlib.sha256((settings_json(config) + made_with).encode()).hexdigest()[:16]


def equal_keys(config: TrainConfig, encoder: QueryEncoder, precision: Precision | None) -> set[str]:
    """Keys that the same run has with other names of its precision and of its ``init``.

    Earlier versions put the path of a model into the key instead of its name.

    Args:
        config: of the run.
        encoder: of the queries.
        precision: that ``auto`` stands for, if the run's identity has it. None takes the name of
            the config only.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> encoder = load_encoder("builtin")
        >>> float32 = config.model_copy(update={"precision": "float32"})
        >>> run_key(float32, encoder) in equal_keys(config, encoder, "float32")
        True
    """
    inits = {config.init}
    if config.init is not None:
        with suppress(ModelError):  # a hub that cannot be reached
            inits.add(resolve_model(config.init))
        with suppress(DocumentError, AttributeError, TypeError):
            recorded = Path(read_json(config.output / CONFIG_NAME).get("init"))
            # The package may have moved since.
            if (
                config.init == Path(BUILTIN)
                and recorded.parts[-3:] == resolve_model(BUILTIN).parts[-3:]
            ):
                inits.add(recorded)
    names = {config.precision} if precision is None else {"auto", precision}
    changes = product(inits, names)
    return {
        run_key(config.model_copy(update={"init": init, "precision": name}), encoder)
        for init, name in changes
    }


def quietest_db(mixtures: MixtureConfig) -> float:
    """RMS of the quietest mixtures, in dB over full scale.

    Example:
        >>> quietest_db(MixtureConfig(gain_db=(-15.0, 5.0)))
        -41.02
    """
    return round(20 * math.log10(REFERENCE_RMS) + mixtures.gain_db[0], 2)


def initial_model(
    config: TrainConfig, encoder: QueryEncoder, dataset: MixtureDataset
) -> QueriedSeparator:
    """The model before the first step: random weights, or those of ``config.init``.

    The manipulation learns from the sounds and captions of ``dataset``. Where ``config.init`` has
    the same manipulation and the same encoder, its manipulation is kept and extended by them.

    Args:
        config: of the run.
        encoder: of the queries.
        dataset: the training mixtures.

    Raises:
        ModelError: ``config.init`` cannot be loaded, or does not fit the model of the run.
        ConfigError: the manipulation cannot learn from the sounds of the run.
    """
    changes = {"quietest_db": quietest_db(config.mixtures)}
    model = QueriedSeparator(config.model.model_copy(update=changes), encoder)
    if config.init is not None:
        _start_from(config.init, model, dataset)
    if model.manipulator.state is None:
        model.manipulator.fit(fit_embeddings(dataset.table, dataset.captions))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def calibrate(model: QueriedSeparator, clips: Sequence[Clip], config: ValidationConfig) -> None:
    """Fit the presence and the gate of a model, on mixtures of the validation sounds.

    The queries are captions. If a clip has no caption, the model stays as it is.

    Args:
        model: in evaluation mode; its config is replaced.
        clips: the validation sounds.
        config: how many mixtures, and how they are drawn.

    Example:
        >>> from singleout.data.clips import Clip
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> before = model.config
        >>> sound = Clip(Path("dog.wav"), 1.0, None, (), "animal/dog", "dog", "validation")
        >>> calibrate(model, [sound], ValidationConfig())  # it has no caption
        >>> model.config == before
        True
    """
    if any(clip.caption is None for clip in clips):
        return
    evaluation = EvaluationConfig(
        num_mixtures=max(config.num_mixtures, MIN_CALIBRATION_MIXTURES),
        seed=VALIDATION_SEED + 1,
        mixtures=config.mixtures,
    )
    model.config = model.config.model_copy(
        update=calibration_of(model, clips, evaluation)._asdict()
    )


def _start_from(init: Path, model: QueriedSeparator, dataset: MixtureDataset) -> None:
    """Give the model the weights of another one, and its manipulation where that fits."""
    path = resolve_model(init)
    initial = QueriedSeparator.from_pretrained(path, model.encoder)
    is_same_chain = initial.config.manipulation == model.config.manipulation
    if is_same_chain and _uses_encoder(path, model.encoder):
        model.manipulator = initial.manipulator
        model.manipulator.extend(fit_embeddings(dataset.table, dataset.captions))
    try:
        model.separator.load_state_dict(initial.separator.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"{init}: its weights do not fit the model of this run: {one_line(error)[:200]}"
        ) from None


def _uses_encoder(path: Path, encoder: QueryEncoder) -> bool:
    """Whether a model was trained with this very encoder, so that its manipulation is valid."""
    try:
        return read_config(path).encoder.fingerprint == encoder.fingerprint
    except ModelError:  # a checkpoint of another project, which has no manipulation
        return False


def _write_config(config: TrainConfig) -> None:
    with replacing(config.output / CONFIG_NAME) as partial:
        partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _changes(config: TrainConfig) -> str:
    """Where a config differs from the one that a run left in its folder."""
    path = config.output / CONFIG_NAME
    try:
        old = read_json(path)
        new = json.loads(settings_json(config))
        changed = differences({key: old.get(key) for key in new}, new)
    except (DocumentError, AttributeError):
        return f"{path} cannot be read, so it is unknown which keys differ"
    shown = changed[:3] + ([f"and {len(changed) - 3} more"] if len(changed) > 3 else [])
    return "; ".join(shown) or "its query encoder is another one"
