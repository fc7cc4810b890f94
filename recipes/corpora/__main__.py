"""Write the manifests of downloaded corpora, and those of the full-size study.

Command: ``python -m recipes.corpora audiocaps FOLDER`` (or ``clotho``, ``fsd50k``), then
``python -m recipes.corpora study AUDIOCAPS CLOTHO FSD50K``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from recipes.corpora.manifests import corpus_manifest, study_manifests
from recipes.corpora.readers import READERS
from singleout.errors import SingleoutError

STUDY = Path("~/.cache/singleout/paper_full").expanduser()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.corpora", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in READERS:
        command = commands.add_parser(name, help=f"a downloaded {name}: FOLDER/manifest.jsonl")
        command.add_argument("folder", type=Path, metavar="FOLDER")
    command = commands.add_parser("study", help="three manifests, from corpora with manifests")
    for name in ("audiocaps", "clotho", "uncaptioned"):
        command.add_argument(name, type=Path, metavar=name.upper())
    command.add_argument("--output", type=Path, default=STUDY, metavar="DIR", help="[%(default)s]")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Write the manifests and print a summary.

    Returns:
        The exit code: 2 if the manifests cannot be written.
    """
    options = parse_arguments(arguments)
    try:
        if options.command == "study":
            left_out = study_manifests(
                options.audiocaps, options.clotho, options.uncaptioned, options.output
            )
            print(f"{options.output}; {left_out} sounds left out: they are in a scored set")
            return 0
        corpus = corpus_manifest(options.command, options.folder)
    except SingleoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    hours = sum(row["seconds"] for row in corpus.rows) / 3_600
    splits = Counter(row["split"] for row in corpus.rows)
    print(
        f"{len(corpus.rows)} sounds, {hours:.1f} h ("
        + ", ".join(f"{name} {count}" for name, count in splits.items())
        + f"); {corpus.missing} missing, {corpus.unreadable} unreadable"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
