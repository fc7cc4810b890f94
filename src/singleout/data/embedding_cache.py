"""A cache of embeddings: one SQLite file per encoder.

A row is identified by what was embedded: SHA-256 of the audio file, start and length of the crop.
It does not depend on the name of the file. So runs, splits and copies of a corpus share the rows,
and several processes may fill the file at once.

A row ends with a digest of its key and its embedding. A row with another digest is damaged: it
counts as missing, and is made again. Rows of earlier versions have no digest, and are taken as they
are.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.data.clips import Clip
from singleout.data.members import read_member, shard_state
from singleout.data.plan import MixtureConfig
from singleout.errors import AudioError, ModelError, one_line
from singleout.storage.disk import is_device

SCHEMA_VERSION = 1
"""Raise it when the tables change, or how a crop is read: older files are then refused."""

APPLICATION_ID = 0x51E0_0075
"""In the header of every cache: tells it from SQLite files of other programs."""

DIGEST_BYTES = 8
"""Length of the digest at the end of a row."""

BATCH = 64
"""Rows per transaction: a killed run loses at most as many embeddings."""

MAX_VALUES = 500
"""Values in one query; SQLite takes 999 in all its versions."""

BUSY_SECONDS = 60.0
"""How long to wait for transactions of other processes, each of which takes milliseconds."""

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    "CREATE TABLE IF NOT EXISTS encoder"
    " (id INTEGER PRIMARY KEY CHECK (id = 0), fingerprint TEXT, dim INTEGER)",
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT, content BLOB)",
    "CREATE TABLE IF NOT EXISTS crops (content BLOB, start REAL, seconds REAL, embedding BLOB,"
    " PRIMARY KEY (content, start, seconds))",
)


class CropKey(NamedTuple):
    """What was embedded.

    Attributes:
        content: SHA-256 of the audio file.
        start, seconds: start and length of the crop in seconds.

    Example:
        >>> content = hashlib.sha256(b"the bytes of an audio file").digest()
        >>> CropKey(content, start=2.0, seconds=4.0).start
        2.0
    """

    content: bytes
    start: float
    seconds: float


class EmbeddingCache:
    """Embeddings of one encoder in one file, safe under concurrent writers; a context manager.

    New rows become visible to other processes in batches, and when the context ends, even by an
    exception. The first writer of a row wins. The cache also keeps the SHA-256, size and time of
    change of every audio file, so that a file is hashed once and not in every run.

    Args:
        path: the file. It is created, with its folder, unless ``read_only``.
        fingerprint: of the encoder.
        dim: length of an embedding.
        read_only: nothing is written; the file must exist.

    Raises:
        ModelError: the file is not a cache, is damaged, is of another encoder or another version,
            or cannot be opened. Every method raises it if the file cannot be read or written
            (locked, disk full).

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> key = CropKey(content=bytes(32), start=0.0, seconds=4.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "cache.sqlite")
        ...     with EmbeddingCache(path, fingerprint="encoder-1", dim=3) as cache:
        ...         cache.put(key, torch.tensor([1.0, 0.0, 0.0]))
        ...     with EmbeddingCache(path, fingerprint="encoder-1", dim=3) as cache:
        ...         cache.get(key)
        tensor([1., 0., 0.])
    """

    def __init__(self, path: Path, fingerprint: str, dim: int, read_only: bool = False) -> None:
        if not fingerprint:
            raise ModelError(
                f"{path}: the encoder has no fingerprint, so a cache could not tell its embeddings "
                "from those of another encoder: save the encoder first"
            )
        self.path, self.fingerprint, self.dim, self.read_only = path, fingerprint, dim, read_only
        self._new_files: dict[tuple[bytes, str], bytes] = {}
        self._new_crops: dict[CropKey, bytes] = {}
        self._read_files: dict[tuple[bytes, str], bytes] = {}
        self._read_crops: dict[CropKey, object] = {}
        self._damaged_crops: set[CropKey] = set()
        self._shards: dict[str, str] = {}
        with self._errors_in_one_line():
            if is_device(path):
                raise OSError("it is a device or a pipe")
            if read_only:
                path.stat()  # for a clearer reason than SQLite's
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            # No WAL: it needs shared memory, hence no network drives, and side files, hence no
            # read-only folders. No isolation level: the cache begins its transactions itself.
            self._database = sqlite3.connect(uri, BUSY_SECONDS, isolation_level=None, uri=True)
        try:
            with self._errors_in_one_line():
                self._create_tables()
                self._check_header()
                self._check_encoder()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        finally:
            self._database.close()

    def read_ahead(self, clips: Sequence[Clip], config: MixtureConfig) -> None:
        """Read in few queries what the next calls of ``key`` and ``get`` need.

        What an earlier call has read ahead is forgotten.

        Args:
            clips: the sounds, whose crops fit in memory.
            config: length and hop of the crops.
        """
        files = set()
        for clip in clips:
            with suppress(OSError, AudioError):  # ``key`` tells of it
                files.add(self._file_of(clip))
        self._read_files = {
            (path, stamp): content
            for path, stamp, content in self._select_among(
                "SELECT path, stamp, content FROM files WHERE path IN", [path for path, _ in files]
            )
            if (path, stamp) in files and isinstance(content, bytes)
        }
        self._read_crops = {
            CropKey(content, start, seconds): blob
            for content, start, seconds, blob in self._select_among(
                "SELECT content, start, seconds, embedding FROM crops WHERE content IN",
                sorted({*self._read_files.values()}),
            )
            if seconds == config.segment_seconds
        }

    def key(self, clip: Clip, crop: int, config: MixtureConfig) -> CropKey:
        """The key of a crop, from the content that its file has now.

        Args:
            clip: the sound.
            crop: number of the crop.
            config: length and hop of the crops.

        Raises:
            AudioError: the file cannot be read.
        """
        start = crop * config.crop_hop_seconds
        return CropKey(self._content_of(clip), start, config.segment_seconds)

    def get(self, key: CropKey) -> Tensor | None:
        """The embedding of a crop, float32 [dim]; None if the cache lacks it or it is damaged."""
        blob = self._new_crops.get(key) or self._read_crops.get(key)
        if blob is None:
            query = "SELECT embedding FROM crops WHERE content = ? AND start = ? AND seconds = ?"
            rows = self._select(query, key)
            if not rows:
                return None
            blob = rows[0][0]
        numbers = _numbers_in(blob, key, self.dim)
        if numbers is None:
            self._damaged_crops.add(key)
            return None
        return torch.from_numpy(numbers)

    def put(self, key: CropKey, embedding: Tensor) -> None:
        """Keep the embedding of a crop, unless the cache holds one that is not damaged.

        Args:
            key: of the crop.
            embedding: [dim].

        Raises:
            ModelError: the embedding has another shape or is not finite. It would be wrong in
                every later run.
        """
        assert not self.read_only
        if embedding.shape != (self.dim,) or not bool(torch.isfinite(embedding).all()):
            raise ModelError(
                f"the encoder {self.fingerprint} made an embedding {list(embedding.shape)} that is "
                f"not {self.dim} finite numbers: it is not kept in {self.path}"
            )
        blob = embedding.detach().cpu().numpy().astype("<f4").tobytes()
        self._new_crops.setdefault(key, blob + _digest(key, blob))
        self._flush_batch()

    def flush(self) -> None:
        """Write all new rows to the file, in one transaction."""
        if self.read_only or not (self._new_files or self._new_crops):
            return
        files = [(*file, content) for file, content in self._new_files.items()]
        crops = [(*key, blob) for key, blob in self._new_crops.items()]
        damaged = [key for key in self._new_crops if key in self._damaged_crops]
        # Cleared first, so that rows that could not be written are not tried again on leaving.
        self._new_files, self._new_crops = {}, {}
        with self._errors_in_one_line(), self._database as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", files)
            delete = "DELETE FROM crops WHERE content = ? AND start = ? AND seconds = ?"
            database.executemany(delete, damaged)
            database.executemany("INSERT OR IGNORE INTO crops VALUES (?, ?, ?, ?)", crops)

    def _flush_batch(self) -> None:
        if len(self._new_files) + len(self._new_crops) >= BATCH:
            self.flush()

    def _content_of(self, clip: Clip) -> bytes:
        """SHA-256 of a file, kept for as long as its size and time of change stay the same."""
        try:
            file = self._file_of(clip)
            content = self._new_files.get(file) or self._read_files.get(file)
            if content is None:
                query = "SELECT content FROM files WHERE path = ? AND stamp = ?"
                rows = self._select(query, file)
                if rows and isinstance(rows[0][0], bytes):
                    return rows[0][0]
                content = _hash_of(clip)
                self._new_files[file] = content
                self._flush_batch()
        except OSError as error:
            raise AudioError(f"{clip.path}: cannot be read as audio: {error}") from None
        return content

    def _file_of(self, clip: Clip) -> tuple[bytes, str]:
        """Name of a file or of a member of a shard, and its size and time of change."""
        if clip.member is None:
            status = clip.path.stat()
            return os.fsencode(clip.path.absolute()), f"{status.st_size} {status.st_mtime_ns}"
        shard = clip.member.shard
        if shard not in self._shards:  # which may be far away
            self._shards[shard] = shard_state(shard)
        stamp = f"{clip.member.offset} {clip.member.size} {self._shards[shard]}"
        return os.fsencode(clip.path), stamp

    def _create_tables(self) -> None:
        """Make the tables in an empty file."""
        if self.read_only or self._select("SELECT name FROM sqlite_master"):
            return
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:  # no harm if another process was faster
                database.execute(statement)
            values = (self.fingerprint, self.dim)
            database.execute("INSERT OR IGNORE INTO encoder VALUES (0, ?, ?)", values)

    def _check_header(self) -> None:
        """Refuse files of other programs or versions, and truncated files."""
        if self._pragma("application_id") != APPLICATION_ID:
            raise self._damaged("a file of another program")
        if (version := self._pragma("user_version")) != SCHEMA_VERSION:
            raise ModelError(
                f"{self.path}: is a cache of embeddings of another version of singleout (schema "
                f"{version}, this version has {SCHEMA_VERSION}): delete it, and it is made again"
            )
        # SQLite reads zeros where the last page is cut off.
        if self._pragma("page_count") * self._pragma("page_size") > self.path.stat().st_size:
            raise self._damaged("it is truncated")

    def _check_encoder(self) -> None:
        """Refuse embeddings of another encoder."""
        rows = self._select("SELECT fingerprint, dim FROM encoder")
        if rows != [(self.fingerprint, self.dim)]:
            fingerprint, dim = rows[0] if rows else ("none", 0)
            raise ModelError(
                f"{self.path}: holds embeddings of the encoder {fingerprint} (dim {dim}), not of "
                f"{self.fingerprint} (dim {self.dim}): use the file of this encoder, or delete "
                "this file, and it is made again"
            )

    def _pragma(self, name: str) -> int:
        return int(self._select(f"PRAGMA {name}")[0][0])

    def _select(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows, so that no statement stays half read, which would lock out writers."""
        with self._errors_in_one_line():
            return self._database.execute(query, tuple(values)).fetchall()

    def _select_among(self, query: str, values: Sequence[object]) -> Iterator[Any]:
        """The rows of a query that ends with ``IN``, for all values."""
        for first in range(0, len(values), MAX_VALUES):
            some = values[first : first + MAX_VALUES]
            yield from self._select(f"{query} ({', '.join('?' * len(some))})", some)

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(
            f"{self.path}: not a cache of embeddings, or damaged ({reason}): delete it, and it is "
            "made again"
        )

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Turn errors of SQLite and of the file system into a ``ModelError``."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise ModelError(
                f"{self.path}: the cache of embeddings cannot be used ({one_line(error)}). Check "
                "its permissions, the space on its disk and which other program has it open, or "
                "use another folder (the variable SINGLEOUT_CACHE moves the default)"
            ) from None
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: of damaged names
            raise self._damaged(one_line(error)) from None


def _hash_of(clip: Clip) -> bytes:
    """SHA-256 of the content of a sound."""
    if clip.member is not None:
        return hashlib.sha256(read_member(clip.member)).digest()
    with clip.path.open("rb") as audio:
        return hashlib.file_digest(audio, "sha256").digest()


def _digest(key: CropKey, numbers: bytes) -> bytes:
    described = key.content + struct.pack("<2d", key.start, key.seconds)
    return hashlib.blake2b(described + numbers, digest_size=DIGEST_BYTES).digest()


def _numbers_in(blob: object, key: CropKey, dim: int) -> NDArray[np.float32] | None:
    """The embedding in a row; None if the row is damaged."""
    if not isinstance(blob, bytes) or len(blob) not in (4 * dim, 4 * dim + DIGEST_BYTES):
        return None
    content, digest = blob[: 4 * dim], blob[4 * dim :]
    if digest not in (b"", _digest(key, content)):
        return None
    numbers = np.frombuffer(content, "<f4").astype(np.float32)
    return numbers if np.isfinite(numbers).all() else None
