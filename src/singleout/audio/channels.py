"""The order of channels, and the loudspeakers that they belong to.

Inside the program channels are in the order of a WAV: the order of the bits of the channel mask.
Other formats have orders of their own, which libsndfile neither reads nor writes in another order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPEAKERS = {
    "L": 0x1, "R": 0x2, "C": 0x4, "LFE": 0x8, "Rls": 0x10, "Rrs": 0x20, "Lc": 0x40, "Rc": 0x80,
    "Cs": 0x100, "Ls": 0x200, "Rs": 0x400, "Ts": 0x800, "Vhl": 0x1000, "Vhc": 0x2000,
    "Vhr": 0x4000, "Ltb": 0x8000, "Ctb": 0x1_0000, "Rtb": 0x2_0000,
}  # fmt: skip
"""Bit of the channel mask of a WAV by Core Audio's short name of a loudspeaker."""
SIDES, BACKS = SPEAKERS["Ls"] | SPEAKERS["Rs"], SPEAKERS["Rls"] | SPEAKERS["Rrs"]

VORBIS = {
    1: "C", 2: "L R", 3: "L C R", 4: "L R Rls Rrs", 5: "L C R Rls Rrs", 6: "L C R Rls Rrs LFE",
    7: "L C R Ls Rs Cs LFE", 8: "L C R Ls Rs Rls Rrs LFE",
}  # fmt: skip
"""Channels of Vorbis by their number (Vorbis I specification, section 4.3.9), and of Opus with
mapping family 1 (RFC 7845, section 5.1.1.2)."""
FLAC_MASKS = {1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
"""Channel masks of FLAC by number of channels (RFC 9639, section 9.1.3)."""

CORE_AUDIO = {
    100: "C", 101: "L R", 108: "L R Rls Rrs", 109: "L R Rls Rrs C", 110: "L R Rls Rrs C Cs",
    111: "L R Rls Rrs C Cs Ls Rs", 113: "L R C", 114: "C L R", 115: "L R C Cs", 116: "C L R Cs",
    117: "L R C Ls Rs", 118: "L R Ls Rs C", 119: "L C R Ls Rs", 120: "C L R Ls Rs",
    121: "L R C LFE Ls Rs", 122: "L R Ls Rs C LFE", 123: "L C R Ls Rs LFE",
    124: "C L R Ls Rs LFE", 125: "L R C LFE Ls Rs Cs", 126: "L R C LFE Ls Rs Lc Rc",
    127: "C Lc Rc L R Ls Rs LFE", 128: "L R C LFE Ls Rs Rls Rrs", 129: "L R Ls Rs C LFE Lc Rc",
    131: "L R Cs", 132: "L R Ls Rs", 133: "L R LFE", 134: "L R LFE Cs", 135: "L R LFE Ls Rs",
    136: "L R C LFE", 137: "L R C LFE Cs", 138: "L R Ls Rs LFE", 139: "L R Ls Rs C Cs",
    140: "L R Ls Rs C Rls Rrs", 141: "C L R Ls Rs Cs", 142: "C L R Ls Rs Cs LFE",
    143: "C L R Ls Rs Rls Rrs", 144: "C L R Ls Rs Rls Rrs Cs", 148: "L R Ls Rs C Lc Rc",
    149: "C LFE", 150: "L C R", 151: "L C R Cs", 152: "L C R LFE", 153: "L R Cs LFE",
    154: "L C R Cs LFE", 155: "L C R Ls Rs Cs", 156: "L C R Ls Rs Rls Rrs",
    157: "L C R Ls Rs LFE Cs", 160: "L C R Ls Rs LFE Rls Rrs", 161: "L C R Ls Rs LFE Lc Rc",
    185: "L R Rls Rrs", 186: "L R C Rls Rrs", 187: "L R C LFE Rls Rrs", 188: "L R C LFE Cs Ls Rs",
    189: "L R C LFE Rls Rrs Ls Rs",
}  # fmt: skip
"""Channels by the number of a Core Audio layout tag."""
B_FORMAT = 107
"""Number of the Core Audio layout tag of ambisonic B-format."""
LABELS = {
    1: "L", 2: "R", 3: "C", 4: "LFE", 5: "Rls", 6: "Rrs", 7: "Lc", 8: "Rc", 9: "Cs", 10: "Ls",
    11: "Rs", 12: "Ts", 13: "Vhl", 14: "Vhc", 15: "Vhr", 16: "Ltb", 17: "Ctb", 18: "Rtb",
    33: "Rls", 34: "Rrs", 42: "C",
}  # fmt: skip
"""Loudspeakers by Core Audio's channel labels."""


@dataclass(frozen=True)
class Layout:
    """The channels of a file.

    Attributes:
        mask: the loudspeakers as in the header of a WAV; 0 if the file states none.
        is_ambisonic: whether the channels are ambisonic B-format.
        order: the channel of the file for each channel in the order of a WAV; empty if both
            orders are the same.

    Example:
        >>> layout = speaker_layout("L C R")
        >>> layout.mask, layout.order
        (7, (0, 2, 1))
        >>> layout.in_wav_order(np.array([[0.1], [0.2], [0.3]])).ravel().tolist()
        [0.1, 0.3, 0.2]
    """

    mask: int = 0
    is_ambisonic: bool = False
    order: tuple[int, ...] = ()

    def in_wav_order(self, block: NDArray[Any]) -> NDArray[Any]:
        """Put the channels of a block of the file, [channels, samples], into the order of a WAV."""
        return block[list(self.order)] if len(self.order) == len(block) else block

    def in_file_order(self, block: NDArray[Any]) -> NDArray[Any]:
        """Put the channels of a block, [channels, samples], into the order of the file."""
        return block[np.argsort(self.order)] if len(self.order) == len(block) else block


def speaker_layout(speakers: str) -> Layout:
    """The layout of channels that belong to loudspeakers.

    Args:
        speakers: names of ``SPEAKERS`` in the order of the file, separated by spaces.

    Returns:
        The layout; a layout without loudspeakers if two channels have the same one.

    Example:
        >>> speaker_layout("L C R Rls Rrs LFE")
        Layout(mask=63, is_ambisonic=False, order=(0, 2, 1, 5, 3, 4))
    """
    bits = [SPEAKERS[name] for name in speakers.split()]
    if len(set(bits)) < len(bits):
        return Layout()
    order = tuple(sorted(range(len(bits)), key=bits.__getitem__))
    return Layout(sum(bits), order=order if order != tuple(range(len(bits))) else ())


def vorbis_layout(channels: int) -> Layout:
    """The layout of Vorbis, and of Opus with mapping family 1.

    Args:
        channels: their number. Vorbis states no loudspeakers for more than eight.

    Example:
        >>> vorbis_layout(5).order
        (0, 2, 1, 3, 4)
        >>> vorbis_layout(9)
        Layout(mask=0, is_ambisonic=False, order=())
    """
    return speaker_layout(VORBIS.get(channels, ""))


def vorbis_holds(channels: int, mask: int) -> bool:
    """Whether Vorbis has the loudspeakers of a recording.

    A mask of 0 counts as the usual loudspeakers, because Vorbis always states some. Surround
    channels may stand at the sides or at the back: Vorbis makes no difference below 7 channels.

    Example:
        >>> vorbis_holds(6, 0x60F), vorbis_holds(4, 0x107)
        (True, False)
    """
    usual = vorbis_layout(channels).mask
    if channels < 7 and mask & SIDES and not mask & BACKS:
        mask = mask & ~SIDES | BACKS
    return channels <= 2 or mask in (0, usual)


def core_audio_layout(content: bytes, channels: int) -> Layout:
    """The layout that a ``chan`` chunk of a CAF, or a ``CHAN`` chunk of an AIFF, states.

    Args:
        content: of the chunk.
        channels: their number.

    Returns:
        The layout; one without loudspeakers if the chunk does not state one per channel.

    Example:
        >>> core_audio_layout(struct.pack(">III", 123 << 16 | 6, 0, 0), 6).order  # L C R Ls Rs LFE
        (0, 2, 1, 5, 3, 4)
    """
    if len(content) < 12:
        return Layout()
    tag, bitmap, count = struct.unpack(">III", content[:12])
    if tag == 1 << 16:
        return Layout(bitmap) if bitmap.bit_count() == channels else Layout()
    if tag >> 16 == B_FORMAT:
        return Layout(is_ambisonic=channels == 4)
    speakers = CORE_AUDIO.get(tag >> 16, "")
    if tag == 0 and count == channels and len(content) >= 12 + 20 * count:
        labels = struct.unpack(">" + "I16x" * count, content[12 : 12 + 20 * count])
        names = [LABELS.get(label, "") for label in labels]
        if {33, 34} & set(labels):  # the back is taken: label 5 and 6 stand at the sides
            names = [{5: "Ls", 6: "Rs"}.get(k, n) for k, n in zip(labels, names, strict=True)]
        speakers = " ".join(names) if all(names) else ""
    return speaker_layout(speakers) if len(speakers.split()) == channels else Layout()


def core_audio_chunk(channels: int, mask: int, is_ambisonic: bool) -> bytes:
    """The content of a ``CHAN`` chunk.

    Args:
        channels: their number.
        mask: their loudspeakers.
        is_ambisonic: whether the channels are ambisonic B-format.

    Returns:
        The content; empty where the format has no layout for the channels or needs none.

    Example:
        >>> core_audio_layout(core_audio_chunk(4, 0x33, False), 4).mask
        51
        >>> core_audio_chunk(2, 0x3, False)
        b''
    """
    if is_ambisonic and channels == 4:
        return struct.pack(">III", B_FORMAT << 16 | 4, 0, 0)
    usual = {1: 0x4, 2: 0x3}.get(channels, 0)
    if mask in (0, usual) or mask.bit_count() != channels or mask >> 18:
        return b""
    return struct.pack(">III", 1 << 16, mask, 0)
