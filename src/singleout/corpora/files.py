"""The files of a downloaded corpus, listed once.

Corpora come from archives, from mirrors and from download programs, each with folders of its own.
So a table is found by its name, and a recording by its name without the suffix, wherever they are.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from singleout.audio import MEDIA_SUFFIXES, SOUND_SUFFIXES
from singleout.errors import ManifestError, shortened

ARCHIVE_SUFFIXES = (".zip", ".7z", ".tar", ".gz", ".tgz", ".z01", ".001")
"""Suffixes of archives that a corpus comes in."""

_MEDIA, _SOUNDS = frozenset(MEDIA_SUFFIXES), frozenset(SOUND_SUFFIXES)


class CorpusFiles:
    """The files below a folder. Each folder is read once, and no file is opened.

    Links are followed. Hidden files are left out, such as those that macOS leaves on other disks.

    Args:
        folder: of the corpus.
        source: address of the tables, for the message about a missing one.

    Attributes:
        root: absolute path of the folder, without links.
        archives: paths of archives, relative to the folder.
        problems: one line for each folder that cannot be read and each name that is not UTF-8.

    Raises:
        ManifestError: there is no such folder, or it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "audio").mkdir()
        ...     Path(folder, "audio", "rain.flac").touch()
        ...     files = CorpusFiles(Path(folder))
        ...     files.audio("rain"), files.audio("wind")
        ('audio/rain.flac', None)
    """

    def __init__(self, folder: Path, source: str = "") -> None:
        if not folder.is_dir():
            raise ManifestError(f"{folder}: no such folder: give the folder of the corpus")
        self.folder, self.source = folder, source
        self.root = os.path.realpath(folder)
        self.archives: list[str] = []
        self.problems: list[str] = []
        self._media: dict[str, str | list[str]] = {}
        self._others: dict[str, list[str]] = {}
        for directory, name in self._walk():
            self._add(directory, name)

    def _walk(self) -> Iterator[tuple[str, str]]:
        """Folder, relative and with a slash at its end, and name of every visible file."""
        to_visit, visited = [""], set[tuple[int, int] | str]()
        while to_visit:
            directory = to_visit.pop()
            path = Path(self.root, directory)
            try:
                status = path.stat()
                identity = (status.st_dev, status.st_ino) if status.st_ino else directory
                if identity in visited:
                    continue
                visited.add(identity)
                with os.scandir(path) as entries:
                    visible = sorted(
                        (entry.name, _is_folder(entry))
                        for entry in entries
                        if not entry.name.startswith(".")
                    )
            except OSError as error:
                reason = f"{shortened(path, 300)}: cannot be read: {error.strerror or error}"
                if not directory:
                    raise ManifestError(reason) from None
                self.problems.append(reason)
                continue
            to_visit.extend(f"{directory}{name}/" for name, is_dir in visible if is_dir)
            yield from ((directory, name) for name, is_dir in visible if not is_dir)

    def _add(self, directory: str, name: str) -> None:
        stem, suffix = _divided(name)
        path = directory + name
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError:
                self.problems.append(
                    f"{shortened(path, 300)}: its name is not UTF-8: rename the file"
                )
                return
        if suffix not in _MEDIA:
            self._others.setdefault(name, []).append(path)
            if suffix in ARCHIVE_SUFFIXES:
                self.archives.append(path)
            return
        key = normalized(stem)
        known = self._media.get(key)
        if known is None:
            self._media[key] = path
        elif isinstance(known, str):
            self._media[key] = [known, path]
        else:
            known.append(path)

    def media(self) -> list[str]:
        """Paths of all recordings, relative to the folder and sorted."""
        paths: list[str] = []
        for known in self._media.values():
            paths.extend([known] if isinstance(known, str) else known)
        return sorted(paths)

    def audio(self, stem: str, within: str = "") -> str | None:
        """The recording of a name.

        Args:
            stem: its name without the suffix.
            within: text that the name of one of its folders must contain.

        Returns:
            Its path, relative to the folder; None if there is none. Of several recordings, one
            that libsndfile reads is taken, and the first by its path.
        """
        paths = self.namesakes(stem)
        if within:
            paths = [path for path in paths if within in path.rpartition("/")[0]]
        return min(paths, key=_preference, default=None)

    def namesakes(self, stem: str) -> Sequence[str]:
        """All recordings of a name without suffix, relative to the folder."""
        known = self._media.get(normalized(stem), ())
        return [known] if isinstance(known, str) else known

    def recording(self, path: str) -> str | None:
        """The recording at a path.

        Args:
            path: relative to the folder or absolute, with slashes or with those of Windows.

        Returns:
            Its path, relative to the folder; None if there is none. Capital letters of the suffix
            do not count.
        """
        named = normalized(posixpath.normpath(path.replace("\\", "/")))
        named = named.removeprefix(f"{normalized(self.root)}/".replace("\\", "/"))
        copies = [
            each
            for each in self.namesakes(stem_of(path))
            if _divided(normalized(each)) == _divided(named)
        ]
        return min(copies, key=lambda each: normalized(each) != named, default=None)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name that is no recording."""
        return name in self._others

    def named(self, *suffixes: str) -> list[str]:
        """Paths of all files with one of these suffixes that are no recordings, sorted."""
        return sorted(
            path
            for name, paths in self._others.items()
            if name.lower().endswith(suffixes)
            for path in paths
        )

    def table(self, name: str) -> Path:
        """The file of this name. Of several, the one that is nearest to the folder is taken.

        Raises:
            ManifestError: there is none, or two are equally near.
        """
        paths = self._others.get(name)
        if not paths:
            way_out = f": get it from {self.source}" if self.source else ""
            raise ManifestError(f"{self.folder}: lacks the table {name}{way_out}")
        nearest = min(path.count("/") for path in paths)
        first, *others = sorted(path for path in paths if path.count("/") == nearest)
        if others:
            raise ManifestError(
                f"{self.folder}: holds two tables {name}, {shortened(first)} and "
                f"{shortened(others[0])}: give the folder of one version of the corpus"
            )
        return Path(self.root, first)

    def tables(self, *names: str) -> dict[str, Path]:
        """The files of these names that exist.

        Raises:
            ManifestError: there is none of them, or two of a name are equally near.
        """
        present = {name: self.table(name) for name in names if self.has(name)}
        if not present:
            self.table(names[0])  # raises
        return present

    def absolute(self, path: str) -> str:
        """The absolute path of a recording."""
        return str(Path(self.root, path))


def normalized(name: str) -> str:
    """A name in the form that all systems share: macOS writes ``é`` as two characters.

    Example:
        >>> normalized("cafe\\u0301") == normalized("caf\\xe9")
        True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem_of(name: str) -> str:
    """The name of a file without folders and suffix.

    Example:
        >>> stem_of("audio/rain.v2.wav")
        'rain.v2'
    """
    return _divided(name.replace("\\", "/").rpartition("/")[2])[0]


def _divided(name: str) -> tuple[str, str]:
    """Stem and suffix of a name, the suffix in small letters; ``Path`` is slower."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if stem and dot else (name, "")


def is_sound(path: str) -> bool:
    """Whether the name is that of a file that libsndfile reads.

    Example:
        >>> is_sound("rain.WAV"), is_sound("rain.m4a")
        (True, False)
    """
    return _divided(path)[1] in _SOUNDS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: its recording is unreadable, and the others are not
        return False


def _preference(path: str) -> tuple[bool, str]:
    return not is_sound(path), path
