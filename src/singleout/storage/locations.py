"""Files and folders on a local disk or in a store that fsspec reaches, such as ``s3://``.

A local place is a path. Other places are addresses with a protocol. fsspec is only imported for
addresses: ``pip install 'singleout[scale]'``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from singleout.errors import (
    InputError,
    MissingExtraError,
    OutputError,
    SingleoutError,
    one_line,
)
from singleout.storage.addresses import address_of
from singleout.storage.atomic import replacing

WHOLE_FILES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols of stores in which a file appears when its upload ends."""
WEB = ("http:", "https:", "ftp:")
"""Starts of addresses of pages. What they give is often no recording."""
THIS_MACHINE = ("file:", "local:")
"""Starts of addresses of files on this machine. A path is the one name of such a file."""
COPY_BYTES = 1 << 24
"""Bytes that are copied at once."""


class Location:
    """A file or folder, by its path or address.

    Args:
        place: such as ``corpus/shards``, ``s3://bucket/corpus`` or ``memory://corpus``.

    Raises:
        MissingExtraError: the place is an address, and fsspec or the package of the protocol is
            not installed.
        InputError: no package knows the protocol, or the address is one of a file on this machine.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     location = Location(folder) / "shards" / "0.tar"
        ...     location.write(b"0123456789")
        ...     location.exists(), location.size(), location.read(2, 5)
        (True, 10, b'234')
    """

    def __init__(self, place: str | Path) -> None:
        self.address = address_of(place, max_characters=None)
        self.path = Path(place)
        # Path makes one slash of the three in file:///home, which would become a relative path.
        if self.address is not None and self.address.lower().startswith(THIS_MACHINE):
            raise InputError(f"{self.address}: is on this machine: give its path instead")

    def __str__(self) -> str:
        return str(self.path) if self.address is None else self.address

    def __truediv__(self, name: str) -> Location:
        if self.address is None:
            return Location(self.path / name)
        return Location(f"{self.address.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether the place is a path."""
        return self.address is None

    @property
    def name(self) -> str:
        """The last part of the path or address."""
        return self.path.name

    @property
    def _remote(self) -> tuple[Any, str]:
        """fsspec's file system of the address, and the path in it.

        fsspec keeps its file systems, and gives a forked process new ones. So they are not kept
        here.
        """
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise MissingExtraError(
                f"{self}: addresses need the scale extra: pip install 'singleout[scale]'"
            ) from None
        try:
            remote, path = url_to_fs(str(self))
        except ImportError as error:
            raise MissingExtraError(f"{self}: {one_line(error)}") from None
        except ValueError as error:
            raise InputError(f"{self}: {one_line(error)}") from None
        return remote, path

    @contextmanager
    def _failures(self, kind: type[InputError]) -> Iterator[None]:
        """Turn errors of a disk or of a store into one line that names the place."""
        try:
            yield
        except SingleoutError:
            raise
        except FileNotFoundError:
            raise kind(f"{self}: no such file") from None
        except OSError as error:
            raise kind(f"{self}: {error.strerror or one_line(error)}") from None
        except Exception as error:  # each package of a store has errors of its own
            raise kind(f"{self}: {one_line(error)}") from None

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        with self._failures(InputError):
            if self.is_local:
                return self.path.exists()
            remote, path = self._remote
            remote.invalidate_cache()
            try:
                remote.info(path)
            except FileNotFoundError:
                return False
            return True  # fsspec's own ``exists`` is False, too, if a store does not answer

    def size(self) -> int:
        """Bytes of the file."""
        with self._failures(InputError):
            if self.is_local:
                return self.path.stat().st_size
            remote, path = self._remote
            return int(remote.size(path))

    def state(self) -> str:
        """Size and version of the file, which tell whether it is still the same."""
        with self._failures(InputError):
            if self.is_local:
                status = self.path.stat()
                return f"{status.st_size} {status.st_mtime_ns}"
            remote, path = self._remote
            remote.invalidate_cache()
            return f"{remote.size(path)} {remote.ukey(path)}"

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of the file from ``start`` to ``stop``, by default all."""
        with self._failures(InputError):
            if not self.is_local:
                remote, path = self._remote
                return bytes(remote.cat_file(path, start=start or None, end=stop))
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)

    def write(self, content: bytes) -> None:
        """Write a file. It appears whole or not at all. Missing folders are made."""
        with self._failures(OutputError):
            if self.is_local:
                self._make_parent()
                with replacing(self.path) as partial:
                    partial.write_bytes(content)
                return
            remote, path = self._remote
            with self._appearing(remote, path) as partial:
                remote.pipe_file(partial, content)

    def _make_parent(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            folder = self.path.parent
            raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None

    def put(self, file: Path) -> None:
        """Copy a local file to this place. It appears whole or not at all."""
        with self._failures(OutputError):
            if self.is_local:
                self._make_parent()
                with replacing(self.path) as partial:
                    shutil.copyfile(file, partial)
                return
            remote, path = self._remote
            with self._appearing(remote, path) as partial:
                remote.put_file(str(file), partial)

    def fetch(self, file: Path) -> None:
        """Copy the file at this place to a local one. It appears whole or not at all."""
        with self.open() as source, replacing(file) as partial, partial.open("wb") as target:
            while True:
                with self._failures(InputError):
                    block = source.read(COPY_BYTES)
                if not block:
                    break
                target.write(block)

    def open(self) -> BinaryIO:
        """Open the file for reading. The file can seek."""
        with self._failures(InputError):
            if self.is_local:
                return self.path.open("rb")
            remote, path = self._remote
            return remote.open(path, "rb")  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        """Names of the files in the folder, sorted; empty if there is no folder."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of the files in the folder, by their sorted names; empty if there is no folder.

        This is one request to a store, however many files there are.
        """
        with self._failures(InputError):
            if self.is_local:
                if not self.path.is_dir():
                    return {}
                with os.scandir(self.path) as entries:
                    files = [(e.name, e.stat().st_size) for e in entries if e.is_file()]
                return dict(sorted(files))
            remote, path = self._remote
            remote.invalidate_cache()
            try:
                entries = remote.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            listed = [(e["name"].rstrip("/").rsplit("/", 1)[-1], e) for e in entries]
            return {
                name: int(entry["size"] or 0)
                for name, entry in sorted(listed, key=itemgetter(0))
                if entry["type"] == "file"
            }

    def matches(self) -> list[str]:
        """Paths or addresses of the files that this place names as a pattern of a shell, sorted."""
        with self._failures(InputError):
            if self.is_local:
                return sorted(glob(str(self.path), recursive=True))  # noqa: PTH207
            remote, path = self._remote
            remote.invalidate_cache()
            paths = sorted(remote.glob(path))
            return [str(Location(remote.unstrip_protocol(each))) for each in paths]

    def names_below(self) -> list[str]:
        """Names of all files below the folder, relative to it, sorted; empty if there is none."""
        with self._failures(InputError):
            if self.is_local:
                below = (p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file())
                return sorted(p.as_posix() for p in below)
            remote, path = self._remote
            remote.invalidate_cache()
            start = path.rstrip("/") + "/"
            names = (str(name) for name in remote.find(path))
            return sorted(name.removeprefix(start) for name in names if name.startswith(start))

    def changed_ns(self) -> int | None:
        """When the file was changed, in ns since 1970; None if there is no file.

        Raises:
            InputError: the store does not tell.
        """
        with self._failures(InputError):
            try:
                if self.is_local:
                    return self.path.stat().st_mtime_ns
                remote, path = self._remote
                remote.invalidate_cache()
                return int(remote.modified(path).timestamp() * 1e9)
            except FileNotFoundError:
                return None
            except NotImplementedError:
                raise InputError(f"{self}: its store does not tell when it was changed") from None

    def remove(self) -> None:
        """Remove the file, if there is one."""
        with self._failures(OutputError):
            if self.is_local:
                self.path.unlink(missing_ok=True)
                return
            remote, path = self._remote
            if remote.exists(path):
                remote.rm_file(path)

    @staticmethod
    @contextmanager
    def _appearing(remote: Any, path: str) -> Iterator[str]:
        """The name to write to: another one, if the store would show half a file."""
        protocols = {remote.protocol} if isinstance(remote.protocol, str) else set(remote.protocol)
        if protocols & WHOLE_FILES:
            yield path
            return
        remote.makedirs(remote._parent(path), exist_ok=True)
        partial = f"{path}.{uuid4().hex}.partial"
        try:
            yield partial
            remote.mv(partial, path)
        finally:
            with suppress(OSError):
                if remote.exists(partial):
                    remote.rm_file(partial)


def store_of(path: Path) -> Location | None:
    """The place of a file or folder in a store; None for a path on this machine and a web page.

    Args:
        path: a path, or what ``Path`` makes of an address.

    Example:
        >>> print(store_of(Path("memory://sounds")), store_of(Path("sounds")))
        memory://sounds None
    """
    location = Location(path)
    is_web = str(location).lower().startswith(WEB)
    return None if location.is_local or is_web else location
