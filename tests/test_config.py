"""Reading configs: unknown keys, overrides and bad files, one clear line each."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from singleout.config import StrictConfig, added, load_config, validated
from singleout.data.plan import MixtureConfig
from singleout.errors import ConfigError, MissingExtraError
from singleout.model import ModelConfig
from singleout.train.config import TrainConfig


class Inner(StrictConfig):
    rate: float = 1.0
    names: tuple[str, ...] = ()


class Outer(StrictConfig):
    steps: int = Field(default=10, gt=0)
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
        Outer().steps = 5


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
        ("steps.more=3", "'steps' is a value, it has no subkeys"),
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
    error = refused(path)
    assert message in error
    assert str(path) in error


def bounded(path: Path, *overrides: str) -> str:
    """The message of a refusal, which quotes little of what it refuses."""
    message = refused(path, *overrides)
    assert len(message.replace(str(path), "")) <= 700
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"x" * 100_000: 1}), "unknown key 'xxx"),
        (json.dumps({"a\nb\x1b[31m": 1}), r"unknown key 'a b?[31m'"),
        (json.dumps({"steps": "x" * 100_000}), "'steps'"),
        (json.dumps({"steps": -(10**4_000)}), "'steps'"),
        (json.dumps({"inner": {"rate": 10**4_000}}), "'inner.rate'"),
        ('{"inner": {"rate": NaN}}', "finite number"),
        ('{"inner": {"rate": 1e999}}', "finite number"),
        ("inner: {rate: .inf}", "finite number"),
        (json.dumps({"inner": {"names": ["a" * 5_000]}}), "at most 4096 characters"),
        (json.dumps({"inner": {"names": [{"a": ["b"] * 10_000}] * 10}}), "'inner.names.0'"),
        (json.dumps({"extends": "\ud800"}), "'extends': name another config"),
        (json.dumps({"extends": "a" * 50_000}), "cannot be read as a config"),
        (json.dumps({"extends": "a\nb"}), "cannot be read as a config"),
        ('{"a":' * 100_000, "nested deeper"),
        ("&a {inner: *a}", "nested deeper"),
    ],
)
def test_hostile_files_are_one_short_line(text: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path, text))
    bounded(write(tmp_path, text))


def test_hostile_overrides_are_one_short_line(tmp_path: Path) -> None:
    path = write(tmp_path, "{}")
    assert "more than 50 keys" in bounded(path, "a." * 10_000 + "b=1")
    assert "no subkeys" in bounded(path, f"{'a' * 5_000}=1", f"{'a' * 5_000}.b=1")
    assert "write it as" in bounded(path, "a" * 5_000)
    assert "nested deeper" in bounded(path, "a=" + "[" * 5_000)


def test_a_long_chain_of_configs_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        files(tmp_path, **{f"c{number}": f"extends: c{number + 1}.yaml"})
    files(tmp_path, c30="steps: 3")
    assert load_config(Outer, tmp_path / "c21.yaml").steps == 3
    assert "a chain of more than 10 configs" in refused(tmp_path / "c0.yaml")


def test_files_of_a_run_have_possible_names() -> None:
    for value in ("~nobody-of-this-name/x", "a\0b", "\ud800"):
        with pytest.raises(ConfigError, match="'output'"):
            validated(
                TrainConfig,
                {"audio": "a", "output": value, "model": {"separator": {"type": "identity"}}},
                "run.yaml",
            )


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\xfd")
    for bad in (path, tmp_path, tmp_path / "no.yaml"):
        assert "cannot be read as a config" in refused(bad)


# Files that extend others.


def files(folder: Path, **texts: str) -> Path:
    """Write YAML files by name; the path of the last one."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path


class Deep(StrictConfig):
    outer: Outer = Outer()
    values: dict[str, dict[str, Any]] = Field(default_factory=dict)


def test_mappings_are_merged_at_any_depth_and_all_else_is_replaced(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        base="outer: {steps: 3, inner: {rate: 2, names: [a, b]}}\n"
        "values: {x: {one: 1, two: 2, three: {a: 1}}, y: {one: 1}}\n",
        over="extends: base.yaml\n"
        "outer: {inner: {names: [c]}}\n"
        "values: {x: {two: {b: 2}, three: {c: 3}, four: null}, z: {}}\n",
    )
    config = load_config(Deep, path)
    assert config.outer == Outer(steps=3, inner=Inner(rate=2, names=("c",)))
    assert config.values == {
        "x": {"one": 1, "two": {"b": 2}, "three": {"a": 1, "c": 3}, "four": None},
        "y": {"one": 1},
        "z": {},
    }
    assert load_config(Deep, tmp_path / "base.yaml").outer.inner.names == ("a", "b")


def test_a_value_replaces_a_mapping_and_a_mapping_a_value(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        base="values: {x: {one: {a: 1}, two: 5}}",
        over="extends: base.yaml\nvalues: {x: {one: 5, two: {a: 1}}}",
    )
    assert load_config(Deep, path).values == {"x": {"one": 5, "two": {"a": 1}}}


def test_a_base_is_relative_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    files(tmp_path / "deep" / "down", middle="extends: ../base.yaml\ninner: {rate: 2}")
    files(tmp_path / "deep", base="extends: root.json\ninner: {names: [a]}")
    (tmp_path / "deep" / "root.json").write_text('{"steps": 7, "inner": {"rate": 9}}')
    path = files(tmp_path, over="extends: deep/down/middle.yaml\nsteps: 4")
    expected = Outer(steps=4, inner=Inner(rate=2, names=("a",)))
    assert load_config(Outer, path) == expected
    path.write_text(f"extends: {tmp_path}/deep/base.yaml")
    assert load_config(Outer, path).steps == 7


def test_overrides_replace_extended_values(tmp_path: Path) -> None:
    path = files(
        tmp_path, base="inner: {rate: 2, names: [a]}", over="extends: base.yaml\ninner: {rate: 3}"
    )
    config = load_config(Outer, path, ["inner.rate=4", "steps=2"])
    assert config == Outer(steps=2, inner=Inner(rate=4, names=("a",)))


def test_a_file_with_only_extends_equals_its_base(tmp_path: Path) -> None:
    path = files(tmp_path, base="steps: 3", over="extends: base.yaml")
    assert load_config(Outer, path) == Outer(steps=3)
    path.write_text("extends: null\nsteps: 4")
    assert load_config(Outer, path) == Outer(steps=4)


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    path = files(tmp_path, a="extends: b.yaml", b="extends: ./c.yaml", c="extends: a.yaml")
    for start in ("a", "b", "c"):
        assert "'extends': name another config file" in refused(tmp_path / f"{start}.yaml")
    path.write_text("extends: ../" + tmp_path.name + "/c.yaml")
    assert "'extends': name another config file" in refused(path)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    path.write_text("extends: link.yaml")
    assert "'extends': name another config file" in refused(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", "'extends': name another config file, got 5"),
        ("[base.yaml]", "'extends': name another config file, got ['base.yaml']"),
        ("no.yaml", "no.yaml: cannot be read as a config"),
        ('""', "cannot be read as a config"),
        (".", "cannot be read as a config"),
        ('"a\\0b"', "'extends': name another config file"),
        ("list.yaml", "list.yaml: a config is a mapping"),
        ("broken.yaml", "broken.yaml: not valid YAML"),
        ("extra.yaml", "config.yaml: unknown key 'more'"),
    ],
)
def test_bases_that_cannot_be_used_are_one_line(value: str, message: str, tmp_path: Path) -> None:
    files(tmp_path, list="[1]", broken="a: [", extra="more: 1")
    assert message in refused(write(tmp_path, f"extends: {value}"))


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


# Fields that were added later.


class Later(StrictConfig):
    steps: int = 10
    rate: float = added(1.0)
    inner: Inner = added(Inner())


def test_a_later_field_is_dumped_only_if_it_is_used() -> None:
    assert Later().model_dump() == {"steps": 10}
    assert Later().model_dump_json() == '{"steps":10}'
    assert Later(rate=1.0, inner=Inner(rate=1.0)).model_dump() == {"steps": 10}
    used = Later(rate=2.0, inner=Inner(names=("a",)))
    assert used.model_dump() == {
        "steps": 10,
        "rate": 2.0,
        "inner": {"rate": 1.0, "names": ("a",)},
    }
    for config in (Later(), used):
        assert Later.model_validate_json(config.model_dump_json()) == config
        assert Later.model_validate(config.model_dump()) == config
    with pytest.raises(ConfigError, match="unknown key 'rat'"):
        validated(Later, {"rat": 1.0}, "here")
    with pytest.raises(ConfigError, match="'rate'"):
        validated(Later, {"rate": "fast"}, "here")


LATER: dict[str, dict[str, Any]] = {
    "mixtures": {
        "gate_share": 0.1,
        "reverb_share": 0.1,
        "rt60_seconds": (0.3, 0.4),
        "bed_share": 0.1,
        "bed_snr_db": (3.0, 4.0),
        "lossy_share": 0.1,
    },
    "model": {"negative": True, "presence": {"scale": 2.0, "bias": 0.0}},
    "run": {
        "queries": {
            "absent_share": 0.1,
            "near_miss_share": 0.5,
            "removal_share": 0.0,
            "contrast_share": 0.0,
        },
        "absent_weight": 0.5,
    },
}


def run_of(**changes: Any) -> TrainConfig:
    values = {"audio": "a", "output": "b", "model": {"separator": {"type": "conditioned_unet"}}}
    return TrainConfig.model_validate({**values, **changes})


def test_a_later_field_is_not_in_the_config_of_a_run_without_it() -> None:
    plain = run_of()
    parts: dict[str, tuple[StrictConfig, type[StrictConfig]]] = {
        "mixtures": (plain.mixtures, MixtureConfig),
        "model": (plain.model, ModelConfig),
        "run": (plain, TrainConfig),
    }
    for name, (part, kind) in parts.items():
        known = part.model_dump()
        assert not known.keys() & LATER[name].keys()
        for key, value in LATER[name].items():
            changed = kind.model_validate({**known, key: value})
            assert changed.model_dump() == {**known, key: value}
            assert kind.model_validate_json(changed.model_dump_json()) == changed
            # A default that is given explicitly is not dumped either.
            default = kind.model_validate({**known, key: getattr(part, key)})
            assert default.model_dump() == known


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "09ba10c2764820cb"),
        (
            {
                "model": {
                    "separator": {"type": "resunet30"},
                    "manipulation": {"steps": [{"type": "dropout", "p": 0.5}]},
                },
                "p_text": 0.5,
                "query_audio": {"mixup": {}},
            },
            "97b5a0eee4afee4e",
        ),
    ],
)
def test_old_runs_keep_their_hashes(changes: dict[str, Any], expected: str) -> None:
    """The hashes are of dumps by older code. With another hash an old run could not be resumed.

    A new key must be declared by ``added``. A changed default changes these hashes.
    """
    text = run_of(**changes).model_dump_json(indent=2, exclude={"output", "num_workers", "device"})
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected
