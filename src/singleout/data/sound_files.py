"""Sounds that crops are read from: files and members of shards that can start at any sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio import SOUND_SUFFIXES, open_audio, sndfile_name
from singleout.audio.chatter import quiet
from singleout.audio.sources import UNKNOWN_FRAMES, sndfile_reason
from singleout.data.clips import Clip, Member
from singleout.data.manifest_rows import MAX_SECONDS
from singleout.data.members import AGAIN, member_file, open_pcm
from singleout.errors import AudioError

MAX_RATE = 10_000_000
"""Hz. A header that states a higher rate is damaged."""
MPEG_SUFFIXES = (".mp3", ".mp2")


class Sound(Protocol):
    """A sound that is open for reading, as ``soundfile.SoundFile`` is.

    Attributes:
        frames: samples per channel.
        samplerate: Hz.
    """

    frames: int
    samplerate: int

    def seek(self, frames: int) -> int:
        """Go to a sample."""

    def read(self, frames: int, dtype: str, always_2d: bool) -> NDArray[np.float32]:
        """Read samples, [samples, channels]."""


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
    with _audio_errors(path), ExitStack() as opened:
        yield opened.enter_context(soundfile.SoundFile(_readable(path, opened)))


def stated_seconds(path: Path) -> float:
    """The length of a recording, as its file states it.

    Args:
        path: the file. libsndfile reads the header; FFmpeg reads that of other media.

    Raises:
        AudioError: the file cannot be read, states no length, or has no samples.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     stated_seconds(Path(folder, "rain.wav"))
        0.5
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # such as a pipe, which nobody may ever write
            raise AudioError(f"{path}: is not a regular file")
        if not status.st_size:
            raise AudioError(f"{path}: is empty (0 bytes)")
        if path.suffix.lower() in SOUND_SUFFIXES:
            with open_sound(path) as file:
                seconds = float(file.frames / file.samplerate)
        else:
            with open_audio(path) as reader:
                seconds = (reader.info.num_frames or 0) / reader.info.sample_rate
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not 0 < seconds <= MAX_SECONDS:
        raise AudioError(f"{path}: has no samples, or does not state its length")
    return seconds


@contextmanager
def open_clip(clip: Clip) -> Iterator[Sound]:
    """Open the sound of a clip, a file or a member of a shard, for reading at any position.

    Args:
        clip: the sound.

    Raises:
        AudioError: the sound cannot be opened, or is not the one that the index of the shards
            describes; or reading fails inside the ``with`` block.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rain.wav")
        ...     soundfile.write(path, np.zeros(4_000), 8_000)
        ...     member = Member(str(path), 0, path.stat().st_size, 8_000, 4_000)
        ...     clip = Clip(path / "rain.wav", 0.5, None, (), "rain", "rain", "train", True, member)
        ...     with open_clip(clip) as sound:
        ...         sound.read(3, "float32", always_2d=True).shape
        (3, 1)
    """
    if clip.member is None:
        with open_sound(clip.path) as file:
            yield file
        return
    if (pcm := open_pcm(clip.member)) is not None:
        _check_described(clip, clip.member, pcm)
        yield pcm
        return
    with _audio_errors(clip.path, f": {AGAIN}"), ExitStack() as opened:
        content = opened.enter_context(member_file(clip.member))
        sound = opened.enter_context(soundfile.SoundFile(content))
        _check_described(clip, clip.member, sound)
        yield sound


def described(member: Member, name: str) -> tuple[int, int]:
    """Sample rate in Hz and samples per channel of a member, as its header states them.

    Args:
        member: the place in the shard. Its rate and length are not used.
        name: of the member.

    Raises:
        AudioError: the member cannot be read as audio, has no samples, or an impossible rate.

    Example:
        >>> described(Member(__file__, 0, 100, 0, 0), "rain.wav")
        Traceback (most recent call last):
        singleout.errors.AudioError: rain.wav: cannot be read as audio: Format not recognised
    """
    with _audio_errors(Path(name)), ExitStack() as opened:
        sound: Sound | None = open_pcm(member)
        if sound is None:
            content = opened.enter_context(member_file(member))
            sound = opened.enter_context(soundfile.SoundFile(content))
        rate, frames = int(sound.samplerate), int(sound.frames)
    if not 0 < frames < UNKNOWN_FRAMES:
        raise AudioError(f"{name}: has no samples, or does not state how many")
    if not 0 < rate <= MAX_RATE:
        raise AudioError(f"{name}: its header states an impossible rate: {rate:,} Hz")
    return rate, frames


def _check_described(clip: Clip, member: Member, sound: Sound) -> None:
    """Refuse a member that is not the one that the index describes."""
    if (sound.samplerate, sound.frames) != (member.sample_rate, member.num_samples):
        raise AudioError(
            f"{clip.path}: has {sound.frames:,} samples at {sound.samplerate:,} Hz, but the index "
            f"says {member.num_samples:,} at {member.sample_rate:,} Hz: the shard is another one "
            "now: make the index again"
        )


@contextmanager
def _audio_errors(path: Path, way_out: str = "") -> Iterator[None]:
    """Turn errors of libsndfile and of the disk into one line that names the sound."""
    try:
        with quiet(is_mpeg(path)):
            yield
    except soundfile.LibsndfileError as error:
        reason = sndfile_reason(error)
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(error)
    else:
        return
    raise AudioError(f"{path}: cannot be read as audio: {reason}{way_out}")


def _readable(path: Path, opened: ExitStack) -> Any:
    """What libsndfile opens: the name of a file, or the open file where the name misleads it.

    macOS leaves a file ``._x.mp3`` beside ``x.mp3`` on other disks. libsndfile then takes the MP3
    for another format, whose recordings have such a second file.
    """
    if not path.with_name(f"._{path.name}").exists():
        return sndfile_name(path)
    return opened.enter_context(path.open("rb"))
