"""The safetensors format, read with bounds and a checksum.

A file is the length of a header (8 bytes), the header (JSON), and the bytes of the tensors
(https://huggingface.co/docs/safetensors). ``write_safetensors`` puts a SHA-256 of the whole file
into the metadata of the header. It is taken while its own digits are zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from singleout.errors import shortened

MAX_HEADER_BYTES = 16 << 20
"""A longer header is refused. One of 1,000 tensors has about 100,000 bytes."""
MAX_TENSORS = 10_000
"""A file with more tensors is refused."""
CHECKSUM = "singleout_checksum"
"""Key of the checksum in the metadata."""
MARK = b"singleout-sha256:"
"""Before the digits of the checksum: tells a damaged key from a file without a checksum."""
NO_DIGEST = b"0" * 64

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""Types of tensors by their names in a header."""


class _Entry(NamedTuple):
    begin: int
    end: int
    name: str
    dtype: torch.dtype
    shape: list[int]


def read_checked(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of an open safetensors file.

    Args:
        file: at its start.

    Returns:
        The tensors, each in its own memory, and the metadata without the checksum.

    Raises:
        ValueError: the file is damaged or exceeds a bound; the message says how.

    Example:
        >>> import io
        >>> header = b'{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}'
        >>> read_checked(io.BytesIO(len(header).to_bytes(8, "little") + header + bytes([3, 4])))
        ({'a': tensor([3, 4], dtype=torch.int8)}, {})
    """
    size = file.seek(0, os.SEEK_END)
    raw, header, metadata = _header(file, size)
    entries = _entries(header, size - 8 - len(raw))
    checksum = _checksum(raw, metadata.pop(CHECKSUM, None))
    digest = hashlib.sha256(len(raw).to_bytes(8, "little"))
    if checksum is not None:
        digest.update(raw.replace(checksum, NO_DIGEST))
    tensors = {}
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if entry.end > entry.begin:
            content = tensor.reshape(-1).view(torch.uint8).numpy().data
            if file.readinto(content) < len(content):  # type: ignore[attr-defined]
                raise ValueError("it became shorter while it was read")
            if checksum is not None:
                digest.update(content)
        tensors[entry.name] = tensor
    if checksum is not None and checksum != digest.hexdigest().encode():
        raise ValueError("its checksum is that of another content")
    return tensors, metadata


def read_metadata(file: BinaryIO) -> dict[str, str]:
    """Read the metadata alone. The tensors are neither read nor checked.

    Args:
        file: an open safetensors file.

    Raises:
        ValueError: the header is damaged or exceeds a bound; the message says how.

    Example:
        >>> import io
        >>> header = b'{"__metadata__":{"step":"3"}}'
        >>> read_metadata(io.BytesIO(len(header).to_bytes(8, "little") + header))
        {'step': '3'}
    """
    metadata = _header(file, file.seek(0, os.SEEK_END))[2]
    metadata.pop(CHECKSUM, None)
    return metadata


def _header(file: BinaryIO, size: int) -> tuple[bytes, dict[str, Any], dict[str, str]]:
    """The header of a file of ``size`` bytes: as it is, its entries, and its metadata."""
    file.seek(0)
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError("its header is longer than the file or than 16 MiB")
    raw = file.read(header_bytes)
    header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError("its header is not a dictionary")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    return raw, header, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name is twice in its header")
    return content


def _entries(header: dict[str, Any], size: int) -> list[_Entry]:
    """The tensors of a header in the order of their bytes, which must fill ``size`` bytes."""
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it has {len(header):,} tensors, and {MAX_TENSORS:,} are read at most")
    entries = sorted(_entry(name, described) for name, described in header.items())
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise ValueError(f"tensor '{shortened(entry.name)}' overlaps another or leaves a gap")
        position = entry.end
    if position != size:
        raise ValueError(f"its tensors have {position:,} bytes, the file has {size:,} for them")
    return entries


def _entry(name: str, described: Any) -> _Entry:
    try:
        shape, (begin, end) = described["shape"], described["data_offsets"]
        numbers = (*shape, begin, end)
        if type(shape) is not list or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError
        dtype = DTYPES[described["dtype"]]
        # A shape with a zero has no bytes, and its other sizes must not overflow either.
        if math.prod(max(1, number) for number in shape) >= 1 << 60 or len(shape) > 32:
            raise ValueError
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            f"tensor '{shortened(name)}' has an impossible type, shape or place"
        ) from None
    return _Entry(begin, end, name, dtype, shape)


def _checksum(raw: bytes, stated: str | None) -> bytes | None:
    """The digits of the checksum in a header; None if the file has no checksum."""
    if stated is None and MARK not in raw:
        return None
    digits = (stated or "").encode().removeprefix(MARK)
    if len(digits) != 64 or raw.count(MARK + digits) != 1 or raw.count(digits) != 1:
        raise ValueError("its checksum is damaged")
    return digits
