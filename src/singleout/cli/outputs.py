"""Checks of output paths, before any work is done."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from singleout.errors import OutputError
from singleout.storage.atomic import is_same_file


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written. The folder is not created yet.

    Args:
        folder: need not exist.

    Raises:
        OutputError: the path is a file, or the folder cannot be written or created.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     try:
        ...         check_folder(Path(file.name))
        ...     except OutputError as error:
        ...         str(error).endswith("is a file, the output needs a folder")
        True
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, ValueError, StopIteration) as error:
        raise OutputError(f"{folder}: cannot be the output folder: {error}") from None
    if not existing.is_dir():
        raise OutputError(f"{existing}: is a file, the output needs a folder")
    try:
        with TemporaryFile(dir=existing):  # rights alone do not tell: disks may be read-only
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{existing}: cannot be written ({reason}), choose another folder"
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder, with those that it is in.

    Raises:
        OutputError: it cannot be made.

    Example:
        >>> make_folder(Path("."))  # it exists
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from None


def check_file(path: Path, *inputs: Path) -> None:
    """Refuse an output file that cannot be written or that would overwrite an input.

    Args:
        path: need not exist.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: the path is a folder or one of ``inputs``, or its folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = Path(folder) / "report.jsonl"
        ...     check_file(report)
        ...     _ = report.write_text("a recording")
        ...     try:
        ...         check_file(report, report)
        ...     except OutputError as error:
        ...         "would overwrite" in str(error)
        True
    """
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None
    if is_folder:
        raise OutputError(f"{path}: is a folder: give the name of a file")
    check_folder(path.parent)
    for other in inputs:
        if is_same_file(path, other):
            raise OutputError(f"{path}: would overwrite {other}: choose another file")
