"""Speed and memory of extraction. Prints a table and writes ``results/extract_speed.json``.

    python benchmarks/extract_speed.py [--model FOLDER] [--runs 5]

The command is measured as a process with its start: wall time and peak memory of ``singleout
extract`` on 10 s at 48 kHz. The parts are measured in this process: on one and two threads the
separator for one condition, the separator for a text query, and a whole extraction; on one thread
the embedding of a text and of a sound. All values are medians. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from singleout.condition import Condition
from singleout.extract import Extractor
from singleout.types import Query

SECONDS = 10
CLI_RATE = 48_000
QUERY = "a dog barking"
COMMAND = [sys.executable, "-c", "from singleout.cli import main; main()", "extract"]


def noise(channels: int, rate: int) -> np.ndarray:
    """Coloured noise, float32 [channels, samples], without silent parts."""
    white = np.random.default_rng(0).normal(0, 0.02, (channels, SECONDS * rate))
    return (white + 0.3 * np.roll(white, 1, axis=1)).astype(np.float32)


def run_once(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak megabytes of a process.

    Raises:
        SystemExit: the process failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: exit code {process.returncode} of: {' '.join(command)}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return wall_seconds, kilobytes / 1024


def measure_command(channels: int, model: str | None, runs: int) -> dict[str, float]:
    """Wall time and peak memory of the command, start included."""
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
    """Median time of a call, after one that does not count."""
    work()
    durations = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


@torch.inference_mode()
def measure_parts(extractor: Extractor, runs: int) -> dict[str, float]:
    """Times, operations and parameters of the separator, of a text query and of the encoder."""
    model, encoder = extractor.model, extractor.model.encoder
    audio = noise(1, model.sample_rate)
    mixture = torch.from_numpy(audio).unsqueeze(0)
    text_query = model.embed(Query((QUERY,)))
    # A text query may have several parts. Each of them is decoded.
    one_part = Condition.single(text_query.embeddings[:, 0])
    one_part = dataclasses.replace(one_part, mask=text_query.mask)
    result: dict[str, float] = {"text_query_decodings": text_query.weights.shape[1]}
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        works: dict[str, Callable[[], Any]] = {
            "separator": lambda: model(mixture, one_part),
            "text_query": lambda: model(mixture, text_query),
            # With presence and level gate; the embedding of the text is in memory by then.
            "extract": lambda: extractor.extract(audio, QUERY, model.sample_rate),
        }
        for name, work in works.items():
            seconds = median_seconds(work, runs)
            result[f"{name}_real_time_factor_{num_threads}_threads"] = seconds / SECONDS
    torch.set_num_threads(1)
    result["text_query_ms"] = 1e3 * median_seconds(lambda: encoder.embed_text(QUERY), 4 * runs)
    result["audio_query_10s_ms"] = 1e3 * median_seconds(
        lambda: encoder.embed_audio(audio, model.sample_rate), runs
    )
    with FlopCounterMode(display=False) as counter:
        model(mixture, one_part)
    result["separator_gflop_per_second"] = counter.get_total_flops() / SECONDS / 1e9
    result["separator_parameters"] = sum(p.numel() for p in model.parameters())
    return result


def machine() -> dict[str, Any]:
    """Description of this machine, for results."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_model() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="the packaged model by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/extract_speed.json"))
    arguments = parser.parse_args()

    report: dict[str, Any] = {
        "machine": machine(),
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
