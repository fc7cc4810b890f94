"""AudioSet: 10-second segments of YouTube videos, labelled with classes of an ontology.

Facts: https://research.google.com/audioset/download.html (three lists of segments, each with three
lines of comment and ``, `` between its columns) and https://github.com/audioset/ontology (632
classes; restrictions and children). The download page counts 22,176, 2,042,985 and 20,383
segments. The lists have 22,160, 2,041,789 and 20,371, as their second lines state; AudioSet's front
page counts the same 2,084,320. Only these are counted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles
from singleout.corpora.tables import read_columns, read_json, read_table
from singleout.corpora.youtube import parse_seconds, youtube_audio
from singleout.errors import ManifestError, shortened

LISTS = {
    "balanced": ("balanced_train_segments.csv", "train"),
    "unbalanced": ("unbalanced_train_segments.csv", "train"),
    "eval": ("eval_segments.csv", "test"),
}
"""File and split of each part."""


@dataclass
class Ontology:
    """Names, families and depths of the labels.

    Args:
        names: by the id of a label.
        families: name of the label below the root that a label descends from, by its id.
        depths: number of labels above a label, by its id.

    Example:
        >>> bark = Ontology({"/m/1": "Bark"}, {"/m/1": "Domestic animals, pets"}, {"/m/1": 3})
        >>> bark.class_of(["/m/1"])
        'Domestic animals, pets/Bark'
        >>> Ontology().class_of(["/m/2", "/m/1"])
        '/m/1,/m/2'
    """

    names: dict[str, str] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)

    def class_of(self, labels: Sequence[str]) -> str:
        """The class of a clip: its most specific label, as ``family/kind``.

        Of several labels that are equally deep in the ontology, the first by name is taken.
        Without an ontology, the class is the set of the labels.
        """
        if not self.depths:
            return ",".join(sorted(self.named(labels)))
        label = min(labels, key=lambda label: (-self.depths.get(label, -1), self.name(label)))
        family, kind = self.families.get(label), self.name(label)
        return kind if family in (None, kind) else f"{family}/{kind}"

    def named(self, labels: Sequence[str]) -> list[str]:
        """The names of labels."""
        return [self.name(label) for label in labels]

    def name(self, label: str) -> str:
        """The name of a label; its id if the name is unknown."""
        return self.names.get(label, label)


def read_ontology(files: CorpusFiles) -> Ontology:
    """The ontology in the folder of a corpus.

    It is ``ontology.json``. Without this file, ``class_labels_indices.csv`` gives the names, and
    there are no families.

    Raises:
        ManifestError: one of these files is of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "ontology.json").write_text(
        ...         '[{"id": "/m/0", "name": "Animal", "child_ids": ["/m/1"]},'
        ...         ' {"id": "/m/1", "name": "Wild animals", "child_ids": ["/m/2"]},'
        ...         ' {"id": "/m/2", "name": "Roar", "child_ids": []}]'
        ...     )
        ...     read_ontology(CorpusFiles(Path(folder))).class_of(["/m/0", "/m/2"])
        'Wild animals/Roar'
    """
    if not files.has("ontology.json"):
        if not files.has("class_labels_indices.csv"):
            return Ontology()
        rows = read_table(files.table("class_labels_indices.csv"), ["mid", "display_name"])
        return Ontology({row["mid"]: _kind(row["display_name"]) for row in rows})
    path = files.table("ontology.json")
    content = read_json(path)
    try:
        nodes = {node["id"]: node for node in content[:]}  # a list, and no object
        names = {label: _kind(node["name"]) for label, node in nodes.items()}
        children = {label: list(node["child_ids"]) for label, node in nodes.items()}
    except (AttributeError, KeyError, TypeError):
        raise ManifestError(f"{path}: not the ontology of AudioSet") from None
    ontology = Ontology(names)
    below = {child for each in children.values() for child in each}
    level: list[tuple[str, str | None]] = [(root, None) for root in nodes if root not in below]
    depth = 0
    while level:
        following: list[tuple[str, str | None]] = []
        for label, family in level:
            if label in ontology.depths:  # a label may have several parents: the first one counts
                continue
            ontology.depths[label] = depth
            ontology.families[label] = family or ontology.name(label)
            children_of = children.get(label, ())
            following += [(child, family or ontology.name(child)) for child in children_of]
        level, depth = following, depth + 1
    return ontology


def _kind(name: str) -> str:
    """A name as a part of a class: a slash would divide it."""
    return name.replace("/", " or ")


def audioset_labels(files: CorpusFiles) -> dict[str, list[str]]:
    """The labels of every video in the lists of segments that the folder has.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "eval_segments.csv").write_text('abc, 0.000, 10.000, "/m/1"\\n')
        ...     audioset_labels(CorpusFiles(Path(folder)))
        {'abc': ['/m/1']}
    """
    return {
        video: labels.split(",")
        for name, _ in LISTS.values()
        if files.has(name)
        for video, _, _, labels in read_columns(files.table(name), 4, "#")
    }


def audioset_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The segments of the lists that the folder has: balanced, unbalanced, eval.

    Raises:
        ManifestError: the folder has none of the lists, or one is of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "eval_segments.csv").write_text('abc, 0.000, 10.000, "/m/1"\\n')
        ...     [(each.part, each.group) for each in audioset_entries(CorpusFiles(Path(folder)))]
        [('eval', 'youtube/abc')]
    """
    tables = files.tables(*(name for name, _ in LISTS.values()))
    ontology = read_ontology(files)
    for part, (name, split) in LISTS.items():
        if name not in tables:
            continue
        for video, start, end, listed in read_columns(tables[name], 4, "#"):
            labels = listed.split(",")
            try:
                stretch = parse_seconds(start), parse_seconds(end)
            except ValueError:
                times = shortened(f"{start}, {end}")
                raise ManifestError(f"{tables[name]}: not times of a segment: {times}") from None
            yield Entry(
                part,
                split,
                f"{video}_{stretch[0]:g}",
                youtube_audio(files, video, *stretch),
                group=f"youtube/{video}",
                label=ontology.class_of(labels),
                origin={
                    "corpus": "audioset",
                    "youtube_id": video,
                    "start": stretch[0],
                    "labels": ontology.named(labels),
                },
            )


AUDIOSET = Published(
    "AudioSet",
    "https://research.google.com/audioset/download.html",
    "CC BY 4.0 for the labels, CC BY-SA 4.0 for the ontology; the sound is that of YouTube videos",
    audioset_entries,
    {"1": {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}},
    "AudioSet publishes no sound: download the segments from YouTube, or take a copy",
)
