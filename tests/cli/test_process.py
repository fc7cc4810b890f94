"""``singleout`` as a process of its own: its imports, and what goes wrong outside of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from singleout.audio import write_wav
from tests.recordings import file_names, noise

pytestmark = pytest.mark.slow

RATE = 48_000


PRINT_LOADED = """
import sys
sys.argv[1:] = {arguments!r}
from singleout.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {forbidden!r} if name in sys.modules])
"""


def loaded_modules(arguments: list[str], forbidden: list[str]) -> str:
    """Which of the forbidden modules the command loads, as Python prints the list."""
    code = PRINT_LOADED.format(arguments=arguments, forbidden=forbidden)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()[-1]


def test_help_is_light() -> None:
    heavy = ["torch", "numpy", "soundfile", "pydantic", "tokenizers", "matplotlib"]
    assert loaded_modules(["--help"], heavy) == "[]"


def test_extract_is_light(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    heavy = ["transformers", "lightning", "torchmetrics", "matplotlib", "scipy", "torch._dynamo"]
    arguments = ["extract", str(street), "dog", "-o", str(tmp_path)]
    assert loaded_modules([*arguments, "--model", str(debug_model_folder)], heavy) == "[]"


def test_as_a_process(
    street: Path, tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    model = ["--model", str(debug_model_folder)]
    extract = [*command, "extract", str(street), "dog", "-o", str(tmp_path), *model]
    ended = subprocess.run([*extract, "--json"], capture_output=True, text=True, check=True)
    assert Path(json.loads(ended.stdout)["target"]).is_file()
    assert ended.stderr == ""


def test_names_that_are_not_valid_text(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    street = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(street, noise(999), RATE)
    ended = subprocess.run(
        [*command, "extract", street, "犬", "-o", tmp_path, "--model", debug_model_folder],
        capture_output=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(file_names(tmp_path)) == 3
