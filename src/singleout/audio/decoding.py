"""Media that libsndfile cannot read, decoded by FFmpeg (PyAV) in a separate process.

A damaged file can crash FFmpeg. In a separate process the crash is an ordinary error of one
recording. The process writes one line of JSON that describes the recording, then its samples. It
waits while its pipe is full, so that memory does not grow with the length of the recording.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from singleout.audio.info import AudioInfo, Note
from singleout.errors import AudioError

BLOCK_BYTES = 1 << 20
BLOCK_SECONDS = 10
AV_TAGS = {
    "title": "title", "artist": "artist", "album": "album", "date": "date", "comment": "comment",
    "copyright": "copyright", "genre": "genre", "track": "tracknumber",
}  # fmt: skip
"""Names of tags in FFmpeg, and in libsndfile."""
LOSSLESS = ("flac", "alac", "wavpack", "tta", "ape", "truehd", "mlp", "shorten")
"""FFmpeg's names of lossless codecs other than PCM."""
MAX_SURPLUS_FRAMES = 4_096
"""Lossy encoders pad the sound to fill their last frame. An MP4 states where the sound ends."""
DAMAGE = re.compile(r"prematurely|corrupt|truncat|partial file", re.IGNORECASE)
"""Matches FFmpeg's warnings about files that end too early, which it decodes without an error."""
STREAM_NUMBER = re.compile(r"stream\s*=\s*(\d+)")
"""Number of the stream in a warning about one packet."""
PROGRAM = f"from {__name__} import _main; _main()"
"""What the process runs."""
REFUSAL = "refused: "
"""Prefix of a message of ours in the process's error output."""
UNREADABLE = "not media"
SOUNDLESS = "has no sound, only pictures"


class Decoder:
    """Reads a recording that another process decodes. ``close`` ends the process.

    Args:
        path: the media file.
        sndfile_error: why libsndfile cannot read the file, for the message if FFmpeg cannot either.

    Attributes:
        info: describes the recording.
        notes: what a listener should know; complete after the last block.

    Raises:
        AudioError: the file has no sound, is damaged or cannot be decoded.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "noise.wav"
        ...     write_wav(path, np.zeros((2, 1_000), np.float32), 16_000)
        ...     decoder = Decoder(path, "unknown format")
        ...     shape = decoder.read().shape
        ...     decoder.close()
        >>> decoder.info.sample_rate, shape
        (16000, (2, 1000))
    """

    def __init__(self, path: Path, sndfile_error: str) -> None:
        self._path, self._sndfile_error = path, sndfile_error
        self.notes: list[Note] = []
        # Errors go to a file: nobody reads them from a pipe, and a full pipe blocks the process.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # The process imports this package, and no module from the current folder.
        import_path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, os.fspath(path.absolute())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, import_path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C must not reach this process: ``close`` ends it.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._samples = self._process.stdout
        try:
            head = self._samples.readline()
            if not head.endswith(b"\n"):
                raise self._error()
            self.info = AudioInfo(**json.loads(head))
        except BaseException:
            self.close()
            raise
        self._rest = b""

    def read(self) -> NDArray[np.float32]:
        """The next block of samples.

        Returns:
            float32 [channels, samples] of at most 10 s; no samples at the end of the recording.

        Raises:
            AudioError: the decoder failed or died.
        """
        frame_bytes = 4 * self.info.channels
        max_bytes = BLOCK_SECONDS * self.info.sample_rate * frame_bytes
        data = self._rest + self._samples.read(min(BLOCK_BYTES, max_bytes))
        whole = len(data) - len(data) % frame_bytes
        self._rest = data[whole:]
        if not whole and (self._rest or self._process.wait() != 0):
            raise self._error()
        frames = np.frombuffer(data[:whole], np.float32).reshape(-1, self.info.channels)
        return np.ascontiguousarray(frames.T)

    def _error(self) -> AudioError:
        code = self._process.wait()
        self._errors.seek(0)
        message = self._errors.read().decode("utf-8", "replace").strip()
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = f"its decoder died ({name}): the file is damaged"
        elif message.startswith(REFUSAL):
            reason = message.removeprefix(REFUSAL)
        else:
            last_line = message.splitlines()[-1] if message else f"exit code {code}"
            reason = f"its decoder failed: {last_line}"
        if reason == UNREADABLE:
            reason = f"cannot be read as audio, or is damaged: {self._sndfile_error}"
        return AudioError(f"{self._path}: {reason}")

    def close(self) -> None:
        """End the process, even if it has not decoded the whole recording."""
        self._process.kill()
        self._process.wait()
        self._samples.close()
        self._errors.close()


def _main() -> None:
    """Decode the file that the command line names to standard output."""
    samples = sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        decode(sys.argv[1], samples)
        samples.flush()
    except AudioError as error:
        sys.exit(f"{REFUSAL}{error}")
    except BrokenPipeError:
        os._exit(0)  # the reader has stopped


def decode(path: str, samples: BinaryIO) -> None:
    """Decode a media file with FFmpeg.

    Args:
        path: the media file.
        samples: gets one line of JSON with the fields of ``AudioInfo``, then float32 samples,
            frame by frame.

    Raises:
        AudioError: the file cannot be decoded. The message does not name the file.

    Example:
        >>> import io, tempfile
        >>> from singleout.audio import write_wav
        >>> output = io.BytesIO()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/silence.wav"
        ...     write_wav(path, np.zeros((2, 1_000), np.float32), 16_000)
        ...     decode(path, output)
        >>> head, samples = output.getvalue().split(b"\\n", 1)
        >>> json.loads(head)["channels"], len(samples)
        (2, 8000)
    """
    try:
        import av
    except ImportError:
        raise AudioError("this kind of file needs PyAV: pip install av") from None
    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture(local=False) as log:
        try:
            container = av.open(path, metadata_errors="replace")
        except av.error.FFmpegError:
            raise AudioError(UNREADABLE) from None
        with container:
            try:
                stream = _decode(container, samples)
            except av.error.FFmpegError as error:
                raise AudioError(f"is damaged or truncated: {_reason(error)}") from None
        if damage := [text for _, _, text in log if _is_damage(text, stream)]:
            raise AudioError(f"is damaged or truncated: {' '.join(damage[0].split())}")


def _reason(error: Any) -> str:
    return " ".join(str(error.strerror or error).split())


def _is_damage(warning: str, stream: int) -> bool:
    """Whether a warning of FFmpeg is about the sound, and not about the video of the same file."""
    number = STREAM_NUMBER.search(warning)
    return bool(DAMAGE.search(warning)) and (number is None or int(number[1]) == stream)


def _decode(container: Any, samples: BinaryIO) -> int:
    """Decode the best audio stream; its number in the file."""
    from av import AudioResampler

    if not container.streams.audio:
        kinds = {stream.type for stream in container.streams}
        is_text = container.format.name == "tty"
        raise AudioError(SOUNDLESS if "video" in kinds and not is_text else UNREADABLE)
    stream = container.streams.best("audio") or container.streams.audio[0]
    stream.thread_type = "NONE"  # the program itself needs the processor
    resampler: Any = None
    sender: _Sender | None = None
    shape = layout = None
    for frame in container.decode(stream):
        if sender is None:
            sender, layout = _Sender(samples, _info(container, stream, frame)), frame.layout
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
            # Broadcasts may change: all samples are converted to the rate and layout of the first.
            sender.send(resampler.resample(None) if resampler else ())
            resampler = AudioResampler("flt", layout, sender.info.sample_rate)
        sender.send(resampler.resample(frame))
    if resampler is None or sender is None:
        raise AudioError("its sound has no samples, or they are all damaged")
    sender.send(resampler.resample(None))
    sender.refuse_truncated()
    return int(stream.index)


class _Sender:
    """Writes the description of a recording, then its samples.

    A few samples beyond the stated end are padding of the encoder and are dropped. Many samples
    beyond it show that the stated end is wrong, and are kept.
    """

    def __init__(self, samples: BinaryIO, info: AudioInfo) -> None:
        self._samples, self.info = samples, info
        self._num_frames = 0
        self._surplus = b""
        samples.write(json.dumps(asdict(info)).encode() + b"\n")

    def send(self, frames: Iterable[Any]) -> None:
        """Write the samples of FFmpeg's frames."""
        for frame in frames:
            block = frame.to_ndarray().reshape(-1, self.info.channels).astype(np.float32)
            whole = len(block)
            if (stated := self.info.num_frames) is not None:
                whole = min(whole, max(0, stated - self._num_frames))
            self._num_frames += len(block)
            self._samples.write(block[:whole].tobytes())
            self._surplus += block[whole:].tobytes()
            if len(self._surplus) > 4 * self.info.channels * MAX_SURPLUS_FRAMES:
                # More than the last frame of an encoder: the file is longer than it states.
                self._samples.write(self._surplus)
                self._surplus = b""
                self.info = replace(self.info, num_frames=None)

    def refuse_truncated(self) -> None:
        """Raise an error if the recording is shorter than it states."""
        stated = self.info.num_frames
        if stated is not None and self._num_frames < stated - MAX_SURPLUS_FRAMES:
            raise AudioError(
                f"is truncated: {self._num_frames:,} of the {stated:,} samples that it states"
            )


def _info(container: Any, stream: Any, frame: Any) -> AudioInfo:
    """Describe a stream as libsndfile would."""
    name = stream.codec_context.name
    is_lossless = name in LOSSLESS or name.startswith("pcm_")
    bits = 16 if frame.format.name.startswith(("u8", "s16")) else 24
    is_integer = is_lossless and not name.startswith(("pcm_f", "pcm_mulaw", "pcm_alaw"))
    stated = None
    if stream.duration is not None and "mp4" in container.format.name:
        stated = round(stream.duration * stream.time_base * frame.sample_rate)
    tags = {**container.metadata, **stream.metadata}
    return AudioInfo(
        sample_rate=frame.sample_rate,
        channels=len(frame.layout.channels),
        num_frames=stated,
        container=container.format.name,
        subtype=f"PCM_{bits}" if is_integer else "FLOAT",
        tags={AV_TAGS[k.lower()]: v for k, v in tags.items() if k.lower() in AV_TAGS},
    )
