"""What all measuring commands share: the origin of a result, its tables and its two files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleout.cli.outputs import check_file, make_folder
from singleout.errors import OutputError

if TYPE_CHECKING:
    from singleout.encoders import QueryEncoder


def provenance(command: str, encoder: QueryEncoder, seconds: float) -> dict[str, Any]:
    """Describe how a result was computed.

    Args:
        command: that computed the result.
        encoder: of the queries; its fingerprint is recorded.
        seconds: that the command took.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> provenance("singleout gap MANIFEST", load_encoder("builtin"), 1.23)["seconds"]
        1.2
    """
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


def check_results(output: Path, *inputs: Path) -> None:
    """Refuse, before any work, files that ``write_results`` could not write.

    Args:
        output: the summary; the rows go to a file of the same name that ends in ``.rows.jsonl``.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: see ``check_file``.

    Example:
        >>> from singleout.errors import OutputError
        >>> try:
        ...     check_results(Path("."), Path("manifest.jsonl"))
        ... except OutputError as error:
        ...     print(error)
        .: is a folder: give the name of a file
    """
    check_file(output, *inputs)
    if output.exists() and not output.is_file():
        raise OutputError(f"{output}: is a device or a pipe: give the name of a file")
    check_file(_rows_path(output), *inputs)


def _rows_path(output: Path) -> Path:
    return output.with_suffix(".rows.jsonl")


def write_results(output: Path, text: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the summary to ``output``, and the rows as JSONL next to it: both or none.

    Args:
        output: JSON file of the summary.
        text: the summary as JSON.
        rows: one object per line.

    Raises:
        OutputError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_results(Path(folder) / "dogs.json", "{}", [{"sdr_db": 3.5}])
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['dogs.json', 'dogs.rows.jsonl']
    """
    from singleout.storage.atomic import replacing_all

    make_folder(output.parent)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with replacing_all([output, _rows_path(output)]) as (summary, table):
        summary.write_text(text + "\n", encoding="utf-8")
        table.write_text(lines, encoding="utf-8")


def format_interval(interval: Mapping[str, Any], digits: int = 2) -> str:
    """An estimate with its interval, for a table.

    Example:
        >>> format_interval({"estimate": 3.0, "low": 2.5, "high": 3.456})
        '3.00 [2.50, 3.46]'
    """
    estimate, low, high = (f"{interval[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"
