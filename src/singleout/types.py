"""``Query`` and ``Example``: the types that all parts of the package share.

This module imports neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from singleout.errors import QueryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MAX_QUERY_CHARACTERS = 1_000
"""Longer prompts are refused, because no description of one sound is so long."""


@dataclass(frozen=True, eq=False)
class Example:
    """A recording that serves as a query: the target sounds like this.

    Args:
        audio: path of a recording, or floats [samples] or [channels, samples] with full scale 1.
            It should hold only the sound to extract, and last at most a minute.
        sample_rate: of an array, Hz. A file has its own.

    Example:
        >>> str(Example("sounds/bark.wav"))
        'like bark.wav'
        >>> import numpy as np
        >>> str(Example(np.zeros(8_000, np.float32), sample_rate=16_000))
        'like an example'
    """

    audio: str | Path | ArrayLike
    sample_rate: int | None = None

    def __str__(self) -> str:
        name = Path(self.audio).name if isinstance(self.audio, str | Path) else "an example"
        # A query is shown as one line of text, so a name must not break the line.
        return f"like {' '.join(name.encode(errors='replace').decode().split())}"


Prompt = str | Example
"""One part of a query: a description or an example."""


def _checked(prompt: object) -> Prompt:
    """The prompt with its white space normalised, and a path as an ``Example``."""
    if isinstance(prompt, Example):
        return prompt
    if isinstance(prompt, Path):
        return Example(prompt)
    if not isinstance(prompt, str):
        raise QueryError(f"a query must be text or an example, not {type(prompt).__name__}")
    return checked_text(prompt)


def checked_text(prompt: str) -> str:
    """The text of a prompt with its white space normalised.

    Raises:
        QueryError: the text is blank, over 1,000 characters, or has broken characters.

    Example:
        >>> checked_text(" a dog\\n barking")
        'a dog barking'
    """
    words = prompt.split()
    if not words:
        raise QueryError("the query is empty: describe a sound, such as 'a dog barking'")
    if len(prompt) > MAX_QUERY_CHARACTERS:
        raise QueryError(
            f"the query has {len(prompt):,} characters, the limit is {MAX_QUERY_CHARACTERS:,}: "
            "describe one sound in a few words"
        )
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise QueryError("the query is not valid text: it has broken characters") from None
    return " ".join(words)


@dataclass(frozen=True)
class Query:
    """The sound to extract, by descriptions, by examples, or by both.

    Args:
        positive: prompts for the target. Several prompts describe the same target. A ``Path`` is
            an ``Example``.
        negative: prompts for sounds that must not be extracted. Without a positive prompt,
            everything else is the target: these sounds are removed.

    Raises:
        QueryError: there is no prompt, or a prompt is blank or over 1,000 characters.

    Example:
        >>> query = Query(["a dog barking", Example("bark.wav")], negative="traffic")
        >>> query.positive[0]
        'a dog barking'
        >>> print(query)
        a dog barking / like bark.wav (not traffic)
        >>> print(Query(negative="traffic"))
        not traffic
    """

    positive: tuple[Prompt, ...] = ()
    negative: tuple[Prompt, ...] = ()

    if TYPE_CHECKING:  # the arguments may be single prompts, the attributes are always tuples

        def __init__(
            self,
            positive: Prompt | Path | Sequence[Prompt | Path] = (),
            negative: Prompt | Path | Sequence[Prompt | Path] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            prompts = getattr(self, name)
            if isinstance(prompts, str) or not isinstance(prompts, Sequence):
                prompts = (prompts,)
            object.__setattr__(self, name, tuple(_checked(prompt) for prompt in prompts))
        if not self.positive and not self.negative:
            raise QueryError("the query is empty: describe a sound, such as 'a dog barking'")

    @classmethod
    def of(cls, query: str | Path | Example | Query) -> Query:
        """A single prompt as a query; a query is returned unchanged.

        Example:
            >>> Query.of("rain")
            Query(positive=('rain',), negative=())
        """
        return query if isinstance(query, Query) else cls(positive=(_checked(query),))

    def __str__(self) -> str:
        positive, negative = (" / ".join(map(str, side)) for side in (self.positive, self.negative))
        if not negative:
            return positive
        return f"{positive} (not {negative})" if positive else f"not {negative}"
