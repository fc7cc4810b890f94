"""``singleout formats``: what the installed libraries read and write."""

from __future__ import annotations

import json

from singleout.audio import MEDIA_SUFFIXES
from tests.cli.commands import run


def test_all_names_are_in_the_json() -> None:
    result = run("formats", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    known = json.loads(result.stdout)
    sndfile, ffmpeg = known["reads"]["libsndfile"], known["reads"]["ffmpeg"]
    assert {"WAV", "FLAC", "OGG", "AIFF", "CAF", "RF64"} <= set(sndfile["formats"])
    assert "RAW" not in sndfile["formats"]
    assert {"aac", "alac", "ac3", "opus", "wmav2"} <= set(ffmpeg["codecs"])
    assert "h264" not in ffmpeg["codecs"]
    assert {"mpegts", "asf", "matroska,webm", "avi"} <= set(ffmpeg["containers"])
    assert set(ffmpeg["in_folders"]) < set(ffmpeg["containers"])
    assert known["suffixes"] == sorted(MEDIA_SUFFIXES)
    assert known["writes"] == ["wav", "flac", "aiff", "ogg", "mp3"]


def test_the_text_is_short() -> None:
    result = run("formats")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 88
    titles = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert titles == ["Read", "Read", "Suffixes", "Written"]
    words = result.stdout.replace(",", " ").split()
    assert {"FLAC", "mpegts", ".mkv", ".wav", "mp3"} <= set(words)
