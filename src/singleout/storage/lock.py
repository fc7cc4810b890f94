"""One program at a time in a folder that it writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from singleout.errors import OutputError, SingleoutError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

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
def only_writer(
    folder: Path, name: str, activity: str, refusal: type[SingleoutError] = OutputError
) -> Iterator[None]:
    """Hold the lock of a folder. The system releases the lock of a process that dies.

    The folder is made if it does not exist. If nothing is written to it, it is removed again.

    Args:
        folder: that is written to.
        name: of the lock in the folder. It holds the number of the process.
        activity: what writes to the folder, such as ``training``.
        refusal: class of the error if another process holds the lock.

    Raises:
        SingleoutError: of the class ``refusal``: another process holds the lock.
        OutputError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with only_writer(Path(folder), "run.lock", "training"):
        ...         try:
        ...             with only_writer(Path(folder), "run.lock", "training"):
        ...                 pass
        ...         except OutputError as error:
        ...             "another training" in str(error)
        True
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / name, activity, refusal)
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
            (folder / name).unlink()
        _held.discard(lock)
        os.close(lock)
        if is_new:
            with suppress(OSError):  # it holds what was written
                folder.rmdir()


def _locked(path: Path, activity: str, refusal: type[SingleoutError]) -> int:
    """An open file that holds the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path, activity, refusal)
            # The process before may have removed the file after it was opened here.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    os.ftruncate(file, 0)
                    os.write(file, str(os.getpid()).encode())
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path, activity: str, refusal: type[SingleoutError]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
        raise refusal(
            f"{path.parent}: another {activity} (process {owner}) writes to this folder: wait for "
            "it, stop it, or choose another output folder"
        ) from None
    except OSError:  # a file system without locks
        return
