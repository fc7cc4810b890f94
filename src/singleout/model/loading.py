"""Models on disk and on hubs.

A model is a folder with ``config.json`` and ``model.safetensors`` (the separator, and what the
manipulation has learned). The query encoder is named with its fingerprint, not copied. Checkpoints
of AudioSep's layout are models, too.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from singleout.documents import DocumentError, read_json
from singleout.encoders import QueryEncoder, load_encoder
from singleout.errors import ConfigError, ModelError, shortened
from singleout.manipulations import Manipulator
from singleout.model.config import (
    SETTINGS,
    EncoderReference,
    ModelConfig,
    read_config,
    settings_digest,
)
from singleout.separators import ResUNet30, ResUNet30Config
from singleout.separators.resunet30.checkpoint import holds_checkpoint
from singleout.storage.atomic import replacing_files
from singleout.storage.checked import read_metadata
from singleout.storage.disk import open_model_file
from singleout.storage.foreign import checkpoint_file
from singleout.storage.hub import is_hub_id, upload
from singleout.storage.models import resolve_model
from singleout.storage.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from singleout.model.separator import QueriedSeparator

LEARNED = "manipulation."
"""Prefix, in ``model.safetensors``, of what the manipulation has learned."""


def load_model(
    kind: type[QueriedSeparator],
    name: str | Path | None = None,
    encoder: str | QueryEncoder | None = None,
    revision: str | None = None,
) -> QueriedSeparator:
    """Load a model in evaluation mode; see ``QueriedSeparator.from_pretrained``.

    Example:
        >>> from singleout.model import QueriedSeparator
        >>> load_model(QueriedSeparator, "builtin").sample_rate
        32000
    """
    if isinstance(encoder, str):
        encoder = load_encoder(encoder)
    path = resolve_model(name, revision)
    if path.is_file() or (path.is_dir() and not _is_ours(path)):
        return _from_checkpoint(kind, path, encoder)
    return _from_folder(kind, path, encoder)


def save_model(model: QueriedSeparator, folder: Path) -> None:
    """Save a model; see ``QueriedSeparator.save_pretrained``.

    Example:
        >>> from singleout.model import QueriedSeparator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(QueriedSeparator.from_pretrained("builtin"), Path(folder))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']
    """
    learned = model.manipulator.state
    if learned is None:
        raise ModelError(f"{folder}: not saved: the manipulation has not been fitted")
    extra = {LEARNED + name: tensor for name, tensor in learned.items()}
    reference = EncoderReference(
        name=model.config.encoder.name, fingerprint=model.encoder.fingerprint
    )
    config = model.config.model_copy(update={"encoder": reference})
    metadata = {SETTINGS: settings_digest(config.model_dump(mode="json"))}
    with replacing_files(folder) as partial:
        weights = partial / "model.safetensors"
        save_tensors(model.separator, weights, extra=extra, metadata=metadata)
        config = config.model_copy(update={"sha256": _sha256(weights)})
        text = config.model_dump_json(indent=2) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")


def push_model(model: QueriedSeparator, identifier: str, private: bool) -> str:
    """Put a model on the hub; see ``QueriedSeparator.push_to_hub``.

    Example:
        >>> from singleout.model import QueriedSeparator
        >>> model = QueriedSeparator.from_pretrained("builtin", encoder="builtin")
        >>> reference = model.config.encoder.model_copy(update={"name": "/srv/encoder"})
        >>> model.config = model.config.model_copy(update={"encoder": reference})
        >>> try:
        ...     push_model(model, "owner/name", private=True)
        ... except ModelError as error:
        ...     print(str(error)[:62])
        owner/name: its query encoder '/srv/encoder' is only on this m
    """
    name = model.config.encoder.name
    if name != "builtin" and (not is_hub_id(name) or Path(name).exists()):
        raise ModelError(
            f"{identifier}: its query encoder '{name}' is only on this machine: put the encoder on "
            "the hub, and name it by its hub id in the config of the model"
        )
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        return upload(Path(folder), identifier, private, _model_card(model))


def _model_card(model: QueriedSeparator) -> str:
    """Markdown for the hub: what the model is, what it needs, how it is used."""
    config = model.config
    steps = ", ".join(step.type for step in config.manipulation.steps) or "none"
    return f"""---
library_name: singleout
tags: [audio, source-separation, target-sound-extraction]
---
# A singleout model

Extracts from a recording the sound that a text describes.

- Separator: `{config.separator.type}`, {model.sample_rate:,} Hz
- Query encoder: `{config.encoder.name}`, fingerprint `{model.encoder.fingerprint}`
- Manipulation of the embeddings: {steps}

```console
$ singleout extract MIXTURE.wav "a dog barking" --model OWNER/NAME
```

The training data, the licence and the measured quality are for the author to add.
"""


def _from_folder(
    kind: type[QueriedSeparator], path: Path, encoder: QueryEncoder | None
) -> QueriedSeparator:
    config = read_config(path)
    if encoder is None:
        encoder = load_encoder(config.encoder.name, config.encoder.fingerprint)
    elif encoder.fingerprint != config.encoder.fingerprint:
        reference = EncoderReference(name=encoder.name, fingerprint=encoder.fingerprint)
        # Presence and gate were fitted to similarities by the other encoder.
        changes = {"encoder": reference, "presence": None, "gate": None}
        config = config.model_copy(update=changes)
    weights = path / "model.safetensors"
    if config.sha256 is not None and weights.is_file():
        digest = _sha256(weights)
        if digest != config.sha256:
            raise ModelError(
                f"{weights}: corrupt or truncated: its SHA-256 is {digest[:12]}…, config.json "
                f"says {config.sha256[:12]}…; fetch or save the model again"
            )
    try:
        with torch.device("meta"):
            model = kind(config, encoder)
    except ConfigError as error:  # too large, or the embeddings are too short for a manipulation
        raise ModelError(
            f"{path}: with query encoder '{shortened(encoder.name)}': {error}"
        ) from None
    learned = load_tensors(model.separator, weights, extra_prefix=LEARNED)
    state = {name.removeprefix(LEARNED): tensor for name, tensor in learned.items()}
    try:
        model.manipulator = Manipulator(config.manipulation, encoder.dim, state)
    except ModelError as error:
        raise ModelError(f"{weights}: {error}") from None
    _check_settings(path)
    return model.eval().requires_grad_(False)


def _check_settings(folder: Path) -> None:
    """Refuse a config that is not the one that was saved. Earlier versions saved no hash of it."""
    with open_model_file(folder / "model.safetensors") as file:
        digest = read_metadata(file).get(SETTINGS)
    if digest not in (None, settings_digest(read_json(folder / "config.json"))):
        raise ModelError(
            f"{folder / 'config.json'}: was damaged or edited after the model was saved: fetch or "
            "save the model again (only the name of the encoder may change)"
        )


def _from_checkpoint(
    kind: type[QueriedSeparator], path: Path, encoder: QueryEncoder | None
) -> QueriedSeparator:
    separator = ResUNet30.from_checkpoint(path, inference_precision="auto")
    if encoder is None:
        from singleout.encoders.laion import encoder_inside

        encoder = encoder_inside(checkpoint_file(path))
    if encoder.dim != separator.embedding_dim:
        raise ModelError(
            f"{path}: takes embeddings of length {separator.embedding_dim}, the query encoder "
            f"'{encoder.name}' gives {encoder.dim}: give the one it was trained with"
        )
    config = ModelConfig(
        separator=ResUNet30Config(
            sample_rate=separator.sample_rate, num_fft=separator.num_fft, hop=separator.hop
        ),
        encoder=EncoderReference(name=encoder.name, fingerprint=encoder.fingerprint),
    )
    with torch.device("meta"):
        model = kind(config, encoder)
    model.separator = separator
    return model.eval()


def _sha256(weights: Path) -> str:
    try:
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read: {error.strerror or error}") from None


def _is_ours(folder: Path) -> bool:
    """Whether ``save_model`` wrote the folder, even in part; False for other checkpoints."""
    try:
        config = read_json(folder / "config.json")
        return not isinstance(config, dict) or "separator" in config
    except DocumentError:
        return not holds_checkpoint(folder)
