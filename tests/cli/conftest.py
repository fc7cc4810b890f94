"""Recordings for the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recordings import noise, write_recording


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """One second of stereo noise at 48 kHz, in float samples."""
    return write_recording(tmp_path / "street.wav", noise(48_000, 2), 48_000, "FLOAT")
