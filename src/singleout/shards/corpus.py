"""Prepared corpora: shards with one index over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from singleout.storage.locations import Location


@dataclass(frozen=True)
class Crops:
    """Which crops of the sounds are embedded, and by which encoder.

    Attributes:
        fingerprint: of the encoder.
        segment_seconds, hop_seconds: length of the crops, and time from one to the next.

    Example:
        >>> Crops("encoder-1", 4.0, 2.0).hop_seconds
        2.0
    """

    fingerprint: str
    segment_seconds: float
    hop_seconds: float


def write_corpus(
    out: Location,
    names: Sequence[str],
    settings: Mapping[str, Any],
    crops: Crops | None = None,
    revise: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
) -> None:
    """Write the index of finished shards, their embeddings, the report and ``corpus.json``.

    Args:
        out: folder of the corpus. Its folder ``shards`` has the shards.
        names: of the shards, without suffix, in the order of the manifest.
        settings: JSON object: how the shards were made.
        crops: the embedded crops; None if the samples have no embeddings.
        revise: from a row of a sidecar to the row as it goes into the index, None to leave the
            sound out. By default all sounds stay as they are.

    Raises:
        InputError: a shard is not finished.
        OutputError: a file cannot be written.
    """
    raise NotImplementedError
