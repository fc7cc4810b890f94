"""Folders for files that only one command needs, such as the copy of a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from singleout.errors import OutputError

if sys.platform != "win32":
    import fcntl

PREFIX = "singleout-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end.

    The folder is locked as long as it is used. A folder without a lock is of a process that was
    killed: it is removed first.

    Raises:
        OutputError: no folder for temporary files can be written.

    Example:
        >>> with temporary_folder() as folder:
        ...     _ = (folder / "copy").write_bytes(b"sound")
        >>> folder.exists()
        False
    """
    with ExitStack() as locks:
        try:
            _remove_left_over()
            with _lock_on(Path(tempfile.gettempdir()), is_shared=True):
                folder = Path(tempfile.mkdtemp(prefix=PREFIX))
                locks.enter_context(_lock_on(folder))
        except OSError as error:
            raise OutputError(
                f"no temporary folder can be made: {error.strerror or error}: set TMPDIR to a "
                "folder that can be written"
            ) from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left_over() -> None:
    """Remove the folders of processes that were killed. Nobody makes one meanwhile."""
    if sys.platform == "win32":  # no locks
        return
    parent = Path(tempfile.gettempdir())
    with _lock_on(parent) as has_parent:
        if not has_parent:
            return
        for folder in parent.glob(f"{PREFIX}*"):
            with suppress(OSError), _lock_on(folder) as is_left_over:
                if is_left_over and folder.lstat().st_uid == os.getuid():
                    shutil.rmtree(folder)


@contextmanager
def _lock_on(folder: Path, is_shared: bool = False) -> Iterator[bool]:
    """Lock a folder; gives whether that was possible. The system drops locks of dead processes."""
    if sys.platform == "win32":
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        is_locked = True
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the file system has no locks
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)
