"""``singleout extract`` with an engine, from manifests, and from and to stores."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest

from singleout.storage.locations import Location
from tests.cli.commands import check_refused, extract, posix, run
from tests.recordings import SHORT_RATE, files_below, write_short_recording


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of two good recordings and a bad one."""
    folder = tmp_path / "in"
    write_short_recording(folder / "a.wav", seed=1)
    write_short_recording(folder / "deep" / "b.wav", seed=2)
    (folder / "bad.wav").write_text("this is no sound")
    return folder


@pytest.fixture
def store() -> str:
    """The address of an empty folder in the memory of this process."""
    return f"memory://{uuid4().hex}"


def report_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a report in a fixed order, without times."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("wall_seconds", None)
        row.pop("real_time_factor", None)
    return sorted(rows, key=lambda row: (row["input"], row["query"]))


def test_a_report_never_replaces_the_manifest(recordings: Path, tmp_path: Path) -> None:
    manifest = recordings / "manifest.jsonl"
    manifest.write_text('{"path": "a.wav", "seconds": 1}\n')
    result = extract(manifest, "a dog", "-o", tmp_path / "out", "--report", manifest)
    check_refused(result, "manifest.jsonl: would overwrite")
    assert manifest.read_text() == '{"path": "a.wav", "seconds": 1}\n'


def test_a_manifest_in_and_a_store_out(
    recordings: Path, store: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    manifest = recordings / "manifest.jsonl"
    names = ("a.wav", "deep/b.wav", "missing.wav")
    manifest.write_text("".join(json.dumps({"path": n, "seconds": 1}) + "\n" for n in names))
    report = tmp_path / "report.jsonl"
    options = ("-o", store, "--model", debug_model_folder, "--report", report)
    result = extract(manifest, "a dog", *options)
    assert result.exit_code == 3, result.output
    assert result.stderr.splitlines() == [
        f"error: {recordings / 'missing.wav'}: no such file",
        "2 done, 0 skipped, 1 failed",
    ]
    targets = [f"{store}/a.a-dog.target.wav", f"{store}/deep/b.a-dog.target.wav"]
    rows = report_rows(report)
    assert [row["target"] for row in rows if "target" in row] == targets
    assert all(f"  {target}\n" in result.stdout for target in targets)
    assert len(Location(store).names_below()) == 4
    again = extract(f"{store}/nothing.jsonl", "a dog", *options)
    check_refused(again, f"{store}/nothing.jsonl: no such file")


def test_a_store_in_and_a_folder_out(
    recordings: Path, store: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    for name, content in files_below(recordings).items():
        (Location(store) / name).write(content)
    model = ("--model", debug_model_folder)
    extract(recordings, "a dog", "-o", tmp_path / "expected", *model)
    result = extract(store, "a dog", "-o", tmp_path / "out", *model, "--json")
    assert result.exit_code == 3, result.output
    inputs = {json.loads(line)["input"] for line in result.stdout.splitlines()}
    assert inputs == {f"{store}/{name}" for name in ("a.wav", "bad.wav", "deep/b.wav")}
    assert files_below(tmp_path / "out") == files_below(tmp_path / "expected")
    again = extract(store, "a dog", "-o", tmp_path / "out", *model, "--skip-existing")
    assert again.stderr.endswith("0 done, 2 skipped, 1 failed\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--engine", "dask"), "'dask' is no engine: give one of local, ray"),
        (("--address", "auto"), "is of a Ray cluster: add --engine ray"),
    ],
)
def test_wrong_engines_are_usage_errors(
    recordings: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = extract(recordings, "a dog", "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert reason in re.sub(r"[\s│]+", " ", result.stderr)


def test_what_other_processes_cannot_use_is_refused(
    recordings: Path, store: str, tmp_path: Path
) -> None:
    Location(f"{store}/a.wav").write((recordings / "a.wav").read_bytes())
    ray = ("a dog", "--engine", "ray")
    check_refused(extract(store, *ray, "-o", tmp_path), f"{store}/a.wav: is in the memory of one")
    check_refused(extract(recordings, *ray, "-o", store), f"{store}: is in the memory of one")
    result = extract(recordings / "a.wav", *ray, "-o", "-")
    check_refused(result, "-o - writes one target to stdout: --engine ray needs an output folder")
    check_refused(extract("-", *ray, "-o", tmp_path), "stdin: is no file that other processes")
    assert files_below(tmp_path / "out") == {}


def test_a_store_that_cannot_be_used_is_refused_before_any_work(recordings: Path) -> None:
    for arguments in ((recordings, "a dog", "-o", "nope://x"), ("nope://x", "a dog", "-o", "out")):
        check_refused(extract(*arguments), "nope://x: Protocol not known: nope")


@pytest.mark.slow
def test_ray_gives_the_files_report_and_exit_code_of_threads(
    recordings: Path, tmp_path: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are those of the current folder in every process."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(debug_model_folder, "model")
    results = {}
    for engine in ("local", "ray"):
        options = ("-o", "out", "--model", "model", "--report", "report.jsonl", "--jobs", 2)
        result = extract("in", "-q", "a dog", "-q", "rain", *options, "--engine", engine)
        assert result.exit_code == 3, result.output
        assert result.stderr.splitlines()[-1] == "2 done, 0 skipped, 1 failed"
        results[engine] = files_below(tmp_path / "out"), report_rows(tmp_path / "report.jsonl")
        if engine == "local":
            shutil.rmtree(tmp_path / "out")
    assert len(results["ray"][0]) == 8
    assert results["ray"] == results["local"]


@posix
@pytest.mark.slow
def test_ctrl_c_ends_the_processes_and_leaves_no_partial_file(
    recordings: Path, tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    long = write_short_recording(recordings / "long0.wav", 240 * SHORT_RATE)
    for number in range(1, 20):
        shutil.copy(long, recordings / f"long{number}.wav")
    out = tmp_path / "out"
    options = ("-o", out, "--model", debug_model_folder, "--engine", "ray", "--jobs", "2")
    arguments = ["extract", *map(str, (recordings, "a dog", *options))]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            deadline = monotonic() + 120
            while not list(out.glob(".long*.partial")):
                assert running.poll() is None, running.communicate()[1]
                assert monotonic() < deadline
                sleep(0.02)
            running.send_signal(signal.SIGINT)
            stderr = running.communicate(timeout=120)[1]
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "of 23 recordings done; repeat the command with --skip-existing" in stderr
    names = list(files_below(out))
    assert not [name for name in names if "partial" in name]
    assert len(names) < 2 * 22
    assert run("extract", recordings / "a.wav", "a dog", *options[:4]).exit_code == 0
