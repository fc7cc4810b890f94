"""Kill ``singleout train`` at random moments, and compare the run with one that was never killed.

Command: ``python -m benchmarks.train_kills [--kills 30]``. Writes ``results/train_kills.json``.

A small model trains with validation, checkpoints every other step and a process that renders. Each
session is a process that SIGKILL ends after a random time, and the next session resumes the run. At
the end the curve, the last checkpoint and the model must have the bytes of the run that was never
killed. Sessions are forked after the libraries are imported, so that the kills hit the training and
not the imports. A run that ends before all kills are used up is compared, and another one begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.extract_speed import machine
from benchmarks.revisions import ROOT, revision_of
from singleout.audio import write_wav
from singleout.progress import track
from singleout.storage.tensors import read_safetensors
from singleout.train.curve import read_curve

RESULTS = ROOT / "results/train_kills.json"
SEED = 0
RATE = 32_000
FILES = ("curve.csv", "checkpoint.safetensors", "model/model.safetensors", "model/config.json")
"""Files of a finished run that must be equal."""


def write_corpus(folder: Path) -> Path:
    """Write a manifest of twelve noises; its path.

    The last one has no caption. So the end of a run is not a calibration, which would take as long
    as its steps.
    """
    rows = []
    for number in range(12):
        rng = np.random.default_rng([SEED, number])
        noise = rng.normal(0, 0.1, (1, RATE + 4_000 * number)).astype(np.float32)
        write_wav(folder / f"{number}.wav", noise, RATE)
        split = "train" if number < 8 else "validation"
        row = {"path": f"{number}.wav", "split": split, "seconds": noise.shape[1] / RATE}
        rows.append({**row, "caption": f"sound {number}" if number < 11 else None})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def write_config(folder: Path, steps: int) -> Path:
    """Write the config of a run; its path."""
    mixtures = {"segment_seconds": 0.5, "crop_hop_seconds": 0.25}
    separator = {
        **{"type": "conditioned_unet", "num_fft": 256, "hop": 64, "channels": [4, 4]},
        **{"time_strides": [2], "bottleneck": 8, "dilations": [1]},
    }
    steps_of_chain = [{"type": "neighbours"}, {"type": "dropout", "p": 0.25}]
    config = {
        "manifest": str(write_corpus(folder)),
        "output": str(folder / "run"),
        "model": {"separator": separator, "manipulation": {"steps": steps_of_chain}},
        "mixtures": mixtures,
        "validation": {"num_mixtures": 2, "every_steps": 5, "mixtures": mixtures},
        **{"p_text": 0.3, "query_mixup": True, "optimizer": "muon", "precision": "float32"},
        **{"steps": steps, "batch_size": 2, "warmup_steps": 5, "checkpoint_every": 2},
        **{"num_workers": 1, "device": "cpu", "seed": SEED},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def session(config: Path, output: Path, seconds: float | None = None) -> float | None:
    """Train in a process, and kill it after ``seconds``.

    Returns:
        The time that the process took, or None if it was killed.
    """
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _train_here(config, output)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a session ended with exit code {code}: see its line above")
    return None if code else time.perf_counter() - start


def _train_here(config: Path, output: Path) -> None:
    from singleout.cli import main

    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    torch.set_num_threads(1)  # threads of the parent do not exist here
    sys.argv = ["singleout", "train", str(config), "--output", str(output)]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


def digests(run: Path) -> dict[str, str]:
    """Hash of every file of a finished run that must be equal."""
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest()[:16] for name in FILES}


def left_by(run: Path) -> dict[str, Any]:
    """What a killed session left behind."""
    checkpoint = run / "checkpoint.safetensors"
    step = int(read_safetensors(checkpoint)[1]["step"]) if checkpoint.exists() else 0
    return {
        "checkpoint_step": step,
        "rows_of_curve": len(read_curve(run)) if run.exists() else 0,
        "unfinished_files": len(list(run.rglob("*.partial"))),
        "model_is_saved": (run / "model" / "model.safetensors").exists(),
    }


def kills(config: Path, folder: Path, num: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Kill sessions ``num`` times; a row for each kill, and one for each run that ended.

    Args:
        config: of the run.
        folder: of the runs.
        num: number of kills.
        seconds: longest time of a session before its kill.
    """
    rng = np.random.default_rng(SEED)
    number = left = 0
    while left < num:
        output = folder / f"killed {number}"
        after = float(rng.uniform(0, seconds))
        if session(config, output, after) is None:
            left += 1
            yield {"run": number, "killed_after_seconds": round(after, 3), **left_by(output)}
            continue
        yield {"run": number, "digests": digests(output)}
        number += 1
    session(config, folder / f"killed {number}")
    yield {"run": number, "digests": digests(folder / f"killed {number}")}


def main() -> None:
    """Kill, compare, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    description = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SINGLEOUT_CACHE"] = str(folder / "cache")
        config = write_config(folder, arguments.steps)
        session(config, folder / "warm up")  # embeds the sounds
        seconds = session(config, folder / "whole")
        assert seconds is not None
        expected = digests(folder / "whole")
        # Long enough to come past the start, and short enough for many kills in a run.
        rows = list(
            track(kills(config, folder, arguments.kills, seconds / 5), "killing", arguments.kills)
        )
    killed = [row for row in rows if "digests" not in row]
    ended = [row for row in rows if "digests" in row]
    result = {
        "command": f"python -m benchmarks.train_kills --kills {arguments.kills}",
        "commit": revision_of(ROOT),
        "machine": description,
        "seed": SEED,
        "steps": arguments.steps,
        "seconds_of_a_run": round(seconds, 1),
        "kills": len(killed),
        "kills_with_unfinished_files": sum(row["unfinished_files"] > 0 for row in killed),
        "runs": len(ended),
        "equal_runs": sum(row["digests"] == expected for row in ended),
        "digests": expected,
        "rows": killed,
    }
    text = json.dumps(result, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(result["equal_runs"] != result["runs"])


if __name__ == "__main__":
    main()
