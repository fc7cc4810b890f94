"""Run the study of the paper's claims: train its rows, then write tables and plots.

Command: ``make paper``, or ``python -m recipes.paper [--study FILE] [--rows A,B] [--jobs N]``.
Finished runs are skipped, and an interrupted run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recipes.paper.corpus import prepare
from recipes.paper.encoder import ENCODER, PaperEncoder, fit_encoder
from recipes.paper.gap import write_gap
from recipes.paper.report import write_report
from recipes.paper.run import fixed_mixtures, run_one
from recipes.paper.study import Line, Run, Study, read_lines, write_json
from recipes.sounds.__main__ import default_output_dir
from singleout.encoders import QueryEncoder, load_encoder
from singleout.errors import ConfigError, SingleoutError
from singleout.storage.atomic import replacing

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ.get("SINGLEOUT_PAPER", "~/.cache/singleout/paper")).expanduser()
SMALL = ROOT / "configs/paper/small.yaml"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.paper", description=__doc__)
    parser.add_argument("--study", type=Path, default=SMALL, metavar="FILE", help="[%(default)s]")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results/paper", metavar="DIR", help="[%(default)s]"
    )
    parser.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="document whose tables are filled in; docs/paper.md for the small study",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time [%(default)s]")
    parser.add_argument("--rows", metavar="A,B", help="only these rows")
    parser.add_argument(
        "--report",
        action="store_true",
        help="only write claims, tables and plots, from the finished runs",
    )
    parser.add_argument("--list", action="store_true", help="list the finished and the other runs")
    parser.add_argument(
        "--run", nargs=3, metavar=("ROW", "SETTING", "SEED"), help="one run, in this process"
    )
    options = parser.parse_args(arguments)
    options.study, options.results = options.study.resolve(), options.results.resolve()
    if options.document is None and options.study == SMALL:
        options.document = ROOT / "docs/paper.md"
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


def encoder_of(study: Study) -> QueryEncoder:
    """The encoder that all rows name; ``paper`` is that of the small study."""
    reference = study.reference.model.encoder
    if reference.name == PaperEncoder.name:
        return PaperEncoder(ENCODER)
    return load_encoder(reference.name, reference.fingerprint)


def chosen_run(study: Study, arguments: Sequence[str]) -> Run:
    """The run of ``--run ROW SETTING SEED``.

    Raises:
        ConfigError: the study has no such row or setting, or the seed is not a number.
    """
    row, setting, seed = arguments
    if row not in study.rows or setting not in study.rows[row].grid or not seed.isdecimal():
        raise ConfigError(f"no run '{row}' '{setting}' '{seed}' in {study.path}: see --list")
    return Run(row, setting, int(seed))


def chosen_rows(study: Study, names: str | None) -> set[str]:
    """The rows of ``--rows A,B``; all rows by default.

    Raises:
        ConfigError: the study has no such row.
    """
    rows = set(study.rows) if names is None else set(names.split(","))
    if unknown := sorted(rows - set(study.rows)):
        raise ConfigError(f"no row {', '.join(unknown)} in {study.path}: see --list")
    return rows


def run_here(study: Study, run: Run) -> None:
    """Train and score a run in this process; its line is written to its folder."""
    folder = study.folder_of(run)
    with locked(folder):
        write_json(folder / "line.json", run_one(study, run, encoder_of(study)))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no second process trains in it.

    Raises:
        SingleoutError: another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SingleoutError(
                f"{folder}: another process works in this folder: wait for it, or end it"
            ) from None
        yield


def run_in_process(run: Run, study: Study) -> Line:
    """Train and score a run in a new process of one thread.

    Two processes of one thread are faster than one process of two threads.
    """
    folder = study.folder_of(run)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--study", str(study.path), "--run", run.row, run.setting, str(run.seed)]
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


def run_all(options: argparse.Namespace, lines: Path, fingerprint: str) -> dict[Run, str]:
    """Train every run that is not done, several at the same time.

    Returns:
        The error message of each run that failed.
    """
    rows = chosen_rows(Study(options.study), options.rows)
    failures: dict[Run, str] = {}
    console = Console(stderr=True)
    running: dict[Future[Line], Run] = {}
    with ThreadPoolExecutor(options.jobs) as pool, _run_progress(console) as progress:
        task = progress.add_task("")
        while True:
            study = Study(options.study, read_lines(lines), fingerprint)
            to_do = [
                run
                for run in study.to_do()
                if run.row in rows and run not in failures and run not in running.values()
            ]
            for run in to_do[: options.jobs - len(running)]:
                running[pool.submit(run_in_process, run, study)] = run
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
                    log = study.folder_of(run) / "log.txt"
                    failures[run] = f"{run.name}: the run failed: see the end of {log}"
                    console.print(f"error: {failures[run]}", markup=False, soft_wrap=True)


def _run_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    )


def append(path: Path, line: Line) -> None:
    """Append a line to ``runs.jsonl``; an interrupted call leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    with replacing(path) as partial:
        partial.write_bytes(before + json.dumps(line, separators=(",", ":")).encode() + b"\n")


def prepare_all(study: Study) -> None:
    """Make the sounds, splits and encoder of the small study, if they do not exist yet.

    Raises:
        SingleoutError: the sounds of ``make sounds`` are missing.
    """
    if study.reference.model.encoder.name != PaperEncoder.name:
        return
    if not study.manifest.exists():
        sounds = default_output_dir() / "manifest.jsonl"
        if not sounds.exists():
            raise SingleoutError(f"{sounds} is missing: run 'make sounds TIER=full' first")
        prepare(sounds, study.manifest.parent)
    if not ENCODER.exists():
        fit_encoder(study.manifest, WORK)


def list_runs(study: Study) -> None:
    """Print every run and whether it is done."""
    for run in study.needed():
        print(f"{'done ' if run in study.done else 'to do'}  {run.name}")
    print(f"{len(study.done)} of {study.num_runs()} runs; {len(study.stale)} stale lines")


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 1 if a run failed, 2 if the command could not start.
    """
    options = parse_arguments(arguments)
    lines = options.results / "runs.jsonl"
    failures: dict[Run, str] = {}
    try:
        study = Study(options.study, read_lines(lines))
        if options.list:
            list_runs(study)
            return 0
        if options.run is not None:
            run_here(study, chosen_run(study, options.run))
            return 0
        chosen_rows(study, options.rows)
        if not options.report:
            prepare_all(study)
            with locked(options.results):
                if not (options.results / "mixtures.json").exists():
                    write_json(options.results / "mixtures.json", fixed_mixtures(study))
                encoder = encoder_of(study)
                if not (options.results / "gap.json").exists():
                    write_gap(study, encoder, options.results)
                failures = run_all(options, lines, encoder.fingerprint)
        write_report(Study(options.study, read_lines(lines)), options.results, options.document)
    except SingleoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
