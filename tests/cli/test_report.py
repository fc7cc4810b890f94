"""What ``singleout extract`` prints and reports: lines, JSON, presence, the progress bar."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from singleout.cli import report as report_module
from singleout.extract.batch import Job
from singleout.model import QueriedSeparator
from singleout.model.similarity import PresenceCalibration
from tests.cli.commands import check_refused, extract
from tests.recordings import noise, write_recording, write_short_recording

NOT_AUDIO = "two\nlines 🐕.wav"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"input": "a"}\n{"input": "b", "qu', '{"input": "a"}\n{"input": "c"}\n'),
        ('{"input": "a"}\n', '{"input": "a"}\n{"input": "c"}\n'),
        ("my notes\nthe last", 'my notes\nthe last{"input": "c"}\n'),
    ],
)
def test_a_line_that_a_kill_has_cut_is_removed(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text(before)
    report_module.ReportFile(path, append=True).add([{"input": "c"}])
    assert path.read_text() == after


@pytest.fixture
def model_of_bias(calibrated_model_folder: Path, tmp_path: Path) -> Callable[[float], Path]:
    """Saves a model whose probability of presence is always sigmoid(bias)."""

    def save(bias: float) -> Path:
        folder = tmp_path / f"model {bias}"
        model = QueriedSeparator.from_pretrained(calibrated_model_folder)
        presence = PresenceCalibration(scale=0.0, bias=bias)
        model.config = model.config.model_copy(update={"presence": presence})
        model.save_pretrained(folder)
        return folder

    return save


def presence_lines(output: str) -> list[str]:
    """The printed lines about presence; a path may hold the word, too."""
    return [line for line in output.splitlines() if line.split()[0] == "presence"]


@pytest.mark.parametrize(
    ("bias", "presence", "shown", "is_doubted"),
    [
        (-30.0, 0.0, "0%", True),
        (-0.7, 0.3318, "33%", True),
        (-0.63, 0.3475, "35%", True),
        (-0.6, 0.3543, "35%", False),
        (0.0, 0.5, "50%", False),
        (30.0, 1.0, "100%", False),
    ],
)
def test_doubt_is_printed_where_the_sound_is_probably_not_there(
    street: Path,
    tmp_path: Path,
    model_of_bias: Callable[[float], Path],
    bias: float,
    presence: float,
    shown: str,
    is_doubted: bool,
) -> None:
    options = ("-o", tmp_path / "out", "--model", model_of_bias(bias))
    result = extract(street, "a dog", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (line,) = presence_lines(result.stdout)
    assert line.split()[:2] == ["presence", f"{shown}:" if is_doubted else shown]
    assert ("probably not in this recording" in result.stdout) == is_doubted
    assert len(result.stdout.splitlines()) == 4
    report = tmp_path / "report.jsonl"
    result = extract(street, "a dog", *options, "--json", "--report", report)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["presence"] == pytest.approx(presence, abs=1e-4)
    assert "not in this recording" not in result.stdout
    assert report.read_text() == result.stdout


def test_no_presence_is_printed_where_the_model_gives_none(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = extract(street, "a dog", *options)
    assert result.exit_code == 0, result.output
    assert presence_lines(result.stdout) == []
    assert json.loads(extract(street, "a dog", *options, "--json").stdout)["presence"] is None


def test_a_name_of_two_lines_is_printed_in_one(
    street: Path, tmp_path: Path, calibrated_model_folder: Path
) -> None:
    example = write_recording(tmp_path / "two\nlines.wav", noise(9_000, seed=1))
    result = extract(street, "--like", example, "--plot", "-o", tmp_path / "out", "--model",
                 calibrated_model_folder)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 5
    assert result.stdout.startswith("'like two lines.wav' in ")


def test_json_and_report_are_the_same_lines(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed, name in enumerate(("a.wav", "c.wav")):
        write_short_recording(tmp_path / "in" / name, seed=seed)
    bad = tmp_path / "in" / NOT_AUDIO
    bad.write_text("no sound")
    report = tmp_path / "new" / "report.jsonl"
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--report", report)
    queries = ("-q", "a dog", "--query", "Rain, heavy")
    result = extract(tmp_path / "in", *queries, *options, "--json")
    assert result.exit_code == 3, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [json.loads(line) for line in report.read_text().splitlines()] == lines
    assert len(lines) == 3 * 2
    errors = [line for line in lines if "error" in line]
    assert [line["query"] for line in errors] == ["a dog", "Rain, heavy"]
    for error in errors:
        assert set(error) == {"input", "query", "error"}
        assert error["input"] == str(bad)
        assert "cannot be read as audio" in error["error"]
        assert "\n" not in error["error"]
    for line in (line for line in lines if "error" not in line):
        assert Path(line["input"]).is_file()
        assert line["query"] in ("a dog", "Rain, heavy")
        slug = {"a dog": "a-dog", "Rain, heavy": "rain-heavy"}[line["query"]]
        stem = tmp_path / "out" / Path(line["input"]).stem
        assert line["target"] == f"{stem}.{slug}.target.wav"
        assert line["residual"] == f"{stem}.{slug}.residual.wav"
        assert Path(line["target"]).is_file()
        assert Path(line["residual"]).is_file()
        assert line["seconds"] == 0.5
        assert line["wall_seconds"] > 0

    # Skipped queries are reported, too. The report does not need --json.
    report.unlink()
    again = extract(tmp_path / "in", *queries, *options, "--skip-existing")
    assert again.exit_code == 3
    assert again.stderr.endswith("0 done, 2 skipped, 1 failed\n")
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sum(line.get("skipped", False) for line in lines) == 4
    assert sum("error" in line for line in lines) == 2
    with pytest.raises(json.JSONDecodeError):
        json.loads(again.stdout.splitlines()[0])

    # --skip-existing appends to the report; a new start replaces it.
    extract(tmp_path / "in", *queries, *options, "--skip-existing")
    assert len(report.read_text().splitlines()) == 2 * len(lines)
    extract(tmp_path / "in", *queries, *options)
    assert len(report.read_text().splitlines()) == len(lines)


def test_a_report_that_cannot_be_written(tmp_path: Path, debug_model_folder: Path) -> None:
    write_short_recording(tmp_path / "a.wav")
    model = ("-o", tmp_path / "out", "--model", debug_model_folder)
    for report in (tmp_path, tmp_path / "a.wav" / "report"):
        result = extract(tmp_path / "a.wav", "a dog", *model, "--report", report)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()
    before = (tmp_path / "a.wav").read_bytes()
    result = extract(tmp_path / "a.wav", "a dog", *model, "--report", tmp_path / "a.wav")
    assert result.stderr == (
        f"error: {tmp_path / 'a.wav'}: would overwrite {tmp_path / 'a.wav'}: choose another file\n"
    )
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
def test_a_report_on_a_full_disk(tmp_path: Path, debug_model_folder: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_short_recording(tmp_path / name)
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--report", "/dev/full")
    result = extract(tmp_path / "a.wav", tmp_path / "b.wav", "a dog", *options)
    assert result.exit_code == 1
    assert result.stderr == "error: /dev/full: cannot be written: No space left on device\n"


def test_a_single_bad_recording_is_in_the_report(tmp_path: Path, debug_model_folder: Path) -> None:
    report = tmp_path / "report.jsonl"
    options = ("--model", debug_model_folder, "--report", report)
    result = extract(tmp_path / "missing.wav", "a dog", "-o", tmp_path, *options)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == f"error: {tmp_path / 'missing.wav'}: no such file"
    assert json.loads(report.read_text())["error"] in line


def test_progress_bar_needs_a_terminal_and_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with report_module.progress_bar(1) as (progress, _):
        assert progress is None
    monkeypatch.setenv("TERM", "xterm")
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    job = Job(Path("x.wav"), Path(), "x")
    with report_module.progress_bar(1) as (progress, _):
        progress(job, 0.5)
    assert stderr.getvalue() == ""
    monkeypatch.setattr(report_module, "PATIENCE_SECONDS", 0.0)
    with report_module.progress_bar(1) as (progress, _):
        progress(job, 0.5)
        progress(job, 1.0)
    assert "extracting" in stderr.getvalue()


def test_a_report_does_not_take_the_place_of_the_output(street: Path) -> None:
    out = street.parent / "out"
    result = extract(street, "a dog", "-o", out, "--report", out)
    check_refused(result, "would overwrite")
    assert not out.exists()
