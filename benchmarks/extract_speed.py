"""How fast and how large is extraction? Prints a table and writes ``results/extract_speed.json``.

    python benchmarks/extract_speed.py [--model FOLDER] [--runs 5]

The command line is measured from outside, start-up included: wall time and peak memory of
``singleout extract`` on 10 s at 48 kHz. The parts are measured in this process: the separator on
one and two threads, for one sound and for words, then all of an extraction; embedding words and a
sound on one. Medians; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from singleout.audio import write_wav
from singleout.extract import Extractor
from singleout.types import Query

SECONDS = 10
CLI_RATE = 48_000
QUERY = "a dog barking"
COMMAND = [sys.executable, "-c", "from singleout.cli import main; main()", "extract"]


def noise(channels: int, rate: int) -> np.ndarray:
    """Pink-ish noise, float32 [channels, samples]: no part of it is silent or trivial."""
    white = np.random.default_rng(0).normal(0, 0.02, (channels, SECONDS * rate))
    return (white + 0.3 * np.roll(white, 1, axis=1)).astype(np.float32)


def run_once(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak megabytes of a process that must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with exit code {process.returncode}: {' '.join(command)}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return wall_seconds, kilobytes / 1024


def measure_command(channels: int, model: str | None, runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixture.wav"
        write_wav(path, noise(channels, CLI_RATE), CLI_RATE)
        command = [*COMMAND, str(path), QUERY, "-o", folder]
        command += ["--model", model] if model else []
        run_once(command)  # fills the disk cache
        wall_seconds, megabytes = zip(*(run_once(command) for _ in range(runs)), strict=True)
    return {
        "wall_seconds": statistics.median(wall_seconds),
        "wall_seconds_worst": max(wall_seconds),
        "peak_megabytes": max(megabytes),
    }


def median_seconds(work: Callable[[], Any], runs: int) -> float:
    work()
    durations = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


@torch.inference_mode()
def measure_parts(extractor: Extractor, runs: int) -> dict[str, float]:
    model, encoder = extractor.model, extractor.model.encoder
    audio = noise(1, model.sample_rate)
    mixture = torch.from_numpy(audio).unsqueeze(0)
    asked = model.embed(Query(QUERY))
    condition = asked.embeddings[:, 0]  # several sounds may stand for words: a decoding each
    found: dict[str, float] = {"text_query_decodings": asked.weights.shape[1]}
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        works: dict[str, Callable[[], Any]] = {
            "separator": lambda: model(mixture, condition),
            "text_query": lambda: model(mixture, asked),
            # Whether it is there, and its level, as well; the words are known by then.
            "extract": lambda: extractor.extract(audio, QUERY, model.sample_rate),
        }
        for name, work in works.items():
            seconds = median_seconds(work, runs)
            found[f"{name}_real_time_factor_{num_threads}_threads"] = seconds / SECONDS
    torch.set_num_threads(1)
    found["text_query_ms"] = 1e3 * median_seconds(lambda: encoder.embed_text(QUERY), 4 * runs)
    found["audio_query_10s_ms"] = 1e3 * median_seconds(
        lambda: encoder.embed_audio(audio, model.sample_rate), runs
    )
    with FlopCounterMode(display=False) as counter:
        model(mixture, condition)
    found["separator_gflop_per_second"] = counter.get_total_flops() / SECONDS / 1e9
    found["separator_parameters"] = sum(p.numel() for p in model.parameters())
    return found


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a model; the one in the package by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/extract_speed.json"))
    arguments = parser.parse_args()

    report = {
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "model": arguments.model or "packaged",
        "runs": arguments.runs,
        "command_10s_stereo": measure_command(2, arguments.model, arguments.runs),
        "command_10s_mono": measure_command(1, arguments.model, arguments.runs),
        "parts": measure_parts(Extractor.from_pretrained(arguments.model), arguments.runs),
    }
    for group, values in report.items():
        if isinstance(values, dict):
            print(group)
            for name, value in values.items():
                shown = f"{value:,.3f}" if isinstance(value, float) else f"{value}"
                print(f"  {name:<40} {shown}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
