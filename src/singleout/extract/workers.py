"""The jobs of a batch in the processes of an engine, such as the actors of a Ray cluster.

The files, and the rows of a report, are those of ``run_jobs``. A process gets the settings of the
extractor, never its weights, and loads the model once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from singleout.audio.notes import LOGGER
from singleout.engines import Engine
from singleout.engines.ray import MAX_ATTEMPTS
from singleout.errors import AudioError
from singleout.extract.batch import Job, JobResult, run_job
from singleout.extract.extractor import Extractor
from singleout.extract.options import ExtractOptions, OutputOptions
from singleout.storage.addresses import shown
from singleout.storage.journal import recover
from singleout.types import Query


@dataclass(frozen=True)
class JobWorker:
    """Makes the function that runs jobs, in each process of an engine.

    Args:
        queries, outputs, skip_existing: see ``run_jobs``.
        model, encoder, device: see ``Extractor.from_pretrained``.
        options: of all recordings.
        num_threads: of each process. Sums of floats depend on it in their last bits.
        folder: current folder of each process, which relative paths start from.

    Example:
        >>> worker = JobWorker((Query("rain"),), OutputOptions(Path("out")), device="cpu")
        >>> worker()(Job(Path("missing.wav"), Path("out"), "missing")).error
        'missing.wav: no such file'
    """

    queries: tuple[Query, ...]
    outputs: OutputOptions
    skip_existing: bool = False
    model: str | Path | None = None
    encoder: str | None = None
    device: str = "auto"
    options: ExtractOptions = field(default_factory=ExtractOptions)
    num_threads: int = field(default_factory=torch.get_num_threads)
    folder: Path = field(default_factory=Path.cwd)

    def extractor(self) -> Extractor:
        """Load the model, and embed the queries, so that an unusable query is refused at once.

        Raises:
            ModelError, QueryError: see ``Extractor``.

        Example:
            >>> JobWorker((Query("rain"),), OutputOptions(Path("out"))).extractor().sample_rate
            32000
        """
        extractor = Extractor.from_pretrained(
            self.model, self.encoder, device=self.device, **asdict(self.options)
        )
        extractor.prepare(self.queries)
        return extractor

    def __call__(self) -> Callable[[Job], JobResult]:
        """The function of this process."""
        with suppress(OSError):  # whole paths need no such folder
            os.chdir(self.folder)
        torch.set_num_threads(self.num_threads)
        return partial(
            run_job,
            self.extractor(),
            queries=self.queries,
            outputs=self.outputs,
            skip_existing=self.skip_existing,
        )

    def lost(self, job: Job) -> JobResult:
        """The result of a job whose processes ended in the middle, each time it was tried.

        Example:
            >>> worker = JobWorker((Query("rain"),), OutputOptions(Path("out")))
            >>> worker.lost(Job(Path("x.wav"), Path("out"), "x")).failed == [Query("rain")]
            True
        """
        reason = (
            f"{shown(job.path)}: its process ended {MAX_ATTEMPTS} times before its end: out of "
            "memory, or killed"
        )
        return JobResult(job, failed=list(self.queries), error=reason)


def run_jobs_on(
    engine: Engine,
    worker: JobWorker,
    jobs: Sequence[Job],
    progress: Callable[[Job, float], None] | None = None,
) -> Iterator[JobResult]:
    """Run jobs in the processes of an engine; see ``run_jobs``.

    Args:
        engine: of the processes. They see the same files as this one: in a shared folder, or in a
            store.
        worker: what they do.
        jobs: of files; see ``plan_jobs``.
        progress: called with every job that is done.

    Yields:
        Results in the order in which jobs end. When the iteration stops, running jobs end, and
        their partial files are removed.

    Raises:
        AudioError: a recording is in the memory of this process.
        SingleoutError: the engine cannot run.

    Example:
        >>> from singleout.engines import load_engine
        >>> worker = JobWorker((Query("rain"),), OutputOptions(Path("out")), device="cpu")
        >>> jobs = [Job(Path("missing.wav"), Path("out"), "missing")]
        >>> [result.error for result in run_jobs_on(load_engine("local"), worker, jobs)]
        ['missing.wav: no such file']
    """
    for job in jobs:
        if job.file is not None:
            raise AudioError(f"{job.path}: is no file that other processes can read: give a path")
    results = engine.run(worker, jobs, lost=worker.lost)
    try:
        for result in results:
            for text in dict.fromkeys(text for each in result.written for text in each.warnings):
                LOGGER.warning("%s", text)  # logged there, where nobody reads it
            if progress is not None:
                progress(result.job, 1.0)
            yield result
    except BaseException:
        results.close()  # type: ignore[attr-defined]
        for folder in {job.folder for job in jobs}:
            recover(folder)
        raise
