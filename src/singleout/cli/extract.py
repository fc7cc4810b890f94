"""``singleout extract``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from singleout.cli.arguments import recordings_and_queries
from singleout.cli.extract_options import (
    Address,
    Arguments,
    AsJson,
    ChunkSeconds,
    Device,
    Engine,
    Format,
    Jobs,
    Like,
    LinkChannels,
    OutputFolder,
    Plot,
    QueryTexts,
    Report,
    Residual,
    SkipExisting,
    Strict,
    Track,
    Unlike,
    Unwanted,
    WithGate,
)
from singleout.cli.options import Encoder, Model
from singleout.cli.outputs import check_file, check_folder
from singleout.cli.pipes import (
    ONE_TARGET,
    STDOUT,
    check_stdout,
    named_stdout,
    refuse_several,
    target_on_stdout,
    with_stdin,
)
from singleout.cli.report import ReportFile, progress_bar, result_lines
from singleout.errors import AudioError, OutputError
from singleout.storage.locations import store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from singleout.extract.batch import Job, JobResult
    from singleout.extract.workers import JobWorker
    from singleout.types import Query

    Start = Callable[[Callable[[Job, float], None] | None], Iterator[JobResult]]
    """Starts the jobs, with a callback for their progress."""

SOME_FAILED = 3
"""Exit code where some recordings worked and others did not."""


def extract(
    recordings_and_query: Arguments,
    query: QueryTexts = None,
    like: Like = None,
    unwanted: Unwanted = None,
    unlike: Unlike = None,
    output: OutputFolder = Path(),
    residual: Residual = None,
    format: Format = "auto",
    model: Model = None,
    encoder: Encoder = None,
    device: Device = "auto",
    link_channels: LinkChannels = True,
    gate: WithGate = True,
    chunk_seconds: ChunkSeconds = 20.0,
    strict: Strict = False,
    track: Track = None,
    jobs: Jobs = 1,
    engine: Engine = "local",
    address: Address = None,
    skip_existing: SkipExisting = False,
    report: Report = None,
    plot: Plot = False,
    as_json: AsJson = False,
) -> None:
    """Extract the described sound from recordings, and write it and the rest as files.

    The files are RECORDING.QUERY.target.EXT and RECORDING.QUERY.residual.EXT. They have the rate,
    length, channels and format of the recording, and add up to it. Exit code: 0, all recordings
    succeeded; 1, none did; 3, some failed.
    """
    # What fails at once comes first, before torch is loaded.
    places, queries = recordings_and_queries(recordings_and_query, query, like, unwanted, unlike)
    recordings, to_stdout = with_stdin(places), output == STDOUT
    if to_stdout:
        check_stdout(queries, residual=residual, plot=plot, skip_existing=skip_existing)
        format = "wav" if format == "auto" else format
    _check_engine(engine, address, to_stdout)
    _check_outputs(output, format, report, plot)

    with target_on_stdout() if to_stdout else nullcontext(output) as folder:
        inputs = [*map(Path, places), *(like or ()), *(unlike or ())]
        planned = _plan(recordings, folder, queries, report, inputs)
        if to_stdout:
            refuse_several(planned, "recording")

        from singleout.extract.options import ExtractOptions, OutputOptions
        from singleout.extract.workers import JobWorker

        residual = residual is not False and not to_stdout
        outputs = OutputOptions(folder, format, residual, plot)  # type: ignore[arg-type]
        options = ExtractOptions(link_channels, gate, chunk_seconds, strict, track)
        worker = JobWorker(
            tuple(queries), outputs, skip_existing, model, encoder, device, options, _threads(jobs)
        )
        start = _start(engine, address, worker, planned, jobs)
        tally = _run(start, len(planned), ReportFile(report, skip_existing), as_json, to_stdout)
    _conclude(tally)


def _plan(
    recordings: Sequence[str | BinaryIO],
    folder: Path,
    queries: Sequence[Query],
    report: Path | None,
    inputs: Sequence[Path],
) -> Sequence[Job]:
    """Find the recordings, and refuse outputs that would replace one of them or an input."""
    from singleout.extract.batch import plan_jobs
    from singleout.extract.recordings import find_recordings

    planned = plan_jobs(find_recordings(recordings), folder, queries)
    if report is not None:
        check_file(report, *(job.path for job in planned), *inputs)
    return planned


def _check_outputs(output: Path, format: str, report: Path | None, plot: bool) -> None:
    """Refuse outputs that cannot be written, before any work."""
    from singleout.audio import AudioInfo, output_kind

    output_kind(AudioInfo(1, 1), format)  # type: ignore[arg-type]  # refuses unknown formats
    if (store := store_of(output)) is not None:
        store.exists()  # refuses a store that does not answer
    elif output != STDOUT:
        check_folder(output)
    if report is not None:
        check_file(report, output)
    if plot:
        from singleout.extract.picture import require_matplotlib

        require_matplotlib()


def _check_engine(engine: str, address: str | None, to_stdout: bool) -> None:
    """Refuse options that need another engine."""
    if engine == "local" and address is not None:
        raise typer.BadParameter("is of a Ray cluster: add --engine ray", param_hint="'--address'")
    if engine != "local" and to_stdout:
        raise OutputError(f"{ONE_TARGET}: --engine {engine} needs an output folder")


def _threads(num_jobs: int) -> int:
    """Threads of each of several jobs that share the cores."""
    import torch

    return max(1, torch.get_num_threads() // num_jobs)


def _start(
    engine: str, address: str | None, worker: JobWorker, jobs: Sequence[Job], num_jobs: int
) -> Start:
    """Prepare the run of the jobs, and refuse what would fail in every one of them."""
    import torch

    from singleout.engines import load_engine
    from singleout.extract.batch import run_jobs
    from singleout.extract.stores import refuse_memory
    from singleout.extract.workers import run_jobs_on

    if engine != "local":
        refuse_memory([*(job.path for job in jobs), worker.outputs.folder])
        replace(worker, device="cpu").extractor()  # the cluster may have other devices
        processes = load_engine(
            engine,  # type: ignore[arg-type]
            address,
            cpus_per_worker=worker.num_threads,
            gpus_per_worker=0 if worker.device == "cpu" else 1,
        )
        return lambda progress: run_jobs_on(processes, worker, jobs, progress)
    torch.set_num_threads(worker.num_threads)
    extractor = worker.extractor()
    return lambda progress: run_jobs(
        extractor,
        jobs,
        worker.queries,
        worker.outputs,
        skip_existing=worker.skip_existing,
        num_jobs=num_jobs,
        progress=progress,
    )


@dataclass
class _Tally:
    """What became of the recordings: the number of each."""

    total: int = 0
    failed: int = 0
    skipped: int = 0
    in_part: int = 0

    def add(self, result: JobResult) -> None:
        self.total += 1
        self.failed += result.error is not None
        self.skipped += bool(result.skipped) and not result.written and result.error is None
        self.in_part += any(not files.is_whole for files in result.written)


def _run(
    start: Start, num_recordings: int, report: ReportFile, as_json: bool, to_stdout: bool
) -> _Tally:
    """Run the jobs and print each result as it comes."""
    tally = _Tally()
    with progress_bar(num_recordings) as (progress, show):
        running = start(progress)
        try:
            for result in running:
                if to_stdout:
                    result = named_stdout(result)
                tally.add(result)
                lines = list(result_lines(result))
                report.add(lines)
                if result.error is not None and num_recordings == 1 and not as_json:
                    raise AudioError(result.error)
                show(result, lines, as_json)
        except KeyboardInterrupt:
            if num_recordings > 1:
                raise KeyboardInterrupt(
                    f"{tally.total} of {num_recordings} recordings done; repeat the command with "
                    "--skip-existing for the rest"
                ) from None
            raise
        finally:
            running.close()  # type: ignore[attr-defined]
    return tally


def _conclude(tally: _Tally) -> None:
    """Print the counts of several jobs, and exit with the code of their results."""
    if tally.total > 1:
        done = tally.total - tally.failed - tally.skipped
        of_them = f" ({tally.in_part} not whole)" if tally.in_part else ""
        counts = f"{tally.skipped} skipped, {tally.failed} failed"
        typer.echo(f"{done} done{of_them}, {counts}", err=True)
    if tally.failed:
        raise typer.Exit(1 if tally.failed == tally.total else SOME_FAILED)
