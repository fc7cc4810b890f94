"""Readers of shards that others wrote, and of prepared corpora."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from fuzz import mutation
from fuzz.target import Files, Target
from singleout.data.sound_files import open_clip
from singleout.errors import AudioError, ManifestError
from singleout.shards import (
    Crops,
    PreparedCorpus,
    Sample,
    ShardWriter,
    index_shards,
    open_corpus,
    write_corpus,
)
from singleout.storage.locations import Location

DESCRIPTION: dict[str, Any] = {
    "caption": "rain", "alternatives": ["water"], "class": "water/rain", "split": "train",
    "labels": ["Rain", "Wind"], "sources": [{"label": "Rain", "path": "a.wav"}, {"label": "Wind"}],
    "dataset_info": {"split": "test"}, "seconds": 0.01, "text": "rain", "group": "g",
}  # fmt: skip
NAMES = (
    "a.wav",
    "a.json",
    "a.txt",
    "b.s1.flac",
    "b.mix.wav",
    "b.json",
    "c" * 120 + ".wav",
    "__x__",
)


def _sound(kind: str) -> bytes:
    noise = np.random.default_rng(0).normal(0, 3_000, 80).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, noise, 8_000, format=kind.upper())
    return file.getvalue()


def _tar(kind: int, contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5 if kind == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """The blocks that look like headers, with the checksums that ``tarfile`` wants."""
    fixed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        if b"ustar" in fixed[start + 250 : start + 270]:
            fixed[start + 148 : start + 156] = b" " * 8
            total = sum(fixed[start : start + 512])
            fixed[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(fixed)


def _read_all(corpus: PreparedCorpus) -> None:
    for clip in corpus.clips:
        assert 0 < clip.seconds < float("inf"), "an impossible length"
        assert clip.label, "a clip without a label"
        with suppress(AudioError), open_clip(clip) as sound:
            sound.seek(sound.frames // 2)
            assert sound.read(10, "float32", always_2d=True).ndim == 2, "samples of no shape"


class Tar(Target):
    """Shards of other people."""

    name = "tar"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        text = json.dumps(DESCRIPTION).encode()
        sounds = {
            name: _sound(name[-4:].strip(".")) for name in NAMES if name[-3:] in ("wav", "lac")
        }
        contents = {name: sounds.get(name, text) for name in NAMES}
        self.seeds = [_tar(kind, contents) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]

    def make(self, random: Random) -> Files:
        data = mutation.mutated_bytes(random, self.seeds)
        return {"0.tar": data if random.random() < 0.3 else _with_checksums(data)}

    def read(self, folder: Path) -> None:
        out = folder / "corpus"
        try:
            index_shards([str(folder / "0.tar")], Location(out))
            _read_all(open_corpus(out))
        finally:
            shutil.rmtree(out, ignore_errors=True)


class Corpus(Target):
    """Prepared corpora."""

    name = "corpus"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        self.folder = folder / "prepared"
        out = Location(self.folder)
        with ShardWriter(out / "shards", "0") as shard:
            for number, kind in enumerate(("flac", "wav", "wav")):
                table = np.ones((1, 4), np.float16)
                sample = Sample(f"{number}", _sound(kind), kind, 8_000, 80, DESCRIPTION, table)  # type: ignore[arg-type]
                shard.add(sample)
        write_corpus(out, ["0"], {}, Crops("e", 1.0, 1.0))
        self.files = {name: (out / name).read() for name in out.names()}

    def make(self, random: Random) -> Files:
        name = random.choice([name for name in self.files if name != "report.jsonl"])
        files = dict(self.files)
        if name == "corpus.json":
            text = mutation.mutated_json(random, [json.loads(files[name])])
            files[name] = text.encode(errors="surrogatepass")
            return files
        files[name] = mutation.mutated_bytes(random, [files[name]])
        content = json.loads(files["corpus.json"])
        facts = content["index"] if name.startswith("index") else content["embeddings"][0]
        facts |= {"size": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        files["corpus.json"] = json.dumps(content).encode()
        return files

    def read(self, folder: Path) -> None:
        shutil.copytree(self.folder / "shards", folder / "shards", dirs_exist_ok=True)
        try:
            corpus = open_corpus(folder)
            _read_all(corpus)
            with suppress(ManifestError):
                corpus.check_splits()
            for crops in corpus.tables:
                table = corpus.split("train").embeddings(crops)
                assert table is not None, "a table that is not there"
                for number in range(len(table.offsets) - 1):
                    if table.count(number):
                        table.of(number, 0)
        finally:
            shutil.rmtree(folder / "shards")
