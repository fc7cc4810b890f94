"""The layouts of Hugging Face's ``datasets``: plain, Parquet and ``save_to_disk``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from singleout.corpora import ReadOptions, read_corpus
from singleout.errors import ManifestError, MissingExtraError, OutputError
from tests.corpora.replicas import sound, table

FEATURES = {
    "audio": {"sampling_rate": 16_000, "_type": "Audio"},
    "label": {"names": ["dog", "rain"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
}


def rows(folder: Path, **options: Any) -> list[dict[str, Any]]:
    return read_corpus("huggingface", folder, ReadOptions(**options)).rows


def held(tmp_path: Path, *, is_whole: bool = True) -> pyarrow.Table:
    """Two recordings as ``datasets`` holds them, with the names of classes in the schema."""
    paths = [sound(tmp_path / "made" / name) for name in ("0.wav", "1.flac")]
    audio = [
        {"bytes": path.read_bytes() if is_whole else b"torn", "path": path.name} for path in paths
    ]
    made = pyarrow.table(
        {
            "audio": pyarrow.array(
                audio, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            ),
            "label": [0, 1],
            "text": ["a dog barks", "it rains"],
        }
    )
    return made.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    )


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    for name in ("data/train/dog/1.wav", "data/validation/rain/2.wav", "data/test/dog/3.wav"):
        sound(tmp_path / name)
    made = rows(tmp_path)
    assert [row["split"] for row in made] == ["test", "train", "validation"]
    assert [row["class"] for row in made] == ["dog", "dog", "rain"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_in_the_folders_of_splits(kind: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        listed = [{"file_name": "audio/1.wav", "text": f"{split} one"}, {"file_name": "2.wav"}]
        path = tmp_path / split / f"metadata.{kind}"
        path.parent.mkdir()
        if kind == "csv":
            table(path, f"file_name,text\naudio/1.wav,{split} one\n2.wav,\n")
        elif kind == "jsonl":
            table(path, "\n".join(map(json.dumps, listed)))
        else:
            parquet.write_table(pyarrow.Table.from_pylist(listed), path)
        sound(tmp_path / split / "audio" / "1.wav")
    corpus = read_corpus("huggingface", tmp_path)
    assert [row["caption"] for row in corpus.rows] == ["test one", "train one"]
    assert [row["split"] for row in corpus.rows] == ["test", "train"]
    assert [row["name"] for row in corpus.problems] == ["test/2.wav", "train/2.wav"]


def test_metadata_at_the_root(tmp_path: Path) -> None:
    sound(tmp_path / "valid" / "1.wav")
    table(tmp_path / "metadata.csv", "file_name,transcription\nvalid/1.wav,a dog\n")
    [row] = rows(tmp_path, columns={"caption": "transcription"})
    assert (row["caption"], row["split"]) == ("a dog", "validation")


def test_parquet_with_recordings(tmp_path: Path) -> None:
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        parquet.write_table(held(tmp_path), data / f"{split}-00000-of-00001.parquet")
    audio = tmp_path / "sounds"
    made = rows(tmp_path / "set", audio=audio)
    assert [row["split"] for row in made] == ["test", "test", "train", "train"]
    assert [row["class"] for row in made[:2]] == ["dog", "rain"]
    assert [row["caption"] for row in made[:2]] == ["a dog barks", "it rains"]
    names = [Path(row["path"]).relative_to(audio).as_posix() for row in made[2:]]
    stem = "data-train-00000-of-00001"
    assert names == [f"{stem}/000000000.wav", f"{stem}/000000001.flac"]
    assert Path(made[2]["path"]).read_bytes() == (tmp_path / "made" / "0.wav").read_bytes()
    before = [Path(row["path"]).stat().st_mtime_ns for row in made]
    again = rows(tmp_path / "set", audio=audio)  # files that are there stay
    assert [Path(row["path"]).stat().st_mtime_ns for row in again] == before


def test_recordings_of_another_data_set_are_replaced(tmp_path: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for name, seed in (("old", 1), ("new", 2)):
        content = sound(tmp_path / f"{name}.wav", seed).read_bytes()
        audio = pyarrow.array([{"bytes": content, "path": "0.wav"}], kind)
        (tmp_path / name).mkdir()
        parquet.write_table(pyarrow.table({"audio": audio}), tmp_path / name / "train.parquet")
        [row] = rows(tmp_path / name, audio=tmp_path / "sounds")
        assert Path(row["path"]).read_bytes() == content
    assert (tmp_path / "old.wav").stat().st_size == (tmp_path / "new.wav").stat().st_size


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_what_save_to_disk_writes(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    table(folder / "dataset_dict.json", '{"splits": ["train"]}')
    table(folder / "train" / "state.json", "{}")
    path = folder / "train" / "data-00000-of-00001.arrow"
    made = held(tmp_path)
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(str(path), made.schema) as writer:
        writer.write_table(made)
    listed = rows(folder)
    assert [row["class"] for row in listed] == ["dog", "rain"]
    assert Path(listed[0]["path"]).parent.parent.name == "extracted_audio"
    assert len(rows(folder)) == 2  # the files that were written are no clips of their own
    shutil.copy(path, path.with_name("cache-0a1b2c.arrow"))  # as map leaves it
    assert len(rows(folder)) == 2


def test_rows_that_name_their_files(tmp_path: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    audio = [{"bytes": None, "path": "/home/me/1.wav"}, {"bytes": None, "path": None}, None]
    made = pyarrow.table({"audio": pyarrow.array(audio, kind), "text": ["a", "b", "c"]})
    parquet.write_table(made, tmp_path / "train.parquet")
    sound(tmp_path / "1.wav")
    corpus = read_corpus("huggingface", tmp_path)
    assert [row["caption"] for row in corpus.rows] == ["a"]
    assert [row["status"] for row in corpus.problems] == ["missing", "missing"]


def test_torn_recordings_are_problems(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    parquet.write_table(held(tmp_path, is_whole=False), tmp_path / "set" / "test.parquet")
    with pytest.raises(ManifestError, match="2 are unreadable"):
        rows(tmp_path / "set")


@pytest.mark.parametrize("name", ["train.parquet", "train.arrow", "metadata.parquet"])
def test_files_of_another_form_are_named(name: str, tmp_path: Path) -> None:
    table(tmp_path / name, "no table")
    with pytest.raises(ManifestError, match=f"{name}: cannot be read"):
        rows(tmp_path)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    parquet.write_table(held(tmp_path), tmp_path / "set" / "test.parquet")
    with pytest.raises(ManifestError, match="lacks the column 'what': it has label, text"):
        rows(tmp_path / "set", columns={"caption": "what"})


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    parquet.write_table(held(tmp_path), tmp_path / "set" / "test.parquet")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        rows(tmp_path / "set", audio=table(tmp_path / "file", ""))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "train.parquet", "")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"train.parquet: needs pyarrow, .*'singleout\[sc"):
        rows(tmp_path)
