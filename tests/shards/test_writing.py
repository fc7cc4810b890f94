"""Shards and their sidecars."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from singleout.errors import InputError, OutputError
from singleout.shards import (
    Sample,
    ShardWriter,
    is_finished,
    open_corpus,
    read_sidecar,
    write_corpus,
)
from singleout.shards.tars import scan_samples
from singleout.shards.writing import check_sidecars, read_npy
from singleout.storage.locations import Location
from tests.cli.commands import file_size_limit
from tests.shards.corpora import descriptions, samples, write_shards


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_have_the_same_bytes_on_a_disk_and_in_a_store(tmp_path: Path) -> None:
    made = samples(descriptions(4), "flac", crops=3)
    names = write_shards(Location(tmp_path), made)
    write_shards(Location(tmp_path / "again"), made)
    expected = contents(tmp_path / "shards")
    assert sorted(expected) == sorted(f"{n}.{s}" for n in names for s in ("json", "npy", "tar"))
    assert contents(tmp_path / "again" / "shards") == expected
    store = Location(f"memory://{tmp_path.name}")
    write_shards(store, made)
    shards = store / "shards"
    assert {name: (shards / name).read() for name in shards.names()} == expected


def test_a_sidecar_states_what_is_in_the_shard(tmp_path: Path) -> None:
    made = samples(descriptions(3), "flac", crops=3)
    (name,) = write_shards(Location(tmp_path), made)
    shards = Location(tmp_path) / "shards"
    sidecar = read_sidecar(shards, name)
    tar = (shards / f"{name}.tar").read()
    assert sidecar["size"] == len(tar)
    assert sidecar["report"] == [{"row": 0, "note": "first"}]
    table = read_npy(shards / f"{name}.npy", sidecar["embeddings"])
    assert sum(row["crops"] for row in sidecar["rows"]) == len(table)
    scanned = list(scan_samples(shards / f"{name}.tar"))
    for sample, row, scan in zip(made, sidecar["rows"], scanned, strict=True):
        assert row["key"] == scan.key == sample.key
        assert row["members"] == {s: [m.offset, m.size] for s, m in scan.members.items()}
        parts = {s: tar[offset : offset + size] for s, (offset, size) in row["members"].items()}
        assert list(parts) == sorted(parts) == ["flac", "json", "npy"]
        assert parts["flac"] == sample.audio
        assert json.loads(parts["json"]) == row["description"] == sample.description
        (tmp_path / "one.npy").write_bytes(parts["npy"])
        assert (np.load(tmp_path / "one.npy") == sample.embeddings).all()


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    made = samples(descriptions(2))
    for out in (Location(tmp_path), Location(f"memory://{tmp_path.name}-none")):
        shards = out / "shards"
        with suppress(KeyError), ShardWriter(shards, "0") as shard:
            shard.add(made[0])
            raise KeyError
        assert shards.names() == []
        assert not is_finished(shards, "0")


def test_keys_ascend(tmp_path: Path) -> None:
    first, second = samples(descriptions(2))
    with ShardWriter(Location(tmp_path), "0") as shard:
        shard.add(second)
        with pytest.raises(ValueError, match="follows"):
            shard.add(first)


def test_a_shard_without_its_tail_or_its_sidecar_is_not_finished(tmp_path: Path) -> None:
    (name,) = write_shards(Location(tmp_path), samples(descriptions(1)))
    shards = Location(tmp_path) / "shards"
    assert is_finished(shards, name)
    tar, sidecar = (shards.path / f"{name}.{suffix}" for suffix in ("tar", "json"))
    for path in (tar, sidecar):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert not is_finished(shards, name)
        path.unlink()
        assert not is_finished(shards, name)
        path.write_bytes(content)
        assert is_finished(shards, name)
    for wrong in (b"[]", b"{", b'{"format":0}', b"\xff"):
        sidecar.write_bytes(wrong)
        assert not is_finished(shards, name)
        with pytest.raises(InputError, match=r"json: is .*prepare the corpus again"):
            read_sidecar(shards, name)


def test_a_shard_with_damaged_sidecars_is_not_finished(tmp_path: Path) -> None:
    (name,) = write_shards(Location(tmp_path), samples(descriptions(2), crops=2))
    shards = Location(tmp_path) / "shards"
    sidecar, table = (shards.path / f"{name}.{suffix}" for suffix in ("json", "npy"))
    edited = sidecar.read_bytes().replace(b"sound number 1", b"sound number 7")
    for path, wrong in [
        (sidecar, edited),
        (sidecar, edited.replace(b'"rows"', b'"none"')),
        (sidecar, sidecar.read_bytes() + b" "),
        (table, table.read_bytes()[:-1]),
        (table, table.read_bytes()[:-1] + b"\x7f"),
    ]:
        content = path.read_bytes()
        path.write_bytes(wrong)
        assert not is_finished(shards, name)
        with pytest.raises(InputError, match=f"{path.name}: is damaged"):
            check_sidecars(shards, name)
        path.write_bytes(content)
        assert is_finished(shards, name)
    table.unlink()
    assert not is_finished(shards, name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"), ShardWriter(Location(tmp_path / "file"), "0"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_kill_leaves_no_shard_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    code = f"""
import os, signal
from singleout.shards import Sample, ShardWriter
from singleout.storage.locations import Location
with ShardWriter(Location({str(tmp_path)!r}), "0") as shard:
    shard.add(Sample("0", bytes(5_000), "wav", 1, 1, {{}}))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tar", ".json")]
    with ShardWriter(Location(tmp_path), "0") as shard:
        shard.add(Sample("0", bytes(5_000), "wav", 1, 1, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "0.tar"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX processes")
def test_a_full_disk_leaves_no_shard_and_is_named(tmp_path: Path) -> None:
    (sample,) = samples(descriptions(1))
    writer = ShardWriter(Location(tmp_path), "0")
    with file_size_limit(5_000), pytest.raises(OutputError, match=r"0\.tar: cannot be written"):
        _write_all(writer, [sample])
    assert list(tmp_path.iterdir()) == []
    _write_all(ShardWriter(Location(tmp_path), "0"), [sample])
    assert is_finished(Location(tmp_path), "0")


def _write_all(writer: ShardWriter, made: list[Sample]) -> None:
    with writer as shard:
        for sample in made:
            shard.add(sample)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX processes")
def test_a_full_disk_leaves_no_index_and_is_named(tmp_path: Path) -> None:
    out = Location(tmp_path)
    names = write_shards(out, samples(descriptions(7)))
    with file_size_limit(1_000), pytest.raises(OutputError, match="set TMPDIR to a folder"):
        write_corpus(out, names, {})
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    write_corpus(out, names, {})
    assert len(open_corpus(tmp_path).clips) == 7
