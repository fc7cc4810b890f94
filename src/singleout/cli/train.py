"""``singleout train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleout.cli.deadline import ending_in_time
from singleout.cli.options import SkipBad, named
from singleout.cli.signals import stop_signals

if TYPE_CHECKING:
    from singleout.train import TrainConfig

NEW_MODEL = {
    "separator": {"type": "conditioned_unet"},
    "manipulation": {"steps": [{"type": "neighbours"}, {"type": "dropout", "p": 0.25}]},
}
"""The model that ``--audio`` and ``--shards`` train without ``--init``."""

Config = Annotated[
    Path | None, typer.Argument(help="Config of the run, YAML or JSON.", readable=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the config, such as model.separator.hop=512."),
]
Audio = Annotated[
    Path | None, typer.Option(help="Folder of sounds to train on, instead of a config.")
]
Shards = Annotated[
    str | None,
    typer.Option(
        help="Corpus of 'singleout prepare' to train on, by folder or address.", metavar="PLACE"
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the run.", parser=named, metavar="PATH"),
]
Steps = Annotated[int | None, typer.Option(help="Number of optimiser steps.", min=1)]
Init = Annotated[
    str | None,
    typer.Option(help="Model to start from: 'builtin', a folder, or owner/name on a hub."),
]


def train(
    config: Config = None,
    overrides: Overrides = None,
    audio: Audio = None,
    shards: Shards = None,
    output: Output = None,
    steps: Steps = None,
    init: Init = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a model on sounds alone. It extracts sounds by text queries.

    Repeat the command to resume a stopped run from its last checkpoint.
    """
    from singleout.errors import ConfigError
    from singleout.train.places import Place, launched_place

    is_first = (launched_place() or Place()).is_first  # only the first process prints
    if (config is not None) + (audio is not None) + (shards is not None) > 1:
        raise ConfigError(
            "give a config, --audio or --shards, and only one of them; to change a config, write "
            "steps=100 or the like; with --audio or --shards, use --steps and --init"
        )
    if config is not None:
        settings = _from_config(config, list(overrides or ()), output, steps, init)
    else:
        settings = _from_sounds({"audio": audio, "shards": shards}, output, steps, init)
    if skip_bad:
        settings = settings.model_copy(update={"skip_bad": True})
    if settings.audio is not None and is_first:
        _warn_of_skipped(settings.audio)
    model = _trained(settings, is_first)
    if is_first:
        typer.echo(f"model: {model}")


def _trained(settings: TrainConfig, is_first: bool) -> Path:
    """Train. Only the first process of several tells why it ended."""
    from singleout.train import train as run
    from singleout.train.processes import EndedElsewhereError

    advice = f"repeat the command to resume from the last checkpoint in {settings.output}"
    try:
        with ending_in_time(advice):
            return run(settings)
    except EndedElsewhereError:
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if not is_first:
            raise typer.Exit(stop_signals.exit_code) from None
        raise KeyboardInterrupt(advice) from None


def _from_config(
    path: Path, overrides: list[str], output: Path | None, steps: int | None, init: str | None
) -> TrainConfig:
    from singleout.config import load_config
    from singleout.train import TrainConfig

    options = (("output", output), ("steps", steps), ("init", init))
    # As JSON: a folder may be called 2024-07-30, which YAML takes for a date.
    changes = [
        f"{key}={json.dumps(value if isinstance(value, int) else str(value))}"
        for key, value in options
        if value is not None
    ]
    return load_config(TrainConfig, path, [*overrides, *changes])


def _from_sounds(
    places: Mapping[str, Path | str | None],
    output: Path | None,
    steps: int | None,
    init: str | None,
) -> TrainConfig:
    """The config of a run without a file of its own. One of ``places`` has its sounds."""
    from singleout.config import validated
    from singleout.errors import ConfigError
    from singleout.model import read_config
    from singleout.storage.models import resolve_model
    from singleout.train import TrainConfig

    given = {key: place for key, place in places.items() if place is not None}
    if not given:
        raise ConfigError(
            "nothing to train on: give a config, or --audio FOLDER or --shards PLACE with --output"
        )
    if output is None:
        (key,) = given
        raise ConfigError(f"--{key} needs --output: the folder that the run is written to")
    values: dict[str, object] = {**given, "output": output, "model": NEW_MODEL}
    if steps is not None:
        values |= {"steps": steps, "warmup_steps": min(200, steps // 10)}
    if init is not None:
        model = read_config(resolve_model(init)).model_dump(exclude={"sha256"})
        values |= {"init": init, "model": model}
    return validated(TrainConfig, values, "the options")


def _warn_of_skipped(folder: Path) -> None:
    """Say what of a folder is not trained on."""
    from singleout.data.manifest import needing_ffmpeg
    from singleout.storage.folders import list_files

    if not folder.is_dir():
        return
    if paths := needing_ffmpeg(folder):
        suffixes = ", ".join(sorted({path.suffix.lower() for path in paths}))
        _warn(
            f"{folder}: {len(paths):,} files are left out ({suffixes}): convert them first, such "
            "as with ffmpeg -i FILE FILE.flac"
        )
    listing = list_files([folder])
    if listing.problems:
        _warn(
            f"{folder}: {len(listing.problems):,} links or folders are left out, such as "
            f"{listing.problems[0]}"
        )
    counts = {
        "hidden": listing.num_hidden,
        "further names of the same files": listing.num_repeated,
        "pipes or devices": listing.num_special,
    }
    if parts := [f"{count:,} {what}" for what, count in counts.items() if count]:
        _warn(f"{folder}: left out: {', '.join(parts)}")


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)
