"""Media that libsndfile cannot read, decoded by FFmpeg in a separate process.

A damaged file can crash FFmpeg. In a separate process the crash is an ordinary error of one
recording. The process waits while its pipe is full, so that memory does not grow with the length of
the recording. It ends with this process, even if this process is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from singleout.audio.ffmpeg.blocks import BlockReader
from singleout.audio.ffmpeg.streams import UNREADABLE
from singleout.audio.info import Note
from singleout.errors import AudioError, shortened

T = TypeVar("T")

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy starts no threads in the process. Many threads would need more than its memory."""
PROGRAM = "from singleout.audio.ffmpeg.process import main; main()"
"""What the process runs."""


class Decoder:
    """Reads a recording that another process decodes. ``close`` ends the process.

    Sound keeps its time in a video: gaps and a late start become silence, see ``Timeline``. Where
    packets are damaged, the rest is read.

    Args:
        path: the media file.
        sndfile_error: why libsndfile cannot read the file, for the message if FFmpeg cannot either.
        track: number of the sound track, from 1; None takes the main one.

    Attributes:
        info: describes the recording.
        notes: what a listener should know; complete after the last block.

    Raises:
        AudioError: the file has no sound or no such track, or cannot be decoded.

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

    def __init__(self, path: Path, sndfile_error: str, track: int | None = None) -> None:
        self._path, self._sndfile_error = path, sndfile_error
        self.notes: list[Note] = []
        # The process imports this package, and no module from the current folder.
        import_path = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        arguments = [os.fspath(path.absolute()), "" if track is None else str(track)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, *arguments],
            env={
                **os.environ,
                **ENVIRONMENT,
                "PYTHONPATH": os.pathsep.join(filter(None, import_path)),
            },
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # FFmpeg prints there
            # Ctrl-C must not reach this process: ``close`` ends it.
            start_new_session=True,
        )
        try:
            assert self._process.stdout is not None
            pipe = self._process.stdout
            self._blocks = self._checked(lambda: BlockReader(pipe))
            self.info = self._blocks.info
        except BaseException:
            self.close()
            raise

    def read(self) -> NDArray[np.float32]:
        """The next block of samples.

        Returns:
            float32 [channels, samples] of at most 10 s; no samples at the end of the recording.

        Raises:
            AudioError: the decoder failed or died.
        """
        block = self._checked(self._blocks.read)
        if not block.shape[1]:
            self.notes += [replace(n, text=f"{self._path}: {n.text}") for n in self._blocks.notes]
        return block

    def _checked(self, read: Callable[[], T]) -> T:
        """What a function reads from the process, or the reason why it cannot."""
        try:
            return read()
        except AudioError as error:
            reason = str(error)
        except EOFError:
            reason = self._death()
        except (TypeError, ValueError) as error:
            reason = f"its decoder failed: {shortened(str(error))}"
        if reason == UNREADABLE:
            reason = f"cannot be read as audio, or is damaged: {self._sndfile_error}"
        raise AudioError(f"{self._path}: {reason}")

    def _death(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"its decoder failed: exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its decoder died ({name}): the file is damaged"

    def close(self) -> None:
        """End the process, even if it has not decoded the whole recording."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
