"""Arguments and options of ``singleout extract``, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from singleout.cli.options import named
from singleout.cli.pipes import output_place
from singleout.engines.engine import EngineName


def engine_name(text: str) -> str:
    """Parse the name of an engine.

    Raises:
        typer.BadParameter: there is no such engine.

    Example:
        >>> engine_name("ray")
        'ray'
    """
    if text not in (names := get_args(EngineName)):
        raise typer.BadParameter(f"'{text}' is no engine: give one of {', '.join(names)}")
    return text


Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RECORDING... QUERY",
        help="Files (WAV, FLAC, MP3, M4A, MP4, MKV, ...), folders, manifests (.jsonl), addresses "
        "of any of these (s3://...), patterns, or - for stdin; then the query, such as 'a dog "
        "barking', unless an option gives it.",
        show_default=False,
    ),
]
QueryTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--query",
        "-q",
        help="Query text. Repeat the option to extract several sounds in one pass.",
    ),
]
Like = Annotated[
    list[Path] | None,
    typer.Option(help="Example recording of the sound, instead of a text or in addition to it."),
]
Unwanted = Annotated[
    list[str] | None,
    typer.Option(
        "--not",
        help="Sound to exclude. Without any other query, the sound to remove.",
    ),
]
Unlike = Annotated[
    list[Path] | None,
    typer.Option("--not-like", help="Recording of a sound to exclude."),
]
OutputFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Folder of the results, or its address (s3://...); created if it is missing. With - "
        "the target of one recording and query goes to stdout.",
        parser=output_place,
        metavar="PATH",
    ),
]
Residual = Annotated[
    bool | None,
    typer.Option(
        "--residual/--no-residual",
        help="Write the residual as well.",
        show_default="--residual, without -o -",
    ),
]
Format = Annotated[
    str, typer.Option(help="Container of the results: auto, wav, flac, aiff, ogg, mp3.")
]
Device = Annotated[str, typer.Option(help="Device of the separator, such as cpu or cuda.")]
LinkChannels = Annotated[
    bool,
    typer.Option(
        "--link-channels/--separate-channels",
        help="One mask for all channels, so that the target stays where it was.",
    ),
]
WithGate = Annotated[
    bool,
    typer.Option(
        "--gate/--no-gate",
        help="Set targets to the level of the sound, and nearly to silence where it seems "
        "absent. Without the gate, targets have the level that the separator gives them.",
    ),
]
ChunkSeconds = Annotated[
    float,
    typer.Option(
        min=0.1, help="Length of the chunks of long recordings; shorter takes less memory."
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse recordings that are cut or damaged. Without it the rest is extracted, with "
        "a warning.",
    ),
]
Track = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of the sound track of a video, from 1.", show_default="the main one"
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Recordings at a time, which share the cores. With --engine ray, on each machine.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the jobs: local (threads of this process) or ray (processes of a Ray "
        "cluster, which see the same files).",
        parser=engine_name,
        metavar="[local|ray]",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of the Ray cluster; auto finds one on this machine.",
        show_default="a new one on this machine",
    ),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out queries whose files exist.")
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Write one JSON line per recording and query to this file.",
        parser=named,
        metavar="PATH",
    ),
]
Plot = Annotated[
    bool, typer.Option("--plot", help="Draw the spectrograms of mixture, target and residual.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per recording and query.")
]
