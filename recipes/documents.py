"""Fills in tables of documents, from the results of commands."""

from __future__ import annotations

import re
from pathlib import Path

from singleout.errors import ConfigError
from singleout.storage.atomic import replacing

BEGIN, END = "<!-- begin {} -->", "<!-- end {} -->"


def fill_in(document: Path, parts: dict[str, str]) -> None:
    """Replace the text between the two marks of each part.

    Args:
        document: with a line ``BEGIN`` and a line ``END`` for every part.
        parts: new text by name of the part.

    Raises:
        ConfigError: the document lacks the marks of a part.
    """
    text = document.read_text(encoding="utf-8")
    for name, content in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ConfigError(f"{document}: the lines '{begin}' and '{end}' are missing: add them")
        # A function as replacement, because content may hold backslashes.
        text = pattern.sub(lambda _, c=content, b=begin, e=end: f"{b}\n{c}\n{e}", text)  # type: ignore[misc]
    with replacing(document) as partial:
        partial.write_text(text, encoding="utf-8")
