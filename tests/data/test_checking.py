"""The check of all sounds before a run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.audio import write_wav
from singleout.data.checking import MAX_NAMED, SoundCheck
from singleout.data.clips import Clip, Member
from singleout.data.manifest import read_manifest, scan_folder
from singleout.errors import AudioError, ConfigError
from tests.data.sounds import RATE, noise


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SINGLEOUT_CACHE", str(folder))
    return folder


def write_good(path: Path) -> None:
    write_wav(path, noise()[None], RATE)


def checked(folder: Path) -> tuple[list[str], SoundCheck]:
    """Names of the good sounds of a folder, and the check of all."""
    check = SoundCheck()
    clips = check.usable(scan_folder(folder, check.add))
    return [clip.path.name for clip in clips], check


def write_cut(path: Path, share: float) -> None:
    soundfile.write(path, noise(), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def write_constant(path: Path) -> None:
    write_wav(path, np.full((1, RATE), 0.5, np.float32), RATE)


def write_opposites(path: Path) -> None:
    """Channels whose average, which training uses, is silence."""
    write_wav(path, np.stack([noise(), -noise()]), RATE)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing": ("x.wav", Path.touch, "is empty (0 bytes)"),
    "text": ("x.flac", lambda path: path.write_text("a letter " * 99), "cannot be read as audio"),
    "no samples": ("x.wav", lambda p: write_wav(p, np.zeros((1, 0), "f4"), RATE), "no samples"),
    "cut MP3": ("x.mp3", lambda path: write_cut(path, 0.1), ""),
    "cut MP3 by half": ("x.mp3", lambda path: write_cut(path, 0.5), ""),
    "cut FLAC": ("x.flac", lambda path: write_cut(path, 0.6), ""),
    "cut WAV": ("x.wav", lambda path: write_cut(path, 0.6), ""),
    "cut Ogg": ("x.ogg", lambda path: write_cut(path, 0.6), ""),
    "NaN": ("x.wav", lambda p: write_wav(p, np.full((1, RATE), np.nan, "f4"), RATE), "NaN"),
    "zeros": ("x.wav", lambda p: write_wav(p, np.zeros((1, RATE), "f4"), RATE), "is silent"),
    "constant": ("x.wav", write_constant, "is silent"),
    "opposite channels": ("x.wav", write_opposites, "is silent"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sound_is_left_out_with_its_reason(name: str, tmp_path: Path) -> None:
    write_good(tmp_path / "good.wav")
    file_name, write, reason = BAD[name]
    write(tmp_path / file_name)
    good, check = checked(tmp_path)
    assert good == ["good.wav"]
    ((path, stated),) = check.reasons.items()
    assert path == tmp_path / file_name
    assert stated
    assert reason in stated
    assert str(tmp_path) not in stated
    with pytest.raises(AudioError, match=r"^1 sound cannot be used: .*--skip-bad$") as caught:
        check.finish(skips_bad=False)
    assert file_name in str(caught.value)


def test_quiet_and_short_sounds_are_good(tmp_path: Path) -> None:
    """Also a click in a long silence."""
    click = np.zeros((1, 20 * RATE), np.float32)
    click[0, 70_000] = 0.5
    write_wav(tmp_path / "click.wav", click, RATE)
    write_wav(tmp_path / "quiet.wav", 1e-3 * noise()[None], RATE)
    write_wav(tmp_path / "short.wav", noise()[None, :50], RATE)
    good, check = checked(tmp_path)
    assert good == ["click.wav", "quiet.wav", "short.wav"]
    check.finish(skips_bad=False)


def test_all_bad_sounds_are_named_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    write_good(sounds / "good.wav")
    bad = [sounds / f"{i:02}.wav" for i in range(MAX_NAMED + 2)]
    for path in bad:
        path.write_bytes(b"RIFF")
    _, check = checked(sounds)
    listed = tmp_path / "run" / "bad.jsonl"
    with pytest.raises(AudioError, match="12 sounds cannot be used") as caught:
        check.finish(False, listed)
    message = str(caught.value)
    assert [str(path) in message for path in bad] == [True] * MAX_NAMED + [False] * 2
    assert f"; and 2 more (all of them are listed in {listed})" in message
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in bad]
    assert all(row["reason"] for row in rows)
    with caplog.at_level(logging.WARNING, "singleout"):
        check.finish(True, listed)
    (warning,) = caplog.messages
    assert warning.startswith(f"left out 12 sounds: {bad[0]}: ")
    assert "\n" not in message + warning


def test_a_corpus_without_a_good_sound_is_refused(tmp_path: Path) -> None:
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", np.zeros((1, RATE), np.float32), RATE)
    good, check = checked(tmp_path)
    assert good == []
    for skips_bad in (False, True):
        with pytest.raises(AudioError, match=r"^no sound can be used, 4 sounds are bad: "):
            check.finish(skips_bad)


def test_missing_and_short_sounds_of_a_manifest_are_bad(tmp_path: Path) -> None:
    write_good(tmp_path / "good.wav")
    write_good(tmp_path / "short.wav")
    seconds = soundfile.info(tmp_path / "good.wav").duration
    rows = [("good.wav", seconds), ("short.wav", seconds + 1), ("gone.wav", 1.0)]
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"path": name, "seconds": s}) for name, s in [*rows, rows[0]]]
    manifest.write_text("\n".join(lines))
    check = SoundCheck()
    clips = check.usable(read_manifest(manifest, "train", on_bad=check.add))
    assert [clip.path.name for clip in clips] == ["good.wav", "good.wav"]
    reasons = {path.name: reason for path, reason in check.reasons.items()}
    assert reasons == {
        "gone.wav": f"no such file, named by {manifest}:3",
        "short.wav": f"lasts {seconds:.2f} s, but {seconds + 1:.2f} s are stated",
    }


def replace_unseen(path: Path) -> None:
    """Change the content of a file, but neither its size nor its time of change."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def clip_of_header(path: Path) -> Clip:
    (clip,) = scan_folder(path.parent)
    return clip


def test_a_good_sound_is_read_once(tmp_path: Path) -> None:
    """A change that keeps size and time goes unnoticed, which proves that nobody read the file."""
    path = tmp_path / "good.wav"
    write_good(path)
    clip = clip_of_header(path)
    assert SoundCheck().usable([clip]) == [clip]
    replace_unseen(path)
    assert SoundCheck().usable([clip]) == [clip]
    os.utime(path, ns=(0, 0))
    assert SoundCheck().usable([clip]) == []


def test_a_bad_sound_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    write_good(path)
    clip = clip_of_header(path)
    status = path.stat()
    whole = path.read_bytes()
    replace_unseen(path)
    assert SoundCheck().usable([clip]) == []
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert SoundCheck().usable([clip]) == [clip]


def test_a_damaged_or_missing_cache_does_no_harm(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "good.wav"
    write_good(path)
    clip = clip_of_header(path)
    SoundCheck().usable([clip])
    (remembered,) = cache.iterdir()
    marks = bytearray(remembered.read_bytes())
    marks[5] ^= 1
    remembered.write_bytes(bytes(range(256)) + marks)
    replace_unseen(path)
    assert SoundCheck().usable([clip]) == []  # it was not remembered, and was read
    write_good(path)
    monkeypatch.setenv("SINGLEOUT_CACHE", str(path))  # a file, in which there can be no cache
    assert SoundCheck().usable([clip]) == [clip]


def test_a_user_without_a_home_folder_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SINGLEOUT_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without a home folder
    with pytest.raises(ConfigError, match=r"no home folder .* SINGLEOUT_CACHE"):
        SoundCheck().usable([])


def test_sounds_of_shards_are_not_read_again(tmp_path: Path) -> None:
    """Nor need their shard exist. A file among them is read."""
    path = tmp_path / "good.wav"
    write_good(path)
    file = clip_of_header(path)
    place = Member(str(tmp_path / "0.tar"), 512, 1_000, sample_rate=RATE, num_samples=400)
    member = replace(file, path=tmp_path / "0.tar" / "0.wav", member=place)
    assert SoundCheck().usable([member, file, member]) == [member, file, member]
    path.write_bytes(b"RIFF")
    check = SoundCheck()
    assert check.usable([member, file, member]) == [member, member]
    assert list(check.reasons) == [path]
