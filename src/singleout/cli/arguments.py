"""Arguments of ``singleout extract``: which are recordings, and which is the query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import typer

from singleout.cli.pipes import STDIN
from singleout.storage.addresses import address_of
from singleout.types import Example, Query


def recordings_and_queries(
    positional: Sequence[str],
    texts: Sequence[str] | None,
    like: Sequence[Path] | None,
    unwanted: Sequence[str] | None,
    unlike: Sequence[Path] | None,
) -> tuple[list[str], list[Query]]:
    """What the arguments and the options of queries mean.

    Args:
        positional: arguments without a name.
        texts, like, unwanted, unlike: values of ``--query``, ``--like``, ``--not``, ``--not-like``.

    Returns:
        Names of recordings, and queries.

    Raises:
        typer.BadParameter: see ``split_arguments`` and ``refuse_files``.
        QueryError: a prompt is blank or too long.

    Example:
        >>> places, queries = recordings_and_queries(["x.wav", "a dog"], None, None, ["rain"], None)
        >>> places, [str(query) for query in queries]
        (['x.wav'], ['a dog (not rain)'])
    """
    refuse_files("--query", texts or (), "--like")
    refuse_files("--not", unwanted or (), "--not-like")
    places, words = split_arguments(positional, texts, bool(texts or like or unwanted or unlike))
    return places, build_queries(words, like or (), unwanted or (), unlike or ())


def split_arguments(
    positional: Sequence[str], queries: Sequence[str] | None, has_query: bool
) -> tuple[list[str], list[str]]:
    """Split the arguments of the command into recordings and queries.

    The last argument is the query, unless an option gives one.

    Args:
        positional: arguments without a name.
        queries: texts of ``--query``.
        has_query: whether any option gives a query.

    Returns:
        Recordings, and query texts.

    Raises:
        typer.BadParameter: there is no query, or it is not clear which argument is one.

    Example:
        >>> split_arguments(["street.wav", "a dog barking"], None, False)
        (['street.wav'], ['a dog barking'])
    """
    if queries:
        return list(positional), list(queries)
    last = positional[-1]
    if has_query and len(positional) > 1 and _is_bare_name(last):
        raise typer.BadParameter(
            f"'{last}' is ambiguous: it could be a query or the path .{os.sep}{last}. "
            f"Use --query {last}, or .{os.sep}{last}",
            param_hint="'QUERY'",
        )
    if has_query and (len(positional) == 1 or _is_recording_name(last)):
        return list(positional), []
    if len(positional) < 2:
        raise typer.BadParameter(
            "no query: describe a sound as the last argument", param_hint="'QUERY'"
        )
    with suppress(OSError, ValueError):  # too long for a name: it is a query
        if Path(last).is_file():
            raise typer.BadParameter(
                f"'{last}' is a file: describe a sound as the last argument, or use --query",
                param_hint="'QUERY'",
            )
    return list(positional[:-1]), [last]


def build_queries(
    texts: Sequence[str],
    like: Sequence[Path],
    unwanted: Sequence[str],
    unlike: Sequence[Path],
) -> list[Query]:
    """One query per text. Examples and negative prompts belong to all of them.

    Args:
        texts: positive texts, each a query; may be empty.
        like: example recordings of the sound.
        unwanted: negative texts.
        unlike: recordings of a sound to exclude.

    Raises:
        QueryError: a prompt is blank or too long.

    Example:
        >>> [str(query) for query in build_queries(["a dog", "rain"], [], ["a car"], [])]
        ['a dog (not a car)', 'rain (not a car)']
    """
    examples = tuple(Example(path) for path in like)
    sides: list[tuple[str | Example, ...]] = [(text, *examples) for text in texts] or [examples]
    negative: tuple[str | Example, ...] = (*unwanted, *(Example(path) for path in unlike))
    return [Query(positive, negative) for positive in sides]


def refuse_files(option: str, texts: Sequence[str], instead: str) -> None:
    """Refuse texts of an option that are names of sound files.

    Raises:
        typer.BadParameter: names the option to use instead.

    Example:
        >>> refuse_files("--not", ["a car"], instead="--not-like")
    """
    for text in texts:
        with suppress(OSError, ValueError):  # too long for a name
            if Path(text).suffix and Path(text).is_file():
                raise typer.BadParameter(
                    f"'{text}' is a file: use {instead}, or describe the sound",
                    param_hint=f"'{option}'",
                )


def _is_bare_name(text: str) -> bool:
    """Whether a text is also the name of something in the current folder, such as ``rain``."""
    with suppress(OSError, ValueError):
        return Path(text).name == text and not Path(text).suffix and Path(text).exists()
    return False


def _is_recording_name(text: str) -> bool:
    """Whether an argument that could be a query is a recording."""
    from glob import has_magic

    if text == STDIN or address_of(text) is not None:
        return True
    with suppress(OSError, ValueError):
        if Path(text).exists():
            return True
    return " " not in text and (has_magic(text) or bool(Path(text).suffix))
