"""Where the sound of a file really ends, whatever its head states.

Decoders believe the length in the head of a file. It is unset where a program wrote into a pipe or
was killed, wrong where files were joined, and too large where a file was cut. This module compares
it with the file before a decoder opens it. One rule holds for all formats:

- an unset or wrong length is no damage: the sound is read to the end of the file;
- a length beyond the end of the file means that the file was cut: the rest is read, and a note
  says how many seconds are missing;
- recordings that follow each other in one file are read one after the other.

======================= =========================== ===========================================
format                  where the length stands     if it is unset or wrong
======================= =========================== ===========================================
WAV, RF64, W64, AIFF,   size of the chunk of sound, libsndfile gets a ``FileView`` with the
8SVX, CAF, AU, HTK      size of the file            right size, without chunks after the sound
FLAC                    ``STREAMINFO``              the last frame shows the length, and a
                                                    ``FileView`` states it
MP3, MP2                first frame (``Xing``,      a walk over all frames shows the length;
                        ``Info``, ``VBRI``)         FFmpeg reads MP3s whose count is not right
Ogg (Vorbis, Opus, ...) last page of each link      a walk over all pages shows the length
NIST, MAT, VOC, XI,     head                        the sound is read to the end of the file
AVR, WVE, MPC2K, SDS
IRCAM, PAF, PVF         nowhere                     only a broken last sample shows a cut
======================= =========================== ===========================================
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from singleout.audio.ends import flac_frames, mpeg_frames, ogg_pages
from singleout.audio.ends.headers import read_head
from singleout.audio.ends.section import Section, as_one
from singleout.audio.ends.sizes import MAGICS, settled
from singleout.audio.ends.tags import tag_bytes
from singleout.audio.ends.views import FileView
from singleout.audio.info import Note
from singleout.errors import AudioError

MPEG_SUFFIXES = (".mp3", ".mp2", ".mpga", ".mpa", ".m2a", ".bit")
MPEG_SEARCH = 1 << 16
"""An MP3 by any name starts with a frame within this many bytes."""
MAX_PARTS = 10_000


def sections(path: Path, size: int) -> list[Section]:
    """List the recordings that follow each other in a file. Most files hold one.

    Args:
        path: the file.
        size: its length in bytes.

    Raises:
        AudioError: the file ends before its sound starts.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "silence.wav"
        ...     write_wav(path, np.zeros((1, 8_000), np.float32), 16_000)
        ...     _ = path.write_bytes(path.read_bytes()[:-8_000])  # a cut file
        ...     [section] = sections(path, path.stat().st_size)
        >>> section.missing_bytes
        8000
    """
    with path.open("rb") as file:
        begin = 0
        while begin < size and (tag := tag_bytes(_read(file, begin, 32))):
            begin += tag
        magic = _read(file, begin, 12)
        if magic[:4] == b"OggS" and begin == 0:
            return _ogg(file, size) or [Section(0, size)]
        if magic[:4] == b"fLaC":
            return _flac(file, begin, size)
        if begin == 0 and (listed := _headed(path, size)):
            return listed
        if path.suffix.lower() in MPEG_SUFFIXES or _starts_as_mpeg(file, begin, size):
            return _mpeg(file, begin, size)
    return [Section(0, size)]


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _headed(path: Path, size: int) -> list[Section]:
    """The recordings in a file whose head states a length."""
    listed: list[Section] = []
    begin = 0
    while begin < size and len(listed) < MAX_PARTS:
        with io.BufferedReader(FileView(path, begin, size)) as view:
            head = read_head(view, size - begin)
            if head is None:
                break
            if head.start > size - begin and not listed:
                raise AudioError(f"{path}: is truncated: it ends within its head")
            section, end = settled(view, head, size - begin)
            is_followed = _read(view, end, 8).startswith(MAGICS)
        end = min(section.end, end) if is_followed else section.end
        listed.append(replace(section, begin=begin, end=begin + end))
        if not is_followed:
            return listed
        begin += end
    if listed:
        note = Note(
            "is not read whole: a recording of another kind follows in it", None, is_damage=True
        )
        listed[-1] = replace(listed[-1], notes=(*listed[-1].notes, note))
    return listed


# FLAC, Ogg and MP3


def _flac(file: BinaryIO, begin: int, size: int) -> list[Section]:
    starts = flac_frames.starts(file, begin, size)
    listed = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        known = flac_frames.find_end(file, start, end)
        if known is None:
            listed.append(Section(start, end, reader="ffmpeg", kind="flac"))
            continue
        info = bytearray(_read(file, start, flac_frames.INFO_BYTES))
        packed = int.from_bytes(info[18:26], "big")
        packed = packed >> 36 << 36 | min(known.num_samples, (1 << 36) - 1)
        info[18:26] = packed.to_bytes(8, "big")
        is_right = known.num_samples == known.stated and not known.is_cut
        notes: tuple[Note, ...] = ()
        if known.is_cut and not known.stated:
            notes = (Note("is truncated: its last frame is not whole", None, is_damage=True),)
        listed.append(
            Section(
                begin=start,
                end=known.end,
                head=b"" if is_right else bytes(info),
                replaced=0 if is_right else len(info),
                kind="flac",
                num_frames=known.num_samples,
                seconds=known.num_samples / known.sample_rate,
                cut_seconds=max(0, known.stated - known.num_samples) / known.sample_rate,
                notes=notes,
            )
        )
    if len(listed) == 1 and not listed[0].head:
        return [replace(listed[0], begin=0, end=size)]
    return listed


def _ogg(file: BinaryIO, size: int) -> list[Section]:
    links = ogg_pages.links(file, size)
    is_simple = all(link.codecs in (["vorbis"], ["opus"]) for link in links)
    listed = [_link(link, is_simple) for link in links]
    if not listed or (len(listed) == 1 and is_simple):
        return [replace(section, begin=0, end=size) for section in listed]
    if is_simple:
        return listed
    # FFmpeg reads the other codecs, all links at once.
    return [as_one(listed, size)]


def _link(link: ogg_pages.OggLink, is_simple: bool) -> Section:
    notes: tuple[Note, ...] = ()
    stated = link.stated_samples
    if stated is None and not link.has_end:
        notes = (Note("is truncated: its last page is missing", None, is_damage=True),)
    elif link.lost_pages:
        notes = (
            Note(f"is damaged: {link.lost_pages} of its pages are missing", None, is_damage=True),
        )
    return Section(
        begin=link.begin,
        end=link.end,
        reader="libsndfile" if is_simple else "ffmpeg",
        kind="ogg",
        seconds=link.seconds or None,
        cut_seconds=(stated - link.num_samples) / link.sample_rate if stated else 0.0,
        tolerance=0.1,
        notes=notes,
    )


def _starts_as_mpeg(file: BinaryIO, begin: int, size: int) -> bool:
    first = mpeg_frames.first_frame(file, begin, min(size, begin + MPEG_SEARCH))
    return first is not None and (begin > 0 or first == begin)


def _mpeg(file: BinaryIO, begin: int, size: int) -> list[Section]:
    starts = mpeg_frames.starts(file, begin, size)
    listed = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        if (frames := mpeg_frames.walk(file, start, end)) is not None:
            # libsndfile reads tags, and no MP3 that starts with something else.
            is_first = start == begin == frames.begin
            listed.append(_mpeg_section(frames, 0 if is_first else frames.begin, end))
    if not listed:
        return [Section(0, size)]
    if len(listed) == 1 or all(section.reader == "libsndfile" for section in listed):
        return listed
    return [as_one(listed, size)]


def _mpeg_section(frames: mpeg_frames.MpegFrames, begin: int, end: int) -> Section:
    is_right = frames.is_xing and frames.stated_frames == frames.num_frames
    is_plain = is_right and frames.is_uniform and not frames.foreign_bytes and frames.layer == 3
    seconds = frames.seconds
    per_frame = frames.num_samples / max(1, frames.num_frames) / frames.sample_rate
    notes: tuple[Note, ...] = ()
    if frames.foreign_bytes:
        text = f"is damaged: {frames.foreign_bytes:,} bytes between its frames are no sound"
        notes = (Note(text, None, is_damage=True),)
    elif frames.is_cut and not frames.missing_frames:
        notes = (Note("is truncated: its last frame is not whole", None, is_damage=True),)
    return Section(
        begin=begin,
        end=end,
        reader="libsndfile" if is_plain or frames.is_free else "ffmpeg",
        kind="mpeg",
        num_frames=round(seconds * frames.sample_rate),
        seconds=seconds,
        cut_seconds=frames.missing_frames * per_frame,
        has_others=frames.has_others,
        tolerance=4 * per_frame,
        notes=notes,
    )
