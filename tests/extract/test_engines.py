"""Batches of manifests and of stores, in this process and in the processes of a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from singleout import Extractor, Query
from singleout.engines import Engine, load_engine
from singleout.engines.ray import ENVIRONMENT
from singleout.errors import AudioError, InputError, ManifestError
from singleout.extract.batch import Job, JobResult, plan_jobs, run_jobs
from singleout.extract.options import ExtractOptions, OutputOptions
from singleout.extract.recordings import Source, find_recordings
from singleout.extract.stores import refuse_memory
from singleout.extract.workers import JobWorker, run_jobs_on
from singleout.storage.locations import Location
from tests.recordings import files_below, write_short_recording

DOG, RAIN = Query("a dog"), Query("rain")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of two short recordings, one of them cut, a bad one, and other files."""
    folder = tmp_path / "in"
    write_short_recording(folder / "a.wav", seed=1)
    write_short_recording(folder / "deep" / "b.flac", seed=2)
    cut = write_short_recording(folder / "cut.wav", seed=3)
    cut.write_bytes(cut.read_bytes()[:-2_000])
    (folder / "bad.wav").write_text("this is no sound")
    (folder / "notes.txt").touch()
    (folder / ".hidden.wav").touch()
    return folder


@pytest.fixture
def store() -> str:
    """The address of an empty folder in the memory of this process."""
    return f"memory://{uuid4().hex}"


def upload(folder: Path, store: str) -> None:
    """Copy the files below a folder to a store."""
    for name, content in files_below(folder).items():
        (Location(store) / name).write(content)


def stored(store: str) -> dict[str, bytes]:
    """Contents of all files below a folder in a store."""
    location = Location(store)
    return {name: (location / name).read() for name in location.names_below()}


def run_in_threads(
    extractor: Extractor, place: str | Path, folder: str | Path, **options: Any
) -> list[JobResult]:
    """Extract two queries from the recordings of a place, in threads of this process."""
    jobs = plan_jobs(find_recordings([place]), Path(folder), [DOG, RAIN])
    return list(run_jobs(extractor, jobs, [DOG, RAIN], OutputOptions(Path(folder)), **options))


def rows(results: Sequence[JobResult], **replaced: object) -> list[str]:
    """The results as texts in a fixed order, without times; some texts are replaced by a name."""
    lines = []
    for result in results:
        written = [each.as_json() for each in result.written]
        queries = [str(query) for query in (*result.failed, *result.skipped)]
        line = json.dumps([str(Location(result.job.path)), result.error, queries, written])
        for name, text in replaced.items():
            line = line.replace(str(text), name)
        lines.append(line)
    return sorted(lines)


# Manifests


def write_manifest(path: Path, *names: object) -> Path:
    """Write a manifest of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"path": str(n), "seconds": 1.0}) + "\n" for n in names))
    return path


def test_each_row_of_a_manifest_is_a_recording(recordings: Path, tmp_path: Path) -> None:
    other = write_short_recording(tmp_path / "other" / "c.wav")
    names = ("deep/b.flac", "missing.wav", "a.wav", other, "../other/c.wav", "s3://bucket/x/d.wav")
    sources = find_recordings([write_manifest(recordings / "manifest.jsonl", *names)])
    places = {source.path: source.below for source in sources}
    assert places == {
        recordings / "deep" / "b.flac": Path("deep"),
        recordings / "missing.wav": Path(),
        recordings / "a.wav": Path(),
        other: Path(*other.parent.parts[1:]),
        recordings / "../other/c.wav": Path("other"),
        Path("s3://bucket/x/d.wav"): Path("bucket/x"),
    }


def test_a_manifest_in_a_store_names_files_of_the_store(
    recordings: Path, store: str, tmp_path: Path
) -> None:
    manifest = write_manifest(recordings / "m.jsonl", "deep/b.flac", tmp_path / "c.wav")
    upload(recordings, store)
    assert find_recordings([f"{store}/{manifest.name}"]) == [
        Source(Path(store) / "deep" / "b.flac", Path("deep")),
        Source(tmp_path / "c.wav", Path(*tmp_path.parts[1:])),
    ]


def test_a_missing_recording_of_a_manifest_is_a_row(
    extractor: Extractor, recordings: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(recordings / "manifest.jsonl", "missing.wav", "a.wav")
    results = run_in_threads(extractor, manifest, tmp_path / "out")
    errors = {result.job.path.name: result.error for result in results}
    missing = recordings / "missing.wav"
    assert errors == {"a.wav": None, "missing.wav": f"{missing}: no such file"}
    assert len(files_below(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "holds no sounds"), ('{"path": 3, "seconds": 1}', "not the name"), ("x", "not a mani")],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ManifestError, match=reason):
        find_recordings([tmp_path / "m.jsonl"])


# Stores


def test_a_store_gives_the_files_and_rows_of_a_disk(
    extractor: Extractor, recordings: Path, store: str, tmp_path: Path
) -> None:
    upload(recordings, f"{store}/in")
    on_disk = run_in_threads(extractor, recordings, tmp_path / "out")
    in_store = run_in_threads(extractor, f"{store}/in", f"{store}/out", num_jobs=2)
    assert len(on_disk) == 4
    assert stored(f"{store}/out") == files_below(tmp_path / "out")
    expected = rows(on_disk, IN=recordings, OUT=tmp_path / "out")
    assert rows(in_store, IN=f"{store}/in", OUT=f"{store}/out") == expected


def test_what_is_no_recording_in_a_store_is_left_out_and_counted(
    recordings: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="singleout")
    upload(recordings, store)
    sources = find_recordings([store])
    names = [source.path.relative_to(store).as_posix() for source in sources]
    assert names == ["a.wav", "bad.wav", "cut.wav", "deep/b.flac"]
    assert caplog.messages == [f"{store}: 2 other files are left out: 1 .txt, 1 hidden"]
    Location(f"{store}/notes/.x").write(b"x")
    with pytest.raises(AudioError, match=f"^{store}/notes: no recordings there: 1 hidden"):
        find_recordings([f"{store}/notes"])


def test_patterns_of_a_store(recordings: Path, store: str) -> None:
    upload(recordings, store)
    places = [str(Location(source.path)) for source in find_recordings([f"{store}/*a*.wav"])]
    assert places == [f"{store}/a.wav", f"{store}/bad.wav"]
    with pytest.raises(AudioError, match="no recordings there: nothing has such a name"):
        find_recordings([f"{store}/*.mp3"])


def test_messages_about_recordings_in_a_store_name_their_addresses(
    extractor: Extractor, recordings: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload(recordings, store)
    jobs = plan_jobs(find_recordings([store, f"{store}/missing.wav"]), Path(store) / "o", [DOG])
    results = list(run_jobs(extractor, jobs, [DOG], OutputOptions(Path(store))))
    errors = [result.error for result in results if result.error is not None]
    assert errors[0].startswith(f"{store}/bad.wav: cannot be read as audio")
    assert errors[1] == f"{store}/missing.wav: no such file"
    (warning,) = caplog.messages
    assert warning.startswith(f"{store}/cut.wav: ")
    warnings = [text for r in results for each in r.written for text in each.warnings]
    assert warnings == [warning]


def test_existing_files_in_a_store_are_skipped(
    extractor: Extractor, recordings: Path, store: str
) -> None:
    (recordings / "bad.wav").unlink()
    upload(recordings, f"{store}/in")
    place, out = f"{store}/in", f"{store}/out"
    assert all(r.written for r in run_in_threads(extractor, place, out, skip_existing=True))
    before = stored(out)
    again = run_in_threads(extractor, place, out, skip_existing=True)
    assert [result.skipped for result in again] == [[DOG, RAIN]] * 3
    Location(f"{out}/a.rain.residual.wav").remove()
    (Location(place) / "cut.wav").write((recordings / "cut.wav").read_bytes())  # newer
    again = run_in_threads(extractor, place, out, skip_existing=True)
    assert {result.job.path.name: result.skipped for result in again} == {
        "a.wav": [DOG],
        "b.flac": [DOG, RAIN],
        "cut.wav": [],
    }
    assert stored(out) == before


def test_an_extraction_that_fails_puts_nothing(
    extractor: Extractor, recordings: Path, store: str
) -> None:
    results = run_in_threads(extractor, recordings / "cut.wav", store, strict=True)
    assert [result.failed for result in results] == [[DOG, RAIN]]
    assert stored(store) == {}


def test_a_store_that_fails_is_a_row(extractor: Extractor, recordings: Path) -> None:
    (result,) = run_in_threads(extractor, recordings / "a.wav", "unknown://bucket/out")
    assert result.error == (
        "unknown://bucket/out/a.a-dog.residual.wav: Protocol not known: unknown"
    )
    assert result.failed == [DOG, RAIN]
    assert result.written == []


def test_a_web_page_is_no_store(extractor: Extractor, tmp_path: Path) -> None:
    (result,) = run_in_threads(extractor, "https://example.org/dog.wav", tmp_path)
    assert result.error is not None
    assert result.error.startswith("https://example.org/dog.wav: is an address: fetch it first")


# Engines


@pytest.fixture
def worker(debug_model_folder: Path, tmp_path: Path) -> JobWorker:
    """What extracts two queries to the folder ``out``, in half-second chunks, on one thread."""
    return JobWorker(
        (DOG, RAIN),
        OutputOptions(tmp_path / "out"),
        model=debug_model_folder,
        options=ExtractOptions(chunk_seconds=0.5),
        num_threads=1,
    )


def run_on(engine: Engine, worker: JobWorker, place: Path) -> list[JobResult]:
    """Extract the recordings of a place in the processes of an engine."""
    jobs = plan_jobs(find_recordings([place]), worker.outputs.folder, worker.queries)
    return list(run_jobs_on(engine, worker, jobs))


def test_a_worker_travels_without_weights(worker: JobWorker) -> None:
    assert len(pickle.dumps(replace(worker, model="builtin"))) < 2_000
    assert pickle.loads(pickle.dumps(worker)) == worker


def test_an_engine_gives_the_files_and_rows_of_threads(
    extractor: Extractor, worker: JobWorker, recordings: Path, tmp_path: Path
) -> None:
    threads = run_in_threads(extractor, recordings, tmp_path / "threads")
    results = run_on(load_engine("local"), worker, recordings)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "threads")
    assert rows(results, OUT=tmp_path / "out") == rows(threads, OUT=tmp_path / "threads")
    skipping = run_on(load_engine("local"), replace(worker, skip_existing=True), recordings)
    assert sum(len(result.skipped) for result in skipping) == 6


def test_recordings_of_this_process_are_refused(worker: JobWorker) -> None:
    job = Job(Path("stdin"), Path("out"), "stdin", file=open(os.devnull, "rb"))  # noqa: SIM115, PTH123
    with job.file, pytest.raises(AudioError, match="stdin: is no file"):  # type: ignore[union-attr]
        list(run_jobs_on(load_engine("local"), worker, [job]))
    with pytest.raises(InputError, match=r"^memory://x: is in the memory of one process"):
        refuse_memory([Path("x"), Path("memory://x")])


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[Engine]:
    """The Ray engine, in a cluster of two cores."""
    import ray

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(
        num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False,
        object_store_memory=100 << 20,
    )  # fmt: skip
    yield load_engine("ray")
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 2])
def test_ray_gives_the_files_and_rows_of_threads(
    ray_engine: Engine, worker: JobWorker, recordings: Path, tmp_path: Path, num_threads: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    worker = replace(worker, num_threads=num_threads)
    before = torch.get_num_threads()
    local = replace(worker, outputs=OutputOptions(tmp_path / "local"))
    expected = run_on(load_engine("local"), local, recordings)
    torch.set_num_threads(before)
    caplog.clear()
    results = run_on(ray_engine, worker, recordings)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "local")
    assert len(files_below(tmp_path / "out")) == 12
    assert rows(results, OUT=tmp_path / "out") == rows(expected, OUT=tmp_path / "local")
    (warning,) = caplog.messages
    assert warning.startswith(f"{recordings / 'cut.wav'}: ")
    skipping = run_on(ray_engine, replace(worker, skip_existing=True), recordings)
    assert sum(len(result.skipped) for result in skipping) == 6
    assert [result.error for result in skipping if result.skipped] == [None] * 3


@dataclass(frozen=True)
class DyingWorker(JobWorker):
    """A worker whose process is killed by the recording ``a``, the first time, and by ``b``."""

    def __call__(self) -> Callable[[Job], JobResult]:
        run = super().__call__()

        def run_or_die(job: Job) -> JobResult:
            mark = self.folder / "tried"
            if job.name == "b" or (job.name == "a" and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return run(job)

        return run_or_die


@pytest.mark.slow
def test_a_recording_that_kills_its_process_twice_is_a_row(
    ray_engine: Engine, worker: JobWorker, recordings: Path, tmp_path: Path
) -> None:
    dying = DyingWorker(
        worker.queries, worker.outputs, model=worker.model, options=worker.options, folder=tmp_path
    )
    results = {result.job.name: result for result in run_on(ray_engine, dying, recordings)}
    assert set(results) == {"a", "b", "bad", "cut"}
    assert len(results["a"].written) == 2
    error = results["b"].error
    assert error is not None
    assert error.startswith(f"{recordings / 'deep' / 'b.flac'}: its process ended 2 times")
    assert results["b"].failed == [DOG, RAIN]
    assert len(files_below(tmp_path / "out")) == 8


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("sounds")
    yield "s3://sounds"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_a_bucket_gives_the_files_and_rows_of_a_disk(
    extractor: Extractor, recordings: Path, bucket: str, tmp_path: Path
) -> None:
    upload(recordings, f"{bucket}/in")
    on_disk = run_in_threads(extractor, recordings, tmp_path / "out")
    place, out = f"{bucket}/in", f"{bucket}/out"
    in_bucket = run_in_threads(extractor, place, out, num_jobs=2)
    assert stored(out) == files_below(tmp_path / "out")
    assert rows(in_bucket, IN=place, OUT=out) == rows(on_disk, IN=recordings, OUT=tmp_path / "out")
    again = run_in_threads(extractor, place, out, skip_existing=True)
    assert sum(len(result.skipped) for result in again) == 6
