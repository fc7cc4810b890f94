"""Files that appear whole or not at all.

A file is written under a temporary name in its folder and renamed at the end. On any error the
temporary file is deleted, and an older file of that name stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from threading import get_ident

from singleout.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; at the end, the file written there is renamed to ``path``.

    The temporary file is deleted on any error. In nested contexts all files are written before
    the first of them appears.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OutputError: the file cannot be written there.

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
    # File systems limit names in bytes, not in characters. The digest keeps apart long names that
    # differ only at their ends.
    name = os.fsencode(path.name)
    short, digest = os.fsdecode(name[:160]), sha256(name).hexdigest()[:8]
    partial = path.with_name(f".{short}.{digest}.{os.getpid()}-{get_ident()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def restoring(paths: Sequence[Path]) -> Iterator[None]:
    """Put the old files back on any error while new ones take their places.

    Renames follow each other, so that one may fail after others have succeeded. Files that belong
    together, such as a target and its residual, must not be left half old and half new.

    Args:
        paths: files that are replaced inside the context. They need not exist before.

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
    kept: dict[Path, Path] = {}
    new: list[Path] = []
    try:
        for path in paths:
            if path.exists():
                digest = sha256(os.fsencode(path.name)).hexdigest()[:8]
                aside = path.with_name(f".{digest}.{os.getpid()}-{get_ident()}.old.partial")
                path.replace(aside)
                kept[path] = aside
        new = [path for path in paths if path not in kept]
        yield
    except BaseException as error:
        for path in new:
            path.unlink(missing_ok=True)
        for path, aside in kept.items():
            aside.replace(path)
        if isinstance(error, OSError):
            raise OutputError(
                f"{error.filename}: cannot be written: {error.strerror or error}"
            ) from None
        raise
    for aside in kept.values():
        with suppress(OSError):
            aside.unlink()


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Give a temporary folder; at the end, its files are moved to ``folder``, all or none.

    ``config.json`` is moved last. Other files of ``folder`` stay.

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
    partial = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=".", suffix=".partial", dir=folder))
        yield partial
        files = sorted(partial.iterdir(), key=lambda file: (file.name == "config.json", file.name))
        with restoring([folder / file.name for file in files]):
            for file in files:
                file.replace(folder / file.name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if partial is not None:
            rmtree(partial, ignore_errors=True)


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
