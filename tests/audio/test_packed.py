"""Levels of samples with fewer bits than their places: full scale is 1, wherever they stand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import open_audio, output_kind, quantised
from singleout.audio.description.riff import GUID_TAIL, chunk
from singleout.audio.packed import packing
from tests.audio.recordings import RATE, read, write

LEVELS = [0.5, -0.5, -1.0, 0.25, 0.0]


def wav(
    integers: NDArray[np.int64],
    place: int,
    bits: int,
    *,
    field: int | None = None,
    is_low: bool = False,
    is_extensible: bool = True,
    channels: int = 1,
    data: bytes | None = None,
    stated: int | None = None,
) -> bytes:
    """A WAV of integers of ``bits`` bits in places of ``place`` bits."""
    places = integers if is_low else integers << (place - bits)
    size = place // 8
    wide = places.astype("<i8").view(np.uint8).reshape(-1, 8)
    data = wide[:, :size].tobytes() if data is None else data
    frame = size * channels
    head = struct.pack("<HIIHH", channels, RATE, RATE * frame, frame, field or place)
    if is_extensible:
        tail = struct.pack("<HHIH", 22, bits, 0x4 if channels == 1 else 0, 1) + GUID_TAIL
        fmt = b"\xfe\xff" + head + tail
    else:
        fmt = b"\1\0" + head
    samples = chunk(b"data", data)
    if stated is not None:
        samples = b"data" + struct.pack("<I", stated) + data
    body = b"WAVE" + chunk(b"fmt ", fmt) + samples + chunk(b"guan", b"GUANO")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def integers(bits: int) -> NDArray[np.int64]:
    """Levels of full scale that are known, then noise in all bits."""
    end = 1 << (bits - 1)
    drawn = np.random.default_rng(bits).integers(-end, end, 2_000)
    return np.concatenate([(np.array(LEVELS) * end).astype(np.int64), drawn])


PLACES = [(32, 24), (32, 20), (32, 17), (24, 20), (24, 18), (16, 12), (16, 14), (32, 16)]


@pytest.mark.parametrize("is_low", [False, True])
@pytest.mark.parametrize(("place", "bits"), PLACES)
@pytest.mark.parametrize("header", ["valid bits", "plain", "short", "short and valid"])
def test_the_level_is_right(
    tmp_path: Path, place: int, bits: int, is_low: bool, header: str
) -> None:
    """Samples in the highest bits, as they should, and in the lowest, as ALSA and others write
    them; bits that the header states as valid, and headers that state fewer bits than places."""
    field = bits if "short" in header else None
    if header == "plain":
        if place - bits >= 8:
            return  # the next test
        field = bits
    values = integers(bits)
    path = tmp_path / "x.wav"
    path.write_bytes(
        wav(
            values, place, bits, field=field, is_low=is_low,
            is_extensible=header in ("valid bits", "short and valid"),
        )
    )  # fmt: skip
    with open_audio(path) as reader:
        audio = np.concatenate(list(reader.blocks()), axis=1)
        info, notes = reader.info, reader.notes
    np.testing.assert_array_equal(audio[0] * float(1 << (bits - 1)), values)
    assert audio[0, :5].tolist() == LEVELS
    assert bool(notes) == is_low
    assert all(not note.is_damage for note in notes)
    assert info.num_frames == len(values)
    assert info.riff_chunks == ((b"guan", b"GUANO"),)
    holds = next(size for size in (16, 24, 32) if bits <= size)
    assert info.subtype == (f"PCM_{holds}" if is_low else f"PCM_{place}")

    kind = output_kind(info)
    target = np.random.default_rng(0).normal(0, 0.3, audio.shape)
    total = np.zeros_like(audio)
    for name, part in zip("tr", quantised(target, audio, kind), strict=True):
        write(tmp_path / name, part, info, kind)
        total += read(tmp_path / name)[0]
    np.testing.assert_array_equal(total, audio)


def test_a_quiet_recording_of_32_bits_stays_quiet(tmp_path: Path) -> None:
    """Its header states all bits, so that its level is what it is."""
    values = integers(24)
    (tmp_path / "x.wav").write_bytes(wav(values, 32, 32, is_extensible=False))
    np.testing.assert_array_equal(read(tmp_path / "x.wav")[0][0] * 2.0**31, values)
    assert packing(tmp_path / "x.wav") is None


def test_a_silent_recording_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(np.zeros(100, np.int64), 32, 24))
    assert packing(tmp_path / "x.wav") is None
    assert read(tmp_path / "x.wav")[1].subtype == "PCM_32"


def test_a_quiet_recording_in_the_highest_bits_stays_quiet(tmp_path: Path) -> None:
    values = integers(24) >> 16
    (tmp_path / "x.wav").write_bytes(wav(values, 32, 24))
    np.testing.assert_array_equal(read(tmp_path / "x.wav")[0][0] * 2.0**23, values)


def test_the_highest_byte_of_alsa_has_no_meaning(tmp_path: Path) -> None:
    """``S24_LE`` is the lowest three bytes of four."""
    values = integers(24)
    for rubbish in (0, 0x5A << 24):
        places = (values & 0xFF_FFFF) | rubbish
        content = wav(places, 32, 24, field=24, is_low=True, is_extensible=False)
        (tmp_path / "x.wav").write_bytes(content)
        np.testing.assert_array_equal(read(tmp_path / "x.wav")[0][0] * 2.0**23, values)


def test_floats_of_cool_edit_are_read(tmp_path: Path) -> None:
    """Its "24.0 float" states 24 bits in four bytes, and the full scale is that of 24 bits."""
    audio = np.random.default_rng(0).normal(0, 0.2, 2_000).astype("<f4")
    audio[:3] = 0, 0.5, 1.25
    content = wav(
        np.zeros(0, np.int64), 32, 24, field=24, is_extensible=False,
        data=(audio * np.float32(2**23)).tobytes(),
    )  # fmt: skip
    (tmp_path / "x.wav").write_bytes(content)
    samples, info = read(tmp_path / "x.wav")
    np.testing.assert_array_equal(samples[0], audio)
    assert (info.subtype, output_kind(info).subtype) == ("FLOAT", "FLOAT")


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr("singleout.audio.packed.BLOCK_BYTES", 100)
    values = integers(24)[: 1_000 * channels]
    (tmp_path / "x.wav").write_bytes(wav(values, 32, 24, field=24, is_low=True, channels=channels))
    audio, info = read(tmp_path / "x.wav")
    np.testing.assert_array_equal(audio.T.ravel() * 2.0**23, values[: audio.size])
    assert audio.shape == (channels, len(values) // channels)
    assert info.channel_mask == (0x4 if channels == 1 else 0)


@pytest.mark.parametrize("stated", [0, 0xFFFF_FFFF, 0x7FFF_FFF0])
def test_samples_of_unset_length_last_to_the_end(tmp_path: Path, stated: int) -> None:
    content = wav(integers(24), 32, 24, field=24, is_low=True, stated=stated)[: -(8 + 5 + 1)]
    (tmp_path / "x.wav").write_bytes(content)
    audio, info = read(tmp_path / "x.wav")
    assert audio.shape == (1, 2_005)
    assert info.num_frames == 2_005


def test_a_cut_is_noticed(tmp_path: Path) -> None:
    content = wav(integers(24), 32, 24, field=24, is_low=True, stated=4 * 2_005 + 4 * RATE)
    (tmp_path / "x.wav").write_bytes(content[: -(8 + 5 + 1)])
    with open_audio(tmp_path / "x.wav") as reader:
        assert sum(block.shape[1] for block in reader.blocks()) == 2_005
        cut, _ = reader.notes
    assert cut.is_damage
    assert cut.missing_seconds == 1.0
    stated = "1.00 s of the 1.04 s that it states are missing"
    assert cut.text == f"{tmp_path / 'x.wav'}: is truncated: {stated}"


@pytest.mark.parametrize(
    "changes",
    [{"channels": 0}, {"channels": 3}, {"field": 8}, {"field": 31}, {"field": 0}, {"field": 40}],
)
def test_odd_headers_are_left_to_the_decoders(tmp_path: Path, changes: dict[str, Any]) -> None:
    """No header stops the reader: the decoders refuse or read the file."""
    content = wav(integers(24), 32, 24, **{"is_extensible": False, **changes})
    (tmp_path / "x.wav").write_bytes(content)
    packing(tmp_path / "x.wav")


def test_ordinary_files_are_left_to_libsndfile(tmp_path: Path) -> None:
    for container, subtype in (("WAV", "PCM_16"), ("WAVEX", "PCM_24"), ("RF64", "FLOAT")):
        soundfile.write(tmp_path / "x", np.zeros(100), RATE, subtype, format=container)
        assert packing(tmp_path / "x") is None
