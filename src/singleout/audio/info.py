"""Descriptions of audio files: what a recording is, and what kind of file its target becomes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from singleout.errors import ConfigError

OutputFormat = Literal["auto", "wav", "flac", "aiff", "ogg", "mp3"]
"""Container of an output file; ``auto`` follows the recording (``output_kind``)."""
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)

SOUND_SUFFIXES = (
    ".wav", ".wave", ".wavex", ".w64", ".rf64", ".bw64", ".bwf", ".flac", ".aif", ".aiff", ".aifc",
    ".caf", ".au", ".snd", ".ogg", ".oga", ".opus", ".mp3", ".avr", ".htk", ".nist", ".sph", ".paf",
    ".pvf", ".sf", ".ircam", ".voc", ".8svx", ".wve",
)  # fmt: skip
"""Suffixes of files that libsndfile reads. Reading can start at any sample."""
MEDIA_SUFFIXES = (
    *SOUND_SUFFIXES,
    # Sounds
    ".aa", ".aa3", ".aac", ".ac3", ".adx", ".aea", ".amr", ".ape", ".apl", ".ast", ".awb", ".bcstm",
    ".bfstm", ".bonk", ".brstm", ".dff", ".dsf", ".dss", ".dts", ".dtshd", ".eac3", ".ec3", ".fsb",
    ".gsm", ".hca", ".m2a", ".m4a", ".m4b", ".m4r", ".mac", ".mka", ".mlp", ".mmf", ".mp1", ".mp2",
    ".mp+", ".mpa", ".mpc", ".mpga", ".mpp", ".msbc", ".oma", ".omg", ".osq", ".qcp", ".qoa", ".ra",
    ".rka", ".sbc", ".sd2", ".sds", ".shn", ".sox", ".spx", ".svx", ".tak", ".thd", ".truehd",
    ".tta", ".vag", ".vox", ".vqf", ".wma", ".wsd", ".wv", ".xi", ".xwma",
    # Videos
    ".3g2", ".3gp", ".3gp2", ".3gpp", ".amv", ".asf", ".avi", ".bik", ".bk2", ".dif", ".divx",
    ".dv", ".dvr-ms", ".evo", ".f4v", ".flv", ".gxf", ".ism", ".isma", ".ismv", ".kux", ".m2t",
    ".m2ts", ".m4v", ".mj2", ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mqv",
    ".mts", ".mxf", ".nsv", ".nut", ".nuv", ".ogm", ".ogv", ".ogx", ".psp", ".qt", ".rm", ".rmvb",
    ".roq", ".smk", ".swf", ".tod", ".trp", ".vob", ".webm", ".wm", ".wmv", ".wtv",
)  # fmt: skip
"""Suffixes of the files that are recordings where a folder is given; see also ``is_media``."""

LOSSLESS_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Bits per sample of libsndfile's integer subtypes."""

CONTAINERS = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "W64": "wav", "AIFF": "aiff", "FLAC": "flac",
}  # fmt: skip
"""Output containers by libsndfile's name of the recording's container, or FFmpeg's in capitals; WAV
for all others."""

COARSE = ("PCM_S8", "PCM_U8", "ULAW", "ALAW", "ADPCM", "GSM610", "G72", "DPCM", "VOX")
"""Parts of the names of subtypes that are too coarse for a target; it gets 16 bits, which hold all
of their values."""
ALAC = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}
"""Integer subtypes that hold the samples of Apple Lossless."""

MAX_FLAC_CHANNELS = 8
MAX_FLAC_RATE = 655_350
LONG_BYTES = 0xF000_0000
"""Longer recordings do not fit AIFF, which counts bytes in 32 bits."""


def sndfile_name(path: Path) -> bytes | Path:
    """The form of a path that libsndfile opens, even if the name is not valid text.

    Example:
        >>> sndfile_name(Path("dog.wav"))  # on Linux and macOS
        b'dog.wav'
    """
    return os.fsencode(path) if os.name == "posix" else path


@dataclass(frozen=True)
class Note:
    """What a listener should know about a recording that was read.

    Attributes:
        text: one line that names the recording.
        missing_seconds: seconds of the recording that could not be read; None if unknown.
        is_damage: whether the recording is not whole.

    Example:
        >>> Note("rain.wav: ends 2.0 s before its stated end", 2.0, is_damage=True).missing_seconds
        2.0
    """

    text: str
    missing_seconds: float | None = 0.0
    is_damage: bool = False


@dataclass(frozen=True)
class AudioInfo:
    """Describes a recording, as far as its file does.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        num_frames: samples per channel that the file states; None if the file states none.
        container: libsndfile's name of the format, or FFmpeg's.
        subtype: libsndfile's name of the encoding. Lossless compressions have the name of the
            integers that they hold, lossy ones that only FFmpeg decodes are ``FLOAT``.
        tags: title, artist, ... by libsndfile's names.
        channel_mask: the loudspeaker of each channel, as in the header of a WAV; 0 if not stated.
        is_ambisonic: whether the channels are ambisonic components, and no loudspeakers.
        riff_chunks: name and content of the chunks of a WAV that describe the recording (``bext``,
            ``cue``, ``LIST``, ...).
        aiff_chunks: the same of an AIFF (``MARK``, ``ANNO``, ...).
        flac_blocks: type and content of the describing blocks of a FLAC, and the comments of an Ogg
            file in the same form.

    Example:
        >>> AudioInfo(sample_rate=48_000, channels=2, subtype="PCM_24").dtype
        <class 'numpy.float32'>
    """

    sample_rate: int
    channels: int
    num_frames: int | None = None
    container: str = "WAV"
    subtype: str = "FLOAT"
    tags: dict[str, str] = field(default_factory=dict)
    channel_mask: int = 0
    is_ambisonic: bool = False
    riff_chunks: tuple[tuple[bytes, bytes], ...] = ()
    aiff_chunks: tuple[tuple[bytes, bytes], ...] = ()
    flac_blocks: tuple[tuple[int, bytes], ...] = ()

    @property
    def dtype(self) -> type[np.float32] | type[np.float64]:
        """The smallest floating-point type that holds the samples exactly."""
        return np.float64 if self.subtype in ("PCM_32", "DOUBLE") else np.float32


@dataclass(frozen=True)
class OutputKind:
    """Kind of an output file.

    Attributes:
        container: ``wav``, ``flac``, ``aiff``, ``ogg`` or ``mp3``.
        subtype: libsndfile's name of the encoding.

    Example:
        >>> OutputKind("flac", "PCM_24").bits
        24
        >>> OutputKind("mp3", "MPEG_LAYER_III").is_lossy
        True
    """

    container: str
    subtype: str

    @property
    def bits(self) -> int | None:
        """Bits of an integer sample; None for floating point and for lossy encodings."""
        return LOSSLESS_BITS.get(self.subtype)

    @property
    def is_lossy(self) -> bool:
        """Whether the samples of the file differ from those that were written."""
        return self.container in ("ogg", "mp3")


def output_kind(info: AudioInfo, format: OutputFormat = "auto") -> OutputKind:
    """Choose the kind of file for the target of a recording.

    By default the container of WAV, AIFF and FLAC stays; every other container becomes WAV.
    Integers keep their number of bits, 16 at least. A recording that was decoded from a lossy
    encoding becomes floating point: no precision is lost, and the target is not encoded again.

    Args:
        info: the recording.
        format: container of the file, or ``auto`` for the default.

    Raises:
        ConfigError: the format is unknown, or is ``aiff`` for a recording of more than 4 GB.

    Example:
        >>> recording = AudioInfo(44_100, 2, container="AIFF", subtype="PCM_24")
        >>> output_kind(recording)
        OutputKind(container='aiff', subtype='PCM_24')
        >>> output_kind(recording, "ogg")
        OutputKind(container='ogg', subtype='VORBIS')
    """
    if format not in OUTPUT_FORMATS:
        raise ConfigError(f"format '{format}' is unknown: it is one of {', '.join(OUTPUT_FORMATS)}")
    container = CONTAINERS.get(info.container.upper(), "wav") if format == "auto" else format
    subtype = "PCM_16" if any(name in info.subtype for name in COARSE) else info.subtype
    if subtype not in LOSSLESS_BITS and subtype != "DOUBLE":
        subtype = "FLOAT"
    if container == "flac" and subtype not in ("PCM_16", "PCM_24"):
        subtype = "PCM_24"
    if container in ("ogg", "mp3"):
        subtype = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}[container]
    kind = OutputKind(container, subtype)
    if container == "aiff" and _num_bytes(info, kind) > LONG_BYTES:
        if format != "auto":
            raise ConfigError("format 'aiff' ends at 4 GB, and the recording is longer: take wav")
        kind = OutputKind("wav", subtype)
    return kind


def _num_bytes(info: AudioInfo, kind: OutputKind) -> int:
    bits = kind.bits or (64 if kind.subtype == "DOUBLE" else 32)
    return (info.num_frames or 0) * info.channels * bits // 8
