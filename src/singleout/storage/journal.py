"""What makes renames safe: tokens of writers, locks, and a journal of each folder.

**Killed programs.** Every temporary file has the token of its writer in its name. While the writer
works, it holds a lock on a small file with the same token. The lock of a dead writer is free: then
``recover`` removes the files with that token. A process calls ``recover`` for each folder before
its first file there.

**Groups of files.** Before old files make room for a group of new ones, the journal of the folder
lists all of them. Whoever renames files in that folder next, or calls ``recover``, reads the
journal of a dead program and puts the old files back. So all files of a group are old, or all are
new. The method is the rollback journal of SQLite (https://sqlite.org/atomiccommit.html).

**Several writers.** Writers never share a temporary name. Renames in a folder exclude each other by
a lock on the journal, between threads and between programs. The last writer of a name wins.

Windows and some network drives have no such locks. There, files still appear whole, but temporary
files of killed programs stay.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOSPC
from pathlib import Path
from shutil import rmtree
from stat import S_ISDIR, S_ISREG
from typing import IO

from singleout.storage.disk import sync, sync_names

if sys.platform != "win32":
    import fcntl

JOURNAL = ".singleout.journal.partial"
"""Name of the journal of a folder. It exists only while files are renamed."""
MAX_JOURNAL_BYTES = 1 << 20
"""A longer journal is not read to its end."""
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{16})(?:-\d+(?:\.old)?|\.lock)\.partial", re.DOTALL)
"""Names of temporary files, with the token of their writer."""
_LOCK = ".singleout.{}.lock.partial"


def recover(folder: Path) -> None:
    """Undo what killed programs left in a folder; the files of living programs stay.

    Old files are put back where a group of files was replaced in part. Temporary files are
    removed. Nothing happens, and nothing is raised, where the folder cannot be read or changed.

    Args:
        folder: of outputs or of a model. It need not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     left = Path(folder, ".x.wav.0123456789abcdef-1.partial")
        ...     left.touch()
        ...     recover(Path(folder))
        ...     left.exists()
        False
    """
    with suppress(OSError):
        names: dict[str, list[str]] = {}
        with os.scandir(folder) as entries:  # a folder may hold very many files
            listed = {entry.name for entry in entries}
        for name in listed:
            if match := _TEMPORARY.fullmatch(name):
                names.setdefault(match[1], []).append(name)
        if names or JOURNAL in listed:
            with renaming(folder):  # reads the journal
                for token, left in names.items():
                    with suppress(OSError):  # the lock of another user
                        _remove_if_dead(folder, token, left)


def recover_once(folder: Path) -> None:
    """Call ``recover`` if this process has not done so, or if a group of files is half replaced.

    This takes no time in a folder of many files. Call it before it matters which files exist.

    Example:
        >>> recover_once(Path("missing"))
    """
    key = os.path.realpath(folder)
    if key not in _state.recovered or os.path.lexists(Path(key, JOURNAL)):
        recover(folder)
        _state.recovered.add(key)


# Writers and their temporary files


class _Writer:
    """The temporary files of this process in a folder, and the lock that says that it lives."""

    def __init__(self, folder: Path) -> None:
        self.num_users = 0
        self._numbers = itertools.count(1)  # which threads may share
        while True:
            self._token = secrets.token_hex(8)
            self._path = folder / _LOCK.format(self._token)
            self._file = self._path.open("xb")
            _lock(self._file, wait=False)
            if _is_at(self._file, self._path):
                return
            self._file.close()  # removed by another process before it was locked

    def temporary_name(self, name: str) -> str:
        # File systems limit names in bytes, some of them to 143.
        short = os.fsencode(name)[:64].decode("utf-8", "ignore")
        return f".{short}.{self._token}-{next(self._numbers)}.partial"

    def close(self) -> None:
        _remove_and_unlock(self._file, self._path)


class _State:
    """What this process holds. A forked child starts without it: the locks are of its parent."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.writers: dict[str, _Writer] = {}
        self.journals = threading.local()
        """By folder: the journals that the thread has locked."""
        self.recovered: set[str] = set()


_state = _State()


def _forget() -> None:
    global _state
    _state = _State()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def temporary_names(folder: Path) -> Iterator[Callable[[str], str]]:
    """Names for temporary files, which ``recover`` removes if this process is killed.

    Args:
        folder: of the temporary files.

    Yields:
        A function from the name of a file to a name that no other file of the folder has.

    Raises:
        OSError: nothing can be written in the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with temporary_names(Path(folder)) as new_name:
        ...         new_name("x.wav") != new_name("x.wav")
        True
    """
    recover_once(folder)
    state, key = _state, os.path.realpath(folder)
    with state.guard:
        writer = state.writers.get(key) or _Writer(Path(key))
        state.writers[key] = writer
        writer.num_users += 1
    try:
        yield writer.temporary_name
    finally:
        with state.guard:
            writer.num_users -= 1
            if writer.num_users == 0:
                state.writers.pop(key, None)
                writer.close()


def _remove_if_dead(folder: Path, token: str, names: list[str]) -> None:
    path = folder / _LOCK.format(token)
    lock = None
    with suppress(FileNotFoundError):  # the writer is done
        lock = _opened(path)
        if not _lock(lock, wait=False):
            lock.close()
            return
    for name in set(names) - {path.name}:
        _remove(folder / name)
    if lock is not None:
        _remove_and_unlock(lock, path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if S_ISDIR(path.lstat().st_mode):
            rmtree(path)
        else:
            path.unlink()


# Renames and their journal


@contextmanager
def renaming(folder: Path) -> Iterator[IO[bytes] | None]:
    """Lock a folder against the renames of others, after those of killed programs are undone.

    A thread may enter the same folder again.

    Yields:
        The journal; None if it belongs to another user, whose locks cannot be seen.

    Raises:
        OSError: the folder cannot be written, or an old file cannot be put back.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with renaming(Path(folder)):
        ...         [path.name for path in Path(folder).iterdir()]
        ['.singleout.journal.partial']
    """
    held, key = _state.journals.__dict__, os.path.realpath(folder)
    if key in held:
        yield held[key]
        return
    path = Path(key, JOURNAL)
    journal = _opened_journal(path)
    if journal is None:
        yield None
        return
    try:
        journal.seek(0)
        for line in reversed(journal.read(MAX_JOURNAL_BYTES).splitlines()):
            _undo(folder, _moves_of(line))
        journal.truncate(0)
        held[key] = journal
        yield journal
    finally:
        held.pop(key, None)
        if journal.seek(0, os.SEEK_END):  # not undone: the next writer tries again
            _unlock(journal)
        else:
            _remove_and_unlock(journal, path)


def _opened_journal(path: Path) -> IO[bytes] | None:
    while True:
        try:
            journal = _opened(path, os.O_CREAT)
        except PermissionError:
            if path.exists():
                return None
            raise
        _lock(journal, wait=True)
        if _is_at(journal, path):
            return journal
        journal.close()  # removed by the process that held the lock


@contextmanager
def moving_aside(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Move old files aside for new ones of these names, and back on any error or after a kill.

    Args:
        folder: of the files.
        names: of the files that are replaced inside the context. They need not exist before.

    Raises:
        OSError: a file cannot be moved.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old = Path(folder, "x.txt")
        ...     _ = old.write_text("old")
        ...     with moving_aside(Path(folder), ["x.txt"]):
        ...         _ = old.write_text("new")
        ...     old.read_text()
        'new'
    """
    with temporary_names(folder) as new_name, renaming(folder) as journal:
        moves: dict[str, str | None] = dict.fromkeys(names)
        for name in names:
            if os.path.lexists(folder / name):
                moves[name] = new_name(name).removesuffix("partial") + "old.partial"
        start = journal.seek(0, os.SEEK_END) if journal else 0
        try:
            if journal:
                _append(journal, json.dumps(moves).encode() + b"\n")
            for name, old in moves.items():
                if old is not None:
                    (folder / name).replace(folder / old)
            yield
            sync_names(folder)
        except BaseException:
            _undo(folder, moves)
            if journal:
                journal.truncate(start)
            raise
        if journal:
            journal.truncate(start)  # from here on, the new files count
        for old in moves.values():
            if old is not None:
                _remove(folder / old)


def _append(journal: IO[bytes], line: bytes) -> None:
    if journal.write(line) < len(line):
        raise OSError(ENOSPC, os.strerror(ENOSPC), JOURNAL)
    sync(journal.fileno())


def _moves_of(line: bytes) -> dict[str, str | None]:
    """The moves of a line of a journal: of each file, the temporary name of the old one.

    A line that is not whole was written before the first move. A hostile journal must not name
    files of other folders.
    """
    with suppress(ValueError, RecursionError):
        moves = json.loads(line)
        if isinstance(moves, dict) and all(
            _is_name(name) and (old is None or (_is_name(old) and _TEMPORARY.fullmatch(old)))
            for name, old in moves.items()
        ):
            return moves
    return {}


def _is_name(name: object) -> bool:
    """Whether a text is the name of a file in a folder, and not a path."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not set(name) & {"\0", "/", os.sep, os.altsep}
    )


def _undo(folder: Path, moves: dict[str, str | None]) -> None:
    """Put old files back, and remove new ones. It does no harm to do this again."""
    for name, old in moves.items():
        if old is None:
            with suppress(OSError):
                (folder / name).unlink()
        else:
            with suppress(FileNotFoundError):  # not yet moved, or already moved back
                (folder / old).replace(folder / name)


# Locks


def _opened(path: Path, flags: int = 0) -> IO[bytes]:
    """Open for reading and writing. A link, a pipe or a device is refused."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    file = os.fdopen(os.open(path, os.O_RDWR | flags, 0o666), "r+b", buffering=0)
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(EEXIST, "is not a file", str(path))
    return file


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether the lock of a file was free, or became free. False without locks in the system."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_and_unlock(file: IO[bytes], path: Path) -> None:
    """Remove a lock file, so that its name never belongs to two holders of a lock."""
    if sys.platform == "win32":  # an open file cannot be removed
        _unlock(file)
    with suppress(OSError):
        path.unlink()
    _unlock(file)


def _unlock(file: IO[bytes]) -> None:
    """Close a file and release its lock, which a forked child may share."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
    file.close()
