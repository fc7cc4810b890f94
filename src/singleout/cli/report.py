"""Output of ``singleout extract``: lines, a JSON report and a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from singleout.cli.messages import printable
from singleout.errors import OutputError
from singleout.progress import is_shown
from singleout.storage.addresses import shown

if TYPE_CHECKING:
    from singleout.extract.batch import Job, JobResult

LINE_START = b'{"input": '
PATIENCE_SECONDS = 2.0
"""The progress bar appears after this time."""
LIKELY = 0.35
"""A lower presence is reported as *probably not in this recording*. The limit is below one half,
because most queries are for present sounds, while calibration has as many absent ones."""


def result_lines(result: JobResult) -> Iterator[dict[str, Any]]:
    """One JSON object per query of a job.

    Example:
        >>> from pathlib import Path
        >>> from singleout import Query
        >>> from singleout.extract.batch import Job, JobResult
        >>> result = JobResult(Job(Path("x.wav"), Path(), "x"), skipped=[Query("rain")])
        >>> list(result_lines(result))
        [{'input': 'x.wav', 'query': 'rain', 'skipped': True}]
    """
    source = {"input": shown(result.job.path)}
    for query in result.failed:
        assert result.error is not None
        yield {**source, "query": str(query), "error": " ".join(result.error.split())}
    for query in result.skipped:
        yield {**source, "query": str(query), "skipped": True}
    for written in result.written:
        share = result.wall_seconds / len(result.written)
        yield {
            **source,
            **written.as_json(),
            "wall_seconds": round(share, 3),
            "real_time_factor": round(share / written.seconds, 4),
        }


class ReportFile:
    """A file of JSON lines that is complete after every line.

    Args:
        path: of the file; None: nothing is written.
        append: keep the lines of an earlier run. A line that a kill has cut is removed.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "report.jsonl"
        ...     ReportFile(path, append=False).add([{"input": "x.wav"}])
        ...     path.read_text()
        '{"input": "x.wav"}\\n'
    """

    def __init__(self, path: Path | None, append: bool) -> None:
        self._path = path
        self._write([], "a" if append else "w")
        self._cut_torn_line()

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines.

        Raises:
            OutputError: the file cannot be written.
        """
        self._write(lines, "a")

    def _cut_torn_line(self) -> None:
        if self._path is None or not self._path.is_file():  # such as /dev/stderr
            return
        with self._path.open("rb+") as file:
            content = file.read()
            start = content.rfind(b"\n") + 1
            if content[start:].startswith(LINE_START):  # and nothing of a file of another kind
                file.truncate(start)

    def _write(self, lines: Sequence[dict[str, Any]], mode: str) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from None


@contextmanager
def progress_bar(num_jobs: int) -> Iterator[tuple[Any, Callable[..., None]]]:
    """A progress bar on stderr that appears if the work takes long, and only on a terminal.

    Args:
        num_jobs: recordings in all.

    Yields:
        A callback for ``run_jobs`` (None where there is no terminal), and a function that prints a
        result above the bar.

    Example:
        >>> with progress_bar(num_jobs=2) as (progress, show):
        ...     progress is None  # no terminal here
        True
    """
    from rich.console import Console
    from rich.progress import Progress

    if not is_shown():
        yield None, print_result
        return
    started = perf_counter()
    bar = Progress(console=Console(stderr=True), transient=True)
    row = bar.add_task("extracting", total=float(num_jobs))
    shares: dict[Path, float] = {}

    def progress(job: Job, share: float) -> None:
        shares[job.path] = share
        total = sum(shares.copy().values())
        if perf_counter() - started > PATIENCE_SECONDS and total < num_jobs:
            bar.start()
        bar.update(row, completed=total)

    def show(result: JobResult, lines: Sequence[dict[str, Any]], as_json: bool) -> None:
        if not bar.live.is_started:
            print_result(result, lines, as_json)
            return
        bar.live.stop()
        print_result(result, lines, as_json)
        bar.live.start()

    try:
        yield progress, show
    finally:
        if bar.live.is_started:
            bar.stop()


def print_result(result: JobResult, lines: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print a result: its error on stderr, its files on stdout, as text or as JSON lines.

    Example:
        >>> from singleout import Query
        >>> from singleout.extract.batch import Job, JobResult
        >>> result = JobResult(Job(Path("x.wav"), Path(), "x"), skipped=[Query("rain")])
        >>> print_result(result, [], as_json=False)
        'rain' in x.wav: skipped, its files exist
    """
    if result.error is not None:
        typer.echo(f"error: {printable(result.error)}", err=True)
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    path = printable(shown(result.job.path))
    for query in result.skipped:
        typer.echo(f"'{query}' in {path}: skipped, its files exist")
    for written in result.written:
        share = result.wall_seconds / len(result.written)
        typer.echo(
            f"'{written.query}' in {path}: {written.seconds:.1f} s of sound in {share:.1f} s"
        )
        if written.presence is not None:
            doubt = "" if written.presence >= LIKELY else ": probably not in this recording"
            typer.echo(f"  presence  {written.presence:9.0%}{doubt}")
        for kind in ("target", "residual", "plot"):
            if (file := getattr(written, kind)) is not None:
                level = _level(getattr(written, f"{kind}_db", None))
                typer.echo(f"  {kind:<9} {level}  {printable(shown(file))}")


def _level(level_db: float | None) -> str:
    return "          " if level_db is None else f"{level_db:+7.1f} dB"
