"""Names that download programs give to the sound of a stretch of a YouTube video."""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.files import CorpusFiles

MAX_START = 1_000_000
"""Latest start of a stretch, seconds. No video lasts 11 days; a table with such times is wrong."""


def parse_seconds(text: str) -> float:
    """A time in a table.

    Raises:
        ValueError: the text is no number of seconds in a video.

    Example:
        >>> parse_seconds("30.000")
        30.0
    """
    seconds = float(text)
    if not 0 <= seconds <= MAX_START:
        raise ValueError(f"not a time in a video: {text}")
    return seconds


def youtube_names(video: str, start: float, end: float | None = None) -> Iterator[str]:
    """Names without suffix, those with a time first.

    The names are those of aac-datasets (``ID_30``), VGGSound (``ID_000030``), audiosetdl
    (``ID_30000_40000``, in milliseconds), the challenges of DCASE (``YID_30.000_40.000``) and PANNs
    (``YID``).

    Args:
        video: its id.
        start, end: of the stretch, seconds.

    Example:
        >>> names = list(youtube_names("-quo_ted", 30.0, 40.0))
        >>> names[:4:2], names[-2:]
        (['-quo_ted_30', '-quo_ted_000030'], ['-quo_ted', 'Y-quo_ted'])
    """
    times = [f"{start:g}", f"{int(start):06d}", f"{start:.3f}", f"{1_000 * start:.0f}"]
    if end is not None:
        times += [
            f"{start:g}_{end:g}",
            f"{start:.3f}_{end:.3f}",
            f"{1_000 * start:.0f}_{1_000 * end:.0f}",
        ]
    for time in times:
        yield f"{video}_{time}"
        yield f"Y{video}_{time}"
    yield video
    yield f"Y{video}"


def youtube_audio(
    files: CorpusFiles, video: str, start: float, end: float | None = None, is_only: bool = True
) -> str | None:
    """The file of a stretch of a video; None if there is none.

    Args:
        files: of the corpus.
        video: its id.
        start, end: of the stretch, seconds.
        is_only: whether the corpus has one stretch of the video. Otherwise a name without a time
            does not tell which one it is.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "YabcDEF.m4a").touch()
        ...     youtube_audio(CorpusFiles(Path(folder)), "abcDEF", 30)
        'YabcDEF.m4a'
    """
    plain = (video, f"Y{video}")
    for name in youtube_names(video, start, end):
        if (path := files.audio(name)) is not None and (is_only or name not in plain):
            return path
    return None
