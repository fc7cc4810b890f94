"""Small text files that people bring: text, JSON and YAML, read within bounds.

A file may be a device or endless, and a few bytes of YAML may describe billions of values. So the
size of a file, the nesting and the number of its values are bounded before anything is built from
them. Every failure is a ``DocumentError`` of one short line. Its catcher adds the name of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

from singleout.errors import MissingExtraError, shortened

MAX_BYTES = 1_000_000
"""Size of the largest document. The largest config of ours has 4,000 bytes."""
MAX_YAML_CHARACTERS = 30_000
"""Length of the longest YAML, which is read far more slowly than JSON: in a second at most."""
MAX_DEPTH = 50
"""Deepest nesting of lists and mappings."""
MAX_YAML_VALUES = 20_000
"""Largest number of values in YAML. A value counts once for every alias that repeats it."""
MAX_NUMBER_CHARACTERS = 100
"""Length of the longest number in YAML."""


class DocumentError(ValueError):
    """A document cannot be read, or it exceeds a bound.

    Example:
        >>> try:
        ...     parse_json("[1,")
        ... except DocumentError as error:
        ...     print(error)
        not valid JSON: Expecting value: line 1 column 4 (char 3)
    """


def check_file(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Refuse what is not a file, and a file that is too large.

    Args:
        path: the file.
        max_bytes: size of the largest file that is accepted.

    Raises:
        DocumentError: the file is missing or too large, or it is a folder, a pipe or a device.

    Example:
        >>> try:
        ...     check_file(Path("/"))
        ... except DocumentError as error:
        ...     print(error)
        not a file
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DocumentError(_reason(error)) from None
    if not S_ISREG(status.st_mode):
        raise DocumentError("not a file")
    if status.st_size > max_bytes:
        raise DocumentError(f"has {status.st_size:,} bytes, the limit is {max_bytes:,}")


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file.

    Args:
        path: the file.
        max_bytes: size of the largest file that is read.

    Raises:
        DocumentError: see ``check_file``; or the file may not be read, or is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "query.txt").write_text("a dog")
        ...     read_text(Path(folder, "query.txt"))
        'a dog'
    """
    check_file(path, max_bytes)
    try:
        with path.open(encoding="utf-8-sig") as file:  # Windows programs write a mark first
            return file.read(max_bytes)
    except (OSError, ValueError) as error:
        raise DocumentError(_reason(error)) from None


def read_lines(path: Path, max_characters: int = MAX_BYTES) -> Iterator[str]:
    """The lines of a UTF-8 file of any size, without their ends.

    Args:
        path: the file.
        max_characters: length of the longest line that is read.

    Raises:
        DocumentError: the file is missing or not a file, may not be read, or is not UTF-8; or a
            line is too long.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "queries.txt").write_text("a dog\\nrain\\n")
        ...     list(read_lines(Path(folder, "queries.txt")))
        ['a dog', 'rain']
    """
    check_file(path, max_bytes=2**63)
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(max_characters + 1):
                number += 1
                if len(line) > max_characters:
                    raise DocumentError(
                        f"line {number:,} has more than {max_characters:,} characters"
                    )
                yield line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(_reason(error)) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DocumentError: the text is not JSON, or nested too deeply.

    Example:
        >>> parse_json('{"steps": 3}')
        {'steps': 3}
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except ValueError as error:  # also for a number of too many digits
        raise DocumentError(f"not valid JSON: {shortened(error)}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file; see ``read_text`` and ``parse_json``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "config.json").write_text('{"steps": 3}')
        ...     read_json(Path(folder, "config.json"))
        {'steps': 3}
    """
    return parse_json(read_text(path))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. JSON is a part of YAML, and needs no pyyaml.

    Raises:
        DocumentError: the text is not YAML, too long or nested too deeply, or it has too many
            values.
        MissingExtraError: the text is not JSON, and pyyaml is not installed.

    Example:
        >>> parse_yaml("steps: 3")
        {'steps': 3}
    """
    try:
        return parse_json(text)
    except DocumentError as error:
        if str(error) == _TOO_DEEP:
            raise
    try:
        import yaml
    except ImportError:
        raise MissingExtraError(
            "reading YAML needs the train extra: pip install 'singleout[train]'"
        ) from None
    if len(text) > MAX_YAML_CHARACTERS:
        raise DocumentError(
            f"not valid JSON, and too long for YAML: it has {len(text):,} characters, the limit "
            f"is {MAX_YAML_CHARACTERS:,}"
        )
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(root)
        return loader.construct_document(root)
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {shortened(str(error).splitlines()[0])}") from None
    # Pyyaml does not check that a value fits its type, for example that a date has a month.
    except ValueError as error:
        raise DocumentError(f"not valid YAML: {shortened(error)}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError):
        raise DocumentError("not valid YAML: a value does not fit its type") from None


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _reason(error: Exception) -> str:
    return shortened((isinstance(error, OSError) and error.strerror) or error)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, list | dict)]
        level = [
            child
            for item in containers
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise DocumentError(_TOO_DEEP)


def _check_nodes(root: Any) -> None:
    """Bound what the nodes of a YAML text will become, before they do.

    An alias repeats the values of its anchor. A few lines of aliases of aliases are billions of
    values, and an alias inside its anchor has no end.
    """
    level, total = [root], 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for node in level:
            if isinstance(node.value, str):
                is_number = node.tag.endswith((":int", ":float"))
                if is_number and len(node.value) > MAX_NUMBER_CHARACTERS:
                    raise DocumentError(f"not valid YAML: a number of {len(node.value):,} digits")
                continue
            for part in node.value:  # a mapping has pairs of nodes
                below.extend(part if isinstance(part, tuple) else (part,))
            if total + len(below) > MAX_YAML_VALUES:
                raise DocumentError(f"describes more than {MAX_YAML_VALUES:,} values")
        level, total = below, total + len(below)
        if not level:
            return
    raise DocumentError(_TOO_DEEP)
