"""Measure all faults, as ``make faults`` does: ``python -m tests.faults OUTPUT.json``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from time import perf_counter

PRELOADED = "SINGLEOUT_FAULTS_SHIM"
"""Names the compiled shim in the process that it is preloaded into."""

MODULES = (
    "singleout.cli.commands",
    "singleout.data.embedding_cache",
    "singleout.evaluate",
    "singleout.extract.batch",
    "singleout.train.run",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


def main() -> None:
    """Start again with the shim preloaded, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "output", type=Path, help="JSON file of the rows; those of other commands stay"
    )
    parser.add_argument("--most", type=int, help="places of a fault in a command; default: every")
    parser.add_argument("--command", action="append", default=[], help="only this command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if (shim := os.environ.get(PRELOADED)) is not None:
            _measure(arguments.output, Path(shim), Path(folder), arguments.most, arguments.command)
            return
        from tests.faults.injection import Shim

        shim_path = str(Shim.build(Path(folder)))
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = {**os.environ, **threads, "LD_PRELOAD": shim_path, PRELOADED: shim_path}
        command = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
        sys.exit(os.spawnve(os.P_WAIT, sys.executable, command, environment))


def _measure(output: Path, shim: Path, folder: Path, most: int | None, only: list[str]) -> None:
    os.environ.pop("LD_PRELOAD")  # not for the decoders
    os.environ["SINGLEOUT_CACHE"] = str(folder / "workshop" / "cache")

    import torch

    torch.set_num_threads(1)
    # Everything that the commands import, so that a forked process only runs them.
    for name in MODULES:
        import_module(name)
    from tests.faults.measure import Campaign

    started = perf_counter()
    rows = []
    for row in Campaign(folder, shim, most).rows(only):
        rows.append(row.as_json())
        print(row.command, row.fault, row.injected, dict(row.endings), len(row.lost), flush=True)
        for line in row.lost[:3]:
            print("   ", line, flush=True)
    print(f"{perf_counter() - started:.0f} s", flush=True)
    tried = {row["command"] for row in rows}
    before = json.loads(output.read_text())["rows"] if output.exists() else []
    rows = [row for row in before if row["command"] not in tried] + rows
    output.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
