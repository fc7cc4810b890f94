"""One task of a preparation: a group of rows becomes a shard.

The name of a shard is the hash of its inputs and settings, and a shard that exists is finished. So
a task can be repeated at any time and anywhere, and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from singleout.errors import AudioError, InputError
from singleout.prepare.embedding import CropEmbedder, EmbeddedCrops
from singleout.prepare.rows import Row, RowGroup, place_of
from singleout.prepare.settings import PrepareConfig
from singleout.prepare.sounds import Sound, read_sound
from singleout.shards import Sample, ShardWriter, is_finished
from singleout.shards.writing import json_bytes
from singleout.storage.locations import Location
from singleout.storage.temporary import temporary_folder

NOT_IN_NAMES = {"duplicates", "shard_clips", "embed"}
"""Settings that no shard depends on. The fingerprint stands for the encoder."""
VERSION = 1
"""Part of the names of shards. Raise it when the same inputs give other bytes."""
SOUNDS_AT_ONCE = 16
"""Sounds whose crops are embedded together."""
STORE_THREADS = 16
"""Requests at once for the states of files in a store."""
LEFT_OUT = "left out"
"""Outcome, in the report, of an input that is not in the corpus."""


@dataclass(frozen=True)
class ShardResult:
    """What a task did.

    Attributes:
        name: of the shard, without suffix.
        row: number of its first row.
        is_new: whether the shard did not exist.
        seconds: length of the sounds that were read.
        cpu_seconds: processor time.
        decode_seconds: part of it for decoding, mixing and resampling.

    Example:
        >>> ShardResult("0123456789abcdef", row=1, is_new=False).cpu_seconds
        0.0
    """

    name: str
    row: int
    is_new: bool
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class ShardMaker:
    """Makes the function that turns a group of rows into a shard; see ``Engine.run``.

    Attributes:
        config: what happens to the sounds.
        fingerprint: of the encoder of ``config.embed``; None without one.
        base: what paths of rows are relative to.
        out: path or address of the corpus.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     noise = np.random.default_rng(0).normal(0, 0.1, 8_000)
        ...     soundfile.write(f"{folder}/rain.wav", noise, 8_000)
        ...     make_shard = ShardMaker(PrepareConfig(), None, folder, f"{folder}/out")()
        ...     result = make_shard(RowGroup.of([(1, {"path": "rain.wav"})]))
        ...     (Location(folder) / "out/shards").names() == [
        ...         f"{result.name}.json", f"{result.name}.tar"
        ...     ]
        True
    """

    config: PrepareConfig
    fingerprint: str | None
    base: str
    out: str

    def __call__(self) -> Callable[[RowGroup], ShardResult]:
        """The function. It loads the encoder when it first needs it."""
        embedder = None
        if self.config.embed is not None:
            embedder = CropEmbedder(self.config, self.fingerprint)
        return _Worker(self, embedder).run


class _Worker:
    """The function of a ``ShardMaker`` in one process."""

    def __init__(self, maker: ShardMaker, embedder: CropEmbedder | None) -> None:
        self._maker, self._config, self._embedder = maker, maker.config, embedder
        self._shards = Location(maker.out) / "shards"

    def run(self, group: RowGroup) -> ShardResult:
        rows = [_Input(number, row, self._maker.base) for number, row in group.rows()]
        with ThreadPoolExecutor(STORE_THREADS) as threads:
            in_store = [each for each in rows if not each.place.is_local]
            list(threads.map(_Input.look, in_store))
        for each in rows:
            each.look()
        name = self._name(rows)
        if is_finished(self._shards, name):
            return ShardResult(name, rows[0].number, is_new=False)
        started, seconds, decode_seconds = time.process_time(), 0.0, 0.0
        with ShardWriter(self._shards, name) as shard:
            sounds = self._sounds(rows, shard)
            while some := list(islice(sounds, SOUNDS_AT_ONCE)):
                seconds += sum(sound.statistics["source_seconds"] for _, sound in some)
                decode_seconds += sum(sound.decode_seconds for _, sound in some)
                self._add(shard, some)
        cpu_seconds = time.process_time() - started
        return ShardResult(name, rows[0].number, True, seconds, cpu_seconds, decode_seconds)

    def _name(self, rows: Iterable[_Input]) -> str:
        inputs = [[each.number, each.row, each.state] for each in rows]
        settings = self._config.model_dump(mode="json", exclude=NOT_IN_NAMES)
        content = json_bytes([VERSION, settings, self._maker.fingerprint, repr(inputs)])
        return hashlib.sha256(content).hexdigest()[:16]

    def _sounds(self, rows: Iterable[_Input], shard: ShardWriter) -> Iterator[tuple[_Input, Sound]]:
        """The sounds that can be read. The others go into the report of the shard."""
        for each in rows:
            try:
                sound = each.read(self._config)
            except AudioError as error:
                each.report(shard, LEFT_OUT, str(error))
                continue
            for warning in sound.warnings:
                each.report(shard, "kept", warning)
            yield each, sound

    def _add(self, shard: ShardWriter, sounds: list[tuple[_Input, Sound]]) -> None:
        """Embed, filter and write sounds."""
        texts = [each.text for each, _ in sounds]
        embedded: Sequence[EmbeddedCrops | None] = [None] * len(sounds)
        if self._embedder is not None:
            embedded = self._embedder([sound for _, sound in sounds], texts)
        rate = self._config.sample_rate
        for (each, sound), crops in zip(sounds, embedded, strict=True):
            statistics = dict(sound.statistics)
            if crops is not None:
                statistics |= {"purity": crops.purity, "caption_similarity": crops.similarity}
                if (reason := crops.reason(self._config)) is not None:
                    each.report(shard, LEFT_OUT, reason)
                    continue
            description = each.description() | {
                "seconds": len(sound.samples) / rate,
                "statistics": statistics,
            }
            shard.add(
                Sample(
                    each.key,
                    sound.encoded(self._config.format, rate),
                    self._config.format,
                    rate,
                    len(sound.samples),
                    description,
                    None if crops is None else crops.embeddings,
                )
            )


def _is_json(value: object) -> bool:
    """Whether other JSON readers take a value: NaN is none of theirs."""
    try:
        json_bytes(value)
    except ValueError:
        return False
    return True


class _Input:
    """A row of the manifest and its recording."""

    def __init__(self, number: int, row: Row, base: str) -> None:
        self.number, self.row, self.place = number, row, place_of(row, base)
        self.state: str | None = None
        self._missing: str | None = None
        self._has_looked = False

    @property
    def key(self) -> str:
        return f"{self.number:09}"

    @property
    def text(self) -> str | None:
        """The caption; without one, the last part of the class."""
        caption = self.row.get("caption")
        if caption and caption.strip():
            return str(caption)
        return (self.row.get("class") or "").rpartition("/")[2].replace("_", " ").strip() or None

    def look(self) -> None:
        """Find out whether the recording exists, and its state.

        Raises:
            InputError: a store does not answer.
        """
        if self._has_looked:
            return
        self._has_looked = True
        try:
            if self.place.exists():
                self.state = self.place.state()
            else:
                self._missing = "no such file"
        except InputError as error:
            if not self.place.is_local:
                raise
            self._missing = str(error)

    def read(self, config: PrepareConfig) -> Sound:
        """Read the recording; see ``read_sound``.

        Raises:
            InputError: a store does not answer. A recording on a disk is an ``AudioError``.
        """
        if self._missing is not None:
            raise AudioError(self._missing)
        if self.place.is_local:
            sound = self._read(self.place.path, config)
            state = self.place.state() if self.place.exists() else None
            if state != self.state:
                raise AudioError("changed while it was read: prepare the corpus again")
            return sound
        with temporary_folder() as folder:
            copy = folder / f"sound{self.place.path.suffix}"
            self.place.fetch(copy)
            return self._read(copy, config)

    def _read(self, path: Path, config: PrepareConfig) -> Sound:
        try:
            return read_sound(path, config)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), self.row["path"])) from None

    def description(self) -> dict[str, Any]:
        """What the manifest knows about the sound, and the path of its recording as ``file``."""
        description: dict[str, Any] = {}
        for key, value in self.row.items():
            if key == "alternatives" and value:
                value = [text for text in value if text and not text.isspace()]
            # A blank split is a split of its own, as in a manifest.
            is_blank = value in ("", []) or str(value).isspace()
            is_blank = value is None or (is_blank and key != "split")
            if key not in ("path", "seconds") and not is_blank and _is_json(value):
                description[key] = value
        return description | {"file": self.row["path"]}

    def report(self, shard: ShardWriter, outcome: str, text: str) -> None:
        """Note what became of the recording."""
        reason = text.removeprefix(f"{self.place}: ").removeprefix(f"{self.row['path']}: ")
        shard.report(
            {"row": self.number, "path": self.row["path"], "outcome": outcome, "reason": reason}
        )
