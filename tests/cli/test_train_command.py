"""``singleout train`` from the command line, with the tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from singleout import Extractor
from singleout.audio import write_wav
from singleout.cli import app
from singleout.model import QueriedSeparator, read_config
from singleout.storage.models import resolve_model
from singleout.train import TrainConfig, train
from singleout.train.corpus import read_corpus
from singleout.train.curve import Row, read_curve
from tests.cli.commands import file_size_limit
from tests.conftest import TINY_SEPARATOR
from tests.train.runs import cache_model, saved_step_of

pytestmark = pytest.mark.slow

RATE = 32_000


@pytest.fixture
def config(tmp_path: Path, debug_encoder_folder: Path) -> Path:
    """A run of two steps on four noises."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).normal(0, 0.1, (1, RATE // 2)).astype(np.float32)
        write_wav(sounds / f"{i}.wav", noise, RATE)
    values = {
        "audio": str(sounds),
        "output": str(tmp_path / "run"),
        "model": {
            "separator": TINY_SEPARATOR.model_dump(mode="json"),
            "manipulation": {"steps": [{"type": "dropout", "p": 0.5}]},
            "encoder": {"name": str(debug_encoder_folder)},
        },
        "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25},
        "steps": 2,
        "batch_size": 2,
        "num_workers": 0,
        "precision": "float32",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    return path


def test_trains_and_the_model_extracts(config: Path) -> None:
    run = CliRunner().invoke(app, ["train", str(config), "steps=3", "mixtures.gain_db=[-3, 3]"])
    assert run.exit_code == 0, run.output
    folder = config.parent / "run"
    saved = json.loads((folder / "config.json").read_text())
    assert saved["steps"] == 3
    assert saved["mixtures"]["gain_db"] == [-3.0, 3.0]
    assert (folder / "curve.csv").is_file()
    assert list(folder.glob("tensorboard/events*"))
    mixture = np.random.default_rng(9).normal(0, 0.1, RATE).astype(np.float32)
    result = Extractor.from_pretrained(folder / "model").extract(mixture, "noise", RATE)
    assert np.abs(result.target[0] + result.residual[0] - mixture).max() <= 1e-6
    assert np.abs(result.target).max() > 0


def test_a_folder_of_sounds_continues_from_a_model(
    calibrated_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new model has the sizes, the manipulation and the kinds of queries of the old one."""

    def train_briefly(settings: TrainConfig) -> Path:
        short = {"segment_seconds": 0.5, "crop_hop_seconds": 0.25}
        mixtures = settings.mixtures.model_copy(update=short)
        changes = {"batch_size": 2, "num_workers": 0, "mixtures": mixtures}
        return train(settings.model_copy(update=changes))

    monkeypatch.setattr("singleout.train.run.train", train_briefly)
    for i in range(4):
        noise = np.random.default_rng(i).normal(0, 0.1, (1, RATE // 2)).astype(np.float32)
        (tmp_path / "sounds").mkdir(exist_ok=True)
        write_wav(tmp_path / "sounds" / f"{i}.wav", noise, RATE)
    where = ["--audio", str(tmp_path / "sounds"), "--output", str(tmp_path / "run")]
    run = CliRunner().invoke(
        app, ["train", *where, "--init", str(calibrated_model_folder), "--steps", "1"]
    )
    assert run.exit_code == 0, run.output
    before, after = (
        QueriedSeparator.from_pretrained(folder)
        for folder in (calibrated_model_folder, tmp_path / "run" / "model")
    )
    assert after.config.quietest_db == -41.02  # 15 dB below an RMS of 0.05
    new = {"sha256": None, "quietest_db": None}
    assert after.config.model_copy(update=new) == before.config.model_copy(update=new)
    changed = [
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert any(changed)


@pytest.mark.parametrize("option", ["audio", "shards"])
def test_sounds_of_a_prepared_corpus_are_trained_on_like_those_of_a_folder(
    option: str, config: Path, runs: list[TrainConfig]
) -> None:
    folder, run_folder = config.parent / "sounds", config.parent / "run"
    place = folder if option == "audio" else config.parent / "corpus"
    if option == "shards":
        prepared = CliRunner().invoke(app, ["prepare", str(folder), "-o", str(place)])
        assert prepared.exit_code == 0, prepared.output
    where = [f"--{option}", str(place), "-o", str(run_folder)]
    run = CliRunner().invoke(app, ["train", *where, "--steps", "50"])
    assert run.exit_code == 0, run.output
    clips = read_corpus(runs[0]).training
    assert [round(clip.seconds * RATE) for clip in clips] == 4 * [RATE // 2]
    assert (runs[0].steps, runs[0].output) == (50, run_folder)


def test_files_that_training_cannot_read_are_named(config: Path) -> None:
    folder = config.parent / "sounds"
    (folder / "phone").mkdir()
    for name in ("phone/a.m4a", "phone/b.M4A", "c.mp4", "phone/._d.m4a", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "broken.WAV").write_bytes(b"")  # stops the run before its first step
    for arguments in (["--audio", str(folder), "-o", str(config.parent / "run")], [str(config)]):
        run = CliRunner().invoke(app, ["train", *arguments])
        assert run.exit_code == 1
        warning, others, error = run.stderr.splitlines()
        assert others == f"warning: {folder}: left out: 1 hidden"
        assert warning.startswith(f"warning: {folder}: 3 files are left out (.m4a, .mp4): convert")
        assert error.startswith(
            f"error: 1 sound cannot be used: {folder / 'broken.WAV'}: is empty (0 bytes)"
        )


def test_bad_sounds_are_skipped_and_the_run_resumes_without_them(config: Path) -> None:
    folder = config.parent / "sounds"
    write_wav(folder / "silent.wav", np.zeros((1, RATE), np.float32), RATE)
    (folder / "text.wav").write_text("no sound")
    run = CliRunner().invoke(app, ["train", str(config), "--skip-bad", "--steps", "1"])
    assert run.exit_code == 0, run.output
    assert run.stderr.startswith("warning: left out 2 sounds: ")
    checkpoint = (config.parent / "run" / "checkpoint.safetensors").read_bytes()
    run = CliRunner().invoke(app, ["train", str(config), "--steps", "1"])
    assert run.exit_code == 1
    (error,) = run.stderr.splitlines()
    assert error.startswith("error: 2 sounds cannot be used: ")
    (folder / "silent.wav").unlink()
    (folder / "text.wav").unlink()
    run = CliRunner().invoke(app, ["train", str(config), "--steps", "1"])
    assert run.exit_code == 0, run.output
    assert (config.parent / "run" / "checkpoint.safetensors").read_bytes() == checkpoint


def test_too_few_good_sounds_are_one_line(config: Path) -> None:
    for i in range(2):
        write_wav(config.parent / "sounds" / f"{i}.wav", np.zeros((1, RATE), np.float32), RATE)
    run = CliRunner().invoke(app, ["train", str(config), "--skip-bad"])
    assert run.exit_code == 1
    warning, error = run.stderr.splitlines()
    assert warning.startswith("warning: left out 2 sounds: ")
    assert error.startswith("error: mixtures of 3 sounds need 3 sounds")
    assert not (config.parent / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX processes")
@pytest.mark.parametrize("limit", [100, 3_000, 20_000])
def test_a_full_disk_is_one_line(limit: int, config: Path) -> None:
    """The config, the logs or the checkpoint cannot be written."""
    arguments = ["train", str(config), "steps=40", "checkpoint_every=100"]
    embedded = CliRunner().invoke(app, [*arguments, "--steps", "1", "-o", str(config.parent / "x")])
    assert embedded.exit_code == 0
    with file_size_limit(limit):
        run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1, run.output
    (error,) = [line for line in run.stderr.splitlines() if not line.startswith("step ")]
    assert error.startswith("error: ")
    assert "cannot be written" in error
    assert not list((config.parent / "run").rglob("*.partial"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_stop_leaves_no_process_and_no_file_behind(config: Path, command: list[str]) -> None:
    """SIGTERM reaches the processes that render mixtures as well, as with ``timeout``."""
    arguments = ["train", str(config), "steps=100000", "checkpoint_every=1", "num_workers=2"]
    folder = config.parent / "run"
    with subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        while not (folder / "checkpoint.previous.safetensors").exists() and run.poll() is None:
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGTERM)
        _, stderr = run.communicate(timeout=120)
    assert run.returncode == 143, stderr
    assert stderr == (
        f"terminated: repeat the command to resume from the last checkpoint in {folder}\n"
    )
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "checkpoint.previous.safetensors", "checkpoint.safetensors", "config.json", "curve.csv",
        "tensorboard",
    }  # fmt: skip


def test_a_folder_may_be_named_like_a_date(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    run = CliRunner().invoke(app, ["train", str(config), "-o", "2024-07-30", "--steps", "1"])
    assert run.exit_code == 0, run.output
    assert (config.parent / "2024-07-30" / "model" / "config.json").is_file()


def curve_of(run: Path) -> list[Row]:
    """The rows so far; empty before the first session has begun."""
    return read_curve(run) if run.exists() else []


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_saves_the_last_step_and_names_the_way_to_resume(
    config: Path, command: list[str]
) -> None:
    arguments = ["train", str(config), "steps=100000", "checkpoint_every=100000"]
    folder = config.parent / "run"
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as run:
        while not curve_of(folder) and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=120)
    assert run.returncode == 130
    assert stderr == (
        f"interrupted: repeat the command to resume from the last checkpoint in {folder}\n"
    )
    assert saved_step_of(folder / "checkpoint.safetensors") >= curve_of(folder)[-1]["step"] >= 20


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_resume_after_kill_9_is_the_run_that_was_never_killed(
    config: Path, command: list[str]
) -> None:
    arguments = ["train", str(config), "steps=30", "checkpoint_every=4"]
    whole, killed = (config.parent / name for name in ("whole", "killed"))
    subprocess.run([*command, *arguments, "-o", str(whole)], check=True, stdout=subprocess.DEVNULL)
    for rows in (3, 11):
        with subprocess.Popen([*command, *arguments, "-o", str(killed)]) as run:
            while len(curve_of(killed)) < rows and run.poll() is None:
                time.sleep(0.001)
            run.kill()
        assert run.returncode == -signal.SIGKILL
    subprocess.run([*command, *arguments, "-o", str(killed)], check=True, stdout=subprocess.DEVNULL)
    for name in ("curve.csv", "checkpoint.safetensors", "model/model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_model_is_on_stdout_and_the_progress_on_stderr(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("singleout.train.progress.SECONDS_PER_LINE", 0.0)
    run = CliRunner().invoke(app, ["train", str(config)])
    assert run.exit_code == 0, run.output
    assert run.stdout == f"model: {config.parent / 'run' / 'model'}\n"
    lines = [line for line in run.stderr.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1 of 2", "step 2 of 2"]
    assert all(re.search(r" steps/s, .*loss -?\d", line) for line in lines)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Configs of the runs that the command starts; nothing is trained."""
    started: list[TrainConfig] = []

    def record(settings: TrainConfig) -> Path:
        started.append(settings)
        return settings.output / "model"

    monkeypatch.setattr("singleout.train.run.train", record)
    return started


def test_init_may_be_the_packaged_model(config: Path, runs: list[TrainConfig]) -> None:
    sounds, output = config.parent / "sounds", config.parent / "run"
    for arguments in ([str(config)], ["--audio", str(sounds), "-o", str(output)]):
        run = CliRunner().invoke(app, ["train", *arguments, "--init", "builtin"])
        assert run.exit_code == 0, run.output
    assert [settings.init for settings in runs] == [Path("builtin")] * 2  # on every machine
    assert runs[1].model == read_config(resolve_model("builtin")).model_copy(
        update={"sha256": None}
    )


def test_init_may_be_a_model_on_a_hub(
    config: Path,
    runs: list[TrainConfig],
    debug_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = cache_model(config.parent / "hub", debug_model_folder, monkeypatch)
    run = CliRunner().invoke(app, ["train", str(config), "--init", "someone/debug"])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, ["train", str(config), "init=someone/debug"])
    assert run.exit_code == 0, run.output
    assert runs[0].init == runs[1].init == Path("someone/debug")
    assert resolve_model("someone/debug") == snapshot


def test_init_may_be_a_folder_called_builtin(
    config: Path,
    runs: list[TrainConfig],
    debug_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(debug_model_folder, config.parent / "builtin")
    monkeypatch.chdir(config.parent)
    for arguments in (["--init", "./builtin"], ["init=./builtin"]):
        run = CliRunner().invoke(app, ["train", str(config), *arguments])
        assert run.exit_code == 0, run.output
    assert [settings.init for settings in runs] == [folder, folder]


def test_without_init_a_new_model_is_trained(config: Path, runs: list[TrainConfig]) -> None:
    where = ["--audio", str(config.parent / "sounds"), "-o", str(config.parent / "run")]
    run = CliRunner().invoke(app, ["train", *where, "--steps", "50"])
    assert run.exit_code == 0, run.output
    assert (runs[0].init, runs[0].steps, runs[0].warmup_steps) == (None, 50, 5)
    assert runs[0].model.separator.type == "conditioned_unet"
    assert [step.type for step in runs[0].model.manipulation.steps] == ["neighbours", "dropout"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to train on"),
        (["{config}", "--audio", "."], "only one of them"),
        (["--shards", ".", "--audio", "."], "only one of them"),
        (["--audio", "."], "--audio needs --output"),
        (["--shards", "."], "--shards needs --output"),
        (["--shards", "nowhere", "-o", "{config}.run"], "nowhere: "),
        (["{config}", "stpes=3"], "unknown key 'stpes'"),
        (["{config}", "steps"], "write it as key.subkey=value"),
        (["{config}", "steps=-1"], "'steps'"),
        (["{config}", "audio=nowhere"], "nowhere: not a folder"),
        (["{config}", "--init", "nowhere"], "model 'nowhere' does not exist"),
        (["{config}x"], "cannot be read as a config"),
        (["{config}", "-o", "{config}"], "is not a folder"),
        (["{config}", "-o", "{config}/run"], "Not a directory"),
    ],
)
def test_bad_input_is_one_line(config: Path, arguments: list[str], message: str) -> None:
    command = ["train", *(argument.format(config=config) for argument in arguments)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1, run.output
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (config.parent / "run" / "model").exists()
