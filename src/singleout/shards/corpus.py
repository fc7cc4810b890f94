"""Prepared corpora: shards with one index over all of them.

A corpus is a folder, on a disk or in a store:

- ``corpus.json`` describes it. It is written last, so a corpus that has it is complete.
- ``index.safetensors`` has the columns of its clips.
- ``embeddings-FINGERPRINT.safetensors`` has an embedding for each crop, of one encoder.
- ``report.jsonl`` says what became of inputs that were left out or changed.
- ``shards`` has the shards with their sidecars. An index of other people's shards has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from singleout.data.columns import ColumnsBuilder
from singleout.errors import InputError, OutputError, one_line, shortened
from singleout.progress import track
from singleout.shards.arrays import blocks_of
from singleout.shards.index import IndexWriter
from singleout.shards.writing import FORMAT, json_bytes, read_npy, read_sidecar
from singleout.storage.locations import Location
from singleout.storage.temporary import temporary_folder

DESCRIPTION, INDEX, REPORT = "corpus.json", "index.safetensors", "report.jsonl"
"""Names of the files of a corpus."""


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


class CorpusWriter:
    """Collects the clips of shards, and writes the files of a corpus; a context manager.

    ``corpus.json`` is written at the end of the context, if no exception ends it.

    Args:
        out: folder of the corpus.
        settings: JSON object: how the shards were made.
        crops: the embedded crops; None without embeddings.

    Raises:
        OutputError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with CorpusWriter(Location(folder), {"rate": 32_000}) as corpus:
        ...         corpus.report({"row": 8, "reason": "is silent"})
        ...     Location(folder).names()
        ['corpus.json', 'index.safetensors', 'report.jsonl']
    """

    def __init__(
        self, out: Location, settings: Mapping[str, Any], crops: Crops | None = None
    ) -> None:
        self._out, self._settings, self._crops = out, dict(settings), crops
        self._shards: list[dict[str, Any]] = []
        self._num_reports = 0
        self._opened = ExitStack()

    def __enter__(self) -> CorpusWriter:
        with ExitStack() as opened:
            self._folder = opened.enter_context(temporary_folder())
            (self._folder / "columns").mkdir()
            self._index = opened.enter_context(IndexWriter(self._folder / "columns"))
            self._report: IO[bytes] = opened.enter_context((self._folder / REPORT).open("wb"))
            self._opened = opened.pop_all()
        return self

    def add(self, shard: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Append a shard.

        Args:
            shard: its ``name`` (relative to the corpus, or a path or an address), ``size``, and
                ``sha256`` or None.
            rows: its sounds: ``name`` of the member, its ``offset`` and ``size``,
                ``sample_rate``, ``num_samples``, a ``description``, and ``embeddings`` or None.
                The name begins at ``root``, which is the shard by default.
        """
        check_shard_name(shard["name"])
        builder = ColumnsBuilder()
        for row in rows:
            _add_clip(builder, shard["name"], row)
        embedded = [row["embeddings"] for row in rows if row.get("embeddings") is not None]
        with self._failures():
            self._index.add(
                builder.columns(),
                [len(each) for each in embedded],
                np.concatenate(embedded) if embedded else None,
            )
        seconds = sum(row["num_samples"] / row["sample_rate"] for row in rows)
        self._shards.append({**shard, "clips": len(rows), "seconds": round(seconds, 3)})

    def report(self, row: Mapping[str, Any]) -> None:
        """Note what became of an input."""
        with self._failures():
            self._report.write(json_bytes(dict(row)) + b"\n")
        self._num_reports += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._opened.__exit__(kind, error, traceback)
            return
        with self._opened:
            self._write()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Say where the space is missing: not in the folder of the corpus."""
        try:
            yield
        except (OSError, OutputError) as error:
            raise OutputError(
                f"{self._out}: its index cannot be written to {self._folder} first: set TMPDIR to "
                f"a folder with more space ({one_line(error)})"
            ) from None

    def _write(self) -> None:
        files, tables = [REPORT, INDEX], []
        with self._failures():
            self._report.close()
            self._index.write(self._folder / INDEX)
            if self._crops is not None:
                files.insert(0, embeddings_name(self._crops.fingerprint))
                self._index.write_embeddings(self._folder / files[0])
                facts = {"name": files[0], **file_facts(self._folder / files[0])}
                tables.append({**facts, **asdict(self._crops)})
        content = {
            "format": FORMAT,
            "settings": self._settings,
            "clips": sum(shard["clips"] for shard in self._shards),
            "seconds": round(sum(shard["seconds"] for shard in self._shards), 3),
            "reports": self._num_reports,
            "index": file_facts(self._folder / INDEX),
            "embeddings": tables,
            "shards": self._shards,
        }
        for name in files:
            (self._out / name).put(self._folder / name)
        (self._out / DESCRIPTION).write(json_bytes(content) + b"\n")


def write_corpus(
    out: Location,
    names: Sequence[str],
    settings: Mapping[str, Any],
    crops: Crops | None = None,
    revise: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
    notes: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write the index of finished shards, their embeddings, the report and ``corpus.json``.

    Args:
        out: folder of the corpus. Its folder ``shards`` has the shards.
        names: of the shards, without suffix, in the order of the manifest.
        settings: JSON object: how the shards were made.
        crops: the embedded crops; None if the samples have no embeddings.
        revise: from a row of a sidecar to the row as it goes into the index, None to leave the
            sound out. By default all sounds stay as they are.
        notes: further rows of the report. They are read after the last call of ``revise``.

    Raises:
        InputError: a shard is not finished.
        OutputError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> from singleout.shards import Sample, ShardWriter, open_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out, rain = Location(folder), {"caption": "rain", "seconds": 2.0}
        ...     with ShardWriter(out / "shards", "0123") as shard:
        ...         shard.add(Sample("000000007", b"fLaC", "flac", 32_000, 64_000, rain))
        ...     write_corpus(out, ["0123"], settings={})
        ...     clip = open_corpus(folder).clips[0]
        >>> clip.caption, clip.member.offset, clip.path.name
        ('rain', 512, '000000007.flac')
    """
    shards = out / "shards"
    with CorpusWriter(out, settings, crops) as corpus:
        for name in track(names, "making the index"):
            sidecar = read_sidecar(shards, name)
            kept = []
            for row in _with_embeddings(shards, name, sidecar, crops is not None):
                revised = row if revise is None else revise(row)
                if revised is not None:
                    kept.append(revised)
            facts = {key: sidecar[key] for key in ("size", "sha256")}
            corpus.add({"name": f"shards/{name}.tar", **facts}, kept)
            for note in sidecar["report"]:
                corpus.report(note)
        for note in notes:
            corpus.report(note)


def _with_embeddings(
    shards: Location, name: str, sidecar: Mapping[str, Any], has_embeddings: bool
) -> Iterator[dict[str, Any]]:
    """The rows of a sidecar as ``CorpusWriter.add`` takes them."""
    table = None
    if has_embeddings and sidecar["rows"]:
        table = read_npy(shards / f"{name}.npy", sidecar["embeddings"])
    end = 0
    for row in sidecar["rows"]:
        offset, size = row["members"][row["audio"]]
        begin, end = end, end + row["crops"]
        yield {
            **row,
            "name": f"{row['key']}.{row['audio']}",
            "offset": offset,
            "size": size,
            "embeddings": None if table is None else table[begin:end],
        }


def _add_clip(builder: ColumnsBuilder, shard: str, row: Mapping[str, Any]) -> None:
    description = row["description"]
    caption = description.get("caption") or None
    alternatives = description.get("alternatives") or ()
    builder.add(
        row["name"],
        float(description.get("seconds") or row["num_samples"] / row["sample_rate"]),
        root=row.get("root", shard),
        captions=[*([caption] if caption else []), *alternatives],
        has_caption=caption is not None,
        label=description.get("class") or None,
        has_class=bool(description.get("class")),
        group=description.get("group") or None,
        split="train" if description.get("split") is None else description["split"],
        shard=shard,
        place=(row["offset"], row["size"], row["sample_rate"], row["num_samples"]),
    )


def check_shard_name(name: object) -> None:
    """Refuse a name of a shard that would break a message into lines.

    Raises:
        InputError: the name is no text, is empty, or has control characters.

    Example:
        >>> check_shard_name("a\\nb.tar")
        Traceback (most recent call last):
        singleout.errors.InputError: a b.tar: no shard can have this name: rename the file
    """
    if not isinstance(name, str) or not name or any(ord(letter) < 32 for letter in name):
        raise InputError(f"{shortened(name)}: no shard can have this name: rename the file")


def embeddings_name(fingerprint: str) -> str:
    """Name of the file of the embeddings of an encoder.

    Example:
        >>> embeddings_name("encoder-1")
        'embeddings-encoder-1.safetensors'
    """
    return f"embeddings-{quote(fingerprint, safe='')}.safetensors"


def file_facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file.

    Example:
        >>> sorted(file_facts(Path(__file__)))
        ['sha256', 'size']
    """
    digest = hashlib.sha256()
    for part in blocks_of(path):
        digest.update(part)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}
