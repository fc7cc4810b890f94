"""Tables of documents, written by the commands that measure."""

from __future__ import annotations

import re
from pathlib import Path

from singleout.errors import ConfigError
from singleout.storage.atomic import replacing

BEGIN, END = "<!-- begin {} -->", "<!-- end {} -->"


def fill_in(document: Path, parts: dict[str, str]) -> None:
    """Replace what stands between a part's two marks.

    Raises:
        ConfigError: the document has no such marks.
    """
    text = document.read_text(encoding="utf-8")
    for name, content in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ConfigError(f"{document}: has no '{begin}' … '{end}'")
        # A function, for content may hold backslashes.
        text = pattern.sub(lambda _, c=content, b=begin, e=end: f"{b}\n{c}\n{e}", text)  # type: ignore[misc]
    with replacing(document) as partial:
        partial.write_text(text, encoding="utf-8")
