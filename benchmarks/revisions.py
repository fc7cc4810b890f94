"""Compare the speed of two revisions on one machine. Writes ``results/revisions.json``.

    git worktree add ../other REVISION
    python -m benchmarks.revisions ../other [--runs 5]

The same commands run in turn with the package of the other revision and with this one: an
extraction of 10 seconds, an extraction of two minutes of stereo, and eight training steps of the
model in the package. Start-up is included, since users wait for it too. The ratio is this revision
over the other, pair by pair; below 1 this revision is faster. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from benchmarks.extract_speed import cpu_model

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results/revisions.json"
COMMAND = [sys.executable, "-c", "from singleout.cli import main; main()"]
RATE = 48_000
QUERY = "a dog barking"


def write_noise(path: Path, seconds: float, channels: int, seed: int) -> Path:
    """White noise as 16-bit WAV."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * RATE), channels))
    soundfile.write(path, noise, RATE, "PCM_16")
    return path


def seconds_of(arguments: list[str], checkout: Path, cache: Path) -> float:
    """Wall time of a command with the package of a checkout."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / "src"),
        "SINGLEOUT_CACHE": str(cache),
    }
    started = time.perf_counter()
    subprocess.run(
        [*COMMAND, *arguments], env=environment, check=True, capture_output=True, cwd=cache
    )
    return time.perf_counter() - started


def tasks(folder: Path) -> dict[str, list[str]]:
    """Arguments of the commands, by name; OUTPUT is a new folder of each run."""
    sounds = folder / "sounds"
    sounds.mkdir()
    for number in range(6):
        write_noise(sounds / f"{number}.wav", 5, 1, number)
    short = write_noise(folder / "short.wav", 10, 1, 7)
    long = write_noise(folder / "long.wav", 120, 2, 8)
    return {
        "extract_10_s": ["extract", str(short), QUERY, "-o", "OUTPUT"],
        "extract_120_s_stereo": ["extract", str(long), QUERY, "-o", "OUTPUT"],
        "train_8_steps": [
            "train", "--audio", str(sounds), "--output", "OUTPUT", "--init", "builtin",
            "--steps", "8",
        ],
    }  # fmt: skip


def compare(other: Path, runs: int) -> dict[str, dict[str, float]]:
    """Medians of both revisions and of their ratio, for every command."""
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task, arguments in tasks(folder).items():
            times: dict[str, list[float]] = {"other": [], "this": []}
            for run in track(range(runs + 1), task):  # the first pair warms up
                for revision, checkout in (("other", other), ("this", ROOT)):
                    output = str(folder / f"{task}-{run}-{revision}")
                    given = [output if word == "OUTPUT" else word for word in arguments]
                    times[revision].append(seconds_of(given, checkout, folder))
            pairs = list(zip(times["this"], times["other"], strict=True))[1:]
            ratios = [this / other_s for this, other_s in pairs]
            results[task] = {
                "other_s": round(statistics.median(other_s for _, other_s in pairs), 3),
                "this_s": round(statistics.median(this for this, _ in pairs), 3),
                "ratio": round(statistics.median(ratios), 3),
                "lowest_ratio": round(min(ratios), 3),
                "highest_ratio": round(max(ratios), 3),
            }
    return results


def revision_of(checkout: Path) -> str:
    """Short hash of the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Compare, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="checkout of the other revision")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    results = {
        "other": revision_of(other),
        "this": revision_of(ROOT),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores",
        "runs": arguments.runs,
        "commands": compare(other, arguments.runs),
    }
    text = json.dumps(results, indent=2)
    RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
