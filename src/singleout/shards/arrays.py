"""Named arrays in a safetensors file: written block by block, and memory-mapped.

So neither the writer nor a reader holds an array in memory, however long it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from singleout.documents import DocumentError, parse_json
from singleout.errors import InputError
from singleout.storage.atomic import replacing

MAX_HEADER_BYTES = 1 << 20
"""A longer header is refused."""
DTYPES = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "F16": "<f2", "U8": "u1", "BOOL": "?"}
"""Types of arrays by their names in a header."""
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


class Blocks(NamedTuple):
    """An array that is written block by block.

    Attributes:
        dtype: of the array.
        shape: of the array.
        parts: its bytes, in any number of parts.

    Example:
        >>> Blocks.of(np.zeros((2, 3), np.float16)).shape
        (2, 3)
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Iterable[bytes]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Blocks:
        """The array as one part."""
        return cls(array.dtype, array.shape, [array.tobytes()])


def write_arrays(path: Path, arrays: Mapping[str, Blocks], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. It appears whole or not at all.

    Args:
        path: the file.
        arrays: by name.
        metadata: texts for the header of the file.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "index.safetensors")
        ...     write_arrays(path, {"seconds": Blocks.of(np.array([1.5, 2.0]))}, {"format": "1"})
        ...     map_arrays(path)["seconds"]
        memmap([1.5, 2. ])
    """
    # The widest types come first, so that every array is aligned.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, blocks in ordered:
        begin, end = end, end + math.prod(blocks.shape) * blocks.dtype.itemsize
        header[name] = {
            "dtype": NAMES[blocks.dtype],
            "shape": list(blocks.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, blocks in ordered:
            for part in blocks.parts:
                file.write(part)
        assert file.tell() == 8 + len(encoded) + end, path


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, memory-mapped.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be read, or is no such file, or lost its tail.

    Example:
        >>> map_arrays(Path(__file__))
        Traceback (most recent call last):
        singleout.errors.InputError: ...arrays.py: is damaged: its header has ...
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size):
                raise ValueError(f"its header has {length:,} bytes")
            header = parse_json(file.read(length).decode())
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        header.pop("__metadata__", None)
        return {name: _mapped(path, 8 + length, size, entry) for name, entry in header.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (DocumentError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise InputError(f"{path}: is damaged: {error}: copy or make it again") from None


def _mapped(path: Path, start: int, size: int, entry: dict[str, Any]) -> NDArray[Any]:
    dtype, shape, (begin, end) = (
        np.dtype(DTYPES[entry["dtype"]]),
        entry["shape"],
        entry["data_offsets"],
    )
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("an array has an impossible place")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError("an array has another size than its shape")
    if start + end > size:
        raise ValueError(f"it lost its tail: it has {size:,} bytes, not {start + end:,}")
    if begin == end:  # nothing can be mapped
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start + begin, tuple(shape))


def blocks_of(path: Path, num_bytes: int = 1 << 24) -> Iterator[bytes]:
    """The content of a file in parts.

    Example:
        >>> next(blocks_of(Path(__file__), 3))
        b'\"\"\"'
    """
    with path.open("rb") as file:
        while part := file.read(num_bytes):
            yield part
