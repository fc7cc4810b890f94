"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def named(text: str | Path) -> Path:
    """A path that has been given; as one, an empty text (such as of a variable that is not set)
    would be the current folder."""
    if not str(text):
        raise typer.BadParameter("the name is empty: give one, or . for the current folder")
    return Path(text)


Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a model, hub id, or AudioSep's checkpoint.",
        show_default="the one in the package",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="Query encoder: a CLAP's folder, hub id or .pt file.", show_default="the model's own"
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="JSON file of the summary; rows go beside it.",
        parser=named,
        metavar="PATH",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
