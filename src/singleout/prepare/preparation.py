"""A whole preparation: tasks by an engine, then one index over their shards."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singleout.documents import parse_json
from singleout.encoders import load_encoder
from singleout.engines import Engine, load_engine
from singleout.prepare.duplicates import revision_of
from singleout.prepare.rows import base_of, row_groups
from singleout.prepare.settings import PrepareConfig
from singleout.prepare.shards import VERSION, ShardMaker, ShardResult
from singleout.progress import track
from singleout.shards import Crops, read_sidecar, write_corpus
from singleout.shards.corpus import DESCRIPTION, REPORT
from singleout.storage.journal import recover
from singleout.storage.locations import Location
from singleout.storage.lock import only_writer

SHARD_FILE = re.compile(r"([0-9a-f]{16})\.(?:tar|json|npy)")
"""Matches the names of shards and their sidecars. Other files are not ours."""
LOCK_NAME = "prepare.lock"
"""Name of the lock in a local folder. It holds the number of the process that prepares."""


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        clips, hours: sounds of the corpus, and their length.
        shards: number of shards.
        made: how many of them are new.
        removed: shards of an earlier manifest or of other settings, which were removed.
        outcomes: number of rows of the report by outcome: ``left out``, ``grouped`` with a
            duplicate, or ``kept`` with a warning.
        seconds: time that the preparation took.
        hours_per_core_hour: hours of sound in the new shards by their processor time; None
            without new shards.
        decode_share: part of the processor time for decoding, mixing and resampling.

    Example:
        >>> Summary(3, 0.5, 1, 1, 0, {"left out": 1}, 3.0, 250.0, 0.3).outcomes
        {'left out': 1}
    """

    clips: int
    hours: float
    shards: int
    made: int
    removed: int
    outcomes: dict[str, int]
    seconds: float
    hours_per_core_hour: float | None
    decode_share: float | None


def prepare(
    source: str | Path,
    output: str | Path,
    config: PrepareConfig | None = None,
    engine: Engine | None = None,
) -> Summary:
    """Make a prepared corpus from the sounds of a manifest or folder.

    A repeated call goes on where the last one was stopped, and gives the same bytes.

    Args:
        source: manifest, by path or address, or a folder of media. Its paths may be addresses.
        output: folder of the corpus, or its address.
        config: what happens to the sounds.
        engine: runs the tasks, one for each shard; by default this process.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a store does not answer, or no sound can be used.
        OutputError: the output cannot be written, such as on a full disk; or another preparation
            writes to it.
        ModelError: there is no such encoder.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(2):
        ...         noise = np.random.default_rng(i).normal(0, 0.1, 8_000)
        ...         soundfile.write(f"{folder}/{i}.wav", noise, 8_000)
        ...     summary = prepare(folder, f"{folder}/corpus")
        ...     summary.clips, sorted(path.name for path in Path(folder, "corpus").iterdir())
        (2, ['corpus.json', 'index.safetensors', 'report.jsonl', 'shards'])
    """
    config = config or PrepareConfig()
    out = Location(output) if not Location(output).is_local else Location(Path(output).absolute())
    with _only_writer(out):
        return _Preparation(source, out, config, engine or load_engine()).run()


def _only_writer(out: Location) -> AbstractContextManager[None]:
    """Hold the lock of a local folder. In a store, two preparations write the same bytes twice."""
    return only_writer(out.path, LOCK_NAME, "preparation") if out.is_local else nullcontext()


class _Preparation:
    def __init__(
        self, source: str | Path, out: Location, config: PrepareConfig, engine: Engine
    ) -> None:
        self._source, self._out, self._config, self._engine = source, out, config, engine
        self._shards = out / "shards"

    def run(self) -> Summary:
        started = time.perf_counter()
        if self._out.is_local:
            recover(self._shards.path)
            recover(self._out.path)
        crops = self._crops()
        results = self._shard_results(crops)
        names = [result.name for result in results]
        self._write_corpus(names, crops)
        removed = self._remove_others(names)
        return self._summary(results, removed, started)

    def _crops(self) -> Crops | None:
        """The crops that are embedded. The encoder is loaded: it may not exist."""
        config = self._config
        if config.embed is None:
            return None
        fingerprint = load_encoder(config.embed).fingerprint
        return Crops(fingerprint, config.crop_seconds, config.crop_hop_seconds)

    def _shard_results(self, crops: Crops | None) -> list[ShardResult]:
        """Make all shards; their results in the order of the rows."""
        groups = row_groups(self._source, self._config.shard_clips)
        config = self._config
        if config.embed is not None and Path(config.embed).exists():  # for processes elsewhere
            config = config.model_copy(update={"embed": str(Path(config.embed).absolute())})
        fingerprint = None if crops is None else crops.fingerprint
        maker = ShardMaker(config, fingerprint, base_of(self._source), str(self._out))
        results = track(self._engine.run(maker, groups), "preparing", total=len(groups))
        return sorted(results, key=lambda result: result.row)

    def _write_corpus(self, names: Sequence[str], crops: Crops | None) -> None:
        revision = revision_of(self._rows(names), self._config.duplicates)
        settings = {"version": VERSION, **self._config.model_dump(mode="json")}
        write_corpus(self._out, names, settings, crops, revision.revise, revision.notes.values())

    def _rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name in track(names, "searching duplicates"):
            yield from read_sidecar(self._shards, name)["rows"]

    def _remove_others(self, names: Sequence[str]) -> int:
        """Remove shards of an earlier manifest or of other settings; their number."""
        others = set()
        kept = set(names)
        for file in self._shards.names():
            match = SHARD_FILE.fullmatch(file)
            if match is not None and match[1] not in kept:
                (self._shards / file).remove()
                others.add(match[1])
        return len(others)

    def _summary(self, results: Sequence[ShardResult], removed: int, started: float) -> Summary:
        corpus = parse_json((self._out / DESCRIPTION).read().decode())
        outcomes: Counter[str] = Counter()
        with (self._out / REPORT).open() as report:
            for line in report:
                outcomes[parse_json(line.decode())["outcome"]] += 1
        cpu_seconds = sum(result.cpu_seconds for result in results)
        seconds = sum(result.seconds for result in results)
        decode_seconds = sum(result.decode_seconds for result in results)
        return Summary(
            clips=corpus["clips"],
            hours=round(corpus["seconds"] / 3_600, 4),
            shards=len(results),
            made=sum(result.is_new for result in results),
            removed=removed,
            outcomes=dict(sorted(outcomes.items())),
            seconds=round(time.perf_counter() - started, 1),
            hours_per_core_hour=round(seconds / cpu_seconds, 1) if cpu_seconds else None,
            decode_share=round(decode_seconds / cpu_seconds, 3) if cpu_seconds else None,
        )
