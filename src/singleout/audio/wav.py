"""WAV files that are written block by block.

libsndfile must know before the first sample whether a file passes 4 GB. It writes the current time
into float files, so that equal audio gives unequal bytes. It drops the loudspeakers of the channels
and the chunks that describe a recording.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from singleout.audio.description.parts import Chunks
from singleout.audio.description.riff import AMBISONIC_TAIL, GUID_TAIL, MAX_FIELD, chunk, info_chunk
from singleout.audio.info import LOSSLESS_BITS, AudioInfo

MAX_BYTES = MAX_FIELD - (16 << 20)
"""A WAV counts bytes in 32 bits. Longer recordings become RF64, which most programs read."""
DS64_BYTES = 28
"""Length of the chunk that states the sizes of an RF64."""
USUAL_MASKS = {1: 0x4, 2: 0x3}
"""Channel masks of mono and stereo, which a plain header implies."""


class WavHead:
    """What stands before the samples of a WAV.

    Args:
        info: rate in Hz, channels and their loudspeakers.
        subtype: ``PCM_16``, ``PCM_24``, ``PCM_32``, ``FLOAT`` or ``DOUBLE``.
        describing: name and content of the chunks that describe the recording.

    Attributes:
        bits: of a sample.
        frame_bytes: bytes of one sample of all channels.

    Raises:
        ValueError: rate or channels do not fit a WAV.

    Example:
        >>> head = WavHead(AudioInfo(16_000, 2), "PCM_16")
        >>> [part[:4] for part in head.parts(num_frames=100)]
        [b'RIFF', b'JUNK', b'fmt ', b'data']
    """

    def __init__(self, info: AudioInfo, subtype: str, describing: Chunks = ()) -> None:
        self.is_float = subtype in ("FLOAT", "DOUBLE")
        self.bits = LOSSLESS_BITS.get(subtype) or (64 if subtype == "DOUBLE" else 32)
        self.frame_bytes = info.channels * self.bits // 8
        if not 0 < info.sample_rate < MAX_FIELD or self.frame_bytes > 0xFFFF:
            raise ValueError(f"{info.channels} channels at {info.sample_rate} Hz do not fit a WAV")
        self._info, self._describing = info, describing

    def parts(self, num_frames: int) -> list[bytes]:
        """The bytes before the samples: the header, every chunk, and the header of the samples.

        Their lengths do not depend on the number of samples.

        Args:
            num_frames: samples per channel.
        """
        num_bytes = num_frames * self.frame_bytes
        is_long = num_bytes > MAX_BYTES
        chunks = [chunk(b"fmt ", self._format())]
        if self.is_float:
            chunks.append(chunk(b"fact", struct.pack("<I", min(num_frames, MAX_FIELD))))
        for name, content in self._describing:
            if is_long and len(content) % 2:
                chunks.append(chunk(b"JUNK", bytes(len(content) + 1)))  # it stands in the tail
            else:
                chunks.append(chunk(name, content))
        head_bytes = 4 + 8 + DS64_BYTES + sum(map(len, chunks)) + 8
        tail_bytes = sum(map(len, self.tail(num_frames)))
        riff_bytes = head_bytes + num_bytes + num_bytes % 2 + tail_bytes
        sizes = struct.pack("<QQQI", riff_bytes, num_bytes, num_frames, 0)
        first, riff_field, data_field = (
            (chunk(b"ds64", sizes), MAX_FIELD, MAX_FIELD)
            if is_long
            else (chunk(b"JUNK", bytes(DS64_BYTES)), riff_bytes, num_bytes)
        )
        head = (b"RF64" if is_long else b"RIFF") + struct.pack("<I", riff_field) + b"WAVE"
        return [head, first, *chunks, b"data" + struct.pack("<I", data_field)]

    def tail(self, num_frames: int) -> list[bytes]:
        """The chunks after the samples: in an RF64 those of an odd length.

        libsndfile does not skip the padding of such a chunk in an RF64, and would see no samples
        after it.

        Args:
            num_frames: samples per channel.
        """
        if num_frames * self.frame_bytes <= MAX_BYTES:
            return []
        return [chunk(*each) for each in self._describing if len(each[1]) % 2]

    def _format(self) -> bytes:
        info, plain = self._info, 3 if self.is_float else 1
        usual = USUAL_MASKS.get(info.channels, 0)
        extensible = info.channels > 2 or info.channel_mask not in (0, usual) or info.is_ambisonic
        bytes_per_second = min(self.frame_bytes * info.sample_rate, MAX_FIELD)
        code = 0xFFFE if extensible else plain
        content = struct.pack("<HHII", code, info.channels, info.sample_rate, bytes_per_second)
        content += struct.pack("<HH", self.frame_bytes, self.bits)
        if not extensible:
            return content + struct.pack("<H", 0) if self.is_float else content
        tail = AMBISONIC_TAIL if info.is_ambisonic else GUID_TAIL
        return content + struct.pack("<HHIH", 22, self.bits, info.channel_mask, plain) + tail


def wav_chunks(info: AudioInfo) -> Chunks:
    """The describing chunks of a recording for a WAV, with its tags where no chunk has them.

    Example:
        >>> wav_chunks(AudioInfo(8_000, 1, tags={"title": "rain"}))[0][0]
        b'LIST'
    """
    chunks = info.riff_chunks
    if not any(name == b"LIST" and content[:4] == b"INFO" for name, content in chunks):
        chunks += info_chunk(info.tags)
    if not any(name.upper() == b"ID3 " for name, _ in chunks):
        chunks += tuple((b"id3 ", content) for name, content in info.aiff_chunks if name == b"ID3 ")
    return chunks


class WavFile:
    """A WAV that is written block by block. Beyond 4 GB it becomes an RF64.

    Equal samples give equal bytes.

    Args:
        path: the file, which is overwritten.
        head: what stands before the samples.

    Raises:
        OSError: the file cannot be written; from all methods.

    Example:
        >>> import tempfile
        >>> from singleout.audio.description.riff import chunks
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.wav"
        ...     file = WavFile(path, WavHead(AudioInfo(16_000, 2), "FLOAT"))
        ...     file.write(np.zeros((2, 1_000), np.float32))
        ...     file.close()
        ...     with path.open("rb") as raw:
        ...         [name for name, _, _ in chunks(raw)]
        [b'JUNK', b'fmt ', b'fact', b'data']
    """

    def __init__(self, path: Path, head: WavHead) -> None:
        self._head, self._num_frames = head, 0
        self._file = path.open("wb")
        self._file.write(b"".join(head.parts(0)))

    def write(self, block: NDArray[Any]) -> None:
        """Append a block.

        Args:
            block: [channels, samples]. Floats are written as they are. Integers are int32, shifted
                to the highest bits (left-justified).
        """
        frames = np.ascontiguousarray(block.T)
        bits = self._head.bits
        if self._head.is_float:
            data = frames.astype(f"<f{bits // 8}", copy=False)
        elif bits == 32:
            data = frames.astype("<i4", copy=False)
        elif bits == 16:
            data = (frames >> 16).astype("<i2")
        else:
            data = frames.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)[:, 1:]
        self._file.write(np.ascontiguousarray(data).tobytes())
        self._num_frames += len(frames)

    def close(self) -> None:
        """Complete the header and close the file. Further calls do nothing."""
        if self._file.closed:
            return
        with self._file as file:
            file.write(bytes(self._num_frames * self._head.frame_bytes % 2))
            file.write(b"".join(self._head.tail(self._num_frames)))
            file.seek(0)
            file.write(b"".join(self._head.parts(self._num_frames)))

    def abandon(self) -> None:
        """Close the file without completing the header."""
        self._file.close()
