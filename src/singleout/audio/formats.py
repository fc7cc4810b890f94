"""Which files are recordings, by name and, where names mislead, by their first bytes."""

from __future__ import annotations

from pathlib import Path

from singleout.audio.info import MEDIA_SUFFIXES

SHARED_SUFFIXES = (".ts", ".mod", ".dat", ".iff")
"""Suffixes of recordings and of other files, for example MPEG streams and TypeScript."""
SIGNATURES = (
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (8, b"CDXA"),  # MPEG program stream of a video CD
    (8, b"8SVX"),  # sound in an IFF file; most IFF files are pictures
    (8, b"16SV"),
)
"""Places and bytes. One of them is in the first bytes of a recording with a shared suffix."""
TS_PACKET_BYTES = 188
TS_SYNC = ord("G")
"""First byte of each packet of an MPEG transport stream."""


def is_media(path: Path) -> bool:
    """Whether a file is a recording, as far as its name and its first bytes show.

    A suffix in ``MEDIA_SUFFIXES`` is enough. A file with a suffix that other kinds of files share
    (``.ts``, ``.mod``, ``.dat``, ``.iff``) must start as a recording does.

    Args:
        path: the file. Only a file with a shared suffix is opened.

    Returns:
        True for a recording; False also if the file cannot be opened.

    Example:
        >>> is_media(Path("Rain.WAV")), is_media(Path("rain.txt"))
        (True, False)
    """
    suffix = path.suffix.lower()
    if suffix not in SHARED_SUFFIXES:
        return suffix in MEDIA_SUFFIXES
    try:
        with path.open("rb") as file:
            head = file.read(TS_PACKET_BYTES + 1)
    except (OSError, ValueError):
        return False
    is_transport_stream = len(head) > TS_PACKET_BYTES and head[0] == head[-1] == TS_SYNC
    return is_transport_stream or any(
        head[start : start + len(text)] == text for start, text in SIGNATURES
    )
