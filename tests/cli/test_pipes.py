"""``singleout extract`` in a pipe: recordings from stdin, the target to stdout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from singleout import Extractor
from singleout.audio import read_audio
from singleout.cli import app
from tests.cli.commands import check_refused, extract, posix
from tests.recordings import file_names, noise, write_recording, write_short_recording

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    assert file_names(folder) == []


def fed(content: bytes, *arguments: object) -> Result:
    """Run ``singleout extract`` with this content of stdin."""
    words = ["extract", *map(str, arguments)]
    return CliRunner().invoke(app, words, input=content)


def test_stdin_is_a_recording(
    street: Path, tmp_path: Path, debug_model_folder: Path, extractor: Extractor
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    options = ("-o", out, "--model", debug_model_folder, "--json", "--report", report)
    result = fed(street.read_bytes(), "-", "a dog", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert file_names(out) == ["stdin.a-dog.residual.wav", "stdin.a-dog.target.wav"]
    line = json.loads(result.stdout)
    assert (line["input"], line["target"]) == ("stdin", str(out / "stdin.a-dog.target.wav"))
    assert report.read_text() == result.stdout
    target, rate = read_audio(line["target"])
    assert rate == 48_000
    np.testing.assert_allclose(target, extractor.extract(street, "a dog").target, atol=1e-6)
    # The name of an existing recording of another run is not confused with it.
    again = fed(street.read_bytes(), "-", "a dog", *options, "--skip-existing")
    assert "skipped" not in again.stdout


def test_stdin_among_files(street: Path, tmp_path: Path, calibrated_model_folder: Path) -> None:
    options = ("-o", tmp_path / "out", "--model", calibrated_model_folder, "--json")
    for arguments in ((street, "-", "a dog"), ("-", street, "-", "-q", "a dog"),
                      (street, "-", "--like", street)):  # fmt: skip
        result = fed(street.read_bytes(), *arguments, *options)
        assert result.exit_code == 0, result.output
        inputs = {json.loads(line)["input"] for line in result.stdout.splitlines()}
        assert inputs == {"stdin", str(street)}
        assert result.stderr == "2 done, 0 skipped, 0 failed\n"


def test_a_file_may_be_called_like_stdin(
    street: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(street.parent)
    street.rename(street.with_name("-"))
    result = fed(b"", "./-", "a dog", "-o", "./-out", "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    assert file_names(street.parent / "-out") == ["-.a-dog.residual.wav", "-.a-dog.target.wav"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "stdin: is empty (0 bytes)"), (b"no sound" * 99, "stdin: cannot be read as audio")],
)
def test_stdin_without_sound_is_one_line(
    content: bytes, reason: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    check_refused(fed(content, "-", "a dog", *options), reason)
    assert not (tmp_path / "out").exists()


def test_a_cut_recording_on_stdin_is_a_warning(tmp_path: Path, debug_model_folder: Path) -> None:
    content = write_short_recording(tmp_path / "x.wav").read_bytes()[:-2_000]
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = fed(content, "-", "a dog", *options)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: stdin: ")
    check_refused(fed(content, "-", "a dog", *options, "--strict"), "stdin: ")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminals_are_refused_before_any_work(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from singleout.cli.pipes import check_stdout, with_stdin
    from singleout.errors import AudioError, OutputError

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(AudioError, match="stdin is a terminal: send a recording through a pipe"):
        with_stdin(["-"])
    monkeypatch.setattr("sys.stdout", Terminal())
    with pytest.raises(OutputError, match="which is a terminal: send it to a file or a program"):
        check_stdout([])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-q", "a dog", "-q", "rain"), "give one query, not 2, or an output folder"),
        (("x.wav", "a dog"), "give one recording, not 2, or an output folder"),
        (("a dog", "--residual"), "--residual needs an output folder"),
        (("a dog", "--plot"), "--plot needs an output folder"),
        (("a dog", "--skip-existing"), "--skip-existing needs an output folder"),
    ],
)
def test_stdout_takes_one_target(street: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = extract(street, *arguments, "-o", "-")
    check_refused(result, f"-o - writes one target to stdout: {reason}")


# As a process of its own: CliRunner has no binary streams as a process has


def piped(command: list[str], content: bytes | None, *arguments: object) -> Any:
    """Run ``singleout extract`` as a process with this content of stdin."""
    words = [*command, "extract", *map(str, arguments)]
    return subprocess.run(words, input=content, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("format", "container", "subtype"),
    [("auto", "WAV", "PCM_24"), ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS")],
)
def test_the_target_goes_to_stdout_alone(
    tmp_path: Path,
    debug_model_folder: Path,
    command: list[str],
    format: str,
    container: str,
    subtype: str,
) -> None:
    """A FLAC becomes a WAV in a pipe, of the same bits. Sizes in its header are right."""
    path = write_recording(tmp_path / "x.flac", noise(8_000, 2), 8_000, "PCM_24")
    report = tmp_path / "report.jsonl"
    options = ("--model", debug_model_folder, "--report", report, "--format", format)
    ended = piped(command, path.read_bytes(), "-", "a dog", "-o", "-", *options)
    assert ended.returncode == 0, ended.stderr
    sound = soundfile.SoundFile(io.BytesIO(ended.stdout))
    assert (sound.format, sound.subtype, sound.frames) == (container, subtype, 8_000)
    first, *rest = ended.stderr.decode().splitlines()
    assert first.startswith("'a dog' in stdin: 1.0 s of sound in ")
    assert rest[-1].endswith("/dev/stdout")
    line = json.loads(report.read_text())
    assert (line["target"], line["residual"]) == ("/dev/stdout", None)
    if format == "auto":
        assert int.from_bytes(ended.stdout[4:8], "little") == len(ended.stdout) - 8
        out = tmp_path / "out"
        extract(path, "a dog", "-o", out, "--model", debug_model_folder, "--format", "wav")
        (sound_of_file, rate), (sound_of_pipe, _) = (
            soundfile.read(source, dtype="int32")
            for source in (out / "x.a-dog.target.wav", io.BytesIO(ended.stdout))
        )
        assert rate == 8_000
        # Two processes may round the last of 24 bits differently.
        assert np.abs(sound_of_file.astype(np.int64) - sound_of_pipe).max() <= 2 << 8


def test_json_goes_to_stderr_and_errors_leave_stdout_empty(
    street: Path, debug_model_folder: Path, command: list[str]
) -> None:
    options = ("-o", "-", "--model", debug_model_folder)
    ended = piped(command, None, street, "a dog", "--json", *options)
    assert ended.stdout.startswith(b"RIFF")
    assert json.loads(ended.stderr)["input"] == str(street)
    ended = piped(command, b"no sound", "-", "a dog", *options)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.startswith(b"error: stdin: cannot be read as audio")


@posix
def test_a_reader_that_stops_early_is_no_crash(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(200_000), 8_000)
    words = [*command, "extract", path, "a dog", "-o", "-", "--model", debug_model_folder]
    with subprocess.Popen(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(4) == b"RIFF"
        running.stdout.close()
        lines = running.stderr.read().decode().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("'a dog' in ")


@posix
def test_named_pipes_are_recordings(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    """As a shell makes them for ``<(...)``."""
    os.mkfifo(pipe := tmp_path / "pipe.wav")
    sender = threading.Thread(target=pipe.write_bytes, args=(street.read_bytes(),))
    sender.start()
    result = extract(pipe, "a dog", "-o", tmp_path / "out", "--model", debug_model_folder)
    sender.join()
    assert result.exit_code == 0, result.output
    assert file_names(tmp_path / "out") == ["pipe.a-dog.residual.wav", "pipe.a-dog.target.wav"]
    assert f"'a dog' in {pipe}: 1.0 s" in result.stdout
