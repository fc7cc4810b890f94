"""Mutated files for every reader: earlier findings, and new ones from a fixed seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from fuzz import mutation, packages
from fuzz.__main__ import NAMES

ROOT = Path(__file__).parents[2]
INPUTS = 200


def test_every_input_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """In a process of its own, which forks others: an input may crash its reader."""
    results = tmp_path / "fuzz.json"
    command = [
        sys.executable, "-m", "fuzz", "all", "--inputs", str(INPUTS), "--no-packages",
        "--results", str(results), "--findings", str(ROOT / "fuzz" / "findings"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(results.read_text())
    assert set(counts) == set(NAMES)
    for count in counts.values():
        assert count["inputs"] == count["read"] + count["refused"] == INPUTS
        assert count["read"] > 0


def test_a_seed_always_gives_the_same_inputs() -> None:
    seeds = [bytes(range(100)), b"RIFF" + bytes(40)]
    first = [mutation.mutated_bytes(Random(i), seeds) for i in range(100)]
    assert first == [mutation.mutated_bytes(Random(i), seeds) for i in range(100)]
    assert len(set(first)) > 90
    value = {"path": "a.wav", "alternatives": ["b", {"c": 1.5}]}
    texts = [mutation.mutated_json(Random(i), [value]) for i in range(100)]
    assert texts == [mutation.mutated_json(Random(i), [value]) for i in range(100)]
    assert value == {"path": "a.wav", "alternatives": ["b", {"c": 1.5}]}


def test_a_package_is_taken_only_if_it_is_the_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path))
    file = tmp_path / "package.whl"
    file.write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the file of seeds"):
        packages._fetched(file.as_uri(), "0" * 64, 5)
    for package in json.loads(packages.SEEDS.read_text()).values():
        assert package["url"].startswith("https://")
        assert len(package["sha256"]) == 64
