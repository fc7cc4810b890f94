"""``singleout extract``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from singleout.cli.arguments import recordings_and_queries
from singleout.cli.extract_options import (
    Arguments,
    AsJson,
    ChunkSeconds,
    Device,
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
    STDOUT,
    check_stdout,
    named_stdout,
    refuse_several,
    target_on_stdout,
    with_stdin,
)
from singleout.cli.report import ReportFile, progress_bar, result_lines
from singleout.errors import AudioError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singleout.extract.batch import Job, JobResult
    from singleout.extract.extractor import Extractor
    from singleout.extract.options import OutputOptions
    from singleout.types import Query

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
    _check_outputs(output, format, report, plot)

    from singleout.extract import Extractor
    from singleout.extract.options import OutputOptions

    with target_on_stdout() if to_stdout else nullcontext(output) as folder:
        planned = _plan(recordings, folder, queries, report, [*(like or ()), *(unlike or ())])
        if to_stdout:
            refuse_several(planned, "recording")
        extractor = Extractor.from_pretrained(
            model, encoder, device=device, gate=gate, link_channels=link_channels,
            chunk_seconds=chunk_seconds, strict=strict, track=track,
        )  # fmt: skip
        extractor.prepare(queries)  # or every recording would fail because of a query
        residual = residual is not False and not to_stdout
        outputs = OutputOptions(folder, format, residual, plot)  # type: ignore[arg-type]
        results = _run(
            extractor, planned, queries, outputs, jobs, skip_existing, report, as_json, to_stdout
        )
    _conclude(results)


def _plan(
    recordings: Sequence[str | BinaryIO],
    folder: Path,
    queries: Sequence[Query],
    report: Path | None,
    examples: Sequence[Path],
) -> Sequence[Job]:
    """Find the recordings, and refuse outputs that would replace one of them or an example."""
    from singleout.extract.batch import plan_jobs
    from singleout.extract.recordings import find_recordings

    planned = plan_jobs(find_recordings(recordings), folder, queries)
    if report is not None:
        check_file(report, *(job.path for job in planned), *examples)
    return planned


def _check_outputs(output: Path, format: str, report: Path | None, plot: bool) -> None:
    """Refuse outputs that cannot be written, before any work."""
    from singleout.audio import AudioInfo, output_kind

    output_kind(AudioInfo(1, 1), format)  # type: ignore[arg-type]  # refuses unknown formats
    if output != STDOUT:
        check_folder(output)
    if report is not None:
        check_file(report, output)
    if plot:
        from singleout.extract.picture import require_matplotlib

        require_matplotlib()


def _run(
    extractor: Extractor,
    jobs: Sequence[Job],
    queries: Sequence[Query],
    outputs: OutputOptions,
    num_jobs: int,
    skip_existing: bool,
    report: Path | None,
    as_json: bool,
    to_stdout: bool,
) -> list[JobResult]:
    """Run the jobs and print each result as it comes."""
    import torch

    from singleout.extract.batch import run_jobs

    if num_jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // num_jobs))
    results: list[JobResult] = []
    report_file = ReportFile(report, append=skip_existing)
    with progress_bar(len(jobs)) as (progress, show):
        running = run_jobs(
            extractor,
            jobs,
            queries,
            outputs,
            skip_existing=skip_existing,
            num_jobs=num_jobs,
            progress=progress,
        )
        try:
            for result in running:
                if to_stdout:
                    result = named_stdout(result)
                results.append(result)
                lines = list(result_lines(result))
                report_file.add(lines)
                if result.error is not None and len(jobs) == 1 and not as_json:
                    raise AudioError(result.error)
                show(result, lines, as_json)
        except KeyboardInterrupt:
            if len(jobs) > 1:
                raise KeyboardInterrupt(
                    f"{len(results)} of {len(jobs)} recordings done; repeat the command with "
                    "--skip-existing for the rest"
                ) from None
            raise
        finally:
            running.close()  # type: ignore[attr-defined]
    return results


def _conclude(results: Sequence[JobResult]) -> None:
    """Print the counts of several jobs, and exit with the code of their results."""
    failed = [result for result in results if result.error is not None]
    if len(results) > 1:
        skipped = sum(bool(result.skipped) and not result.written for result in results)
        done = len(results) - len(failed) - skipped
        in_part = sum(any(not files.is_whole for files in result.written) for result in results)
        of_them = f" ({in_part} not whole)" if in_part else ""
        typer.echo(f"{done} done{of_them}, {skipped} skipped, {len(failed)} failed", err=True)
    if failed:
        raise typer.Exit(1 if len(failed) == len(results) else SOME_FAILED)
