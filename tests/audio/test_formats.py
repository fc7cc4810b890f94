"""Which files are recordings where a folder is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.audio import MEDIA_SUFFIXES, SOUND_SUFFIXES, is_media, open_audio
from tests.audio.media import av

SAME_FORMAT = {
    # Suffixes that FFmpeg's demuxers do not state. FFmpeg detects these formats by content.
    "aa3": "oma", "aiff": "aiff", "amr": "amr", "awb": "amr", "amv": "avi", "asf": "asf",
    "bik": "bink", "bk2": "bink", "dff": "iff", "divx": "avi", "dsf": "dsf", "dvr-ms": "asf",
    "evo": "mpeg", "3gp2": "mov", "3gpp": "mov", "gxf": "gxf", "m2t": "mpegts", "m2ts": "mpegts",
    "m4r": "mov", "mmf": "mmf", "mp1": "mp3", "mp+": "mpc", "mpe": "mpeg", "mpeg": "mpeg",
    "mpg": "mpeg", "mpga": "mp3", "mpp": "mpc", "mqv": "mov", "mts": "mpegts", "mxf": "mxf",
    "nsv": "nsv", "nut": "nut", "nuv": "nuv", "ogm": "ogg", "ogv": "ogg", "ogx": "ogg",
    "qcp": "qcp", "qt": "mov", "ra": "rm", "rm": "rm", "rmvb": "rm", "roq": "roq", "smk": "smk",
    "sox": "sox", "spx": "ogg", "swf": "swf", "tod": "mpeg", "trp": "mpegts", "truehd": "truehd",
    "vob": "mpeg", "wm": "asf", "wma": "asf", "wmv": "asf", "wsd": "wsd", "wtv": "wtv",
    "wv": "wv", "xwma": "xwma",
}  # fmt: skip
BY_LIBSNDFILE = ("gsm", "sd2", "sds", "svx", "vox", "xi")
"""Suffixes of formats that libsndfile reads from their start only."""
SUBTYPES = {"OGG": "VORBIS", "WVE": "ALAW", "XI": "DPCM_16", "MP3": "MPEG_LAYER_III"}
FORMATS = {
    "wave": "WAV", "bw64": "RF64", "bwf": "WAV", "aif": "AIFF", "aifc": "AIFF", "snd": "AU",
    "oga": "OGG", "opus": "OGG", "sph": "NIST", "sf": "IRCAM", "8svx": "SVX",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [*SOUND_SUFFIXES, ".sd2", ".sds", ".svx", ".xi"])
def test_libsndfile_reads_each_suffix(tmp_path: Path, suffix: str) -> None:
    name = suffix[1:]
    format = FORMATS.get(name, name.upper())
    path = tmp_path / f"x{suffix}"
    sound = np.random.default_rng(0).normal(0, 0.1, 8_000)
    soundfile.write(path, sound, 8_000, format=format, subtype=SUBTYPES.get(format, "PCM_16"))
    with open_audio(path) as reader:
        num_frames = sum(block.shape[1] for block in reader.blocks())
    assert num_frames == 8_000
    assert is_media(path)


@pytest.mark.parametrize("suffix", [".vox", ".gsm"])
def test_telephone_recordings_without_a_header_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(bytes(3_300))
    with open_audio(path) as reader:
        assert reader.info.sample_rate == 8_000
        assert next(reader.blocks()).shape[0] == 1
    assert is_media(path)


def test_ffmpeg_reads_all_other_suffixes() -> None:
    names = [name for name in av.formats_available if name not in ("mp4", "mov")]
    stated: set[str] = set()
    for name in (*names, *SAME_FORMAT.values()):
        try:
            stated |= av.ContainerFormat(name, "r").extensions
        except ValueError:  # a format that is only written
            assert name not in SAME_FORMAT.values()
    others = {suffix[1:] for suffix in MEDIA_SUFFIXES if suffix not in SOUND_SUFFIXES}
    assert others <= stated | SAME_FORMAT.keys() | set(BY_LIBSNDFILE)
    assert len(set(MEDIA_SUFFIXES)) == len(MEDIA_SUFFIXES)


@pytest.mark.parametrize("suffix", [".ts", ".mod", ".dat", ".iff", ".TS"])
@pytest.mark.parametrize(
    ("head", "is_recording"),
    [
        (b"export const rain = 1;\n" * 20, False),
        (b"G" * 188, False),
        (b"", False),
        (b"FORM\0\0\0\0ILBC", False),
        (b"G" + bytes(187) + b"G", True),
        (b"\0\0\1\xba" + bytes(300), True),
        (b"RIFF\0\0\0\0CDXAfmt ", True),
        (b"FORM\0\0\0\x508SVX", True),
    ],
)
def test_shared_suffixes_are_decided_by_content(
    tmp_path: Path, suffix: str, head: bytes, is_recording: bool
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(head)
    assert is_media(path) == is_recording


@pytest.mark.parametrize("name", ["x.txt", "x.png", "x", ".wav", "missing.ts", "x.ts\0"])
def test_other_files_are_not_media(tmp_path: Path, name: str) -> None:
    assert not is_media(tmp_path / name)
