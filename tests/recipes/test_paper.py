"""The study of the paper's claims in both sizes: its configs, and training with a debug model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from recipes.paper import __main__ as command
from recipes.paper.__main__ import append, locked, main, run_here
from recipes.paper.run import fixed_mixtures, run_one
from recipes.paper.study import LINE_KEYS, Line, Run, Study, StudyConfig, read_lines
from singleout.config import load_config
from singleout.encoders import BuiltinEncoder, QueryEncoder
from singleout.encoders.builtin import BuiltinNetwork
from singleout.manipulations import Manipulator, Noise
from singleout.separators import AnySeparator
from singleout.train.checkpoint import FILE_NAME
from tests.conftest import TINY_SEPARATOR, tiny_tokenizer
from tests.encoders.clap_models import tiny_encoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/paper"
SIZES = ("small", "full")
MAX_RUNS = 40
EMBEDDING_DIM = {"small": 256, "full": 512}
"""Of the encoders that the two studies name. The debug encoders have the same, so that components
and noise are as configured."""
ROWS = sorted(path.stem for path in (CONFIGS / "rows").glob("*.yaml"))
FULL_ROWS = ("captioned_audio", "spec_augment", "text")
"""Rows that train at the full size: two corpora, an augmented query sound, captions. The configs of
the other full rows are read and built, and their small counterparts train."""


def study_of(size: str) -> Path:
    return CONFIGS / f"{size}.yaml"


def write_sound(path: Path, number: int, seconds: float = 0.8, rate: int = 16_000) -> None:
    """A tone or a noise, unlike any other number's."""
    rng = np.random.default_rng([number])
    time = np.arange(int(rate * seconds)) / rate
    tone = np.sin(2 * np.pi * 150 * (number + 1) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * (rng.normal(size=len(time)) if number % 2 else tone), rate)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# The configs.


@cache
def studies() -> dict[str, Study]:
    """Both studies as shipped."""
    return {size: Study(study_of(size)) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_the_study_and_configs_are_the_same(size: str) -> None:
    config = load_config(StudyConfig, study_of(size))
    assert sorted(row.name for row in config.rows) == ROWS
    assert sum(len(row.grid) + row.seeds - 1 for row in config.rows) <= MAX_RUNS


def test_both_sizes_have_the_same_rows_and_runs() -> None:
    small, full = (load_config(StudyConfig, study_of(size)) for size in SIZES)
    assert small.sets.keys() == full.sets.keys()
    for one, other in zip(small.rows, full.rows, strict=True):
        assert (one.name, one.seeds, one.fixed is None) == (
            other.name,
            other.seeds,
            other.fixed is None,
        )
        assert len(one.grid) == len(other.grid)


@pytest.mark.parametrize("size", SIZES)
def test_every_setting_fits_the_encoder_that_it_names(size: str) -> None:
    study = Study(study_of(size))
    for row in study.config.rows:
        for setting in row.grid:
            config = study.train_config(Run(row.name, setting, 0))
            Manipulator(config.model.manipulation, EMBEDDING_DIM[size])
            assert config.manifest is not None
            assert config.manifest.is_absolute()


def test_full_rows_have_the_real_parts() -> None:
    study = Study(study_of("full"))
    models = [study.train_config(study.first_run(row)).model for row in ROWS]
    for model in models:
        assert re.fullmatch(r"laion/larger_clap_general@[0-9a-f]{40}", model.encoder.name)
        assert model.separator == models[0].separator
    with torch.device("meta"):
        separator = models[0].separator.build(EMBEDDING_DIM["full"])
    assert separator.sample_rate == 32_000
    assert sum(p.numel() for p in separator.parameters()) == 26_447_941


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", ROWS)
def test_rows_match_their_names(size: str, row: str) -> None:
    study = studies()[size]
    config = study.train_config(study.first_run(row))
    steps = [step.type for step in config.model.manipulation.steps]
    query = config.query_audio
    captions_only = row in ("text", "text_dropout", "captioned", "captioned_audio")
    assert config.p_text == (1.0 if captions_only else 0.5 if row == "text_audio" else 0.0)
    assert (config.uncaptioned is not None) == (row == "captioned_audio")
    assert config.model.manipulation.corrupt_text == (row == "text_dropout")
    assert config.query_mixup == (row == "query_mixup")
    assert (query.mixup is not None) == (row == "mixup")
    assert (query.spec_augment is not None) == (row == "spec_augment")
    assert query.source == (row if row in ("same_class", "other_crop") else "target")
    expected = {
        "c3": ["mean_shift", "noise"],
        "composed": ["mean_shift", "projection", "dropout"],
        "captioned_audio": ["dropout"],
        "text_audio": ["dropout"],
        "text_dropout": ["dropout"],
    }
    named = ("dropout", "noise", "mean_shift", "pca", "pls", "retrieval", "projection")
    assert steps == expected.get(row, [row] if row in named else [])


@pytest.mark.parametrize("size", SIZES)
def test_noise_of_c3_has_its_published_variance(size: str) -> None:
    config = studies()[size].train_config(Run("c3", "", 0))
    noise = config.model.manipulation.steps[1]
    assert isinstance(noise, Noise)
    assert noise.relative_norm**2 / EMBEDDING_DIM[size] == pytest.approx(0.016, rel=5e-3)


# Every row, trained and scored.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with the manifests that the configs name, of tiny sounds."""
    folder = tmp_path_factory.mktemp("home")
    splits = {"train": 6, "validation": 3, "test_in_domain": 3, "test_out_of_domain": 3}
    rows: list[dict[str, Any]] = []
    for split, count in splits.items():
        for i in range(count):
            name = f"{split}-{i}"
            seconds = 0.4 + 0.15 * i
            write_sound(folder / f"sounds/{name}.wav", len(rows), seconds)
            words = {"caption": f"sound {name}", "class": f"kind {i % 4}"}
            path = str(folder / f"sounds/{name}.wav")
            rows.append({"path": path, "seconds": seconds, "group": name, "split": split, **words})
    captioned = [row for i, row in enumerate(rows) if i < 3 or row["split"] == "validation"]
    uncaptioned = [{k: row[k] for k in ("path", "seconds", "group", "split")} for row in rows[3:6]]
    for place in ("paper/sounds", "paper_full"):
        cache = folder / ".cache/singleout" / place
        write_lines(cache / "manifest.jsonl", rows)
        write_lines(cache / "captioned.jsonl", captioned)
        write_lines(cache / "uncaptioned.jsonl", uncaptioned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("SINGLEOUT_CACHE", raising=False)  # it is below the home folder
        yield folder


def debug_builtin(folder: Path) -> BuiltinEncoder:
    """The tiny built-in encoder, with embeddings as long as those of the small study."""
    config = {
        "dim": EMBEDDING_DIM["small"],
        "text_hidden": 16,
        "sentence": {"vocabulary": 76, "dim": 24, "num_layers": 1, "num_heads": 2, "hidden": 32},
        "audio_channels": [8, 8, 8, 8, 8],
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = BuiltinNetwork(config)
        words = network.sentence.words
        words.weight.copy_(torch.randint(-127, 128, words.weight.shape))
        words.scale.fill_(0.02)
    BuiltinEncoder(network, tiny_tokenizer(), config).save_pretrained(folder)
    return BuiltinEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QueryEncoder]:
    folder = tmp_path_factory.mktemp("encoders")
    return {
        "small": debug_builtin(folder / "builtin"),
        "full": tiny_encoder(folder / "clap", dim=EMBEDDING_DIM["full"]),
    }


@pytest.fixture(scope="module")
def debug_studies(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """Both studies as shipped, except for the common sizes and the number of scored mixtures."""
    folder = tmp_path_factory.mktemp("configs") / "paper"
    shutil.copytree(CONFIGS, folder)
    studies = {}
    for size in SIZES:
        shared = folder / f"{size}_common.yaml"
        common = yaml.safe_load(shared.read_text(encoding="utf-8"))
        rate = common["model"]["separator"]["sample_rate"]
        separator: AnySeparator = TINY_SEPARATOR.model_copy(update={"sample_rate": rate})
        common["model"]["separator"] = separator.model_dump(mode="json")
        for mixtures in (common["mixtures"], common["validation"]["mixtures"]):
            mixtures |= {"segment_seconds": 0.4, "crop_hop_seconds": 0.2}
        common["validation"] |= {"num_mixtures": 2, "every_steps": 2}
        common |= {"steps": 2, "batch_size": 2, "warmup_steps": 1, "num_workers": 0}
        common |= {"precision": "float32", "checkpoint_every": 2}
        shared.write_text(yaml.safe_dump(common), encoding="utf-8")
        path = folder / f"{size}.yaml"
        text = re.sub(r"num_mixtures: \d+", "num_mixtures: 2", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
        studies[size] = Study(path)
    return studies


@pytest.mark.parametrize(
    ("size", "row"), [("small", row) for row in ROWS] + [("full", row) for row in FULL_ROWS]
)
def test_every_row_trains_and_is_scored(
    size: str,
    row: str,
    home: Path,
    debug_studies: dict[str, Study],
    encoders: dict[str, QueryEncoder],
    tmp_path: Path,
) -> None:
    study, encoder = debug_studies[size], encoders[size]
    run = study.first_run(row)
    line = run_one(study, run, encoder)
    lines = tmp_path / "results/runs.jsonl"
    append(lines, line)
    assert read_lines(lines) == [line]
    assert line.keys() == set(LINE_KEYS)
    assert line["steps"] == 2
    assert line["si_sdri_db"].keys() == study.config.sets.keys()
    for scores in line["si_sdri_db"].values():
        assert sorted(scores) == ["audio", "text"]
        assert all(len(each) == 2 and np.isfinite(each).all() for each in scores.values())
    assert [point["step"] for point in line["curve"]] == [2]
    assert Study(study.path, [line], encoder.fingerprint).done == {run: line}


def test_a_trained_run_is_only_scored_and_an_interrupted_run_continues(
    home: Path, debug_studies: dict[str, Study], encoders: dict[str, QueryEncoder]
) -> None:
    study, encoder = debug_studies["small"], encoders["small"]
    run = Run("text", "", 1)
    first = run_one(study, run, encoder)
    record = study.folder_of(run) / "sessions.json"
    before = record.read_bytes()
    (study.folder_of(run) / FILE_NAME).unlink()  # a second training would start from it
    again = run_one(study, run, encoder)
    assert record.read_bytes() == before
    assert again | {"evaluation_s": 0.0} == first | {"evaluation_s": 0.0}
    sessions = json.loads(before)["sessions"]
    del sessions[0]["ended"]
    record.write_text(json.dumps({"finished": False, "sessions": sessions}))
    resumed = run_one(study, run, encoder)
    kept = json.loads(record.read_text())
    assert kept["finished"]
    assert [session["ended"] >= session["started"] for session in kept["sessions"]] == [True, True]
    assert resumed["si_sdri_db"] == first["si_sdri_db"], "to the bit"


def test_runs_are_scored_on_the_fixed_mixtures(
    home: Path, debug_studies: dict[str, Study], encoders: dict[str, QueryEncoder]
) -> None:
    study = debug_studies["small"]
    line = run_one(study, Run("none", "", 0), encoders["small"])
    sets = fixed_mixtures(study)["sets"]
    assert {name: each["digest"] for name, each in sets.items()} == line["mixtures"]
    for each in sets.values():
        lengths = {len(each[key]) for key in ("target", "interference", "query", "seen_caption")}
        assert lengths == {2}
        assert {len(values) for values in each["references"].values()} == {2}
        assert each["references"]["mixture"] == [0, 0]


@pytest.fixture
def two_rows(debug_studies: dict[str, Study], tmp_path: Path) -> Path:
    """A study of the rows ``text`` and ``none``, with an encoder that is a folder."""
    folder = tmp_path / "study"
    shutil.copytree(debug_studies["small"].path.parent, folder)
    shared, path = folder / "small_common.yaml", folder / "small.yaml"
    common = yaml.safe_load(shared.read_text(encoding="utf-8"))
    debug_builtin(tmp_path / "encoder")
    common["model"]["encoder"] = {"name": str(tmp_path / "encoder")}
    common["output"] = str(tmp_path / "runs/unnamed")
    shared.write_text(yaml.safe_dump(common), encoding="utf-8")
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["rows"] = [{"name": "text"}, {"name": "none"}]
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def run_without_process(run: Run, study: Study) -> Line:
    """Train and score a run as the process of ``run_in_process`` does."""
    run_here(study, run)
    line: Line = json.loads((study.folder_of(run) / "line.json").read_text(encoding="utf-8"))
    return line


def test_the_command_trains_the_other_runs_after_a_failure(
    home: Path,
    two_rows: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each run in a process; the second call, which only checks what is left to do, needs none."""
    results, row = tmp_path / "results", two_rows.parent / "rows/text.yaml"
    text = row.read_text(encoding="utf-8")
    row.write_text(text + "init: /nowhere\n", encoding="utf-8")
    arguments = ["--study", str(two_rows), "--results", str(results), "--jobs", "1"]
    assert main(arguments) == 1
    assert "text-seed0: the run failed: see the end of" in capfd.readouterr().err
    assert [line["row"] for line in read_lines(results / "runs.jsonl")] == ["none"]

    row.write_text(text, encoding="utf-8")
    monkeypatch.setattr(command, "run_in_process", run_without_process)
    assert main([*arguments, "--rows", "text"]) == 0
    assert [line["row"] for line in read_lines(results / "runs.jsonl")] == ["none", "text"]
    assert json.loads((results / "claims.json").read_text())["meta"]["num_runs"] == 2
    before = (results / "runs.jsonl").read_bytes()
    (results / "table.json").unlink()
    assert main(arguments) == 0, "nothing is left to train"
    assert (results / "runs.jsonl").read_bytes() == before
    assert len(json.loads((results / "table.json").read_text())["rows"]) == 2
    assert main([*arguments, "--list"]) == 0
    assert "2 of 2 runs; 0 stale lines" in capfd.readouterr().out

    with locked(results):
        assert main(arguments) == 2
    assert "another process works in this folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nothing", "", "0"], "no run 'nothing' '' '0'"),
        (["--run", "text", "", "first"], "no run 'text' '' 'first'"),
        (["--rows", "text,txet"], "no row txet"),
        (["--study", "/nowhere"], "cannot be read as a config"),
    ],
)
def test_wrong_arguments_of_the_command_are_one_line(
    home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
