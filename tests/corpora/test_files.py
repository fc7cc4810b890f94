"""The files of a corpus: found by their names, wherever they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singleout.corpora.files import CorpusFiles
from singleout.corpora.youtube import youtube_audio, youtube_names
from singleout.errors import ManifestError
from tests.corpora.replicas import table


def touch(folder: Path, *names: str) -> None:
    for name in names:
        table(folder / name, "")


def test_files_that_libsndfile_reads_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "a/rain.mp4", "b/rain.wav", "c/rain.flac")
    files = CorpusFiles(tmp_path)
    assert files.audio("rain") == "b/rain.wav"
    assert files.audio("rain", "c") == "c/rain.flac"
    assert files.audio("rain", "d") is None
    assert files.media() == ["a/rain.mp4", "b/rain.wav", "c/rain.flac"]
    assert files.recording("c/rain.flac") == "c/rain.flac"
    assert files.recording("c/rain.wav") is None


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "._rain.wav", ".cache/rain.wav", ".train.csv", "-rain.wav", "_rain.wav")
    files = CorpusFiles(tmp_path)
    assert files.media() == ["-rain.wav", "_rain.wav"]
    assert not files.has(".train.csv")


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "disk/rain.wav", "data/wind.wav")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert CorpusFiles(tmp_path / "data").media() == ["more/rain.wav", "wind.wav"]


@pytest.mark.skipif(os.name != "posix", reason="links to themselves")
def test_a_link_to_itself_does_not_hide_the_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "rain.wav", "sub/wind.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    files = CorpusFiles(tmp_path)
    assert files.media() == ["loop.wav", "rain.wav", "sub/wind.wav"]
    assert files.problems == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("dogs/1.wav", "dogs/1.WAV"),
        ("dogs\\1.wav", "dogs/1.WAV"),
        ("./dogs//1.mp3", "dogs/1.mp3"),
        ("cats/../dogs/1.Wav", "dogs/1.WAV"),
        ("dogs/1.flac", None),
        ("{root}/cats/1.wav", "cats/1.wav"),
        ("birds/1.wav", None),
        ("1.wav", None),
    ],
)
def test_paths_of_tables(path: str, expected: str | None, tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.wav", "dogs/1.WAV", "dogs/1.mp3")
    files = CorpusFiles(tmp_path)
    assert files.recording(path.format(root=files.root)) == expected


def test_names_of_macos_match_those_of_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "Cafe\u0301.wav")
    files = CorpusFiles(tmp_path)
    assert files.audio("Caf\u00e9") == "Cafe\u0301.wav"
    assert files.recording("Caf\u00e9.wav") == "Cafe\u0301.wav"


def test_the_nearest_table_counts(tmp_path: Path) -> None:
    touch(tmp_path, "meta/esc50.csv", "old/meta/esc50.csv")
    root = Path(os.path.realpath(tmp_path))
    assert CorpusFiles(tmp_path).table("esc50.csv") == root / "meta/esc50.csv"


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_a_name_that_is_no_text_is_a_note(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))).touch()
    touch(tmp_path, "rain.wav")
    files = CorpusFiles(tmp_path)
    assert files.media() == ["rain.wav"]
    [problem] = files.problems
    assert problem == "caf?.wav: its name is not UTF-8: rename the file"


def test_a_folder_that_may_not_be_read_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/rain.wav", "b/wind.wav")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    files = CorpusFiles(tmp_path)
    assert files.media() == ["b/wind.wav"]
    [problem] = files.problems
    assert problem.endswith("/a: cannot be read: Permission denied")


def test_a_missing_table_names_its_source(tmp_path: Path) -> None:
    files = CorpusFiles(tmp_path, "https://example.org/esc50")
    with pytest.raises(ManifestError, match=r"lacks the table a.csv: get it from https://example"):
        files.tables("a.csv", "b.csv")
    touch(tmp_path, "b.csv")
    assert list(CorpusFiles(tmp_path).tables("a.csv", "b.csv")) == ["b.csv"]


@pytest.mark.parametrize(
    "name",
    [
        "Yq5-x_q4_k8.wav",
        "q5-x_q4_k8.opus",
        "q5-x_q4_k8_30.flac",
        "Yq5-x_q4_k8_30.flac",
        "q5-x_q4_k8_000030.mp4",
        "q5-x_q4_k8_30000.m4a",
        "q5-x_q4_k8_30_40.wav",
        "Yq5-x_q4_k8_30.000_40.000.wav",
        "q5-x_q4_k8_30000_40000.flac",
    ],
)
def test_names_of_download_programs(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"some/folder/{name}")
    files = CorpusFiles(tmp_path)
    assert youtube_audio(files, "q5-x_q4_k8", 30, 40) == f"some/folder/{name}"
    assert youtube_audio(files, "5-x_q4_k8", 30, 40) is None
    is_plain = "_k8." in name
    other_time = youtube_audio(files, "q5-x_q4_k8", 50, 60)
    assert (other_time is None) is not is_plain
    only_timed = youtube_audio(files, "q5-x_q4_k8", 30, 40, is_only=False)
    assert (only_timed is None) is is_plain


def test_times_that_are_no_whole_seconds() -> None:
    names = list(youtube_names("abc", 1.5, 11.5))
    assert {"abc_1.5", "abc_1.500_11.500", "abc_1500_11500", "abc"} <= set(names)
