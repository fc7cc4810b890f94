"""What a file of ``torch.save`` may hold, checked before it is unpickled.

``torch.load`` with ``weights_only`` runs no code of a file. It may still call functions of torch
and of Python that a file names, and it inflates what is compressed. So this module reads the names
and sizes first, without building any object, and refuses what exceeds a bound.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import zipfile
from typing import Any, BinaryIO

import torch

from singleout.errors import shortened
from singleout.storage.checked import MAX_TENSORS

MAX_UNPACKED_BYTES = 64 << 20
"""A zip file may unpack to its own size, or to this many bytes. Torch does not compress."""
MAX_PICKLE_BYTES = 16 << 20
"""A longer pickle is refused. The values of tensors lie outside of it."""
MAX_OPCODES = 1_000_000
"""A pickle of more instructions is refused. A tensor takes about 40."""
MAX_TUPLES = 5 * MAX_TENSORS
"""A tensor has 4. Python's stack ends at about 100,000 tuples within each other."""
MAX_DIRECTORY_BYTES = 256 * MAX_TENSORS
"""A longer directory of a zip file is refused. An entry takes about 100 bytes."""
NUM_LEGACY_PICKLES = 5
"""Pickles at the start of a file of torch before 1.6: magic, version, system, object, storages."""

MAGIC = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""First bytes of a zip file and of a pickle: ``torch.save`` writes zip files since torch 1.6."""

PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|__builtin__\.set|_codecs\.encode|torch\.Size|torch\.device|torch\.\w+Storage"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
)
"""Names that tensors and containers need."""


class UnsafeError(ValueError):
    """A pickle names code or objects; the message names the first."""


class Ignored:
    """Takes the place of values that are not tensors: scores, options, paths.

    Common checkpoints hold them. Whatever a file says that they are, they hold nothing.

    Example:
        >>> ignored = Ignored("f8", False, True)
        >>> ignored.__setstate__((3, "<", None))
        >>> vars(ignored)
        {}
    """

    def __new__(cls, *values: object) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *values: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


IGNORED = tuple(
    (Ignored, name)
    for name in (
        "argparse.Namespace",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "numpy.dtype",
        # A file names the function by its module in the NumPy version that wrote the file.
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    )
)
"""For ``torch.serialization.safe_globals``: names of values that are not needed."""
_IGNORED_NAMES = {name for _, name in IGNORED}


def check_checkpoint(file: BinaryIO) -> int:
    """Check a file of ``torch.save``, without unpickling or inflating it.

    Args:
        file: at its start.

    Returns:
        How many bytes its tensors may have together.

    Raises:
        UnsafeError: it holds code, or objects that are not tensors.
        ValueError: it is not such a file, is damaged, or exceeds a bound; the message says which.

    Example:
        >>> file = io.BytesIO()
        >>> torch.save({"weight": torch.ones(2)}, file)
        >>> check_checkpoint(io.BytesIO(file.getvalue())) == MAX_UNPACKED_BYTES
        True
        >>> check_checkpoint(io.BytesIO(file.getvalue()[:100]))
        Traceback (most recent call last):
        ValueError: its directory is missing
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(2)
    file.seek(0)
    if magic not in MAGIC:
        raise ValueError("give a file of torch.save")
    try:
        if magic == b"PK":
            limit = max(size, MAX_UNPACKED_BYTES)
            check_pickle(io.BytesIO(_pickle_in_zip(file, limit)))
            return limit
        pickles = io.BytesIO(file.read(min(size, MAX_PICKLE_BYTES)))
        for _ in range(NUM_LEGACY_PICKLES):
            check_pickle(pickles)
        return size
    except ValueError:
        raise
    except Exception:  # zipfile, zlib and struct have many errors for damaged files
        raise ValueError("it is damaged") from None


def check_pickle(pickle: BinaryIO) -> None:
    """Read the instructions of a pickle up to its end, without following them.

    Raises:
        UnsafeError: it names something else than tensors, containers and plain values.
        ValueError: it is damaged, or exceeds a bound.

    Example:
        >>> import pickle
        >>> check_pickle(io.BytesIO(pickle.dumps({"step": 3}, protocol=2)))
        >>> check_pickle(io.BytesIO(pickle.dumps(print, protocol=2)))
        Traceback (most recent call last):
        singleout.storage.pickles.UnsafeError: '__builtin__.print'
    """
    num_tuples = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
            if not _is_plain(name):
                raise UnsafeError(f"'{shortened(name)}'")
        num_tuples += opcode.name.startswith("TUPLE")
        if number > MAX_OPCODES or num_tuples > MAX_TUPLES:
            raise ValueError("it holds more objects than any model")
        if isinstance(argument, str) and argument.lower() == "punycode":  # a slow encoding
            raise UnsafeError("a text codec")


def _is_plain(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    is_type = module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)
    return is_type or name in _IGNORED_NAMES or PLAIN.fullmatch(name) is not None


def _pickle_in_zip(file: BinaryIO, limit: int) -> bytes:
    """The pickle of a zip file, after its directory is checked."""
    if _directory_bytes(file) > MAX_DIRECTORY_BYTES:
        raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # Entries may share their bytes, so all of them count.
        if sum(entry.file_size for entry in entries) > limit:
            raise ValueError("it unpacks to more than its size and 64 MiB: save it uncompressed")
        pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it has not one data.pkl")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError("its data.pkl is longer than 16 MiB")
        return archive.read(pickles[0])


def _directory_bytes(file: BinaryIO) -> int:
    """Length of the directory of a zip file, which must end the file, as torch writes it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 98))
    tail: Any = file.read()
    if tail[-22:-18] != b"PK\5\6":
        raise ValueError("its directory is missing")
    (length,) = struct.unpack("<I", tail[-10:-6])
    if tail[-42:-38] == b"PK\6\7":  # the directory of a large file, in 64 bits
        if struct.unpack("<Q", tail[-34:-26]) != (size - 98,) or tail[:4] != b"PK\6\6":
            raise ValueError("its directory is damaged")
        (length,) = struct.unpack("<Q", tail[-58:-50])
    return int(length)
