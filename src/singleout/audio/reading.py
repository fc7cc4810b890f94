"""Reading a recording whole, or refusing it with a reason."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.errors import AudioError

BLOCK_FRAMES = 1 << 20
UNKNOWN_FRAMES = 1 << 40
"""libsndfile reports more when a streamed file does not know its own length."""
STREAMED_BYTES = 0x7FFF_0000
"""Writers into a pipe put at least this in a 32-bit size field: 'until the end of the file'."""
MP3_TOLERANCE = 576
"""Frames: half an MP3 frame, or a whole one at low rates."""
MP3_COUNT = re.compile(rb"\xff[\xe2-\xff]..(?:.{9}|.{17}|.{32})(?:Xing|Info)", re.DOTALL)
"""A first frame in which the encoder says how many frames there are."""


def read_audio(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """All samples of a recording: float32 [channels, samples] and its rate in Hz.

    Integer formats come with full scale 1; nothing is clipped or rescaled. Any format that
    libsndfile knows (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF, ...).

    Raises:
        AudioError: the file is missing, a folder, not audio, empty or truncated, or it has NaN or
            infinite samples or an impossible rate.
    """
    path = Path(path)
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise AudioError(f"{path}: is a folder, give an audio file")
        if not stat.S_ISREG(found.st_mode):
            raise AudioError(f"{path}: is not a regular file")
        if found.st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes)")
        audio, rate = _decoded(path)
    except AudioError:
        raise
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        if "SF_INFO" in reason:
            reason = "its header states an impossible sample rate or number of channels"
        raise AudioError(f"{path}: cannot be read as audio, or is damaged: {reason}") from None
    except (OSError, TypeError, ValueError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise AudioError(f"{path}: cannot be read as audio: {reason}") from None
    except MemoryError:
        raise AudioError(f"{path}: is too long for this machine's memory") from None
    if not np.isfinite(audio).all():
        raise AudioError(f"{path}: has NaN or infinite samples")
    return audio, rate


def _decoded(path: Path) -> tuple[NDArray[np.float32], int]:
    with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path) as file:
        blocks = []
        while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            blocks.append(block)
        num_read = sum(map(len, blocks))
        if num_read < _promised(file, path, num_read):
            raise AudioError(
                f"{path}: is truncated, it ends before the length that its header states"
            )
        if not num_read:
            raise AudioError(f"{path}: has no samples")
        audio = np.empty((file.channels, num_read), np.float32)
        start = 0
        for block in blocks:
            audio[:, start : start + len(block)] = block.T
            start += len(block)
        return audio, file.samplerate


def _promised(file: soundfile.SoundFile, path: Path, num_read: int) -> int:
    """How many frames the file says it has, at least; 0 if it does not say."""
    if file.format in ("OGG", "MP3", "MPEG"):
        with path.open("rb") as raw:
            if file.format == "OGG":
                return 0 if _last_ogg_page_is_whole(raw.read()) else num_read + 1
            # Without the encoder's own count, the decoder guesses from the bit rate.
            head = raw.read(1 << 16)
            return file.frames - MP3_TOLERANCE if MP3_COUNT.search(head) else 0
    if _header_states_more_bytes(file.extra_info):
        return num_read + 1
    return file.frames if file.frames < UNKNOWN_FRAMES else 0


def _header_states_more_bytes(log: str) -> bool:
    """libsndfile cuts a chunk that is longer than its file to size, and says so in its log."""
    cut = re.findall(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", log, re.M)
    if any(int(actual) + 1 < int(stated) < STREAMED_BYTES for stated, actual in cut):
        return True
    count = re.search(r"Calculated frame count (\d+) does not match .* (\d+)", log)
    return count is not None and int(count[1]) < int(count[2]) < UNKNOWN_FRAMES


def _last_ogg_page_is_whole(data: bytes) -> bool:
    """An Ogg stream states no length, but each of its pages does."""
    page = data.rfind(b"OggS")
    if page < 0 or len(data) < page + 27:
        return False
    num_segments = data[page + 26]
    segments = data[page + 27 : page + 27 + num_segments]
    return len(data) >= page + 27 + num_segments + sum(segments)
