"""Runs that are killed or stopped end with the same curve and weights as runs that were not."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from singleout.data.dataset import QueryAudioConfig
from singleout.errors import ModelError, OutputError, TrainingError
from singleout.manipulations import Dropout, MeanShift, Neighbours, Noise
from singleout.manipulations.audio import Mixup, SpecAugment
from singleout.storage.models import resolve_model
from singleout.storage.tensors import read_safetensors, write_safetensors
from singleout.train import loop
from singleout.train.checkpoint import FILE_NAME, PREVIOUS_NAME
from singleout.train.config import TrainConfig, ValidationConfig
from singleout.train.curve import FILE_NAME as CURVE_NAME
from singleout.train.curve import read_curve
from singleout.train.launching import launched
from singleout.train.lock import LOCK_NAME
from singleout.train.module import TrainingModule
from singleout.train.run import equal_keys, run_key, train
from tests.cli.commands import file_size_limit
from tests.train.kills import (
    Moment,
    between_names,
    ends_with,
    in_checkpoint,
    in_loading,
    in_step,
    in_validation,
    refusing_notes,
    sending,
    stopped_in_second,
    while_saving,
)
from tests.train.runs import SHORT, rows_of, saved_step_of, with_steps, write_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kills and signals of POSIX processes"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

STEPS, CHECKPOINT_EVERY, VALIDATE_EVERY = 10, 3, 4
CHAIN: tuple[Moment, ...] = (
    in_step(1),  # without a checkpoint
    in_checkpoint(1),  # that of step 3
    in_validation(4),  # goes on from step 3
    in_step(5),
    between_names(1),  # the checkpoint of step 6
    in_validation(8),
    in_checkpoint(1),  # that of step 9
    in_step(9),
    while_saving,  # from the checkpoint of step 10 on, only the model is missing
)
"""Kills of one run, each in a session that resumes the one before."""


@pytest.fixture(scope="module")
def captioned_run(
    captioned: Path, configure: Callable[..., TrainConfig]
) -> Callable[..., TrainConfig]:
    """A run of ten steps with captions and validation, with changes."""

    def make(output: Path, **changes: Any) -> TrainConfig:
        validation = ValidationConfig(num_mixtures=2, every_steps=VALIDATE_EVERY, mixtures=SHORT)
        values = {
            "manifest": captioned,
            "audio": None,
            "steps": STEPS,
            "checkpoint_every": CHECKPOINT_EVERY,
            "validation": validation,
        }
        return configure(output, **(values | changes))

    return make


def assert_same_run(one: TrainConfig, other: TrainConfig) -> None:
    """Two finished runs have the same model, checkpoint and curve, to the byte."""
    for name in (FILE_NAME, "model/model.safetensors", "model/config.json", CURVE_NAME):
        assert (one.output / name).read_bytes() == (other.output / name).read_bytes(), name


def losses_of(config: TrainConfig) -> list[float]:
    """One loss for each step that a run has taken."""
    return [row["loss"] for row in read_curve(config.output) if "loss" in row]


REGIMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one worker": {"num_workers": 1},
    "accumulated parts": {"batch_size": 4, "accumulate": 2},
    "muon": {"optimizer": "muon", "ema_decay": 0.5},
    "text and query mixup": {"p_text": 0.3, "query_mixup": True},
    "augmented queries": {
        "query_audio": QueryAudioConfig(
            source="same_class", mixup=Mixup(), spec_augment=SpecAugment()
        ),
        "p_text": 0.3,
    },
}


@pytest.mark.parametrize("regime", REGIMES)
def test_resume_after_kills_is_the_run_that_was_never_killed(
    regime: str, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    runs = [captioned_run(tmp_path / name, **REGIMES[regime]) for name in ("whole", "killed")]
    if regime != "plain":
        chain = MeanShift(), Neighbours(sounds=2), Noise(), Dropout(p=0.2)
        runs = [with_steps(run, *chain) for run in runs]
    whole, killed = runs
    assert ends_with(whole) == 0
    for moment in CHAIN:
        assert ends_with(killed, moment) == -signal.SIGKILL
    assert saved_step_of(killed.output / FILE_NAME) == STEPS
    assert not (killed.output / "model").exists()
    assert ends_with(killed) == 0
    assert_same_run(killed, whole)
    steps = [(row["step"], "loss" in row) for row in read_curve(whole.output)]
    assert steps == sorted(
        [*((step, True) for step in range(1, STEPS + 1)), (4, False), (8, False)],
        key=lambda row: (row[0], not row[1]),
    )
    assert not list(killed.output.rglob("*.partial"))


@pytest.fixture(scope="module")
def whole(
    captioned_run: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """A finished run that was never stopped."""
    config = captioned_run(tmp_path_factory.mktemp("whole"))
    assert ends_with(config) == 0
    return config


@pytest.mark.parametrize(
    ("moment", "steps", "code"),
    [
        (in_step(4, sending("SIGINT")), 5, 130),
        (in_step(4, sending("SIGTERM")), 5, -signal.SIGTERM),
        (in_step(4, sending("SIGHUP")), 5, -signal.SIGHUP),
        (in_step(4, sending("SIGUSR1")), 5, -signal.SIGTERM),
        (in_step(STEPS - 1, sending("SIGTERM")), STEPS, -signal.SIGTERM),
        (in_validation(4, sending("SIGTERM")), 4, -signal.SIGTERM),
        (in_step(4, sending("SIGTERM", "SIGTERM")), 3, -signal.SIGTERM),
        (in_step(4, sending("SIGINT", "SIGINT")), 3, 130),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_resume_after_a_signal_goes_on_from_the_step_that_ended(
    moment: Moment,
    steps: int,
    code: int,
    whole: TrainConfig,
    captioned_run: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    """A second signal does not wait for the step."""
    config = captioned_run(tmp_path)
    assert ends_with(config, moment) == code
    assert saved_step_of(tmp_path / FILE_NAME) == steps
    assert ends_with(config) == 0
    assert_same_run(config, whole)


def test_resume_after_a_signal_between_the_parts_of_a_step(
    captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """The other parts of the step come first."""
    changes = {"batch_size": 4, "accumulate": 4, "steps": 5}
    runs = [captioned_run(tmp_path / name, **changes) for name in ("whole", "stopped")]
    assert ends_with(runs[0]) == 0
    assert ends_with(runs[1], in_loading(4 * 4 + 2, sending("SIGTERM"))) == -signal.SIGTERM
    assert saved_step_of(runs[1].output / FILE_NAME) == len(losses_of(runs[1])) > 3
    assert ends_with(runs[1]) == 0
    assert_same_run(*runs)


def test_resume_of_two_processes_after_a_signal_to_one_of_them(
    captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Both stop after the same step."""
    changes = {"steps": 4, "checkpoint_every": 2, "devices": 2, "device": "cpu"}
    whole, stopped = (captioned_run(tmp_path / name, **changes) for name in ("whole", "stopped"))
    train(whole)
    with pytest.raises(TrainingError, match="ended without a message"):
        launched(stopped_in_second, 2, stopped)
    assert saved_step_of(stopped.output / FILE_NAME) == 3
    train(stopped)
    assert_same_run(stopped, whole)


@pytest.mark.parametrize("number", [1, 2 * 5])
def test_resume_after_a_signal_while_a_mixture_is_rendered(
    number: int, whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """No step runs, so that the checkpoint does not wait."""
    config = captioned_run(tmp_path)
    assert ends_with(config, in_loading(number, sending("SIGTERM"))) == -signal.SIGTERM
    taken = len(losses_of(config))
    if taken:
        assert saved_step_of(tmp_path / FILE_NAME) == taken > CHECKPOINT_EVERY
    assert bool(taken) == (number > 1)
    assert ends_with(config) == 0
    assert_same_run(config, whole)


def test_a_signal_whose_handler_goes_on_does_not_end_the_run(
    whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    def only_note() -> None:
        signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "noted").touch())

    def moment() -> None:
        only_note()
        in_step(4, sending("SIGTERM"))()

    config = captioned_run(tmp_path)
    assert ends_with(config, moment) == 0
    assert (tmp_path / "noted").exists()
    assert_same_run(config, whole)


def test_resume_after_the_last_step_only_scores_the_model(
    captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    runs = [captioned_run(tmp_path / name, steps=VALIDATE_EVERY) for name in ("whole", "stopped")]
    assert ends_with(runs[0]) == 0
    assert ends_with(runs[1], in_validation(VALIDATE_EVERY)) == -signal.SIGKILL
    assert ends_with(runs[1], lambda: delattr(TrainingModule, "training_step")) == 0
    assert_same_run(*runs)


def test_resume_drops_what_a_killed_session_wrote_after_its_checkpoint(
    whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = captioned_run(tmp_path)
    assert ends_with(config, in_step(5)) == -signal.SIGKILL
    curve = tmp_path / CURVE_NAME
    lines = curve.read_text().splitlines(keepends=True)
    assert [line.split(",")[0] for line in lines] == ["step", *"1234", "4", "5"]
    curve.write_text("".join(lines) + "6,-1.2")  # a row that the kill cut
    assert ends_with(config) == 0
    assert_same_run(config, whole)


@pytest.mark.parametrize(
    "text", ["", "step", "\x00\x00\n\x00", "step,loss\n" + "1" * 200_000 + "\n1,\n2\n3,x\n"]
)
def test_a_damaged_curve_has_no_rows_that_are_wrong(text: str, tmp_path: Path) -> None:
    (tmp_path / CURVE_NAME).write_text(text)
    assert read_curve(tmp_path) in ([], [{"step": 1}])


@pytest.mark.parametrize(
    ("text", "steps", "warning"),
    [
        ("step,loss\n1,-1.0\n2,x\n3,-2.0\n", [1, 3], "1 of its 3 lines are damaged"),
        ("stdp,loss\n1,-1.0\n2,-2.0\n", [], "2 of its 2 lines are damaged"),
        ("step,loss\n1,-1.0\n2,-2", [1], ""),
    ],
)
def test_damaged_rows_of_a_curve_give_a_warning(
    text: str, steps: list[int], warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A last row that a kill cut is no damage."""
    (tmp_path / CURVE_NAME).write_text(text)
    assert [row["step"] for row in read_curve(tmp_path)] == steps
    assert warning in caplog.text
    assert bool(caplog.text) == bool(warning)


def test_resume_without_a_curve_goes_on(
    whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = captioned_run(tmp_path)
    assert ends_with(config, in_step(7)) == -signal.SIGKILL
    (tmp_path / CURVE_NAME).unlink()
    assert ends_with(config) == 0
    assert read_curve(tmp_path) == [row for row in read_curve(whole.output) if row["step"] > 6]


def test_resume_continues_the_logs_of_an_earlier_version(
    whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """They had a file for each session, and the step of a loss counted the steps before."""
    config = captioned_run(tmp_path)
    assert ends_with(config, in_step(7)) == -signal.SIGKILL
    rows = read_curve(tmp_path)
    (tmp_path / CURVE_NAME).unlink()
    for session, steps in enumerate((range(1, 6), range(4, 8))):
        log = tmp_path / "logs" / f"version_{session}" / "metrics.csv"
        log.parent.mkdir(parents=True)
        lines = ["audio_si_sdri,audio_improved,text_si_sdri,text_improved,learning_rate,loss,step"]
        for row in rows:
            if row["step"] in steps:
                old = {**row, "step": int(row["step"]) - ("loss" in row)}
                lines.append(",".join(str(old.get(name, "")) for name in lines[0].split(",")))
        log.write_text("\r\n".join(lines) + "\r\n")
    assert read_curve(tmp_path) == rows
    assert ends_with(config) == 0
    assert_same_run(config, whole)


@pytest.fixture
def stopped(captioned_run: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:
    """A run that was killed in its sixth step; its last checkpoint is that of step 3."""
    config = captioned_run(tmp_path / "stopped")
    assert ends_with(config, in_step(5)) == -signal.SIGKILL
    return config


@contextmanager
def metadata_of(config: TrainConfig) -> Iterator[dict[str, str]]:
    """The metadata of a checkpoint, to be changed in the context."""
    path = config.output / FILE_NAME
    tensors, metadata = read_safetensors(path)
    yield metadata
    write_safetensors(tensors, path, metadata)


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update=changes)


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents by path, without the lock of a killed session."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME]
    return {str(path): path.read_bytes() for path in paths}


def test_resume_in_another_precision_is_refused_with_the_way_out(stopped: TrainConfig) -> None:
    """A run began with ``auto`` on a machine with bfloat16, and goes on where that is float32."""
    before = files_of(stopped.output)
    with pytest.raises(
        ModelError,
        match=r"was started in float32, and would go on in bfloat16: set precision=float32; or",
    ) as caught:
        train(changed(stopped, precision="bfloat16"))
    assert "\n" not in str(caught.value)
    assert files_of(stopped.output) == before
    with metadata_of(stopped) as metadata:
        metadata["precision"] = "bfloat16"
    with pytest.raises(ModelError, match="set precision=bfloat16"):
        train(stopped)


def without_bfloat16() -> None:
    """As on a processor without instructions for bfloat16."""
    setattr(loop, "has_fast_bfloat16", lambda: False)  # noqa: B010


@pytest.mark.parametrize(("first", "then"), [("auto", "float32"), ("float32", "auto")])
def test_resume_in_the_precision_that_auto_stands_for(
    first: Any, then: Any, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """The way out of the message works: only the name of the precision differs."""
    config = captioned_run(tmp_path, precision=first, steps=4)
    assert ends_with(config, without_bfloat16, in_step(3)) == -signal.SIGKILL
    assert ends_with(changed(config, precision=then), without_bfloat16) == 0
    assert saved_step_of(tmp_path / FILE_NAME) == 4


def test_resume_of_a_checkpoint_without_a_precision(
    stopped: TrainConfig, whole: TrainConfig
) -> None:
    """Earlier versions did not record it."""
    with metadata_of(stopped) as metadata:
        del metadata["precision"], metadata["devices"]
    assert ends_with(stopped) == 0
    assert_same_run(stopped, whole)


def test_resume_of_a_checkpoint_without_a_precision_keeps_the_name_of_it(
    stopped: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``auto`` stood for is unknown."""
    monkeypatch.setattr("singleout.train.loop.has_fast_bfloat16", lambda: False)
    with metadata_of(stopped) as metadata:
        del metadata["precision"]
    with pytest.raises(ModelError, match=r'another config \(precision: "float32", now "auto"\)'):
        train(changed(stopped, precision="auto"))


def test_resume_on_other_devices_is_one_note(
    stopped: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with metadata_of(stopped) as metadata:
        metadata["devices"] = "4 processes on cuda"
    with caplog.at_level(logging.WARNING, "singleout"):
        train(stopped)
    assert len(caplog.messages) == 1
    assert "goes on with 1 process on cpu (before: 4 processes on cuda)" in caplog.messages[0]
    train(stopped)
    assert len(caplog.messages) == 1


def test_resume_with_other_parts_is_one_note(
    stopped: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    train(changed(stopped, accumulate=2))
    (note,) = caplog.messages
    assert "goes on with 1 process on cpu, 2 parts (before: 1 process on cpu)" in note


def test_resume_with_other_workers_is_the_same_run(
    stopped: TrainConfig, whole: TrainConfig
) -> None:
    assert ends_with(changed(stopped, num_workers=2), refusing_notes) == 0
    assert_same_run(stopped, whole)


def test_resume_with_an_edited_manifest_is_refused(
    captioned: Path, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    manifest = tmp_path / "sounds" / captioned.name
    shutil.copytree(captioned.parent, manifest.parent)
    config = captioned_run(tmp_path / "run", manifest=manifest, steps=4)
    rows = rows_of(manifest)

    def edit_and_stop() -> None:
        write_rows(manifest, [{**rows[0], "caption": "another"}, *rows[1:]])
        sending("SIGTERM")()

    assert ends_with(config, in_step(3, edit_and_stop)) < 0
    assert saved_step_of(config.output / FILE_NAME) == 4  # what was planned does not change
    with pytest.raises(ModelError, match="a different set of sounds: put back what was") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    write_rows(manifest, rows)
    train(config)


def test_resume_of_a_run_whose_init_was_a_path(
    stopped: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Earlier versions put the path of the packaged model into the key, wherever it was."""
    encoder: Any = type("Encoder", (), {"fingerprint": "0123456789abcdef"})
    run = changed(stopped, init=Path("builtin"))
    for path in (
        resolve_model("builtin"),
        Path("/opt/old/site-packages/singleout/builtin/extractor"),
    ):
        (stopped.output / "config.json").write_text(changed(run, init=path).model_dump_json())
        assert run_key(changed(run, init=path), encoder) in equal_keys(run, encoder, "float32")
    other = changed(run, init=tmp_path / "model")
    assert run_key(other, encoder) not in equal_keys(run, encoder, "float32")


def test_resume_after_a_full_disk_loses_nothing(stopped: TrainConfig, whole: TrainConfig) -> None:
    size = (stopped.output / FILE_NAME).stat().st_size
    with file_size_limit(size // 2), pytest.raises(OutputError, match="make room") as caught:
        train(stopped)
    assert str(caught.value).startswith(f"{stopped.output / FILE_NAME}: cannot be written")
    assert "\n" not in str(caught.value)
    assert saved_step_of(stopped.output / FILE_NAME) == 3
    assert ends_with(stopped) == 0
    assert_same_run(stopped, whole)


def test_resume_from_the_checkpoint_before_a_damaged_one(
    whole: TrainConfig, captioned_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = captioned_run(tmp_path)
    assert ends_with(config, in_step(7)) == -signal.SIGKILL
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert ends_with(config) == 0
    assert_same_run(config, whole)
    assert saved_step_of(tmp_path / PREVIOUS_NAME) == 9
