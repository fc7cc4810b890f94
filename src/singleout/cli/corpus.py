"""``singleout corpus``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleout.cli.messages import printable
from singleout.cli.options import AsJson, named
from singleout.cli.outputs import check_file

if TYPE_CHECKING:
    from singleout.corpora import Counts, Summary

Name = Annotated[
    str,
    typer.Argument(
        help="audiocaps, audioset, clotho, dcase2024, esc50, fsd50k, music21, urbansound8k, "
        "vggsound, wavcaps; folder or huggingface for any other.",
        metavar="NAME",
    ),
]
Data = Annotated[
    Path,
    typer.Option(help="Folder of the corpus, with tables and sounds.", parser=named, metavar="DIR"),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Manifest to write.", parser=named, metavar="PATH")
]
Missing = Annotated[
    Path | None,
    typer.Option(
        help="JSONL file of the clips that are not in the manifest.",
        parser=named,
        metavar="PATH",
        show_default="OUTPUT.missing.jsonl",
    ),
]
Captions = Annotated[
    Path | None,
    typer.Option(
        help="Table of captions for 'folder': .csv, .tsv, .jsonl or .json.",
        parser=named,
        metavar="PATH",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of a table, as path=NAME, caption=NAME, class=NAME, group=NAME or "
        "split=NAME; may be repeated.",
        metavar="KEY=NAME",
        show_default="usual names",
    ),
]
ClassCaptions = Annotated[
    bool,
    typer.Option("--class-captions", help="A clip without a caption gets its class as one."),
]


def corpus(
    name: Name,
    data: Data,
    output: Output,
    missing: Missing = None,
    captions: Captions = None,
    column: Column = None,
    class_captions: ClassCaptions = False,
    as_json: AsJson = False,
) -> None:
    """Write the manifest of a downloaded corpus, and list what is missing."""
    import json

    from singleout.corpora import ReadOptions, missing_path, write_corpus

    missing = missing_path(output) if missing is None else missing
    if missing.absolute() == output.absolute():
        raise typer.BadParameter("give another file than the output", param_hint="'--missing'")
    inputs = [] if captions is None else [captions]
    for path in (output, missing):
        check_file(path, *inputs)
    held_audio = output.absolute().with_name(f"{output.stem}-audio")
    options = ReadOptions(captions, _columns(column or []), held_audio, class_captions)
    summary = write_corpus(name, data, output, missing, options)
    typer.echo(json.dumps(summary.as_dict(), indent=2) if as_json else _table(summary))


def _columns(texts: list[str]) -> dict[str, str]:
    """Names of columns by the key that they give."""
    pairs = [text.partition("=") for text in texts]
    for key, sign, name in pairs:
        if not (key and sign and name):
            raise typer.BadParameter(
                f"'{key}{sign}{name}': write KEY=NAME, such as caption=text",
                param_hint="'--column'",
            )
    return {key: name for key, _, name in pairs}


def _table(summary: Summary) -> str:
    splits = ", ".join(f"{printable(name)} {count:,}" for name, count in summary.splits.items())
    version = f" {summary.version}" if summary.version else ""
    width = max(4, *(len(printable(part)) for part in summary.parts))
    heads = ("published", "listed", "on disk", "missing", "unreadable", "left out", "usable")
    lines = [
        f"{summary.title}{version}: {summary.clips:,} clips, {summary.seconds / 3_600:.1f} h "
        f"({splits})",
        f"licence: {summary.license}",
        f"{'part':{width}} " + " ".join(f"{head:>10}" for head in heads),
        *(_line(printable(part), counts, width) for part, counts in summary.parts.items()),
        f"{summary.manifest}; clips that are not in it: {summary.missing}",
        *(f"note: {printable(note)}" for note in summary.notes),
    ]
    return "\n".join(lines)


def _line(part: str, counts: Counts, width: int) -> str:
    published = "-" if counts.published is None else f"{counts.published:,}"
    numbers = (
        counts.listed,
        counts.on_disk,
        counts.missing,
        counts.unreadable,
        counts.left_out,
        counts.usable,
    )
    return f"{part:{width}} {published:>10} " + " ".join(f"{number:>10,}" for number in numbers)
