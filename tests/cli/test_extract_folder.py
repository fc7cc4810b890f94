"""``singleout extract`` with many recordings: folders, refusals, resuming, signals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import soundfile
from typer.testing import Result

from tests.cli.commands import extract, file_size_limit, posix
from tests.conftest import ACCEPT_SIGNALS
from tests.recordings import SHORT_RATE, files_below, noise, write_short_recording

pytestmark = pytest.mark.slow


def write_video_without_sound(path: Path) -> None:
    """A video of five black frames and no sound."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


NOT_AUDIO = "two\nlines 🐕.wav"


BAD = {
    "empty.wav": "is empty",
    "nan.wav": "NaN or infinite",
    "pictures.mp4": "has no sound, only pictures",
    "text.wav": "cannot be read as audio",
    NOT_AUDIO: "cannot be read as audio",
}


def write_bad(folder: Path) -> list[Path]:
    """Write one file of every kind in ``BAD``; their paths."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.wav").write_bytes(b"")
    audio = noise(4_000)[0]
    audio[77] = np.nan
    soundfile.write(folder / "nan.wav", audio, SHORT_RATE, subtype="FLOAT")
    write_video_without_sound(folder / "pictures.mp4")
    for name in ("text.wav", NOT_AUDIO):
        (folder / name).write_text("this is no sound\n" * 100)
    return [folder / name for name in BAD]


def test_a_folder_in_and_its_mirror_out(tmp_path: Path, debug_model_folder: Path) -> None:
    recordings = ["b.wav", "A/c.flac", "A/deep/d.wav", "b.flac"]
    for seed, name in enumerate(recordings):
        write_short_recording(tmp_path / "in" / name, seed=seed)
    out = tmp_path / "in" / "parts"
    result = extract(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    stems = {"A/c": "flac", "A/deep/d": "wav", "b.flac": "flac", "b.wav": "wav"}
    expected = sorted(
        f"{stem}.a-dog.{part}.{end}"
        for stem, end in stems.items()
        for part in ("target", "residual")
    )
    assert sorted(files_below(out)) == expected
    assert all(str(out / name) in result.stdout for name in expected)
    assert result.stderr == "4 done, 0 skipped, 0 failed\n"
    # Outputs below the input folder are not recordings of the next run.
    before = files_below(out)
    again = extract(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert again.stderr.splitlines() == [
        f"{tmp_path / 'in'}: 8 other files are left out: 8 earlier results",
        "4 done, 0 skipped, 0 failed",
    ]
    assert files_below(out) == before


def test_cut_recordings_are_extracted_with_a_warning_each_and_counted(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        path = write_short_recording(tmp_path / "in" / name)
        if name != "b.wav":
            path.write_bytes(path.read_bytes()[:-2_000])
    report = tmp_path / "report.jsonl"
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--report", report)
    queries = ("-q", "a dog", "-q", "rain")
    result = extract(tmp_path / "in", *queries, *options, "--jobs", 2)
    assert result.exit_code == 0, result.output
    *warnings, summary = result.stderr.splitlines()
    assert summary == "3 done (2 not whole), 0 skipped, 0 failed"
    assert sorted(line[: len(f"warning: {tmp_path}/in/a.wav")] for line in warnings) == [
        f"warning: {tmp_path}/in/{name}.wav" for name in "ac"
    ]
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    texts = {f"warning: {text}" for line in lines for text in line["warnings"]}
    assert texts == set(warnings)
    for line in lines:
        missing = 0.0 if line["input"].endswith("b.wav") else 0.125
        assert line["missing_seconds"] == pytest.approx(missing)
        assert len(line["warnings"]) == (missing > 0)
        assert line["seconds"] == 0.5 - missing

    result = extract(tmp_path / "in", *queries, *options, "--strict")
    assert result.exit_code == 3
    *errors, summary = result.stderr.splitlines()
    assert summary == "1 done, 0 skipped, 2 failed"
    assert [line.split(": ")[0] for line in errors] == ["error"] * 2


@posix
def test_linked_folders_are_read_and_what_is_left_out_is_printed(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    write_short_recording(tmp_path / "in" / "a.wav")
    write_short_recording(tmp_path / "card" / "B.WAV")
    for name in ("card/notes.txt", "in/.hidden", "in/a.jpg", "in/b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "in" / "card").symlink_to(tmp_path / "card")
    (tmp_path / "card" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    model = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = extract(tmp_path / "in", "a dog", *model, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        f"warning: {tmp_path / 'in' / 'gone.wav'}: is a link that leads nowhere",
        f"{tmp_path / 'in'}: 4 other files are left out: 2 .jpg, 1 .txt, 1 hidden",
        "2 done, 0 skipped, 0 failed",
    ]
    inputs = [json.loads(line)["input"] for line in result.stdout.splitlines()]
    assert inputs == [str(tmp_path / "in" / name) for name in ("a.wav", "card/B.WAV")]
    assert "card/B.a-dog.target.wav" in files_below(tmp_path / "out")


def test_bad_recordings_among_good_ones(tmp_path: Path, debug_model_folder: Path) -> None:
    bad = write_bad(tmp_path / "in")
    write_short_recording(tmp_path / "in" / "good 🐈\n.wav")
    write_short_recording(tmp_path / "in" / "one.wav", num_samples=1)
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = extract(tmp_path / "in", "a dog", *options)
    assert result.exit_code == 3, result.output
    *errors, summary = result.stderr.splitlines()
    assert summary == f"2 done, 0 skipped, {len(bad)} failed"
    assert len(errors) == len(bad)
    for path in bad:
        shown = str(path).replace("\n", r"\n")
        (line,) = [line for line in errors if f"{shown}: " in line]
        assert line.startswith("error: ")
        assert BAD[path.name] in line
    assert sorted(files_below(tmp_path / "out")) == [
        "good 🐈\n.a-dog.residual.wav",
        "good 🐈\n.a-dog.target.wav",
        "one.a-dog.residual.wav",
        "one.a-dog.target.wav",
    ]
    assert len(result.stdout.splitlines()) == 2 * 3
    one = soundfile.info(tmp_path / "out" / "one.a-dog.target.wav")
    assert one.frames == 1


def test_all_recordings_bad(tmp_path: Path, debug_model_folder: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "b.wav").write_bytes(b"")
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = extract(tmp_path / "*.wav", tmp_path / "c.wav", "-q", "a dog", *options)
    assert result.exit_code == 1
    assert [line[:7] for line in result.stderr.splitlines()[:-1]] == ["error: "] * 3
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_skip_existing_extracts_what_is_missing(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(3):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", seed=seed)
    out = tmp_path / "out"

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    def again() -> Result:
        queries = ("-q", "a dog", "-q", "rain")
        model = ("--model", debug_model_folder)
        result = extract(tmp_path / "in", *queries, "-o", out, *model, "--skip-existing")
        assert result.exit_code == 0, result.output
        return result

    assert again().stderr == "3 done, 0 skipped, 0 failed\n"
    before, contents = times(), files_below(out)
    assert len(before) == 12
    result = again()
    assert result.stderr == "0 done, 3 skipped, 0 failed\n"
    assert result.stdout.count("skipped, its files exist") == 6
    assert times() == before

    (out / "1.rain.residual.wav").unlink()
    result = again()
    assert result.stderr == "1 done, 2 skipped, 0 failed\n"
    assert files_below(out) == contents
    changed = {name for name, time in times().items() if time != before[name]}
    assert changed == {"1.rain.residual.wav", "1.rain.target.wav"}


def test_jobs_and_format(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(4):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", seed=seed)
    results = []
    for jobs in (1, 2):
        out = tmp_path / f"out-{jobs}"
        options = ("--model", debug_model_folder, "--format", "flac", "--jobs", jobs)
        result = extract(tmp_path / "in", "a dog", "-o", out, *options)
        assert result.exit_code == 0, result.output
        assert result.stderr == "4 done, 0 skipped, 0 failed\n"
        results.append(files_below(out))
    assert results[0] == results[1]
    assert len(results[0]) == 8
    assert all(content.startswith(b"fLaC") for content in results[0].values())


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--format", "nonsense"), 1, "one of auto, wav, flac, aiff, ogg, mp3"),
        (("--device", "nonsense"), 1, "device 'nonsense' cannot be used"),
        (("-q", "A  dog", "-q", "A dog"), 1, "given twice"),
        (("-q", ""), 1, "empty"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path,
    debug_model_folder: Path,
    options: tuple[str, ...],
    code: int,
    reason: str,
) -> None:
    write_short_recording(tmp_path / "in" / "x.wav")
    places = (tmp_path / "in",) if "-q" in options else (tmp_path / "in", "a dog")
    result = extract(*places, "-o", tmp_path / "out", "--model", debug_model_folder, *options)
    assert result.exit_code == code
    assert reason in result.stderr
    if code == 1:
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_refusals_of_many_recordings_are_one_line(tmp_path: Path) -> None:
    write_short_recording(tmp_path / "a" / "x\n.wav")
    write_short_recording(tmp_path / "b" / "x\n.wav")
    (tmp_path / "none").mkdir()
    for places, reason in (
        ((tmp_path / "a", tmp_path / "b"), "would become the same files"),
        ((tmp_path / "a", tmp_path / "none"), "no recordings there"),
    ):
        result = extract(*places, "a dog", "-o", tmp_path / "out")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where not even root can write")
def test_a_folder_that_cannot_be_written(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(2):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", seed=seed)
    out = "/proc/singleout/out"
    result = extract(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 1
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert 1 <= len(errors) <= 2
    assert all("/proc" in line and "cannot be" in line for line in errors)


def extract_command(*arguments: object) -> list[str]:
    """The real command, for a subprocess."""
    one_thread = "import torch; torch.set_num_threads(1); "
    code = f"{ACCEPT_SIGNALS}{one_thread}from singleout.cli import main; main()"
    return [sys.executable, "-c", code, "extract", *map(str, arguments)]


@posix
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(3):
        write_short_recording(tmp_path / "in" / f"{seed}.wav", 20_000, seed)
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--jobs", "2")
    with file_size_limit(9_999):
        result = extract(tmp_path / "in", "a dog", *options)
    assert result.exit_code == 1, result.output
    *errors, summary = result.stderr.splitlines()
    assert summary == "0 done, 0 skipped, 3 failed"
    assert len(errors) == 3
    assert all(line.startswith("error: ") and "File too large" in line for line in errors)
    assert files_below(tmp_path / "out") == {}


@posix
@pytest.mark.parametrize(
    ("sent", "code", "jobs"),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1), (signal.SIGHUP, 129, 1)],
)
def test_a_signal_in_the_middle_of_a_batch(
    tmp_path: Path, debug_model_folder: Path, sent: signal.Signals, code: int, jobs: int
) -> None:
    """Finished files stay, partial files vanish, and the command ends early."""
    write_short_recording(tmp_path / "in" / "a.wav")
    long = write_short_recording(tmp_path / "in" / "b0.wav", 120 * SHORT_RATE)
    for number in range(1, 20):
        shutil.copy(long, tmp_path / "in" / f"b{number}.wav")
    out = tmp_path / "out"
    first = [out / f"a.a-dog.{part}.wav" for part in ("target", "residual")]
    options = ("-o", out, "--model", debug_model_folder, "--jobs", jobs)
    with subprocess.Popen(
        extract_command(tmp_path / "in", "a dog", *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            deadline = monotonic() + 120
            while not all(path.exists() for path in first):
                assert running.poll() is None, running.communicate()[1]
                assert monotonic() < deadline
                sleep(0.02)
            running.send_signal(sent)
            stderr = running.communicate(timeout=120)[1]
        finally:
            running.kill()
    assert running.returncode == code, stderr
    assert "Traceback" not in stderr
    files = files_below(out)
    assert not [name for name in files if "partial" in name]
    assert {path.name for path in first} <= set(files)
    assert len(files) % 2 == 0
    assert len(files) < 2 * 21
    (line,) = stderr.splitlines()
    word = {130: "interrupted", 143: "terminated", 129: "hung up"}[code]
    advice = "of 21 recordings done; repeat the command with --skip-existing for the rest"
    assert re.fullmatch(rf"{word}: \d+ {advice}", line)
