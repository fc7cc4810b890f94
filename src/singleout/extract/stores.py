"""Recordings and results in stores such as ``s3://``, under paths that are addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from singleout.errors import InputError, SingleoutError
from singleout.storage.folders import FolderListing
from singleout.storage.locations import Location, store_of
from singleout.storage.temporary import temporary_folder


def list_store(store: Location) -> FolderListing:
    """List the files below a folder in a store, as ``list_files`` lists those of a disk.

    Raises:
        InputError: the store cannot be read.

    Example:
        >>> (Location("memory://listed") / "a" / "dog.wav").write(b"sound")
        >>> [path.name for path in list_store(Location("memory://listed")).files]
        ['dog.wav']
    """
    return _without_hidden([Path(name) for name in store.names_below()], store.path)


def list_matches(pattern: Location) -> FolderListing:
    """List the files in a store that match a pattern, such as ``s3://bucket/*.wav``.

    Raises:
        InputError: the store cannot be read.

    Example:
        >>> Location("memory://matched/dog.wav").write(b"sound")
        >>> [path.name for path in list_matches(Location("memory://matched/*.wav")).files]
        ['dog.wav']
    """
    return _without_hidden([Path(place) for place in pattern.matches()], Path())


def _without_hidden(names: list[Path], folder: Path) -> FolderListing:
    plain = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files = [folder / name for name in plain]
    return FolderListing(files, num_hidden=len(names) - len(plain))


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """The path of a file on this machine: the file itself, or a temporary copy of one in a store.

    Raises:
        InputError: the file cannot be fetched.

    Example:
        >>> Location("memory://copied.txt").write(b"rain")
        >>> with local_copy(Path("memory://copied.txt")) as copy:
        ...     copy.read_text()
        'rain'
    """
    if (store := store_of(path)) is None:
        yield path
        return
    with temporary_folder() as folder:
        store.fetch(folder / path.name)
        yield folder / path.name


@contextmanager
def delivering(folder: Path) -> Iterator[Path]:
    """A folder for results: the folder itself, or a temporary one whose files go to a store.

    The files are put at the end, each whole or not at all. Nothing is put after an error.

    Args:
        folder: a path, or what ``Path`` makes of an address.

    Raises:
        OutputError: a file cannot be put.

    Example:
        >>> with delivering(Path("memory://delivered")) as folder:
        ...     _ = (folder / "x.txt").write_text("rain")
        >>> Location("memory://delivered/x.txt").read()
        b'rain'
    """
    if (store := store_of(folder)) is None:
        yield folder
        return
    with temporary_folder() as local:
        try:
            yield local
        except SingleoutError as error:
            message = str(error).replace(str(local), f"the temporary folder {local.parent}")
            raise type(error)(message) from None
        for file in sorted(local.iterdir()):
            (store / file.name).put(file)


def refuse_memory(paths: Iterable[Path]) -> None:
    """Refuse files in the memory of this process, where others have to read or write them.

    Args:
        paths: of recordings and of output folders.

    Raises:
        InputError: names the first such file.

    Example:
        >>> refuse_memory([Path("s3://bucket/dog.wav")])
    """
    for path in paths:
        if str(path).startswith("memory:"):
            raise InputError(
                f"{Location(path)}: is in the memory of one process, and other processes cannot "
                "use it: give a shared folder or another store"
            )
