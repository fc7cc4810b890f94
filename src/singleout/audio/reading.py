"""Reading recordings block by block. A file that cannot be read is refused with a reason."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.decoding import Decoder
from singleout.audio.description import describe
from singleout.audio.info import ALAC, AudioInfo, Note, sndfile_name
from singleout.audio.packed import PackedWav, packing
from singleout.errors import AudioError

BLOCK_FRAMES = 1 << 18
"""Most samples of a block, all channels together."""
BLOCK_SECONDS = 10
"""Longest block. Blocks of low rates are short, because resampling may make them long."""
UNKNOWN_FRAMES = 1 << 40
"""libsndfile reports at least this many where a streamed file does not state its length."""
STREAMED_BYTES = 0x7FFF_0000
"""Sizes from here on mean "until the end of the file": programs that write to a pipe state them."""
MP3_TOLERANCE = 576
"""Samples that an MP3 may lack: half a frame, or a whole one at low rates."""
MP3_COUNT = re.compile(rb"\xff[\xe2-\xff]..(?:.{9}|.{17}|.{32})(?:Xing|Info)", re.DOTALL)
"""Matches a first frame that states the number of frames."""
MAX_OGG_PAGE = 65_307
"""Bytes."""


class AudioReader(Protocol):
    """An open recording. ``open_audio`` gives one for a file.

    Attributes:
        name: the name of the recording in messages: its path, or "audio" for an array.
        info: describes the recording: rate in Hz, channels, length, kind of file.
        notes: what a listener should know. They are complete after the last block.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> def seconds(reader: AudioReader) -> float:
        ...     return sum(block.shape[1] for block in reader.blocks()) / reader.info.sample_rate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "silence.wav"
        ...     write_wav(path, np.zeros((2, 24_000), np.float32), 16_000)
        ...     with open_audio(path) as reader:
        ...         seconds(reader)
        1.5
    """

    name: str
    info: AudioInfo
    notes: list[Note]

    def reopened(self) -> AbstractContextManager[AudioReader]:
        """The same recording from its start, opened in the same way."""

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All samples in order. They can be read once.

        Yields:
            [channels, samples] of ``info.dtype`` (float32, or float64 where float32 would round),
            with full scale 1. No block is empty. Blocks of a file last 10 seconds at most; an array
            is one block.

        Raises:
            AudioError: the recording has no samples; a sample is NaN or infinite; the file changed
                after it was opened; or it is damaged, and was opened with ``strict``.
        """


@contextmanager
def open_audio(
    path: str | Path, *, strict: bool = False, track: int | None = None
) -> Iterator[AudioReader]:
    """Open a recording for reading in memory that does not grow with its length.

    libsndfile reads the formats that it supports (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF,
    ...). FFmpeg reads the others (M4A, AAC, the sound of MP4, MKV, WebM, ...) in a separate
    process. Integers become floats with full scale 1. No sample is clipped or rescaled.

    Of a recording that is cut or damaged, the rest is read, and a note says what is missing.

    Args:
        path: the file.
        strict: refuse a recording that is cut or damaged.
        track: number of the sound track, from 1; None takes the main one.

    Yields:
        A reader, which is closed at the end of the ``with`` block.

    Raises:
        AudioError: the file is missing, a folder, not a regular file, empty, not readable or not
            audio; or its rate is impossible; or there is no such track. With ``strict``, damage
            that only reading shows is raised by ``AudioReader.blocks``.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "silence.wav"
        ...     write_wav(path, np.zeros((2, 24_000), np.float32), 16_000)
        ...     with open_audio(path) as reader:
        ...         shapes = [block.shape for block in reader.blocks()]
        >>> reader.info.sample_rate, reader.info.num_frames, shapes
        (16000, 24000, [(2, 24000)])
    """
    path = Path(path)
    with _one_line(path):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path}: is a folder, give an audio file")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path}: is not a regular file")
        if status.st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes)")
        if not os.access(path, os.R_OK):  # libsndfile would not name the reason
            raise AudioError(f"{path}: may not be read: permission denied")
        source = _opened(path, track)
    try:
        yield _CheckedReader(path, source, status, strict, track)
    finally:
        source.close()


def read_audio(path: str | Path, *, strict: bool = False) -> tuple[NDArray[np.float32], int]:
    """Read a whole recording.

    Args:
        path: the file; see ``open_audio`` for the formats.
        strict: refuse a recording that is cut or damaged.

    Returns:
        The waveform, float32 [channels, samples] with full scale 1, and its rate in Hz.

    Raises:
        AudioError: see ``open_audio`` and ``AudioReader.blocks``; or the recording is too long for
            the memory of this machine.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "silence.wav"
        ...     write_wav(path, np.zeros((2, 24_000), np.float32), 16_000)
        ...     waveform, rate = read_audio(path)
        >>> waveform.shape, rate
        ((2, 24000), 16000)
    """
    with open_audio(path, strict=strict) as reader:
        try:
            blocks = [block.astype(np.float32, copy=False) for block in reader.blocks()]
            return np.concatenate(blocks, axis=1), reader.info.sample_rate
        except MemoryError:
            raise AudioError(f"{path}: is too long for this machine's memory") from None


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn errors of libsndfile and of the system into an ``AudioError`` of one line."""
    try:
        yield
    except AudioError:
        raise
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except soundfile.LibsndfileError as error:
        reason = f"cannot be read as audio, or is damaged: {_reason(error)}"
        raise AudioError(f"{path}: {reason}") from None
    except (OSError, TypeError, ValueError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise AudioError(f"{path}: cannot be read as audio: {reason}") from None


def _reason(error: soundfile.LibsndfileError) -> str:
    reason = str(error.error_string).rstrip(".")
    if "SF_INFO" in reason:
        return "its header states an impossible sample rate or number of channels"
    return reason


class _Source(Protocol):
    info: AudioInfo
    notes: list[Note]

    def read(self) -> NDArray[Any]:
        """The next block, [channels, samples]; no samples at the end."""

    def close(self) -> None: ...


def _opened(path: Path, track: int | None) -> _Source:
    other: Decoder | PackedWav
    try:
        if track not in (None, 1):
            other = Decoder(path, "libsndfile reads one track", track)
        elif (packed := packing(path)) is None:
            return _SoundFile(path)
        else:
            other = PackedWav(path, packed)
    except soundfile.LibsndfileError as error:
        other = Decoder(path, _reason(error), track)
    described = describe(path)
    other.info = described.completed(other.info)
    other.notes += described.notes(path)
    return other


class _CheckedReader:
    """An ``AudioReader`` that checks what any source gives.

    The source must give samples, all of them finite, and the file must not change meanwhile.
    """

    def __init__(
        self,
        path: Path,
        source: _Source,
        status: os.stat_result,
        strict: bool,
        track: int | None,
    ) -> None:
        self._path, self._source, self._status = path, source, status
        self._strict, self._track = strict, track
        self.name, self.info, self.notes = str(path), source.info, source.notes

    def reopened(self) -> AbstractContextManager[AudioReader]:
        """See ``AudioReader.reopened``."""
        return open_audio(self._path, strict=self._strict, track=self._track)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioReader.blocks``."""
        num_read = 0
        with _one_line(self._path):
            while (block := self._source.read()).shape[1]:
                if not np.isfinite(block).all():
                    raise AudioError(f"{self._path}: has NaN or infinite samples")
                num_read += block.shape[1]
                yield block
            if self._strict and (damage := [note for note in self.notes if note.is_damage]):
                raise AudioError(damage[0].text)
            now, before = self._path.stat(), self._status
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise AudioError(
                    f"{self._path}: changed while it was read: wait until it is complete"
                )
            if not num_read:
                raise AudioError(f"{self._path}: has no samples")


class _SoundFile:
    """A file that libsndfile reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = soundfile.SoundFile(sndfile_name(path))
        try:
            self._min_frames = self._stated_frames()
        except BaseException:
            self.close()
            raise
        file = self._file
        described = describe(path)
        self._layout, self.notes = described.layout, described.notes(path)
        guesses = file.format in ("MP3", "MPEG") or file.frames >= UNKNOWN_FRAMES
        self.info = described.completed(
            AudioInfo(
                sample_rate=file.samplerate,
                channels=file.channels,
                num_frames=None if guesses and not self._min_frames else file.frames,
                container=file.format,
                subtype=ALAC.get(file.subtype, file.subtype),
                tags=_tags(file),
            )
        )
        self._num_read = 0

    def _stated_frames(self) -> int:
        """The lowest number of frames that the file states; 0 if it states none.

        Raises:
            AudioError: the file is truncated, and its format shows it before reading.
        """
        file, path = self._file, self._path
        if file.format in ("OGG", "MP3", "MPEG"):
            with path.open("rb") as raw:
                if file.format == "OGG":
                    raw.seek(max(0, path.stat().st_size - 2 * MAX_OGG_PAGE))
                    if not _last_ogg_page_is_whole(raw.read()):
                        raise _truncated(path)
                    return 0
                # Where the encoder stated no count, the decoder guesses one from the bit rate.
                head = raw.read(1 << 16)
                return file.frames - MP3_TOLERANCE if MP3_COUNT.search(head) else 0
        if _header_states_more_bytes(file.extra_info):
            raise _truncated(path)
        return file.frames if file.frames < UNKNOWN_FRAMES else 0

    def read(self) -> NDArray[Any]:
        dtype = "float64" if self.info.dtype is np.float64 else "float32"
        info = self.info
        frames = max(1, min(BLOCK_FRAMES // info.channels, BLOCK_SECONDS * info.sample_rate))
        block = self._file.read(frames, dtype=dtype, always_2d=True)
        self._num_read += len(block)
        if not len(block) and self._num_read < self._min_frames:
            raise _truncated(self._path)
        return self._layout.in_wav_order(np.ascontiguousarray(block.T))

    def close(self) -> None:
        with suppress(soundfile.LibsndfileError):
            self._file.close()


def _truncated(path: Path) -> AudioError:
    return AudioError(f"{path}: is truncated, it ends before the length that its header states")


def _tags(file: soundfile.SoundFile) -> dict[str, str]:
    try:
        return {str(name): str(text) for name, text in file.copy_metadata().items()}
    except UnicodeDecodeError:  # an old encoding, not UTF-8
        return {}


def _header_states_more_bytes(log: str) -> bool:
    """Whether a chunk is longer than its file: libsndfile cuts it and writes so in its log."""
    cut = re.findall(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", log, re.M)
    if any(int(actual) + 1 < int(stated) < STREAMED_BYTES for stated, actual in cut):
        return True
    count = re.search(r"Calculated frame count (\d+) does not match .* (\d+)", log)
    return count is not None and int(count[1]) < int(count[2]) < UNKNOWN_FRAMES


def _last_ogg_page_is_whole(tail: bytes) -> bool:
    """Whether the last page is complete. An Ogg stream states no length, but each page does."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    num_segments = tail[page + 26]
    segments = tail[page + 27 : page + 27 + num_segments]
    return len(tail) >= page + 27 + num_segments + sum(segments)
