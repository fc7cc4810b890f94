"""``singleout extract``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import Encoder, Model, named
from singleout.cli.outputs import check_file, check_folder

if TYPE_CHECKING:
    from singleout.extract.batch import Outcome, Task

PATIENCE_SECONDS = 2.0
"""The progress bar appears after this time."""
LIKELY = 0.35
"""Presence below it is worth a word: there a gate is half closed. Most of what people ask for is
there, while calibration has as much that is not."""
SOME_FAILED = 3
"""Exit code where some recordings worked and others did not."""


def extract(
    recordings_and_query: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDING... QUERY",
            help="Files (WAV, FLAC, MP3, M4A, MP4, MKV, ...), folders or patterns; then what to "
            "single out, such as 'a dog barking', unless an option says it.",
            show_default=False,
        ),
    ],
    query: Annotated[
        list[str] | None,
        typer.Option("--query", "-q", help="What to single out; again for more of it at once."),
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(help="Recording of such a sound, instead of words or beside them."),
    ] = None,
    unwanted: Annotated[
        list[str] | None,
        typer.Option("--not", help="What is not meant; alone, it is what to take away."),
    ] = None,
    unlike: Annotated[
        list[Path] | None,
        typer.Option("--not-like", help="Recording of what is not meant."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the results; created if missing.",
            parser=named,
            metavar="PATH",
        ),
    ] = Path(),
    residual: Annotated[bool, typer.Option(help="Write all that is not the target, too.")] = True,
    format: Annotated[
        str, typer.Option(help="Container of the results: auto, wav, flac, aiff, ogg, mp3.")
    ] = "auto",
    model: Model = None,
    encoder: Encoder = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "auto",
    link_channels: Annotated[
        bool,
        typer.Option(
            "--link-channels/--separate-channels",
            help="One decision for all channels, so that the target stays where it was.",
        ),
    ] = True,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate/--no-gate",
            help="Bring targets to their level, nearly to silence where what is asked for seems "
            "not to be there; without, they are as loud as the separator found them.",
        ),
    ] = True,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Recordings at a time.")] = 1,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what is there already.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="File of what became of each, one JSON object per line.",
            parser=named,
            metavar="PATH",
        ),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the spectrograms of mixture, target and residual.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per recording and query.")
    ] = False,
) -> None:
    """Write the described sound of recordings, and the rest of them, as files.

    The files are RECORDING.QUERY.target.EXT and RECORDING.QUERY.residual.EXT, at the rate, length
    and channels of the recording, of its own kind where that makes sense; together they are the
    recording. Exit code: 0, all done; 1, nothing; 3, some recordings failed.
    """
    from singleout.audio import AudioInfo, output_kind
    from singleout.errors import AudioError
    from singleout.types import Example, Query

    # What fails at once comes first, before torch is loaded.
    is_asked = bool(query or like or unwanted or unlike)
    _refuse_files("--query", query or (), "--like")
    _refuse_files("--not", unwanted or (), "--not-like")
    places, texts = _arguments(recordings_and_query, query, is_asked)
    beside = tuple(Example(path) for path in like or ())
    wanted: list[tuple[str | Example, ...]] = [(text, *beside) for text in texts] or [beside]
    negative = (*(unwanted or ()), *(Example(path) for path in unlike or ()))
    asked = [Query(prompts, negative) for prompts in wanted]
    output_kind(AudioInfo(1, 1), format)  # type: ignore[arg-type]  # refuses what there is not
    check_folder(output)
    if report is not None:
        check_file(report, output)
    if plot:
        from singleout.extract.plotting import require_matplotlib

        require_matplotlib()

    import torch

    from singleout.extract import Extractor
    from singleout.extract.batch import find_recordings, run_batch, tasks_of
    from singleout.extract.outputs import FilesWanted

    tasks = tasks_of(find_recordings(places), output, asked)
    if report is not None:
        check_file(report, *(task.path for task in tasks), *(like or ()), *(unlike or ()))
    if jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    extractor = Extractor.from_pretrained(model, encoder, device=device, gate=gate)
    extractor.prepare(asked)  # or every recording would be refused for it
    outcomes: list[Outcome] = []
    with (
        _progress_bar(len(tasks)) as (progress, show),
        _report_file(report, goes_on=skip_existing) as tell,
    ):
        batch = run_batch(
            extractor,
            tasks,
            asked,
            FilesWanted(output, format, residual, plot),  # type: ignore[arg-type]
            link_channels=link_channels,
            skip_existing=skip_existing,
            num_jobs=jobs,
            progress=progress,
        )
        try:
            for outcome in batch:
                outcomes.append(outcome)
                lines = list(_lines(outcome))
                tell(lines)
                if outcome.error is not None and len(tasks) == 1 and not as_json:
                    raise AudioError(outcome.error)
                show(outcome, lines, as_json)
        except KeyboardInterrupt:
            if len(tasks) > 1:
                typer.echo(
                    f"{len(outcomes)} of {len(tasks)} recordings done; the same command with "
                    "--skip-existing does the rest",
                    err=True,
                )
            raise
        finally:
            batch.close()  # type: ignore[attr-defined]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(tasks) > 1:
        skipped = sum(bool(o.skipped) and not o.written for o in outcomes)
        done = len(outcomes) - len(failed) - skipped
        typer.echo(f"{done} done, {skipped} skipped, {len(failed)} failed", err=True)
    if failed:
        raise typer.Exit(1 if len(failed) == len(outcomes) else SOME_FAILED)


def _arguments(
    positional: Sequence[str], queries: Sequence[str] | None, is_asked: bool
) -> tuple[list[str], list[str]]:
    """Recordings and queries: the last argument is the query, unless options ask already."""
    if queries:
        return list(positional), list(queries)
    if is_asked and len(positional) > 1 and _is_bare(positional[-1]):
        raise typer.BadParameter(
            f"'{positional[-1]}' may be words or what is at that place: with --query it is words, "
            f"as .{os.sep}{positional[-1]} a recording",
            param_hint="'QUERY'",
        )
    if is_asked and (len(positional) == 1 or _names_recordings(positional[-1])):
        return list(positional), []
    if len(positional) < 2:
        raise typer.BadParameter("nothing to single out: say what, last", param_hint="'QUERY'")
    with suppress(OSError, ValueError):  # too long for a name: it is a query
        if Path(positional[-1]).is_file():
            raise typer.BadParameter(
                f"'{positional[-1]}' is a file: say what to single out, last, or with --query",
                param_hint="'QUERY'",
            )
    return list(positional[:-1]), [positional[-1]]


def _refuse_files(option: str, texts: Sequence[str], instead: str) -> None:
    """Sounds that are taken for words."""
    for text in texts:
        with suppress(OSError, ValueError):  # too long for a name
            if Path(text).suffix and Path(text).is_file():
                raise typer.BadParameter(
                    f"'{text}' is a file: give it with {instead}, or say what it sounds like",
                    param_hint=f"'{option}'",
                )


def _is_bare(text: str) -> bool:
    """Whether words are also the name of something here, such as of a folder ``rain``."""
    with suppress(OSError, ValueError):
        return Path(text).name == text and not Path(text).suffix and Path(text).exists()
    return False


def _names_recordings(text: str) -> bool:
    """Where an argument may be a query as well."""
    from glob import has_magic

    with suppress(OSError, ValueError):
        if Path(text).exists():
            return True
    return " " not in text and (has_magic(text) or bool(Path(text).suffix))


def _lines(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """What became of a recording, one object per query."""
    source = {"input": str(outcome.task.path)}
    for query in outcome.failed:
        assert outcome.error is not None
        yield {**source, "query": str(query), "error": " ".join(outcome.error.split())}
    for query in outcome.skipped:
        yield {**source, "query": str(query), "skipped": True}
    for written in outcome.written:
        share = outcome.wall_seconds / len(outcome.written)
        yield {
            **source,
            **written.as_json(),
            "wall_seconds": round(share, 3),
            "real_time_factor": round(share / written.seconds, 4),
        }


@contextmanager
def _report_file(
    path: Path | None, goes_on: bool
) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """A function that adds lines to the report, which is whole after each of them."""
    import json

    from singleout.errors import AudioError

    if path is None:
        yield lambda lines: None
        return

    def add(lines: Sequence[dict[str, Any]], mode: str = "a") -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise AudioError(f"{path}: cannot be written: {error.strerror}") from None

    add([], "a" if goes_on else "w")
    yield add


@contextmanager
def _progress_bar(num_tasks: int) -> Iterator[tuple[Any, Any]]:
    """A callback for ``run_batch`` that draws on a terminal, if the work takes long, and one that
    prints an outcome without disturbing the bar."""
    import sys
    from time import perf_counter

    from rich.console import Console
    from rich.progress import Progress

    if not sys.stderr.isatty():
        yield None, _print
        return
    started = perf_counter()
    bar = Progress(console=Console(stderr=True), transient=True)
    row = bar.add_task("extracting", total=float(num_tasks))
    shares: dict[Path, float] = {}

    def progress(task: Task, share: float) -> None:
        shares[task.path] = share
        total = sum(shares.copy().values())
        if perf_counter() - started > PATIENCE_SECONDS and total < num_tasks:
            bar.start()
        bar.update(row, completed=total)

    def show(outcome: Outcome, lines: Sequence[dict[str, Any]], as_json: bool) -> None:
        if not bar.live.is_started:
            _print(outcome, lines, as_json)
            return
        bar.live.stop()
        _print(outcome, lines, as_json)
        bar.live.start()

    try:
        yield progress, show
    finally:
        if bar.live.is_started:
            bar.stop()


def _print(outcome: Outcome, lines: Sequence[dict[str, Any]], as_json: bool) -> None:
    import json

    if outcome.error is not None:
        typer.echo(f"error: {_shown(outcome.error)}", err=True)
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    for query in outcome.skipped:
        typer.echo(f"'{query}' in {_shown(outcome.task.path)}: there already")
    for written in outcome.written:
        share = outcome.wall_seconds / len(outcome.written)
        typer.echo(
            f"'{written.query}' in {_shown(outcome.task.path)}: {written.seconds:.1f} s of sound "
            f"in {share:.1f} s"
        )
        if written.presence is not None:
            doubt = "" if written.presence >= LIKELY else ": probably not in this recording"
            typer.echo(f"  presence  {written.presence:9.0%}{doubt}")
        for kind in ("target", "residual", "plot"):
            if (path := getattr(written, kind)) is not None:
                level = _level(getattr(written, f"{kind}_db", None))
                typer.echo(f"  {kind:<9} {level}  {_shown(path)}")


def _level(level_db: float | None) -> str:
    return "          " if level_db is None else f"{level_db:+7.1f} dB"


def _shown(text: object) -> str:
    """On one line, whatever a file's name holds."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in str(text))
