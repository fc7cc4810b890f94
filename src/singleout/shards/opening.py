"""Opening and checking of prepared corpora."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from singleout.data.clips import Clips
from singleout.data.columns import Texts
from singleout.data.embeddings import EmbeddingTable, cache_folder
from singleout.data.manifest import SPLIT_NAMES
from singleout.documents import DocumentError, parse_json
from singleout.errors import InputError, ManifestError, ModelError, one_line, shortened
from singleout.progress import track
from singleout.shards.corpus import (
    DESCRIPTION,
    INDEX,
    Crops,
    check_shard_name,
    embeddings_name,
    file_facts,
)
from singleout.shards.index import map_index
from singleout.shards.writing import FORMAT, check_sidecars
from singleout.storage.locations import Location

MAX_NAMED = 3
"""Most shards that a message names."""
PREPARED = re.compile(r"shards/([^/]+)\.tar")
"""Matches the names of shards that have sidecars."""
SHA256 = re.compile("[0-9a-f]{64}")
CROP_SECONDS = ("segment_seconds", "hop_seconds")
READ_BYTES = 1 << 24
"""Bytes that are read at once for a checksum."""
AGAIN = "copy the corpus again, or prepare it again"
"""The way out of damage."""


class PreparedClips(Clips):
    """Clips of a prepared corpus, which may have embeddings of their crops.

    Args:
        corpus: the corpus.
        columns, rows: see ``Clips``.
        has_captions: whether the captions of the corpus are theirs.

    Example:
        >>> corpus = PreparedCorpus(Location("corpus"), Clips.of([]), "0" * 64, {}, {})
        >>> len(corpus.split("train"))
        0
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        columns: Mapping[str, NDArray[Any]],
        rows: NDArray[np.integer[Any]],
        has_captions: bool = True,
    ) -> None:
        super().__init__(columns, rows)
        self.corpus, self.rows, self.has_captions = corpus, rows, has_captions

    def __getstate__(self) -> dict[str, Any]:
        """All that another process of a run needs to find the same embeddings."""
        state = super().__getstate__()
        return {**state, "corpus": self.corpus, "has_captions": self.has_captions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.corpus, self.rows = state["corpus"], state["rows"]
        self.has_captions = state["has_captions"]

    def take(self, indices: NDArray[np.integer[Any]]) -> PreparedClips:
        """The clips of these indices, in this order."""
        return PreparedClips(self.corpus, self._all, self.rows[indices], self.has_captions)

    def without_captions(self) -> PreparedClips:
        """The same clips without captions."""
        none = Texts.of([])
        columns = {
            **self._all,
            "caption.encoded": none.encoded,
            "caption.offsets": none.offsets,
            "caption_first": np.zeros_like(self._all["caption_first"]),
            "has_caption": np.zeros_like(self._all["has_caption"]),
        }
        return PreparedClips(self.corpus, columns, self.rows, has_captions=False)

    def digest(self) -> str:
        """Hash of the clips: of the index of their corpus, and of their numbers in it."""
        content = hashlib.sha256(f"{self.corpus.fingerprint} {self.has_captions}".encode())
        content.update(np.ascontiguousarray(self.rows, np.int64).tobytes())
        return content.hexdigest()

    def embeddings(self, crops: Crops) -> EmbeddingTable | None:
        """Embeddings of the crops of these clips; None if the corpus has none of such crops.

        Raises:
            InputError: their file is missing or damaged.
            ModelError: their file fits not the index.
        """
        if (path := self.corpus.embeddings(crops)) is None:
            return None
        table = EmbeddingTable.open(path)
        if len(table.offsets) != len(self.corpus.clips) + 1:
            raise ModelError(f"{path}: fits not its index: {AGAIN}")
        return table.take(self.rows)


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus of shards.

    Attributes:
        place: its folder.
        clips: all its sounds. Their columns are memory-mapped.
        fingerprint: SHA-256 of its index, which changes with any sound or description.
        settings: how it was made.
        tables: the embedded crops and the facts of their files.
        num_reports: rows of its report.

    Example:
        >>> corpus = PreparedCorpus(Location("corpus"), Clips.of([]), "0" * 64, {}, {})
        >>> corpus.embeddings(Crops("encoder-1", 4.0, 2.0)) is None
        True
    """

    place: Location
    clips: Clips
    fingerprint: str
    settings: Mapping[str, Any]
    tables: Mapping[Crops, Mapping[str, Any]]
    num_reports: int = 0

    def split(self, name: str) -> PreparedClips:
        """The clips of one split."""
        everything = PreparedClips(self, self.clips.columns, np.arange(len(self.clips)))
        return cast(PreparedClips, everything.of_split(name))

    def check_splits(self) -> None:
        """Refuse splits that training would misunderstand, as ``manifest.check_splits`` does.

        Raises:
            ManifestError: the name of a split is nearly ``train`` or ``validation``, or a group is
                in ``train`` and in another split.
        """
        columns = self.clips.columns
        names = Texts(columns["split_name.encoded"], columns["split_name.offsets"])
        for name in names:
            if (expected := SPLIT_NAMES.get(name.strip().lower(), name)) != name:
                raise ManifestError(
                    f"{self.place}: has the split '{shortened(name)}', which training does not "
                    f"know: call it '{expected}' in the manifest, and prepare it again"
                )
        is_trained = np.zeros(len(self.clips), bool)
        is_trained[self.split("train").rows] = True
        groups = self.clips.group_codes
        is_shared = np.isin(groups, groups[is_trained]) & np.isin(groups, groups[~is_trained])
        if is_shared.any():
            first = int(np.flatnonzero(is_shared & is_trained)[0])
            other = int(np.flatnonzero((groups == groups[first]) & ~is_trained)[0])
            trained, scored = self.clips[first], self.clips[other]
            raise ManifestError(
                f"{self.place}: {shortened(trained.path.name)} (train) and "
                f"{shortened(scored.path.name)} ({shortened(scored.split)}) are of one group, "
                f"'{shortened(trained.group)}': training would see sounds that are scored. Give "
                "them one split in the manifest, and prepare it again"
            )

    def embeddings(self, crops: Crops) -> Path | None:
        """The file of the embeddings of these crops; None if the corpus has none.

        The file has the ``embeddings``, float16 [crops, dim], and the ``offsets``, int64
        [clips + 1]. That of an address is copied to the cache folder once.

        Raises:
            InputError: the file is missing or damaged.
        """
        facts = self.tables.get(crops)
        return None if facts is None else _local_file(self.place / facts["name"], facts)


def open_corpus(place: str | Path) -> PreparedCorpus:
    """Open a corpus that ``singleout prepare`` or ``index_shards`` wrote.

    Nothing is read but ``corpus.json``, the names and sizes of the shards, and the index. The
    index of an address is copied to the cache folder once.

    Args:
        place: folder of the corpus, or its address.

    Raises:
        InputError: there is no complete corpus, its index is damaged, or a shard is missing or
            lost its tail.

    Example:
        >>> open_corpus("missing")
        Traceback (most recent call last):
        singleout.errors.InputError: missing: holds no prepared corpus: ...
    """
    folder = Location(place)
    content = _description(folder)
    sizes = {str(shard["name"]): int(shard["size"]) for shard in content["shards"]}
    if faults := list(_wrong_sizes(folder, sizes)):
        named = "; ".join(faults[:MAX_NAMED])
        more = f"; and {len(faults) - MAX_NAMED:,} more" if len(faults) > MAX_NAMED else ""
        raise InputError(f"{named}{more}: {AGAIN}")
    index = _local_file(folder / INDEX, content["index"])
    columns = map_index(index, partial(_place_of, folder), sizes)
    tables = {
        Crops(each["fingerprint"], *(each[key] for key in CROP_SECONDS)): each
        for each in content["embeddings"]
    }
    return PreparedCorpus(
        folder,
        Clips(columns),
        fingerprint=str(content["index"]["sha256"]),
        settings=content["settings"],
        tables=tables,
        num_reports=content["reports"],
    )


def check_corpus(place: str | Path) -> list[str]:
    """Read every byte of a corpus but of its report, and compare it with the checksums.

    Args:
        place: folder of the corpus, or its address.

    Returns:
        What is wrong, one line for each file; empty if nothing is. The sidecars of shards count.

    Raises:
        InputError: there is no complete corpus.

    Example:
        >>> check_corpus("missing")
        Traceback (most recent call last):
        singleout.errors.InputError: missing: holds no prepared corpus: ...
    """
    folder = Location(place)
    content = _description(folder)
    facts = {INDEX: content["index"]}
    facts |= {each["name"]: each for each in (*content["embeddings"], *content["shards"])}
    wrong = []
    for name, each in track(list(facts.items()), "checking"):
        file = Location(_place_of(folder, name))
        checks: list[Callable[[], object]] = [partial(_check_content, file, each)]
        if (match := PREPARED.fullmatch(name)) is not None:
            checks.append(partial(check_sidecars, folder / "shards", match[1]))
        for check in checks:
            try:
                check()
            except InputError as error:
                wrong.append(str(error))
    return wrong


def _description(folder: Location) -> dict[str, Any]:
    """The content of ``corpus.json``."""
    place = folder / DESCRIPTION
    if not place.exists():
        raise InputError(
            f"{folder}: holds no prepared corpus: it has no {DESCRIPTION}, which singleout prepare "
            "writes last: run it to the end"
        )
    try:
        content = parse_json(place.read().decode())
        if content["format"] != FORMAT:
            raise ValueError(f"it is of version {shortened(content['format'])}, not {FORMAT}")
        for facts in (content["index"], *content["embeddings"]):
            _check_facts(facts)
        for facts in content["shards"]:
            _check_facts(facts, needs_checksum=False)  # other people's shards have none
            check_shard_name(facts["name"])
        for facts in content["embeddings"]:
            if not all(isinstance(facts[key], int | float) for key in CROP_SECONDS):
                raise ValueError("a table has no length of its crops")
            if facts["name"] != embeddings_name(facts["fingerprint"]):
                raise ValueError(f"a table cannot be called {shortened(facts['name'])}")
        if not isinstance(content["settings"], dict) or type(content["reports"]) is not int:
            raise ValueError("it has no settings, or no number of reports")
    except (DocumentError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{place}: is damaged: {one_line(error)}: {AGAIN}") from None
    return dict(content)


def _check_facts(facts: Mapping[str, Any], needs_checksum: bool = True) -> None:
    """Refuse what is no size and no checksum. A checksum becomes a name in the cache folder."""
    size, sha256 = facts["size"], facts["sha256"]
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ValueError("a file has no size")
    if sha256 is None and not needs_checksum:
        return
    if not isinstance(sha256, str) or SHA256.fullmatch(sha256) is None:
        raise ValueError("a file has no checksum")


def _place_of(folder: Location, name: str) -> str:
    """Path or address of a file of a corpus."""
    if Location(name).address is not None or posixpath.isabs(name):
        return name
    return str(folder / name)


def _wrong_sizes(folder: Location, sizes: Mapping[str, int]) -> Iterator[str]:
    """Shards that are missing or have another size than they had. Folders are listed once."""
    listed: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        parent, _, base = _place_of(folder, name).rpartition("/")
        if parent not in listed:
            listed[parent] = Location(parent or "/").sizes()
        present = listed[parent].get(base)
        if present is None:
            yield f"{parent}/{base}: no such shard"
        elif present != size:
            yield f"{parent}/{base}: {_other_size(present, size)}"


def _other_size(present: int, size: int) -> str:
    what = "lost its tail" if present < size else "is another file now"
    return f"{what}: it has {present:,} bytes instead of {size:,}"


def _local_file(place: Location, facts: Mapping[str, Any]) -> Path:
    """A file of a corpus, checked. That of an address is in the cache folder, by its checksum."""
    if place.is_local:
        _check_content(place, facts)
        return place.path
    cached = cache_folder() / "corpora" / f"{facts['sha256']}{place.path.suffix}"
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{cached.parent}: cannot be made: {error.strerror}") from None
        place.fetch(cached)
    if file_facts(cached) != {key: facts[key] for key in ("size", "sha256")}:
        cached.unlink()
        raise InputError(f"{place}: is damaged: its checksum is that of another content: {AGAIN}")
    return cached


def _check_content(place: Location, facts: Mapping[str, Any]) -> None:
    """Compare a file with its size and its checksum."""
    if (size := place.size()) != facts["size"]:
        raise InputError(f"{place}: {_other_size(size, facts['size'])}: {AGAIN}")
    if facts["sha256"] is None:
        return
    digest = hashlib.sha256()
    for start in range(0, size, READ_BYTES):
        digest.update(place.read(start, start + READ_BYTES))
    if digest.hexdigest() != facts["sha256"]:
        raise InputError(f"{place}: is damaged: its checksum is that of another content: {AGAIN}")
