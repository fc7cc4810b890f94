"""A batch in threads against the same batch on Ray. Writes ``results/extract_engines.json``.

    python -m benchmarks.extract_engines [--clips 100] [--seconds 3] [--runs 3]

Both run ``singleout extract`` as a process with its start, on generated clips of noise and tones at
32 kHz, with one thread per recording and two recordings at a time. The two engines take turns.
The start is what a batch of one clip takes. The files of both engines are compared by their hash.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extract_speed import machine
from benchmarks.revisions import ROOT, revision_of
from singleout.audio import write_wav

RATE = 32_000
JOBS = 2
SEED = 0
ENGINES = ("local", "ray")
COMMAND = [sys.executable, "-c", "from singleout.cli import main; main()", "extract"]


def write_clips(folder: Path, count: int, seconds: float) -> None:
    """Write clips of noise with a tone, each drawn by its number."""
    folder.mkdir()
    times = np.arange(round(seconds * RATE)) / RATE
    for number in range(count):
        random = np.random.default_rng([SEED, number])
        tone = 0.1 * np.sin(2 * np.pi * random.uniform(100, 4_000) * times)
        clip = tone + random.normal(0, 0.02, len(times))
        write_wav(folder / f"{number:06}.wav", clip[None].astype(np.float32), RATE)


def seconds_of(engine: str, clips: Path, out: Path) -> float:
    """Wall time of a batch, start of the process included.

    Raises:
        SystemExit: the command failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    options = ["-o", str(out), "--engine", engine, "--jobs", str(JOBS)]
    started = time.perf_counter()
    run = subprocess.run(
        [*COMMAND, str(clips), "a dog barking", *options], capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(f"error: {engine}: {run.stderr}")
    return time.perf_counter() - started


def digest_of(folder: Path) -> str:
    """Hash of the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def measure(clips: int, seconds: float, runs: int) -> dict[str, Any]:
    """Times and hashes of both engines, by their names."""
    results: dict[str, dict[str, Any]] = {engine: {"wall_s": []} for engine in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder / "many", clips, seconds)
        write_clips(folder / "one", 1, seconds)
        for engine in ENGINES:
            results[engine]["start_s"] = round(seconds_of(engine, folder / "one", folder / "o"), 2)
        for _ in range(runs):
            for engine in ENGINES:
                wall_s = seconds_of(engine, folder / "many", folder / engine)
                results[engine]["wall_s"].append(round(wall_s, 2))
        for engine, result in results.items():
            result["median_wall_s"] = statistics.median(result["wall_s"])
            result["clips_per_second"] = round(clips / result["median_wall_s"], 2)
            result["sha256"] = digest_of(folder / engine)
    return results


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "extract_engines.json")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(JOBS))
    described = {"machine": machine(), "revision": revision_of(ROOT), "seed": SEED}
    engines = measure(arguments.clips, arguments.seconds, arguments.runs)
    result = {
        "command": f"python -m benchmarks.extract_engines --clips {arguments.clips}"
        f" --seconds {arguments.seconds:g} --runs {arguments.runs}",
        **described,
        "load_after": os.getloadavg()[0],
        "clips": arguments.clips,
        "clip_seconds": arguments.seconds,
        "engines": engines,
        "same_files": engines["local"]["sha256"] == engines["ray"]["sha256"],
        "ray_over_local": round(
            engines["ray"]["median_wall_s"] / engines["local"]["median_wall_s"], 2
        ),
    }
    text = json.dumps(result, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
