"""Query encoders and embedding manipulations.

``load_encoder`` is the door: it finds an encoder by the name that a model's config holds.
"""

from __future__ import annotations

import json
from pathlib import Path

from singleout.encoders.builtin import BuiltinEncoder
from singleout.encoders.clap import ClapEncoder
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import ModelError
from singleout.storage.hub import is_hub_id, path_of

__all__ = ["BuiltinEncoder", "ClapEncoder", "QueryEncoder", "load_encoder"]

LAION_SUFFIXES = (".pt", ".pth", ".ckpt")


def load_encoder(name: str = "builtin", fingerprint: str | None = None) -> QueryEncoder:
    """The encoder called ``name``.

    Args:
        name: ``builtin``; the folder of a saved built-in encoder or of a transformers CLAP; a
            LAION-CLAP file (``.pt``, ``.pth`` or ``.ckpt``); or a CLAP's hub id, ``owner/name`` or
            ``owner/name@revision``.
        fingerprint: that the encoder must have.

    Raises:
        ModelError: no such encoder, or its fingerprint is not the one asked for (embeddings of
            two fingerprints are not comparable).
        MissingExtraError: a CLAP is asked for, and transformers is not installed.
    """
    encoder = _found(name)
    if fingerprint is not None and fingerprint != encoder.fingerprint:
        raise ModelError(
            f"query encoder '{name}' has fingerprint {encoder.fingerprint}, the model was trained "
            f"with {fingerprint}: {_way_out(name)}"
        )
    return encoder


def _found(name: str) -> QueryEncoder:
    if name == "builtin":
        return BuiltinEncoder.from_pretrained()
    path = path_of(name)
    if path.suffix in LAION_SUFFIXES and not path.is_dir():
        from singleout.encoders.laion import from_laion

        return from_laion(path, name=name)
    is_clap = _is_transformers(path) if path.exists() else is_hub_id(name)
    return ClapEncoder.from_pretrained(name) if is_clap else BuiltinEncoder.from_pretrained(path)


def _is_transformers(folder: Path) -> bool:
    """Whether the folder's config is one of transformers'; ours has a ``type`` instead."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _way_out(name: str) -> str:
    if name == "builtin":
        return "install the version of singleout that the model was made with"
    return "give the encoder, or the revision, that the model was trained with"
