"""The study of the paper's claims: train what is not trained yet, then write table and plots."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recipes.paper.corpus import prepare
from recipes.paper.encoder import ENCODER, PaperEncoder, fit_encoder
from recipes.paper.run import run_one
from recipes.paper.study import Line, Run, Study, read_lines
from recipes.sounds.__main__ import default_output_dir
from singleout.errors import SingleoutError

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ.get("SINGLEOUT_PAPER", "~/.cache/singleout/paper")).expanduser()
RESULTS = ROOT / "results/paper"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.paper", description=__doc__)
    parser.add_argument("--study", type=Path, default=ROOT / "configs/paper/small", metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side [%(default)s]")
    parser.add_argument("--rows", metavar="A,B", help="only these rows")
    parser.add_argument("--list", action="store_true", help="say what is done and what is not")
    parser.add_argument("--run", nargs=3, metavar=("ROW", "SETTING", "SEED"), help="one run, here")
    return parser.parse_args(arguments)


def run_here(study: Study, run: Run) -> None:
    """Train and score in this process; the line goes to the run's folder."""
    torch.set_num_threads(1)
    folder = WORK / "runs"
    line = run_one(study, run, PaperEncoder(ENCODER), folder, WORK / "sounds/manifest.jsonl")
    (folder / run.name / "line.json").write_text(json.dumps(line), encoding="utf-8")


def run_elsewhere(run: Run, options: argparse.Namespace) -> Line:
    """Train and score in a process of its own, with one thread: two side by side are faster than
    one with two."""
    folder = WORK / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--study", str(options.study), "--run", run.row, run.setting, str(run.seed)]
    one_thread = {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-m", "recipes.paper", *arguments],
            check=True,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **one_thread},
        )
    line: Line = json.loads((folder / "line.json").read_text(encoding="utf-8"))
    return line


def run_all(options: argparse.Namespace, lines: Path) -> dict[Run, str]:
    """Every run that is not done, several side by side; the error of each that failed."""
    fingerprint = PaperEncoder(ENCODER).fingerprint
    rows = None if options.rows is None else set(options.rows.split(","))
    failures: dict[Run, str] = {}
    console = Console(stderr=True)
    running: dict[Future[Line], Run] = {}
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        ) as progress,
    ):
        task = progress.add_task("")
        while True:
            study = Study(options.study, read_lines(lines), fingerprint)
            to_do = [
                run
                for run in study.to_do()
                if run not in failures
                and run not in running.values()
                and (rows is None or run.row in rows)
            ]
            for run in to_do[: options.jobs - len(running)]:
                running[pool.submit(run_elsewhere, run, options)] = run
            names = ", ".join(run.name for run in running.values())
            progress.update(
                task, total=study.num_runs(), completed=len(study.done), description=names
            )
            if not running:
                return failures
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    append(lines, future.result())
                except (OSError, ValueError, subprocess.CalledProcessError):
                    log = WORK / "runs" / run.name / "log.txt"
                    failures[run] = f"{run.name}: failed; its last words are in {log}"
                    console.print(f"error: {failures[run]}", markup=False, soft_wrap=True)


def append(path: Path, line: Line) -> None:
    """One more line, or none at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    partial = path.with_suffix(".partial")
    partial.write_bytes(before + json.dumps(line, separators=(",", ":")).encode() + b"\n")
    partial.replace(path)


def prepare_all() -> None:
    """Sounds, splits and encoder; each is made once."""
    manifest = WORK / "sounds/manifest.jsonl"
    if not manifest.exists():
        sounds = default_output_dir() / "manifest.jsonl"
        if not sounds.exists():
            raise SingleoutError(f"{sounds}: no sounds: run 'make sounds TIER=full' first")
        prepare(sounds, manifest.parent)
    if not ENCODER.exists():
        fit_encoder(manifest, WORK)


def main(arguments: list[str] | None = None) -> int:
    """Run the study: 1 if a run failed, 2 if nothing could be done."""
    options = parse_arguments(arguments)
    lines = RESULTS / "runs.jsonl"
    try:
        prepare_all()
        if options.run is not None:
            row, setting, seed = options.run
            run_here(Study(options.study), Run(row, setting, int(seed)))
            return 0
        if options.list:
            study = Study(options.study, read_lines(lines), PaperEncoder(ENCODER).fingerprint)
            for run in study.wanted():
                print(f"{'done' if run in study.done else 'to do'}  {run.name}")
            print(f"{len(study.done)} of {study.num_runs()} runs; {len(study.stale)} stale lines")
            return 0
        failures = run_all(options, lines)
    except SingleoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
