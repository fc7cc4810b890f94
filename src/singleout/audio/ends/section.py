"""A recording in a file: which bytes it has, and how long it should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from singleout.audio.ends.views import FileView
from singleout.audio.info import Note


@dataclass(frozen=True)
class Section:
    """A recording in a file: which bytes it has, and how long it should be.

    Attributes:
        begin, end: its bytes in the file.
        head: bytes in the place of its first ones; empty if they are right.
        replaced: how many bytes of the file ``head`` stands for.
        reader: whether FFmpeg must read it, or libsndfile may.
        kind: of those formats whose frames or pages were walked over; else empty.
        sound_bytes, missing_bytes: bytes of sound in the file, and stated beyond its end.
        num_frames: samples per channel that are in the file; None if not known.
        seconds: length of the sound in the file; None if not known.
        cut_seconds: length of the sound that the file states and that is beyond its end.
        tolerance: seconds that a decoder may leave out.
        has_others: whether an MP3 holds more than frames, which decoders report as damage.
        notes: what is already known of the recording; the texts do not name it.

    Example:
        >>> Section(0, 144, sound_bytes=100, missing_bytes=50).missing_seconds(16_000, 16_000)
        0.5
    """

    begin: int
    end: int
    head: bytes = b""
    replaced: int = 0
    reader: Literal["libsndfile", "ffmpeg"] = "libsndfile"
    kind: Literal["", "flac", "mpeg", "ogg"] = ""
    sound_bytes: int = 0
    missing_bytes: int = 0
    num_frames: int | None = None
    seconds: float | None = None
    cut_seconds: float = 0.0
    tolerance: float = 0.0
    has_others: bool = False
    notes: tuple[Note, ...] = ()

    def missing_seconds(self, num_frames: int, sample_rate: int) -> float:
        """Seconds that the file states and that were not read.

        Args:
            num_frames: samples per channel that were read.
            sample_rate: Hz.
        """
        seconds = num_frames / sample_rate
        missing = self.cut_seconds
        if self.missing_bytes and self.sound_bytes:
            missing += seconds * self.missing_bytes / self.sound_bytes
        if self.seconds is not None and self.seconds - seconds > self.tolerance:
            missing += self.seconds - seconds
        return missing

    def open(self, path: Path) -> FileView:
        """The bytes of the recording, with a head that is right."""
        return FileView(path, self.begin, self.end, self.head, self.replaced)


def as_one(recordings: list[Section], size: int) -> Section:
    """Several recordings in a file as one, for FFmpeg, which reads whole files only.

    Args:
        recordings: the recordings.
        size: length of the file in bytes.

    Example:
        >>> as_one([Section(0, 5, seconds=1.0), Section(5, 9, seconds=0.5)], 9).seconds
        1.5
    """
    lengths = [section.seconds or 0 for section in recordings]
    notes = tuple(note for section in recordings for note in section.notes)
    if not all(lengths):
        note = Note("may not be read whole: several recordings are in it", None, is_damage=True)
        notes = (*notes, note)
    return Section(
        0,
        size,
        reader="ffmpeg",
        kind=recordings[0].kind,
        seconds=sum(lengths),
        cut_seconds=sum(section.cut_seconds for section in recordings),
        tolerance=sum(section.tolerance for section in recordings),
        has_others=True,
        notes=notes[:1],
    )
