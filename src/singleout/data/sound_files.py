"""Sounds that crops are read from: files in which libsndfile can start at any sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import soundfile

from singleout.audio import sndfile_name
from singleout.audio.chatter import quiet
from singleout.audio.sources import sndfile_reason
from singleout.errors import AudioError

MPEG_SUFFIXES = (".mp3", ".mp2")


def is_mpeg(path: Path) -> bool:
    """Whether the name is that of an MP3, whose decoder writes to the terminal.

    Example:
        >>> is_mpeg(Path("rain.MP3")), is_mpeg(Path("rain.wav"))
        (True, False)
    """
    return path.suffix.lower() in MPEG_SUFFIXES


@contextmanager
def open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a sound for reading at any position.

    Args:
        path: the file.

    Raises:
        AudioError: the file cannot be opened; or libsndfile fails inside the ``with`` block.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     with open_sound(Path(folder, "rain.wav")) as file:
        ...         file.frames
        4000
    """
    try:
        with quiet(is_mpeg(path)), ExitStack() as opened:
            yield opened.enter_context(soundfile.SoundFile(_readable(path, opened)))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: cannot be read as audio: {sndfile_reason(error)}") from None
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as audio: {error}") from None


def _readable(path: Path, opened: ExitStack) -> Any:
    """What libsndfile opens: the name of a file, or the open file where the name misleads it.

    macOS leaves a file ``._x.mp3`` beside ``x.mp3`` on other disks. libsndfile then takes the MP3
    for another format, whose recordings have such a second file.
    """
    if not path.with_name(f"._{path.name}").exists():
        return sndfile_name(path)
    return opened.enter_context(path.open("rb"))
