"""What is asked: the noun that all rooms share. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from singleout.errors import QueryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MAX_QUERY_CHARACTERS = 1_000
"""Longer prompts are refused: they are never a description of one sound."""


@dataclass(frozen=True, eq=False)
class Example:
    """A sound to ask with: what is wanted (or not) sounds like this.

    Args:
        audio: path of a recording, or floats [samples] or [channels, samples] with full scale 1. A
            minute at most: nothing but the sound that is meant.
        sample_rate: of an array, Hz.
    """

    audio: str | Path | ArrayLike
    sample_rate: int | None = None

    def __str__(self) -> str:
        name = Path(self.audio).name if isinstance(self.audio, str | Path) else "an example"
        # One line of text, as every query is.
        return f"like {' '.join(name.encode(errors='replace').decode().split())}"


Prompt = str | Example
"""A description, or an example."""


def _checked(prompt: object) -> Prompt:
    if isinstance(prompt, Example):
        return prompt
    if isinstance(prompt, Path):
        return Example(prompt)
    if not isinstance(prompt, str):
        raise QueryError(f"a query must be text or an example, not {type(prompt).__name__}")
    if not prompt.strip():
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
    return " ".join(prompt.split())


@dataclass(frozen=True)
class Query:
    """What to single out: in words, by examples of its sound, or by both.

    Args:
        positive: prompts for the target; several ask for the same target in other words or with
            other examples. A ``Path`` is an ``Example``.
        negative: prompts for what must not be extracted. With nothing positive, everything else is
            the target: the sound is removed.

    Raises:
        QueryError: no prompt at all, or one that is blank or over 1,000 characters.
    """

    positive: tuple[Prompt, ...] = ()
    negative: tuple[Prompt, ...] = ()

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
        """A bare prompt is ``Query(positive=(prompt,))``; a Query is returned as it is."""
        return query if isinstance(query, Query) else cls(positive=(_checked(query),))

    def __str__(self) -> str:
        wanted, unwanted = (" / ".join(map(str, side)) for side in (self.positive, self.negative))
        if not unwanted:
            return wanted
        return f"{wanted} (not {unwanted})" if wanted else f"not {unwanted}"
