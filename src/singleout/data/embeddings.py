"""Embeddings of all crops of all clips: computed once, kept on disk, read in training.

The cache is one SQLite file per encoder. A row is found by what was embedded (SHA-256 of the
audio file, start and length of the crop), not by a file's name, so runs, splits and copies of a
corpus share it, and several processes may fill it at once.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from singleout.data.manifest import Clip
from singleout.data.plan import MixtureConfig, num_crops
from singleout.data.render import read_crop
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import AudioError, ModelError, one_line
from singleout.progress import track

SAMPLE_RATE = 32_000
"""Hz at which the crops are given to the encoder."""

SCHEMA_VERSION = 1
"""To be raised when the tables change, or how a crop is read: old files are then refused."""

APPLICATION_ID = 0x51E0_0075
"""In the header of every cache: tells it from SQLite files of other programs."""

BATCH = 64
"""Rows per transaction: as many embeddings are lost at most when a run is killed."""

BUSY_SECONDS = 60.0
"""How long to wait for another process's transaction, each of which takes milliseconds."""

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    "CREATE TABLE IF NOT EXISTS encoder"
    " (id INTEGER PRIMARY KEY CHECK (id = 0), fingerprint TEXT, dim INTEGER)",
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT, content BLOB)",
    "CREATE TABLE IF NOT EXISTS crops (content BLOB, start REAL, seconds REAL, embedding BLOB,"
    " PRIMARY KEY (content, start, seconds))",
)


@dataclass(frozen=True)
class EmbeddingTable:
    """One embedding per crop.

    Attributes:
        embeddings: float32 [crops, dim], unit norm.
        offsets: [clips + 1], where each clip's crops start.
    """

    embeddings: Tensor
    offsets: tuple[int, ...]

    def of(self, clip: int, crop: int) -> Tensor:
        """[dim] of one crop."""
        return self.embeddings[self.offsets[clip] + crop]

    def count(self, clip: int) -> int:
        """How many crops a clip has."""
        return self.offsets[clip + 1] - self.offsets[clip]


class CropKey(NamedTuple):
    """What was embedded: SHA-256 of the audio file, start and length of the crop in seconds."""

    content: bytes
    start: float
    seconds: float


class EmbeddingCache:
    """Embeddings of one encoder in one file, safe under concurrent writers; a context manager.

    What is put becomes visible to other processes in batches, the last of them on leaving, even by
    an exception. The first writer of a row wins. Paths of audio files are kept with their size and
    time of change, so that a file is hashed once and not in every run.

    Args:
        path: the file; made, with its folder, unless ``read_only``.
        fingerprint: of the encoder.
        dim: length of an embedding.
        read_only: nothing is written; the file must exist.

    Raises:
        ModelError: not a cache, damaged, of another encoder or of another version; or it cannot be
            opened. Any method: it cannot be read or written (locked, disk full).
    """

    def __init__(self, path: Path, fingerprint: str, dim: int, read_only: bool = False) -> None:
        if not fingerprint:
            raise ModelError(
                f"{path}: the encoder has no fingerprint, so its embeddings could not be told from "
                "another's: save it first"
            )
        self.path, self.fingerprint, self.dim, self.read_only = path, fingerprint, dim, read_only
        self._new_files: dict[tuple[bytes, str], bytes] = {}
        self._new_crops: dict[CropKey, bytes] = {}
        with self._one_line():
            if read_only:
                path.stat()  # for a clearer reason than SQLite's
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            # No WAL: it needs shared memory, hence no network drives, and side files, hence no
            # read-only folders. Transactions are ours alone, hence no isolation level.
            self._database = sqlite3.connect(uri, BUSY_SECONDS, isolation_level=None, uri=True)
        try:
            with self._one_line():
                self._check()
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

    def key(self, clip: Clip, crop: int, config: MixtureConfig) -> CropKey:
        """Of a clip's crop number ``crop``, from the file as it is now.

        Raises:
            AudioError: the file cannot be read.
        """
        start = crop * config.crop_hop_seconds
        return CropKey(self._content_of(clip.path), start, config.segment_seconds)

    def get(self, key: CropKey) -> Tensor | None:
        """Float32 [dim], or None where nobody has put it."""
        blob = self._new_crops.get(key)
        if blob is None:
            query = "SELECT embedding FROM crops WHERE content = ? AND start = ? AND seconds = ?"
            found = self._select(query, key)
            if not found:
                return None
            blob = found[0][0]
        if not isinstance(blob, bytes) or len(blob) != 4 * self.dim:
            raise self._damaged("an embedding of another length")
        return torch.from_numpy(np.frombuffer(blob, "<f4").astype(np.float32))

    def put(self, key: CropKey, embedding: Tensor) -> None:
        """Keep an embedding [dim].

        Raises:
            ModelError: it has another shape, or is not finite: it would be wrong for ever.
        """
        assert not self.read_only
        if embedding.shape != (self.dim,) or not bool(torch.isfinite(embedding).all()):
            raise ModelError(
                f"the encoder {self.fingerprint} made an embedding {list(embedding.shape)} that is "
                f"not {self.dim} finite numbers: it is not kept in {self.path}"
            )
        blob = embedding.detach().cpu().numpy().astype("<f4").tobytes()
        self._new_crops.setdefault(key, blob)
        self._flush_batch()

    def flush(self) -> None:
        """Write what is not yet in the file, all or nothing."""
        if self.read_only or not (self._new_files or self._new_crops):
            return
        files = [(*file, content) for file, content in self._new_files.items()]
        crops = [(*key, blob) for key, blob in self._new_crops.items()]
        # Forgotten first: what failed to be written once is not tried again on leaving.
        self._new_files, self._new_crops = {}, {}
        with self._one_line(), self._database as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", files)
            database.executemany("INSERT OR IGNORE INTO crops VALUES (?, ?, ?, ?)", crops)

    def _flush_batch(self) -> None:
        if len(self._new_files) + len(self._new_crops) >= BATCH:
            self.flush()

    def _content_of(self, path: Path) -> bytes:
        """SHA-256 of a file, remembered for as long as its size and time of change stay."""
        try:
            found = path.stat()
            file = (os.fsencode(path.absolute()), f"{found.st_size} {found.st_mtime_ns}")
            content = self._new_files.get(file)
            if content is None:
                query = "SELECT content FROM files WHERE path = ? AND stamp = ?"
                rows = self._select(query, file)
                if rows and isinstance(rows[0][0], bytes):
                    return rows[0][0]
                with path.open("rb") as audio:
                    content = hashlib.file_digest(audio, "sha256").digest()
                self._new_files[file] = content
                self._flush_batch()
        except OSError as error:
            raise AudioError(f"{path}: cannot be read as audio: {error}") from None
        return content

    def _check(self) -> None:
        """Make the tables in an empty file; refuse any file that is not this encoder's cache."""
        if not self.read_only and not self._select("SELECT name FROM sqlite_master"):
            with self._database as database:
                database.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:  # again, harmlessly, if another process was faster
                    database.execute(statement)
                values = (self.fingerprint, self.dim)
                database.execute("INSERT OR IGNORE INTO encoder VALUES (0, ?, ?)", values)
        if self._pragma("application_id") != APPLICATION_ID:
            raise self._damaged("a file of another program")
        if (version := self._pragma("user_version")) != SCHEMA_VERSION:
            raise ModelError(
                f"{self.path}: a cache of embeddings of another version of singleout (schema "
                f"{version}, this one has {SCHEMA_VERSION}): delete it to have it made again"
            )
        # SQLite reads zeros where the last page is cut off.
        if self._pragma("page_count") * self._pragma("page_size") > self.path.stat().st_size:
            raise self._damaged("it is truncated")
        found = self._select("SELECT fingerprint, dim FROM encoder")
        if found != [(self.fingerprint, self.dim)]:
            fingerprint, dim = found[0] if found else ("none", 0)
            raise ModelError(
                f"{self.path}: holds embeddings of the encoder {fingerprint} (dim {dim}), not of "
                f"{self.fingerprint} (dim {self.dim}): use the file of this encoder, or delete "
                "this one and have it made again"
            )

    def _pragma(self, name: str) -> int:
        return int(self._select(f"PRAGMA {name}")[0][0])

    def _select(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows, so that no statement is left half read, which would lock writers out."""
        with self._one_line():
            return self._database.execute(query, tuple(values)).fetchall()

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(
            f"{self.path}: not a cache of embeddings, or damaged ({reason}): delete it to have it "
            "made again"
        )

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise ModelError(
                f"{self.path}: the cache of embeddings cannot be used ({one_line(error)}): look at "
                "its permissions, the space on its disk and what else has it open, or use another "
                "place (the variable SINGLEOUT_CACHE moves the default)"
            ) from None
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: of damaged names
            raise self._damaged(one_line(error)) from None


def build_table(
    clips: Sequence[Clip],
    config: MixtureConfig,
    embed: Callable[[int, int], Tensor],
) -> EmbeddingTable:
    """Embed every crop with ``embed(clip, crop) -> [dim]``."""
    rows: list[Tensor] = []
    offsets = [0]
    for i, clip in enumerate(track(clips, "embedding the sounds")):
        rows += [embed(i, crop) for crop in range(num_crops(clip, config))]
        offsets.append(len(rows))
    return EmbeddingTable(torch.stack(rows).float(), tuple(offsets))


def default_cache(fingerprint: str) -> Path:
    """Where an encoder's embeddings are kept: below ``$SINGLEOUT_CACHE`` or
    ``~/.cache/singleout``."""
    root = Path(os.environ.get("SINGLEOUT_CACHE") or "~/.cache/singleout").expanduser()
    return root / "embeddings" / f"{quote(fingerprint, safe='')}.sqlite"


def embeddings_of(
    clips: Sequence[Clip], config: MixtureConfig, encoder: QueryEncoder, cache: Path | None = None
) -> EmbeddingTable:
    """The encoder's embeddings of all crops, from the file ``cache`` or computed and kept there.

    Args:
        clips: the sounds.
        config: how they are cropped.
        encoder: what embeds them.
        cache: default: ``default_cache`` of the encoder.

    Raises:
        AudioError: a sound cannot be read, or changes while it is.
        ModelError: the cache cannot be used (see ``EmbeddingCache``).
    """
    path = default_cache(encoder.fingerprint) if cache is None else cache
    with EmbeddingCache(path, encoder.fingerprint, encoder.dim) as file:

        def embed(clip: int, crop: int) -> Tensor:
            key = file.key(clips[clip], crop, config)
            row = file.get(key)
            if row is None:
                audio = read_crop(clips[clip], crop, config, SAMPLE_RATE)
                row = encoder.embed_audio(np.ascontiguousarray(audio), SAMPLE_RATE)[0]
                if file.key(clips[clip], crop, config) != key:
                    raise AudioError(f"{clips[clip].path}: changed while it was read: start again")
                file.put(key, row)
            return row

        return build_table(clips, config, embed)


def given_embeddings(
    clips: Sequence[Clip], config: MixtureConfig, encoder_fingerprint: str, dim: int, path: Path
) -> EmbeddingTable:
    """Embeddings of all crops that somebody else made and kept in the file ``path``.

    Raises:
        AudioError: a sound cannot be read.
        ModelError: the file cannot be used (see ``EmbeddingCache``) or lacks a crop.
    """
    with EmbeddingCache(path, encoder_fingerprint, dim, read_only=True) as file:

        def given(clip: int, crop: int) -> Tensor:
            key = file.key(clips[clip], crop, config)
            row = file.get(key)
            if row is None:
                raise ModelError(
                    f"{path}: lacks crop {crop} of {clips[clip].path} ({key.seconds:g} s from "
                    f"{key.start:g} s): make the file again from these sounds and crops, or leave "
                    "'embeddings' out of the config to use the encoder's own"
                )
            return row

        return build_table(clips, config, given)
