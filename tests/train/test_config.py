"""Configs of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from singleout.config import validated
from singleout.data.query_plan import QueriesConfig
from singleout.errors import ConfigError
from singleout.train.config import TrainConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixtures": {"num_sources": [1, 3]}}, r"mixtures.num_sources is \[1, 3\].*start at 2"),
        (
            {"validation": {"mixtures": {"num_sources": [1, 2]}}},
            r"validation.mixtures.num_sources is \[1, 2\]",
        ),
        ({"seed": 2**32}, "'seed'"),
    ],
)
def test_impossible_values_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    model = {"separator": {"type": "identity"}}
    values = {"audio": "sounds", "output": "run", "model": model, **changes}
    with pytest.raises(ConfigError, match=message):
        validated(TrainConfig, values, "run.yaml")


@pytest.mark.parametrize(
    ("queries", "model", "query_audio", "message"),
    [
        ({"removal_share": 0.1}, {}, {}, "need a model that takes them: model.negative"),
        ({"contrast_share": 0.1}, {}, {}, "need a model that takes them: model.negative"),
        (
            {"contrast_share": 0.1},
            {"negative": True},
            {"mixup": {}},
            "cannot be combined",
        ),
        ({"absent_share": 0.1}, {}, {"mixup": {}}, None),
        ({"removal_share": 0.1}, {"negative": True}, {"source": "same_class"}, None),
    ],
)
def test_negative_queries_need_a_model_that_takes_them(
    queries: dict[str, Any], model: dict[str, Any], query_audio: dict[str, Any], message: str | None
) -> None:
    values = {
        "audio": "a",
        "output": "b",
        "model": {"separator": {"type": "identity"}, **model},
        "queries": queries,
        "query_audio": query_audio,
    }
    if message is None:
        assert TrainConfig.model_validate(values).queries == QueriesConfig(**queries)
        return
    with pytest.raises(ConfigError, match=message):
        validated(TrainConfig, values, "here")


def test_absent_weight_is_not_negative() -> None:
    values = {"audio": "a", "output": "b", "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match="absent_weight"):
        TrainConfig.model_validate({**values, "absent_weight": -0.1})


def test_a_run_has_exactly_one_source(tmp_path: Path) -> None:
    values: dict[str, Any] = {"output": tmp_path, "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match="either a manifest, or a folder of audio, or shards"):
        TrainConfig.model_validate(values)
    with pytest.raises(ValidationError, match="either a manifest, or a folder of audio, or shards"):
        TrainConfig.model_validate({**values, "manifest": "a", "audio": "b"})
    with pytest.raises(ValidationError, match="or shards"):
        TrainConfig.model_validate({**values, "shards": "a", "audio": "b"})
    with pytest.raises(ValidationError, match="or shards"):
        TrainConfig.model_validate({**values, "audio": "b", "uncaptioned": {"share": 0.5}})
    TrainConfig.model_validate({**values, "audio": "b"})


def test_shards_are_a_path_or_an_address() -> None:
    values: dict[str, Any] = {"output": "b", "model": {"separator": {"type": "identity"}}}
    places = {
        "~/a": str(Path.home() / "a"),
        "s3://bucket/a": "s3://bucket/a",
        "memory://a": "memory://a",
    }
    for given, kept in places.items():
        config = TrainConfig.model_validate(
            {**values, "shards": given, "uncaptioned": {"shards": given}}
        )
        assert config.shards == kept
        assert config.uncaptioned is not None
        assert config.uncaptioned.shards == kept
    for wrong in ("", "a\0b"):
        with pytest.raises(ValidationError, match="shards"):
            TrainConfig.model_validate({**values, "shards": wrong})
    assert "shards" not in TrainConfig.model_validate({**values, "audio": "a"}).model_dump()


def test_home_is_expanded() -> None:
    config = TrainConfig.model_validate(
        {"audio": "~/a", "output": "~/b", "model": {"separator": {"type": "identity"}}}
    )
    assert config.output == Path.home() / "b"
    assert config.audio == Path.home() / "a"


@pytest.mark.parametrize(
    ("key", "value"),
    [("p_text", 1.1), ("steps", 0), ("learning_rate", 0), ("ema_decay", 1), ("seed", -1)],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    values = {"audio": "a", "output": "b", "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match=key):
        TrainConfig.model_validate({**values, key: value})


@pytest.mark.parametrize("key", ["audio", "output", "init"])
def test_an_empty_path_is_not_the_current_folder(key: str) -> None:
    values = {"audio": "sounds", "output": "run", "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ConfigError, match=f"'{key}'.*the name is empty"):
        validated(TrainConfig, {**values, key: ""}, "run.yaml")
