"""Where the sound of a file really ends, whatever its head states.

Decoders believe the length in the head of a file. It is unset where a program wrote into a pipe or was
killed, wrong where files were joined, and too large where a file was cut. This module compares it
with the file before a decoder opens it. One rule holds for all formats:

- an unset or wrong length is no damage: the sound is read to the end of the file;
- a length beyond the end of the file means that the file was cut: the sound that is there is read, and
  a note says how many seconds are missing;
- recordings that follow each other in one file are read one after the other.

======================= ============================ ==============================================
format                  where the length stands      if it is unset or wrong
======================= ============================ ==============================================
WAV, RF64, W64, AIFF,   size of the chunk of sound,  libsndfile gets a ``FileView`` with the right
8SVX, CAF, AU, HTK      size of the file             size; chunks after the sound stay out
FLAC                    ``STREAMINFO``               the last frame shows it; a ``FileView`` states it
MP3, MP2                first frame (``Xing``,       a walk over all frames shows it, and FFmpeg reads
                        ``Info``, ``VBRI``)          every MP3 whose count is not right
Ogg (Vorbis, Opus, ...) last page of each link       a walk over all pages shows it; each link is read
NIST, MAT, VOC, XI,     head                         the sound is read to the end of the file
AVR, WVE, MPC2K, SDS
IRCAM, PAF, PVF         nowhere                      only a broken last sample shows a cut
======================= ============================ ==============================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from singleout.audio import flac_frames, mpeg_frames, ogg_pages
from singleout.audio.headers import MAX_FIELD, RIFF, Head, chunks, read_head
from singleout.audio.info import Note
from singleout.audio.views import FileView
from singleout.errors import AudioError

STREAMED_BYTES = 0x7FFF_0000
"""Sizes from here on mean "until the end of the file": programs that write to a pipe state them."""
MAX_TRAILING = 1 << 20
"""Bytes at the end of a file in which chunks are searched where the size of the sound is wrong."""
TRAILING = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"inst", b"fact", b"PEAK",
    b"axml", b"chna", b"guan", b"wamd", b"afsp", b"_PMX", b"DISP", b"acid", b"umid", b"JUNK",
    b"FLLR", b"PAD ", b"minf", b"elm1", b"regn", b"ovwf", b"levl", b"plst", b"MD5 ", b"NAME",
    b"AUTH", b"(c) ", b"ANNO", b"COMT", b"MARK", b"INST", b"MIDI", b"APPL", b"AESD", b"CHAN",
    b"info", b"strg", b"pakt", b"kuki", b"chan", b"free", b"mark", b"edct", b"uuid", b"list",
)  # fmt: skip
"""Names of chunks that may follow the sound."""
MAGICS = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"BW64",
    b"FORM",
    b"caff",
    b"riff\x2e",
    b".snd",
    b"fLaC",
    b"OggS",
)
"""First bytes of recordings that may follow another one."""
MPEG_SUFFIXES = (".mp3", ".mp2", ".mpga", ".mpa", ".m2a", ".bit")
MPEG_SEARCH = 1 << 16
"""An MP3 by any name starts with a frame within this many bytes."""
MAX_PARTS = 10_000


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
    notes: tuple[Note, ...] = field(default=())

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
        while begin < size and (tag := mpeg_frames.tag_bytes(_read(file, begin, 32))):
            begin += tag
        magic = _read(file, begin, 12)
        if magic[:4] == b"OggS" and begin == 0:
            return _ogg(file, size) or [Section(0, size)]
        if magic[:4] == b"fLaC":
            return _flac(file, begin, size)
        if begin == 0 and (found := _headed(path, size)):
            return found
        if path.suffix.lower() in MPEG_SUFFIXES or _starts_as_mpeg(file, begin, size):
            return _mpeg(file, begin, size)
    return [Section(0, size)]


def as_one(found: list[Section], size: int) -> Section:
    """Several recordings in a file as one, for FFmpeg, which reads whole files only.

    Args:
        found: the recordings.
        size: length of the file in bytes.

    Example:
        >>> as_one([Section(0, 5, seconds=1.0), Section(5, 9, seconds=0.5)], 9).seconds
        1.5
    """
    lengths = [section.seconds or 0 for section in found]
    notes = tuple(note for section in found for note in section.notes)
    if not all(lengths):
        note = Note("may not be read whole: several recordings are in it", None, is_damage=True)
        notes = (*notes, note)
    return Section(
        0,
        size,
        reader="ffmpeg",
        kind=found[0].kind,
        seconds=sum(lengths),
        cut_seconds=sum(section.cut_seconds for section in found),
        tolerance=sum(section.tolerance for section in found),
        has_others=True,
        notes=notes[:1],
    )


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


# Files with a head


def _headed(path: Path, size: int) -> list[Section]:
    """The recordings in a file whose head states a length."""
    found: list[Section] = []
    begin = 0
    while begin < size and len(found) < MAX_PARTS:
        with FileView(path, begin, size) as view:
            head = read_head(view, size - begin)
            if head is None:
                break
            if head.start > size - begin and not found:
                raise AudioError(f"{path}: is truncated: it ends within its head")
            section, end = _settled(view, head, size - begin)
            is_followed = _read(view, end, 8).startswith(MAGICS)
        end = min(section.end, end) if is_followed else section.end
        found.append(replace(section, begin=begin, end=begin + end))
        if not is_followed:
            return found
        begin += end
    if found:
        note = Note(
            "is not read whole: a recording of another kind follows in it", None, is_damage=True
        )
        found[-1] = replace(found[-1], notes=(*found[-1].notes, note))
    return found


def _settled(file: BinaryIO, head: Head, size: int) -> tuple[Section, int]:
    """Compare what a head says with the file: the recording, and where it ends in the file."""
    present = size - head.start
    sound, missing, notes = _sound_bytes(file, head, size)
    end = size
    if head.stated is not None and sound == head.stated:
        end = head.start + sound
        end += -end % head.chunks.align if head.chunks else 0
        if head.file_end is not None and end <= head.file_end <= size:
            end = head.file_end
    corrected = _corrected(file, head, sound) if sound != head.stated else b""
    if corrected and head.frame_bytes and head.chunks is None:
        sound -= sound % head.frame_bytes  # a HTK must have whole samples
    if not head.stated and not head.fields and head.frame_bytes and present % head.frame_bytes:
        notes = (*notes, Note("is truncated: its last sample is not whole", None, is_damage=True))
    section = Section(
        begin=0,
        # W64 and 8SVX: libsndfile reads everything up to the end as sound.
        end=head.start + sound if corrected or _reads_on(file) else size,
        head=corrected,
        replaced=len(corrected),
        reader="ffmpeg" if head.needs_ffmpeg else "libsndfile",
        sound_bytes=sound,
        missing_bytes=missing,
        notes=notes,
    )
    return section, end


def _reads_on(file: BinaryIO) -> bool:
    start = _read(file, 0, 20)
    return start.startswith((b"riff", b"Creative")) or start[8:12] in (b"8SVX", b"16SV")


def _sound_bytes(file: BinaryIO, head: Head, size: int) -> tuple[int, int, tuple[Note, ...]]:
    """Bytes of sound that are in the file, bytes that are missing, and notes."""
    start, stated = head.start, head.stated
    present = max(0, size - start)
    if stated is None:
        return present, 0, ()
    streamed = stated == MAX_FIELD or (stated >= STREAMED_BYTES and stated > present)
    if streamed or stated < 0:
        return _up_to_chunks(file, head, size), 0, ()
    if stated > present:
        beyond = stated - present
        if head.file_end == size:  # the other size says that the file is whole
            return _up_to_chunks(file, head, size), 0, ()
        if head.chunks is RIFF and beyond in (start, start - 8):
            # A common mistake: the size of the sound counts the head as well.
            text = f"states {beyond} bytes of sound more than it has, as many as its head"
            return _up_to_chunks(file, head, size), 0, (Note(text),)
        return present, beyond, ()
    rest = present - stated
    if rest <= 1 or head.chunks is None or _goes_on(file, head, size):
        return stated, 0, ()
    sound = _up_to_chunks(file, head, size)
    if not stated or sound <= stated:
        return sound, 0, ()
    text = f"states {stated:,} bytes of sound, but {sound - stated:,} more follow and were read"
    return sound, 0, (Note(text),)


def _goes_on(file: BinaryIO, head: Head, size: int) -> bool:
    """Whether what follows the stated end of the sound is no sound."""
    assert head.chunks is not None and head.stated is not None
    end = head.start + head.stated
    for after in {end, end + -end % head.chunks.align}:
        start = _read(file, after, 32)
        if start.startswith((*TRAILING, *MAGICS)) or mpeg_frames.tag_bytes(start):
            return True
        if head.stated == 0 and not _is_chain(file, head, after, size):
            return False
        if _is_chain(file, head, after, size):
            return True
    file.seek(end)
    while block := file.read(1 << 18):
        if block.strip(b"\0"):
            return False
    return head.stated > 0  # zeros fill up the file


def _is_chain(file: BinaryIO, head: Head, position: int, size: int) -> bool:
    """Whether chunks follow each other from a position to the end of the file."""
    assert head.chunks is not None
    end = position
    for _, content, length in chunks(file, position, size, head.chunks):
        end = content + length
        if not 0 <= length <= size - content:
            return False
    return position < end and size - end <= 1


def _up_to_chunks(file: BinaryIO, head: Head, size: int) -> int:
    """Bytes from the start of the sound to the end of the file or to the chunks at its end."""
    present = max(0, size - head.start)
    if head.chunks is None:
        return present
    origin = max(head.start, size - MAX_TRAILING)
    tail = _read(file, origin, size - origin)
    found = [
        origin + at
        for name in TRAILING
        for at in _all(tail, name)
        if _is_chain(file, head, origin + at, size)
    ]
    return min(found, default=size) - head.start


def _all(data: bytes, name: bytes) -> list[int]:
    found, at = [], -1
    while (at := data.find(name, at + 1)) >= 0:
        found.append(at)
    return found


def _corrected(file: BinaryIO, head: Head, sound: int) -> bytes:
    """The head with the right sizes."""
    data = bytearray(_read(file, 0, head.start))
    total = head.start + sound
    if data[:4] == b"RIFF" and total > MAX_FIELD - 8:
        return _as_rf64(data, head, sound)
    for each in head.fields:
        number = {
            "sound": sound,
            "file": total,
            "frames": sound // head.frame_bytes if head.frame_bytes else 0,
        }[each.unit]
        top = 1 << 8 * struct.calcsize(each.form)
        struct.pack_into(each.form, data, each.position, min(number + each.offset, top - 1))
    return bytes(data)


def _as_rf64(head_bytes: bytearray, head: Head, sound: int) -> bytes:
    """The head of a WAV whose sound is too long for one."""
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, head.start + 36 + sound - 8, sound, 0, 0)
    rest = bytes(head_bytes[12:-4])
    return b"RF64\xff\xff\xff\xffWAVE" + ds64 + rest + b"\xff\xff\xff\xff"


# FLAC, Ogg and MP3


def _flac(file: BinaryIO, begin: int, size: int) -> list[Section]:
    starts = flac_frames.starts(file, begin, size)
    found = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        known = flac_frames.find_end(file, start, end)
        if known is None:
            found.append(Section(start, end, reader="ffmpeg", kind="flac"))
            continue
        info = bytearray(_read(file, start, flac_frames.INFO_BYTES))
        packed = int.from_bytes(info[18:26], "big")
        packed = packed >> 36 << 36 | min(known.num_samples, (1 << 36) - 1)
        info[18:26] = packed.to_bytes(8, "big")
        is_right = known.num_samples == known.stated and not known.is_cut
        notes = ()
        if known.is_cut and not known.stated:
            notes = (Note("is truncated: its last frame is not whole", None, is_damage=True),)
        found.append(
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
    if len(found) == 1 and not found[0].head:
        return [replace(found[0], begin=0, end=size)]
    return found


def _ogg(file: BinaryIO, size: int) -> list[Section]:
    links = ogg_pages.links(file, size)
    is_simple = all(link.codecs in (["vorbis"], ["opus"]) for link in links)
    found = [_link(link, is_simple) for link in links]
    if not found or (len(found) == 1 and is_simple):
        return [replace(section, begin=0, end=size) for section in found]
    if is_simple:
        return found
    # FFmpeg reads the other codecs, all links at once.
    return [as_one(found, size)]


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
    found = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        if (frames := mpeg_frames.walk(file, start, end)) is not None:
            # libsndfile reads tags, and no MP3 that starts with something else.
            is_first = start == begin == frames.begin
            found.append(_mpeg_section(frames, 0 if is_first else frames.begin, end))
    if not found:
        return [Section(0, size)]
    if len(found) == 1 or all(section.reader == "libsndfile" for section in found):
        return found
    return [as_one(found, size)]


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
