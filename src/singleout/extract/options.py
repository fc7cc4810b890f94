"""How recordings are extracted, and which files are written."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TypedDict

from singleout.audio import OutputFormat
from singleout.errors import InputError


@dataclass(frozen=True)
class ExtractOptions:
    """How recordings are extracted.

    Args:
        link_channels: one mask for all channels, so that the target stays where it was between
            them. False: each channel is separated on its own.
        gate: set targets to the level of the sound, and nearly to silence where it seems absent,
            if the model has a gate. False: targets have the level that the separator gives them.
        chunk_seconds: longer recordings are separated in chunks of this length, so that the memory
            is bounded. Any positive number; the result does not depend on it.
        strict: refuse recordings that are cut or damaged. False: the rest is extracted, with a
            warning.
        track: number of the sound track of a video, from 1; None takes the main one.

    Raises:
        InputError: ``chunk_seconds`` is not a positive number, or ``track`` is not a number from 1.

    Example:
        >>> ExtractOptions(chunk_seconds=5.0).strict
        False
    """

    link_channels: bool = True
    gate: bool = True
    chunk_seconds: float = 20.0
    strict: bool = False
    track: int | None = None

    def __post_init__(self) -> None:
        seconds = self.chunk_seconds
        if not isinstance(seconds, int | float) or not 0 < seconds < inf:
            raise InputError(f"chunk_seconds must be a positive number, not {seconds!r}")
        if self.track is not None and (not isinstance(self.track, int) or self.track < 1):
            raise InputError(f"track must be a number from 1, not {self.track!r}")


class OptionChanges(TypedDict, total=False):
    """Keyword arguments that change single options for one call; see ``ExtractOptions``."""

    link_channels: bool
    gate: bool
    chunk_seconds: float
    strict: bool
    track: int | None


@dataclass(frozen=True)
class OutputOptions:
    """Which files are written for every recording and query.

    Args:
        folder: of the files; created if it is missing.
        format: container of target and residual. ``auto`` is that of the recording, where it can
            hold them.
        residual: write the residual.
        plot: draw the spectrograms.

    Example:
        >>> OutputOptions(Path("out"), format="flac").residual
        True
    """

    folder: Path
    format: OutputFormat = "auto"
    residual: bool = True
    plot: bool = False
