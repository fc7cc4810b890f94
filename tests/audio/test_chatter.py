"""What libmpg123 prints, and what others print meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from singleout.audio import chatter, read_audio
from singleout.errors import AudioError
from tests.audio.recordings import noise

RATE = 48_000


def test_nothing_is_printed_about_a_damaged_mp3(tmp_path: Path) -> None:
    """Damage within frames is noted instead."""
    path = tmp_path / "x.mp3"
    soundfile.write(path, noise(num_samples=2 * RATE).T, RATE)
    data = bytearray(path.read_bytes())
    for position in range(3_000, len(data), 700):
        data[position] ^= 0x55
    path.write_bytes(data)
    code = (
        "import sys; from singleout.audio import open_audio\n"
        "with open_audio(sys.argv[1]) as reader:\n"
        "    print(sum(block.shape[1] for block in reader.blocks()))\n"
        "    print(any(note.is_damage for note in reader.notes))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    num_read, is_damaged = run.stdout.split()
    assert abs(int(num_read) - 2 * RATE) < 1_152
    assert is_damaged == "True"
    with pytest.raises(AudioError, match=r"damage|truncated"):
        read_audio(path)


def test_lines_of_others_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Also where several threads read MP3s at the same time."""
    with chatter.quiet() as damage, chatter.quiet():
        os.write(2, b"[src/libmpg123/parse.c:wetwork():1349] error: no header\n")
        os.write(2, b"a warning of someone else\n")
    os.write(2, b"and another one\n")
    assert capfd.readouterr().err == "a warning of someone else\nand another one\n"
    assert damage in ([], ["no header"])


def test_nothing_is_redirected_without_need(capfd: pytest.CaptureFixture[str]) -> None:
    with chatter.quiet(is_needed=False) as damage:
        os.write(2, b"[src/libmpg123/parse.c] error: no header\n")
    assert "no header" in capfd.readouterr().err
    assert damage == []
