"""``singleout prepare`` prints what it did, and refuses in one line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import check_refused, posix, run
from tests.prepare.corpora import hashes, write_manifest, write_sounds

RATE = ("--rate", 8_000)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of three sounds, and of one that cannot be read."""
    write_sounds(tmp_path / "sounds", 3)
    (tmp_path / "sounds" / "bad.wav").write_bytes(b"junk")
    return tmp_path / "sounds"


def test_it_prints_what_it_did(sounds: Path, tmp_path: Path) -> None:
    result = run("prepare", sounds, "-o", tmp_path / "out", *RATE)
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first == f"{tmp_path / 'out'}: 3 sounds, 0.00 h, shards: 1"
    assert second.startswith("new shards: 1, in ")
    assert "h of sound per core-hour" in second
    assert third == f"1 left out: {tmp_path / 'out'}/report.jsonl has the reasons"


def test_json_is_one_object(sounds: Path, tmp_path: Path) -> None:
    result = run("prepare", sounds, "-o", tmp_path / "out", *RATE, "--json")
    summary = json.loads(result.stdout)
    assert (summary["clips"], summary["outcomes"]) == (3, {"left out": 1})


def test_check_finds_a_changed_byte(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("prepare", sounds, "-o", out, *RATE)
    result = run("prepare", out, "--check")
    assert result.exit_code == 0
    assert result.stdout == f"{out}: all files are as they were written\n"
    before = hashes(out)
    (shard,) = (out / "shards").glob("*.tar")
    content = bytearray(shard.read_bytes())
    content[1_000] ^= 1
    shard.write_bytes(content)
    result = run("prepare", out, "--check")
    assert result.exit_code == 1
    assert shard.name in result.stdout
    assert "remove them and prepare the corpus again" in result.stderr
    assert len(json.loads(run("prepare", out, "--check", "--json").stdout)["wrong"]) == 1
    shard.unlink()
    run("prepare", sounds, "-o", out, *RATE)
    assert hashes(out) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--format", "mp3"], "'format'"),
        (["--rate", 3], "'sample_rate'"),
        (["--min-purity", 0.5], "needs an encoder"),
        (["--embed", "missing/encoder"], "missing/encoder"),
    ],
)
def test_wrong_options_are_refused(
    options: list[object], reason: str, sounds: Path, tmp_path: Path
) -> None:
    check_refused(run("prepare", sounds, "-o", tmp_path / "out", *options), reason)
    assert not (tmp_path / "out").exists()


def test_usage(sounds: Path, tmp_path: Path) -> None:
    for options in ([], ["-o", tmp_path / "out", "--check"],
                    ["-o", tmp_path / "out", "--engine", "spark"],
                    ["-o", tmp_path / "out", "--address", "auto"]):  # fmt: skip
        assert run("prepare", sounds, *options).exit_code == 2


def test_a_bad_manifest_and_a_missing_corpus_are_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", [{"path": "x.wav", "seconds": -1}])
    check_refused(run("prepare", manifest, "-o", tmp_path / "out"), f"{manifest}:1: ")
    check_refused(run("prepare", tmp_path / "none", "--check"), "holds no prepared corpus")


@posix
@pytest.mark.slow
def test_a_signal_stops_it_and_a_repeat_goes_on(
    command: list[str], sounds: Path, tmp_path: Path
) -> None:
    write_sounds(sounds, 300)
    arguments = [*command, "prepare", str(sounds), "--rate", "8000", "--shard-clips", "2", "-o"]
    out = tmp_path / "out"
    process = subprocess.Popen([*arguments, str(out)], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("shards/*.tar")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "terminated: repeat the command to go on\n"
    assert list(out.iterdir()) == [out / "shards"]
    subprocess.run([*arguments, str(out)], check=True, capture_output=True)
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True, capture_output=True)
    assert hashes(out) == hashes(tmp_path / "whole")
