"""``ModelConfig``: all that rebuilds a model around its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from singleout.config import StrictConfig, added, validated
from singleout.documents import DocumentError, read_json
from singleout.errors import ConfigError, ModelError
from singleout.manipulations import Chain
from singleout.model.level_gate import Gate
from singleout.model.similarity import PresenceCalibration
from singleout.separators import AnySeparator

SETTINGS = "config"
"""Key, in the metadata of ``model.safetensors``, of the hash of the config."""
OneLine = Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A text that a message can quote."""


class EncoderReference(StrictConfig):
    """The query encoder that a model was trained with.

    Args:
        name: as ``load_encoder`` takes it.
        fingerprint: hash of the encoder's weights; None as long as the model is not saved.

    Example:
        >>> EncoderReference(name="laion/larger_clap_general").fingerprint is None
        True
    """

    name: OneLine = "builtin"
    fingerprint: OneLine | None = None


class ModelConfig(StrictConfig):
    """All that rebuilds a model around its weights.

    Args:
        format: version of this file.
        separator: which network, and its sizes.
        manipulation: of the embeddings, in training and at inference.
        encoder: reference to the query encoder.
        negative: whether the model takes negative prompts. Conditions are then twice as long.
        presence: turns similarity into the probability that the sound is present. None: the model
            gives no probability.
        gate: sets the level of targets by their similarity to the query. None: targets keep the
            level that the separator gives them.
        quietest_db: RMS over full scale of the quietest training mixtures. An ``Extractor``
            amplifies quieter recordings up to it. None: recordings keep their level.
        sha256: of ``model.safetensors``, checked when the model is loaded.

    Example:
        >>> from singleout.separators import ConditionedUNetConfig
        >>> ModelConfig(separator=ConditionedUNetConfig()).encoder.name
        'builtin'
    """

    format: Literal[1] = 1
    separator: AnySeparator
    manipulation: Chain = Chain()
    encoder: EncoderReference = EncoderReference()
    negative: bool = added(False)
    presence: PresenceCalibration | None = added(None)
    gate: Gate | None = added(None)
    quietest_db: Annotated[float, Field(ge=-200, le=0)] | None = added(None)
    sha256: OneLine | None = None


def settings_digest(values: Mapping[str, Any]) -> str:
    """Hash of what must not change in a saved config, or the weights would mean something else.

    The encoder is left out: it has a fingerprint, and its name may change. ``model.safetensors``
    holds the hash (``SETTINGS``).

    Args:
        values: of ``config.json``.

    Example:
        >>> settings_digest({"format": 1}) == settings_digest({"format": 1, "sha256": None})
        True
    """
    kept = {key: value for key, value in values.items() if key not in ("encoder", "sha256")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_config(folder: Path) -> ModelConfig:
    """Read the config of a model folder.

    Raises:
        ModelError: the folder or its config is missing, or the config is not one of ours.

    Example:
        >>> from singleout.storage.models import resolve_model
        >>> read_config(resolve_model("builtin")).separator.type
        'conditioned_unet'
    """
    path = folder / "config.json"
    if not folder.exists():
        raise ModelError(f"model '{folder}' does not exist: give a folder that holds config.json")
    try:
        values = read_json(path)
    except DocumentError as error:
        raise ModelError(f"model '{folder}': no readable config.json ({error})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: not the config of a model")
    try:
        return validated(ModelConfig, values, str(path))
    except ConfigError as error:
        raise ModelError(f"model of another architecture: {error}") from None
