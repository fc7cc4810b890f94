"""``singleout index``."""

from __future__ import annotations

from typing import Annotated

import typer

from singleout.cli.options import AsJson

Patterns = Annotated[
    list[str],
    typer.Argument(
        metavar="SHARDS...",
        help="Tar files in the WebDataset layout, by path or address. 'shard-{000..127}.tar' and "
        "'*.tar' name many; a folder names all tar files below it.",
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Folder of the corpus, or its address.")
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split of all sounds: train, validation or test.",
        show_default="the one in the JSON of each sound, else train",
    ),
]


def index(shards: Patterns, output: Output, split: Split = None, as_json: AsJson = False) -> None:
    """Index shards that others wrote, so that training reads them where they are.

    WebDataset, Megatron-Energon, Lhotse Shar and Hive are known. The shards stay unchanged.
    """
    import json

    from singleout.shards import index_shards, open_corpus, shard_places
    from singleout.storage.locations import Location

    places = [place for pattern in shards for place in shard_places(pattern)]
    index_shards(places, Location(output), split)
    corpus = open_corpus(output)
    counts = {
        "clips": len(corpus.clips),
        "hours": round(float(corpus.clips.seconds.sum()) / 3_600, 4),
        "shards": len(places),
        "left_out": corpus.num_reports,
    }
    if as_json:
        typer.echo(json.dumps(counts))
        return
    size = f"{counts['clips']:,} sounds ({counts['hours']:g} hours)"
    typer.echo(f"{output}: {size} in {len(places):,} shards")
    if corpus.num_reports:
        typer.echo(f"left out {corpus.num_reports:,}: see {Location(output) / 'report.jsonl'}")
