"""Queries that an extractor takes, and the conditions that a model makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from singleout.condition import Condition
from singleout.errors import QueryError
from singleout.model import QueriedSeparator
from singleout.types import Example, Query

NUM_CONDITIONS = 64
"""Conditions that are kept: all recordings of a batch have the same queries."""

AnyQuery = str | Path | Example | Query
"""One query: a description, an example (a ``Path`` is one), or a ``Query`` of several prompts."""


def queries_of(queries: AnyQuery | Sequence[AnyQuery]) -> list[Query]:
    """One or several queries of any kind as a list.

    Raises:
        QueryError: there is none, or one cannot be a query.

    Example:
        >>> queries_of(["rain", Query("a dog")])
        [Query(positive=('rain',), negative=()), Query(positive=('a dog',), negative=())]
    """
    if isinstance(queries, str | Path | Example | Query):
        return [Query.of(queries)]
    if not isinstance(queries, Iterable):
        raise QueryError(f"a query must be text or an example, not {type(queries).__name__}")
    several = [Query.of(query) for query in queries]
    if not several:
        raise QueryError("no query: describe a sound, such as 'a dog barking'")
    return several


class Conditions:
    """Embeds queries, and keeps the latest conditions.

    Args:
        model: in evaluation mode.

    Example:
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> conditions = Conditions(model)
        >>> conditions.of([Query("rain")])[0] is conditions.of([Query("rain")])[0]
        True
    """

    def __init__(self, model: QueriedSeparator) -> None:
        self._model = model
        self._condition = lru_cache(NUM_CONDITIONS)(self._embed)

    def of(self, queries: Sequence[Query], strict: bool = False) -> list[Condition]:
        """One condition per query, [1, parts, condition_dim].

        Args:
            queries: see ``QueriedSeparator.embed``.
            strict: refuse examples that are cut or damaged.

        Raises:
            QueryError, AudioError: see ``QueriedSeparator.embed``.
        """
        return [self._condition(query, strict) for query in queries]

    def _embed(self, query: Query, strict: bool) -> Condition:
        with torch.inference_mode():
            return self._model.embed(query, strict=strict)
