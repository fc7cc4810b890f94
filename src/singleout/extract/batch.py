"""Many recordings: plan the names of their files, and extract what is missing.

Paths of recordings and of folders may be addresses of a store, such as ``s3://bucket/sounds``.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import BinaryIO, Unpack

from singleout.errors import OutputError, SingleoutError, one_line
from singleout.extract.extractor import Extractor
from singleout.extract.names import part_paths, query_slug, query_slugs
from singleout.extract.options import OptionChanges, OutputOptions
from singleout.extract.outputs import WrittenFiles
from singleout.extract.recordings import PART_ENDS, Source, is_kind
from singleout.extract.stores import delivering
from singleout.storage.addresses import shown
from singleout.storage.journal import recover_once
from singleout.storage.locations import store_of
from singleout.types import Query

CONTAINERS = ("wav", "flac", "aiff")
"""What the format ``auto`` may choose."""


@dataclass(frozen=True)
class Job:
    """A recording and the place of its files.

    Attributes:
        path: of the recording.
        folder: of its files.
        name: first part of the names of its files.
        file: the recording, where it is a file object and no path.

    Example:
        >>> Job(Path("in/street.wav"), Path("out"), "street").name
        'street'
    """

    path: Path
    folder: Path
    name: str
    file: BinaryIO | None = None


@dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
        job: the job.
        written: files of every query that was extracted.
        skipped: queries whose files existed already.
        failed: queries that were not extracted because of the error.
        error: why nothing was written; None if the job succeeded.
        wall_seconds: time that the job took.

    Example:
        >>> job = Job(Path("in/street.wav"), Path("out"), "street")
        >>> JobResult(job, error="in/street.wav: no such file").written
        []
    """

    job: Job
    written: list[WrittenFiles] = field(default_factory=list)
    skipped: list[Query] = field(default_factory=list)
    failed: list[Query] = field(default_factory=list)
    error: str | None = None
    wall_seconds: float = 0.0


def _folded(name: str | Path) -> str:
    """The name in one case and one encoding of accents, as some file systems compare names."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def plan_jobs(sources: Sequence[Source], folder: Path, queries: Sequence[Query]) -> list[Job]:
    """Give every recording names of its own: ``x.wav`` next to ``x.mp3`` keeps its suffix.

    Args:
        sources: see ``singleout.extract.recordings``.
        folder: output folder.
        queries: their names are part of the files' names.

    Returns:
        One job per recording.

    Raises:
        OutputError: two recordings would get the same files, or one would be overwritten.

    Example:
        >>> plan_jobs([Source(Path("in/street.wav"))], Path("out"), [Query("a dog")])[0].name
        'street'
    """
    namesakes = Counter((_folded(s.below), _folded(s.path.stem)) for s in sources)
    jobs = []
    for source in sources:
        is_unique = namesakes[_folded(source.below), _folded(source.path.stem)] == 1
        name = source.path.stem if is_unique else source.path.name
        jobs.append(Job(source.path, folder / source.below, name, source.file))
    taken: dict[tuple[str, str], Path] = {}
    for job in jobs:
        place = _folded(job.folder), _folded(job.name)
        if (other := taken.setdefault(place, job.path)) != job.path:
            raise OutputError(
                f"{shown(other)} and {shown(job.path)} would become the same files in "
                f"{shown(job.folder)}: give the folder that both are in, or another output folder "
                "for one of them"
            )
    _refuse_overwriting(jobs, query_slugs(queries))
    return jobs


def _refuse_overwriting(jobs: Sequence[Job], slugs: Sequence[str]) -> None:
    """Refuse outputs that would replace a recording of the batch."""
    resolved = cache(lambda folder: _folded(folder.resolve()))  # asks the disk for every part
    recordings = {(resolved(job.path.parent), _folded(job.path.stem)): job.path for job in jobs}
    for job in jobs:
        for slug in slugs:
            for end in PART_ENDS:
                place = resolved(job.folder), _folded(f"{job.name}.{slug}{end}")
                if (recording := recordings.get(place)) is not None:
                    raise OutputError(
                        f"{shown(recording)}: is a recording, and an output of {shown(job.path)} "
                        "has its name: choose another output folder"
                    )


def remaining_queries(job: Job, queries: Sequence[Query], outputs: OutputOptions) -> list[Query]:
    """Queries of a job without files that are newer than the recording.

    Files appear whole, so a file that exists is complete. Queries whose names would be the same
    are extracted together, as that is how they get names of their own.

    Example:
        >>> job = Job(Path("street.wav"), Path("no-such-folder"), "street")
        >>> remaining_queries(job, [Query("rain")], OutputOptions(job.folder)) == [Query("rain")]
        True
    """
    containers = CONTAINERS if outputs.format == "auto" else (outputs.format,)
    options = replace(outputs, folder=job.folder)

    recorded = None if job.file is not None else _changed_ns(job.path)
    if recorded is None:
        return list(queries)

    def is_new(path: Path) -> bool:
        changed = _changed_ns(path)
        return changed is not None and changed >= recorded

    def is_done(slug: str) -> bool:
        files = (part_paths(options, job.name, slug, container) for container in containers)
        return any(all(map(is_new, paths.all())) for paths in files)

    names = [query_slug(query) for query in queries]
    slugs = query_slugs(queries)
    missing = {name for name, slug in zip(names, slugs, strict=True) if not is_done(slug)}
    return [query for query, name in zip(queries, names, strict=True) if name in missing]


def _changed_ns(path: Path) -> int | None:
    """When a file was changed; None if there is no file."""
    if (store := store_of(path)) is not None:
        return store.changed_ns()
    return path.stat().st_mtime_ns if is_kind(path, Path.is_file) else None


def run_job(
    extractor: Extractor,
    job: Job,
    queries: Sequence[Query],
    outputs: OutputOptions,
    *,
    skip_existing: bool = False,
    progress: Callable[[float], None] | None = None,
    cancel: Event | None = None,
    **options: Unpack[OptionChanges],
) -> JobResult:
    """Extract the queries of one recording; an error becomes part of the result.

    Args:
        extractor, queries, outputs, skip_existing, options: see ``run_jobs``.
        job: its folder replaces that of ``outputs``.
        progress: called with the share of the job that is done.
        cancel: an event that stops the work before the next chunk.

    Example:
        >>> extractor = Extractor.from_pretrained("builtin")
        >>> job = Job(Path("missing.wav"), Path("out"), "missing")
        >>> run_job(extractor, job, [Query("rain")], OutputOptions(Path("out"))).error
        'missing.wav: no such file'
    """
    started = perf_counter()
    remaining = list(queries)
    written: list[WrittenFiles] = []
    reason: str | None = None
    report = progress or (lambda share: None)
    try:
        report(0.0)
        if skip_existing:
            recover_once(job.folder)  # files of a killed program do not count
            remaining = remaining_queries(job, queries, outputs)
        if remaining:
            with delivering(job.folder) as folder:
                files = extractor.extract_file(
                    job.file or store_of(job.path) or job.path,
                    remaining,
                    folder,
                    name=job.name,
                    format=outputs.format,
                    residual=outputs.residual,
                    plot=outputs.plot,
                    progress=report,
                    cancel=cancel,
                    **options,
                )
            written = [each.below(job.folder) for each in files]
        report(1.0)
    except SingleoutError as error:
        reason = str(error)
    except (MemoryError, OSError, RuntimeError) as error:  # torch's have many lines
        reason = f"{shown(job.path)}: cannot be separated: {one_line(error)[:200]}"
    skipped = [query for query in queries if query not in remaining]
    failed = [] if reason is None else remaining
    return JobResult(job, written, skipped, failed, reason, perf_counter() - started)


def run_jobs(
    extractor: Extractor,
    jobs: Sequence[Job],
    queries: Sequence[Query],
    outputs: OutputOptions,
    *,
    skip_existing: bool = False,
    num_jobs: int = 1,
    progress: Callable[[Job, float], None] | None = None,
    **options: Unpack[OptionChanges],
) -> Iterator[JobResult]:
    """Run all jobs. A job that fails gives a result with an error, and the others continue.

    Args:
        extractor, queries: the same for all jobs.
        jobs: see ``plan_jobs``; their folders replace that of ``outputs``.
        outputs: which files are written.
        skip_existing: leave out queries whose files exist.
        num_jobs: recordings at a time, in threads that share the model.
        progress: called there with a job and the share of it that is done.
        **options: see ``ExtractOptions``.

    Yields:
        Results in the order in which jobs end. On Ctrl-C, or when the caller stops the iteration,
        running jobs are cancelled and leave no partial files.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> extractor = Extractor.from_pretrained("builtin")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/x.wav", np.zeros(8_000), 16_000)
        ...     queries, outputs = [Query("rain")], OutputOptions(Path(folder, "out"))
        ...     jobs = plan_jobs([Source(Path(folder, "x.wav"))], outputs.folder, queries)
        ...     [len(result.written) for result in run_jobs(extractor, jobs, queries, outputs)]
        [1]
    """
    cancel = Event()

    def run(job: Job) -> JobResult:
        report = None if progress is None else partial(progress, job)
        changes = {"skip_existing": skip_existing, "progress": report, "cancel": cancel, **options}
        return run_job(extractor, job, queries, outputs, **changes)  # type: ignore[arg-type]

    pool = ThreadPoolExecutor(num_jobs, thread_name_prefix="singleout")
    try:
        queue = iter(jobs)
        running: set[Future[JobResult]] = set()
        while True:
            for job in islice(queue, num_jobs + 1 - len(running)):
                running.add(pool.submit(run, job))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        cancel.set()
        pool.shutdown(cancel_futures=True)
