"""Running the jobs of a batch: skipping, failures, threads, stopping early."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from singleout import Extractor, Query
from singleout.extract.batch import (
    Job,
    JobResult,
    plan_jobs,
    remaining_queries,
    run_jobs,
)
from singleout.extract.options import OutputOptions
from singleout.extract.recordings import Source, find_recordings
from tests.recordings import SHORT_RATE, files_below, write_short_recording

DOG, RAIN = Query("a dog"), Query("rain")


def make_newer(path: Path, than: Path) -> None:
    """Set the time of ``path`` to one second after ``than``."""
    later = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))


def run_all(
    extractor: Extractor, jobs: Sequence[Job], queries: Sequence[Query], **options: Any
) -> list[JobResult]:
    """Run all jobs; none may fail."""
    outputs = OutputOptions(Path(), **options)
    results = list(run_jobs(extractor, jobs, queries, outputs))
    assert [result.error for result in results] == [None] * len(jobs)
    return results


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg"])
def test_a_recording_is_extracted_again_when_it_is_newer(
    extractor: Extractor, tmp_path: Path, suffix: str
) -> None:
    path = write_short_recording(tmp_path / f"x.{suffix}")
    jobs = plan_jobs([Source(path)], tmp_path / "out", [DOG, RAIN])
    outputs = OutputOptions(Path())
    assert remaining_queries(jobs[0], [DOG, RAIN], outputs) == [DOG, RAIN]
    run_all(extractor, jobs, [DOG, RAIN])
    assert remaining_queries(jobs[0], [DOG, RAIN], outputs) == []
    assert remaining_queries(jobs[0], [RAIN, Query("wind")], outputs) == [Query("wind")]
    make_newer(path, *(tmp_path / "out").glob("x.rain.target.*"))
    assert remaining_queries(jobs[0], [DOG, RAIN], outputs) == [DOG, RAIN]
    path.unlink()
    assert remaining_queries(jobs[0], [DOG, RAIN], outputs) == [DOG, RAIN]


def test_only_missing_queries_are_extracted(extractor: Extractor, tmp_path: Path) -> None:
    jobs = plan_jobs([Source(write_short_recording(tmp_path / "x.wav"))], tmp_path, [DOG, RAIN])
    run_all(extractor, jobs, [RAIN])
    outputs = OutputOptions(Path())
    assert remaining_queries(jobs[0], [DOG, RAIN], outputs) == [DOG]
    before = files_below(tmp_path)
    (result,) = run_jobs(extractor, jobs, [DOG, RAIN], outputs, skip_existing=True)
    assert [written.query for written in result.written] == ["a dog"]
    assert result.skipped == [RAIN]
    after = files_below(tmp_path)
    assert sorted(set(after) - set(before)) == ["x.a-dog.residual.wav", "x.a-dog.target.wav"]
    assert after.items() >= before.items()


def test_existing_files_count_where_no_other_files_are_requested(
    extractor: Extractor, tmp_path: Path
) -> None:
    jobs = plan_jobs([Source(write_short_recording(tmp_path / "x.wav"))], tmp_path / "out", [DOG])
    run_all(extractor, jobs, [DOG], residual=False)

    def remaining(**options: Any) -> list[Query]:
        return remaining_queries(jobs[0], [DOG], OutputOptions(Path(), **options))

    assert remaining(residual=False) == []
    assert remaining() == [DOG]
    run_all(extractor, jobs, [DOG])
    assert remaining() == []
    assert remaining(residual=False) == []
    assert remaining(plot=True) == [DOG]
    assert remaining(format="wav") == []
    assert remaining(format="flac") == [DOG]
    # A target without its residual is not complete.
    (tmp_path / "out" / "x.a-dog.residual.wav").unlink()
    assert remaining() == [DOG]


def test_similar_queries_keep_their_names_when_one_is_extracted_again(
    extractor: Extractor, tmp_path: Path
) -> None:
    """Without the other queries, the name of 'a dog!' would be 'a-dog'."""
    queries = [DOG, Query("a dog!"), RAIN]
    jobs = plan_jobs([Source(write_short_recording(tmp_path / "x.wav"))], tmp_path / "out", queries)
    (result,) = run_all(extractor, jobs, queries)
    assert len({written.target for written in result.written}) == 3
    before = files_below(tmp_path / "out")
    result.written[1].target.unlink()
    outputs = OutputOptions(Path())
    (again,) = run_jobs(extractor, jobs, queries, outputs, skip_existing=True)
    assert again.skipped == [RAIN]
    assert files_below(tmp_path / "out") == before
    assert remaining_queries(jobs[0], queries, outputs) == []


def test_a_bad_recording_gives_a_result_with_an_error(extractor: Extractor, tmp_path: Path) -> None:
    good = [write_short_recording(tmp_path / f"{number}.wav", seed=number) for number in range(3)]
    good[1].write_text("this is no sound")
    sources = find_recordings([*good, tmp_path / "missing.wav"])
    jobs = plan_jobs(sources, tmp_path / "out", [DOG])
    shares: dict[Path, list[float]] = {}
    results = list(
        run_jobs(
            extractor,
            jobs,
            [DOG],
            OutputOptions(Path()),
            progress=lambda job, share: shares.setdefault(job.path, []).append(share),
        )
    )
    by_path = {result.job.path: result for result in results}
    assert set(by_path) == {each.path for each in sources}
    for path, reason in ((good[1], "cannot be read as audio"), (sources[3].path, "no such file")):
        result = by_path[path]
        assert result.error is not None
        assert str(path) in result.error
        assert reason in result.error
        assert result.written == []
        assert result.skipped == []
    for path in (good[0], good[2]):
        assert by_path[path].error is None
        assert by_path[path].written[0].target.is_file()
        assert shares[path] == sorted(shares[path])
        assert (shares[path][0], shares[path][-1]) == (0, 1)
    assert len(files_below(tmp_path / "out")) == 4


def test_the_number_of_threads_changes_no_file(extractor: Extractor, tmp_path: Path) -> None:
    for number in range(7):
        write_short_recording(
            tmp_path / "in" / f"{number}.wav", 3_000 + 2_000 * number, seed=number
        )
    (tmp_path / "in" / "3.wav").write_bytes(b"")
    sources = find_recordings([tmp_path / "in"])
    outputs = []
    for num_jobs in (1, 3):
        out = tmp_path / f"out-{num_jobs}"
        results = list(
            run_jobs(
                extractor,
                plan_jobs(sources, out, [DOG, RAIN]),
                [DOG, RAIN],
                OutputOptions(Path()),
                num_jobs=num_jobs,
            )
        )
        assert len(results) == 7
        failed = [result.job.path.name for result in results if result.error is not None]
        assert failed == ["3.wav"]
        outputs.append(files_below(out))
    assert len(outputs[0]) == 6 * 4
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_stopping_early_leaves_nothing_half_written(
    extractor: Extractor, tmp_path: Path, num_jobs: int
) -> None:
    write_short_recording(tmp_path / "in" / "a.wav")
    for number in range(8):
        write_short_recording(tmp_path / "in" / f"b{number}.wav", 40 * SHORT_RATE, seed=number)
    jobs = plan_jobs(find_recordings([tmp_path / "in"]), tmp_path / "out", [DOG])
    batch: Any = run_jobs(extractor, jobs, [DOG], OutputOptions(Path()), num_jobs=num_jobs)
    first = next(batch)
    assert first.error is None
    batch.close()
    assert first.job.name == "a"
    # The long recordings, of many chunks, were not extracted to their end.
    names = sorted(files_below(tmp_path / "out"))
    assert names == ["a.a-dog.residual.wav", "a.a-dog.target.wav"]


def test_an_unknown_error_is_not_hidden(extractor: Extractor, tmp_path: Path) -> None:
    """A defect of the program ends the batch, and its partial files vanish."""
    jobs = plan_jobs([Source(write_short_recording(tmp_path / "x.wav"))], tmp_path / "out", [DOG])

    def fail(_: Job, share: float) -> None:
        if share:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_jobs(extractor, jobs, [DOG], OutputOptions(Path()), progress=fail))
    assert files_below(tmp_path / "out") == {}


def test_a_lack_of_memory_gives_a_result_with_an_error(
    extractor: Extractor, tmp_path: Path
) -> None:
    """Torch reports a lack of memory with a RuntimeError, not with a MemoryError."""
    paths = [write_short_recording(tmp_path / name) for name in ("x.wav", "y.wav", "z.wav")]
    jobs = plan_jobs([Source(path) for path in paths], tmp_path / "out", [DOG])

    def run_out_of_memory(job: Job, share: float) -> None:
        if share and job.name == "x":
            torch.empty(10**15)
        if share and job.name == "y":
            raise MemoryError

    results = list(
        run_jobs(extractor, jobs, [DOG], OutputOptions(Path()), progress=run_out_of_memory)
    )
    errors = {result.job.name: result.error for result in results}
    assert errors["z"] is None
    for name in ("x", "y"):
        error = errors[name]
        assert error is not None
        assert error.startswith(f"{tmp_path / name}.wav: cannot be separated: ")
        assert "\n" not in error
    assert sorted(files_below(tmp_path / "out")) == ["z.a-dog.residual.wav", "z.a-dog.target.wav"]
