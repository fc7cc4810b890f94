"""Mutations of files. The same seed and index always give the same file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

LENGTHS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
"""Values that break arithmetic with lengths."""
MAX_BYTES = 1 << 17
"""Largest mutated file."""

VALUES: tuple[str, ...] = (
    "0", "-1", "1e999", "-1e308", "1e-320", "NaN", "Infinity", "true", "null", '""', '"\\u0000"',
    '"\\ud800"', "[]", "{}", "[[]]", "4611686018427387904", "1" + "0" * 400, "1" + "0" * 5_000,
    '"' + "x" * 5_000 + '"', "[" * 200, "[" * 60 + "]" * 60, '{"a":' * 200, '"~nobody-here/x"',
    '"../../.."', '"/dev/zero"', '"a\\nb"', "2.5", "3", "100000", '"builtin"', "1_0", "0x7f",
    "1:30", "[1, 2, 3]", '{"type": "identity"}', '{"type": "pca", "k": 1}',
)  # fmt: skip
"""JSON and YAML values for any place."""
YAML_PIECES = (
    "&a ", "*a", "<<: *a\n", "!!timestamp ", "!!python/object:os.system ", "!!set ", "!!binary ",
    "!!omap ", "!!float ", "!!int ", "? ", "- ", ": ", "| \n", ">-\n ", "---\n", "...\n",
    "%YAML 9.9\n", "{", "}", "[", "]", "#", "\t", "\0", "2020-13-45", ".inf", ".nan", "~", "'", '"',
    "&a [*a]", "\ufeff",
    "&a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b]\n",
)  # fmt: skip
"""Pieces of YAML that have a meaning."""
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|\w+|\s+|.', re.DOTALL)


def mutated_bytes(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A file of ``seeds`` with one to four changes.

    Example:
        >>> mutated_bytes(Random(1), [bytes(8)]) == mutated_bytes(Random(1), [bytes(8)])
        True
    """
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        random.choice(_CHANGES)(random, data, seeds)
    return bytes(data[:MAX_BYTES])


def mutated_json(random: Random, seeds: Sequence[Any]) -> str:
    """A JSON text of ``seeds``: its values, or its characters, are changed."""
    value = json.loads(json.dumps(random.choice(seeds)))
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _changed_value(random, value)
    text = _dumped(value)
    return mutated_text(random, [text]) if random.random() < 0.3 else text


def mutated_text(random: Random, seeds: Sequence[str]) -> str:
    """A JSON or YAML text of ``seeds``: its tokens, or its characters, are changed."""
    tokens = TOKEN.findall(random.choice(seeds)) or [""]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(tokens))
        kind = random.randrange(6)
        if kind == 0:
            tokens[at] = random.choice(VALUES)
        elif kind == 1:
            tokens.insert(at, random.choice(YAML_PIECES))
        elif kind == 2:
            del tokens[at : at + random.randrange(1, 4)]
            tokens = tokens or [""]
        elif kind == 3:
            tokens[at:at] = tokens[at : at + random.randrange(1, 20)] * random.randrange(1, 4)
        elif kind == 4:
            other = random.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        else:
            token = bytearray(tokens[at].encode(errors="replace"))
            _flip(random, token, ())
            tokens[at] = token.decode(errors="replace")
    return "".join(tokens)[:MAX_BYTES]


class _Raw(str):
    """JSON text that is written as it is."""


def _dumped(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_dumped(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumped, value)) + "]"
    return json.dumps(value)


def _changed_value(random: Random, value: Any) -> Any:
    """The value with one change at a random place."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random.choice(keys)
        kind = random.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2 and isinstance(value, dict):
            value[random.choice(("extra", "type", "extends", "", "a.b", "é" * 200))] = value[key]
        elif kind < 0.2 and isinstance(value, list):
            value.extend([value[key]] * random.choice((1, 3, 2_000)))
        else:
            value[key] = _changed_value(random, value[key])
        return value
    return _Raw(random.choice(VALUES))


def _flip(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[_place(random, data)] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[_place(random, data)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _length(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """Overwrite a number. Numbers near the start, and after four letters, are lengths."""
    width = random.choice((1, 2, 4, 4, 4, 8))
    at = _place(random, data) if data else 0
    if names := list(re.finditer(rb"[A-Za-z ]{4}", bytes(data[:4_096]))):
        at = random.choice((at, random.choice(names).end()))
    value = random.choice((*LENGTHS, len(data), len(data) - at, random.getrandbits(32)))
    order = random.choice(("little", "big"))
    value &= (1 << 8 * width) - 1
    data[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _cut(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_place(random, data) if data else 0 :]


def _remove(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        at = _place(random, data)
        del data[at : at + random.choice((1, 2, 4, 8, 100, 1_000))]


def _repeat(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        at = _place(random, data)
        part = data[at : at + random.choice((1, 4, 8, 100, 1_000))]
        data[at:at] = part * random.choice((1, 1, 2, 10))


def _insert(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(random, data) if data else 0
    data[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))


def _splice(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """The start of this file, and the end of another."""
    other = random.choice(seeds) if seeds else b""
    at = _place(random, data) if data else 0
    data[at:] = other[random.randrange(len(other) + 1) :]


def _place(random: Random, data: bytearray) -> int:
    """A place in a file. Headers are hit more often than samples."""
    end = min(len(data), random.choice((16, 64, 512, len(data), len(data))))
    return random.randrange(end)


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _set, _length, _length, _cut, _remove, _repeat, _insert, _splice,
)  # fmt: skip
