"""Addresses such as ``https://...`` where a path is meant."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/]|$)")
"""Matches the start of an address. ``Path`` makes one slash of two. A drive has one letter."""
SHOWN_CHARACTERS = 100


def address_of(place: str | Path) -> str | None:
    """The address that a text or path is, cut to 100 characters; None if it is none.

    A path to something that exists is no address.

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
    return address if len(address) <= SHOWN_CHARACTERS else address[: SHOWN_CHARACTERS - 1] + "…"
