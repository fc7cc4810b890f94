"""A corpus as its tables list it, held against the files of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from singleout.corpora.entries import Entry, origin_address
from singleout.corpora.files import CorpusFiles, is_sound
from singleout.corpora.lengths import in_threads, length_or_reason
from singleout.corpora.registry import ReadOptions, find_published
from singleout.errors import ManifestError, QueryError, shortened
from singleout.progress import track
from singleout.types import checked_text

Row = dict[str, Any]
Status = Literal["usable", "missing", "unreadable", "left out"]


@dataclass
class Counts:
    """Numbers of clips of one part of a corpus.

    Attributes:
        published: as its authors state it; None if they do not.
        listed: in the tables of the folder.
        on_disk: that have a file.
        missing: without a file.
        unreadable: whose file is empty, or no sound.
        left_out: that must not be used, such as a training clip that is also in a test set.
        usable: all others.

    Example:
        >>> Counts(published=975, listed=975, missing=975).usable
        0
    """

    published: int | None = None
    listed: int = 0
    on_disk: int = 0
    missing: int = 0
    unreadable: int = 0
    left_out: int = 0
    usable: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of one clip of a corpus.

    Attributes:
        entry: what the tables say.
        status: whether the clip can be used, and why not.
        path: absolute path of its file; None if there is none.
        seconds: its length, if it is usable.
        reason: why it is not usable.

    Example:
        >>> rain = Entry("train", "train", "rain", "rain.wav", group="freesound/17")
        >>> Outcome(rain, "usable", "/data/rain.wav", seconds=4.5).row()
        {'path': '/data/rain.wav', 'seconds': 4.5, 'group': 'freesound/17', 'split': 'train'}
    """

    entry: Entry
    status: Status
    path: str | None
    seconds: float = 0.0
    reason: str = ""

    def row(self) -> Row:
        """The row of a manifest; keys without a value are left out."""
        entry = self.entry
        origin = {key: value for key, value in entry.origin.items() if value not in (None, "")}
        values: Row = {
            "caption": entry.caption,
            "alternatives": list(entry.alternatives),
            "class": entry.label,
            "group": entry.group,
            "split": entry.split,
            "license": entry.license,
            "origin": origin,
        }
        row: Row = {"path": self.path, "seconds": self.seconds}
        return row | {key: value for key, value in values.items() if value}

    def problem(self) -> Row:
        """Why the clip is not usable, and where its recording is."""
        entry = self.entry
        row: Row = {"part": entry.part, "name": entry.name, "status": self.status}
        row |= {"reason": self.reason, "address": origin_address(entry.group), "path": self.path}
        return {key: value for key, value in row.items() if value}


@dataclass
class Corpus:
    """The clips of a corpus.

    Attributes:
        name: of the corpus.
        version: whose published counts are nearest to those of the tables; empty if there is one
            version without a name.
        rows: of the manifest, with absolute paths.
        problems: one for each clip that is not in ``rows``: part, name, status, reason, address.
        counts: by part.
        notes: what else the user should know, one line each.

    Example:
        >>> Corpus("esc50", "2").rows
        []
    """

    name: str
    version: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Row] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_corpus(name: str, folder: str | Path, options: ReadOptions | None = None) -> Corpus:
    """Read a downloaded corpus into memory.

    Files that the tables name and the folder lacks are no error: a copy of a corpus from YouTube
    is never complete. For a large corpus, ``CorpusReader`` gives the clips one by one.

    Args:
        name: of the corpus (``CORPORA``), or ``folder`` or ``huggingface``.
        folder: of the corpus.
        options: of ``folder`` and ``huggingface``, and whether classes become captions.

    Raises:
        ConfigError: the name is unknown, or the options do not fit it.
        ManifestError: a table is missing or of another form, or no clip is usable.
        MissingExtraError: a Parquet or Arrow file is read, and pyarrow is not installed.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/dog_barking.wav", np.zeros(4_000), 8_000)
        ...     corpus = read_corpus("folder", folder)
        >>> [(row["caption"], row["seconds"]) for row in corpus.rows]
        [('dog barking', 0.5)]
    """
    reader = CorpusReader(name, Path(folder), options)
    corpus = Corpus(name, reader.version)
    for outcome in reader.outcomes():
        if outcome.status == "usable":
            corpus.rows.append(outcome.row())
        else:
            corpus.problems.append(outcome.problem())
    corpus.counts, corpus.notes = reader.counts, reader.notes()
    reader.check_usable()
    return corpus


class CorpusReader:
    """Reads a corpus clip by clip, in memory that grows with the names of its files alone.

    Args:
        name: see ``read_corpus``.
        folder: see ``read_corpus``.
        options: see ``read_corpus``.

    Attributes:
        counts: by part; complete after the last clip.
        version: see ``Corpus``.

    Raises:
        ConfigError, ManifestError, MissingExtraError: see ``read_corpus``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "empty.wav").touch()
        ...     [outcome] = CorpusReader("folder", Path(folder)).outcomes()
        >>> outcome.status, outcome.reason
        ('unreadable', 'is empty (0 bytes)')
    """

    def __init__(self, name: str, folder: Path, options: ReadOptions | None = None) -> None:
        self.name, self._options = name, options or ReadOptions()
        self.published = find_published(name, self._options)
        self.files = CorpusFiles(folder, self.published.source)
        listed: Counter[str] = Counter()
        self._scored: set[str] = set()
        for entry in track(self.published.entries(self.files), f"listing {name}"):
            listed[entry.part] += 1
            if entry.split != "train" and entry.group:
                self._scored.add(entry.group)
        self.version = self.published.version_of(listed)
        stated = self.published.versions.get(self.version, {})
        self.counts = {
            part: Counts(stated.get(part), listed[part])
            for part in dict.fromkeys([*stated, *listed])
        }
        self._num_foreign = self._num_long_texts = 0

    def outcomes(self) -> Iterator[Outcome]:
        """The clips in the order of the tables. The headers of the files are read in threads.

        A recording whose group is in a validation or test set is left out of training. So is a
        clip that the tables list twice.
        """
        total = sum(counts.listed for counts in self.counts.values())
        for entry, length in track(
            in_threads(self._length, self._marked()), f"reading {self.name}", total
        ):
            outcome = self._outcome(entry, length)
            counts = self.counts.setdefault(entry.part, Counts())
            counts.on_disk += outcome.path is not None
            counts.missing += outcome.status == "missing"
            counts.unreadable += outcome.status == "unreadable"
            counts.left_out += outcome.status == "left out"
            counts.usable += outcome.status == "usable"
            self._num_foreign += outcome.status == "usable" and not is_sound(outcome.path or "")
            yield outcome

    def _marked(self) -> Iterator[Entry]:
        """The entries, with the reason for those that are left out."""
        taken: set[str] = set()
        for entry in self.published.entries(self.files):
            key = entry.path or entry.name
            if entry.left_out is None and entry.split == "train" and entry.group in self._scored:
                reason = f"its recording {entry.group} is in a validation or test set"
                entry = replace(entry, left_out=reason)
            elif entry.left_out is None and key in taken:
                reason = "the tables list it twice, or its file is that of another clip"
                entry = replace(entry, left_out=reason)
            if entry.left_out is None:
                taken.add(key)
            yield self._with_texts(entry)

    def _with_texts(self, entry: Entry) -> Entry:
        """The entry without texts that cannot be queries, with its class as caption if need be."""
        texts = [text for text in (entry.caption, *entry.alternatives) if text]
        usable = [text for text in texts if _is_query(text)]
        self._num_long_texts += len(texts) - len(usable)
        if not usable and self._options.class_captions and entry.label:
            usable = [entry.label.rpartition("/")[2].replace("_", " ")]
        if usable == [entry.caption, *entry.alternatives]:
            return entry
        caption = usable[0] if usable else None
        return replace(entry, caption=caption, alternatives=tuple(usable[1:]))

    def _length(self, entry: Entry) -> float | str:
        if entry.left_out is not None or entry.path is None:
            return 0.0
        return length_or_reason(self.files.absolute(entry.path))

    def _outcome(self, entry: Entry, length: float | str) -> Outcome:
        path = None if entry.path is None else self.files.absolute(entry.path)
        if entry.left_out is not None:
            return Outcome(entry, "left out", path, reason=entry.left_out)
        if path is None:
            return Outcome(entry, "missing", None, reason="the folder has no file for it")
        if isinstance(length, str):
            return Outcome(entry, "unreadable", path, reason=shortened(length, 300))
        return Outcome(entry, "usable", path, length)

    def notes(self) -> list[str]:
        """What the counts mean for the user; complete after the last clip."""
        notes = list(self.files.problems[:10])
        if len(self.files.problems) > len(notes):
            notes.append(f"{len(self.files.problems) - len(notes):,} more files like these")
        for part, counts in self.counts.items():
            if counts.published not in (None, counts.listed):
                notes.append(
                    f"{part}: the tables list {counts.listed:,} clips, and {counts.published:,} "
                    "are published"
                )
        num_missing = sum(counts.missing for counts in self.counts.values())
        if num_missing and self.published.advice:
            notes.append(f"{num_missing:,} clips are missing: {self.published.advice}")
        if num_missing and self.files.archives:
            first, number = self.files.archives[0], len(self.files.archives)
            notes.append(f"{number:,} archives are in the folder, such as {first}: unpack them")
        if self._num_foreign:
            notes.append(
                f"{self._num_foreign:,} files are read by FFmpeg alone: prepare shards from the "
                "manifest, because training on files needs formats of libsndfile"
            )
        if self._num_long_texts:
            notes.append(f"{self._num_long_texts:,} captions are left out: they are too long")
        return notes

    def check_usable(self) -> None:
        """Refuse a corpus without a usable clip.

        Raises:
            ManifestError: no clip is usable; the message counts the reasons.
        """
        total = Counter[str]()
        for counts in self.counts.values():
            total.update({key: value or 0 for key, value in asdict(counts).items()})
        if total["usable"]:
            return
        if not total["listed"]:
            raise ManifestError(f"{self.files.folder}: holds no recordings")
        way_out = self.published.advice or "check the folder"
        raise ManifestError(
            f"{self.files.folder}: the corpus has no sounds: of {total['listed']:,} clips, "
            f"{total['missing']:,} are missing, {total['unreadable']:,} are unreadable and "
            f"{total['left_out']:,} are left out: {way_out}"
        )


def _is_query(text: str) -> bool:
    try:
        checked_text(text)
    except QueryError:
        return False
    return True
