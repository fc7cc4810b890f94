"""Clips: the sounds that mixtures are made of, as objects and as columns.

A ``Clip`` is one sound. ``Clips`` is a sequence of them in arrays, one per attribute. So ten
million clips are a few large arrays and no Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


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


class Texts(Sequence[str]):
    """Texts as two arrays.

    Args:
        encoded: uint8 [bytes], all texts in UTF-8, one after the other.
        offsets: int64 [texts + 1], first byte of each text, and the number of bytes.

    Example:
        >>> texts = Texts.of(["dog", "rain"])
        >>> texts[1], len(texts), texts.offsets
        ('rain', 2, array([0, 3, 7]))
    """

    def __init__(self, encoded: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.encoded, self.offsets = encoded, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Make the arrays from texts."""
        parts = [text.encode(errors="surrogateescape") for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = self.encoded[self.offsets[index] : self.offsets[index + 1]]
        return part.tobytes().decode(errors="surrogateescape")


COLUMNS = (
    "path", "seconds", "caption", "caption_first", "has_caption", "label", "label_name", "group",
    "group_name", "split", "split_name", "shard", "shard_name", "offset", "size", "sample_rate",
    "num_samples",
)  # fmt: skip
"""Names of the columns. A column of texts is two arrays, ``NAME.encoded`` and ``NAME.offsets``.

``label``, ``group``, ``split`` and ``shard`` are numbers of names. A label or group of -1 is the
clip's own path; a shard of -1 is none."""


class Clips(Sequence[Clip]):
    """Clips as columns.

    Args:
        columns: arrays by name, see ``COLUMNS``. They may be memory-mapped.

    Example:
        >>> rex = Clip(Path("rex.wav"), 1.5, "a dog", ("a hound",), "animal/dog", "rex", "train")
        >>> clips = Clips.of([rex])
        >>> clips[0] == rex, len(clips), clips.seconds
        (True, 1, array([1.5]))
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.columns = dict(columns)

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Clips:
        """The same clips as columns."""
        if isinstance(clips, Clips):
            return clips
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.seconds)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Clip | Clips:
        raise NotImplementedError

    def take(self, indices: NDArray[np.int64]) -> Clips:
        """The clips of these indices, in this order."""
        raise NotImplementedError

    @property
    def seconds(self) -> NDArray[np.float64]:
        """[clips], the lengths."""
        return self.columns["seconds"]

    @cached_property
    def label_codes(self) -> NDArray[np.int64]:
        """[clips], equal for two clips of one label, and only then."""
        raise NotImplementedError

    @cached_property
    def group_codes(self) -> NDArray[np.int64]:
        """[clips], equal for two clips of one group, and only then."""
        raise NotImplementedError
