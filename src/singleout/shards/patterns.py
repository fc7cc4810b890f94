"""Patterns that name many shards, as WebDataset writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import escape
from itertools import islice

from singleout.errors import InputError, shortened
from singleout.storage.locations import Location

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
WILD = re.compile(r"[*?\[]")
MAX_SHARDS = 100_000
"""Most shards that a pattern may name."""


def shard_places(pattern: str) -> list[str]:
    """The shards that a pattern names.

    Args:
        pattern: a path or an address. ``{000..127}`` and ``{train,test}`` stand for each of their
            values, ``*``, ``?`` and ``[…]`` are those of a shell, and ``**`` is any folder. A
            folder stands for all files ``*.tar`` below it; that of a store has no dot in its name.

    Raises:
        InputError: nothing has such a name, or the pattern names too many shards.

    Example:
        >>> shard_places("s3://bucket/{train,test}-{08..10}.tar")[1:4]
        ['s3://bucket/train-09.tar', 's3://bucket/train-10.tar', 's3://bucket/test-08.tar']
    """
    places: list[str] = []
    names = list(islice(_without_braces(pattern), MAX_SHARDS + 1))
    if len(names) > MAX_SHARDS:
        raise InputError(f"{shortened(pattern)}: names more than {MAX_SHARDS:,} shards")
    for name in names:
        place = Location(name)
        is_folder = place.path.is_dir() if place.is_local else not place.path.suffix
        # A name such as 'sounds [1]' is no pattern if it exists.
        if WILD.search(name) and not (place.is_local and place.exists()):
            named = place.matches()
        elif is_folder:
            named = (Location(escape(str(place))) / "**" / "*.tar").matches()
        else:
            named = [str(place)]
        if not named:
            raise InputError(f"{shortened(name)}: no such shards")
        places += named
    return places


def _without_braces(pattern: str) -> Iterator[str]:
    if (match := BRACES.search(pattern)) is None:
        yield pattern
        return
    for value in _values(match[1]):
        yield from _without_braces(pattern[: match.start()] + value + pattern[match.end() :])


def _values(inside: str) -> Iterator[str]:
    """What a pair of braces stands for."""
    if (match := RANGE.fullmatch(inside)) is None:
        yield from inside.split(",")
        return
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MAX_SHARDS:
        raise InputError(f"{{{shortened(inside)}}}: names no shards, or too many")
    for number in range(first, last + 1):
        yield f"{number:0{len(match[1])}d}"
