"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from singleout.storage.addresses import address_of


def named(text: str | Path) -> Path:
    """Parse the path of an option.

    An empty text, such as the value of a variable that is not set, would be the current folder.

    Raises:
        typer.BadParameter: the text is empty, or an address.

    Example:
        >>> named("out").name
        'out'
    """
    if not str(text):
        raise typer.BadParameter("the name is empty: give one, or . for the current folder")
    if (address := address_of(text)) is not None:
        raise typer.BadParameter(f"{address} is an address: give a path on this machine")
    return Path(text)


Manifest = Annotated[
    Path, typer.Argument(help="JSONL manifest of captioned sounds.", readable=False)
]
Model = Annotated[
    str | None,
    typer.Option(
        help="'builtin', folder of a model, hub id, or checkpoint of AudioSep.",
        show_default="the one in the package",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="Query encoder: folder, hub id or .pt file of a CLAP.",
        show_default="the one of the model",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="JSON file of the summary. The rows go to a file next to it.",
        parser=named,
        metavar="PATH",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Go on without sounds that cannot be read, are cut or damaged, or are silent.",
    ),
]
