"""The study as data: its runs and the choice of settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.paper.__main__ import append
from recipes.paper.study import LINE_KEYS, Line, Run, Study, read_lines
from singleout.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A study of three rows: one with a grid, one with a fixed setting, one of a single run."""
    folder = tmp_path / "configs"
    (folder / "rows").mkdir(parents=True)
    study = {
        "common": "common.yaml",
        "sets": {
            "validation": {"split": "validation", "num_mixtures": 2, "seed": 1},
            "test": {"split": "test", "num_mixtures": 2, "seed": 2},
        },
        "rows": [
            {"name": "a", "seeds": 3, "grid": {"low": [], "high": ["learning_rate=0.1"]}},
            {"name": "b", "seeds": 2, "grid": {"all": [], "half": ["steps=2"]}, "fixed": "all"},
            {"name": "c"},
        ],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    common = "manifest: ~/sounds.jsonl\noutput: ~/runs\nmodel: {separator: {type: identity}}\n"
    (folder / "common.yaml").write_text(common)
    for name in "abc":
        (folder / "rows" / f"{name}.yaml").write_text(f"batch_size: {ord(name)}\n")
    return path


def line_of(study: Study, run: Run, validation: float = 0.0, test: float = 0.0) -> Line:
    """A finished run with these scores of text queries; those of audio queries are the reverse."""
    return {
        "row": run.row,
        "setting": run.setting,
        "seed": run.seed,
        "config_hash": study.hash_of(run),
        "encoder": "e",
        "si_sdri_db": {
            "validation": {"text": [validation, validation], "audio": [-validation] * 2},
            "test": {"text": [test, test], "audio": [-test] * 2},
        },
    }


def test_runs_are_ordered_by_row_then_setting_then_seed(path: Path) -> None:
    study = Study(path)
    assert [run.name for run in study.needed()] == [
        *("a-low-seed0", "a-high-seed0", "b-all-seed0", "b-half-seed0", "b-all-seed1", "c-seed0")
    ]
    assert study.to_do() == study.needed()


def test_changes_of_a_row_hold_for_all_of_its_settings(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values["rows"][0]["changes"] = ["batch_size=3", "learning_rate=0.2"]
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    low, high = (Study(path).train_config(Run("a", name, 0)) for name in ("low", "high"))
    assert (low.batch_size, low.learning_rate) == (3, 0.2)
    assert (high.batch_size, high.learning_rate) == (3, 0.1), "a setting overrides them"


def test_further_seeds_wait_for_the_whole_grid(path: Path) -> None:
    study = Study(path)
    low = line_of(study, Run("a", "low", 0), validation=9.0)
    half = Study(path, [low])
    assert half.chosen("a") is None
    assert not any(run.row == "a" and run.seed for run in half.needed())
    whole = Study(path, [low, line_of(study, Run("a", "high", 0), validation=1.0)])
    assert [run.name for run in whole.to_do() if run.row == "a"] == ["a-low-seed1", "a-low-seed2"]


def whole_line(row: str) -> Line:
    return {**dict.fromkeys(LINE_KEYS, 0), "row": row}


def test_only_text_queries_on_validation_choose(path: Path) -> None:
    study = Study(path)
    low = line_of(study, Run("a", "low", 0), validation=1.0, test=9.0)
    high = line_of(study, Run("a", "high", 0), validation=2.0, test=-9.0)
    assert Study(path, [low, high]).chosen("a") == "high"
    for line in (low, high):  # audio queries on validation would choose otherwise, too
        assert line["si_sdri_db"]["validation"]["audio"][0] < 0
    more = [line_of(study, Run("a", "low", seed), validation=99.0) for seed in (1, 2)]
    assert Study(path, [low, high, *more]).chosen("a") == "high", "further seeds do not choose"


def test_a_fixed_setting_does_not_depend_on_scores(path: Path) -> None:
    study = Study(path)
    assert study.chosen("b") == "all"
    lines = [line_of(study, Run("b", "half", 0), 9.0), line_of(study, Run("b", "all", 0), 1.0)]
    done = Study(path, lines)
    assert done.chosen("b") == "all"
    assert [line["setting"] for line in done.seeds_of("b")] == ["all"]
    assert [line["setting"] for line in done.seeds_of("b", "half")] == ["half"]


def test_the_study_ends_after_the_announced_number_of_runs(path: Path) -> None:
    lines: list[Line] = []
    study = Study(path)
    while study.to_do():
        lines.append(line_of(study, study.to_do()[0]))
        study = Study(path, lines, "e")
    assert len(study.done) == study.num_runs() == 8
    assert [line["seed"] for line in study.seeds_of("a")] == [0, 1, 2]


def test_lines_of_another_config_or_encoder_do_not_count(path: Path) -> None:
    study = Study(path)
    line = line_of(study, Run("c", "", 0))
    assert Study(path, [line], "e").done
    other_encoder = Study(path, [line], "another")
    assert other_encoder.stale == [line]
    assert not other_encoder.done
    config = path.parent / "rows" / "c.yaml"
    before = config.read_text()
    config.write_text(before + "num_workers: 3\n")
    assert Study(path, [line], "e").done, "the number of workers does not change the result"
    config.write_text(before + "weight_decay: 0.5\n")
    assert Study(path, [line], "e").stale == [line]
    config.write_text(before)
    path.write_text(path.read_text().replace("seed: 2", "seed: 3"))
    assert Study(path, [line], "e").stale == [line], "scored on other mixtures"


def test_a_line_of_a_removed_row_is_stale(path: Path) -> None:
    line = {**line_of(Study(path), Run("c", "", 0)), "row": "gone"}
    assert Study(path, [line]).stale == [line]


def test_hashes_do_not_depend_on_the_machine(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("a", "high", 1)
    monkeypatch.setenv("HOME", "/home/one")
    expected = Study(path).hash_of(run)
    monkeypatch.setenv("HOME", "/home/two")
    moved = shutil.copytree(path.parent, tmp_path / "elsewhere") / path.name
    row = moved.parent / "rows" / "a.yaml"
    row.write_text(row.read_text() + "output: /elsewhere\n")
    assert Study(moved).hash_of(run) == expected
    assert Study(moved).hash_of(Run("a", "high", 2)) != expected
    assert Study(moved).hash_of(Run("a", "low", 1)) != expected


@pytest.mark.parametrize("text", ["{", "[1]", "1", "{}", '{"row": "a"}', "\ufeff{}", ""])
def test_broken_lines_of_runs_are_one_error(tmp_path: Path, text: str) -> None:
    good = json.dumps(whole_line("a"))
    path = tmp_path / "runs.jsonl"
    path.write_text(f"{good}\n{text}\n{good}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"runs\.jsonl:2: not the line of a run") as caught:
        read_lines(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_runs_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "runs.jsonl") == []


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [{"name": "c"}, {"name": "c"}]},
        {"rows": [{"name": "c", "grid": {}}]},
        {"rows": [{"name": "c", "grid": {"x": []}, "fixed": "y"}]},
        {"rows": [{"name": "c", "seeds": 0}]},
        {"rows": [{"name": "no_config"}]},
        {"rows": [{"name": "c", "grid": {"x": ["no_such_key=1"]}}]},
        {"rows": [{"name": "c", "changes": ["no_such_key=1"]}]},
        {"common": "no_such_file.yaml"},
        {"sets": {}},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_wrong_studies_are_refused(path: Path, change: dict[str, Any]) -> None:
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | change, sort_keys=False))
    with pytest.raises(ConfigError):
        Study(path)


def test_a_line_is_appended_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new/runs.jsonl"
    line = whole_line("a") | {"si_sdri_db": {"validation": {"text": [1.5]}}}
    append(path, line)
    before = path.read_bytes()

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            append(path, {"row": "b", "si_sdri_db": {}})
    assert path.read_bytes() == before
    with pytest.raises(TypeError):
        append(path, {"row": "b", "si_sdri_db": {"validation": object()}})
    assert path.read_bytes() == before
    append(path, whole_line("c"))
    assert read_lines(path) == [line, whole_line("c")]
