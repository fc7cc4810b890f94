"""Shards: uncompressed tar files of sounds, and the index that reads them by offset.

- ``tars``: tar files, written with fixed bytes, and read member by member.
- ``writing``: shards and their sidecars, each of which appears whole or not at all.
- ``arrays``: named arrays in a file, written block by block and memory-mapped.
- ``index``: the columns of all clips in such a file.
- ``corpus``: the files of a corpus, written.
- ``opening``: a corpus, opened and checked.
- ``foreign``: an index of other people's shards.
- ``patterns``: names of many shards.
"""

from __future__ import annotations

from singleout.shards.corpus import CorpusWriter, Crops, write_corpus
from singleout.shards.foreign import index_shards
from singleout.shards.opening import PreparedClips, PreparedCorpus, check_corpus, open_corpus
from singleout.shards.patterns import shard_places
from singleout.shards.writing import Sample, ShardWriter, is_finished, read_sidecar

__all__ = [
    "CorpusWriter",
    "Crops",
    "PreparedClips",
    "PreparedCorpus",
    "Sample",
    "ShardWriter",
    "check_corpus",
    "index_shards",
    "is_finished",
    "open_corpus",
    "read_sidecar",
    "shard_places",
    "write_corpus",
]
