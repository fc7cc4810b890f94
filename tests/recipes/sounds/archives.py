"""Small sounds, archives and packages, made by the tests."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 44_100
Samples = NDArray[np.float32]


def noise(seconds: float, seed: int = 0, level: float = 0.3) -> Samples:
    random = np.random.default_rng(seed)
    size = round(seconds * RATE_HZ)
    return (level * random.uniform(-1, 1, size)).astype(np.float32)


def wav_bytes(samples: Samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV")
    return file.getvalue()


# Archives


def make_c4group(members: dict[str, bytes | dict[str, bytes]], pack: bool = True) -> bytes:
    header = bytearray(204)
    header[:24] = b"RedWolf Design GrpFolder"
    struct.pack_into("<iii", header, 28, 1, 2, len(members))
    for i in range(0, len(header) - 2, 3):
        header[i], header[i + 2] = header[i + 2], header[i]
    entries, contents = b"", b""
    for name, member in members.items():
        blob = make_c4group(dict(member), pack=False) if isinstance(member, dict) else member
        entry = bytearray(316)
        entry[: len(name)] = name.encode()
        is_group = int(isinstance(member, dict))
        struct.pack_into("<iiiii", entry, 260, 0, is_group, len(blob), 0, len(contents))
        entries += bytes(entry)
        contents += blob
    data = bytes(byte ^ 237 for byte in header) + entries + contents
    return b"\x1e\x8c" + gzip.compress(data)[2:] if pack else data


def make_rcc(folder: str, files: dict[str, bytes], flags: int = 0) -> bytes:
    """A version 1 resource: root -> folder -> files."""
    names, name_offsets = b"", []
    for name in (folder, *files):
        name_offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    blobs, blob_offsets = b"", []
    for content in files.values():
        blob_offsets.append(len(blobs))
        if flags & 1:
            content = struct.pack(">I", len(content)) + zlib.compress(content)
        blobs += struct.pack(">I", len(content)) + content
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(
        ">IHII", name_offsets[0], 2, len(files), 2
    )
    for name_offset, blob_offset in zip(name_offsets[1:], blob_offsets, strict=True):
        tree += struct.pack(">IHHHI", name_offset, flags, 0, 0, blob_offset)
    starts = (20, 20 + len(tree), 20 + len(tree) + len(blobs))
    return b"qres" + struct.pack(">4I", 1, *starts) + tree + blobs + names


def make_zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_deb(
    folder: Path, package: str, files: dict[str, bytes], links: dict[str, str] | None = None
) -> Path:
    root = folder / f"root-{package}"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    for path, target in (links or {}).items():
        (root / path).symlink_to(target)
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: test\n"
    )
    debs_dir = folder / "debs"
    debs_dir.mkdir(exist_ok=True)
    deb_path = debs_dir / f"{package}_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", root, deb_path], check=True, capture_output=True)
    return deb_path
