"""Turn Debian packages into captioned training sounds: a manifest and its audio files.

Command: ``python -m recipes.sounds [--tier core|full] [--unlabelled]``, or ``make sounds``.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recipes.sounds.build import Recipe, build_all, locked, write_manifests
from recipes.sounds.fetch import RecipeError


def default_output_dir() -> Path:
    """The default folder of the sounds: ``$SINGLEOUT_SOUNDS`` or ``~/.cache/singleout/sounds``."""
    return Path(os.environ.get("SINGLEOUT_SOUNDS") or Path.home() / ".cache/singleout/sounds")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.sounds", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=default_output_dir(), metavar="DIR", help="[%(default)s]"
    )
    parser.add_argument(
        "--tier", choices=("core", "full"), default="core", help="downloads of 1.8 or 8.4 GB [core]"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes [%(default)s]")
    parser.add_argument("--packages", metavar="A,B", help="only these packages, of any tier")
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="also prepare the other audio of train packages, and packages without captions "
        "(1.1 GB more)",
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


def choose_packages(
    recipe: Recipe, tier: str, names: str | None, unlabelled: bool = False
) -> list[str]:
    """Packages of the tier, or the named ones.

    Raises:
        RecipeError: a name is unknown.
    """
    if names is None:
        return recipe.packages(tier, unlabelled)
    packages = recipe.packages("full", unlabelled)
    if unknown := sorted(set(names.split(",")) - set(packages)):
        raise RecipeError(f"no such package in the recipe: {', '.join(unknown)}")
    return [package for package in packages if package in names.split(",")]


def build_with_progress(
    recipe: Recipe, packages: list[str], unlabelled: bool, jobs: int
) -> dict[str, str]:
    """Build the packages, with a progress bar on a terminal.

    Returns:
        The error message of each package that failed.
    """
    failures: dict[str, str] = {}
    console = Console(stderr=True)
    with Progress(
        TextColumn("sounds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=len(packages))
        for package, error in build_all(recipe, packages, unlabelled, jobs):
            progress.update(task, advance=1, description=package)
            if error:
                failures[package] = error
                console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return failures


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe.

    Returns:
        The exit code: 1 if a package failed, 2 if the recipe could not start.
    """
    options = parse_arguments(arguments)
    started_s = time.monotonic()
    recipe = Recipe(options.output.expanduser().resolve())
    try:
        packages = choose_packages(recipe, options.tier, options.packages, options.unlabelled)
        with locked(recipe.output_dir):
            failures = build_with_progress(recipe, packages, options.unlabelled, options.jobs)
            report = write_manifests(recipe, failures, options.unlabelled)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kind in ("captioned", "unlabelled") if options.unlabelled else ("captioned",):
        part = report[kind]
        lost = part["counts"]["not_found"] + part["counts"]["not_decodable"]
        print(
            f"{kind}: {part['clips']} clips, {part['hours']:.2f} h, {part['packages']} packages, "
            f"{lost} files not found or not decodable"
        )
    elapsed_s = time.monotonic() - started_s
    print(f"{recipe.output_dir}/manifest.jsonl, {elapsed_s:.0f} s; details in report.json")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
