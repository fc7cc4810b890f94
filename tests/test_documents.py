"""Documents that others wrote: bounds of size, nesting, values and digits, and odd files."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleout.documents import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_YAML_CHARACTERS,
    MAX_YAML_VALUES,
    DocumentError,
    parse_json,
    parse_yaml,
    read_json,
    read_lines,
    read_text,
)
from singleout.errors import MissingExtraError


def one_line(caught: pytest.ExceptionInfo[DocumentError]) -> str:
    message = str(caught.value)
    assert message.isprintable()
    assert 0 < len(message) <= 200
    return message


def laughs(levels: int, merged: bool = False) -> str:
    """Aliases of aliases: ten times more values with every level."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(levels):
        aliases = f"[{','.join([f'*a{level}'] * 10)}]"
        value = f"{{<<: {aliases}}}" if merged else aliases
        lines.append(f"a{level + 1}: &a{level + 1} {value}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":' * 100_000, "nested deeper"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested deeper"),
        ("[" * 3_000, "nested deeper"),
        ("- " * 3_000, "nested deeper"),
        ("? " * 3_000, "nested deeper"),
        (laughs(10), f"more than {MAX_YAML_VALUES:,} values"),
        (laughs(10, merged=True), f"more than {MAX_YAML_VALUES:,} values"),
        ("&a [*a]", "nested deeper"),
        ("&a {b: *a}", "nested deeper"),
        ("a: 1" + "0" * 5_000, "a number of 5,001 digits"),
        ("a: 0x" + "f" * 5_000, "a number of 5,002 digits"),
        ("a: " + "1:" * 5_000 + "1", "a number of 10,001 digits"),
        ("1" + "0" * 5_000, "a number of 5,001 digits"),
        ("a: 1\n" * MAX_YAML_CHARACTERS, "too long for YAML"),
        ("a: !!timestamp no", "does not fit its type"),
        ("a: !!bool no way", "does not fit its type"),
        ("a: !!int ''", "does not fit its type"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!binary x", "not valid YAML"),
        ("!" * 20_000, "not valid YAML"),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
        ('"\\U00110000"', "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("\ud800", "not valid YAML"),
        ("--- a\n--- b", "not valid YAML"),
    ],
)
def test_texts_beyond_a_bound_are_one_short_line(text: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        parse_yaml(text)
    one_line(caught)


def test_values_within_the_bounds_are_read() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(deepest) == parse_json(deepest)
    assert parse_json("[" + "{}, " * 1_000 + "{}]") == [{}] * 1_001
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: *a}") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": {"x": 1}},
    }
    assert parse_yaml("") is None
    assert parse_yaml("1" + "0" * 90) == 10**90
    assert parse_yaml('"' + "a" * 500_000 + '"') == "a" * 500_000  # JSON may be longer than YAML


@given(st.text(alphabet="[]{}:,-?&*!|>'\"# \n%@`ab01.", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(DocumentError):
        parse_yaml(text)


def test_json_needs_no_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert parse_yaml('{"a": 1}') == {"a": 1}
    with pytest.raises(MissingExtraError, match="train extra"):
        parse_yaml("a: 1")
    with pytest.raises(DocumentError, match="nested deeper"):
        parse_yaml("[" * 100_000)


def odd_files(folder: Path) -> dict[str, Path]:
    """What may stand where a file should, by what the message says."""
    pipe, loop, large = folder / "pipe", folder / "loop", folder / "large"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (folder / "latin").write_bytes(b"caf\xe9")
    (folder / "zero").symlink_to("/dev/zero")
    return {
        "not a file": folder,
        "not a file ": pipe,
        "not a file  ": folder / "zero",
        "symbolic links": loop,
        "has 1,000,001 bytes, the limit is 1,000,000": large,
        "No such file": folder / "missing",
        "codec can't decode": folder / "latin",
        "null byte": folder / "a\0b",
        "surrogates": folder / "\ud800",
        "name too long": folder / ("a" * 5_000),
    }


def test_odd_files_are_one_short_line(tmp_path: Path) -> None:
    for message, path in odd_files(tmp_path).items():
        with pytest.raises(DocumentError, match=f"(?i){message.strip()}") as caught:
            read_text(path)
        one_line(caught)


def test_lines_of_odd_files_are_one_short_line(tmp_path: Path) -> None:
    for message, path in odd_files(tmp_path).items():
        with pytest.raises(DocumentError) as caught:
            list(read_lines(path))
        if "bytes" not in message:  # a file may be large, a line may not
            assert message.strip().lower() in one_line(caught).lower()
    with pytest.raises(DocumentError, match="line 1 has more than 1,000,000 characters"):
        list(read_lines(tmp_path / "large"))


def test_lines_are_those_of_any_system(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes("\ufeffa\r\n\nb\u2028c\n".encode())
    assert list(read_lines(path)) == ["a", "", "b\u2028c"]
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]
    path.write_text("abcd\nabc")
    assert list(read_lines(path, 5)) == ["abcd", "abc"]
    with pytest.raises(DocumentError, match="more than 3 characters"):
        list(read_lines(path, 3))
