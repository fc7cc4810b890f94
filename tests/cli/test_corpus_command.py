"""``singleout corpus``: the manifest, the list of what is missing, the table and the refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from singleout.data.manifest import read_manifest
from tests.cli.commands import check_refused, file_size_limit, posix, run
from tests.corpora.replicas import audiocaps, esc50, sound, table


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_manifest_and_list_of_what_is_missing(tmp_path: Path) -> None:
    data, manifest = audiocaps(tmp_path / "data"), tmp_path / "new" / "audiocaps.jsonl"
    result = run("corpus", "audiocaps", "--data", data, "-o", manifest)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "AudioCaps 1.0: 11 clips, 0.0 h (train 9, validation 1, test 1)"
    assert lines[2].split() == [
        *("part", "published", "listed", "on", "disk", "missing", "unreadable"),
        *("left", "out", "usable"),
    ]
    assert lines[3].split() == ["train", "49,838", "11", "10", "1", "1", "0", "9"]
    missing = manifest.with_name("audiocaps.missing.jsonl")
    assert lines[6] == f"{manifest}; clips that are not in it: {missing}"
    assert all(line.startswith("note: ") for line in lines[7:])
    assert "note: train: the tables list 11 clips, and 49,838 are published" in lines
    assert len(read_manifest(manifest)) == 11
    assert read_rows(manifest)[0]["path"] == "../data/train/videoTRAIN0_0.wav"
    assert read_rows(missing) == [
        {
            "part": "train",
            "name": "gonegonegon_0",
            "status": "missing",
            "reason": "the folder has no file for it",
            "address": "https://www.youtube.com/watch?v=gonegonegon",
        },
        {
            "part": "train",
            "name": "badbadbadba_0",
            "status": "unreadable",
            "reason": "cannot be read as audio: Format not recognised",
            "address": "https://www.youtube.com/watch?v=badbadbadba",
            "path": os.path.realpath(data / "train/badbadbadba_0.wav"),
        },
    ]


def test_json(tmp_path: Path) -> None:
    data, manifest = esc50(tmp_path / "data"), tmp_path / "esc50.jsonl"
    missing = tmp_path / "lists" / "gone.jsonl"
    arguments = ("corpus", "esc50", "--data", data, "-o", manifest, "--missing", missing)
    result = run(*arguments, "--json")
    summary = json.loads(result.stdout)
    assert summary["clips"] == 5
    assert summary["splits"] == {"train": 3, "validation": 1, "test": 1}
    assert summary["parts"]["fold 5"]["published"] == 400
    assert summary["license"].startswith("CC BY-NC 3.0")
    assert missing.read_text() == ""


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    data, manifest = audiocaps(tmp_path / "data"), tmp_path / "audiocaps.jsonl"
    contents = []
    for _ in range(2):
        assert run("corpus", "audiocaps", "--data", data, "-o", manifest).exit_code == 0
        contents.append(manifest.read_bytes())
    assert contents[0] == contents[1]


def test_the_manifest_moves_with_its_sounds_through_links(tmp_path: Path) -> None:
    data = esc50(tmp_path / "disk" / "data")
    (tmp_path / "link").symlink_to(data)
    manifest = tmp_path / "manifests" / "esc50.jsonl"
    assert run("corpus", "esc50", "--data", tmp_path / "link", "-o", manifest).exit_code == 0
    assert len(read_manifest(manifest)) == 5


def test_a_folder_with_a_table_of_captions(tmp_path: Path) -> None:
    sound(tmp_path / "data" / "a.wav")
    captions = table(tmp_path / "captions.csv", "name,what\na.wav,a dog barks\nb.wav,rain\n")
    arguments = ("corpus", "folder", "--data", tmp_path / "data", "-o", tmp_path / "m.jsonl")
    columns = ("--column", "path=name", "--column", "caption=what")
    result = run(*arguments, "--captions", captions, *columns, "--json")
    assert json.loads(result.stdout)["parts"]["train"]["missing"] == 1
    assert read_rows(tmp_path / "m.jsonl")[0]["caption"] == "a dog barks"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["esc51"], "the corpus 'esc51' is unknown: it is one of audiocaps, "),
        (["esc50", "--data", "no/folder"], "no/folder: no such folder: give the folder of"),
        (["esc50"], "lacks the table esc50.csv: get it from https://github.com/karolpiczak"),
        (["esc50", "--captions", "a.csv"], "belongs to the layout 'folder', not to 'esc50'"),
        (["esc50", "--column", "caption=a"], "'esc50' has known columns"),
        (["folder"], "holds no recordings"),
        (["huggingface"], "holds no recordings"),
        (["folder", "--column", "colour=a"], "the key 'colour' is unknown: a column is one of"),
        (["folder", "--captions", "no.csv"], "no.csv: cannot be read as a table: No such file"),
        (["folder", "--captions", "no.txt"], "no.txt: captions come in a .csv, .tsv, .jsonl"),
    ],
)
def test_refusals(arguments: list[str], reason: str, tmp_path: Path) -> None:
    if arguments == ["folder", "--column", "colour=a"]:
        sound(tmp_path / "data" / "a.wav")
    (tmp_path / "data").mkdir(exist_ok=True)
    data = [] if "--data" in arguments else ["--data", tmp_path / "data"]
    manifest = tmp_path / "manifest.jsonl"
    check_refused(run("corpus", *arguments, *data, "-o", manifest), reason)
    assert not manifest.exists()


def test_an_output_that_cannot_be_one(tmp_path: Path) -> None:
    data = esc50(tmp_path / "data")
    check_refused(run("corpus", "esc50", "--data", data, "-o", data), "is a folder")
    manifest = tmp_path / "m.jsonl"
    result = run("corpus", "esc50", "--data", data, "-o", manifest, "--missing", manifest)
    assert (result.exit_code, result.stdout) == (2, "")
    captions = table(tmp_path / "captions.csv", "file\n")
    result = run("corpus", "folder", "--data", data, "-o", captions, "--captions", captions)
    check_refused(result, "would overwrite")
    assert captions.read_text() == "file\n"
    result = run("corpus", "folder", "--data", data, "-o", manifest, "--column", "caption")
    assert result.exit_code == 2
    assert "write KEY=NAME" in result.stderr


def test_a_corpus_without_usable_sounds_leaves_the_old_manifest(tmp_path: Path) -> None:
    data, manifest = esc50(tmp_path / "data"), tmp_path / "m.jsonl"
    assert run("corpus", "esc50", "--data", data, "-o", manifest).exit_code == 0
    old = {path: path.read_bytes() for path in tmp_path.glob("m.*")}
    for path in data.rglob("*.wav"):
        path.write_bytes(b"")
    check_refused(run("corpus", "esc50", "--data", data, "-o", manifest), "5 are unreadable")
    assert {path: path.read_bytes() for path in tmp_path.glob("m.*")} == old


@pytest.mark.parametrize("option", ["-o", "--missing"])
def test_tables_of_the_corpus_are_never_replaced(option: str, tmp_path: Path) -> None:
    data, manifest = audiocaps(tmp_path / "data"), tmp_path / "m.jsonl"
    metadata = table(data / "metadata.jsonl", '{"file_name": "a.wav"}\n')
    for path in (data / "train.csv", metadata, data / "train" / "videoTRAIN0_0.wav"):
        content = path.read_bytes()
        arguments = ["-o", path] if option == "-o" else ["-o", manifest, "--missing", path]
        result = run("corpus", "audiocaps", "--data", data, *arguments)
        check_refused(result, "exists, and is no earlier result: choose another name")
        assert path.read_bytes() == content
    assert not manifest.exists()


@posix
def test_a_full_disk_leaves_no_half_manifest(tmp_path: Path) -> None:
    data, manifest = esc50(tmp_path / "data"), tmp_path / "m.jsonl"
    with file_size_limit(300):
        result = run("corpus", "esc50", "--data", data, "-o", manifest)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/m.")
    assert ": cannot be written: " in line
    assert not manifest.exists()
