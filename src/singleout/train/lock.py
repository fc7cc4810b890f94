"""One training at a time in the folder of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from singleout.errors import OutputError, TrainingError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "run.lock"
"""Name of the lock in the folder of a run. It holds the number of the process that trains."""
_held: set[int] = set()
"""Open files of the locks of this process."""


def _forget() -> None:
    """Close the files in a forked process: it would hold the locks beyond the death of its parent.

    Such as a process that renders mixtures, which may live a moment longer.
    """
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. The system releases the lock of a process that dies.

    The folder is made if it does not exist. If nothing is written to it, it is removed again.

    Args:
        folder: of the run.

    Raises:
        TrainingError: another training holds the lock.
        OutputError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, only_training(Path(folder)):
        ...     try:
        ...         with only_training(Path(folder)):
        ...             pass
        ...     except TrainingError as error:
        ...         "another training" in str(error)
        True
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / LOCK_NAME)
    except FileExistsError:
        raise OutputError(f"output: {folder} is not a folder: choose another one") from None
    except OSError as error:
        raise OutputError(
            f"output: {folder} cannot be written: {error.strerror or error}"
        ) from None
    _held.add(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK_NAME).unlink()
        _held.discard(lock)
        os.close(lock)
        if is_new:
            with suppress(OSError):  # it holds a run
                folder.rmdir()


def _locked(path: Path) -> int:
    """An open file that holds the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            # The training before may have removed the file after it was opened here.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    os.ftruncate(file, 0)
                    os.write(file, str(os.getpid()).encode())
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
        raise TrainingError(
            f"{path.parent}: another training (process {owner}) writes to this folder: wait for "
            "it, stop it, or choose another output folder"
        ) from None
    except OSError:  # a file system without locks
        return
