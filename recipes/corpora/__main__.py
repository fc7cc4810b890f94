"""Write the manifests of the full-size study from those of downloaded corpora.

Command: ``python -m recipes.corpora study AUDIOCAPS CLOTHO FSD50K``, after ``singleout corpus`` has
written ``manifest.jsonl`` into each of the three folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipes.corpora.manifests import study_manifests
from singleout.errors import SingleoutError

STUDY = Path("~/.cache/singleout/paper_full").expanduser()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.corpora", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
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
        left_out = study_manifests(
            options.audiocaps, options.clotho, options.uncaptioned, options.output
        )
    except SingleoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}; {left_out} sounds left out: they are in a scored set")
    return 0


if __name__ == "__main__":
    sys.exit(main())
