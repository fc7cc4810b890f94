"""Reading a recording block by block, or refusing it with a reason."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.decoding import Decoder
from singleout.audio.info import ALAC, AudioInfo, sndfile_name
from singleout.audio.riff import description
from singleout.errors import AudioError

BLOCK_FRAMES = 1 << 18
BLOCK_SECONDS = 10
"""However low its rate, a block is not long: it may become one of the model's rate."""
UNKNOWN_FRAMES = 1 << 40
"""libsndfile reports more when a streamed file does not know its own length."""
STREAMED_BYTES = 0x7FFF_0000
"""Writers into a pipe put at least this in a 32-bit size field: 'until the end of the file'."""
MP3_TOLERANCE = 576
"""Frames: half an MP3 frame, or a whole one at low rates."""
MP3_COUNT = re.compile(rb"\xff[\xe2-\xff]..(?:.{9}|.{17}|.{32})(?:Xing|Info)", re.DOTALL)
"""A first frame in which the encoder says how many frames there are."""
MAX_OGG_PAGE = 65_307


class AudioReader(Protocol):
    """An open recording, or an array as if it were one.

    Attributes:
        name: what messages call it: its path, or "audio" for an array.
        info: what it is.
    """

    name: str
    info: AudioInfo

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The samples in order, once: ``info.dtype`` [channels, samples], none of them empty."""


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioReader]:
    """A recording, to be read in memory that does not grow with its length.

    libsndfile reads what it knows (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF, ...), FFmpeg in
    a process of its own the rest (M4A, AAC, the sound of MP4, MKV, WebM, ...). Integer formats come
    with full scale 1; nothing is clipped or rescaled.

    Raises:
        AudioError: at once, or from ``blocks``: the file is missing, a folder, not audio, empty,
            truncated or changed while it was read, it has NaN or infinite samples or an impossible
            rate.
    """
    path = Path(path)
    with _one_line(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise AudioError(f"{path}: is a folder, give an audio file")
        if not stat.S_ISREG(found.st_mode):
            raise AudioError(f"{path}: is not a regular file")
        if found.st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes)")
        if not os.access(path, os.R_OK):  # libsndfile only says that there is an error
            raise AudioError(f"{path}: may not be read: permission denied")
        source = _opened(path)
    try:
        yield _Checked(path, source, found)
    finally:
        source.close()


def read_audio(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """All samples of a recording: float32 [channels, samples] and its rate in Hz.

    Raises:
        AudioError: see ``open_audio``; or it is too long for this machine's memory.
    """
    with open_audio(path) as reader:
        try:
            blocks = [block.astype(np.float32, copy=False) for block in reader.blocks()]
            return np.concatenate(blocks, axis=1), reader.info.sample_rate
        except MemoryError:
            raise AudioError(f"{path}: is too long for this machine's memory") from None


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Errors of libsndfile and of the system as ours."""
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

    def read(self) -> NDArray[Any]:
        """The next samples, [channels, samples]; none at the end."""

    def close(self) -> None: ...


def _opened(path: Path) -> _Source:
    try:
        return _SoundFile(path)
    except soundfile.LibsndfileError as error:
        return Decoder(path, _reason(error))


class _Checked:
    """What holds for every source: samples, all of them finite, of a file that stays as it is."""

    def __init__(self, path: Path, source: _Source, found: os.stat_result) -> None:
        self._path, self._source, self._found = path, source, found
        self.name, self.info = str(path), source.info

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioReader``.

        Raises:
            AudioError: see ``open_audio``.
        """
        num_read = 0
        with _one_line(self._path):
            while (block := self._source.read()).shape[1]:
                if not np.isfinite(block).all():
                    raise AudioError(f"{self._path}: has NaN or infinite samples")
                num_read += block.shape[1]
                yield block
            now = self._path.stat()
            before = self._found
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise AudioError(
                    f"{self._path}: changed while it was read: wait until it is complete"
                )
            if not num_read:
                raise AudioError(f"{self._path}: has no samples")


class _SoundFile:
    """What libsndfile can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = soundfile.SoundFile(sndfile_name(path))
        try:
            self._num_promised = self._promised()
        except BaseException:
            self.close()
            raise
        file = self._file
        mask, chunks = description(path) if "WAV" in file.format or "64" in file.format else (0, ())
        guesses = file.format in ("MP3", "MPEG") or file.frames >= UNKNOWN_FRAMES
        self.info = AudioInfo(
            sample_rate=file.samplerate,
            channels=file.channels,
            num_frames=None if guesses and not self._num_promised else file.frames,
            container=file.format,
            subtype=ALAC.get(file.subtype, file.subtype),
            tags=_tags(file),
            channel_mask=mask,
            riff_chunks=chunks,
        )
        self._num_read = 0

    def _promised(self) -> int:
        """How many frames the file says it has, at least; 0 if it does not say.

        Raises:
            AudioError: it is truncated, which some formats show before they are read.
        """
        file, path = self._file, self._path
        if file.format in ("OGG", "MP3", "MPEG"):
            with path.open("rb") as raw:
                if file.format == "OGG":
                    raw.seek(max(0, path.stat().st_size - 2 * MAX_OGG_PAGE))
                    if not _last_ogg_page_is_whole(raw.read()):
                        raise _truncated(path)
                    return 0
                # Without the encoder's own count, the decoder guesses from the bit rate.
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
        if not len(block) and self._num_read < self._num_promised:
            raise _truncated(self._path)
        return np.ascontiguousarray(block.T)

    def close(self) -> None:
        with suppress(soundfile.LibsndfileError):
            self._file.close()


def _truncated(path: Path) -> AudioError:
    return AudioError(f"{path}: is truncated, it ends before the length that its header states")


def _tags(file: soundfile.SoundFile) -> dict[str, str]:
    try:
        return {str(name): str(text) for name, text in file.copy_metadata().items()}
    except UnicodeDecodeError:  # of another century's code page
        return {}


def _header_states_more_bytes(log: str) -> bool:
    """libsndfile cuts a chunk that is longer than its file to size, and says so in its log."""
    cut = re.findall(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", log, re.M)
    if any(int(actual) + 1 < int(stated) < STREAMED_BYTES for stated, actual in cut):
        return True
    count = re.search(r"Calculated frame count (\d+) does not match .* (\d+)", log)
    return count is not None and int(count[1]) < int(count[2]) < UNKNOWN_FRAMES


def _last_ogg_page_is_whole(tail: bytes) -> bool:
    """An Ogg stream states no length, but each of its pages does."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    num_segments = tail[page + 26]
    segments = tail[page + 27 : page + 27 + num_segments]
    return len(tail) >= page + 27 + num_segments + sum(segments)
