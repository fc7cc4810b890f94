"""Query encoders: text and audio become unit vectors of one space.

``load_encoder`` loads an encoder by the name in a model's config.
"""

from __future__ import annotations

from pathlib import Path

from singleout.documents import DocumentError, read_json
from singleout.encoders.builtin import BuiltinEncoder
from singleout.encoders.clap import ClapEncoder
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import ModelError, shortened
from singleout.storage.hub import is_hub_id, path_of

__all__ = ["BuiltinEncoder", "ClapEncoder", "QueryEncoder", "load_encoder"]

LAION_SUFFIXES = (".pt", ".pth", ".ckpt")
"""File suffixes of LAION-CLAP's checkpoints."""


def load_encoder(name: str = "builtin", fingerprint: str | None = None) -> QueryEncoder:
    """Load a query encoder.

    Args:
        name: one of
            - ``builtin``, the encoder in the package;
            - the folder of a saved built-in encoder, or of a CLAP of transformers;
            - a file of LAION-CLAP (``.pt``, ``.pth`` or ``.ckpt``);
            - the hub id of a CLAP, ``owner/name`` or ``owner/name@revision``.
        fingerprint: the fingerprint that the encoder must have. Embeddings of encoders with
            different fingerprints cannot be compared.

    Raises:
        ModelError: there is no such encoder, or it has another fingerprint.
        MissingExtraError: the encoder is a CLAP, and transformers is not installed.

    Example:
        >>> load_encoder("builtin").embed_text("a dog barking").shape
        torch.Size([1, 96])
    """
    encoder = _load(name)
    if fingerprint is not None and fingerprint != encoder.fingerprint:
        raise ModelError(
            f"query encoder '{shortened(name)}' has fingerprint {shortened(encoder.fingerprint)}, "
            f"the model was trained with {shortened(fingerprint)}: {_way_out(name)}"
        )
    return encoder


def _load(name: str) -> QueryEncoder:
    if name == "builtin":
        return BuiltinEncoder.from_pretrained()
    path = path_of(name)
    if path.suffix in LAION_SUFFIXES and not path.is_dir():
        from singleout.encoders.laion import from_laion

        return from_laion(path, name=name)
    is_clap = _is_transformers(path) if path.exists() else is_hub_id(name)
    return ClapEncoder.from_pretrained(name) if is_clap else BuiltinEncoder.from_pretrained(path)


def _is_transformers(folder: Path) -> bool:
    """Whether the config of the folder is one of transformers; ours has no ``model_type``."""
    try:
        config = read_json(folder / "config.json")
    except DocumentError:
        return False
    return isinstance(config, dict) and "model_type" in config


def _way_out(name: str) -> str:
    if name == "builtin":
        return "install the version of singleout that made the model"
    return "give the encoder, or the revision, that the model was trained with"
