"""Recordings in folders and patterns, and what is left out of them."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest

from singleout.errors import AudioError
from singleout.extract.recordings import Source, find_recordings
from tests.cli.commands import posix


def write_files(folder: Path, *names: str) -> None:
    """Write files of one byte."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was logged at one level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="singleout")


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, "a.wav", *(f"{number}.jpg" for number in range(9)), "x.txt", "X.TXT")
    write_files(tmp_path, ".hidden/y.wav", "sub/.z.wav", "README", "a.dog.target.wav")
    write_files(tmp_path, "a.dog.residual.flac", "a.a-very-long-suffix", "targets.flac")
    paths = [source.path.name for source in find_recordings([tmp_path])]
    assert paths == ["a.wav", "targets.flac"]
    assert messages(caplog, logging.INFO) == [
        f"{tmp_path}: 17 other files are left out: 9 .jpg, 2 .txt, 2 earlier results, 2 hidden, "
        "1 without a suffix, 1 .a-very-lon…"
    ]
    assert messages(caplog, logging.WARNING) == []


def test_nothing_is_logged_where_nothing_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, "a.wav", "b/c.FLAC")
    assert len(find_recordings([tmp_path, tmp_path / "a.wav"])) == 2
    assert caplog.records == []


def test_one_file_and_many_kinds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, "one/a.wav", "one/b.txt", "many/a.wav")
    write_files(tmp_path, *(f"many/{number}.kind{number}" for number in range(11)))
    find_recordings([tmp_path / "one", tmp_path / "many"])
    one, many = messages(caplog, logging.INFO)
    assert one == f"{tmp_path / 'one'}: 1 other file is left out: 1 .txt"
    assert many.startswith(f"{tmp_path / 'many'}: 11 other files are left out: 1 .kind0, ")
    assert many.endswith(", 3 of other kinds")


@posix
def test_links_are_followed_and_second_names_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, "in/a/x.wav", "elsewhere/y.wav")
    (tmp_path / "in" / "circle").symlink_to("..")
    (tmp_path / "in" / "second.wav").symlink_to("a/x.wav")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    sources = find_recordings([tmp_path / "in"])
    assert sources == [
        Source(tmp_path / "in" / "a" / "x.wav", Path("a")),
        Source(tmp_path / "in" / "circle" / "elsewhere" / "y.wav", Path("circle/elsewhere")),
    ]
    assert messages(caplog, logging.INFO) == [
        f"{tmp_path / 'in'}: 2 other files are left out: 1 second name, 1 pipe or device"
    ]


@posix
def test_broken_links_are_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, "a.wav")
    for number in range(10):
        (tmp_path / f"b{number}.wav").symlink_to("nowhere")
    for place in (tmp_path, tmp_path / "*.wav"):
        caplog.clear()
        assert find_recordings([place]) == [Source(tmp_path / "a.wav")]
        *first, last = messages(caplog, logging.WARNING)
        assert first == [
            f"{tmp_path / f'b{n}.wav'}: is a link that leads nowhere" for n in range(8)
        ]
        assert last == f"{place}: 2 more links or folders cannot be read"


@posix
def test_patterns_of_any_depth_end_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path, "a.wav", "b/c.wav", "b/c/d/e.wav", "b/c/d/f.flac", "b/c/d/.g.wav")
    for name in ("b/up", "b/c/up"):
        (tmp_path / name).symlink_to(tmp_path)

    def below(pattern: str) -> list[str]:
        sources = find_recordings([tmp_path / pattern])
        return [source.path.relative_to(tmp_path).as_posix() for source in sources]

    assert below("**/*.wav") == ["a.wav", "b/c/d/e.wav", "b/c.wav"]
    assert below("b/**/d/*") == ["b/c/d/e.wav", "b/c/d/f.flac"]
    assert below("b/**") == ["b/c/d/e.wav", "b/c/d/f.flac", "b/c.wav", "b/up/a.wav"]
    assert below("[ab]/**/?.flac") == ["b/c/d/f.flac"]


@posix
def test_a_place_without_recordings_says_what_is_in_it(tmp_path: Path) -> None:
    write_files(tmp_path, "notes/a.txt", "notes/b.txt", "notes/.c", "results/x.dog.target.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.wav").symlink_to("nowhere")
    for place, reason in (
        ("notes", "2 .txt, 1 hidden"),
        ("notes/*", "2 .txt"),
        ("results", "1 earlier result"),
        ("empty", "it is empty"),
        ("*.mp3", "nothing has such a name"),
        ("notes/**/*.mp3", "nothing has such a name"),
        ("broken", f"{tmp_path / 'broken' / 'x.wav'}: is a link that leads nowhere"),
    ):
        with pytest.raises(AudioError) as raised:
            find_recordings([tmp_path / place])
        assert str(raised.value) == f"{tmp_path / place}: no recordings there: {reason}"


def test_file_objects_are_recordings_once() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    sources = find_recordings([first, "audio", second, first])
    assert [source.file for source in sources] == [first, None, second]
    assert [source.path for source in sources] == [Path("audio")] * 3


def test_an_address_is_no_pattern() -> None:
    assert find_recordings(["https://example.org/?*"]) == [Source(Path("https://example.org/?*"))]
    manifest = "https://example.org/sounds.jsonl"
    assert find_recordings([manifest]) == [Source(Path(manifest))]
