"""What a corpus publishes: its clips, its counts, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from singleout.corpora.files import CorpusFiles


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip, as the tables of a corpus list it.

    Attributes:
        part: the part of the corpus, by its published name.
        split: ``train``, ``validation`` or ``test``.
        name: what the corpus calls the clip.
        path: its file, relative to the folder of the corpus or absolute; None if there is none.
        group: origin of the recording, such as ``youtube/ID`` or ``freesound/ID``, so that the
            same recording is recognised in another corpus.
        caption: a description.
        alternatives: other descriptions.
        label: its class, as ``family/kind`` where the corpus has families.
        license: of this clip.
        origin: what else identifies the clip.
        left_out: why the clip must not be used; None if it may.

    Example:
        >>> entry = Entry("train", "train", "rain", "train/rain.wav", group="freesound/17")
        >>> entry.group, entry.caption
        ('freesound/17', None)
    """

    part: str
    split: str
    name: str
    path: str | None
    group: str | None = None
    caption: str | None = None
    alternatives: tuple[str, ...] = ()
    label: str | None = None
    license: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    left_out: str | None = None


EntryReader = Callable[[CorpusFiles], Iterable[Entry]]
"""Lists the clips of a corpus, in the order of its tables."""


@dataclass(frozen=True)
class Published:
    """What is known of a corpus before it is read.

    Attributes:
        title: its name.
        source: address where its authors publish it.
        license: of the corpus as a whole.
        entries: reads its tables.
        versions: published number of clips of each part, by version.
        advice: how to get what is missing.

    Example:
        >>> esc50 = Published("ESC-50", "https://…", "CC BY-NC 3.0", lambda files: [])
        >>> esc50.version_of({})
        ''
    """

    title: str
    source: str
    license: str
    entries: EntryReader
    versions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    advice: str = ""

    def version_of(self, listed: Mapping[str, int]) -> str:
        """The version whose counts are nearest to those of the tables."""

        def distance(version: str) -> int:
            counts = self.versions[version]
            return sum(abs(counts[part] - listed.get(part, 0)) for part in counts)

        return min(self.versions, key=distance, default="")


def origin_address(group: str | None) -> str | None:
    """The address of the recording that a clip was cut from.

    Example:
        >>> origin_address("freesound/17")
        'https://freesound.org/s/17/'
        >>> origin_address("rain.wav")
    """
    site, _, name = (group or "").partition("/")
    if site == "youtube":
        return f"https://www.youtube.com/watch?v={name}"
    if site == "freesound":
        return f"https://freesound.org/s/{name}/"
    return None
