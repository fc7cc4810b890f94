"""The corpora that have a reader, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from singleout.corpora.audiocaps import AUDIOCAPS
from singleout.corpora.audioset import AUDIOSET
from singleout.corpora.clotho import CLOTHO
from singleout.corpora.dcase2024 import DCASE2024
from singleout.corpora.entries import Entry, EntryReader, Published
from singleout.corpora.esc50 import ESC50
from singleout.corpora.files import CorpusFiles
from singleout.corpora.folder import folder_entries
from singleout.corpora.fsd50k import FSD50K
from singleout.corpora.huggingface import huggingface_entries
from singleout.corpora.music21 import MUSIC21
from singleout.corpora.urbansound8k import URBANSOUND8K
from singleout.corpora.vggsound import VGGSOUND
from singleout.corpora.wavcaps import WAVCAPS
from singleout.errors import ConfigError, shortened

CORPORA: Mapping[str, Published] = {
    "audiocaps": AUDIOCAPS,
    "audioset": AUDIOSET,
    "clotho": CLOTHO,
    "dcase2024": DCASE2024,
    "esc50": ESC50,
    "fsd50k": FSD50K,
    "music21": MUSIC21,
    "urbansound8k": URBANSOUND8K,
    "vggsound": VGGSOUND,
    "wavcaps": WAVCAPS,
}
"""Published corpora."""
GENERIC = ("folder", "huggingface")
"""Layouts that are no single corpus."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read a corpus.

    Attributes:
        captions: table of captions of the layout ``folder``.
        columns: names of columns, by the key of the manifest, of the layouts ``folder`` and
            ``huggingface``.
        audio: folder for the recordings that Parquet and Arrow files hold.
        class_captions: give a clip without a caption the words of its class as one.

    Example:
        >>> ReadOptions(columns={"caption": "text"}).class_captions
        False
    """

    captions: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    audio: Path | None = None
    class_captions: bool = False


def find_published(name: str, options: ReadOptions) -> Published:
    """What is known of a corpus or layout.

    Raises:
        ConfigError: the name is unknown, or the options do not fit it.

    Example:
        >>> find_published("esc50", ReadOptions()).title
        'ESC-50'
    """
    if name not in (*CORPORA, *GENERIC):
        known = ", ".join((*CORPORA, *GENERIC))
        raise ConfigError(f"the corpus '{shortened(name)}' is unknown: it is one of {known}")
    if options.captions is not None and name != "folder":
        raise ConfigError(f"a table of captions belongs to the layout 'folder', not to '{name}'")
    if options.columns and name not in GENERIC:
        raise ConfigError(f"'{name}' has known columns: names of columns belong to 'folder'")
    if name in CORPORA:
        return CORPORA[name]
    if name == "folder":
        entries = partial(folder_entries, captions=options.captions, columns=options.columns)
        return Published("folder", "", "not stated", entries)
    entries = partial(huggingface_entries, audio=options.audio, columns=options.columns)
    return Published("audio data set of Hugging Face", "", "not stated", _read_once(entries))


def _read_once(entries: EntryReader) -> EntryReader:
    """A reader that remembers what it has read: its tables hold the recordings themselves."""
    listed: list[Entry] = []

    def read(files: CorpusFiles) -> list[Entry]:
        if not listed:
            listed.extend(entries(files))
        return listed

    return read
