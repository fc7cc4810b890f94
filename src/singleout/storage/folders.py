"""The files below folders, each once, through links as well."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FolderListing:
    """Files, and what else is below folders.

    Attributes:
        files: regular files in the order of their paths, each once, without hidden ones.
        problems: one line for each link that leads nowhere and each folder that cannot be read.
        num_hidden: files and folders whose names start with a dot. Such folders are not read.
        num_repeated: other names of files that are listed, such as links to them.
        num_special: pipes, sockets and devices.

    Example:
        >>> FolderListing().files
        []
    """

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_hidden: int = 0
    num_repeated: int = 0
    num_special: int = 0


def list_files(paths: Iterable[Path], in_folders: bool = True) -> FolderListing:
    """List files, and the files below folders.

    Links to files and folders are followed. A folder is read once, so that a link to a folder
    above it does no harm. Of several names of a file or folder, one that is no link is listed.

    Args:
        paths: files and folders.
        in_folders: list what is below folders. False: folders are left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "dog.wav").touch()
        ...     (Path(folder) / "circle").symlink_to(folder)
        ...     [path.name for path in list_files([Path(folder)]).files]
        ['dog.wav']
    """
    listing = FolderListing()
    identities: set[tuple[int, ...] | str] = set()
    to_visit = sorted(paths, reverse=True)
    links = deque(path for path in reversed(to_visit) if path.is_symlink())  # come last
    to_visit = [path for path in to_visit if not path.is_symlink()]
    while to_visit or links:
        path = to_visit.pop() if to_visit else links.popleft()
        try:
            status = path.stat()
        except OSError as error:
            reason = "is a link that leads nowhere" if path.is_symlink() else _reason(error)
            listing.problems.append(f"{path}: {reason}")
            continue
        is_folder, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
        if not is_folder and not is_file:
            listing.num_special += 1
            continue
        # Some file systems give no numbers.
        numbers = (status.st_dev, status.st_ino)
        identity = numbers if status.st_ino else os.path.realpath(path)
        if identity in identities:
            listing.num_repeated += is_file
            continue
        identities.add(identity)
        if is_file:
            listing.files.append(path)
        if is_file or not in_folders:
            continue
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            listing.problems.append(f"{path}: {_reason(error)}")
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        listing.num_hidden += len(entries) - len(visible)
        links.extend(path / entry.name for entry in visible if entry.is_symlink())
        to_visit.extend(path / entry.name for entry in reversed(visible) if not entry.is_symlink())
    listing.files.sort()
    return listing


def _reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
