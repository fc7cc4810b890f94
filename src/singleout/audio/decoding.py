"""Media that libsndfile cannot read, decoded by FFmpeg (PyAV) in a process of its own.

Decoders of a hundred formats are where programs die of damaged files. This one may: its process
sends one line of JSON about the recording, then samples, and the recording that killed it is one
error among others. Its pipe holds little, so it decodes no faster than is read.
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

from singleout.audio.info import AudioInfo
from singleout.errors import AudioError

BLOCK_BYTES = 1 << 20
BLOCK_SECONDS = 10
AV_TAGS = {
    "title": "title", "artist": "artist", "album": "album", "date": "date", "comment": "comment",
    "copyright": "copyright", "genre": "genre", "track": "tracknumber",
}  # fmt: skip
"""FFmpeg's names of tags and libsndfile's."""
LOSSLESS = ("flac", "alac", "wavpack", "tta", "ape", "truehd", "mlp", "shorten")
MAX_SURPLUS_FRAMES = 4_096
"""Lossy encoders fill their last frame; an MP4 says where the sound really ends."""
DAMAGE = re.compile(r"prematurely|corrupt|truncat|partial file", re.IGNORECASE)
"""In FFmpeg's warnings, of files that end early and are decoded without an error."""
OF_STREAM = re.compile(r"stream\s*=\s*(\d+)")
"""In those that are about one packet."""
PROGRAM = f"from {__name__} import main; main()"
REFUSAL = "refused: "
UNREADABLE = "not media"
SOUNDLESS = "has no sound, only pictures"


class Decoder:
    """A recording that another process decodes.

    Args:
        path: of the media file.
        otherwise: why libsndfile cannot read it, for the message when nobody can.

    Raises:
        AudioError: it has no sound, or cannot be decoded either.
    """

    def __init__(self, path: Path, otherwise: str) -> None:
        self._path, self._otherwise = path, otherwise
        # A file, for a pipe that nobody empties would block the process.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        # This very package, and nothing that happens to lie in the current folder.
        found_at = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, os.fspath(path.absolute())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found_at))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            # Ctrl-C is for the program: it ends this process, too.
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
        """The next samples, float32 [channels, samples]; none at the end.

        Raises:
            AudioError: the decoder failed or died.
        """
        frame_bytes = 4 * self.info.channels
        most = BLOCK_SECONDS * self.info.sample_rate * frame_bytes
        data = self._rest + self._samples.read(min(BLOCK_BYTES, most))
        whole = len(data) - len(data) % frame_bytes
        self._rest = data[whole:]
        if not whole and (self._rest or self._process.wait() != 0):
            raise self._error()
        frames = np.frombuffer(data[:whole], np.float32).reshape(-1, self.info.channels)
        return np.ascontiguousarray(frames.T)

    def _error(self) -> AudioError:
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip()
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = f"its decoder died ({name}): the file is damaged"
        elif said.startswith(REFUSAL):
            reason = said.removeprefix(REFUSAL)
        else:
            last = said.splitlines()[-1] if said else f"exit code {code}"
            reason = f"its decoder failed: {last}"
        if reason == UNREADABLE:
            reason = f"cannot be read as audio, or is damaged: {self._otherwise}"
        return AudioError(f"{self._path}: {reason}")

    def close(self) -> None:
        """End the process, wherever it is."""
        self._process.kill()
        self._process.wait()
        self._samples.close()
        self._said.close()


def main() -> None:
    """The process: decode the file that the command line names to standard output."""
    samples = sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        decode(sys.argv[1], samples)
        samples.flush()
    except AudioError as error:
        sys.exit(f"{REFUSAL}{error}")
    except BrokenPipeError:
        os._exit(0)  # nobody reads on


def decode(path: str, samples: BinaryIO) -> None:
    """One line of JSON, the fields of ``AudioInfo``; then float32 samples, frame by frame.

    Raises:
        AudioError: the reason alone; the other side knows the file.
    """
    try:
        import av
    except ImportError:
        raise AudioError("this kind of file needs PyAV: pip install av") from None
    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture(local=False) as said:
        try:
            container = av.open(path, metadata_errors="replace")
        except av.error.FFmpegError:
            raise AudioError(UNREADABLE) from None
        with container:
            try:
                heard = _decode(container, samples)
            except av.error.FFmpegError as error:
                raise AudioError(f"is damaged or truncated: {_reason(error)}") from None
        if damage := [text for _, _, text in said if _is_damage(text, heard)]:
            raise AudioError(f"is damaged or truncated: {' '.join(damage[0].split())}")


def _reason(error: Any) -> str:
    return " ".join(str(error.strerror or error).split())


def _is_damage(said: str, stream: int) -> bool:
    """Whether a warning of FFmpeg's is about the sound, and not about a picture beside it."""
    about = OF_STREAM.search(said)
    return bool(DAMAGE.search(said)) and (about is None or int(about[1]) == stream)


def _decode(container: Any, samples: BinaryIO) -> int:
    """Gives the number of the stream that was decoded."""
    from av import AudioResampler

    if not container.streams.audio:
        kinds = {stream.type for stream in container.streams}
        is_text = container.format.name == "tty"
        raise AudioError(SOUNDLESS if "video" in kinds and not is_text else UNREADABLE)
    stream = container.streams.best("audio") or container.streams.audio[0]
    stream.thread_type = "NONE"  # the other side computes
    resampler: Any = None
    sender: _Sender | None = None
    shape = layout = None
    for frame in container.decode(stream):
        if sender is None:
            sender, layout = _Sender(samples, _info(container, stream, frame)), frame.layout
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
            # The whole recording in the shape of its first frame, should it change on the way.
            sender.send(resampler.resample(None) if resampler else ())
            resampler = AudioResampler("flt", layout, sender.info.sample_rate)
        sender.send(resampler.resample(frame))
    if resampler is None or sender is None:
        raise AudioError("its sound has no samples, or they are all damaged")
    sender.send(resampler.resample(None))
    sender.refuse_truncated()
    return int(stream.index)


class _Sender:
    """What it is, then its samples, without a little that lies beyond the end that it states."""

    def __init__(self, samples: BinaryIO, info: AudioInfo) -> None:
        self._samples, self.info = samples, info
        self._num_frames = 0
        self._beyond = b""
        samples.write(json.dumps(asdict(info)).encode() + b"\n")

    def send(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            block = frame.to_ndarray().reshape(-1, self.info.channels).astype(np.float32)
            whole = len(block)
            if (stated := self.info.num_frames) is not None:
                whole = min(whole, max(0, stated - self._num_frames))
            self._num_frames += len(block)
            self._samples.write(block[:whole].tobytes())
            self._beyond += block[whole:].tobytes()
            if len(self._beyond) > 4 * self.info.channels * MAX_SURPLUS_FRAMES:
                # More than an encoder's last frame: the file is longer than it states.
                self._samples.write(self._beyond)
                self._beyond = b""
                self.info = replace(self.info, num_frames=None)

    def refuse_truncated(self) -> None:
        stated = self.info.num_frames
        if stated is not None and self._num_frames < stated - MAX_SURPLUS_FRAMES:
            raise AudioError(
                f"is truncated: {self._num_frames:,} of the {stated:,} samples that it states"
            )


def _info(container: Any, stream: Any, frame: Any) -> AudioInfo:
    """As ``AudioInfo`` of a recording that libsndfile reads."""
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
