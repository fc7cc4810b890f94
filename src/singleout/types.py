"""What is asked: the noun that all rooms share. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from singleout.errors import QueryError

MAX_QUERY_CHARACTERS = 1_000
"""Longer prompts are refused: they are never a description of one sound."""


def _checked(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise QueryError(f"a query must be text, not {type(prompt).__name__}")
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
    """What to single out, in words.

    Args:
        positive: descriptions of the target; several describe the same target in other words.
        negative: descriptions of what must not be extracted. No model supports them yet:
            extraction refuses a query that has any.

    Raises:
        QueryError: no positive prompt, or a prompt that is blank or over 1,000 characters.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            prompts = getattr(self, name)
            if isinstance(prompts, str) or not isinstance(prompts, Sequence):
                prompts = (prompts,)
            object.__setattr__(self, name, tuple(_checked(prompt) for prompt in prompts))
        if not self.positive:
            raise QueryError("the query has no positive prompt: describe the sound to extract")

    @classmethod
    def of(cls, query: str | Query) -> Query:
        """A bare string is ``Query(positive=(string,))``; a Query is returned as it is."""
        return query if isinstance(query, Query) else cls(positive=(query,))

    def __str__(self) -> str:
        text = " / ".join(self.positive)
        return text if not self.negative else f"{text} (not {' / '.join(self.negative)})"
