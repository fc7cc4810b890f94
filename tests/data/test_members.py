"""Members of shards, read by their offset."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.data.clips import Clip, Member
from singleout.data.members import BUFFER_BYTES, member_file, open_pcm, open_shard, pcm_head
from singleout.data.sound_files import open_clip
from singleout.errors import AudioError, ShardError
from singleout.storage.locations import Location

RATE = 8_000
PAD = 777
"""Bytes before and after the member in the file."""


def stored(tmp_path: Path, content: bytes, rate: int, frames: int, where: str = "disk") -> Clip:
    """A clip whose sound is in the middle of a file."""
    place = tmp_path / "0.tar" if where == "disk" else f"memory://{tmp_path.name}/0.tar"
    Location(place).write(os.urandom(PAD) + content + os.urandom(PAD))
    member = Member(str(place), PAD, len(content), rate, frames)
    path = Path(place, "7.wav")
    return Clip(path, frames / rate, None, (), "7", "7", "train", True, member)


def file_of(audio: NDArray[Any], kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAVEX", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"),
     ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")],
)  # fmt: skip
def test_every_crop_is_that_of_libsndfile(
    kind: str, subtype: str, channels: int, where: str, tmp_path: Path
) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (3_001, channels))
    content = file_of(audio, kind, subtype)
    clip = stored(tmp_path, content, RATE, 3_001, where)
    for start, length in ((0, 100), (1_000, 2_001), (2_990, 99), (3_000, 0), (0, 5_000)):
        with open_clip(clip) as sound, soundfile.SoundFile(io.BytesIO(content)) as expected:
            assert (sound.frames, sound.samplerate) == (3_001, RATE)
            sound.seek(start)
            expected.seek(start)
            for _ in range(2):  # reading goes on where it stopped
                part = sound.read(length, "float32", always_2d=True)
                other = expected.read(length, "float32", always_2d=True)
                assert part.dtype == np.float32
                assert part.shape == other.shape
                assert (part == other).all()
    assert clip.member is not None
    is_pcm = where == "disk" and kind in ("WAV", "WAVEX") and subtype == "PCM_16"
    assert (open_pcm(clip.member) is not None) == is_pcm


def test_chunks_before_the_samples_are_skipped(tmp_path: Path) -> None:
    content = file_of(np.zeros(9), "WAV", "PCM_16")
    notes = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    clip = stored(tmp_path, content[:12] + notes + content[12:], RATE, 9)
    with open_clip(clip) as sound:
        assert len(sound.read(99, "float32", always_2d=True)) == 9


@given(st.binary(max_size=100), st.integers(0, 44))
def test_damaged_headers_are_left_to_libsndfile(noise: bytes, place: int) -> None:
    content = file_of(np.zeros(9), "WAV", "PCM_16")
    damaged = content[:place] + noise + content[place + len(noise) :]
    head = pcm_head(damaged, len(damaged))
    if head is not None:
        assert head.start + 2 * head.channels * head.num_samples <= len(damaged)
        assert head.num_samples > 0


def test_another_sound_than_the_index_says_is_refused(tmp_path: Path) -> None:
    for kind in ("WAV", "FLAC"):
        content = file_of(np.zeros(90), kind, "PCM_16")
        for rate, frames in ((RATE, 91), (RATE + 1, 90)):
            clip = stored(tmp_path, content, rate, frames)
            with (
                pytest.raises(AudioError, match=r"7\.wav: has 90 samples at 8,000 Hz, but the"),
                open_clip(clip),
            ):
                pass


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_shard_that_lost_its_tail_is_named(kind: str, where: str, tmp_path: Path) -> None:
    content = file_of(np.random.default_rng(0).uniform(-1, 1, 9_000), kind, "PCM_16")
    clip = stored(tmp_path, content, RATE, 9_000, where)
    assert clip.member is not None
    shard = Location(clip.member.shard)
    for size in (0, PAD + 10, PAD + len(content) - 1):
        shard.write(shard.read()[:size] or b"")
        missing = f"lost its tail: byte {max(size, PAD):,} is missing"
        with (
            pytest.raises(AudioError, match=missing) as caught,
            open_clip(clip) as sound,
        ):
            sound.read(9_000, "float32", always_2d=True)
        assert str(caught.value).startswith(f"{shard}: ")
        clip = stored(tmp_path, content, RATE, 9_000, where)
    shard.remove()
    with pytest.raises(AudioError, match=r"(?i)no such file"), open_clip(clip):
        pass


def test_what_is_no_sound_is_one_line(tmp_path: Path) -> None:
    clip = stored(tmp_path, b"no sound at all" * 99, RATE, 9)
    with (
        pytest.raises(
            AudioError, match=r"7\.wav: cannot be read as audio: .*copy the shard again"
        ) as caught,
        open_clip(clip),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_replaced_shard_is_opened_again(tmp_path: Path) -> None:
    first = stored(tmp_path, b"first", RATE, 9)
    assert first.member is not None
    with member_file(first.member) as file:
        assert file.read() == b"first"
    stored(tmp_path, b"other", RATE, 9)
    with member_file(first.member) as file:
        assert file.read() == b"other"


def test_large_members_are_read_in_parts(tmp_path: Path) -> None:
    content = os.urandom(3 * BUFFER_BYTES + 5)
    clip = stored(tmp_path, content, RATE, 9)
    assert clip.member is not None
    with member_file(clip.member) as file:
        for start in (0, 5, BUFFER_BYTES - 3, len(content) - 7):
            file.seek(start)
            assert file.tell() == start
            assert file.read(100) == content[start : start + 100]
        assert file.seek(-4, os.SEEK_END) == len(content) - 4
        assert file.read() == content[-4:]
        assert file.read() == b""


def test_a_large_member_that_ends_too_early_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libsndfile reads by calls from C, in which an exception is printed and lost."""
    audio = np.random.default_rng(0).uniform(-1, 1, 1_500_000)
    content = file_of(audio, "FLAC", "PCM_16")
    assert len(content) > 2 * BUFFER_BYTES
    clip = stored(tmp_path, content, RATE, len(audio))
    assert clip.member is not None
    os.truncate(clip.member.shard, PAD + len(content) // 2)
    with open_clip(clip) as sound:
        assert len(sound.read(100, "float32", always_2d=True)) == 100
    with (  # it ends within the crop
        pytest.raises(ShardError, match=r"0\.tar: lost its tail"),
        open_clip(clip) as sound,
    ):
        sound.read(len(audio), "float32", always_2d=True)
    with pytest.raises(ShardError, match=r"0\.tar: lost its tail"), open_clip(clip) as sound:
        sound.seek(len(audio) - 100)  # before the crop
    assert capfd.readouterr().err == ""


def num_open() -> int:
    """Number of files that this process has open, on Linux."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_crop_of_a_store_takes_one_request_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, requests = Location.read, []

    def count(self: Location, start: int = 0, stop: int | None = None) -> bytes:
        requests.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(Location, "read", count)
    for frames, expected in ((9_000, 1), (BUFFER_BYTES, 2)):
        content = file_of(np.zeros(frames), "WAV", "PCM_16")
        requests.clear()
        with open_clip(stored(tmp_path, content, RATE, frames, "memory")) as sound:
            sound.seek(1_000)
            assert len(sound.read(500, "float32", always_2d=True)) == 500
        assert len(requests) == expected


def test_few_shards_stay_open(tmp_path: Path) -> None:
    before = num_open()
    for number in range(200):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(b"content")
        assert open_shard(str(path)).read(0, 3) == b"con"
    assert num_open() < before + 80
