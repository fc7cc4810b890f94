"""Time and memory of very many clips: their manifest, and the plans of their mixtures.

    python -m benchmarks.clips_scale [--rows 1000000] [--plans 1000000] [--clips 10000000]

- ``reading``: a manifest of so many rows, and a tenth and a hundredth of it. All its files exist,
  and are empty.
- ``planning``: mixtures with their queries, planned per second, for the same manifests.
- ``long_run``: resident memory after 1,000, 10,000, … plans of one planner.
- ``workers``: memory of a planner and of four forked workers, over so many memory-mapped clips.

Each measurement has a process of its own. Times are those of one core, so that other programs
hardly count. Prints the result and writes ``results/clips_scale.json``. It needs Linux, and about
5 GB below the folder of temporary files.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.extract_speed import machine
from singleout.data.clips import Clips
from singleout.data.columns import ColumnsBuilder
from singleout.data.manifest import Manifest
from singleout.data.plan import MixtureConfig, Planner
from singleout.data.query_plan import QueriesConfig, QueryPlanner
from singleout.data.seeds import Stream, random_stream

SEED = 0
FILES_PER_FOLDER = 1_000
CLASSES = 527
"""Classes of AudioSet."""
FAMILIES = 7
TEST_EVERY = 20
WORKERS = 4
PLANS_PER_WORKER = 2_000
MIXTURES = MixtureConfig()
QUERIES = QueriesConfig(absent_share=0.25, removal_share=0.1, contrast_share=0.2)


def write_corpus(folder: Path, rows: int) -> Path:
    """A manifest of ``rows`` sounds, one recording each, and their files without content."""
    with (folder / f"{rows}.jsonl").open("w") as manifest:
        for number in range(rows):
            name = Path(f"{number // FILES_PER_FOLDER:05}") / f"recording_{number:08}.flac"
            if number % FILES_PER_FOLDER == 0:
                (folder / name.parent).mkdir(exist_ok=True)
            (folder / name).touch()
            kind = number % CLASSES
            row = {
                "path": name.as_posix(),
                "seconds": 10.0,
                "caption": f"sound number {number} of class {kind}, as somebody describes it",
                "class": f"family {kind % FAMILIES}/class {kind}",
                "group": f"recording {number}",
                "split": "train" if number % TEST_EVERY else "test",
            }
            manifest.write(json.dumps(row) + "\n")
    return Path(manifest.name)


def memory_mb(field: str = "VmRSS") -> float:
    """A value of this process in /proc/self/status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(x for x in lines if x.startswith(field)).split()[1]) * 1024 / 1e6, 1)


def timed(seconds: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    """The result of a call. The time that it kept a core busy is added to ``seconds``."""
    start = time.process_time()
    result = call()
    seconds[name] = round(time.process_time() - start, 2)
    return result


def reading(path: Path) -> dict[str, Any]:
    """Time and memory for all that a training needs from a manifest."""
    before, seconds = memory_mb(), dict[str, float]()
    manifest = timed(seconds, "columns", lambda: Manifest.read(path))
    timed(seconds, "splits", manifest.check_splits)
    timed(seconds, "held_out", manifest.held_out)
    clips = timed(seconds, "existence", lambda: manifest.existing("train"))
    return {
        "rows": len(manifest.clips),
        "training_clips": len(clips),
        "core_seconds": seconds,
        "total_core_seconds": round(sum(seconds.values()), 2),
        "memory_mb": round(memory_mb() - before, 1),
        "peak_memory_mb": round(memory_mb("VmHWM") - before, 1),
    }


class Plans:
    """Plans mixtures with their queries.

    Args:
        clips: what to mix.
    """

    def __init__(self, clips: Clips) -> None:
        self.planner = Planner(clips, MIXTURES, SEED)
        self.query_planner = QueryPlanner(clips, QUERIES, MIXTURES.class_balance)

    def draw(self, first: int, last: int) -> None:
        """Plan the mixtures from number ``first`` to before number ``last``."""
        for index in range(first, last):
            spec = self.planner.plan(0, index)
            self.query_planner.draw(spec, random_stream(SEED, 0, index, Stream.KIND))


def planning(path: Path) -> dict[str, Any]:
    """Mixtures planned per second."""
    clips, seconds = Manifest.read(path).clips, dict[str, float]()
    plans = timed(seconds, "preparation", lambda: Plans(clips))
    count = 5_000
    timed(seconds, "plans", lambda: plans.draw(0, count))
    return {
        "clips": len(clips),
        "preparation_core_seconds": seconds["preparation"],
        "mixtures_per_core_second": round(count / seconds["plans"]),
    }


def long_run(path: Path, number: int) -> dict[str, float]:
    """Resident memory in megabytes after 1,000, 10,000, … plans."""
    plans, memory, drawn = Plans(Manifest.read(path).clips), dict[str, float](), 0
    for count in (10**power for power in range(3, 20)):
        if count > number:
            break
        plans.draw(drawn, count)
        drawn = count
        memory[str(count)] = memory_mb()
    return memory


def write_columns(folder: Path, number: int) -> None:
    """Columns of ``number`` clips, as a prepared corpus has them: no file, no object per clip."""
    builder = ColumnsBuilder()
    for kind in range(CLASSES):
        label = f"family {kind % FAMILIES}/class {kind}"
        place = (512, 640_044, 32_000, 320_000)
        builder.add("", 10.0, label=label, has_class=True, shard=f"{kind:016x}.tar", place=place)
    columns = builder.columns()
    rng = np.random.default_rng(SEED)
    for name, values in columns.items():
        if len(values) == CLASSES:  # one value per clip
            columns[name] = np.resize(values, number)
    columns["label"] = rng.integers(0, CLASSES, number, np.int32)
    columns["has_caption"] = np.ones(number, bool)
    columns["caption_first"] = np.arange(number + 1)
    columns |= numbered("path", b"%09d.flac", number)
    columns |= numbered("caption", b"sound number %09d, as somebody describes it", number)
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", values)


def numbered(name: str, form: bytes, number: int) -> dict[str, NDArray[Any]]:
    """A column of texts that differ in their numbers of nine digits."""
    first = form % 0
    place = first.index(b"0" * 9)
    texts = np.tile(np.frombuffer(first, np.uint8), (number, 1))
    for digit in range(9):
        texts[:, place + digit] += (np.arange(number) // 10 ** (8 - digit) % 10).astype(np.uint8)
    offsets = np.arange(number + 1) * len(first)
    return {f"{name}.encoded": texts.reshape(-1), f"{name}.offsets": offsets}


def workers(folder: Path) -> dict[str, Any]:
    """Memory of a planner over mapped columns, and of forked workers that plan."""
    before, seconds = memory_mb("RssAnon"), dict[str, float]()
    columns = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    clips = Clips(columns)
    plans = timed(seconds, "preparation", lambda: Plans(clips))
    made = memory_mb("RssAnon") - before
    context = multiprocessing.get_context("fork")  # as the workers of a loader on Linux
    results = context.SimpleQueue()
    processes = [
        context.Process(target=work, args=(plans, number, results)) for number in range(WORKERS)
    ]
    for process in processes:
        process.start()
    private = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return {
        "clips": len(clips),
        "workers": WORKERS,
        "preparation_core_seconds": seconds["preparation"],
        "columns_on_disk_mb": round(sum(x.nbytes for x in columns.values()) / 1e6, 1),
        "planner_mb": round(made, 1),
        "peak_of_preparation_mb": round(memory_mb("VmHWM"), 1),
        "private_mb_of_each_worker": private,
        "all_processes_mb": round(made + sum(private), 1),
    }


def work(plans: Plans, number: int, results: Any) -> None:
    """Plan mixtures, and give the memory in megabytes that this process shares with no other."""
    plans.draw(number * PLANS_PER_WORKER, (number + 1) * PLANS_PER_WORKER)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    results.put(sum(int(x.split()[1]) for x in lines if x.startswith("Private_Dirty")) * 1024 / 1e6)


def in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(call, *arguments).result()


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the largest manifest")
    parser.add_argument("--plans", type=int, default=1_000_000, help="of the long run")
    parser.add_argument("--clips", type=int, default=10_000_000, help="that are memory-mapped")
    parser.add_argument("--output", type=Path, default=Path("results/clips_scale.json"))
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_corpus(Path(folder), args.rows // share) for share in (100, 10, 1)]
        result["reading"] = [in_new_process(reading, path) for path in paths]
        result["planning"] = [in_new_process(planning, path) for path in paths]
        result["long_run_mb"] = in_new_process(long_run, paths[-1], args.plans)
    with tempfile.TemporaryDirectory() as folder:
        in_new_process(write_columns, Path(folder), args.clips)
        result["workers"] = in_new_process(workers, Path(folder))
    text = json.dumps(result, indent=1)
    args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
