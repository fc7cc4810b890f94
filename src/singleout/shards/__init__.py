"""Shards: uncompressed tar files of sounds, and the index that reads them by offset.

- ``tars``: tar files, written with fixed bytes, and read member by member.
- ``writing``: shards and their sidecars, each of which appears whole or not at all.
"""

from __future__ import annotations

from singleout.shards.writing import Sample, ShardWriter, is_finished, read_sidecar

__all__ = ["Sample", "ShardWriter", "is_finished", "read_sidecar"]
