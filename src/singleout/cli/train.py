"""``singleout train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from singleout.cli.options import named

FROM_NOTHING = {
    "separator": {"type": "conditioned_unet"},
    "manipulation": {"steps": [{"type": "neighbours"}, {"type": "dropout", "p": 0.25}]},
}
"""The model that a folder of sounds trains where it does not go on from another one."""


def train(
    config: Annotated[
        Path | None, typer.Argument(help="A run's YAML or JSON.", readable=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it, such as model.separator.hop=512.")
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="Folder of sounds, without captions, instead of a config."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run.", parser=named, metavar="PATH"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Folder of a model to start from; 'builtin' is the one in the package."),
    ] = None,
) -> None:
    """Train an extractor on sounds alone; it answers words all the same.

    A stopped run goes on where its last checkpoint stands when the same command is given again.
    """
    from singleout.config import load_config, validated
    from singleout.errors import ConfigError, MissingExtraError

    try:
        from singleout.train.config import TrainConfig
        from singleout.train.run import train as run
    except ImportError as error:
        raise MissingExtraError(
            f"training needs the train extra ({error}): pip install 'singleout[train]'"
        ) from None

    given: list[str] = list(overrides or ())
    if config is not None and audio is not None:
        raise ConfigError(
            "give either a config or --audio, not both: changes such as steps=100 are of a config, "
            "with --audio there are --steps and --init"
        )
    if config is not None:
        options = (("output", output), ("steps", steps), ("init", _init(init)))
        # As JSON: a folder may be called 2024-07-30, which YAML takes for a date.
        given += [
            f"{key}={json.dumps(value if isinstance(value, int) else str(value))}"
            for key, value in options
            if value is not None
        ]
        settings = load_config(TrainConfig, config, given)
    elif audio is not None:
        if output is None:
            raise ConfigError("--audio needs --output: the folder that the run is written to")
        values: dict[str, object] = {"audio": audio, "output": output, "model": FROM_NOTHING}
        if steps is not None:
            values |= {"steps": steps, "warmup_steps": min(200, steps // 10)}
        if (start := _init(init)) is not None:
            from singleout.model import read_config

            values |= {"init": start, "model": read_config(start).model_dump(exclude={"sha256"})}
        settings = validated(TrainConfig, values, "the options")
    else:
        raise ConfigError("nothing to train on: give a config, or --audio FOLDER --output DIR")
    if settings.audio is not None:
        _tell_left_out(settings.audio)
    try:
        model = run(settings)
    except KeyboardInterrupt:
        typer.echo(
            f"stopped: the same command goes on from the last checkpoint in {settings.output}",
            err=True,
        )
        raise
    typer.echo(f"model: {model}")


def _tell_left_out(folder: Path) -> None:
    from singleout.data.manifest import needing_ffmpeg

    if paths := needing_ffmpeg(folder):
        kinds = ", ".join(sorted({path.suffix.lower() for path in paths}))
        typer.echo(
            f"warning: {folder}: {len(paths):,} files are left out ({kinds}): convert them first, "
            "such as with ffmpeg -i FILE FILE.flac",
            err=True,
        )


def _init(name: str | None) -> Path | None:
    from singleout.storage.models import resolve_model

    return None if name is None else resolve_model(name)
