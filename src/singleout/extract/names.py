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
    """A query as part of a file name: ``A dog, barking!`` is ``a-dog-barking``.

    ASCII lower-case words joined by hyphens, 1 to 60 characters. Where these are not all that was
    asked (a long query, another script, ``C++``, several prompts, an example, which may be called
    like others), a short hash of it follows: what is asked later must not take the place of
    something else.
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
    """Tells a prompt from others that read the same."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt.audio, str | Path):
        return f"file {Path(prompt.audio).absolute()}"
    samples = np.ascontiguousarray(prompt.audio)
    return f"{hashlib.sha256(samples.tobytes()).hexdigest()} {prompt.sample_rate}"


def query_slugs(queries: Sequence[Query]) -> list[str]:
    """One for each, no two the same; the same query twice is one too many.

    Raises:
        OutputError: two queries are the same.
    """
    slugs = [query_slug(query) for query in queries]
    for number, query in enumerate(queries):
        if query in queries[:number]:
            raise OutputError(f"the query '{query}' is given twice: its files would be the same")
    names = [
        slug if slugs.count(slug) == 1 else f"{slug}-{_short_hash(str(query))}"
        for slug, query in zip(slugs, queries, strict=True)
    ]
    # Examples that are called the same are not the same.
    before = [names[:number].count(name) for number, name in enumerate(names)]
    return [
        f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True)
    ]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


@dataclass(frozen=True)
class PartPaths:
    """Where the files of one query go."""

    target: Path
    residual: Path | None
    plot: Path | None

    def all(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.target, self.residual, self.plot) if path is not None]


def part_paths(wanted: OutputOptions, name: str, slug: str, container: str) -> PartPaths:
    """Paths of the parts of recording ``name``; a name too long for a file is shortened."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_NAME_BYTES:
        short = encoded[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
        name = f"{short}-{_short_hash(name)}"
    stem = f"{name}.{slug}"
    return PartPaths(
        target=wanted.folder / f"{stem}.target.{container}",
        residual=wanted.folder / f"{stem}.residual.{container}" if wanted.residual else None,
        plot=wanted.folder / f"{stem}.png" if wanted.plot else None,
    )
