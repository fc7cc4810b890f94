"""How many bytes of sound a file with a head has, whatever sizes its head states.

An unset or wrong size is corrected: the sound lasts to the end of the file, or to the chunks at its
end. A size beyond the end of a file whose sizes agree means that the file was cut.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from singleout.audio.ends.headers import MAX_FIELD, RIFF, Head, chunks
from singleout.audio.ends.section import Section
from singleout.audio.ends.tags import tag_bytes
from singleout.audio.info import Note

LONG_BYTES = MAX_FIELD - 8
"""A WAV that is longer cannot state its size."""
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


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def settled(file: BinaryIO, head: Head, size: int) -> tuple[Section, int]:
    """Compare what a head says with its file.

    Args:
        file: the open file.
        head: its head.
        size: its length in bytes.

    Returns:
        The recording, and the position after it.

    Example:
        >>> import io
        >>> head = Head(start=24, stated=200, frame_bytes=2)
        >>> section, end = settled(io.BytesIO(bytes(124)), head, 124)
        >>> section.sound_bytes, section.missing_bytes, end
        (100, 100, 124)
    """
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
        replaced=head.start if corrected else 0,
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
    assert head.chunks is not None
    assert head.stated is not None
    end = head.start + head.stated
    for after in {end, end + -end % head.chunks.align}:
        start = _read(file, after, 32)
        if start.startswith((*TRAILING, *MAGICS)) or tag_bytes(start):
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
    positions = [
        origin + at
        for name in TRAILING
        for at in _all(tail, name)
        if _is_chain(file, head, origin + at, size)
    ]
    return min(positions, default=size) - head.start


def _all(data: bytes, name: bytes) -> list[int]:
    positions, at = [], -1
    while (at := data.find(name, at + 1)) >= 0:
        positions.append(at)
    return positions


def _corrected(file: BinaryIO, head: Head, sound: int) -> bytes:
    """The head with the right sizes."""
    data = bytearray(_read(file, 0, head.start))
    total = head.start + sound
    if data[:4] == b"RIFF" and total > LONG_BYTES:
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
