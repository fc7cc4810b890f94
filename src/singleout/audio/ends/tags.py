"""Tags that stand before, between and after the frames of an MP3, and at the ends of other files.

Source: id3.org, and the specification of APEv2.
"""

from __future__ import annotations


def tag_bytes(head: bytes) -> int:
    """Length of the tag that starts with some bytes; 0 if they are no tag.

    Args:
        head: at least 32 bytes, or all up to the end of the file.

    Example:
        >>> tag_bytes(b"ID3" + bytes([4, 0, 0, 0, 0, 2, 1]))
        267
        >>> tag_bytes(b"RIFF")
        0
    """
    if head[:3] == b"ID3" and len(head) >= 10 and all(byte < 0x80 for byte in head[6:10]):
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return length + (20 if head[5] & 0x10 else 10)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 0
