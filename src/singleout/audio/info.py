"""What a recording is, and which kind of file its parts should become."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from singleout.errors import ConfigError

OutputFormat = Literal["auto", "wav", "flac", "aiff", "ogg", "mp3"]
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)

SOUND_SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".aif", ".aiff", ".aifc", ".caf", ".au",
    ".snd", ".ogg", ".oga", ".opus", ".mp3",
)  # fmt: skip
"""Of files that libsndfile reads, of which any place is found at once."""
MEDIA_SUFFIXES = (
    *SOUND_SUFFIXES, ".mp2", ".m4a", ".m4b", ".aac", ".mp4", ".m4v", ".mov", ".mkv", ".mka",
    ".webm", ".avi", ".3gp", ".wma", ".wv", ".ape", ".tta", ".amr", ".ac3",
)  # fmt: skip
"""Of all files that are taken for recordings in a folder."""

LOSSLESS_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Bits of the integer subtypes of libsndfile."""

CONTAINERS = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "W64": "wav", "AIFF": "aiff", "FLAC": "flac",
}  # fmt: skip
"""libsndfile's formats whose recordings get back a file of their own kind; others become WAV."""

COARSE = ("PCM_S8", "PCM_U8", "ULAW", "ALAW", "ADPCM", "GSM610", "G72", "DPCM", "VOX")
"""In the names of subtypes too coarse for a part of a recording; all their values are among those
of 16 bits."""
ALAC = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}

MAX_FLAC_CHANNELS = 8
MAX_FLAC_RATE = 655_350
LONG_BYTES = 0xF000_0000
"""AIFF counts bytes in 32 bits."""


def sndfile_name(path: Path) -> bytes | Path:
    """A path as libsndfile opens it, whatever bytes its name is of."""
    return os.fsencode(path) if os.name == "posix" else path


@dataclass(frozen=True)
class AudioInfo:
    """A recording, as its file describes it.

    Attributes:
        sample_rate: Hz.
        channels: their number.
        num_frames: samples per channel that the file states; None if it does not say, or guesses.
        container: libsndfile's name of the format, or FFmpeg's.
        subtype: libsndfile's name of the encoding, that of the same integers where it is a
            lossless compression, or ``FLOAT`` for what was decoded from a lossy one of FFmpeg's.
        tags: title, artist, ... as libsndfile names them.
        channel_mask: of a WAV, which loudspeaker is which channel; 0 if it does not say.
        riff_chunks: of a WAV, what describes the recording (``bext``, ``cue``, ``LIST``, ...).
    """

    sample_rate: int
    channels: int
    num_frames: int | None = None
    container: str = "WAV"
    subtype: str = "FLOAT"
    tags: dict[str, str] = field(default_factory=dict)
    channel_mask: int = 0
    riff_chunks: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def dtype(self) -> type[np.float32] | type[np.float64]:
        """The smaller type that holds the samples exactly."""
        return np.float64 if self.subtype in ("PCM_32", "DOUBLE") else np.float32


@dataclass(frozen=True)
class OutputKind:
    """Container (``wav``, ``flac``, ``aiff``, ``ogg``, ``mp3``) and libsndfile's subtype."""

    container: str
    subtype: str

    @property
    def bits(self) -> int | None:
        """Of its integers; None for floating point and for lossy encodings."""
        return LOSSLESS_BITS.get(self.subtype)

    @property
    def is_lossy(self) -> bool:
        """Whether what is read back differs from what was written."""
        return self.container in ("ogg", "mp3")


def output_kind(info: AudioInfo, wanted: OutputFormat = "auto") -> OutputKind:
    """A file for a part of a recording: of the recording's own kind, as far as that makes sense.

    WAV, AIFF and FLAC stay what they are, everything else becomes WAV. Integers keep their bits,
    but at least 16. What was decoded from a lossy encoding is floating point: nothing that the
    decoder gave is lost, and nothing is encoded twice unless ``wanted``.

    Raises:
        ConfigError: there is no such format.
    """
    if wanted not in OUTPUT_FORMATS:
        raise ConfigError(f"format '{wanted}': it is one of {', '.join(OUTPUT_FORMATS)}")
    container = CONTAINERS.get(info.container, "wav") if wanted == "auto" else wanted
    subtype = "PCM_16" if any(name in info.subtype for name in COARSE) else info.subtype
    if subtype not in LOSSLESS_BITS and subtype != "DOUBLE":
        subtype = "FLOAT"
    if container == "flac" and subtype not in ("PCM_16", "PCM_24"):
        subtype = "PCM_24"
    if container in ("ogg", "mp3"):
        subtype = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}[container]
    kind = OutputKind(container, subtype)
    if container == "aiff" and _num_bytes(info, kind) > LONG_BYTES:
        if wanted != "auto":
            raise ConfigError("format 'aiff' ends at 4 GB, and the recording is longer: take wav")
        kind = OutputKind("wav", subtype)
    return kind


def _num_bytes(info: AudioInfo, kind: OutputKind) -> int:
    bits = kind.bits or (64 if kind.subtype == "DOUBLE" else 32)
    return (info.num_frames or 0) * info.channels * bits // 8
