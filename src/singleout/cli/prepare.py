"""``singleout prepare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from singleout.cli.messages import printable
from singleout.cli.options import AsJson

if TYPE_CHECKING:
    from singleout.engines import Engine
    from singleout.prepare import Summary

Source = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST|FOLDER",
        help="JSONL manifest or folder of sounds. Paths in a manifest may be addresses.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="Folder of the corpus, or its address, such as s3://bucket/corpus."
    ),
]
EngineChoice = Annotated[
    str, typer.Option("--engine", help="local: this process; ray: all cores of a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster; auto finds the one of this machine.",
        show_default="a cluster for this command",
    ),
]
Gpus = Annotated[
    float, typer.Option("--gpus", help="GPUs of each process of a cluster that has some.", min=0)
]
Rate = Annotated[int, typer.Option("--rate", help="Sample rate of the sounds in the shards, Hz.")]
Format = Annotated[str, typer.Option("--format", help="flac or wav, both of 16 bits.")]
Channels = Annotated[
    str, typer.Option("--channels", help="mono: the mean of all channels, as training reads; all.")
]
ShardClips = Annotated[int, typer.Option("--shard-clips", help="Rows of the manifest in a shard.")]
Embed = Annotated[
    str | None,
    typer.Option(help="Encoder that embeds all crops: builtin, or folder, file or hub id of one."),
]
Purity = Annotated[
    float | None,
    typer.Option(help="Leave out sounds whose crops resemble each other less than this."),
]
CaptionSimilarity = Annotated[
    float | None,
    typer.Option(help="Leave out sounds that resemble their caption or class less than this."),
]
DuplicatesChoice = Annotated[
    str,
    typer.Option(
        "--duplicates", help="group: one group for versions of a recording; drop: one stays; keep."
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Check all files of a prepared corpus, and change nothing.")
]


def prepare(
    source: Source,
    output: Output = None,
    engine: EngineChoice = "local",
    address: Address = None,
    gpus: Gpus = 0.0,
    rate: Rate = 32_000,
    format: Format = "flac",
    channels: Channels = "mono",
    shard_clips: ShardClips = 1_000,
    embed: Embed = None,
    min_purity: Purity = None,
    min_caption_similarity: CaptionSimilarity = None,
    duplicates: DuplicatesChoice = "group",
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Make shards of a manifest or folder: what many processes train on.

    Repeat the command to go on after a stop. With --check, the argument is a prepared corpus.
    """
    import json
    from dataclasses import asdict

    if check:
        if output is not None:
            raise typer.BadParameter(
                "--check writes nothing: name the corpus alone", param_hint="'--output' / '-o'"
            )
        _check(source, as_json)
        return
    if output is None:
        raise typer.BadParameter("name the folder of the corpus", param_hint="'--output' / '-o'")

    from singleout.config import validated
    from singleout.prepare import PrepareConfig
    from singleout.prepare import prepare as run

    values = {
        "sample_rate": rate, "format": format, "channels": channels, "shard_clips": shard_clips,
        "embed": embed, "min_purity": min_purity, "duplicates": duplicates,
        "min_caption_similarity": min_caption_similarity,
    }  # fmt: skip
    config = validated(PrepareConfig, values, "the options")
    try:
        summary = run(source, output, config, _engine(engine, address, gpus))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("repeat the command to go on") from None
    typer.echo(json.dumps(asdict(summary)) if as_json else _text(summary, output))


def _engine(name: str, address: str | None, gpus: float) -> Engine:
    from singleout.engines import load_engine

    if name not in ("local", "ray"):
        raise typer.BadParameter(f"'{name}' is neither local nor ray", param_hint="'--engine'")
    if name == "local" and (address is not None or gpus):
        raise typer.BadParameter(
            "a cluster needs the engine ray: add --engine ray", param_hint="'--address' / '--gpus'"
        )
    return load_engine(name, address, gpus_per_worker=gpus)  # type: ignore[arg-type]


def _check(corpus: str, as_json: bool) -> None:
    """Compare a corpus with its checksums; the exit code is 1 if a file is wrong."""
    import json

    from singleout.shards import check_corpus

    wrong = check_corpus(corpus)
    if as_json:
        typer.echo(json.dumps({"wrong": wrong}))
    for line in [] if as_json else wrong:
        typer.echo(printable(line))
    if wrong:
        typer.echo(
            f"error: {corpus}: wrong files: {len(wrong):,}: remove them and prepare the corpus "
            "again: it makes what is missing",
            err=True,
        )
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"{corpus}: all files are as they were written")


def _text(summary: Summary, output: str) -> str:
    outcomes = summary.outcomes
    lines = [
        f"{output}: {summary.clips:,} sounds, {summary.hours:.2f} h, shards: {summary.shards:,}",
        f"new shards: {summary.made:,}, in {summary.seconds:.0f} s",
    ]
    if summary.hours_per_core_hour is not None and summary.decode_share is not None:
        lines[-1] += (
            f": {summary.hours_per_core_hour:,.0f} h of sound per core-hour, "
            f"{100 * summary.decode_share:.0f} % of it for decoding"
        )
    if summary.removed:
        lines.append(f"removed shards of other sounds or settings: {summary.removed:,}")
    if outcomes:
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
        lines.append(f"{counts}: {output.rstrip('/')}/report.jsonl has the reasons")
    return "\n".join(lines)
