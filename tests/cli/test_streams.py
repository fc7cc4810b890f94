"""Standard streams that are closed, full or no longer read, for every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import posix
from tests.recordings import file_names, write_short_recording

pytestmark = [posix, pytest.mark.slow]

FULL = "error: stdout cannot be written: No space left on device\n"
STREAMS = {
    "stdout is closed": ">&-",
    "stderr is closed": "2>&-",
    "stdin is closed": "<&-",
    "all are closed": "<&- >&- 2>&-",
    "nobody reads stdout": "| true",
    "nobody reads stderr": "2> >(true)",
    "stderr is full": "2> /dev/full",
}
"""Redirections of a shell that must change neither the work nor the exit code."""

OVERWRITE = """
import os, sys
from pathlib import Path
from singleout.cli.streams import open_streams
open_streams()
with open({path!r}, "w") as file:
    os.write({descriptor}, b"a message of a library")
    print("a line", file=sys.stdout)
    print("a line", file=sys.stderr)
    file.write("result")
"""
ECHO = """
import sys
from singleout.cli.streams import open_streams, output_error
open_streams()
print({text!r} * {times}, end="")
print("warning", file=sys.stderr)
assert output_error() is None
"""


def bash(command: list[object], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection; the exit code is that of the command, not of its reader."""
    script = f'set -o pipefail; "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, command)], capture_output=True, text=True
    )


@pytest.mark.parametrize("redirection", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["extract", "x.wav"], 2)],
    ids=["version", "wrong usage"],
)
def test_a_stream_changes_no_exit_code(
    command: list[str], redirection: str, arguments: list[str], code: int
) -> None:
    ended = bash([*command, *arguments], redirection)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr
    assert ended.stderr.count("rror") <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(["--version"], "1"), (["--help"], ""), (["train", "--help"], "")]
)
def test_lines_that_are_lost_are_an_error(
    command: list[str], arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    ended = bash([*command, *arguments], "> /dev/full")
    assert (ended.returncode, ended.stderr) == (1, FULL)


@pytest.mark.parametrize("descriptor", [1, 2])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path, descriptor: int) -> None:
    path = tmp_path / "result.txt"
    code = OVERWRITE.format(path=str(path), descriptor=descriptor)
    ended = bash([sys.executable, "-c", code], f"{descriptor}>&-")
    assert ended.returncode == 0, ended.stderr
    assert path.read_text() == "result"


@pytest.mark.parametrize(
    ("text", "encoding", "printed"),
    [
        ("rain\n犬", "utf-8", "rain\n犬".encode()),
        ("犬", "ascii", b"\\u72ac"),
        ("caf\udce9", "utf-8", b"caf\\udce9"),
    ],
    ids=["text", "ascii", "bytes that are no text"],
)
def test_lines_are_printed_as_they_are(text: str, encoding: str, printed: bytes) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ECHO.format(text=text, times=1)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert ended.stdout == printed
    assert ended.stderr == b"warning\n"


def test_a_stream_that_is_not_ready_is_waited_for() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with subprocess.Popen(
        [sys.executable, "-c", ECHO.format(text="x", times=1_000_000)],
        stdout=write_end,
        stderr=subprocess.PIPE,
    ) as running:
        os.close(write_end)
        with open(read_end, "rb") as pipe:  # noqa: PTH123
            assert len(pipe.read()) == 1_000_000
        assert running.communicate()[1] == b"warning\n"
    assert running.returncode == 0


def test_a_batch_goes_on_without_a_reader(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    for seed in range(3):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", seed=seed)
    (tmp_path / "in" / "3.wav").write_text("no sound")
    options = ["-o", tmp_path / "out", "--model", debug_model_folder]
    ended = bash([*command, "extract", tmp_path / "in", "a dog", *options], "| head -1")
    assert ended.returncode == 3
    assert len(ended.stdout.splitlines()) == 1
    error, summary = ended.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path / 'in' / '3.wav'}: ")
    assert summary == "3 done, 0 skipped, 1 failed"
    assert len(file_names(tmp_path / "out")) == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
def test_a_batch_goes_on_when_its_lines_are_lost(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    for seed in range(2):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", seed=seed)
    options = ["-o", tmp_path / "out", "--model", debug_model_folder, "--json"]
    ended = bash([*command, "extract", tmp_path / "in", "a dog", *options], "> /dev/full")
    assert (ended.returncode, ended.stderr) == (1, "2 done, 0 skipped, 0 failed\n" + FULL)
    assert len(file_names(tmp_path / "out")) == 4


def test_the_files_are_whole_without_any_stream(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    street = write_short_recording(tmp_path / "street.wav")
    for number, redirection in enumerate(("", "<&- >&- 2>&-")):
        options = ["-o", tmp_path / str(number), "--model", debug_model_folder]
        assert bash([*command, "extract", street, "dog", *options], redirection).returncode == 0
    for name in ("street.dog.target.wav", "street.dog.residual.wav"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
