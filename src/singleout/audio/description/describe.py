"""What a file says about its recording besides the samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from singleout.audio.channels import Layout
from singleout.audio.description.flac import Blocks, foreign_chunks, is_foreign, read_flac
from singleout.audio.description.iff import aiff_tags, caf_layout, read_aiff
from singleout.audio.description.ogg import read_ogg
from singleout.audio.description.parts import MAX_BYTES, Chunks
from singleout.audio.description.riff import info_tags, read_riff
from singleout.audio.info import AudioInfo, Note

NO_LAYOUT = Layout()


@dataclass(frozen=True)
class Description:
    """What a file says about its recording besides the samples.

    Attributes:
        layout: order of the channels and their loudspeakers.
        riff_chunks, aiff_chunks, flac_blocks: see ``AudioInfo``.
        too_large: names of the chunks that exceed the limit.

    Example:
        >>> Description(Layout(mask=0x33)).completed(AudioInfo(48_000, 4)).channel_mask
        51
    """

    layout: Layout = NO_LAYOUT
    riff_chunks: Chunks = ()
    aiff_chunks: Chunks = ()
    flac_blocks: Blocks = ()
    too_large: tuple[str, ...] = ()

    def completed(self, info: AudioInfo) -> AudioInfo:
        """Add the description to what a decoder knows about a recording."""
        return replace(
            info,
            tags=info.tags or info_tags(self.riff_chunks) or aiff_tags(self.aiff_chunks),
            channel_mask=self.layout.mask or info.channel_mask,
            is_ambisonic=self.layout.is_ambisonic or info.is_ambisonic,
            riff_chunks=self.riff_chunks,
            aiff_chunks=self.aiff_chunks,
            flac_blocks=self.flac_blocks,
        )

    def notes(self, path: Path) -> list[Note]:
        """What a listener should know.

        Args:
            path: of the file.
        """
        if not self.too_large:
            return []
        names, limit = ", ".join(dict.fromkeys(self.too_large)), MAX_BYTES >> 20
        return [Note(f"{path}: descriptions of more than {limit} MiB are left out: {names[:100]}")]


def describe(path: Path) -> Description:
    """Read what a file says about its recording besides the samples.

    Args:
        path: a file of any kind. Of a damaged file, what stands before the damage is read.

    Returns:
        The description; an empty one for files of other kinds than WAV, RF64, BW64, W64, AIFF, CAF,
        FLAC and Ogg.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from singleout.audio.description.riff import info_chunk
        >>> from singleout.audio.wav import WavFile, WavHead
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.wav"
        ...     head = WavHead(AudioInfo(16_000, 1), "PCM_16", info_chunk({"title": "rain"}))
        ...     WavFile(path, head).close()
        ...     describe(path).riff_chunks == info_chunk({"title": "rain"})
        True
    """
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic in (b"RIFF", b"RF64", b"BW64", b"riff"):
            layout, chunks, too_large = read_riff(file)
            return Description(layout, riff_chunks=chunks, too_large=tuple(too_large))
        if magic == b"FORM":
            layout, chunks, too_large = read_aiff(file)
            return Description(layout, aiff_chunks=chunks, too_large=tuple(too_large))
        if magic == b"caff":
            return Description(caf_layout(file))
        if magic in (b"fLaC", b"OggS") or magic[:3] == b"ID3":
            read = read_ogg if magic == b"OggS" else read_flac
            layout, blocks, too_large = read(file)
            foreign, riff_chunks, aiff_chunks = foreign_chunks(blocks)
            return Description(
                replace(layout, is_ambisonic=foreign.is_ambisonic),
                riff_chunks,
                aiff_chunks,
                tuple(each for each in blocks if not is_foreign(*each)),
                tuple(too_large),
            )
    return Description()
