"""Preparation: manifests become shards.

- ``settings``: what happens to the sounds.
- ``rows``: the rows of a manifest, in groups.
- ``sounds``: a recording is decoded, resampled and measured.
- ``loudness``: loudness by BS.1770.
- ``fingerprints``: bits that versions of one recording share.
- ``embedding``: embeddings of crops, and the purity of a sound.
- ``shards``: one task, from a group of rows to a shard.
- ``duplicates``: recordings that are in a corpus twice.
- ``preparation``: all tasks, and the index over their shards.
"""

from singleout.prepare.preparation import Summary, prepare
from singleout.prepare.settings import PrepareConfig

__all__ = ["PrepareConfig", "Summary", "prepare"]
