"""Parquet files and Arrow streams of Hugging Face's ``datasets``, and the recordings in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from singleout.errors import ManifestError, MissingExtraError, OutputError, one_line

BATCH_ROWS = 64
"""Rows in memory at a time: a row may hold minutes of sound."""
SIGNATURES = (
    (b"RIFF", ".wav"),
    (b"RF64", ".wav"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"FORM", ".aiff"),
)
"""First bytes of recordings, and suffixes for their files."""


@dataclass(frozen=True)
class HeldSound:
    """A recording in a row.

    Attributes:
        content: bytes of its file; None if the row only has its path.
        path: its name.

    Example:
        >>> HeldSound(b"fLaC...", "rain").suffix
        '.flac'
    """

    content: bytes | None
    path: str | None

    @property
    def suffix(self) -> str:
        """For its file: by its first bytes, or as its path has it."""
        head = (self.content or b"")[:4]
        known = (suffix for start, suffix in SIGNATURES if head.startswith(start))
        return next(known, PurePosixPath(self.path or "").suffix.lower() or ".bin")


class ArrowTable:
    """The rows of a Parquet file, or of an Arrow file as ``save_to_disk`` writes it.

    Numbers of a class become its name, if the file states the names.

    Args:
        path: the file.

    Raises:
        MissingExtraError: pyarrow is not installed.

    Example:
        >>> import tempfile, pyarrow, pyarrow.parquet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metadata.parquet")
        ...     pyarrow.parquet.write_table(pyarrow.table({"file_name": ["1.wav"]}), path)
        ...     list(ArrowTable(path).rows())
        [{'file_name': '1.wav'}]
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"{path}: needs pyarrow, which the scale extra brings: pip install "
                "'singleout[scale]'"
            ) from None
        self.path = path

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, without the recordings."""
        for _, row, _ in self.rows_with_audio():
            yield row

    def rows_with_audio(self) -> Iterator[tuple[int, dict[str, Any], HeldSound | None]]:
        """Number, values and recording of each row.

        Raises:
            ManifestError: the file cannot be read.
        """
        number = 0
        with self._failures(), self._batches() as (schema, batches):
            names = _class_names(schema)
            held = [field.name for field in schema if _holds_sound(field.type)]
            for row in _in_steps(batches):
                sounds = [row.pop(name) for name in held]
                sound = next((each for each in sounds if each), None)
                for name, kinds in names.items():
                    row[name] = _kind(row.get(name), kinds)
                yield number, row, sound and HeldSound(sound.get("bytes"), sound.get("path"))
                number += 1

    @contextmanager
    def _batches(self) -> Iterator[tuple[Any, Iterator[Any]]]:
        import pyarrow

        if self.path.suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(self.path) as file:
                yield file.schema_arrow, file.iter_batches(BATCH_ROWS)
            return
        with pyarrow.memory_map(str(self.path)) as source:
            try:
                stream = pyarrow.ipc.open_stream(source)
                yield stream.schema, iter(stream)
            except pyarrow.ArrowInvalid:
                file = pyarrow.ipc.open_file(source)
                yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))

    @contextmanager
    def _failures(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise ManifestError(f"{self.path}: cannot be read: {one_line(error)}") from None


def extracted(folder: Path, number: int, sound: HeldSound) -> str | None:
    """Write a recording to a file, unless the file has its bytes already.

    Args:
        folder: of the file; it is made if it is missing.
        number: of the recording; the name of the file.
        sound: the recording.

    Returns:
        The absolute path of the file; None if the row holds no bytes.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = extracted(Path(folder), 7, HeldSound(b"fLaC", None))
        ...     path.removeprefix(folder)
        '/000000007.flac'
    """
    if not sound.content:
        return None
    path = folder.absolute() / f"{number:09d}{sound.suffix}"
    try:
        # The size alone would not tell: WAVs of one length, of two data sets, have the same.
        if path.is_file() and path.read_bytes() == sound.content:
            return str(path)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(sound.content)
        os.replace(partial, path)  # noqa: PTH105
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return str(path)


def _in_steps(batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """The rows of record batches, a few in memory at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield from batch.slice(start, BATCH_ROWS).to_pylist()


def _holds_sound(kind: Any) -> bool:
    """Whether a column has the type of ``datasets.Audio``."""
    import pyarrow

    return bool(pyarrow.types.is_struct(kind)) and {"bytes", "path"} <= {each.name for each in kind}


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of the classes, by the columns that hold their numbers."""
    stated = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stated)["info"]["features"] if stated else {}
    except (KeyError, TypeError, ValueError):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        if isinstance(feature.get("names"), list)
    }


def _kind(value: Any, names: list[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
