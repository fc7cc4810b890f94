"""The study as data and its sounds: runs, the choice of settings, and splits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.paper import corpus
from recipes.paper.__main__ import append
from recipes.paper.study import LINE_KEYS, Line, Run, Study, read_lines
from singleout.errors import ConfigError
from singleout.train.config import UncaptionedConfig
from singleout.train.corpus import uncaptioned_clips


def write_sound(path: Path, number: int) -> None:
    """A tenth of a second of noise at 32 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng([number]).normal(0, 0.1, 3_200), 32_000)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Runs.


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


# The small study's sounds.

PACKAGES = tuple("abcdef")


def sound_row(package: str, group: str, split: str, number: int) -> dict[str, Any]:
    return {
        "path": f"{package}/{number}.flac",
        "seconds": 0.5,
        "caption": f"sound {number}",
        "alternatives": ["another caption"],
        "class": f"kind/{number % 3}",
        "group": group,
        "split": split,
        "license": "CC0-1.0",
        "origin": {"package": package},
    }


def many_rows() -> list[dict[str, Any]]:
    """Of six packages, recordings of two sounds; one recording in six lies in two packages."""
    rows = []
    for number in range(400):
        group = f"g{number // 2}"
        package = PACKAGES[(number // 2 + (number % 12 == 0)) % 4]
        rows.append(sound_row(package, group, "train", number))
    for number in range(400, 440):
        package, split = PACKAGES[4 + number % 2], ("validation", "test")[number % 2]
        rows.append(sound_row(package, f"g{number}", split, number))
    return rows


def test_splits_share_no_recording_and_the_encoder_no_package() -> None:
    rows = many_rows()
    splits = corpus.new_splits(rows)
    assert set(splits) == {
        *("encoder", "train", "validation", "test_in_domain", "test_out_of_domain")
    }
    of_group: dict[str, set[str]] = {}
    for row, split in zip(rows, splits, strict=True):
        of_group.setdefault(row["group"], set()).add(split)
    assert all(len(group) == 1 for group in of_group.values())
    packages = corpus.encoder_packages(rows)
    assert packages
    for row, split in zip(rows, splits, strict=True):
        if corpus.package_of(row) in packages:
            assert split == "encoder"
        if row["split"] == "test":
            assert split == "test_out_of_domain"
    clips = [row for row in rows if row["split"] == "train"]
    encoder_clips = sum(corpus.package_of(row) in packages for row in clips)
    assert encoder_clips <= corpus.ENCODER_SHARE * len(clips)


@given(st.permutations(many_rows()[::4]))
@settings(max_examples=10, deadline=None)
def test_splits_do_not_depend_on_the_order_of_the_rows(rows: list[dict[str, Any]]) -> None:
    def splits(rows: list[dict[str, Any]]) -> dict[str, str]:
        return dict(zip((row["path"] for row in rows), corpus.new_splits(rows), strict=True))

    assert splits(rows) == splits(many_rows()[::4])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PACKAGES),
            st.integers(0, 300),
            st.sampled_from(["train", "validation", "test"]),
        ),
        max_size=60,
    )
)
@settings(max_examples=30, deadline=None)
def test_more_rows_move_no_recording_between_training_and_its_tests(
    more: list[tuple[str, int, str]],
) -> None:
    """The packages of the encoder may change. A recording that is the extractor's before and after
    keeps its split."""
    rows = many_rows()
    added = [
        sound_row(package, f"new{group}", split, 1_000 + i)
        for i, (package, group, split) in enumerate(more)
    ]
    before, after = corpus.new_splits(rows), corpus.new_splits(rows + added)
    for one, other in zip(before, after, strict=False):
        assert one == other or "encoder" in (one, other)


@given(st.text(max_size=20), st.text(max_size=20))
def test_shares_are_in_range(one: str, other: str) -> None:
    assert 0 <= corpus.share_of(one, other) < 1


def test_shares_are_the_same_on_any_machine() -> None:
    assert corpus.share_of("held out", "g0") == 0.0941390713970718


def test_held_out_recordings_have_their_shares() -> None:
    drawn = [corpus.held_out(f"group {i}") for i in range(4_000)]
    for split, share in corpus.HELD_OUT_SHARES.items():
        assert drawn.count(split) / len(drawn) == pytest.approx(share, abs=0.02)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 32 kHz sounds, as ``make sounds`` leaves it."""
    folder = tmp_path_factory.mktemp("debian")
    rows = []
    for row in many_rows()[:48] + many_rows()[-4:]:
        write_sound(folder / row["path"], len(rows))
        rows.append({**row, "seconds": 0.1})
    write_lines(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def test_only_captioned_sounds_keep_their_captions(sounds: Path, tmp_path: Path) -> None:
    manifest = corpus.prepare(sounds, tmp_path, jobs=1)
    rows = {row["path"]: row for row in read_rows(manifest)}
    captioned, uncaptioned = (
        read_rows(tmp_path / f"{name}.jsonl") for name in ("captioned", "uncaptioned")
    )
    for row in uncaptioned:
        assert not row.keys() & {"caption", "alternatives", "class"}
        assert row["license"] == "CC0-1.0"
    assert all(row == rows[row["path"]] for row in captioned)
    assert {row["split"] for row in captioned} <= {"train", "validation"}
    train = {path for path, row in rows.items() if row["split"] == "train"}
    with_captions = {row["path"] for row in captioned if row["split"] == "train"}
    without = {row["path"] for row in uncaptioned}
    assert with_captions | without == train
    assert not with_captions & without
    assert not {rows[p]["group"] for p in with_captions} & {rows[p]["group"] for p in without}
    for row in rows.values():
        info = soundfile.info(tmp_path / row["path"])
        assert (info.samplerate, info.frames) == (16_000, 1_600)


def test_an_interrupted_conversion_continues(sounds: Path, tmp_path: Path) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}

    corpus.prepare(sounds, tmp_path, jobs=1)
    before = stamps()
    lost = sorted(before)[3]
    content = Path(lost).read_bytes()
    Path(lost).unlink()
    corpus.prepare(sounds, tmp_path, jobs=1)
    after = stamps()
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == [lost]
    assert Path(lost).read_bytes() == content
    assert not list(tmp_path.rglob("*.partial"))


def test_a_larger_share_of_the_uncaptioned_holds_every_smaller_one(
    sounds: Path, tmp_path: Path
) -> None:
    corpus.prepare(sounds, tmp_path, jobs=1)
    manifest = tmp_path / "uncaptioned.jsonl"
    shares = [
        {clip.path for clip in uncaptioned_clips(UncaptionedConfig(manifest=manifest, share=share))}
        for share in (0.25, 0.5, 1.0)
    ]
    assert shares[0] < shares[1] < shares[2]
    assert len(shares[2]) == len(read_rows(manifest))
