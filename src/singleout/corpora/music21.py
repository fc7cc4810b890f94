"""MUSIC and MUSIC21: YouTube videos of solos and duets on musical instruments.

Facts: https://github.com/roudimit/MUSIC_dataset (three JSON lists of ids by instrument; their
counts are those of the files, which differ a little from the papers). The lists have no splits:
here a fixed tenth of the videos, drawn by the id, is the test set, and another the validation set.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles
from singleout.corpora.tables import read_json
from singleout.corpora.youtube import youtube_audio
from singleout.data.manifest import share_of
from singleout.errors import ManifestError

LISTS = {
    "MUSIC21 solo": "MUSIC21_solo_videos.json",
    "MUSIC solo": "MUSIC_solo_videos.json",
    "MUSIC duet": "MUSIC_duet_videos.json",
}
TEST_SHARE, VALIDATION_SHARE = 0.1, 0.1


def music21_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The videos of the lists that the folder has. The sound of a video is one file.

    Raises:
        ManifestError: the folder has none of the lists, or one is of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "MUSIC_duet_videos.json").write_text(
        ...         '{"version": 1.0, "videos": {"trumpet tuba": ["abc"]}}'
        ...     )
        ...     [each.label for each in music21_entries(CorpusFiles(Path(folder)))]
        ['instrument/trumpet tuba']
    """
    tables = files.tables(*LISTS.values())
    for part, name in LISTS.items():
        if name not in tables:
            continue
        content = read_json(tables[name])
        videos = content.get("videos") if isinstance(content, dict) else None
        if not isinstance(videos, dict) or not all(
            isinstance(ids, list) for ids in videos.values()
        ):
            raise ManifestError(f"{tables[name]}: not a list of videos of MUSIC")
        for instruments, ids in videos.items():
            for video in map(str, ids):
                yield Entry(
                    part,
                    _split(video),
                    video,
                    youtube_audio(files, video, 0),
                    group=f"youtube/{video}",
                    label=f"instrument/{instruments}",
                    license="of the video's owner",
                    origin={"corpus": "music21", "youtube_id": video},
                )


def _split(video: str) -> str:
    share = share_of("music21", video)
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


MUSIC21 = Published(
    "MUSIC21",
    "https://github.com/roudimit/MUSIC_dataset",
    "none stated for the lists; the sound is that of YouTube videos",
    music21_entries,
    {"1": {"MUSIC21 solo": 1_164, "MUSIC solo": 536, "MUSIC duet": 149}},
    "download the sound of the videos from YouTube, with their ids as names",
)
