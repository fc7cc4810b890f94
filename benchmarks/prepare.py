"""Cost of ``singleout prepare``, equal bytes by all engines, and kills.

    OMP_NUM_THREADS=1 python -m benchmarks.prepare [--clips 6] [--kills 30] [--rows 1000000]
        [--seed 0] [--only-kills]

Prepares 1, 10 and 100 times ``--clips`` sounds of 10 s (noise of changing level; FLAC of 44.1 kHz
in stereo), in this process and on one core. With more threads, idle ones would count. Compares the
corpus of the local engine with that of a Ray cluster on this machine. Kills the command at random
moments with SIGKILL, and compares what a last run makes with a corpus that was never interrupted.
Searches duplicates among ``--rows`` sounds. Prints the result and writes ``results/prepare.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from benchmarks.extract_speed import machine
from singleout.engines import load_engine
from singleout.prepare import PrepareConfig, prepare
from singleout.prepare.duplicates import revision_of

CLIP_SECONDS, SOURCE_RATE = 10, 44_100
FACTORS = (1, 10, 100)
COMMAND = [sys.executable, "-m", "singleout", "prepare"]


def write_sounds(folder: Path, number: int, seed: int) -> Path:
    """Write different sounds as FLAC."""
    folder.mkdir()
    times = np.arange(CLIP_SECONDS * SOURCE_RATE) / SOURCE_RATE
    for i in range(number):
        generator = np.random.default_rng([seed, i])
        levels = np.interp(times, np.arange(CLIP_SECONDS + 1), generator.uniform(0.01, 0.2, 11))
        audio = levels[:, None] * generator.standard_normal((len(times), 2))
        soundfile.write(folder / f"{i:05}.flac", audio.clip(-1, 1), SOURCE_RATE)
    return folder


def hash_of(corpus: Path) -> str:
    """SHA-256 of the names and contents of all files."""
    digest = sha256()
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        digest.update(path.relative_to(corpus).as_posix().encode() + b"\0")
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def costs(folder: Path, clips: int, seed: int) -> list[dict[str, Any]]:
    """Processor time of preparing 1, 10 and 100 times the sounds; imports do not count."""
    prepare(write_sounds(folder / "first", 1, seed), folder / "first-corpus")
    rows = []
    for factor in FACTORS:
        sounds = write_sounds(folder / f"sounds-{factor}", factor * clips, seed)
        started = time.process_time()
        summary = prepare(sounds, folder / f"corpus-{factor}", PrepareConfig(shard_clips=100))
        core_seconds = time.process_time() - started
        hours = factor * clips * CLIP_SECONDS / 3_600
        rows.append({
            "times": factor,
            "hours_of_sound": hours,
            "core_seconds_per_hour": core_seconds / hours,
            "hours_per_core_hour": 3_600 * hours / core_seconds,
            "decode_share": summary.decode_share,
            "bytes_per_hour": sum(
                path.stat().st_size for path in (folder / f"corpus-{factor}").rglob("*.*")
            ) / hours,
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def engines(folder: Path) -> dict[str, Any]:
    """Hashes of corpora with embeddings by the local engine and by Ray."""
    config = PrepareConfig(shard_clips=7, embed="builtin")
    hashes = {}
    for name in ("local", "ray"):
        prepare(folder / "sounds-10", folder / name, config, load_engine(name))
        hashes[name] = hash_of(folder / name)
    return {**hashes, "equal": len(set(hashes.values())) == 1}


def kills(folder: Path, number: int, seed: int) -> dict[str, Any]:
    """Kill the command at random moments of its work, and compare the bytes with a whole run."""
    sounds = folder / "sounds-10"
    arguments = [*COMMAND, str(sounds), "--shard-clips", "5", "--json", "-o"]
    whole_run = subprocess.run(
        [*arguments, str(folder / "whole")], check=True, capture_output=True, text=True
    )
    seconds, whole = json.loads(whole_run.stdout)["seconds"], hash_of(folder / "whole")
    generator, out = random.Random(seed), folder / "killed"
    num_kills = num_ends = num_equal = num_with_shards = 0
    while num_kills < number:
        (out / "prepare.lock").unlink(missing_ok=True)
        process = subprocess.Popen(
            [*arguments, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (out / "prepare.lock").exists():
            time.sleep(0.001)
        try:
            process.wait(generator.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_kills += 1
            num_with_shards += any(out.glob("shards/*.tar"))
            print(f"kill {num_kills}", flush=True)
            continue
        num_ends, num_equal = num_ends + 1, num_equal + (hash_of(out) == whole)
        shutil.rmtree(out)
    subprocess.run([*arguments, str(out)], check=True, capture_output=True)
    num_ends, num_equal = num_ends + 1, num_equal + (hash_of(out) == whole)
    return {
        "kills": num_kills,
        "kills_with_finished_shards": num_with_shards,
        "runs_that_ended": num_ends,
        "equal_to_a_whole_run": num_equal,
    }


def sidecar_rows(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows as sidecars have them; every tenth sound is a version of the one before."""
    generator = np.random.default_rng(seed)
    bits = bytes(32)
    for i in range(number):
        if i % 10:
            bits = generator.bytes(32)
        statistics = {"digest": f"{i:032x}", "fingerprint": bits.hex()}
        description = {"seconds": 10.0, "file": f"sounds/{i:09}.flac", "statistics": statistics}
        yield {"key": f"{i:09}", "description": description}


def duplicates(number: int, seed: int) -> dict[str, Any]:
    """Time and memory of searching duplicates, without reading sidecars."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    revision = revision_of(sidecar_rows(number, seed), "group")
    return {
        "sounds": number,
        "duplicates": len(revision.notes),
        "core_seconds": time.process_time() - started,
        "peak_megabytes_more": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
    }


def write(result: dict[str, Any], path: Path) -> None:
    """Print the result, and write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-kills", action="store_true", help="keep the other figures")
    parser.add_argument("--output", type=Path, default=Path("results/prepare.json"))
    arguments = parser.parse_args()
    if arguments.only_kills:
        result: dict[str, Any] = json.loads(arguments.output.read_text(encoding="utf-8"))
        with TemporaryDirectory(prefix="prepare-benchmark-") as name:
            write_sounds(Path(name) / "sounds-10", 10 * arguments.clips, arguments.seed)
            result["kills"] = kills(Path(name), arguments.kills, arguments.seed)
        write(result, arguments.output)
        return
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": f"OMP_NUM_THREADS=1 python -m benchmarks.prepare --clips {arguments.clips}"
        f" --kills {arguments.kills} --rows {arguments.rows} --seed {arguments.seed}",
        "commit": commit,
        "machine": machine(),
        "seed": arguments.seed,
    }
    with TemporaryDirectory(prefix="prepare-benchmark-") as name:
        folder = Path(name)
        result["costs"] = costs(folder, arguments.clips, arguments.seed)
        per_hour = [row["core_seconds_per_hour"] for row in result["costs"]]
        result["cost_of_100_times_over_10_times"] = per_hour[-1] / per_hour[-2]
        result["engines"] = engines(folder)
        result["kills"] = kills(folder, arguments.kills, arguments.seed)
    result["duplicates"] = duplicates(arguments.rows, arguments.seed)
    write(result, arguments.output)


if __name__ == "__main__":
    main()
