"""Many recordings: finding them, naming what becomes of them, doing what is not done yet."""

from __future__ import annotations

import glob
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from time import perf_counter

from singleout.audio import MEDIA_SUFFIXES
from singleout.errors import AudioError, SingleoutError, one_line
from singleout.extract.extractor import Extractor
from singleout.extract.outputs import FilesWanted, Written, part_paths, query_slug, query_slugs
from singleout.types import Query

OURS = (".target", ".residual")
"""Ends of the names, before the suffix, of files that an extraction wrote."""

CONTAINERS = ("wav", "flac", "aiff")
"""What ``auto`` may choose."""


@dataclass(frozen=True)
class Found:
    """A recording, and the folder below the output that its files go to."""

    path: Path
    below: Path = Path()


@dataclass(frozen=True)
class Task:
    """A recording and the names of its files.

    Attributes:
        path: of the recording.
        folder: of its files.
        name: their first part.
    """

    path: Path
    folder: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of a recording.

    Attributes:
        task: which one.
        written: the files of every query that was asked.
        skipped: queries whose files were there already.
        failed: queries that were asked without an answer.
        error: why nothing was written.
        wall_seconds: spent on it.
    """

    task: Task
    written: list[Written] = field(default_factory=list)
    skipped: list[Query] = field(default_factory=list)
    failed: list[Query] = field(default_factory=list)
    error: str | None = None
    wall_seconds: float = 0.0


def find_recordings(places: Sequence[str | Path]) -> list[Found]:
    """Files as they are, folders with all that is in them, and patterns such as ``*.wav``.

    From folders and patterns come files whose suffix is one of media, hidden ones and what an
    extraction wrote left out, in the order of their names. What is in a folder keeps its place
    below it.

    Raises:
        AudioError: a folder or a pattern has no recordings; or a name is empty.
    """
    found: dict[Path, Found] = {}
    if any(str(place) == "" for place in places):
        # Such as of a variable that is not set; as a path it would be the current folder.
        raise AudioError("the name of a recording is empty: give a file, a folder or a pattern")
    for place in map(Path, places):
        if _is(place, Path.is_dir):
            paths = [path for path in sorted(place.rglob("*")) if _is_recording(path, place)]
            new = [Found(path, path.relative_to(place).parent) for path in paths]
        elif not _is(place, Path.exists) and glob.has_magic(str(place)):
            matches = map(Path, sorted(glob.glob(str(place), recursive=True)))  # noqa: PTH207
            new = [Found(path) for path in matches if _is_recording(path, path.parent)]
        else:
            new = [Found(place)]
        if not new:
            raise AudioError(f"{place}: no recordings there")
        for each in new:
            found.setdefault(each.path.absolute(), each)
    return list(found.values())


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name too long, or none at all
        return False


def _is_recording(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    known = path.suffix.lower() in MEDIA_SUFFIXES and not path.stem.endswith(OURS)
    return known and not hidden and _is(path, Path.is_file)


def _folded(name: str | Path) -> str:
    """The same for all names of one file, on systems that do not tell case or accents apart."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def tasks_of(found: Sequence[Found], folder: Path, queries: Sequence[Query]) -> list[Task]:
    """Files of their own for every recording: ``x.wav`` beside ``x.mp3`` keeps its suffix.

    Raises:
        AudioError: two recordings would get the same files, or one would be overwritten.
    """
    alike = Counter((_folded(each.below), _folded(each.path.stem)) for each in found)
    tasks = []
    for each in found:
        is_alone = alike[_folded(each.below), _folded(each.path.stem)] == 1
        name = each.path.stem if is_alone else each.path.name
        tasks.append(Task(each.path, folder / each.below, name))
    taken: dict[tuple[str, str], Path] = {}
    for task in tasks:
        place = _folded(task.folder), _folded(task.name)
        if (other := taken.setdefault(place, task.path)) != task.path:
            raise AudioError(
                f"{other} and {task.path} would become the same files in {task.folder}: "
                "give the folder that both are in, or another output folder for one of them"
            )
    slugs = query_slugs(queries)
    sources = {
        (_folded(task.path.parent.resolve()), _folded(task.path.stem)): task.path for task in tasks
    }
    for task in tasks:
        for slug in slugs:
            for end in OURS:
                part = _folded(f"{task.name}.{slug}{end}")
                if (source := sources.get((_folded(task.folder.resolve()), part))) is not None:
                    raise AudioError(
                        f"{source}: is a recording, and what {task.path} would be written to: "
                        "choose another output folder"
                    )
    return tasks


def still_to_do(task: Task, queries: Sequence[Query], wanted: FilesWanted) -> list[Query]:
    """Queries without files that are newer than the recording.

    Files appear whole, so those that are there are done. Queries whose names would be the same are
    done together, as that is how they get names of their own.
    """
    containers = CONTAINERS if wanted.format == "auto" else (wanted.format,)
    here = replace(wanted, folder=task.folder)

    def is_done(slug: str) -> bool:
        recorded = task.path.stat().st_mtime_ns
        for container in containers:
            paths = part_paths(here, task.name, slug, container).all()
            if all(_is(path, Path.is_file) for path in paths) and all(
                path.stat().st_mtime_ns >= recorded for path in paths
            ):
                return True
        return False

    if not _is(task.path, Path.is_file):
        return list(queries)
    names = [query_slug(query) for query in queries]
    slugs = query_slugs(queries)
    missing = {name for name, slug in zip(names, slugs, strict=True) if not is_done(slug)}
    return [query for query, name in zip(queries, names, strict=True) if name in missing]


def run_batch(
    extractor: Extractor,
    tasks: Sequence[Task],
    queries: Sequence[Query],
    wanted: FilesWanted,
    *,
    link_channels: bool = True,
    skip_existing: bool = False,
    num_jobs: int = 1,
    progress: Callable[[Task, float], None] | None = None,
) -> Iterator[Outcome]:
    """Do all tasks; one that fails is an outcome, and the others go on.

    Args:
        wanted: its folder is that of the tasks.
        skip_existing: leave out what is there already.
        num_jobs: recordings at a time, in threads that share the model.
        progress: called from those threads with the share of a task that is done.

    Yields:
        Outcomes as they come. On Ctrl-C, or when the caller stops, nothing half-written stays.
    """
    stop = Event()

    def work(task: Task) -> Outcome:
        started = perf_counter()
        to_do = list(queries)

        def outcome(written: list[Written], error: str | None = None) -> Outcome:
            skipped = [query for query in queries if query not in to_do]
            failed = [] if error is None else to_do
            return Outcome(task, written, skipped, failed, error, perf_counter() - started)

        def go_on(share: float) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            if progress is not None:
                progress(task, share)

        try:
            go_on(0.0)
            if skip_existing:
                to_do = still_to_do(task, queries, wanted)
            written = to_do and extractor.extract_file(
                task.path,
                to_do,
                task.folder,
                name=task.name,
                format=wanted.format,
                residual=wanted.residual,
                plot=wanted.plot,
                link_channels=link_channels,
                progress=go_on,
            )
            go_on(1.0)
        except SingleoutError as error:
            return outcome([], str(error))
        except (MemoryError, OSError, RuntimeError) as error:  # torch's have many lines
            return outcome([], f"{task.path}: cannot be separated: {one_line(error)[:200]}")
        return outcome(written or [])

    pool = ThreadPoolExecutor(num_jobs, thread_name_prefix="singleout")
    try:
        waiting = iter(tasks)
        running: set[Future[Outcome]] = set()
        while True:
            for task in waiting:
                running.add(pool.submit(work, task))
                if len(running) > num_jobs:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
