"""Typed configuration: unknown keys are refused, overrides are written ``a.b=value``.

Every part of the package has a small frozen pydantic model next to its code. This module holds
their base class and reads their files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from singleout.documents import MAX_DEPTH, DocumentError, parse_yaml, read_text
from singleout.errors import ConfigError, MissingExtraError, shortened

Positive = Annotated[int, Field(gt=0, le=10**9)]
"""An integer above zero, and at most a billion."""
MAX_EXTENDS = 10
"""Longest chain of configs that extend each other."""


class StrictConfig(BaseModel):
    """Base of all configs: it is frozen, and unknown keys are errors.

    Numbers are finite, and a text has 4,096 characters at most, as a path has.

    Example:
        >>> class Windows(StrictConfig):
        ...     seconds: float = 1.0
        >>> validated(Windows, {"second": 2.0}, "run.yaml")
        Traceback (most recent call last):
        singleout.errors.ConfigError: run.yaml: unknown key 'second'
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4_096
    )


def added(default: Any) -> Any:
    """A field added after runs had been recorded.

    At its default it is left out of dumps, so that old config hashes stay valid.

    Example:
        >>> class Windows(StrictConfig):
        ...     seconds: float = 1.0
        ...     overlap: float = added(0.5)
        >>> Windows().model_dump()
        {'seconds': 1.0}
    """
    return Field(default=default, exclude_if=lambda value: value == default)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validated(kind: type[ConfigT], values: dict[str, Any], origin: str) -> ConfigT:
    """Make a config from values.

    Args:
        kind: class of the config.
        values: by key.
        origin: where the values come from, for the message.

    Raises:
        ConfigError: names ``origin``, the first wrong key and what is wrong with it.

    Example:
        >>> class Windows(StrictConfig):
        ...     seconds: float = 1.0
        >>> validated(Windows, {"seconds": 2}, "run.yaml")
        Windows(seconds=2.0)
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = shortened(".".join(str(part) for part in first["loc"])) or "the whole"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{origin}: unknown key '{key}'") from None
        reason, value = shortened(first["msg"], 200), shortened(repr(first["input"]))
        raise ConfigError(f"{origin}: '{key}': {reason} (got {value})") from None


def load_config(
    kind: type[ConfigT], path: Path, overrides: Sequence[str] = (), base: Path | None = None
) -> ConfigT:
    """Read a config from a YAML or JSON file.

    A file may name another file under ``extends``, relative to itself. It then holds only what
    differs from that file: mappings are merged key by key, other values are replaced.

    Args:
        kind: class of the config.
        path: the file.
        overrides: values that replace those of the file, such as ``train.steps=100``.
        base: file that ``path`` differs from, as if ``path`` extended it.

    Raises:
        ConfigError: a file is missing or not a mapping, or exceeds a bound of ``documents``; or a
            key or value is wrong.
        MissingExtraError: the file is YAML, and pyyaml is not installed.

    Example:
        >>> import tempfile
        >>> class Windows(StrictConfig):
        ...     seconds: float = 1.0
        ...     count: int = 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "windows.json"
        ...     _ = path.write_text('{"seconds": 2}')
        ...     load_config(Windows, path, ["count=3"])
        Windows(seconds=2.0, count=3)
    """
    values = _read(path)
    if base is not None:
        values = _merged(_read(base), values)
    for override in overrides:
        key, sign, value = override.partition("=")
        origin = f"override '{shortened(override)}'"
        if not sign or not key:
            raise ConfigError(f"{origin}: write it as key.subkey=value")
        _set(values, key.split("."), _parse(value, origin), origin)
    return validated(kind, values, str(path))


def differences(old: object, new: object, key: str = "") -> list[str]:
    """The keys in which two dumped configs differ.

    Args:
        old, new: results of ``model_dump``.
        key: path of both in a larger config.

    Example:
        >>> differences({"loss": {"scale": 1}}, {"loss": {"scale": 2}})
        ['loss.scale: 1, now 2']
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old == new:
            return []
        return [f"{key}: {shortened(json.dumps(old))}, now {shortened(json.dumps(new))}"]
    return [
        line
        for name in {**old, **new}
        for line in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    ]


def _read(path: Path, extending: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a file and of those that it extends; ``extending`` are the files before it."""
    origin = shortened(path, 500)  # a config that others wrote may name any path
    try:
        text = read_text(path)
    except DocumentError as error:
        raise ConfigError(f"{origin}: cannot be read as a config: {error}") from None
    values = _parse(text, origin)
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: a config is a mapping of keys to values")
    extended = values.pop("extends", None)
    if extended is None:
        return values
    extending = (*extending, os.path.realpath(path))
    if not is_path(extended) or os.path.realpath(path.parent / extended) in extending:
        raise ConfigError(
            f"{origin}: 'extends': name another config file, got {shortened(repr(extended))}"
        )
    if len(extending) > MAX_EXTENDS:
        raise ConfigError(f"{origin}: 'extends': a chain of more than {MAX_EXTENDS} configs")
    return _merged(_read(path.parent / extended, extending), values)


def is_path(value: object) -> bool:
    """Whether a file can have this name: a text without NUL and without broken characters.

    Example:
        >>> is_path("sounds/rain.wav"), is_path("a\\0b"), is_path("\\ud800"), is_path(3)
        (True, False, False, False)
    """
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _parse(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except (DocumentError, MissingExtraError) as error:
        kind = ConfigError if isinstance(error, DocumentError) else MissingExtraError
        raise kind(f"{origin}: {error}") from None


def _set(values: dict[str, Any], keys: list[str], value: Any, origin: str) -> None:
    if len(keys) > MAX_DEPTH:
        raise ConfigError(f"{origin}: has more than {MAX_DEPTH} keys")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{origin}: '{shortened(key)}' is a value, it has no subkeys")
    values[keys[-1]] = value
