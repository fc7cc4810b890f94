"""Clips: the sounds that mixtures are made of, as objects and as columns.

A ``Clip`` is one sound. ``Clips`` is a sequence of them in arrays, one per attribute. So ten
million clips are a few large arrays and no Python objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from mmap import mmap
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from singleout.data.columns import (
    NAMED_COLUMNS,
    PLACE_COLUMNS,
    TEXT_COLUMNS,
    VALUE_COLUMNS,
    ColumnsBuilder,
    Texts,
    concatenated,
    ends_of,
    spread,
    unique_names,
)


@dataclass(frozen=True)
class Member:
    """Place of a sound inside a shard, an uncompressed tar file.

    Attributes:
        shard: path or address of the shard.
        offset, size: first byte and number of bytes of the sound in the shard.
        sample_rate: Hz.
        num_samples: length, in samples per channel.

    Example:
        >>> rain = Member("shards/00000.tar", 512, 64_044, sample_rate=32_000, num_samples=32_000)
        >>> rain.num_samples / rain.sample_rate
        1.0
    """

    shard: str
    offset: int
    size: int
    sample_rate: int
    num_samples: int


@dataclass(frozen=True)
class Clip:
    """One sound.

    Attributes:
        path: absolute path of its audio file.
        seconds: length.
        caption: a description in words; None if there is none.
        alternatives: other descriptions.
        label: its class. Two sounds of one class are never mixed. Without a class it is the path,
            so that the clip only excludes itself.
        group: same recording or near-duplicate; never split between train and test, never mixed.
        split: train, validation or test.
        has_class: whether the manifest names a class.
        member: place of the sound in a shard; None if ``path`` is a file. Then ``path`` is the
            path of the shard and the name of the member in it.

    Example:
        >>> from pathlib import Path
        >>> clip = Clip(Path("rex.wav"), 1.5, "a dog", ("a hound",), "animal/dog", "rex", "train")
        >>> clip.family, clip.captions
        ('animal', ('a dog', 'a hound'))
    """

    path: Path
    seconds: float
    caption: str | None
    alternatives: tuple[str, ...]
    label: str
    group: str
    split: str
    has_class: bool = True
    member: Member | None = None

    @property
    def family(self) -> str:
        """The first part of a class that is written ``family/kind``.

        Sounds of one family are near misses of each other. A clip without a class is a family of
        one.
        """
        return self.label.split("/")[0] if self.has_class else self.label

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption and all alternatives."""
        return (() if self.caption is None else (self.caption,)) + self.alternatives


class Clips(Sequence[Clip]):
    """Clips as columns. They equal any sequence of the same clips.

    A selection of clips, such as a slice, keeps the arrays of all clips and copies none of them.
    Columns that are ``numpy.memmap`` are pickled as the name of their file.

    Args:
        columns: arrays by name, see ``columns.COLUMNS``. They may be memory-mapped.
        rows: which rows of the columns; all by default.

    Example:
        >>> rex = Clip(Path("rex.wav"), 1.5, "a dog", ("a hound",), "animal/dog", "rex", "train")
        >>> clips = Clips.of([rex])
        >>> clips[0] == rex, len(clips), clips.seconds
        (True, 1, array([1.5]))
        >>> clips == [rex]
        True
    """

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]],
        rows: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self._all, self._rows = columns, rows
        self._texts = {
            name: Texts(columns[f"{name}.encoded"], columns[f"{name}.offsets"])
            for name in TEXT_COLUMNS
        }

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Clips:
        """The same clips as columns."""
        if isinstance(clips, Clips):
            return clips
        builder = ColumnsBuilder()
        for clip in clips:
            _add(builder, clip)
        return cls(builder.columns())

    @classmethod
    def joined(cls, parts: Sequence[Clips]) -> Clips:
        """All clips of several sequences, one sequence after the other."""
        columns = [part.columns for part in parts]
        joined: dict[str, NDArray[Any]] = {
            name: concatenated([part[name] for part in columns], dtype)
            for name, dtype in VALUE_COLUMNS.items()
        }
        counts = [np.diff(part["caption_first"]) for part in columns]
        joined["caption_first"] = ends_of(concatenated(counts, np.int64))
        for name in ("path", "caption"):
            joined |= _arrays(name, Texts.joined([_texts_of(part, name) for part in columns]))
        for name in NAMED_COLUMNS:
            names = [_texts_of(part, f"{name}_name") for part in columns]
            first = np.repeat(ends_of([*map(len, names)])[:-1], [*map(len, parts)])
            numbers = np.where(joined[name] < 0, -1, joined[name] + first)
            texts, joined[name] = unique_names(Texts.joined(names), numbers)
            joined |= _arrays(f"{name}_name", texts)
        return cls(joined)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of these clips and of no others. Names that no clip has may be in them."""
        if self._rows is None:
            return dict(self._all)
        columns = {name: self._column(name) for name in VALUE_COLUMNS}
        first = self._all["caption_first"]
        columns["caption_first"] = ends_of(first[self._rows + 1] - first[self._rows])
        texts = self._texts | {
            "path": self.path_names(),
            "caption": self._texts["caption"].take(spread(first, self._rows)),
        }
        for name, column in texts.items():
            columns |= _arrays(name, column)
        return columns

    def __len__(self) -> int:
        return len(self._all["seconds"] if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Clip | Clips:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        index = range(len(self))[index]
        return self._clip(index if self._rows is None else int(self._rows[index]))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(clip == another for clip, another in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Columns and rows. What follows from them is not pickled."""
        columns = {name: _pickled(array) for name, array in self._all.items()}
        return {"columns": columns, "rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns = {name: _unpickled(value) for name, value in state["columns"].items()}
        Clips.__init__(self, columns, state["rows"])

    def take(self, indices: NDArray[np.integer[Any]]) -> Clips:
        """The clips of these indices, in this order."""
        return Clips(self._all, indices if self._rows is None else self._rows[indices])

    def paths(self) -> Iterator[str]:
        """The paths of all clips, as the operating system takes them."""
        roots = [*self._texts["root_name"], ""]  # -1 is the last one
        for name, root in zip(self.path_names(), self._column("root"), strict=True):
            yield os.path.join(roots[root], name)  # noqa: PTH118

    def path_names(self) -> Texts:
        """The column ``path`` of these clips."""
        names = self._texts["path"]
        return names if self._rows is None else names.take(self._rows)

    def names(self, column: str) -> tuple[Texts, NDArray[np.int32]]:
        """The names of a column such as ``split``, and [clips] the number of each clip's name."""
        return self._texts[f"{column}_name"], self._column(column)

    def in_split(self, split: str) -> NDArray[np.int64]:
        """The indices of the clips of a split."""
        names, numbers = self.names("split")
        of_split = [number for number, name in enumerate(names) if name == split]
        return np.flatnonzero(np.isin(numbers, of_split))

    def of_split(self, split: str) -> Clips:
        """The clips of one split, in their order."""
        return self.take(self.in_split(split))

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """[clips], the lengths."""
        return self._column("seconds")

    @cached_property
    def label_codes(self) -> NDArray[np.int32]:
        """[clips], equal for two clips of one label, and only then: 0, 1, …"""
        return self._codes("label")

    @cached_property
    def group_codes(self) -> NDArray[np.int32]:
        """[clips], equal for two clips of one group, and only then: 0, 1, …"""
        return self._codes("group")

    @cached_property
    def family_codes(self) -> NDArray[np.int32]:
        """[clips], equal for two clips of one family, and only then: 0, 1, …"""
        names = self._texts["label_name"]
        families = Texts.of([name.split("/")[0] for name in names])
        labels, has_class = self._column("label"), self._column("has_class")
        numbers = np.where((labels >= 0) & ~has_class, labels + len(names), labels)
        return self._text_codes(Texts.joined([families, names]), numbers)

    def _column(self, name: str) -> NDArray[Any]:
        column = np.asarray(self._all[name])
        return column if self._rows is None else column[self._rows]

    def _codes(self, name: str) -> NDArray[np.int32]:
        return self._text_codes(self._texts[f"{name}_name"], self._column(name))

    def _text_codes(self, names: Texts, numbers: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """Codes of names by their numbers, and of the texts of ``path`` in place of -1."""
        unnamed = np.flatnonzero(numbers < 0)
        rows = unnamed if self._rows is None else self._rows[unnamed]
        codes = Texts.joined([names, self._texts["path"].take(rows)]).codes()
        numbers = numbers.astype(np.int32)
        numbers[unnamed] = np.arange(len(names), len(codes))
        numbers = codes.astype(np.int32)[numbers]
        is_used = np.bincount(numbers, minlength=len(codes)) > 0
        dense: NDArray[np.int32] = (np.cumsum(is_used, dtype=np.int32) - 1)[numbers]
        return dense

    def _clip(self, row: int) -> Clip:
        first, last = self._all["caption_first"][row : row + 2].tolist()
        captions = self._texts["caption"][first:last]
        has_caption = bool(self._all["has_caption"][row])
        name, root = self._texts["path"][row], self._name("root", row)
        label, group = self._name("label", row), self._name("group", row)
        return Clip(
            path=Path(name) if root is None else Path(root, name),
            seconds=float(self._all["seconds"][row]),
            caption=captions[0] if has_caption else None,
            alternatives=tuple(captions[has_caption:]),
            label=name if label is None else label,
            group=name if group is None else group,
            split=self._name("split", row) or "",
            has_class=bool(self._all["has_class"][row]),
            member=self._member(row),
        )

    def _member(self, row: int) -> Member | None:
        shard = self._name("shard", row)
        if shard is None:
            return None
        return Member(shard, *(int(self._all[name][row]) for name in PLACE_COLUMNS))

    def _name(self, column: str, row: int) -> str | None:
        """The name of a row in a column of numbers."""
        number = int(self._all[column][row])
        return None if number < 0 else self._texts[f"{column}_name"][number]


def _texts_of(columns: Mapping[str, NDArray[Any]], name: str) -> Texts:
    return Texts(columns[f"{name}.encoded"], columns[f"{name}.offsets"])


def _arrays(name: str, texts: Texts) -> dict[str, NDArray[Any]]:
    """The arrays of a column of texts."""
    return {f"{name}.encoded": texts.encoded, f"{name}.offsets": texts.offsets}


def _pickled(array: NDArray[Any]) -> Any:
    """An array, or the call that maps its file again."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap) and array.filename:
        return partial(np.memmap, array.filename, array.dtype, "r", array.offset, array.shape)
    return array


def _unpickled(value: Any) -> NDArray[Any]:
    array: NDArray[Any] = value() if isinstance(value, partial) else value
    return array


def _add(builder: ColumnsBuilder, clip: Clip) -> None:
    """Append a clip. If its path ends with its default class or group, the path is cut there."""
    path, member, root = clip.path.as_posix(), clip.member, None
    name = clip.group if clip.has_class else clip.label
    if path.endswith(f"/{name}"):
        folder = path[: -len(name) - 1] or "/"
        if Path(folder, name) == clip.path:
            root, path = folder, name
    builder.add(
        path,
        clip.seconds,
        root=root,
        captions=clip.captions,
        has_caption=clip.caption is not None,
        label=None if clip.label == path and not clip.has_class else clip.label,
        has_class=clip.has_class,
        group=None if clip.group == path else clip.group,
        split=clip.split,
        shard=None if member is None else member.shard,
        place=None
        if member is None
        else (member.offset, member.size, member.sample_rate, member.num_samples),
    )
