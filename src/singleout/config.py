"""Strict typed configuration: unknown keys are refused, overrides are ``a.b=value``.

Every part is configured by a small frozen pydantic model next to its code; this module holds what
they share and the reading of files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from singleout.errors import ConfigError, MissingExtraError

Positive = Annotated[int, Field(gt=0)]
"""An integer above zero."""


class StrictConfig(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def added(default: Any) -> Any:
    """A field that configs of finished runs did not have: at its default it is not dumped, so that
    their hashes stay what they were."""
    return Field(default=default, exclude_if=lambda value: value == default)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validated(kind: type[ConfigT], values: dict[str, Any], origin: str) -> ConfigT:
    """``values`` as a ``kind``.

    Raises:
        ConfigError: names ``origin``, the first wrong key and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{origin}: unknown key '{key}'") from None
        raise ConfigError(f"{origin}: '{key}': {first['msg']} (got {first['input']!r})") from None


def load_config(
    kind: type[ConfigT], path: Path, overrides: Sequence[str] = (), base: Path | None = None
) -> ConfigT:
    """Read YAML or JSON, apply overrides such as ``train.steps=100``, validate.

    A file that ``extends`` another, named relative to itself, holds what differs from it: mappings
    are merged key by key, anything else is replaced.

    Raises:
        ConfigError: a file is missing or not a mapping, or a key or value is wrong.
    """
    values = _read(path)
    if base is not None:  # as if ``path`` extended it
        values = _merged(_read(base), values)
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"override '{override}': write it as key.subkey=value")
        _set(values, key.split("."), _parse(value, f"override '{override}'"), override)
    return validated(kind, values, str(path))


def differences(old: object, new: object, key: str = "") -> list[str]:
    """Where two dumped configs differ, as ``key.subkey: 1, now 2``."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{key}: {json.dumps(old)}, now {json.dumps(new)}"]
    return [
        line
        for name in {**old, **new}
        for line in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    ]


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error}") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    extended = values.pop("extends", None)
    if extended is None:
        return values
    above = (*above, path.resolve())
    is_name = isinstance(extended, str) and "\0" not in extended
    if not is_name or (path.parent / extended).resolve() in above:
        raise ConfigError(f"{path}: 'extends': name another config file, got {extended!r}")
    return _merged(_read(path.parent / extended, above), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _parse(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml
    except ImportError:
        raise MissingExtraError(
            f"{origin}: reading YAML needs the train extra: pip install 'singleout[train]'"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the date 2020-13-45
        raise ConfigError(f"{origin}: not valid YAML: {str(error).splitlines()[0]}") from None


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override '{override}': '{key}' is a value, it has no keys below it")
    values[keys[-1]] = value
