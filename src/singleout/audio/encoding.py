"""Files that libsndfile encodes, with the descriptions that it would drop."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.channels import FLAC_MASKS, Layout, core_audio_chunk, vorbis_layout
from singleout.audio.description.flac import (
    APPLICATION,
    COMMENTS,
    MASK_KEY,
    PADDING,
    Blocks,
    all_comments,
    block,
    comment_block,
    flac_blocks,
)
from singleout.audio.description.iff import aiff_chunk, aiff_parts, append_chunks
from singleout.audio.description.ogg import replace_comments, vorbis_comments
from singleout.audio.info import AudioInfo, OutputKind, sndfile_name
from singleout.audio.wav import WavHead

BLOCK_FRAMES = 1 << 16
"""Samples per channel that are encoded at once: the Vorbis encoder overflows its stack on more."""
LONG_FRAMES = 1 << 40
"""Descriptions of a recording that is so long need the most room."""
LAST_BYTES = 1 << 20
"""An encoder keeps fewer bytes than this until its file is closed."""


class EncodedFile:
    """A file that libsndfile writes.

    Args:
        path: the file, which is overwritten.
        info: the recording. Its channels are put into the order of the format.
        kind: container and encoding of the file.
        tags: texts by libsndfile's names.

    Raises:
        soundfile.LibsndfileError: the file cannot be written, or its format does not hold such a
            recording; from all methods.
        OSError: the disk is full.

    Example:
        >>> import tempfile
        >>> kind = OutputKind("ogg", "VORBIS")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.ogg"
        ...     file = EncodedFile(path, AudioInfo(16_000, 1), kind, {"title": "rain"})
        ...     file.write(np.zeros((1, 1_000), np.float32))
        ...     file.close()
        ...     soundfile.SoundFile(path).title
        'rain'
    """

    def __init__(self, path: Path, info: AudioInfo, kind: OutputKind, tags: dict[str, str]) -> None:
        self._path = path
        is_vorbis = kind.container == "ogg"
        self._layout = vorbis_layout(info.channels) if is_vorbis else Layout()
        self._file = soundfile.SoundFile(
            sndfile_name(path),
            "w",
            info.sample_rate,
            info.channels,
            kind.subtype,
            format=kind.container.upper(),
        )
        self._num_frames = 0
        for name, text in tags.items():
            # Not every container has every tag.
            with suppress(soundfile.LibsndfileError, RuntimeError, AttributeError):
                setattr(self._file, name, text)

    def write(self, block: NDArray[Any]) -> None:
        """Append a block.

        Args:
            block: [channels, samples] with channels in the order of a WAV.
        """
        block = self._layout.in_file_order(block)
        for start in range(0, block.shape[1], BLOCK_FRAMES):
            self._file.write(np.ascontiguousarray(block[:, start : start + BLOCK_FRAMES].T))
        self._num_frames += block.shape[1]

    def close(self) -> None:
        """Complete the file."""
        try:
            self._check_disk_space()
        finally:
            self._file.close()

    def _check_disk_space(self) -> None:
        """Raise an error if the last frames do not fit the disk.

        Encoders write them as the file is closed, and libsndfile reports no error then.
        """
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.write(bytes(LAST_BYTES))
            file.truncate(size)

    def abandon(self) -> None:
        """Close the file after an error."""
        with suppress(soundfile.LibsndfileError):
            self._file.close()


class FlacFile(EncodedFile):
    """A FLAC with all comments, pictures and other blocks of the recording.

    The chunks of a WAV or an AIFF are stored as ``flac --keep-foreign-metadata`` stores them.

    Args:
        path: the file, which is overwritten.
        info: the recording.
        kind: container and encoding of the file.

    Raises:
        soundfile.LibsndfileError: see ``EncodedFile``.
        OSError: the disk is full.

    Example:
        >>> import tempfile
        >>> from singleout.audio.description.flac import read_flac
        >>> info = AudioInfo(16_000, 4, channel_mask=0x603)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.flac"
        ...     file = FlacFile(path, info, OutputKind("flac", "PCM_16"))
        ...     file.write(np.zeros((4, 1_000), np.int32))
        ...     file.close()
        ...     with path.open("rb") as raw:
        ...         hex(read_flac(raw)[0].mask)
        '0x603'
    """

    def __init__(self, path: Path, info: AudioInfo, kind: OutputKind) -> None:
        self._info, self._kind = info, kind
        room = sum(4 + len(content) for _, content in _described(info, kind, LONG_FRAMES))
        # libsndfile writes no other blocks. A long comment makes room for them.
        super().__init__(path, info, kind, {"comment": "-" * room} if room else info.tags)

    def close(self) -> None:
        """Complete the file."""
        super().close()
        with self._path.open("r+b") as file:
            ends, comments_at = [], 0
            for kind, position, length in flac_blocks(file):
                ends.append(position + length)
                comments_at = position if kind == COMMENTS else comments_at
            file.seek(comments_at)
            vendor = file.read(int.from_bytes(file.read(4), "little"))
            blocks = _described(self._info, self._kind, self._num_frames, vendor)
            if head := b"".join(block(*each) for each in blocks):
                file.seek(ends[0])
                padding = ends[-1] - ends[0] - len(head) - 4
                file.write(head + block(PADDING, bytes(padding), is_last=True))


def _described(info: AudioInfo, kind: OutputKind, num_frames: int, vendor: bytes = b"") -> Blocks:
    """The describing blocks of a FLAC; none where libsndfile itself writes all that there is."""
    mask = []
    is_stated = info.channels > 2 or info.channel_mask or info.is_ambisonic
    if is_stated and info.channel_mask != FLAC_MASKS[info.channels]:
        mask.append(MASK_KEY + b"=0x%X" % info.channel_mask)
    foreign: Blocks = ()
    if info.riff_chunks or info.is_ambisonic:
        head = WavHead(info, kind.subtype, info.riff_chunks)
        parts = [*head.parts(num_frames), *head.tail(num_frames)]
        foreign = tuple((APPLICATION, b"riff" + part) for part in parts)
    elif info.aiff_chunks:
        parts = aiff_parts(info, kind, num_frames)
        foreign = tuple((APPLICATION, b"aiff" + part) for part in parts)
    if not (mask or foreign or info.flac_blocks):
        return ()
    others = tuple(each for each in info.flac_blocks if each[0] != COMMENTS)
    texts = all_comments(info.flac_blocks, info.tags) + mask
    return ((COMMENTS, comment_block(texts, vendor)), *others, *foreign)


class OggFile(EncodedFile):
    """An Ogg Vorbis with all comments and pictures of the recording.

    Args:
        path: the file, which is overwritten.
        info: the recording.
        kind: container and encoding of the file.

    Raises:
        soundfile.LibsndfileError: see ``EncodedFile``.
        OSError: the disk is full.

    Example:
        >>> import tempfile
        >>> from singleout.audio.description.ogg import read_ogg
        >>> blocks = ((COMMENTS, comment_block([b"PLACE=Oulu"])),)
        >>> info = AudioInfo(16_000, 1, flac_blocks=blocks)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.ogg"
        ...     file = OggFile(path, info, OutputKind("ogg", "VORBIS"))
        ...     file.write(np.zeros((1, 1_000), np.float32))
        ...     file.close()
        ...     with path.open("rb") as raw:
        ...         all_comments(read_ogg(raw)[1], {})
        [b'PLACE=Oulu']
    """

    def __init__(self, path: Path, info: AudioInfo, kind: OutputKind) -> None:
        self._texts = vorbis_comments(info) if info.flac_blocks else []
        room = sum(4 + len(text) for text in self._texts)
        super().__init__(path, info, kind, {"comment": "-" * room} if room else info.tags)

    def close(self) -> None:
        """Complete the file."""
        super().close()
        if self._texts:
            with self._path.open("r+b") as file:
                replace_comments(file, self._texts)


class AiffFile(EncodedFile):
    """An AIFF with all chunks and the loudspeakers of the recording.

    Args:
        path: the file, which is overwritten.
        info: the recording.
        kind: container and encoding of the file.

    Raises:
        soundfile.LibsndfileError: see ``EncodedFile``.
        OSError: the disk is full.

    Example:
        >>> import tempfile
        >>> from singleout.audio.description.iff import read_aiff
        >>> info = AudioInfo(16_000, 1, aiff_chunks=((b"MARK", bytes(2)),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.aiff"
        ...     file = AiffFile(path, info, OutputKind("aiff", "PCM_16"))
        ...     file.write(np.zeros((1, 1_000), np.int32))
        ...     file.close()
        ...     with path.open("rb") as raw:
        ...         read_aiff(raw)[1]
        ((b'MARK', b'\\x00\\x00'),)
    """

    def __init__(self, path: Path, info: AudioInfo, kind: OutputKind) -> None:
        super().__init__(path, info, kind, {} if info.aiff_chunks else info.tags)
        id3 = ((b"ID3 ", c) for name, c in info.riff_chunks if name.upper() == b"ID3 ")
        chunks = (*info.aiff_chunks, *id3)
        if chan := core_audio_chunk(info.channels, info.channel_mask, info.is_ambisonic):
            chunks = ((b"CHAN", chan), *chunks)
        self._chunks = b"".join(aiff_chunk(*each) for each in chunks)

    def close(self) -> None:
        """Complete the file."""
        super().close()
        if self._chunks:
            with self._path.open("r+b") as file:
                append_chunks(file, self._chunks)
