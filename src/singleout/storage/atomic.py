"""Files that appear whole or not at all, also if the program is killed or the power fails.

A file is written under a temporary name in its folder and renamed at the end. On any error the
temporary file is deleted, and an older file of that name stays. ``singleout.storage.journal`` says
what happens after a kill, and with several writers.

A new file is on the disk (fsync) before it gets its name, and its name is on the disk before the
writer goes on. So a finished file survives a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from singleout.errors import OutputError
from singleout.storage.disk import is_device, sync_file, sync_names
from singleout.storage.journal import moving_aside, renaming, temporary_names


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; at the end, the file written there is renamed to ``path``.

    The temporary file is deleted on any error. In nested contexts all files are written before
    the first of them appears.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OutputError: the file cannot be written there, for example because ``path`` is a device.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = Path(folder) / "report.txt"
        ...     with replacing(report) as partial:
        ...         _ = partial.write_text("done")
        ...     report.read_text()
        'done'
    """
    try:
        if is_device(path):
            raise OutputError(f"{path}: cannot be written: is a device or a pipe, not a file")
        with temporary_names(path.parent) as new_name:
            partial = path.with_name(new_name(path.name))
            try:
                yield partial
                sync_file(partial)
                with renaming(path.parent):
                    partial.replace(path)
                    sync_names(path.parent)
            finally:
                with suppress(OSError):
                    partial.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def restoring(paths: Sequence[Path]) -> Iterator[None]:
    """Put the old files back on any error while new ones take their places.

    Renames follow each other, so that one may fail after others have succeeded. Files that belong
    together, such as a target and its residual, must not be left half old and half new. If the
    program is killed inside the context, the next writer or ``recover`` puts the old files back.

    Args:
        paths: files that are replaced inside the context. They need not exist before. After a
            kill, the files of each folder are restored together.

    Raises:
        OutputError: a file cannot be replaced, for example because a program on Windows has it
            open.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old = Path(folder) / "old.txt"
        ...     _ = old.write_text("old")
        ...     try:
        ...         with restoring([old]):
        ...             _ = old.write_text("new")
        ...             raise KeyboardInterrupt
        ...     except KeyboardInterrupt:
        ...         old.read_text()
        'old'
    """
    try:
        with ExitStack() as folders:
            for folder in sorted({path.parent for path in paths}):
                names = [path.name for path in paths if path.parent == folder]
                folders.enter_context(moving_aside(folder, names))
            yield
    except OSError as error:
        raise OutputError(
            f"{error.filename}: cannot be written: {error.strerror or error}"
        ) from None


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give temporary paths; at the end, the files written there replace ``paths``, all or none.

    Args:
        paths: the files to write; their folders must exist.

    Raises:
        OutputError: a file cannot be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     names = [Path(folder) / name for name in ("scores.json", "rows.jsonl")]
        ...     with replacing_all(names) as partials:
        ...         for partial in partials:
        ...             _ = partial.write_text("{}")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['rows.jsonl', 'scores.json']
    """
    before = ExitStack()
    with ExitStack() as files:
        yield [files.enter_context(replacing(path)) for path in paths]
        before.enter_context(restoring(paths))
        renaming_files = files.pop_all()
    with before, renaming_files:
        pass


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Give a temporary folder; at the end, its files are moved to ``folder``, all or none.

    Other files of ``folder`` stay.

    Args:
        folder: it is made if it does not exist.

    Raises:
        OutputError: a file cannot be written there.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing_files(Path(folder)) as partial:
        ...         _ = (partial / "config.json").write_text("{}")
        ...     [path.name for path in Path(folder).iterdir()]
        ['config.json']
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_names(folder) as new_name:
            partial = folder / new_name("files")
            try:
                partial.mkdir()
                yield partial
                files = sorted(partial.iterdir())
                for file in files:
                    sync_file(file)
                with restoring([folder / file.name for file in files]):
                    for file in files:
                        file.replace(folder / file.name)
            finally:
                rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths name the same file. The file need not exist.

    Example:
        >>> is_same_file(Path("rain.wav"), Path.cwd() / "rain.wav")
        True
        >>> is_same_file(Path("rain.wav"), Path("wind.wav"))
        False
    """
    with suppress(OSError):  # one of the files does not exist
        return path.samefile(other)
    return path.absolute() == other.absolute()
