"""Some places of every fault in every command, and the table of docs/reliability.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.reliability import FAULTS, FUZZ, PAGE, faults_table, fuzz_table
from tests.faults.injection import FAULTS as TRIED

ROOT = Path(__file__).parents[2]
COMMANDS = ("extract", "extract, batch", "train", "evaluate")

needs_shim = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@needs_shim
@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "most"), [(COMMANDS[:1], 4), (COMMANDS[1:], 1)], ids=["extract", "others"]
)
def test_nothing_is_lost(tmp_path: Path, commands: tuple[str, ...], most: int) -> None:
    output = tmp_path / "faults.json"
    only = [option for command in commands for option in ("--command", command)]
    subprocess.run(
        [sys.executable, "-m", "tests.faults", output, *only, "--most", str(most)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    rows = json.loads(output.read_text())["rows"]
    names = [(row["fault"], row["command"]) for row in rows]
    assert names == [(fault.name, command) for command in commands for fault in TRIED]
    assert {name: row["lost"] for name, row in zip(names, rows, strict=True) if row["lost"]} == {}
    assert all(row["injected"] == min(most, row["places"]) for row in rows)
    assert sum(row["injected"] for row in rows) > 50


def results(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_page_has_the_results_of_every_fault() -> None:
    rows = results(FAULTS)["rows"]
    expected = {(fault.name, command) for fault in TRIED for command in COMMANDS}
    assert {(row["fault"], row["command"]) for row in rows} == expected
    assert [row["lost"] for row in rows if row["lost"]] == []
    assert faults_table(results(FAULTS)) in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(not FUZZ.exists(), reason="make fuzz has not written its results")
def test_the_page_has_the_results_of_every_reader() -> None:
    assert fuzz_table(results(FUZZ)) in PAGE.read_text(encoding="utf-8")
