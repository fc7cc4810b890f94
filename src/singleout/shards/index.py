"""The index of a corpus: the columns of its clips, and the embeddings of their crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from singleout.data.columns import (
    NAMED_COLUMNS,
    PLACE_COLUMNS,
    TEXT_COLUMNS,
    VALUE_COLUMNS,
    Texts,
)
from singleout.data.manifest_rows import MAX_SECONDS
from singleout.errors import InputError, shortened
from singleout.shards.arrays import Blocks, blocks_of, map_arrays, write_arrays


class IndexWriter:
    """Collects clips in temporary files, and writes them as an index; a context manager.

    Args:
        folder: for temporary files.

    Example:
        >>> import tempfile
        >>> from singleout.data.clips import Clips
        >>> from singleout.data.columns import ColumnsBuilder
        >>> builder = ColumnsBuilder()
        >>> builder.add("rain.wav", 2.0, split="test")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with IndexWriter(Path(folder)) as index:
        ...         index.add(builder.columns())
        ...         index.write(Path(folder) / "index.safetensors")
        ...     Clips(map_index(Path(folder) / "index.safetensors"))[0].label
        'rain.wav'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._names: dict[str, dict[str, int]] = {name: {} for name in NAMED_COLUMNS}
        self._opened = ExitStack()
        self.num_crops, self.dim = 0, 0

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def add(
        self,
        columns: Mapping[str, NDArray[Any]],
        crops: Sequence[int] = (),
        embeddings: NDArray[np.float16] | None = None,
    ) -> None:
        """Append clips.

        Args:
            columns: see ``data.columns.COLUMNS``.
            crops: number of embedded crops of each clip.
            embeddings: float16 [crops, dim].
        """
        for name in VALUE_COLUMNS:
            values = columns[name]
            if name in NAMED_COLUMNS:
                values = self._renumbered(name, columns)
            self._append(name, values)
        for name in ("path", "caption"):
            self._append(f"{name}.bytes", np.diff(columns[f"{name}.offsets"]))
            self._append(f"{name}.encoded", columns[f"{name}.encoded"])
        self._append("caption.count", np.diff(columns["caption_first"]))
        if embeddings is not None:
            self.num_crops, self.dim = self.num_crops + len(embeddings), embeddings.shape[1]
            self._append("crops", np.array(crops, np.int64))
            self._append("embeddings", np.ascontiguousarray(embeddings, np.float16))

    def write(self, path: Path) -> None:
        """Write the columns of all clips."""
        arrays = {name: self._blocks(name, dtype) for name, dtype in VALUE_COLUMNS.items()}
        arrays["caption_first"] = self._offsets("caption.count")
        for name in ("path", "caption"):
            arrays[f"{name}.offsets"] = self._offsets(f"{name}.bytes")
            arrays[f"{name}.encoded"] = self._blocks(f"{name}.encoded", np.uint8)
        for name, numbers in self._names.items():
            texts = Texts.of(numbers)
            arrays[f"{name}_name.encoded"] = Blocks.of(texts.encoded)
            arrays[f"{name}_name.offsets"] = Blocks.of(texts.offsets)
        write_arrays(path, arrays, {"format": "1"})

    def write_embeddings(self, path: Path) -> None:
        """Write the embeddings of all crops, and the number of the first crop of every clip."""
        shape = (self.num_crops, self.dim)
        embeddings = self._blocks("embeddings", np.float16)._replace(shape=shape)
        arrays = {"embeddings": embeddings, "offsets": self._offsets("crops")}
        write_arrays(path, arrays, {"format": "1"})

    def _renumbered(self, name: str, columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Numbers of the names of all clips, from those of the names of some."""
        texts = Texts(columns[f"{name}_name.encoded"], columns[f"{name}_name.offsets"])
        names = self._names[name]
        numbers = [names.setdefault(text, len(names)) for text in texts]
        numbers.append(-1)  # where the number -1 finds it
        renumbered: NDArray[np.int32] = np.array(numbers, np.int32)[columns[name]]
        return renumbered

    def _append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._files:
            file = (self._folder / name).open("wb")
            self._files[name] = self._opened.enter_context(file)
        self._files[name].write(values.tobytes())

    def _blocks(self, name: str, dtype: type[np.generic]) -> Blocks:
        """A temporary column."""
        if name not in self._files:
            return Blocks.of(np.zeros(0, dtype))
        self._files[name].flush()
        path = self._folder / name
        count = path.stat().st_size // np.dtype(dtype).itemsize
        return Blocks(np.dtype(dtype), (count,), blocks_of(path))

    def _offsets(self, name: str) -> Blocks:
        """The running sum of a temporary column, from 0."""
        counts = self._blocks(name, np.int64)
        return Blocks(counts.dtype, (counts.shape[0] + 1,), _running_sums(counts.parts))


def _running_sums(parts: Any) -> Iterator[bytes]:
    total = np.zeros(1, np.int64)
    yield total.tobytes()
    for part in parts:
        sums = total + np.cumsum(np.frombuffer(part, np.int64))
        total = sums[-1:]
        yield sums.tobytes()


def map_index(
    path: Path, place_of: Callable[[str], str] = str, sizes: Mapping[str, int] | None = None
) -> dict[str, NDArray[Any]]:
    """The columns of an index, memory-mapped and checked.

    Args:
        path: file of ``IndexWriter.write``.
        place_of: from the name of a shard in the index to its path or address.
        sizes: bytes of the shards, by their names in the index; None checks no sizes.

    Raises:
        InputError: the file cannot be read, is damaged, or has impossible values.

    Example:
        >>> map_index(Path("missing.safetensors"))
        Traceback (most recent call last):
        singleout.errors.InputError: missing.safetensors: cannot be read: No such file or directory
    """
    columns = map_arrays(path)
    try:
        _check(columns)
        if sizes is not None:
            _check_places(columns, sizes)
    except (KeyError, ValueError) as error:
        reason = f"the column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: is damaged: {reason}: copy or make it again") from None
    for name in ("root", "shard"):
        places = Texts.of(place_of(text) for text in _names(columns, name))
        columns |= {f"{name}_name.encoded": places.encoded, f"{name}_name.offsets": places.offsets}
    return columns


def _names(columns: Mapping[str, NDArray[Any]], name: str) -> Texts:
    return Texts(columns[f"{name}_name.encoded"], columns[f"{name}_name.offsets"])


def _check(columns: Mapping[str, NDArray[Any]]) -> None:
    """Refuse columns of other lengths or types, or with numbers of nothing."""
    count = columns["seconds"].size
    for name, dtype in VALUE_COLUMNS.items():
        if columns[name].shape != (count,) or columns[name].dtype != dtype:
            raise ValueError(f"the column {name} is {columns[name].dtype} {columns[name].shape}")
    for name in TEXT_COLUMNS:
        encoded = columns[f"{name}.encoded"]
        if encoded.ndim != 1 or encoded.dtype != np.uint8:
            raise ValueError(f"the column {name}.encoded is {encoded.dtype} {encoded.shape}")
        _check_offsets(f"{name}.offsets", columns[f"{name}.offsets"], len(encoded))
    _check_offsets("caption_first", columns["caption_first"], len(columns["caption.offsets"]) - 1)
    for name in ("path.offsets", "caption_first"):
        if len(columns[name]) != count + 1:
            raise ValueError(f"the column {name} has not one value for each of {count:,} clips")
    for name in NAMED_COLUMNS:
        most = len(columns[f"{name}_name.offsets"]) - 1
        numbers = columns[name]
        if count and not (numbers.min() >= -1 and numbers.max() < most):
            raise ValueError(f"the column {name} has numbers of no name")
    if not ((columns["seconds"] > 0) & (columns["seconds"] <= MAX_SECONDS)).all():
        raise ValueError(f"a length is not above 0, or above {MAX_SECONDS:,} s")
    if (columns["has_caption"] & (np.diff(columns["caption_first"]) == 0)).any():
        raise ValueError("a clip lacks its caption")


def _check_offsets(name: str, offsets: NDArray[Any], end: int) -> None:
    is_list = offsets.ndim == 1 and offsets.dtype == np.int64 and len(offsets) > 0
    if not is_list or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets {name} do not ascend from 0 to {end:,}")


def _check_places(columns: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> None:
    """Refuse members that are not inside their shards."""
    names = _names(columns, "shard")
    if unknown := [name for name in names if name not in sizes]:
        raise ValueError(f"the shard {shortened(unknown[0])} is not in the description")
    limits = np.array([sizes[name] for name in names], np.int64)
    if any((columns[name] <= 0).any() for name in PLACE_COLUMNS) or (columns["shard"] < 0).any():
        raise ValueError("a clip has no place in a shard")
    if len(limits) and (columns["size"] > limits[columns["shard"]] - columns["offset"]).any():
        raise ValueError("a clip lies behind the end of its shard")
