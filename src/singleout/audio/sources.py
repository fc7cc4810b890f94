"""Where the samples of a file come from: libsndfile, FFmpeg, or several recordings in a row.

libsndfile reads a recording in this process. Where it fails, at opening or later, FFmpeg reads on.
At the end a source compares what was read with what the file states (``ends``).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.channels import Layout
from singleout.audio.chatter import quiet
from singleout.audio.description.describe import Description, describe
from singleout.audio.ends.section import Section, as_one
from singleout.audio.ffmpeg.decoder import Decoder
from singleout.audio.info import ALAC, AudioInfo, Note, sndfile_name
from singleout.audio.packed import PackedWav, packing
from singleout.audio.resampling import ResampleStream
from singleout.errors import AudioError

BLOCK_FRAMES = 1 << 18
"""Most samples of a block, all channels together."""
BLOCK_SECONDS = 10
"""Longest block. Blocks of low rates are short, because resampling may make them long."""
UNKNOWN_FRAMES = 1 << 40
"""libsndfile reports at least this many where a streamed file does not state its length."""


class Source(Protocol):
    """Gives the samples of a recording block by block.

    Attributes:
        info: describes the recording.
        notes: what a listener should know; complete after the last block.
    """

    info: AudioInfo
    notes: list[Note]

    def read(self) -> NDArray[Any]:
        """The next block, [channels, samples]; no samples at the end."""

    def close(self) -> None:
        """Close the file. Further calls do nothing."""


def open_source(path: Path, sections: list[Section], track: int | None = None) -> Source:
    """Open the recordings in a file.

    Args:
        path: the file.
        sections: the recordings in it, at least one.
        track: number of the sound track, from 1; None takes the main one.

    Raises:
        AudioError: neither libsndfile nor FFmpeg reads the file; or there is no such track.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "silence.wav"
        ...     write_wav(path, np.zeros((2, 1_000), np.float32), 16_000)
        ...     source = open_source(path, [Section(0, path.stat().st_size)])
        ...     shape = source.read().shape
        ...     source.close()
        >>> shape
        (2, 1000)
    """
    described = describe(path)
    if len(sections) > 1 and track is None:
        with suppress(soundfile.LibsndfileError):
            return _Chain(path, sections, described)
        sections = [as_one(sections, path.stat().st_size)]
    return _Recording(path, sections[0], described, track=track)


def sndfile_reason(error: soundfile.LibsndfileError) -> str:
    """Why libsndfile cannot read a file, in words for a user.

    Example:
        >>> sndfile_reason(soundfile.LibsndfileError(1))
        'Format not recognised'
    """
    reason = str(error.error_string).rstrip(".")
    if "does not exist" in reason:  # what libsndfile says of a damaged MP3
        return "its format is not recognised"
    if "SF_INFO" in reason:
        return "its header states an impossible sample rate or number of channels"
    return reason


class _SoundFile:
    """A recording that libsndfile reads."""

    def __init__(self, path: Path, section: Section, layout: Layout) -> None:
        self._path = path
        self.notes: list[Note] = []
        self._is_mpeg = section.kind == "mpeg"
        is_plain = not section.head and section.begin == 0 and section.end == path.stat().st_size
        self._view = None if is_plain else section.open(path)
        with quiet(self._is_mpeg):
            self._file = soundfile.SoundFile(self._view or sndfile_name(path))
        file = self._file
        self._layout = layout if len(layout.order) in (0, file.channels) else Layout()
        is_known = section.num_frames is None and file.frames < UNKNOWN_FRAMES
        self.info = AudioInfo(
            sample_rate=file.samplerate,
            channels=file.channels,
            num_frames=file.frames if is_known else section.num_frames,
            container=file.format,
            subtype=ALAC.get(file.subtype, file.subtype),
            tags=_tags(file),
        )

    def read(self) -> NDArray[Any]:
        dtype = "float64" if self.info.dtype is np.float64 else "float32"
        info = self.info
        frames = max(1, min(BLOCK_FRAMES // info.channels, BLOCK_SECONDS * info.sample_rate))
        with quiet(self._is_mpeg) as damage:
            block = self._file.read(frames, dtype=dtype, always_2d=True)
        if damage and not self.notes:
            text = f"its decoder reports damage: {damage[0][:100]}"
            self.notes.append(Note(f"{self._path}: {text}", None, is_damage=True))
        return self._layout.in_wav_order(np.ascontiguousarray(block.T))

    def close(self) -> None:
        with suppress(soundfile.LibsndfileError):
            self._file.close()
        if self._view is not None:
            self._view.close()


def _tags(file: soundfile.SoundFile) -> dict[str, str]:
    try:
        return {str(name): str(text) for name, text in file.copy_metadata().items()}
    except UnicodeDecodeError:  # an old encoding, not UTF-8
        return {}


class _Recording:
    """One recording of a file. Where libsndfile fails, FFmpeg reads on."""

    def __init__(
        self,
        path: Path,
        section: Section,
        described: Description,
        *,
        is_only: bool = True,
        track: int | None = None,
    ) -> None:
        self._path, self._section, self._is_only = path, section, is_only
        self._described, self._track = described, track
        self._num_read = 0
        self._has_ended = self._has_failed = False
        self.notes = described.notes(path)
        self._source = self._opened()
        self.info = described.completed(self._source.info)
        if section.num_frames is not None:
            self.info = replace(self.info, num_frames=section.num_frames)

    def _opened(self) -> Source:
        is_other_track = self._track not in (None, 1)
        if self._is_only and (is_other_track or self._section.reader == "ffmpeg"):
            return self._decoder("it is not whole")
        try:
            if self._section.begin == 0 and (packed := packing(self._path)) is not None:
                packed = replace(packed, num_bytes=self._section.sound_bytes)
                return PackedWav(self._path, packed)
            return _SoundFile(self._path, self._section, self._described.layout)
        except soundfile.LibsndfileError as error:
            if not self._is_only:
                raise
            return self._decoder(sndfile_reason(error))

    def _decoder(self, reason: str) -> Decoder:
        try:
            return Decoder(self._path, reason, self._track)
        except AudioError:
            if not self._section.missing_bytes:
                raise
            text = "is truncated: nothing of its sound can be decoded"
            raise AudioError(f"{self._path}: {text}") from None

    def read(self) -> NDArray[Any]:
        """The next block; none after the last one, when the notes are complete."""
        empty = np.zeros((self.info.channels, 0), self.info.dtype)
        if self._has_ended:
            return empty
        try:
            block = self._next_block()
        except AudioError as error:
            if not self._num_read or not (self._has_failed or self._section.kind):
                raise
            self._finish(str(error).removeprefix(f"{self._path}: "))
            return empty
        if not block.shape[1]:
            self._finish(None)
        self._num_read += block.shape[1]
        return block.astype(self.info.dtype, copy=False)

    def _next_block(self) -> NDArray[Any]:
        try:
            block = self._source.read()
        except soundfile.LibsndfileError as error:
            return self._read_on(sndfile_reason(error))
        if not block.shape[1] and self._ends_early():
            return self._read_on("it ended early")
        return block

    def _ends_early(self) -> bool:
        """Whether libsndfile gave fewer samples than the file has, as it does after damage."""
        section, seconds = self._section, self._num_read / self.info.sample_rate
        is_short = section.seconds is not None and section.seconds - seconds > section.tolerance
        return is_short and self._is_only and isinstance(self._source, _SoundFile)

    def _read_on(self, failure: str) -> NDArray[Any]:
        """The next block by FFmpeg, after libsndfile failed."""
        self._has_failed = True
        if not self._is_only:
            raise AudioError(f"{self._path}: its decoder failed: {failure}")
        decoder = self._decoder(failure)
        self._source.close()
        self._source = decoder
        shape = decoder.info.sample_rate, decoder.info.channels
        if shape != (self.info.sample_rate, self.info.channels):
            raise AudioError(f"{self._path}: its decoder failed: {failure}")
        to_skip = self._num_read
        while True:
            block = decoder.read()
            if to_skip < block.shape[1] or not block.shape[1]:
                return block[:, to_skip:]
            to_skip -= block.shape[1]

    def _finish(self, failure: str | None) -> None:
        """Note what is missing, once the recording has ended."""
        self._has_ended = True
        rate, section = self.info.sample_rate, self._section
        missing = section.missing_seconds(self._num_read, rate)
        text = None
        if missing:
            whole = missing + self._num_read / rate
            text = f"is truncated: {missing:.2f} s of the {whole:.2f} s that it states are missing"
        elif section.missing_bytes and not self._num_read:
            text = "is truncated: nothing of its sound can be decoded"
        elif failure is not None:
            text = f"is damaged, its end may be missing: {failure}"
        if text is not None:
            self.notes.append(Note(f"{self._path}: {text}", missing or None, is_damage=True))
        else:
            self.notes += (replace(n, text=f"{self._path}: {n.text}") for n in section.notes)
        if self._has_failed and section.kind == "flac" and not self._source.notes and not missing:
            text = "is damaged: some of its frames do not match their checksums"
            self.notes.append(Note(f"{self._path}: {text}", None, is_damage=True))
        is_known = section.has_others or any(note.is_damage for note in self.notes)
        self.notes += (n for n in self._source.notes if not (n.is_damage and is_known))

    def close(self) -> None:
        self._source.close()


class _Chain:
    """Recordings that follow each other in one file, at the rate and channels of the first."""

    def __init__(self, path: Path, sections: list[Section], described: Description) -> None:
        self._path, self._following = path, sections[1:]
        self._described = replace(described, too_large=())  # the first recording has this note
        self.notes: list[Note] = []
        first = _Recording(path, sections[0], described, is_only=False)
        self._recording: _Recording | None = first
        lengths = [section.seconds or 0 for section in sections]
        self.info = first.info
        num_frames = round(sum(lengths) * self.info.sample_rate)
        self.info = replace(self.info, num_frames=num_frames if all(lengths) else None)
        self._stream: ResampleStream | None = None

    def read(self) -> NDArray[Any]:
        while self._recording is not None:
            block = self._recording.read()
            is_last = not block.shape[1]
            if self._stream is not None:
                block = _with_channels(block.astype(np.float32), self.info.channels)
                block = self._stream.push(block, is_last)
            if is_last:
                self._next()
            if block.shape[1]:
                return block.astype(self.info.dtype, copy=False)
        return np.zeros((self.info.channels, 0), self.info.dtype)

    def _next(self) -> None:
        """Open the next recording that can be read."""
        assert self._recording is not None
        self.notes += self._recording.notes
        self._recording.close()
        self._recording = self._stream = None
        channels = self.info.channels
        while self._following and self._recording is None:
            section = self._following.pop(0)
            try:
                recording = _Recording(self._path, section, self._described, is_only=False)
            except soundfile.LibsndfileError as error:
                self._leave_out(section, sndfile_reason(error))
                continue
            if recording.info.channels != channels and 1 not in (recording.info.channels, channels):
                recording.close()
                self._leave_out(section, f"it has {recording.info.channels} channels")
                continue
            self._recording = recording
            rate = recording.info.sample_rate
            self._stream = ResampleStream(rate, self.info.sample_rate, channels)

    def _leave_out(self, section: Section, reason: str) -> None:
        text = f"{self._path}: one of the recordings in it was left out: {reason}"
        self.notes.append(Note(text, section.seconds, is_damage=True))

    def close(self) -> None:
        if self._recording is not None:
            self._recording.close()


def _with_channels(block: NDArray[Any], channels: int) -> NDArray[Any]:
    """Mono becomes equal channels, and all channels become their mean."""
    if len(block) == channels:
        return block
    return np.repeat(block, channels, axis=0) if len(block) == 1 else block.mean(0, keepdims=True)
