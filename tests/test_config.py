"""Reading configs: unknown keys, overrides and bad files, one clear line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from singleout.config import StrictConfig, load_config, validated
from singleout.errors import ConfigError, MissingExtraError
from singleout.train.config import TrainConfig


class Inner(StrictConfig):
    rate: float = 1.0
    names: tuple[str, ...] = ()


class Outer(StrictConfig):
    steps: int = Field(10, gt=0)
    inner: Inner = Inner()


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "text", ["steps: 3\ninner: {rate: 1e-3}\n", '{"steps": 3, "inner": {"rate": 0.001}}']
)
def test_yaml_and_json_are_read(text: str, tmp_path: Path) -> None:
    expected = Outer(steps=3, inner=Inner(rate=1e-3))
    assert load_config(Outer, write(tmp_path, text)) == expected


def test_json_needs_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert load_config(Outer, write(tmp_path, '{"steps": 3}'), ["inner.rate=2"]).steps == 3
    with pytest.raises(MissingExtraError, match="needs the train extra"):
        load_config(Outer, write(tmp_path, "steps: 3"))


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().steps = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps=3", Outer(steps=3)),
        ("inner.rate=1e-3", Outer(inner=Inner(rate=1e-3))),
        ("inner.names=[a, b]", Outer(inner=Inner(names=("a", "b")))),
        ('inner.names=["a=b"]', Outer(inner=Inner(names=("a=b",)))),
        ("inner={rate: 3}", Outer(inner=Inner(rate=3))),
    ],
)
def test_overrides(override: str, expected: Outer, tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path, "{}"), [override]) == expected


def test_overrides_keep_what_they_do_not_name_and_the_last_one_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "inner: {names: [a], rate: 2}")
    config = load_config(Outer, path, ["inner.rate=3", "inner.rate=4"])
    assert config == Outer(inner=Inner(names=("a",), rate=4))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown key 'stepz'"),
        ("inner.rat=3", "unknown key 'inner.rat'"),
        ("other.rate=3", "unknown key 'other'"),
        ("steps", "write it as key.subkey=value"),
        ("=3", "write it as key.subkey=value"),
        ("steps=0", "'steps': Input should be greater than 0 (got 0)"),
        ("steps=many", "'steps'"),
        ("steps=", "'steps'"),
        ("steps.more=3", "'steps' is a value, it has no keys below it"),
        ("inner..rate=3", "unknown key"),
        ("steps={a", "not valid YAML"),
        ("steps=2020-13-45", "not valid YAML"),
    ],
)
def test_bad_overrides_are_one_line(override: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path, "steps: 3"), override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is a mapping"),
        ("- a", "is a mapping"),
        ("text", "is a mapping"),
        ("steps: [", "not valid YAML"),
        ("steps: 3\n\tinner: 4", "not valid YAML"),
        ("steps: \x00", "not valid YAML"),
        ("steps: 2020-13-45", "not valid YAML"),
        ("steps: !!python/name:os.system", "not valid YAML"),
        ("extra: 1", "unknown key 'extra'"),
        ("1: 2", "'1"),
        ("inner: 5", "'inner'"),
        ("inner: {rate: fast}", "'inner.rate'"),
    ],
)
def test_bad_files_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    found = refused(path)
    assert message in found
    assert str(path) in found


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\xfd")
    for bad in (path, tmp_path, tmp_path / "no.yaml"):
        assert "cannot be read as a config" in refused(bad)


def test_values_from_elsewhere_name_their_origin() -> None:
    with pytest.raises(ConfigError, match="the model: unknown key 'a'"):
        validated(Outer, {"a": 1}, "the model")
    assert validated(Outer, {"steps": 2}, "the model") == Outer(steps=2)


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    again: Any = json.loads(config.model_dump_json())
    assert TrainConfig.model_validate(again) == config
