"""Query encoders and embedding manipulations.

``load_encoder`` is the door for new encoders: ``ClapEncoder`` joins ``BuiltinEncoder`` here.
"""

from __future__ import annotations

from pathlib import Path

from singleout.errors import ModelError
from singleout.query.builtin import BuiltinEncoder
from singleout.query.encoder import QueryEncoder

__all__ = ["BuiltinEncoder", "QueryEncoder", "load_encoder"]


def load_encoder(name: str = "builtin", fingerprint: str | None = None) -> QueryEncoder:
    """The encoder called ``name``: ``builtin`` or the folder of a saved built-in encoder.

    Raises:
        ModelError: no such encoder, or its fingerprint is not the one asked for (embeddings of
            two fingerprints are not comparable).
    """
    encoder = BuiltinEncoder.from_pretrained(None if name == "builtin" else Path(name).expanduser())
    if fingerprint is not None and fingerprint != encoder.fingerprint:
        raise ModelError(
            f"query encoder '{name}' has fingerprint {encoder.fingerprint}, the model was trained "
            f"with {fingerprint}: install the version of singleout that the model was made with"
        )
    return encoder
