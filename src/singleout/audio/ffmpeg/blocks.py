"""How samples pass from the process of a ``Decoder`` to the program.

The process writes one line of JSON that describes the recording, and then blocks of samples. Each
block is the number of its samples per channel and the samples, float32 [channels, samples]. An
empty block is the last one. One line of JSON with the notes follows. In place of either line,
``{"error": ...}`` says why the recording cannot be read.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from singleout.audio.info import AudioInfo, Note
from singleout.errors import AudioError

BLOCK_BYTES = 1 << 20
BLOCK_SECONDS = 10
"""Longest block. Blocks of low rates are short, because resampling may make them long."""
NUM_FRAMES = struct.Struct("<I")


class BlockWriter:
    """Writes a recording to a pipe.

    Args:
        pipe: where to write. A full pipe makes the writer wait, so that memory does not grow.

    Attributes:
        num_frames: samples per channel that were written.

    Example:
        >>> import io
        >>> pipe = io.BytesIO()
        >>> writer = BlockWriter(pipe)
        >>> writer.start(AudioInfo(sample_rate=8_000, channels=2))
        >>> writer.write(np.zeros((2, 100), np.float32))
        >>> writer.finish([Note("is cut", 1.0, is_damage=True)])
        >>> reader = BlockReader(io.BytesIO(pipe.getvalue()))
        >>> reader.info.channels, reader.read().shape, reader.read().shape, len(reader.notes)
        (2, (2, 100), (2, 0), 1)
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._info: AudioInfo | None = None
        self._waiting: list[NDArray[np.float32]] = []
        self._num_waiting = 0
        self.num_frames = 0

    def start(self, info: AudioInfo) -> None:
        """Write the description."""
        self._info = info
        self._max_frames = _max_frames(info)
        self._write_line(asdict(info))

    def write(self, samples: NDArray[np.float32]) -> None:
        """Write samples, [channels, samples]."""
        for start in range(0, samples.shape[1], self._max_frames):
            part = samples[:, start : start + self._max_frames]
            if self._num_waiting + part.shape[1] > self._max_frames:
                self._write_block()
            self._waiting.append(part)
            self._num_waiting += part.shape[1]
            self.num_frames += part.shape[1]

    def write_silence(self, num_frames: int) -> None:
        """Write zeros, in memory that does not grow with their number."""
        assert self._info is not None
        silence = np.zeros((self._info.channels, min(num_frames, self._max_frames)), np.float32)
        while num_frames > 0:
            self.write(silence[:, :num_frames])
            num_frames -= silence.shape[1]

    def finish(self, notes: list[Note]) -> None:
        """Write the end and the notes."""
        self._write_block()
        self._pipe.write(NUM_FRAMES.pack(0))
        self._write_line({"notes": [asdict(note) for note in notes]})

    def fail(self, reason: str) -> None:
        """Write why the recording, or the rest of it, cannot be read."""
        if self._info is not None:
            self._write_block()
            self._pipe.write(NUM_FRAMES.pack(0))
        self._write_line({"error": reason})

    def _write_block(self) -> None:
        if self._waiting:
            self._pipe.write(NUM_FRAMES.pack(self._num_waiting))
            block = np.concatenate(self._waiting, axis=1)
            self._waiting, self._num_waiting = [], 0
            self._pipe.write(np.ascontiguousarray(block).data)

    def _write_line(self, content: dict[str, object]) -> None:
        self._pipe.write(json.dumps(content).encode() + b"\n")


class BlockReader:
    """Reads from a pipe what a ``BlockWriter`` writes to it.

    Args:
        pipe: what to read.

    Attributes:
        info: describes the recording.
        notes: what a listener should know; complete after the empty block.

    Raises:
        AudioError: the message of ``BlockWriter.fail``.
        EOFError: the pipe ends too early.
        ValueError: the pipe holds something else.

    Example:
        >>> import io
        >>> reader = BlockReader(io.BytesIO(b'{"sample_rate": 8000, "channels": 2}\\n'))
        >>> reader.info.sample_rate
        8000
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self.notes: list[Note] = []
        self.info = AudioInfo(**self._read_line())
        self._max_frames = _max_frames(self.info)

    def read(self) -> NDArray[np.float32]:
        """The next block, [channels, samples]; no samples at the end of the recording."""
        head = self._pipe.read(NUM_FRAMES.size)
        if len(head) < NUM_FRAMES.size:
            raise EOFError
        (num_frames,) = NUM_FRAMES.unpack(head)
        if num_frames > self._max_frames:
            raise ValueError("the block is too long")
        block = np.empty((self.info.channels, num_frames), np.float32)
        if not num_frames:
            self.notes += [Note(**note) for note in self._read_line().get("notes", [None])]
        elif self._pipe.readinto(block.data.cast("B")) < block.nbytes:  # type: ignore[attr-defined]
            raise EOFError
        return block

    def _read_line(self) -> dict[str, Any]:
        line = self._pipe.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        content = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError("the line is no object")
        if "error" in content:
            raise AudioError(content["error"])
        return content


def _max_frames(info: AudioInfo) -> int:
    """The largest number of samples per channel in a block."""
    return max(1, min(BLOCK_BYTES // (4 * info.channels), BLOCK_SECONDS * info.sample_rate))
