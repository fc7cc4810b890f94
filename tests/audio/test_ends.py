"""Sizes in the heads of files that are unset, wrong, or larger than the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import Note, open_audio, read_audio
from singleout.audio.description.riff import chunk
from singleout.errors import AudioError
from tests.audio.recordings import WITH_FILES, noise

RATE = 8_000
NUM_FRAMES = 2_001
UNSET = 0xFFFF_FFFF
pytestmark = pytest.mark.usefixtures("in_process")

CUTTABLE = (
    "AIFF", "AU", "AVR", "CAF", "HTK", "MAT4", "MAT5", "MPC2K", "NIST", "RF64", "SVX", "VOC",
    "W64", "WAV", "WAVEX", "WVE",
)  # fmt: skip
"""Formats that state the length of their sound, as libsndfile writes them."""
COMPRESSED = ("ADPCM", "GSM", "G72", "ALAC", "DWVW")


def read_with_notes(path: Path) -> tuple[NDArray[Any], list[Note]]:
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.notes


def pcm(audio: NDArray[np.float32]) -> bytes:
    return (audio.T * 32_767).astype("<i2").tobytes()


def wav(
    data: bytes,
    *,
    riff: int | None = None,
    size: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    channels: int = 2,
) -> bytes:
    """A WAV of 16 bits that states any sizes."""
    form = struct.pack("<HHIIHH", 1, channels, RATE, RATE * 2 * channels, 2 * channels, 16)
    head = b"WAVE" + chunk(b"fmt ", form) + before + b"data"
    size = len(data) if size is None else size
    whole = head + struct.pack("<I", size) + data + after
    return b"RIFF" + struct.pack("<I", len(whole) if riff is None else riff) + whole


TAGS = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"rain\0"))
SOUND = noise(num_samples=NUM_FRAMES, seed=1)
DATA = pcm(SOUND)
WHOLE_BYTES = len(wav(DATA))

SIZES: dict[str, dict[str, Any]] = {
    "right": {},
    "zero": {"riff": 0, "size": 0},
    "only the data is zero": {"size": 0},
    "unset": {"riff": UNSET, "size": UNSET},
    "only the data is unset": {"size": UNSET},
    "as FFmpeg writes into a pipe": {"riff": UNSET, "size": UNSET, "before": TAGS},
    "as SoX writes into a pipe": {"riff": 0x7FFF_FFFF, "size": 0x7FFF_FFDB},
    "counts the head": {"size": "file"},
    "counts the head, and so does the RIFF": {"size": "file", "riff": UNSET - 1},
    "counts a part of the head": {"size": "riff"},
    "counts a part of the head in a RIFF of size 0": {"size": "riff", "riff": 0},
    "lacks the head": {"size": len(DATA) - 44, "riff": WHOLE_BYTES - 52},
    "a tenth": {"size": len(DATA) // 10 & ~3, "riff": 36 + (len(DATA) // 10 & ~3)},
    "a tenth, in a right RIFF": {"size": len(DATA) // 10 & ~3},
}


@pytest.mark.parametrize("tail", [b"", TAGS, chunk(b"id3 ", bytes(11))], ids=["", "LIST", "id3"])
@pytest.mark.parametrize("kind", SIZES)
def test_a_wav_is_read_whole_whatever_sizes_it_states(
    tmp_path: Path, kind: str, tail: bytes
) -> None:
    """And chunks after the sound do not become sound."""
    path = tmp_path / "x.wav"
    sizes = dict(SIZES[kind])
    if isinstance(counted := sizes.get("size"), str):
        sizes["size"] = WHOLE_BYTES + len(tail) - (0 if counted == "file" else 8)
    path.write_bytes(wav(DATA, after=tail, **sizes))
    waveform, notes = read_with_notes(path)
    np.testing.assert_array_equal(waveform, soundfile.read(write_right(tmp_path))[0].T)
    assert not any(note.is_damage for note in notes)
    read_audio(path)  # strict
    with open_audio(path) as reader:
        assert reader.info.num_frames == NUM_FRAMES


def write_right(folder: Path) -> Path:
    path = folder / "right.wav"
    path.write_bytes(wav(DATA))
    return path


def test_a_size_that_is_too_small_is_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav(DATA, size=4_000, riff=4_036))
    _, [note] = read_with_notes(path)
    assert note.missing_seconds == 0
    assert "4,004 more follow" in note.text


@pytest.mark.parametrize("kind", ["zeros", "ID3v1", "odd padding"])
def test_what_follows_the_sound_is_no_sound(tmp_path: Path, kind: str) -> None:
    tail = {"zeros": bytes(3_000), "ID3v1": b"TAG" + bytes(125), "odd padding": bytes(1)}[kind]
    path = tmp_path / "x.wav"
    path.write_bytes(wav(DATA) + tail)
    waveform, notes = read_with_notes(path)
    assert waveform.shape == (2, NUM_FRAMES)
    assert notes == []


def test_a_wav_without_sound_has_no_samples(tmp_path: Path) -> None:
    """Its tags are not read as sound."""
    path = tmp_path / "x.wav"
    path.write_bytes(wav(b"", after=TAGS))
    with pytest.raises(AudioError, match="no samples"):
        read_audio(path)


def test_a_cut_wav_is_read_with_the_seconds_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav(DATA)[: 44 + 4_000])
    waveform, [note] = read_with_notes(path)
    np.testing.assert_array_equal(waveform, soundfile.read(write_right(tmp_path))[0].T[:, :1_000])
    assert note.is_damage
    assert note.missing_seconds == pytest.approx(1_001 / RATE)
    assert note.text == f"{path}: is truncated: 0.13 s of the 0.25 s that it states are missing"
    with pytest.raises(AudioError, match=r"is truncated: 0\.13 s of the 0\.25 s"):
        read_audio(path)
    with open_audio(path, strict=True) as reader, pytest.raises(AudioError, match="truncated"):
        list(reader.blocks())
    assert read_audio(path, strict=False)[0].shape == (2, 1_000)


def test_a_long_format_of_unset_size(tmp_path: Path) -> None:
    """RF64 and W64 whose sizes the recorder has not written yet."""
    for kind in ("RF64", "W64"):
        path = tmp_path / f"x.{kind.lower()}"
        soundfile.write(path, SOUND.T, RATE, "PCM_16", format=kind)
        data = bytearray(path.read_bytes())
        position = data.index(b"ds64") + 8 if kind == "RF64" else data.index(b"data") + 16
        data[position : position + (24 if kind == "RF64" else 8)] = bytes(
            24 if kind == "RF64" else 8
        )
        path.write_bytes(data)
        waveform, notes = read_with_notes(path)
        assert waveform.shape == (2, NUM_FRAMES), kind
        assert notes == []


@pytest.mark.parametrize(
    ("kind", "mark", "offset", "unset"),
    [
        ("AU", b".snd", 8, b"\xff" * 4),
        ("AU", b".snd", 8, bytes(4)),
        ("CAF", b"data", 4, b"\xff" * 8),
        ("CAF", b"data", 4, bytes(8)),
        ("AIFF", b"SSND", 4, bytes(4)),
        ("AIFF", b"SSND", 4, b"\xff" * 4),
        ("SVX", b"BODY", 4, bytes(4)),
        ("NIST", b"sample_count -i", 15, b" 0000"),
    ],
)
def test_other_formats_of_unset_size(
    tmp_path: Path, kind: str, mark: bytes, offset: int, unset: bytes
) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    channels = 1 if kind == "SVX" else 2
    soundfile.write(path, SOUND[:channels].T, RATE, "PCM_16", format=kind)
    expected = soundfile.read(path)[0].T.reshape(channels, -1)
    data = bytearray(path.read_bytes())
    position = data.index(mark) + offset
    data[position : position + len(unset)] = unset
    if kind == "AIFF":  # and no number of frames
        data[22:26] = bytes(4)
        data[4:8] = bytes(4)
    path.write_bytes(data)
    waveform, notes = read_with_notes(path)
    np.testing.assert_array_equal(waveform[:, :NUM_FRAMES], expected)
    assert waveform.shape[1] <= NUM_FRAMES + 1  # the end mark of a VOC is a byte
    assert not any(note.is_damage for note in notes)


@pytest.mark.parametrize("kind", CUTTABLE)
def test_a_cut_anywhere_is_noted(tmp_path: Path, kind: str) -> None:
    """For all encodings: what was read is a start of the whole, and a note has the rest."""
    for subtype in soundfile.available_subtypes(kind):
        path = tmp_path / f"x.{kind.lower()}"
        try:
            soundfile.write(path, SOUND[:1].T, RATE, subtype, format=kind)
            whole, notes = read_with_notes(path)
        except (soundfile.LibsndfileError, AudioError):
            continue  # written by libsndfile, but not read
        assert notes == [], subtype
        data = path.read_bytes()
        for cut in range(len(data) // 9, len(data) - 1, len(data) // 9):
            path.write_bytes(data[:cut])
            try:
                part, notes = read_with_notes(path)
            except AudioError:
                continue  # cut within the head
            [note] = notes
            assert note.is_damage or "as many as its head" in note.text, (subtype, cut)
            if not any(name in subtype for name in COMPRESSED):
                np.testing.assert_array_equal(part, whole[:, : part.shape[1]])
                seconds = part.shape[1] / RATE + (note.missing_seconds or 0)
                assert seconds == pytest.approx(whole.shape[1] / RATE, abs=0.002), (subtype, cut)


@settings(deadline=None, max_examples=60, suppress_health_check=WITH_FILES)
@given(
    kind=st.sampled_from([*CUTTABLE, "FLAC", "PAF", "PVF", "IRCAM", "XI"]),
    num_frames=st.integers(1, 300),
    channels=st.integers(1, 2),
)
def test_whole_files_of_any_length_have_no_notes(
    tmp_path: Path, kind: str, num_frames: int, channels: int
) -> None:
    path = tmp_path / "x"
    try:
        soundfile.write(path, SOUND[:channels, :num_frames].T, RATE, format=kind)
    except soundfile.LibsndfileError:
        return  # mono only
    waveform, notes = read_with_notes(path)
    assert waveform.shape[0] == channels
    assert num_frames <= waveform.shape[1] <= num_frames + 10  # blocks of 10 in PAF
    assert notes == []


@pytest.mark.parametrize("kind", ["IRCAM", "PAF", "PVF"])
def test_a_broken_last_sample_shows_a_cut(tmp_path: Path, kind: str) -> None:
    """These formats state no length."""
    path = tmp_path / "x"
    soundfile.write(path, SOUND.T, RATE, "PCM_16", format=kind)
    path.write_bytes(path.read_bytes()[:-5])
    waveform, [note] = read_with_notes(path)
    assert waveform.shape[1] in (NUM_FRAMES - 2, NUM_FRAMES - 1)
    assert note.is_damage
    assert note.missing_seconds is None


@pytest.mark.parametrize("size", [0, UNSET])
def test_a_wav_of_more_than_4_gb_whose_size_is_unset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It is read as an RF64. The limit is lower here."""
    monkeypatch.setattr("singleout.audio.ends.sizes.LONG_BYTES", 5_000)
    path = tmp_path / "x.wav"
    path.write_bytes(wav(DATA, riff=size, size=size, after=TAGS))
    waveform, notes = read_with_notes(path)
    np.testing.assert_array_equal(waveform, soundfile.read(write_right(tmp_path))[0].T)
    assert notes == []
    with open_audio(path) as reader:
        assert reader.info.container == "RF64"


def voc(lengths: list[int], data: bytes) -> bytes:
    """A VOC of 16 bits in blocks of any lengths."""
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x114, 0x1F11)
    for length in lengths:
        head += b"\x09" + (length + 12).to_bytes(3, "little")
        head += struct.pack("<IBBHI", RATE, 16, 2, 4, 0) + data[:length]
        data = data[length:]
    return head + data + b"\0"


def test_all_blocks_of_a_voc_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.voc"
    expected = soundfile.read(write_right(tmp_path))[0].T
    for lengths in ([len(DATA)], [4_000, 2_000, 2_004], [len(DATA) - 8], [100]):
        path.write_bytes(voc(lengths, DATA))
        waveform, notes = read_with_notes(path)
        np.testing.assert_array_equal(waveform, expected)
        assert notes == []


def test_tables_after_the_sound_may_be_cut(tmp_path: Path) -> None:
    """Without its table of packets Apple Lossless cannot be decoded, and the reason is true."""
    path = tmp_path / "x.caf"
    soundfile.write(path, SOUND.T, RATE, "ALAC_16", format="CAF")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(AudioError, match="is truncated: nothing of its sound can be decoded"):
        read_audio(path)


# Several recordings in one file


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "FLAC"])
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    joined = b""
    for seed in range(3):
        soundfile.write(path, noise(num_samples=1_000, seed=seed).T, RATE, "PCM_16", format=kind)
        joined += path.read_bytes()
    path.write_bytes(joined)
    waveform, notes = read_with_notes(path)
    expected = np.concatenate([noise(num_samples=1_000, seed=seed) for seed in range(3)], axis=1)
    np.testing.assert_allclose(waveform, expected, atol=2**-15)
    assert notes == []


def test_joined_files_of_other_rates_and_channels(tmp_path: Path) -> None:
    """They are converted to the rate and channels of the first."""
    path, mono = tmp_path / "x.wav", tmp_path / "y.wav"
    soundfile.write(path, SOUND.T, RATE)
    soundfile.write(mono, np.full(4_000, 0.25), 2 * RATE)
    five = tmp_path / "z.wav"
    soundfile.write(five, np.zeros((4_000, 5)), RATE)
    path.write_bytes(path.read_bytes() + mono.read_bytes() + five.read_bytes())
    waveform, [note] = read_with_notes(path)
    assert waveform.shape == (2, NUM_FRAMES + 2_000)
    np.testing.assert_allclose(waveform[:, NUM_FRAMES + 500 : -500], 0.25, atol=1e-3)
    assert note.is_damage
    assert "left out: it has 5 channels" in note.text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.au", b".snd" + struct.pack(">5I", 7, 0xFFFF, 3, 0, 1) + bytes(100)),
        ("x.mp3", b"\xff\xfb\x90\x00" + bytes(17) + b"Info"),
        ("x.mp3", b"\xff\xfb\x90"),
        ("x.voc", b"Creative Voice File\x1a"),
        ("x.w64", b"riff\x2e\x91\xcf\x11" + bytes(100)),
        ("x.caf", b"caff\0\1\0\0data" + b"\xff" * 8),
        ("x.sph", b"NIST_1A\n   -100\n" + bytes(2_000)),
        ("x.ogg", b"OggS\0\2" + bytes(21)),
        ("x.flac", b"fLaC\0\0\0\x22"),
    ],
)
def test_heads_that_end_early_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(AudioError) as raised:
        read_audio(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_recording_is_opened_again_without_another_look(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav(DATA, size=0, after=TAGS))
    with open_audio(path) as reader:
        first = np.concatenate(list(reader.blocks()), axis=1)
        with reader.reopened() as again:
            np.testing.assert_array_equal(np.concatenate(list(again.blocks()), axis=1), first)
            assert again.info == reader.info
