"""Reading recordings block by block. A file that cannot be read is refused with a reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.ends.rule import sections
from singleout.audio.ends.section import Section
from singleout.audio.info import AudioInfo, Note
from singleout.audio.sources import Source, open_source, sndfile_reason
from singleout.errors import AudioError


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
    The sound of a video keeps its time: gaps in it and a start after the pictures become silence.

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
    with _reader(Path(path), strict, track, None) as reader:
        yield reader


@contextmanager
def _reader(
    path: Path, strict: bool, track: int | None, known: tuple[os.stat_result, list[Section]] | None
) -> Iterator[AudioReader]:
    """Open a recording. ``known`` are the sections of a file that was looked at before."""
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
        is_known = known is not None and _is_same(known[0], status)
        listed = known[1] if known and is_known else sections(path, status.st_size)
        source = open_source(path, listed, track)
    try:
        yield _CheckedReader(path, source, status, listed, strict, track)
    finally:
        source.close()


def _is_same(before: os.stat_result, now: os.stat_result) -> bool:
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def read_audio(path: str | Path, *, strict: bool = True) -> tuple[NDArray[np.float32], int]:
    """Read a whole recording.

    Args:
        path: the file; see ``open_audio`` for the formats.
        strict: refuse a recording that is cut or damaged. Without it, what is there is returned
            without a word; ``open_audio`` has notes.

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
        reason = f"cannot be read as audio, or is damaged: {sndfile_reason(error)}"
        raise AudioError(f"{path}: {reason}") from None
    except (OSError, TypeError, ValueError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise AudioError(f"{path}: cannot be read as audio: {reason}") from None


class _CheckedReader:
    """An ``AudioReader`` that checks what any source gives.

    The source must give samples, all of them finite, and the file must not change meanwhile.
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        status: os.stat_result,
        listed: list[Section],
        strict: bool,
        track: int | None,
    ) -> None:
        self._path, self._source, self._status = path, source, status
        self._sections, self._strict, self._track = listed, strict, track
        self.name, self.info, self.notes = str(path), source.info, source.notes

    def reopened(self) -> AbstractContextManager[AudioReader]:
        """See ``AudioReader.reopened``."""
        known = self._status, self._sections
        return _reader(self._path, self._strict, self._track, known)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioReader.blocks``."""
        num_read = 0
        with _one_line(self._path):
            while (block := self._source.read()).shape[1]:
                if not np.isfinite(block).all():
                    raise AudioError(f"{self._path}: has NaN or infinite samples")
                num_read += block.shape[1]
                yield block
            if not _is_same(self._status, self._path.stat()):
                raise AudioError(
                    f"{self._path}: changed while it was read: wait until it is complete"
                )
            damage = [note for note in self.notes if note.is_damage]
            if damage and (self._strict or not num_read):
                raise AudioError(damage[0].text)
            if not num_read:
                raise AudioError(f"{self._path}: has no samples")
