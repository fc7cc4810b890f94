"""A whole preparation: tasks by an engine, then one index over their shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from singleout.encoders import load_encoder
from singleout.engines import Engine, load_engine
from singleout.errors import InputError, OutputError
from singleout.prepare.duplicates import revision_of
from singleout.prepare.locking import only_preparation
from singleout.prepare.rows import base_of, row_groups
from singleout.prepare.settings import PrepareConfig
from singleout.prepare.shards import VERSION, ShardMaker, ShardResult
from singleout.progress import track
from singleout.shards import Crops, read_sidecar, write_corpus
from singleout.storage.journal import recover
from singleout.storage.locations import Location

SHARD_SUFFIXES = (".tar", ".json", ".npy")


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        clips, hours: sounds of the corpus, and their length.
        shards: number of shards; ``made`` of them are new.
        left_out: inputs that are not in the corpus, by the reason in the report.
        warnings: other rows of the report.
        removed: shards of an earlier manifest or of other settings.
        seconds: time that the preparation took.
        cpu_hours: processor time of the new shards; ``decode_share`` of it for decoding.
        hours_per_cpu_hour: hours of sound in the new shards by the processor time; None if no
            shard is new.

    Example:
        >>> Summary(1, 0.5, 1, 1, 0, 0, 0, 3.0, 0.01, 0.3, 50.0).hours
        0.5
    """

    clips: int
    hours: float
    shards: int
    made: int
    left_out: int
    warnings: int
    removed: int
    seconds: float
    cpu_hours: float
    decode_share: float
    hours_per_cpu_hour: float | None


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
    return only_preparation(out.path) if out.is_local else nullcontext()


class _Preparation:
    def __init__(
        self, source: str | Path, out: Location, config: PrepareConfig, engine: Engine
    ) -> None:
        self._source, self._out, self._config, self._engine = source, out, config, engine
        self._started = time.perf_counter()
        self._shards = out / "shards"

    def run(self) -> Summary:
        if self._out.is_local:
            recover(self._shards.path)
            recover(self._out.path)
        crops = self._crops()
        groups = row_groups(self._source, self._config.shard_clips)
        maker = ShardMaker(
            self._config, crops and crops.fingerprint, base_of(self._source), str(self._out)
        )
        results = dict(self._results(maker, groups))
        ordered = [results[number] for number in range(len(groups))]
        names = [result.name for result in ordered]
        report = self._merge(names, crops)
        removed = self._remove_others(names)
        return self._summary(ordered, report, removed)
