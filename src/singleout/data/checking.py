"""The check of a corpus before a run: every sound is read once, and all bad ones are named at once.

A sound is bad if it cannot be read, is cut or damaged, or is silent. Good sounds are remembered in
the cache folder by path, size and time of change, so that a later run reads only new sounds.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock

import numpy as np

from singleout.audio import open_audio
from singleout.audio.silence import SILENT_RMS
from singleout.data.clips import Clip, Clips
from singleout.data.embeddings import cache_folder
from singleout.data.render import SHORT_SECONDS
from singleout.data.sound_files import is_mpeg, open_sound
from singleout.errors import AudioError, OutputError
from singleout.progress import track
from singleout.storage.atomic import replacing

MAX_NAMED = 10
"""Most bad sounds that a message names."""
MAX_REASON = 100
"""Most characters of a reason in a message."""
MAX_THREADS = 8
RULES = 1
"""Raise it when the rules for good sounds change: all sounds are then read again."""
_ONE_MPEG = Lock()
"""The decoder of MP3 reports damage to the standard error output of the process. With several at
once, the report could be that of another file."""


class SoundCheck:
    """Finds the bad sounds of a corpus, so that one message names all of them.

    Attributes:
        reasons: why each bad sound cannot be used, by path.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> from singleout.data.manifest import scan_folder
        >>> noise = np.random.default_rng(0).normal(0, 0.1, (1, 800)).astype(np.float32)
        >>> check = SoundCheck()
        >>> with (
        ...     tempfile.TemporaryDirectory() as folder,
        ...     patch.dict(os.environ, SINGLEOUT_CACHE=folder),
        ... ):
        ...     write_wav(Path(folder) / "rain.wav", noise, 8_000)
        ...     write_wav(Path(folder) / "nothing.wav", 0 * noise, 8_000)
        ...     clips = check.usable(scan_folder(Path(folder), check.add))
        >>> [clip.path.name for clip in clips]
        ['rain.wav']
        >>> list(check.reasons.values())
        ['is silent']
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}
        self._has_good = False

    def add(self, path: Path, reason: str) -> None:
        """Note that a sound cannot be used."""
        self.reasons[path] = reason

    def usable(self, clips: Sequence[Clip]) -> Clips:
        """The clips whose sounds are good. The others are added to ``reasons``.

        A sound that several clips name is read once. The sounds of shards are good: they were
        read when the shards were made.
        """
        clips = Clips.of(clips)
        cache = cache_folder() / "checked_sounds.txt"
        known = _lines(cache)
        is_file = clips.names("shard")[1] < 0
        unknown: dict[str, int] = {}
        for index, (path, seconds) in enumerate(zip(clips.paths(), clips.seconds, strict=True)):
            if is_file[index] and (mark := _mark(Path(path), float(seconds))) not in known:
                unknown[mark] = index
        to_read = clips.take(np.fromiter(unknown.values(), np.int64))
        good = []
        for mark, index, reason in zip(
            unknown, unknown.values(), _bad_reasons(to_read), strict=True
        ):
            if reason is None:
                good.append(f"{mark}\n")
            else:
                self.add(clips[index].path, reason)
        with suppress(OSError):  # without the cache, the next run reads all sounds again
            cache.parent.mkdir(parents=True, exist_ok=True)
            with cache.open("a", encoding="ascii") as file:
                file.write("".join(good))
        if self.reasons:
            is_good = (Path(path) not in self.reasons for path in clips.paths())
            clips = clips.take(np.flatnonzero(np.fromiter(is_good, bool, len(clips))))
        self._has_good |= bool(clips)
        return clips

    def finish(self, skips_bad: bool, list_path: Path | None = None) -> None:
        """Refuse the bad sounds, or warn of them, in one line.

        Args:
            skips_bad: whether the run goes on without bad sounds.
            list_path: gets all bad sounds if the line cannot name them all, one JSON object each.

        Raises:
            AudioError: there are bad sounds, and ``skips_bad`` is False or no sound is good.
            OutputError: the list cannot be written.
        """
        if not self.reasons:
            return
        named = self._named()
        if list_path is not None and len(self.reasons) > MAX_NAMED:
            self._write(list_path)
            named += f" (all of them are listed in {list_path})"
        count = f"{len(self.reasons):,} sound" + "s" * (len(self.reasons) > 1)
        if not self._has_good:
            raise AudioError(f"no sound can be used, {count} are bad: {named}")
        if not skips_bad:
            raise AudioError(
                f"{count} cannot be used: {named}: repair or remove them, or go on without them "
                "with --skip-bad"
            )
        logging.getLogger("singleout").warning("left out %s: %s", count, named)

    def _named(self) -> str:
        """The first bad sounds with their reasons, and the number of the others."""
        some = [f"{path}: {r[:MAX_REASON]}" for path, r in list(self.reasons.items())[:MAX_NAMED]]
        more = len(self.reasons) - MAX_NAMED
        return "; ".join([*some, f"and {more:,} more"] if more > 0 else some)

    def _write(self, path: Path) -> None:
        rows = ({"path": str(sound), "reason": r} for sound, r in self.reasons.items())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _lines(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="ascii", errors="replace").split("\n"))
    except OSError:
        return frozenset()


def file_state(path: Path) -> str:
    """Size and time of change of a file, which tell whether it is still the same.

    Example:
        >>> file_state(Path("no such file"))
        'missing'
    """
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _mark(path: Path, seconds: float) -> str:
    """Identifies a sound in its present state: it changes with the file and with the rules."""
    text = f"{RULES} {seconds!r} {file_state(path)} "
    return sha256(text.encode() + os.fsencode(path.absolute())).hexdigest()[:32]


def _bad_reasons(clips: Sequence[Clip]) -> Iterator[str | None]:
    """Why each clip is bad, None for good ones; in the order of the clips."""
    is_stopped = Event()
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        reasons = pool.map(partial(_bad_reason, is_stopped), clips)
        yield from track(reasons, "reading the sounds", len(clips))
    finally:  # a signal must not wait for sounds that nobody will use
        is_stopped.set()
        pool.shutdown(cancel_futures=True)


def _bad_reason(is_stopped: Event, clip: Clip) -> str | None:
    """Read a whole sound. The result is of no use after ``is_stopped`` is set."""
    try:
        with _ONE_MPEG if is_mpeg(clip.path) else nullcontext():
            return _problem(is_stopped, clip)
    except AudioError as error:
        return str(error).removeprefix(f"{clip.path}: ")


def _problem(is_stopped: Event, clip: Clip) -> str | None:
    loudest, num_frames = 0.0, 0
    with open_audio(clip.path, strict=True) as reader:
        _check_last_crop(clip.path)
        for block in reader.blocks():
            if is_stopped.is_set():
                return None
            num_frames += block.shape[1]
            loudest = max(loudest, float(block.mean(0).std()))  # a constant is silence, too
        seconds = num_frames / reader.info.sample_rate
    if seconds < clip.seconds - SHORT_SECONDS:
        return f"lasts {seconds:.2f} s, but {clip.seconds:.2f} s are stated"
    return None if loudest >= SILENT_RMS else "is silent"


def _check_last_crop(path: Path) -> None:
    """Refuse a file that crops cannot be read from as far as its header says."""
    with open_sound(path) as file:
        file.seek(max(0, file.frames - 1 - round(SHORT_SECONDS * file.samplerate)))
        if not len(file.read(1)):
            raise AudioError(f"{path}: ends before the length that its header states")
