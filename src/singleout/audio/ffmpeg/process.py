"""Decoding by FFmpeg (PyAV), which runs in the process of a ``Decoder``."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from singleout.audio.ffmpeg.avi import skipped_frames
from singleout.audio.ffmpeg.blocks import BlockWriter
from singleout.audio.ffmpeg.frames import FrameConverter
from singleout.audio.ffmpeg.lengths import is_fragmented, starts_as_mp4, stated_end
from singleout.audio.ffmpeg.streams import (
    UNREADABLE,
    describe,
    kept,
    picture_stream,
    sound_stream,
    tracks_note,
)
from singleout.audio.ffmpeg.timeline import GAP_SECONDS, Timeline
from singleout.audio.info import AudioInfo, Note
from singleout.errors import AudioError, shortened

MAX_MEMORY_BYTES = 2 << 30
"""Limit of the process. Sizes that a damaged file states may be large."""
ENCRYPTED = re.compile(r"encrypt|DRM protected|scrambl", re.IGNORECASE)
"""Matches FFmpeg's warnings about encrypted files."""
CUT = re.compile(r"prematurely|truncat|partial file", re.IGNORECASE)
"""Matches FFmpeg's warnings about files that end too early, which it decodes without an error."""
ERROR = 16
"""FFmpeg's level of messages about errors."""
NO_INDEX = "moov atom not found"
"""In FFmpeg's message about an MP4 or MOV that is cut before the index at its end."""
CUT_BEFORE_INDEX = "is cut or was never finished: it lacks the index (moov) at its end"
GUESSED_DURATION = "Estimating duration from bitrate"
"""In FFmpeg's warning about a file that does not state its length."""
STREAM_NUMBER = re.compile(r"stream\s*=?\s*(\d+)")
"""Number of the stream in a warning about one packet."""
MAX_SURPLUS_FRAMES = 4_096
"""Lossy encoders pad the sound to fill their last frame. An MP4 states where the sound ends."""
CUT_SECONDS = 1.0
"""Pictures and sounds may end so much before the stated end of a whole recording."""
MAX_ERRORS = 16
"""Packets that cannot be read, and no frame between them, before the rest is given up."""
TIMESTAMPS_MAY_JUMP = 0x0200
"""FFmpeg's AVFMT_TS_DISCONT."""


def main() -> None:
    """Decode the file that the command line names to standard output.

    The arguments are the path and the number of the track, which may be empty. The process ends
    when its standard input is closed: then its parent has ended, for any reason.

    Example:
        >>> import subprocess
        >>> program = "from singleout.audio.ffmpeg.process import main; main()"
        >>> command = [sys.executable, "-c", program, "missing.mp4", ""]
        >>> pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        >>> with subprocess.Popen(command, **pipes) as process:
        ...     process.stdout.read()
        b'{"error": "not media"}\\n'
    """
    output = sys.stdout.buffer
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory()
    track = int(sys.argv[2]) if sys.argv[2] else None
    try:
        decode(sys.argv[1], output, track)
        output.flush()
    except BrokenPipeError:
        pass  # the reader has stopped
    os._exit(0)  # without cleaning up, see ``kept``


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MAX_MEMORY_BYTES)
    with suppress(OSError, ValueError):  # some systems refuse it
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def decode(path: str, output: BinaryIO, track: int | None = None) -> None:
    """Decode a media file with FFmpeg.

    Args:
        path: the media file.
        output: gets the description, samples and notes, or a reason; see ``blocks``.
        track: number of the sound track, from 1; None takes the main one.

    Example:
        >>> import io, tempfile
        >>> from singleout.audio import write_wav
        >>> from singleout.audio.ffmpeg.blocks import BlockReader
        >>> output = io.BytesIO()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/silence.wav"
        ...     write_wav(path, np.zeros((2, 1_000), np.float32), 16_000)
        ...     decode(path, output)
        >>> BlockReader(io.BytesIO(output.getvalue())).read().shape
        (2, 1000)
    """
    writer = BlockWriter(output)
    try:
        writer.finish(_decode(path, writer, track))
    except AudioError as error:
        writer.fail(str(error))
    except MemoryError:
        writer.fail("is damaged: its decoder needs too much memory")
    except BrokenPipeError:
        raise
    except Exception as error:
        writer.fail(f"its decoder failed: {shortened(f'{type(error).__name__}: {error}')}")


def _decode(path: str, writer: BlockWriter, track: int | None) -> list[Note]:
    try:
        import av
    except ImportError:
        raise AudioError("this kind of file needs PyAV: pip install av") from None
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture(local=False) as log:
        try:
            container = av.open(path, metadata_errors="replace")
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            has_no_index = any(NO_INDEX in text for _, _, text in log) and starts_as_mp4(path)
            raise AudioError(CUT_BEFORE_INDEX if has_no_index else UNREADABLE) from None
        with container:
            stream = sound_stream(container, track)
            hint = tracks_note(container, stream) if track is None else None
            decoding = _Decoding(container, stream, writer, log)
            decoding.run()
            return [*([hint] if hint else []), *decoding.notes()]


class _Output:
    """Samples of a recording; the padding of an encoder after the stated end is dropped.

    Many samples after the stated end show that this end is wrong. They are kept.
    """

    def __init__(self, writer: BlockWriter, info: AudioInfo) -> None:
        self._writer, self._rate, self._stated = writer, info.sample_rate, info.num_frames
        self._surplus: list[NDArray[np.float32]] = []
        self._num_frames = 0
        writer.start(info)

    @property
    def seconds(self) -> float:
        """Length of what was written."""
        return self._num_frames / self._rate

    def write(self, samples: NDArray[np.float32]) -> None:
        """Write samples, [channels, samples]."""
        inside = samples.shape[1]
        if self._stated is not None:
            inside = max(0, min(inside, self._stated - self._num_frames))
        self._num_frames += samples.shape[1]
        self._writer.write(samples[:, :inside])
        if inside < samples.shape[1]:
            self._surplus.append(samples[:, inside:])
            if sum(part.shape[1] for part in self._surplus) > MAX_SURPLUS_FRAMES:
                self._keep_surplus()

    def write_silence(self, seconds: float) -> None:
        """Write zeros."""
        self._keep_surplus()
        num_frames = round(seconds * self._rate)
        self._num_frames += num_frames
        self._writer.write_silence(num_frames)

    def _keep_surplus(self) -> None:
        if self._surplus:
            self._writer.write(np.concatenate(self._surplus, axis=1))
            self._surplus, self._stated = [], None


class _Decoding:
    """Decodes one stream of sound: keeps its time, and goes on after damage."""

    def __init__(self, container: Any, stream: Any, writer: BlockWriter, log: list[Any]) -> None:
        self._container, self._stream, self._writer, self._log = container, stream, writer, log
        stream.thread_type = "NONE"  # the program itself needs the processor
        self._pictures = picture_stream(container, stream)
        self._may_jump = bool(container.format.flags & TIMESTAMPS_MAY_JUMP)
        is_guess = self._may_jump or any(GUESSED_DURATION in text for _, _, text in log)
        self._stated_end = stated_end(container, is_guess=is_guess)
        others = [self._pictures] if self._pictures else container.streams.audio
        starts = [_seconds(each.start_time, each) for each in others if each is not stream]
        # A negative start is the padding of an encoder.
        start = min((max(0.0, each) for each in starts if each is not None), default=None)
        self._timeline = Timeline(start, self._stated_end, may_jump=self._may_jump)
        self._tick = float(stream.time_base)
        self._skipped = skipped_frames(container.name, stream)
        self._output: _Output | None = None
        self._sound_end = self._any_end = -math.inf
        self._num_damaged = self._num_errors = 0
        self._smallest_packet = sys.maxsize
        self._is_cut = self._is_encrypted = self._is_last_corrupt = False
        self._last_error = ""

    def run(self) -> None:
        """Decode all packets.

        Raises:
            AudioError: no sample can be decoded.
        """
        from av.error import FFmpegError

        waiting = None  # the last frame: the time of the next one shows whether its own is right
        for packet in self._packets():
            self._read_log()
            if packet is not None and not self._is_sound(packet):
                continue
            try:
                frames = self._stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except (FFmpegError, ValueError) as error:
                self._is_last_corrupt = False
                self._expect_loss(error)
                continue
            for frame in frames:
                self._num_errors = 0
                if waiting is not None:
                    self._place(waiting, frame)
                waiting = frame
                kept(frame.layout)
        self._read_log()
        if self._is_last_corrupt and self._container.format.name == "wav":
            # FFmpeg calls the last packet of a WAV of unset size so, even if it is whole.
            self._num_damaged -= 1
        if waiting is not None:
            self._place(waiting, None)
        if self._output is None:
            if self._is_encrypted:
                raise AudioError("its sound is encrypted")
            reason = f": {self._last_error}" if self._last_error else ""
            raise AudioError(f"its sound has no samples, or they are all damaged{reason}")
        self._output.write(self._converter.finish())

    def _packets(self) -> Iterator[Any]:
        """All packets of sound, pictures and subtitles, and None at the end."""
        from av.error import FFmpegError

        # The longest stream shows where the file ends.
        kinds = ("audio", "video", "subtitle")
        streams = [stream for stream in self._container.streams if stream.type in kinds]
        while self._num_errors < MAX_ERRORS:
            try:
                for packet in self._container.demux(streams):
                    if packet.size:
                        yield packet
                break
            except MemoryError:
                raise
            except IndexError:  # a packet of a stream that was not there at the start
                continue
            except FFmpegError as error:
                self._num_errors += 1
                self._is_cut = self._is_cut or self._stated_end is None
                self._expect_loss(error, count=0)
        yield None

    def _is_sound(self, packet: Any) -> bool:
        """Take the time of a packet. Whether it belongs to the sound."""
        is_sound = bool(packet.stream_index == self._stream.index)
        start = _seconds(packet.pts if packet.pts is not None else packet.dts, packet)
        if start is not None:
            end = start + (_seconds(packet.duration, packet) or 0.0)
            self._any_end = max(self._any_end, end)
            if is_sound:
                self._sound_end = max(self._sound_end, end)
            elif self._pictures and packet.stream_index == self._pictures.index:
                self._timeline.show_picture(start)
        if is_sound:
            self._is_last_corrupt = packet.is_corrupt and packet.size >= self._smallest_packet
            self._smallest_packet = min(self._smallest_packet, packet.size)
            if packet.is_corrupt:
                self._expect_loss(None)
        return is_sound

    def _expect_loss(self, error: Any, count: int = 1) -> None:
        self._num_damaged += count
        self._timeline.expect_loss(self._output.seconds if self._output else 0.0)
        if error is not None:
            self._last_error = shortened(str(getattr(error, "strerror", None) or error))

    def _read_log(self) -> None:
        """Take FFmpeg's warnings, and forget them: there may be one for each packet."""
        while self._log:
            level, _, text = self._log.pop()
            number = STREAM_NUMBER.search(text)
            if number is None or int(number[1]) == self._stream.index:
                if level <= ERROR:
                    self._expect_loss(None, count=0)
                self._is_cut = self._is_cut or CUT.search(text) is not None
                self._is_encrypted = self._is_encrypted or ENCRYPTED.search(text) is not None

    def _place(self, frame: Any, following: Any) -> None:
        """Write the samples of a frame at their time."""
        position = self._output.seconds if self._output else 0.0
        next_time = None if following is None else self._time(following)
        silence = self._timeline.silence_before(self._time(frame), position, next_time)
        if self._output is None:
            info = describe(self._container, self._stream, frame, self._stated_frames(frame))
            self._converter = FrameConverter(frame)
            self._output = _Output(self._writer, info)
        if silence:
            self._output.write(self._converter.finish())
            self._output.write_silence(silence)
        self._output.write(self._converter.push(frame))

    def _time(self, frame: Any) -> float | None:
        """The timestamp of a frame in seconds."""
        if frame.pts is None:
            return None
        skipped = 0
        if len(self._skipped):
            skipped = int(np.searchsorted(self._skipped, frame.pts, side="right"))
        return float(frame.pts + skipped) * self._tick

    def _stream_end(self) -> float | None:
        """The end of the sound that an MP4 states to the sample."""
        if "mp4" not in self._container.format.name or self._stream.duration is None:
            return None
        return _seconds((self._stream.start_time or 0) + self._stream.duration, self._stream)

    def _stated_frames(self, frame: Any) -> int | None:
        end = self._stream_end()
        return None if end is None else round((end - self._timeline.zero) * frame.sample_rate)

    def notes(self) -> list[Note]:
        """What a listener should know after ``run``."""
        timeline, notes = self._timeline, []
        if timeline.silence_seconds >= GAP_SECONDS:
            seconds = timeline.silence_seconds
            notes.append(Note(f"{seconds:,.1f} s without sound are filled with silence"))
        if timeline.jump_seconds:
            length = f"{timeline.jump_seconds:,.1f} s"
            text = f"its timestamps jump by {length}: the jump is not filled with silence"
            is_damage = not self._may_jump
            notes.append(Note(text, None if is_damage else 0.0, is_damage))
        lost, missing = timeline.lost_seconds, self._missing_seconds()
        if missing != 0.0:
            length = "end is" if missing is None else f"last {missing:,.1f} s are"
            notes.append(Note(f"is cut: its {length} missing", missing, is_damage=True))
        # The last packet before a cut is damaged, too.
        if lost:
            text = f"is damaged: {lost:,.2f} s of its sound cannot be read and are silent"
            notes.append(Note(text, lost, is_damage=True))
        elif self._num_damaged and missing == 0.0:
            text = f"is damaged: packets of its sound are not whole ({self._num_damaged:,})"
            notes.append(Note(text, None, is_damage=True))
        return notes

    def _missing_seconds(self) -> float | None:
        """How much the recording ends before its stated end; None if it is cut somewhere."""
        end, stated, tolerance = self._sound_end, self._stream_end(), CUT_SECONDS
        if stated is None:
            end, stated = self._any_end, self._stated_end
        else:
            tolerance = MAX_SURPLUS_FRAMES / self._stream.codec_context.sample_rate
        if stated is None or end == -math.inf:
            return None if self._is_cut else 0.0
        missing = max(0.0, stated - end)
        if not self._is_cut and missing <= tolerance:
            return 0.0
        return None if is_fragmented(self._container.name) else missing


def _seconds(timestamp: int | None, owner: Any) -> float | None:
    """A timestamp of a stream or packet in seconds."""
    return None if timestamp is None else float(timestamp * owner.time_base)
