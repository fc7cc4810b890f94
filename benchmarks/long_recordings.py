"""Long recordings, several queries, many files. Writes ``results/long_recordings.json``.

    python -m benchmarks.long_recordings [--minutes 60] [--clips 500] [--model FOLDER]

The command is measured as a process with its start, as users run it:

- 10 and 60 minutes of stereo at 44.1 kHz (16-bit WAV): peak memory as the kernel counts it,
  real-time factor, and time until the first samples are in the output file;
- three queries on the 10 minutes, compared with one;
- a folder of 500 clips of 1 to 3 seconds: clips per second with one and two jobs, compared with
  one process per clip (for 20 clips); memory in the second and in the last quarter of the run.

In this process, chunks are compared with one long pass over 60 s.

Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.extract_speed import COMMAND, QUERY, cpu_model
from recipes.documents import fill_in
from singleout.extract import Extractor

RATE = 44_100
QUERIES = ("a dog barking", "rain on a roof", "a man speaking")
POLL_SECONDS = 0.01


def write_noise(path: Path, seconds: float, channels: int, seed: int) -> None:
    """Bursts of coloured noise, written minute by minute."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", RATE, channels, "PCM_16") as file:
        remaining = round(seconds * RATE)
        while remaining:
            num_frames = min(remaining, 60 * RATE)
            white = rng.normal(0, 0.05, (num_frames, channels))
            envelope = np.repeat(rng.uniform(0, 1, num_frames // 4_410 + 1), 4_410)[:num_frames]
            file.write((white + 0.7 * np.roll(white, 1, axis=0)) * envelope[:, None])
            remaining -= num_frames


def measured(command: list[str], output: Path) -> dict[str, float]:
    """Wall time, memory, and time until the first samples, of a command.

    Args:
        command: the arguments of the process.
        output: folder that the command writes to.

    Raises:
        SystemExit: the command failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first_s = None
    memory: list[float] = []
    peak_megabytes = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if first_s is None and any(size_of(p) > 1_000 for p in output.glob(".*.partial")):
            first_s = time.perf_counter() - started
        # Counts of the process itself: that of wait4 contains the memory of its parent.
        resident, peak = (kilobytes(process.pid, name) for name in ("VmRSS", "VmHWM"))
        memory.append(resident / 1024)
        peak_megabytes = max(peak_megabytes, peak / 1024)
        time.sleep(POLL_SECONDS)
    if process.wait():
        raise SystemExit(f"error: exit code {process.returncode} of: {' '.join(command)}")
    wall_s = time.perf_counter() - started
    middle = memory[len(memory) // 4 : len(memory) // 2]
    return {
        "wall_s": wall_s,
        "first_output_s": wall_s if first_s is None else first_s,
        "peak_megabytes": peak_megabytes,
        "megabytes_second_quarter": float(np.mean(middle)) if middle else 0.0,
        "megabytes_last_quarter": float(np.mean(memory[len(memory) * 3 // 4 : -1] or [0.0])),
    }


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if it has been renamed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kilobytes(pid: int, name: str) -> int:
    """A value in the kernel's status of a process; 0 after its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError):
        return 0


def extract(recordings: Path | list[Path], *options: str) -> dict[str, float]:
    """Measure ``singleout extract`` with a temporary output folder."""
    paths = [recordings] if isinstance(recordings, Path) else recordings
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(p) for p in paths]
        return measured([*COMMAND, *arguments, *options, "-o", folder], Path(folder))


def long_recordings(folder: Path, minutes: int, model: list[str]) -> dict[str, Any]:
    """Measure recordings of 10 and of ``minutes`` minutes, and three queries on the first."""
    result: dict[str, Any] = {}
    for length in (10, minutes):
        path = folder / f"{length}.wav"
        write_noise(path, 60 * length, 2, seed=length)
        one = extract(path, "-q", QUERY, *model)
        result[f"{length}_minutes"] = {**one, "real_time_factor": one["wall_s"] / 60 / length}
    short, long = (result[f"{length}_minutes"] for length in (10, minutes))
    result["peak_growth"] = long["peak_megabytes"] / short["peak_megabytes"] - 1
    queries = [part for query in QUERIES for part in ("-q", query)]
    three = extract(folder / "10.wav", *queries, *model)
    times = three["wall_s"] / short["wall_s"]
    result["three_queries_10_minutes"] = {**three, "times_one_query": times}
    return result


def many_clips(folder: Path, num_clips: int, num_single: int, model: list[str]) -> dict[str, Any]:
    """Measure a folder of clips, and ``num_single`` clips with a process each."""
    clips = folder / "clips"
    clips.mkdir()
    lengths = np.random.default_rng(1).uniform(1, 3, num_clips)
    paths = [clips / f"{number:04d}.wav" for number in range(num_clips)]
    for number, (path, seconds) in enumerate(zip(paths, lengths, strict=True)):
        write_noise(path, seconds, 1, seed=number)
    result: dict[str, Any] = {"clips": num_clips, "seconds_of_sound": float(lengths.sum())}
    for jobs in (1, 2):
        whole = extract(clips, "-q", QUERY, "--jobs", str(jobs), *model)
        result[f"{jobs}_jobs"] = {**whole, "clips_per_second": num_clips / whole["wall_s"]}
    started = time.perf_counter()
    for path in paths[:num_single]:
        extract(path, "-q", QUERY, *model)
    per_second = num_single / (time.perf_counter() - started)
    result["process_per_clip"] = {"clips": num_single, "clips_per_second": per_second}
    return result


def agreement_db(model: str | None) -> float:
    """Level of the target of one long pass relative to its difference from chunks of 5 s."""
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, 60 * 32_000)).astype(np.float32)
    extractor = Extractor.from_pretrained(model)
    whole, chunked = (
        Extractor(extractor.model, chunk_seconds=seconds).extract(mixture, QUERY, 32_000).target
        for seconds in (1e4, 5.0)
    )
    return float(10 * np.log10(np.mean(whole**2) / np.mean((whole - chunked) ** 2)))


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table with sentences."""
    long, many = report["long"], report["many"]
    lengths = [name for name in long if name.endswith("_minutes")]
    columns = ("", "wall time", "real-time factor", "peak memory", "first samples written")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name in lengths:
        row = long[name]
        factor = f"{row['real_time_factor']:.3f}" if "real_time_factor" in row else ""
        lines.append(
            f"| {name.replace('_', ' ')} | {row['wall_s']:.1f} s | {factor} "
            f"| {row['peak_megabytes']:.0f} MiB | {row['first_output_s']:.1f} s |"
        )
    times = long["three_queries_10_minutes"]["times_one_query"]
    memory = many["1_jobs"]
    by_jobs = (f"{many[f'{n}_jobs']['clips_per_second']:.1f} with `--jobs {n}`" for n in (1, 2))
    sentences = (
        "Stereo, 44.1 kHz, 16 bits, start included; the peak memory of the longer recording "
        f"differs by {long['peak_growth']:+.1%} from that of the shorter one.",
        f"Three queries take {times:.2f} times as long as one.",
        f"A folder of {many['clips']} clips of 1 to 3 s, clips per second: {', '.join(by_jobs)},",
        f"{many['process_per_clip']['clips_per_second']:.2f} with a process per clip;",
        f"resident memory {memory['megabytes_second_quarter']:.0f} MiB in the second quarter of",
        f"the run, {memory['megabytes_last_quarter']:.0f} in the last.",
        "Chunks of 5 s agree with one pass over 60 s to",
        f"{report['chunks_against_one_pass_60s_db']:.0f} dB.",
        f"{report['machine']['cpu']}, {report['machine']['cores']} cores",
        "(`results/long_recordings.json`).",
    )
    return "\n".join([*lines, "", *sentences])


def main() -> None:
    """Measure, write the report, and fill in the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="the packaged model by default")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument(
        "--alone", dest="single", type=int, default=20, help="number of clips with a process each"
    )
    parser.add_argument("--output", type=Path, default=Path("results/long_recordings.json"))
    parser.add_argument("--document", type=Path, default=Path("docs/recordings.md"))
    arguments = parser.parse_args()
    model = ["--model", arguments.model] if arguments.model else []
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.long_recordings", *sys.argv[1:]]),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
        },
        "model": arguments.model or "packaged",
        "query": QUERY,
    }
    with tempfile.TemporaryDirectory() as folder:
        report["long"] = long_recordings(Path(folder), arguments.minutes, model)
        report["many"] = many_clips(Path(folder), arguments.clips, arguments.single, model)
    report["chunks_against_one_pass_60s_db"] = agreement_db(arguments.model)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    fill_in(arguments.document, {"long": table(report)})
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
