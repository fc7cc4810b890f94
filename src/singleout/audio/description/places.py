"""What the format of an output file has no place for."""

from __future__ import annotations

from singleout.audio.channels import vorbis_layout
from singleout.audio.description.flac import (
    APPLICATION,
    COMMENTS,
    CUE_SHEET,
    MASK_KEY,
    PICTURE,
    comments,
)
from singleout.audio.description.iff import TEXT_CHUNKS
from singleout.audio.description.riff import INFO_NAMES
from singleout.audio.info import AudioInfo, Note, OutputKind

AIFF_TAGS = (*TEXT_CHUNKS.values(), "software")
BLOCKS = {APPLICATION: "application data", CUE_SHEET: "cue sheet", PICTURE: "picture"}
"""Names of the types of blocks of a FLAC."""
MAX_NAMES = 100
"""Characters of the names in a note."""


def output_notes(name: str, info: AudioInfo, kind: OutputKind) -> list[Note]:
    """What the files of a target cannot say about the recording.

    Args:
        name: of the recording.
        info: the recording.
        kind: of the files.

    Returns:
        At most one note on descriptions without a place, and one on loudspeakers.

    Example:
        >>> info = AudioInfo(48_000, 1, riff_chunks=((b"bext", bytes(602)), (b"cue ", bytes(4))))
        >>> output_notes("dawn.wav", info, OutputKind("aiff", "PCM_24"))[0].text
        'dawn.wav: AIFF has no place for: bext, cue'
        >>> output_notes("dawn.wav", info, OutputKind("flac", "PCM_24"))
        []
    """
    notes = []
    container = kind.container.upper()
    if names := ", ".join(dict.fromkeys(_without_place(info, kind.container))):
        names = names if len(names) <= MAX_NAMES else names[:MAX_NAMES] + "..."
        notes.append(Note(f"{name}: {container} has no place for: {names}"))
    invented = vorbis_layout(info.channels).mask if container == "OGG" else 0
    if info.channels > 2 and invented and not info.channel_mask:
        text = "states no loudspeakers, and Ogg Vorbis states the usual ones"
        notes.append(Note(f"{name}: {text}"))
    return notes


def _without_place(info: AudioInfo, container: str) -> list[str]:
    if container == "flac":
        return []
    names: list[str] = []
    if container != "wav":
        names += [_riff_name(*each) for each in info.riff_chunks if not _is_tag(*each, container)]
    if container != "aiff":
        for chunk, _ in info.aiff_chunks:
            if chunk not in TEXT_CHUNKS and not (container == "wav" and chunk == b"ID3 "):
                names.append(chunk.decode().strip())
    places = {"wav": INFO_NAMES, "aiff": AIFF_TAGS}.get(container, info.tags)
    kept = {text for tag, text in info.tags.items() if tag in places}
    for kind, content in info.flac_blocks:
        if container == "ogg" and kind in (COMMENTS, PICTURE):
            continue
        if kind != COMMENTS:
            names.append(BLOCKS.get(kind, f"block {kind}"))
            continue
        for comment in comments(content):
            key, _, text = comment.decode("utf-8", "replace").partition("=")
            if text not in kept and key.upper() not in (MASK_KEY.decode(), "ENCODER"):
                names.append(key)
    return names


def _is_tag(chunk: bytes, content: bytes, container: str) -> bool:
    """Whether a chunk of a WAV holds tags, which other formats hold as well."""
    is_list = chunk == b"LIST" and content[:4] == b"INFO"
    return is_list or (container == "aiff" and chunk.upper() == b"ID3 ")


def _riff_name(chunk: bytes, content: bytes) -> str:
    kind = content[:4].decode("ascii", "replace") if chunk == b"LIST" else ""
    return f"{chunk.decode()} {kind}".strip()
