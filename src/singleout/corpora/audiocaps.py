"""AudioCaps 1.0 and 2.0: captions for segments of AudioSet.

Facts: https://github.com/cdjkim/audiocaps (``dataset/*.csv`` of 1.0, with Windows line ends;
``dataset2.0/*.csv`` of 2.0). A clip of the training set has one caption, others have five lines of
one caption each. The README of 2.0 counts captions (2,475 and 4,875), which are 495 and 975 clips.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.audioset import audioset_labels, read_ontology
from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles
from singleout.corpora.tables import read_table
from singleout.corpora.youtube import parse_seconds, youtube_audio
from singleout.errors import ManifestError, shortened

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def audiocaps_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of ``train.csv``, ``val.csv`` and ``test.csv``.

    If the folder has lists of segments of AudioSet, a clip has the class that its labels give.

    Raises:
        ManifestError: a table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in SPLITS:
        ...         _ = Path(folder, f"{name}.csv").write_text(
        ...             "audiocap_id,youtube_id,start_time,caption\\n1,abc,30,A dog barks\\n"
        ...         )
        ...     [each.caption for each in audiocaps_entries(CorpusFiles(Path(folder)))]
        ['A dog barks', 'A dog barks', 'A dog barks']
    """
    tables = {part: files.table(f"{part}.csv") for part in SPLITS}
    labels, ontology = audioset_labels(files), read_ontology(files)
    for part, split in SPLITS.items():
        captions: dict[tuple[str, str], list[str]] = {}
        for row in read_table(tables[part], ["youtube_id", "start_time", "caption"]):
            key = row["youtube_id"], row["start_time"]
            captions.setdefault(key, []).append(row["caption"].strip())
        for (video, start), texts in captions.items():
            try:
                seconds = parse_seconds(start)
            except ValueError:
                raise ManifestError(
                    f"{tables[part]}: the start_time of {shortened(video)} is {shortened(start)}"
                ) from None
            yield Entry(
                part,
                split,
                f"{video}_{start}",
                youtube_audio(files, video, seconds, seconds + 10),
                group=f"youtube/{video}",
                caption=texts[0],
                alternatives=tuple(texts[1:]),
                label=ontology.class_of(labels[video]) if video in labels else None,
                license="of the video's owner",
                origin={"corpus": "audiocaps", "youtube_id": video, "start_time": start},
            )


AUDIOCAPS = Published(
    "AudioCaps",
    "https://github.com/cdjkim/audiocaps",
    "MIT for the tables (academic use, by its README); the sound is that of YouTube videos",
    audiocaps_entries,
    {
        "1.0": {"train": 49_838, "val": 495, "test": 975},
        "2.0": {"train": 91_256, "val": 495, "test": 975},
    },
    "ask its authors for the sound by the form in their README, or download it from YouTube",
)
