"""Any folder: captions from names, from sidecar files and from tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from singleout.corpora import ReadOptions, read_corpus
from singleout.corpora.folder import caption_of
from singleout.errors import ManifestError
from tests.corpora.replicas import json_table, sound, table


def rows(folder: Path, captions: Path | None = None, **columns: str) -> dict[str, dict[str, Any]]:
    """Rows by the name of the file."""
    corpus = read_corpus("folder", folder, ReadOptions(captions, columns))
    return {Path(row["path"]).name: row for row in corpus.rows}


@pytest.mark.parametrize(
    ("stem", "caption"),
    [
        ("dog_barking-03", "dog barking"),
        ("042 DogBarking", "dog barking"),
        ("it's raining.take2", "it's raining take"),
        ("\u00c4ste knacken", "\u00e4ste knacken"),
        ("20240101_0003", None),
        ("---", None),
    ],
)
def test_captions_from_names(stem: str, caption: str | None) -> None:
    assert caption_of(stem) == caption


def test_folders_give_split_and_class(tmp_path: Path) -> None:
    for name in ("train/animal/dog/1.wav", "Valid/rain/a.wav", "eval/b.wav", "x/y/z/c.wav"):
        sound(tmp_path / name)
    made = rows(tmp_path)
    assert made["1.wav"]["class"] == "animal/dog"
    assert "caption" not in made["1.wav"]
    assert (made["a.wav"]["split"], made["a.wav"]["class"]) == ("validation", "rain")
    assert made["b.wav"]["split"] == "test"
    assert "class" not in made["b.wav"]
    assert made["c.wav"]["class"] == "y/z"


def test_sidecar_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        sound(tmp_path / f"{name}.wav")
    table(tmp_path / "a.txt", "A dog barks.\n\nA hound barks.\r\n")
    about = {"text": ["Rain", "It rains"], "label": "rain", "group": "g", "split": "val", "x": 1}
    json_table(tmp_path / "b.json", about)
    made = rows(tmp_path)
    assert made["a.wav"]["caption"] == "A dog barks."
    assert made["a.wav"]["alternatives"] == ["A hound barks."]
    assert made["b.wav"]["caption"] == "Rain"
    assert made["b.wav"]["alternatives"] == ["It rains"]
    assert (made["b.wav"]["class"], made["b.wav"]["group"]) == ("rain", "g")
    assert made["b.wav"]["split"] == "validation"
    assert made["c.wav"]["caption"] == "c"


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.json", "{"), ("a.txt", b"\xff")])
def test_bad_sidecar_files_are_named(name: str, text: str | bytes, tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    table(tmp_path / name, text)
    with pytest.raises(ManifestError, match=name):
        rows(tmp_path)


ROWS: list[dict[str, Any]] = [
    {"file_name": "sub/a.wav", "caption": "a dog", "caption_2": "a hound", "label": 3},
    {"file_name": "b.wav", "caption": "rain", "caption_2": "", "label": "", "split": "test"},
    {"file_name": "gone.wav", "caption": "wind", "caption_2": None, "label": None},
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize("is_inside", [True, False])
def test_tables(suffix: str, is_inside: bool, tmp_path: Path) -> None:
    data = tmp_path / "data"
    sound(data / "sub" / "a.wav")
    sound(data / "elsewhere" / "b.wav")
    captions = (data if is_inside else tmp_path) / f"captions.{suffix}"
    if suffix == "json":
        json_table(captions, {"data": ROWS})
    elif suffix == "jsonl":
        table(captions, "\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        mark = "," if suffix == "csv" else "\t"
        names = ["file_name", "caption", "caption_2", "label", "split"]
        lines = [mark.join(str(row.get(name) or "") for name in names) for row in ROWS]
        table(captions, "\ufeff" + "\r\n".join([mark.join(names), *lines]) + "\r\n")
    made = rows(data, captions)
    assert set(made) == {"a.wav", "b.wav"}
    assert (made["a.wav"]["caption"], made["a.wav"]["alternatives"]) == ("a dog", ["a hound"])
    assert made["a.wav"]["class"] == "3"
    assert made["b.wav"]["split"] == "test"
    assert "class" not in made["b.wav"]


def test_a_table_next_to_its_sounds(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sound(tmp_path / "sounds" / "a.wav")
    captions = table(tmp_path / "captions.csv", "file,text\nsounds/a.wav,a dog\n")
    assert rows(tmp_path / "data", captions)["a.wav"]["caption"] == "a dog"


@pytest.mark.parametrize(
    ("text", "columns", "reason"),
    [
        ("name,text\na.wav,x\n", {}, "lacks the column 'path': it has name, text. Name the right"),
        ("file,text\na.wav,x\n", {"caption": "what"}, "lacks the column 'what': it has file, text"),
        ("file,text\n,x\n", {}, "row 1 names no file"),
        ("file,text\n" + "a" * 5_000 + ",x\n", {}, "has no sounds: of 1 clips, 1 are missing"),
    ],
)
def test_bad_tables(text: str, columns: dict[str, str], reason: str, tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    captions = table(tmp_path / "captions.csv", text)
    with pytest.raises(ManifestError) as caught:
        rows(tmp_path, captions, **columns)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_table_that_windows_wrote(tmp_path: Path) -> None:
    sound(tmp_path / "cats" / "1.wav", 1)
    sound(tmp_path / "dogs" / "1.wav", 2)
    text = "file_name,caption,caption_id\r\ndogs\\1.wav,a dog,77\r\ncats\\1.wav,a cat,78\r\n"
    made = read_corpus("folder", tmp_path, ReadOptions(table(tmp_path / "captions.csv", text)))
    named = {row["path"].removeprefix(f"{tmp_path.resolve()}/"): row for row in made.rows}
    assert {path: row["caption"] for path, row in named.items()} == {
        "dogs/1.wav": "a dog",
        "cats/1.wav": "a cat",
    }
    assert not any("alternatives" in row for row in made.rows)  # an id is no caption


def test_a_name_alone_is_that_of_the_file_next_to_the_table(tmp_path: Path) -> None:
    sound(tmp_path / "cats" / "1.wav", 1)
    sound(tmp_path / "dogs" / "1.wav", 2)
    captions = table(tmp_path / "dogs" / "captions.csv", "file_name,caption\n1.wav,a dog\n")
    [row] = read_corpus("folder", tmp_path, ReadOptions(captions)).rows
    assert row["path"] == str(tmp_path.resolve() / "dogs" / "1.wav")
    elsewhere = table(tmp_path / "captions.csv", "file_name,caption\n1.wav,a dog\n")
    with pytest.raises(ManifestError) as caught:
        read_corpus("folder", tmp_path, ReadOptions(elsewhere))
    assert "1.wav may be cats/1.wav or dogs/1.wav: write the path" in str(caught.value)


def test_two_rows_of_one_file(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    captions = table(tmp_path / "captions.csv", "file,text\na.wav,a dog\na.wav,rain\n")
    corpus = read_corpus("folder", tmp_path, ReadOptions(captions))
    assert len(corpus.rows) == len(corpus.problems) == 1


def test_media_that_training_cannot_read_are_noted(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav").rename(tmp_path / "rain.mka")
    [note] = read_corpus("folder", tmp_path).notes
    assert note.startswith("1 files are read by FFmpeg alone: prepare shards from the manifest")
