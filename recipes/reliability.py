"""Fill the tables of docs/reliability.md from the results of ``make faults`` and ``make fuzz``.

Command: ``python -m recipes.reliability``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipes.documents import fill_in

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
FAULTS = ROOT / "results" / "faults.json"
FUZZ = ROOT / "results" / "fuzz.json"
ENDINGS = ("finished", "warned", "refused", "killed", "crashed")


def faults_table(results: dict[str, Any]) -> str:
    """One row per fault and command, and a line with the sums.

    Args:
        results: of ``python -m tests.faults``.
    """
    rows = results["rows"]
    heads = ("fault", "command", "places", "tried", *ENDINGS, "lost")
    lines = [
        _row([row["fault"], row["command"], *_counts(row), f"{len(row['lost'])}"]) for row in rows
    ]
    tried = sum(row["injected"] for row in rows)
    lost = sum(len(row["lost"]) for row in rows)
    total = f"In all, {tried:,} faults were tried, and {lost:,} of them lost something."
    return "\n".join([_row(heads), _row(["---"] * len(heads)), *lines, "", total])


def _counts(row: dict[str, Any]) -> Iterable[str]:
    yield f"{row['places']:,}"
    yield f"{row['injected']:,}"
    for ending in ENDINGS:
        yield f"{row[ending]:,}" if row[ending] else ""


def fuzz_table(results: dict[str, Any]) -> str:
    """One row per reader.

    Args:
        results: of ``python -m fuzz``, by the name of the reader.
    """
    heads = ("reader", "inputs", "read", "refused", "findings")
    lines = []
    for name, entry in results.items():
        findings = sum(entry["findings"].values())
        counts = (entry["inputs"], entry["read"], entry["refused"], findings)
        lines.append(_row([name, *(f"{count:,}" for count in counts)]))
    return "\n".join([_row(heads), _row(["---"] * len(heads)), *lines])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Fill the tables whose results exist."""
    tables = {"faults": (FAULTS, faults_table), "fuzz": (FUZZ, fuzz_table)}
    parts = {
        name: table(json.loads(path.read_text(encoding="utf-8")))
        for name, (path, table) in tables.items()
        if path.exists()
    }
    fill_in(PAGE, parts)


if __name__ == "__main__":
    main()
