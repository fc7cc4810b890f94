"""Read a .deb as a stream and copy its audio, also that inside the archives of games.

Packages of a gigabyte have a few megabytes of sounds, so the tar is never unpacked as a whole.
Audio files are copied, archives are searched in a temporary file, and all other files are skipped.
"""

import posixpath
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from recipes.sounds.fetch import RecipeError, last_line

AUDIO_SUFFIXES = (
    *(".aac", ".aif", ".aifc", ".aiff", ".au", ".flac", ".m4a", ".mp3"),
    *(".oga", ".ogg", ".opus", ".snd", ".wav", ".wave", ".wma"),
)
ZIP_MAGIC, RCC_MAGIC = b"PK\x03\x04", b"qres"
C4GROUP_MAGICS = (b"\x1e\x8c", b"\x1f\x8b")
C4GROUP_SUFFIXES = (".ocd", ".ocf", ".ocg", ".ocs", ".c4d", ".c4f", ".c4g", ".c4s")
ARCHIVE_ERRORS = (ValueError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)

Member = tuple[str, bytes]


def is_audio(path: str) -> bool:
    """Whether the name is that of an audio file."""
    return posixpath.splitext(path)[1].lower() in AUDIO_SUFFIXES


def zip_members(archive: IO[bytes]) -> Iterator[Member]:
    """Audio of a zip file (pk3, pk4 and wz are zip files too)."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if is_audio(name):
                yield name, file.read(name)


def rcc_members(archive: IO[bytes]) -> Iterator[Member]:
    """Audio of a Qt resource file: a tree of fixed-size nodes, big-endian, children adjacent."""
    data = archive.read()
    version, tree, blobs, names = struct.unpack_from(">4I", data, 4)
    node_bytes = 14 if version == 1 else 22  # later versions append a modification time

    def walk(index: int, folder: str) -> Iterator[Member]:
        node = tree + index * node_bytes
        name_offset, flags = struct.unpack_from(">IH", data, node)
        (length,) = struct.unpack_from(">H", data, names + name_offset)
        start = names + name_offset + 6  # length, then a 32-bit hash
        name = data[start : start + 2 * length].decode("utf-16-be") if index else ""
        path = posixpath.join(folder, name)
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", data, node + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif is_audio(path):
            (offset,) = struct.unpack_from(">I", data, node + 10)
            (size,) = struct.unpack_from(">I", data, blobs + offset)
            blob = data[blobs + offset + 4 : blobs + offset + 4 + size]
            if flags & 4:
                raise ValueError(f"zstd compression of {path} is not supported")
            yield path, zlib.decompress(blob[4:]) if flags & 1 else blob

    yield from walk(0, "")


def c4group_members(archive: IO[bytes]) -> Iterator[Member]:
    """Audio of an OpenClonk group: gzip with another magic, a scrambled header, nested groups."""
    data = archive.read()
    if data[:2] in C4GROUP_MAGICS:
        data = zlib.decompressobj(31).decompress(b"\x1f\x8b" + data[2:])
    return _c4group_walk(data, "")


def _c4group_walk(data: bytes, folder: str) -> Iterator[Member]:
    header_bytes, entry_bytes = 204, 316
    header = bytearray(byte ^ 237 for byte in data[:header_bytes])
    for i in range(0, len(header) - 2, 3):
        header[i], header[i + 2] = header[i + 2], header[i]
    if not header.startswith(b"RedWolf Design GrpFolder"):
        raise ValueError("not an OpenClonk group")
    (count,) = struct.unpack_from("<i", header, 36)
    contents = header_bytes + entry_bytes * count
    for start in range(header_bytes, contents, entry_bytes):
        name = data[start : start + 257].split(b"\0")[0].decode("latin-1")
        is_group, size, _, offset = struct.unpack_from("<4i", data, start + 264)
        member = data[contents + offset : contents + offset + size]
        path = posixpath.join(folder, name)
        if is_group:
            yield from _c4group_walk(member, path)
        elif is_audio(path):
            yield path, member


def archive_reader(name: str, head: bytes) -> Callable[[IO[bytes]], Iterator[Member]] | None:
    """The reader of an archive, by its first bytes: games use many suffixes for zip files."""
    if head.startswith(ZIP_MAGIC):
        return zip_members
    if head.startswith(RCC_MAGIC):
        return rcc_members
    if head[:2] in C4GROUP_MAGICS and posixpath.splitext(name)[1].lower() in C4GROUP_SUFFIXES:
        return c4group_members
    return None


class AudioTree:
    """Audio files of one package: path inside the package -> file in a scratch folder."""

    def __init__(self, scratch_dir: Path) -> None:
        self.files: dict[str, Path] = {}
        self.links: dict[str, str] = {}
        self.broken_archives: list[str] = []
        self._scratch_dir = scratch_dir

    def add(self, path: str, content: IO[bytes] | bytes) -> None:
        """Copy an audio file. Its new name is a number, because paths may differ only in case."""
        target = self._scratch_dir / f"{len(self.files)}{posixpath.splitext(path)[1].lower()}"
        with target.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                shutil.copyfileobj(content, file)
        self.files[path] = target

    def add_archive(self, path: str, content: IO[bytes], head: bytes) -> None:
        """Copy the audio of a file if it is an archive; a broken archive is recorded."""
        if (reader := archive_reader(path, head)) is None:
            return
        with tempfile.TemporaryFile(dir=self._scratch_dir) as spool:
            spool.write(head)
            shutil.copyfileobj(content, spool, 1 << 20)
            spool.seek(0)
            try:
                for name, member in reader(spool):
                    self.add(posixpath.join(path, name), member)
            except ARCHIVE_ERRORS as error:
                self.broken_archives.append(f"{path}: {error}")

    def resolve_links(self) -> None:
        """Add links to audio files, after the stream, because a target may follow its link."""
        for path, target in self.links.items():
            for _ in range(8):
                if target in self.files:
                    self.files[path] = self.files[target]
                    break
                target = self.links.get(target, "")


@contextmanager
def open_deb(deb_path: Path) -> Iterator[tarfile.TarFile]:
    """The files of a .deb as a stream.

    Raises:
        RecipeError: the file cannot be read to its end.
    """
    package = deb_path.name.split("_")[0]
    if not deb_path.is_file():
        raise RecipeError(f"{package}: no such file: {deb_path}")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", deb_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as tar:
                yield tar
            while process.stdout.read(1 << 20):  # padding; a closed pipe would fail dpkg-deb
                pass
        except tarfile.TarError as error:
            message = last_line(process.stderr.read().decode(errors="replace")) or str(error)
            raise RecipeError(f"{package}: cannot read {deb_path.name}: {message}") from None
        message = last_line(process.stderr.read().decode(errors="replace"))
        if process.wait():
            raise RecipeError(f"{package}: cannot read {deb_path.name}: {message}")


def unpack_audio(deb_path: Path, scratch_dir: Path) -> AudioTree:
    """Copy every audio file of a .deb into `scratch_dir`."""
    tree = AudioTree(scratch_dir)
    with open_deb(deb_path) as tar:
        for member in tar:
            _add_member(tree, tar, member)
    tree.resolve_links()
    return tree


def unpack_file(deb_path: Path, path: str, target: Path) -> None:
    """Copy one file of a .deb.

    Raises:
        RecipeError: the package does not contain it.
    """
    with open_deb(deb_path) as tar:
        for member in tar:
            if posixpath.normpath(member.name) == path and (content := tar.extractfile(member)):
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    if not target.is_file():
        raise RecipeError(f"{deb_path.name.split('_')[0]}: {deb_path.name} holds no {path}")


def _add_member(tree: AudioTree, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = posixpath.normpath(member.name)
    if member.issym() and is_audio(path):
        target = posixpath.join("/", posixpath.dirname(path), member.linkname)
        tree.links[path] = posixpath.normpath(target).lstrip("/")
    elif member.islnk() and is_audio(path):
        tree.links[path] = posixpath.normpath(member.linkname)
    elif member.isfile() and (content := tar.extractfile(member)) is not None:
        if is_audio(path):
            tree.add(path, content)
        else:
            tree.add_archive(path, content, content.read(4))


def match_tail(path: str, paths_by_name: dict[str, list[str]], paths: set[str]) -> str | None:
    """The path of a package that a path of the captions stands for.

    It is the same path, or the path that shares the longest tail with it: paths of the captions
    begin below an archive or below `usr/share`, so only tails compare.

    Args:
        path: of the captions.
        paths_by_name: paths of the package by file name.
        paths: of the package.
    """
    if path in paths:
        return path
    parts = PurePosixPath(path).parts[::-1]

    def shared_parts(other: str) -> int:
        pairs = zip(parts, PurePosixPath(other).parts[::-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(parts))

    candidates = paths_by_name.get(parts[0], [])
    return max(sorted(candidates), key=shared_parts, default=None)


def match_paths(captioned: list[str], paths: set[str]) -> dict[str, str | None]:
    """`match_tail` for many paths."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(posixpath.basename(path), []).append(path)
    return {path: match_tail(path, by_name, paths) for path in captioned}
