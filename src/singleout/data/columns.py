"""Columns: arrays that hold one attribute of very many clips, and texts in two arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

TEXT_COLUMNS = (
    "path", "root_name", "caption", "label_name", "group_name", "split_name", "shard_name",
)  # fmt: skip
"""Columns of texts: two arrays each, ``NAME.encoded`` and ``NAME.offsets``, see ``Texts``."""
NAMED_COLUMNS = ("root", "label", "group", "split", "shard")
"""Columns of numbers of the texts in the column ``NAME_name``; -1 is none of them."""
PLACE_COLUMNS = ("offset", "size", "sample_rate", "num_samples")
"""Columns of the place of a sound in its shard; 0 without a shard."""
VALUE_COLUMNS: dict[str, type[np.generic]] = {
    **dict.fromkeys(NAMED_COLUMNS, np.int32),
    "seconds": np.float64,
    "has_caption": np.bool_,
    "has_class": np.bool_,
    **dict.fromkeys(PLACE_COLUMNS, np.int64),
}
"""Columns of one value per clip, and their types."""
COLUMNS = (*TEXT_COLUMNS, *VALUE_COLUMNS, "caption_first")
"""Names of all columns.

A ``path`` begins at the folder ``root``, and nowhere if that is -1. A ``label`` or ``group`` of -1
is the text in the column ``path``, and a clip with a class has a label. A ``shard`` of -1 is none.
``caption_first`` is int64 [clips + 1]: the captions of clip i are the texts from
``caption_first[i]`` to ``caption_first[i + 1]`` of ``caption``. ``has_caption`` tells whether the
first of them is the caption of the clip. If not, it is an alternative, as the others are."""

BLOCK_TEXTS = 1 << 14
BLOCK_BYTES = 1 << 18
"""Most texts, and most bytes of several texts, that are handled at once. They bound the memory."""
MAX_REMEMBERED = 1 << 16
"""Names that are remembered while clips are collected."""
HASH_BASE = 0x9E3779B97F4A7C15
"""An odd number without pattern: the golden ratio times 2**64."""


def ends_of(lengths: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[np.int64]:
    """Offsets [parts + 1] of parts of these lengths, one after the other.

    Example:
        >>> ends_of([3, 4])
        array([0, 3, 7])
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def spread(offsets: NDArray[np.int64], parts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Indices of all elements of some parts.

    Args:
        offsets: [all parts + 1], see ``ends_of``.
        parts: numbers of parts.

    Example:
        >>> spread(np.array([0, 3, 7]), np.array([1, 0]))
        array([3, 4, 5, 6, 0, 1, 2])
    """
    first = offsets[parts]
    lengths = offsets[parts + 1] - first
    ends = ends_of(lengths)
    shifts: NDArray[np.int64] = np.repeat(first - ends[:-1], lengths)
    return np.arange(ends[-1]) + shifts


def blocks_of(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last part (exclusive) of blocks of parts.

    Args:
        offsets: [parts + 1], see ``ends_of``.

    Example:
        >>> list(blocks_of(np.array([0, 3, 7])))
        [(0, 2)]
    """
    first, count = 0, len(offsets) - 1
    while first < count:
        fitting = int(np.searchsorted(offsets, offsets[first] + BLOCK_BYTES, side="right")) - 1
        last = max(first + 1, min(fitting, first + BLOCK_TEXTS))
        yield first, last
        first = last


def concatenated(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """All parts as one new array; an empty one without parts.

    Example:
        >>> concatenated([], np.float64)
        array([], dtype=float64)
    """
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype)


class Texts(Sequence[str]):
    """Texts as two arrays.

    Args:
        encoded: uint8 [bytes], all texts in UTF-8, one after the other.
        offsets: int64 [texts + 1], first byte of each text, and the number of bytes.

    Example:
        >>> texts = Texts.of(["dog", "rain"])
        >>> texts[1], len(texts), texts.offsets
        ('rain', 2, array([0, 3, 7]))
        >>> Texts.of(["b", "a", "b"]).codes()
        array([0, 1, 0])
    """

    def __init__(self, encoded: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        # Parts of a plain array are made faster than those of a ``numpy.memmap``.
        self.encoded, self.offsets = np.asarray(encoded), np.asarray(offsets)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Make the arrays from texts."""
        builder = TextsBuilder()
        for text in texts:
            builder.add(text)
        return builder.texts()

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of all parts, one part after the other."""
        lengths = concatenated([np.diff(part.offsets) for part in parts], np.int64)
        encoded = [part.encoded[part.offsets[0] : part.offsets[-1]] for part in parts]
        return cls(concatenated(encoded, np.uint8), ends_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.bytes_of(range(len(self))[index]).decode(errors="surrogateescape")

    def bytes_of(self, index: int) -> bytes:
        """A text in UTF-8."""
        return self.encoded[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[str]:
        for first, last in blocks_of(self.offsets):
            offsets = self.offsets[first : last + 1]
            block = self.encoded[offsets[0] : offsets[-1]].tobytes()
            for start, stop in pairwise((offsets - offsets[0]).tolist()):
                yield block[start:stop].decode(errors="surrogateescape")

    def take(self, indices: NDArray[np.integer[Any]]) -> Texts:
        """The texts of these indices, in this order."""
        ends = ends_of(self.offsets[indices + 1] - self.offsets[indices])
        encoded = np.empty(ends[-1], np.uint8)
        for first, last in blocks_of(ends):
            encoded[ends[first] : ends[last]] = self.encoded[
                spread(self.offsets, indices[first:last])
            ]
        return Texts(encoded, ends)

    def codes(self) -> NDArray[np.int64]:
        """[texts], equal for two equal texts, and only then: 0, 1, … by their first places."""
        hashes = self._hashes()
        order = np.argsort(hashes)
        is_repeated = np.diff(hashes[order]) == 0
        suspects = np.union1d(order[1:][is_repeated], order[:-1][is_repeated])
        first = np.arange(len(self))
        known: dict[bytes, int] = {}
        for index in suspects.tolist():  # equal hashes are no proof
            first[index] = known.setdefault(self.bytes_of(index), index)
        return (np.cumsum(first == np.arange(len(self))) - 1)[first]

    def _hashes(self) -> NDArray[np.uint64]:
        """[texts], a polynomial of the bytes of each text, modulo 2**64.

        The sum over the bytes runs on from text to text. The inverse of the power at the start of
        a text makes its hash independent of its place.
        """
        hashes = np.zeros(len(self), np.uint64)
        for first, last in blocks_of(self.offsets):
            offsets = self.offsets[first : last + 1]
            values = self.encoded[offsets[0] : offsets[-1]] + np.uint64(1)
            sums = np.zeros(len(values) + 1, np.uint64)
            np.cumsum(values * powers(HASH_BASE, len(values)), out=sums[1:])
            offsets = offsets - offsets[0]
            inverse = powers(pow(HASH_BASE, -1, 1 << 64), len(sums))
            hashes[first:last] = np.diff(sums[offsets]) * inverse[offsets[:-1]]
        return hashes


def powers(base: int, count: int) -> NDArray[np.uint64]:
    """The first ``count`` powers of a number modulo 2**64.

    Example:
        >>> powers(3, 4)
        array([ 1,  3,  9, 27], dtype=uint64)
    """
    return _powers(base, 1 << max(count - 1, 0).bit_length())[:count]


@cache
def _powers(base: int, count: int) -> NDArray[np.uint64]:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


class TextsBuilder:
    """Collects texts in little memory.

    Example:
        >>> builder = TextsBuilder()
        >>> builder.add("dog")
        >>> list(builder.texts())
        ['dog']
    """

    def __init__(self) -> None:
        self._encoded, self._offsets = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, text: str) -> None:
        """Append a text."""
        self._encoded += text.encode(errors="surrogateescape")
        self._offsets.append(len(self._encoded))

    def texts(self) -> Texts:
        """All texts. No text can be added after this."""
        return Texts(np.frombuffer(self._encoded, np.uint8), np.frombuffer(self._offsets, np.int64))


class NamesBuilder:
    """Collects names that clips share, and gives each name a number.

    The names that came last are remembered. A name that comes again later gets another number at
    first, so that very many names need little memory.

    Example:
        >>> builder = NamesBuilder()
        >>> [builder.number(name) for name in ("dog", "rain", "dog")]
        [0, 1, 0]
    """

    def __init__(self) -> None:
        self._texts = TextsBuilder()
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a name, for now."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) == MAX_REMEMBERED:
                self._numbers.clear()
            number = self._numbers[name] = len(self._texts)
            self._texts.add(name)
        return number

    def unique(self, numbers: NDArray[np.int32]) -> tuple[Texts, NDArray[np.int32]]:
        """The names without repetitions, and their numbers in place of the first ones."""
        texts = self._texts.texts()
        if len(texts) == len(self._numbers):
            return texts, numbers
        return unique_names(texts, numbers)


def unique_names(names: Texts, numbers: NDArray[np.int32]) -> tuple[Texts, NDArray[np.int32]]:
    """Names without repetitions, and their numbers.

    Args:
        names: may have equal ones.
        numbers: of the names; -1 stays.

    Example:
        >>> names, numbers = unique_names(Texts.of(["b", "a", "b"]), np.array([2, -1, 1]))
        >>> list(names), numbers
        (['b', 'a'], array([ 0, -1,  1], dtype=int32))
    """
    codes = names.codes()
    first = np.unique(codes, return_index=True)[1]
    return names.take(first), np.append(codes, -1).astype(np.int32)[numbers]


class ColumnsBuilder:
    """Collects the columns of clips, clip by clip, in little memory.

    Example:
        >>> builder = ColumnsBuilder()
        >>> builder.add("dogs/rex.wav", 1.5, root="/sounds", captions=["a dog"], has_caption=True)
        >>> columns = builder.columns()
        >>> columns["seconds"], columns["label"], columns["shard"]
        (array([1.5]), array([-1], dtype=int32), array([-1], dtype=int32))
    """

    def __init__(self) -> None:
        self._texts = {name: TextsBuilder() for name in ("path", "caption")}
        self._values: dict[str, array[Any]] = {
            name: array({np.bool_: "b", np.int32: "i", np.int64: "q", np.float64: "d"}[dtype])
            for name, dtype in VALUE_COLUMNS.items()
        }
        self._names = [(NamesBuilder(), self._values[name]) for name in NAMED_COLUMNS]
        self._caption_first = array("q", [0])

    def add(
        self,
        path: str,
        seconds: float,
        *,
        root: str | None = None,
        captions: Sequence[str] = (),
        has_caption: bool = False,
        label: str | None = None,
        has_class: bool = False,
        group: str | None = None,
        split: str = "train",
        shard: str | None = None,
        place: tuple[int, int, int, int] | None = None,
    ) -> None:
        """Append a clip.

        Args:
            path, seconds, captions, has_caption, has_class: see ``COLUMNS``.
            root, label, group, split, shard: the names; None is -1.
            place: values of ``PLACE_COLUMNS``, with a shard only.
        """
        self._texts["path"].add(path)
        for caption in captions:
            self._texts["caption"].add(caption)
        self._caption_first.append(len(self._texts["caption"]))
        shared = (root, label, group, split, shard)
        for name, (names, numbers) in zip(shared, self._names, strict=True):
            numbers.append(-1 if name is None else names.number(name))
        self._values["seconds"].append(seconds)
        self._values["has_caption"].append(has_caption)
        self._values["has_class"].append(has_class)
        if place is not None:
            for column, value in zip(PLACE_COLUMNS, place, strict=True):
                self._values[column].append(value)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns. No clip can be added after this."""
        columns: dict[str, NDArray[Any]] = {
            name: np.frombuffer(values, VALUE_COLUMNS[name])
            for name, values in self._values.items()
        }
        columns["caption_first"] = np.frombuffer(self._caption_first, np.int64)
        for name in PLACE_COLUMNS:
            places = np.zeros(len(columns["seconds"]), np.int64)
            places[columns["shard"] >= 0] = columns[name]
            columns[name] = places
        texts = {name: builder.texts() for name, builder in self._texts.items()}
        for name, (names, _) in zip(NAMED_COLUMNS, self._names, strict=True):
            texts[f"{name}_name"], columns[name] = names.unique(columns[name])
        for name, column in texts.items():
            columns |= {f"{name}.encoded": column.encoded, f"{name}.offsets": column.offsets}
        return columns
