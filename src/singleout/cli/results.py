"""What commands that measure have in common: where a result came from, and its two files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleout.cli.outputs import check_file

if TYPE_CHECKING:
    from singleout.encoders import QueryEncoder


def provenance(command: str, encoder: QueryEncoder, seconds: float) -> dict[str, Any]:
    """What a result must say about how it came about."""
    import platform

    import torch

    from singleout import __version__

    return {
        "command": command,
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "encoder": encoder.fingerprint,
        "seconds": round(seconds, 1),
    }


def check_results(output: Path, *read: Path) -> None:
    """Refuse, before any work, files that ``write_results`` cannot write or that are read.

    Raises:
        AudioError: see ``check_file``.
    """
    for path in (output, _rows_of(output)):
        check_file(path, *read)


def _rows_of(output: Path) -> Path:
    return output.with_suffix(".rows.jsonl")


def write_results(output: Path, text: str, rows: Sequence[dict[str, Any]]) -> None:
    """The summary as ``output`` and the rows as JSONL beside it, both whole or neither.

    Raises:
        AudioError: they cannot be written there.
    """
    from singleout.storage.atomic import replacing

    output.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with replacing(output) as partial, replacing(_rows_of(output)) as table:
        partial.write_text(text + "\n", encoding="utf-8")
        table.write_text(lines, encoding="utf-8")
