"""Addresses such as ``https://...`` where a path is meant."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/]|$)")
"""Matches the start of an address. ``Path`` makes one slash of two. A drive has one letter."""
SHOWN_CHARACTERS = 100


def address_of(place: str | Path, max_characters: int | None = SHOWN_CHARACTERS) -> str | None:
    """The address that a text or path is; None if it is none.

    A path to something that exists is no address.

    Args:
        place: a text, or the path that was made of it.
        max_characters: a longer address is cut; None: it is whole.

    Example:
        >>> address_of(Path("https://example.org/dog.wav"))
        'https://example.org/dog.wav'
        >>> address_of("C:/sounds/dog.wav") is None
        True
    """
    if (match := ADDRESS.match(str(place))) is None:
        return None
    with suppress(OSError, ValueError):  # too long for a path
        if Path(place).exists():
            return None
    address = f"{match[1]}://{str(place)[match.end() :]}"
    if max_characters is None or len(address) <= max_characters:
        return address
    return address[: max_characters - 1] + "…"


def shown(place: str | Path) -> str:
    """A path as text. An address has both its slashes, of which ``Path`` keeps one.

    Example:
        >>> shown(Path("s3://bucket/dog.wav")), shown(Path("dog.wav"))
        ('s3://bucket/dog.wav', 'dog.wav')
    """
    return address_of(place, None) or str(place)
