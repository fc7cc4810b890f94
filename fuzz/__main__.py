"""Read mutated files, and count what becomes of them.

``python -m fuzz config --inputs 100000 --seed 1`` runs one target, ``python -m fuzz all`` each of
them. The counts are added to ``results/fuzz.json``. Every input of ``fuzz/findings`` is read again
first. The exit code is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


NAMES = (
    "sndfile", "ffmpeg", "manifest", "config", "safetensors", "checkpoint", "encoder", "model",
    "tar", "corpus",
)  # fmt: skip
"""Of the targets, as in ``fuzz.targets``, which imports every reader."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=[*NAMES, "all"])
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--no-packages", action="store_true", help="only seeds that are made here")
    parser.add_argument("--findings", type=Path, default=ROOT / "fuzz" / "findings")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "fuzz.json")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # a config may name a model of a hub
    findings = 0
    for name in NAMES if options.target == "all" else [options.target]:
        findings += _run(name, options)
    sys.exit(1 if findings else 0)


def _run(name: str, options: argparse.Namespace) -> int:
    """Run one target; the number of findings."""
    import torch

    from fuzz.targets import TARGETS
    from fuzz.worker import replay, run

    torch.set_num_threads(1)
    target, began = TARGETS[name](), time.monotonic()
    in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(dir=in_memory) as temporary:
        folder = Path(temporary)
        target.prepare(folder, not options.no_packages)
        findings = options.findings.absolute()
        replayed = replay(target, folder, findings)
        counts = run(target, options.inputs, options.seed, folder, findings, options.start)
        counts.findings.update(
            f"again: {result}: {place}"
            for place, result in replayed.items()
            if result not in ("read", "refused")
        )
    seconds = time.monotonic() - began
    entry = {
        "inputs": counts.inputs,
        "replayed": len(replayed),
        "read": counts.read,
        "refused": counts.refused,
        "findings": dict(counts.findings.most_common()),
        "seconds": round(seconds),
        "seed": options.seed,
        "command": f"python -m fuzz {name} --inputs {options.inputs} --seed {options.seed}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, 1 process",
    }
    print(json.dumps({name: entry}, indent=1), flush=True)
    path = options.results
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**results, name: entry}, indent=1) + "\n", encoding="utf-8")
    return sum(counts.findings.values())


if __name__ == "__main__":
    main()
