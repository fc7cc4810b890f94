"""VGGSound: 10-second stretches of YouTube videos, each of one of 309 classes.

Facts: https://github.com/hche11/VGGSound (``data/vggsound.csv`` without a header: id, start, label,
split; ``data/test.csv`` with 15,446 clips and their names ``ID_000030.mp4``; ``data/stat.csv`` with
the number of clips of each class, 199,176 together, and its family). Some videos give two clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles
from singleout.corpora.tables import read_columns
from singleout.corpora.youtube import parse_seconds, youtube_audio
from singleout.errors import ManifestError, shortened


def vggsound_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of ``vggsound.csv``. With ``stat.csv``, their classes have families.

    Raises:
        ManifestError: the table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Path(folder, "vggsound.csv")
        ...     _ = table.write_text('abc,30,"bird chirping, tweeting",test\\n')
        ...     [(each.label, each.split) for each in vggsound_entries(CorpusFiles(Path(folder)))]
        [('bird chirping, tweeting', 'test')]
    """
    table = files.table("vggsound.csv")
    families = {}
    if files.has("stat.csv"):
        families = {row[0]: row[2] for row in read_columns(files.table("stat.csv"), 3)}
    num_clips = Counter(row[0] for row in read_columns(table, 4))
    for video, start, kind, part in read_columns(table, 4):
        try:
            seconds = parse_seconds(start)
        except ValueError:
            seconds = None
        if part not in ("train", "test") or seconds is None:
            raise ManifestError(
                f"{table}: not a row of VGGSound: {shortened(', '.join((video, start, part)))}"
            )
        family = families.get(kind)
        label = kind.replace("/", " or ")
        yield Entry(
            part,
            part,
            f"{video}_{int(seconds):06d}",
            youtube_audio(files, video, seconds, seconds + 10, is_only=num_clips[video] == 1),
            group=f"youtube/{video}",
            label=f"{family}/{label}" if family else label,
            license="of the video's owner",
            origin={"corpus": "vggsound", "youtube_id": video, "start": seconds},
        )


VGGSOUND = Published(
    "VGGSound",
    "https://github.com/hche11/VGGSound",
    "CC BY 4.0 for the table; the copyright of the videos is that of their owners",
    vggsound_entries,
    {"1": {"train": 183_730, "test": 15_446}},
    "download the stretches from YouTube, or take a copy",
)
