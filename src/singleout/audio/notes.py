"""What a listener should know about a recording that was read: logged and summed up."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from singleout.audio.info import Note

LOGGER = logging.getLogger("singleout")
"""Where the whole package reports what a user should know. The command line prints its lines."""


def log_notes(notes: Iterable[Note]) -> None:
    """Log each note as a warning. Call it once per recording, after its last block.

    Example:
        >>> log_notes([])
    """
    for note in notes:
        LOGGER.warning("%s", note.text)


def missing_seconds(notes: Iterable[Note]) -> float | None:
    """Seconds of a recording that could not be read, by its notes.

    Returns:
        0.0 for a whole recording; None if a part of unknown length is missing.

    Example:
        >>> missing_seconds([Note("x.wav: ends early", 1.5), Note("x.wav: has a gap", 0.5)])
        2.0
        >>> missing_seconds([Note("x.mp3: is damaged", None)]) is None
        True
    """
    total = 0.0
    for note in notes:
        if note.missing_seconds is None:
            return None
        total += note.missing_seconds
    return round(total, 6)
