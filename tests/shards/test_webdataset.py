"""The package webdataset reads our shards, and we read what it writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from singleout.data.sound_files import open_clip
from singleout.shards import Crops, index_shards, open_corpus
from singleout.storage.locations import Location
from tests.shards.corpora import RATE, descriptions, encoded, noise, prepare

webdataset = pytest.importorskip("webdataset")
# It leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_webdataset_reads_ours(tmp_path: Path) -> None:
    prepare(tmp_path, 7, "flac", Crops("encoder-1", 1.0, 0.5))
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    read = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    read_samples: list[dict[str, Any]] = list(read)
    assert [sample["__key__"] for sample in read_samples] == [f"{i:09d}" for i in range(7)]
    for i, (sample, row) in enumerate(zip(read_samples, descriptions(7), strict=True)):
        assert sample["json"] == row
        assert sample["npy"].dtype == np.float16
        assert sample["flac"] == encoded(noise(i, row["seconds"]), "flac")


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    rows = descriptions(7)
    pattern = str(tmp_path / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as shards:
        for i, row in enumerate(rows):
            audio = encoded(noise(i, row["seconds"]), "wav")
            key = f"folder {i % 2}/sound {i}"
            shards.write({"__key__": key, "wav": audio, "json": row, "txt": row["caption"]})
    paths = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert index_shards(paths, Location(tmp_path / "corpus")) == 7
    corpus = open_corpus(tmp_path / "corpus")
    clips = [*corpus.split("train"), *corpus.split("validation")]
    order = [i for i in range(7) if i != 4] + [4]
    for clip, i in zip(clips, order, strict=True):
        row = rows[i]
        assert clip.captions == (row["caption"], *row["alternatives"])
        assert (clip.has_class, clip.split) == (row["class"] is not None, row["split"])
        assert clip.path.parts[-2:] == (f"folder {i % 2}", f"sound {i}.wav")
        with open_clip(clip) as sound:
            samples = sound.read(sound.frames, "float32", always_2d=True)[:, 0]
        assert (samples == noise(i, row["seconds"]) / np.float32(32_768)).all()


def test_members_are_read_by_other_readers_of_tar_files(tmp_path: Path) -> None:
    prepare(tmp_path, 1)
    (path,) = (tmp_path / "shards").glob("*.tar")
    with path.open("rb") as file:
        members = dict(_members(file))
    assert sorted(members) == ["000000000.json", "000000000.wav"]
    assert json.loads(members["000000000.json"]) == descriptions(1)[0]
    assert members["000000000.wav"] == encoded(noise(0, 0.3), "wav", RATE)


def _members(file: io.BufferedReader) -> list[tuple[str, bytes]]:
    """A reader of nothing but the ustar standard."""
    members = []
    while (header := file.read(512)) and any(header):
        size = int(header[124:135], 8)
        content = file.read(size + -size % 512)[:size]
        members.append((header[:100].rstrip(b"\0").decode(), content))
    return members
