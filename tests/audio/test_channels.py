"""Channels in the order of a WAV, whatever the order of the format, and their loudspeakers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputKind, output_kind, read_audio
from singleout.audio.channels import (
    CORE_AUDIO,
    SPEAKERS,
    core_audio_chunk,
    core_audio_layout,
    speaker_layout,
    vorbis_layout,
)
from singleout.audio.description.riff import AMBISONIC_TAIL, GUID_TAIL, chunk
from singleout.audio.ffmpeg.decoder import Decoder
from singleout.errors import OutputError
from tests.audio.media import encode
from tests.audio.recordings import RATE, noise, read, write

VORBIS_ORDERS = {
    1: [0], 2: [0, 1], 3: [0, 2, 1], 4: [0, 1, 2, 3], 5: [0, 2, 1, 3, 4], 6: [0, 2, 1, 4, 5, 3],
    7: [0, 2, 1, 5, 6, 4, 3], 8: [0, 2, 1, 6, 7, 4, 5, 3],
}  # fmt: skip
"""The channel of a WAV for each channel of Vorbis, by hand from the two specifications."""
MASKS = {3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
COUNTS = sorted(MASKS)


def tones(channels: int) -> NDArray[np.float32]:
    """A third of a second of a tone per channel: the lower the channel, the lower the tone."""
    time = np.arange(RATE // 3) / RATE
    return np.stack([0.2 * np.sin(2 * np.pi * f * time) for f in _frequencies(channels)]).astype(
        np.float32
    )


def _frequencies(channels: int) -> list[int]:
    return [(60, 400, 700, 1_000, 1_400, 1_900, 2_500, 3_200)[k] for k in range(channels)]


def order(audio: NDArray[Any]) -> list[int]:
    """Number of the tone in each channel."""
    num_samples = audio.shape[1]
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(num_samples)))
    tone_bins = [round(f * num_samples / RATE) for f in _frequencies(len(audio))]
    levels = spectrum[:, tone_bins]
    return [int(k) for k in levels.argmax(axis=1)]


def as_ffmpeg_reads(path: Path) -> NDArray[np.float32]:
    pytest.importorskip("av")
    decoder = Decoder(path, "")
    blocks = []
    while (block := decoder.read()).shape[1]:
        blocks.append(block)
    decoder.close()
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize("channels", COUNTS)
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_surround_channels_of_ogg_come_in_the_order_of_a_wav(
    tmp_path: Path, subtype: str, channels: int
) -> None:
    """libsndfile gives them in the order of Vorbis. FFmpeg's decoder is the reference."""
    path = tmp_path / "x.ogg"
    in_file = tones(channels)[VORBIS_ORDERS[channels]]
    soundfile.write(path, in_file.T, RATE, format="OGG", subtype=subtype)
    audio, info = read(path)
    assert info.channel_mask == MASKS[channels]
    low = 3 if channels >= 6 else None  # Opus gives the LFE channel only the lowest tones
    expected = list(range(channels))
    got, reference = order(audio), order(as_ffmpeg_reads(path))
    for channel_order in (got, reference):
        assert [n for n in channel_order if n != low][:3] == expected[:3]
    assert got == reference
    if subtype == "VORBIS":
        assert got == expected


@pytest.mark.parametrize("channels", [1, 2, *COUNTS])
def test_surround_channels_are_written_in_the_order_of_vorbis(
    tmp_path: Path, channels: int
) -> None:
    path = tmp_path / "x.ogg"
    mask = MASKS.get(channels, 0)
    info = AudioInfo(RATE, channels, channel_mask=mask)
    write(path, tones(channels), info, output_kind(info, "ogg"))
    assert order(soundfile.read(path, always_2d=True)[0].T) == VORBIS_ORDERS[channels]
    assert order(as_ffmpeg_reads(path)) == list(range(channels))
    audio, again = read(path)
    assert order(audio) == list(range(channels))
    assert again.channel_mask == vorbis_layout(channels).mask
    if mask:
        assert again.channel_mask == mask


@pytest.mark.parametrize("mask", [0, 0x3F, 0x60F])
def test_five_one_may_stand_at_the_sides_or_be_unstated(tmp_path: Path, mask: int) -> None:
    """The surround channels of Vorbis are those of any 5.1. A plain WAV states nothing."""
    info = AudioInfo(RATE, 6, channel_mask=mask)
    write(tmp_path / "x.ogg", tones(6), info, output_kind(info, "ogg"))
    assert order(read(tmp_path / "x.ogg")[0]) == list(range(6))


@pytest.mark.parametrize(
    ("channels", "mask", "is_ambisonic"),
    [(4, 0, True), (9, 0, True), (4, 0x107, False), (8, 0xFF, False), (12, 0x2D63F, False)],
)
def test_what_vorbis_cannot_state_is_refused(
    tmp_path: Path, channels: int, mask: int, is_ambisonic: bool
) -> None:
    """A player would send the channels to the wrong loudspeakers."""
    info = AudioInfo(RATE, channels, channel_mask=mask, is_ambisonic=is_ambisonic)
    with pytest.raises(OutputError, match=r"Ogg Vorbis does not hold .*: write WAV or FLAC$"):
        write(tmp_path / "x.ogg", noise(channels), info, output_kind(info, "ogg"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", [1, 255])
def test_opus_has_loudspeakers_in_family_1_only(tmp_path: Path, family: int) -> None:
    path = tmp_path / "x.opus"
    options = {"mapping_family": str(family)}
    encode(
        path, "libopus", tones(6), layout="5.1", sample_format="flt", coded_format="flt",
        codec_options=options,
    )  # fmt: skip
    assert path.read_bytes()[28 + 18] == family
    audio, info = read(path)
    assert info.channel_mask == (0x3F if family == 1 else 0)
    raw = np.ascontiguousarray(soundfile.read(path, dtype="float32")[0].T)
    np.testing.assert_array_equal(audio, raw[[0, 2, 1, 5, 3, 4]] if family == 1 else raw)


# WAV


def wav(
    channels: int, mask: int | None = None, tail: bytes = GUID_TAIL, *, is_float: bool = False
) -> bytes:
    """A WAV of 16-bit integers or floats, extensible if it has a mask."""
    samples = noise(channels, 200).T
    data = samples.astype("<f4") if is_float else np.rint(samples * 32_767).astype("<i2")
    bits, code = data.itemsize * 8, 3 if is_float else 1
    frame = channels * bits // 8
    head = struct.pack("<HIIHH", channels, RATE, RATE * frame, frame, bits)
    if mask is None:
        fmt = struct.pack("<H", code) + head
    else:
        fmt = b"\xfe\xff" + head + struct.pack("<HHIH", 22, bits, mask, code) + tail
    body = b"WAVE" + chunk(b"fmt ", fmt) + chunk(b"data", data.tobytes())
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extensible(path: Path) -> tuple[int, int, bytes]:
    """Format code, channel mask and GUID of a WAV that this program wrote."""
    data = path.read_bytes()
    at = data.index(b"fmt ") + 8
    code, mask = struct.unpack_from("<H18xI", data, at)
    return code, mask, data[at + 24 : at + 40]


@pytest.mark.parametrize("is_float", [False, True])
@pytest.mark.parametrize("channels", [2, 4, 9, 16])
def test_ambisonic_channels_stay_ambisonic(tmp_path: Path, channels: int, is_float: bool) -> None:
    """Their identifier stays, and they get no loudspeakers. FLAC keeps them, too."""
    (tmp_path / "x.wav").write_bytes(wav(channels, 0, AMBISONIC_TAIL, is_float=is_float))
    audio, info = read(tmp_path / "x.wav")
    assert info.is_ambisonic
    assert info.channel_mask == 0
    guid = struct.pack("<H", 3 if is_float else 1) + AMBISONIC_TAIL
    write(tmp_path / "new.wav", audio, info, output_kind(info))
    assert extensible(tmp_path / "new.wav") == (0xFFFE, 0, guid)
    np.testing.assert_array_equal(read(tmp_path / "new.wav")[0], audio)
    if channels <= 8:
        write(tmp_path / "x.flac", np.rint(audio * 2**23) / 2**23, info, output_kind(info, "flac"))
        again = read(tmp_path / "x.flac")[1]
        assert again.is_ambisonic
        write(tmp_path / "new.wav", audio, again, OutputKind("wav", info.subtype))
        assert extensible(tmp_path / "new.wav") == (0xFFFE, 0, guid)


@pytest.mark.parametrize("format", ["wav", "flac", "aiff"])
@pytest.mark.parametrize("mask", [None, 0])
@pytest.mark.parametrize("channels", [3, 4, 6, 8])
def test_loudspeakers_are_never_invented(
    tmp_path: Path, channels: int, mask: int | None, format: Any
) -> None:
    """Four microphones are not a quadraphonic recording."""
    (tmp_path / "x.wav").write_bytes(wav(channels, mask))
    audio, info = read(tmp_path / "x.wav")
    assert info.channel_mask == 0
    path = tmp_path / f"new.{format}"
    write(path, audio, info, output_kind(info, format))
    again, new = read(path)
    np.testing.assert_array_equal(again, audio)
    assert (new.channel_mask, new.is_ambisonic) == (0, False)
    if format == "wav":
        assert extensible(path) == (0xFFFE, 0, b"\1\0" + GUID_TAIL)


@pytest.mark.parametrize("format", ["wav", "flac", "aiff"])
@pytest.mark.parametrize(
    ("channels", "mask"),
    [(3, 0x7), (3, 0x103), (4, 0x33), (4, 0x603), (4, 0x107), (6, 0x3F), (6, 0x60F), (8, 0xFF)],
)
def test_stated_loudspeakers_stay(tmp_path: Path, channels: int, mask: int, format: Any) -> None:
    (tmp_path / "x.wav").write_bytes(wav(channels, mask))
    audio, info = read(tmp_path / "x.wav")
    assert info.channel_mask == mask
    path = tmp_path / f"new.{format}"
    write(path, audio, info, output_kind(info, format))
    again, new = read(path)
    np.testing.assert_array_equal(again, audio)
    assert new.channel_mask == mask
    av = pytest.importorskip("av")
    with av.open(str(path)) as media:
        layout = media.streams.audio[0].layout
        assert layout.nb_channels == channels
        # FFmpeg takes the surround channels of a FLAC without a comment for side channels.
        usual = {0x7: "3.0", 0x33: "quad", 0x603: "quad(side)", 0x60F: "5.1(side)"}
        if mask in usual:
            assert layout.name == usual[mask]


def test_the_order_of_flac_is_that_of_a_wav(tmp_path: Path) -> None:
    """Without a comment FLAC has the loudspeakers of its number of channels."""
    for channels, mask in MASKS.items():
        path = tmp_path / f"{channels}.flac"
        soundfile.write(path, tones(channels).T, RATE, format="FLAC")
        audio, info = read(path)
        assert info.channel_mask == mask
        assert order(audio) == list(range(channels))
        write(path, audio, info, output_kind(info))
        assert b"CHANNEL_MASK" not in path.read_bytes()


def test_mono_and_stereo_stay_plain(tmp_path: Path) -> None:
    for channels in (1, 2):
        soundfile.write(tmp_path / "x.flac", noise(channels).T, RATE, format="FLAC")
        audio, info = read(tmp_path / "x.flac")
        write(tmp_path / "x.wav", audio, info, output_kind(info, "wav"))
        assert extensible(tmp_path / "x.wav")[0] == 1
        assert read(tmp_path / "x.wav")[1].channel_mask == 0


# Core Audio


def descriptions(labels: list[int]) -> bytes:
    parts = b"".join(struct.pack(">II12x", label, 0) for label in labels)
    return struct.pack(">III", 0, 0, len(labels)) + parts


@pytest.mark.parametrize(
    ("content", "channels", "mask", "order"),
    [
        (struct.pack(">III", 113 << 16 | 3, 0, 0), 3, 0x7, ()),
        (struct.pack(">III", 123 << 16 | 6, 0, 0), 6, 0x60F, (0, 2, 1, 5, 3, 4)),
        (struct.pack(">III", 1 << 16, 0x3F, 0), 6, 0x3F, ()),
        (struct.pack(">III", 147 << 16 | 4, 0, 0), 4, 0, ()),  # discrete
        (struct.pack(">III", 0xFFFF << 16 | 4, 0, 0), 4, 0, ()),  # unknown
        (struct.pack(">III", 121 << 16 | 6, 0, 0), 4, 0, ()),
        (struct.pack(">III", 1 << 16, 0x3F, 0), 4, 0, ()),
        (descriptions([3, 1, 2]), 3, 0x7, (1, 2, 0)),
        (descriptions([1, 2, 5, 6]), 4, 0x33, ()),
        (descriptions([1, 2, 3, 4, 5, 6, 33, 34]), 8, 0x63F, (0, 1, 2, 3, 6, 7, 4, 5)),
        (descriptions([1, 1]), 2, 0, ()),
        (descriptions([1, 400]), 2, 0, ()),
        (descriptions([1, 2])[:-1], 2, 0, ()),
        (b"", 2, 0, ()),
    ],
)
def test_layouts_of_core_audio(
    content: bytes, channels: int, mask: int, order: tuple[int, ...]
) -> None:
    layout = core_audio_layout(content, channels)
    assert (layout.mask, layout.order, layout.is_ambisonic) == (mask, order, False)


def test_every_layout_has_each_loudspeaker_once() -> None:
    for speakers in CORE_AUDIO.values():
        layout = speaker_layout(speakers)
        names = speakers.split()
        assert layout.mask.bit_count() == len(names)
        sorted_names = [names[k] for k in layout.order or range(len(names))]
        assert [SPEAKERS[n] for n in sorted_names] == sorted(SPEAKERS[n] for n in names)


def test_orders_of_a_file_and_of_a_wav_are_inverse() -> None:
    for channels in range(1, 9):
        layout, audio = vorbis_layout(channels), noise(channels, 10)
        in_file = layout.in_file_order(audio)
        np.testing.assert_array_equal(in_file, audio[VORBIS_ORDERS[channels]])
        np.testing.assert_array_equal(layout.in_wav_order(in_file), audio)


def with_chan(path: Path, content: bytes) -> None:
    """Put a ``chan`` chunk in front of the samples of a CAF."""
    data = path.read_bytes()
    at = data.index(b"data")
    path.write_bytes(data[:at] + struct.pack(">4sq", b"chan", len(content)) + content + data[at:])


def test_channels_of_a_caf_come_in_the_order_of_a_wav(tmp_path: Path) -> None:
    path = tmp_path / "x.caf"
    soundfile.write(path, tones(6).T, RATE, format="CAF", subtype="PCM_24")
    assert read(path)[1].channel_mask == 0
    with_chan(path, struct.pack(">III", 124 << 16 | 6, 0, 0))  # C L R Ls Rs LFE
    audio, info = read(path)
    assert info.channel_mask == 0x60F
    assert order(audio) == [1, 2, 0, 5, 3, 4]


@pytest.mark.parametrize("container", ["CAF", "AIFF"])
def test_ambisonic_channels_of_core_audio_stay_ambisonic(tmp_path: Path, container: str) -> None:
    path = tmp_path / "x"
    soundfile.write(path, noise(4).T, RATE, format=container, subtype="PCM_16")
    if container == "CAF":
        with_chan(path, core_audio_chunk(4, 0, True))
    else:
        audio, info = read(path)
        write(path, audio, AudioInfo(RATE, 4, is_ambisonic=True), output_kind(info))
    assert read(path)[1].is_ambisonic


def test_a_wave_of_one_channel_too_few_is_read(tmp_path: Path) -> None:
    """A header may state loudspeakers for other channels than the file has."""
    (tmp_path / "x.wav").write_bytes(wav(3, 0x3F))
    audio, info = read(tmp_path / "x.wav")
    assert (len(audio), info.channel_mask) == (3, 0x3F)
    write(tmp_path / "new.wav", audio, info, output_kind(info))
    assert extensible(tmp_path / "new.wav")[1] == 0x3F
    assert read_audio(tmp_path / "new.wav")[0].shape == audio.shape
