"""Names of output files: of queries, recordings and parts."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from singleout.errors import OutputError
from singleout.extract.options import OutputOptions
from singleout.types import Prompt, Query

MAX_SLUG_CHARACTERS = 60
MAX_NAME_BYTES = 150
UNNAMED = re.compile(r"""[^A-Za-z0-9\s.,;:!?'"()/_-]""")
"""Characters that carry meaning and that a file name leaves out."""


def query_slug(query: Query) -> str:
    """A query as part of a file name, 1 to 60 characters.

    The slug consists of ASCII lower-case words joined by hyphens. A short hash follows where the
    words are not the whole query: a long query, another script, ``C++``, several prompts, or an
    example. So a later query never replaces the files of another one.

    Example:
        >>> query_slug(Query("A dog, barking!"))
        'a-dog-barking'
    """
    text = str(query)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    slug = "-".join(re.findall(r"[a-z0-9]+", plain.lower()))
    is_one = len(query.positive) == 1 and not query.negative and isinstance(query.positive[0], str)
    if is_one and slug and len(slug) <= MAX_SLUG_CHARACTERS and not UNNAMED.search(plain):
        return slug
    sides = [[identity_of(prompt) for prompt in side] for side in (query.positive, query.negative)]
    end = _short_hash(text if is_one else json.dumps(sides))
    room = MAX_SLUG_CHARACTERS - len(end) - 1
    if len(slug) > room:
        slug = slug[: room + 1].rpartition("-")[0] or slug[:room]
    return f"{slug}-{end}" if slug else end


def identity_of(prompt: Prompt) -> str:
    """A text that tells a prompt from others of the same name.

    Example:
        >>> identity_of("rain")
        'rain'
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt.audio, str | Path):
        return f"file {Path(prompt.audio).absolute()}"
    samples = np.ascontiguousarray(prompt.audio)
    return f"{hashlib.sha256(samples.tobytes()).hexdigest()} {prompt.sample_rate}"


def query_slugs(queries: Sequence[Query]) -> list[str]:
    """One slug per query, no two the same.

    Raises:
        OutputError: two queries are the same.

    Example:
        >>> query_slugs([Query("rain"), Query("a dog")])
        ['rain', 'a-dog']
    """
    slugs = [query_slug(query) for query in queries]
    for number, query in enumerate(queries):
        if query in queries[:number]:
            raise OutputError(f"the query '{query}' is given twice: its files would be the same")
    names = [
        slug if slugs.count(slug) == 1 else f"{slug}-{_short_hash(str(query))}"
        for slug, query in zip(slugs, queries, strict=True)
    ]
    # Two examples may have the same name and differ.
    before = [names[:number].count(name) for number, name in enumerate(names)]
    return [
        f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True)
    ]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


@dataclass(frozen=True)
class PartPaths:
    """Paths of the files of one query.

    Attributes:
        target, residual, plot: paths; None if the file is not requested.

    Example:
        >>> len(PartPaths(Path("x.target.wav"), None, None).all())
        1
    """

    target: Path
    residual: Path | None
    plot: Path | None

    def all(self) -> list[Path]:
        """The paths of all requested files."""
        return [path for path in (self.target, self.residual, self.plot) if path is not None]


def part_paths(options: OutputOptions, name: str, slug: str, container: str) -> PartPaths:
    """Paths of the files of a recording and a query.

    Args:
        options: which files, and their folder.
        name: of the recording; it is shortened where a file system could not hold it.
        slug: of the query.
        container: suffix of target and residual.

    Example:
        >>> part_paths(OutputOptions(Path("out")), "x", "rain", "wav").target.name
        'x.rain.target.wav'
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_NAME_BYTES:
        short = encoded[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
        name = f"{short}-{_short_hash(name)}"
    stem = f"{name}.{slug}"
    return PartPaths(
        target=options.folder / f"{stem}.target.{container}",
        residual=options.folder / f"{stem}.residual.{container}" if options.residual else None,
        plot=options.folder / f"{stem}.png" if options.plot else None,
    )
