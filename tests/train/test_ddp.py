"""Two gloo processes on the CPU, compared with one process that has the whole batch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from singleout.errors import AudioError, ConfigError, TrainingError
from singleout.manipulations import Chain, Dropout, Noise
from singleout.model import EncoderReference, ModelConfig
from singleout.separators import ConditionedUNetConfig, LocoformerConfig
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig, ValidationConfig
from singleout.train.curve import read_curve
from singleout.train.launching import launched
from singleout.train.places import Place, check_fit, launched_place, needs_launch
from singleout.train.processes import Processes, joined
from singleout.train.run import run_key, train
from tests.train.ddp import failing, recorded_run
from tests.train.runs import MIXTURES, SHORT, saved_step_of

SEPARATOR = ConditionedUNetConfig(
    num_fft=256, hop=128, fold=4, channels=(4, 4), time_strides=(2,), bottleneck=8,
    dilations=(1,), query_dim=8,
)  # fmt: skip
WITHOUT_BATCH_NORM = LocoformerConfig(
    num_fft=512, hop=256, fold=16, channels=8, hidden=8, heads=2, num_blocks=2, window=8,
    query_dim=8,
)  # fmt: skip
BATCH, STEPS = 4, 4


@pytest.fixture(scope="module")
def config(
    captioned: Path, debug_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainConfig]:
    """A tiny run with dropout, captions and validation, in a new folder."""

    def make(**changes: Any) -> TrainConfig:
        values = TrainConfig(
            manifest=captioned,
            output=tmp_path_factory.mktemp("run"),
            model=ModelConfig(
                separator=SEPARATOR,
                manipulation=Chain(steps=(Noise(), Dropout(p=0.5))),
                encoder=EncoderReference(name=str(debug_encoder_folder)),
            ),
            mixtures=MIXTURES,
            validation=ValidationConfig(num_mixtures=5, every_steps=2, mixtures=SHORT),
            p_text=0.4,
            steps=STEPS,
            batch_size=BATCH,
            warmup_steps=1,
            precision="float32",
            device="cpu",
            checkpoint_every=2,
            num_workers=0,
        )
        return values.model_copy(update=changes)

    return make


Runs = dict[str, tuple[TrainConfig, Path, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def runs(config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same run in one process and in two, each of which has another one to render mixtures:
    its config, and what every process recorded."""
    result: Runs = {}
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("SINGLEOUT_CACHE", str(cache))
        for name, number in (("two", 2), ("one", 1)):
            folder, values = tmp_path_factory.mktemp(name), config(num_workers=number - 1)
            if number == 1:
                recorded_run(None, values, folder)
            else:
                launched(recorded_run, number, values, folder)
            records = [
                torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(number)
            ]
            result[name] = values, folder, records
    return result


@pytest.mark.slow
def test_ddp_gradients_equal_one_process(runs: Runs) -> None:
    """Of the first step. The separator has batch norms over the whole batch."""
    (expected,) = (record["gradients"] for record in runs["one"][2])
    for record in runs["two"][2]:
        assert record["gradients"].keys() == expected.keys()
        for name, gradient in record["gradients"].items():
            torch.testing.assert_close(gradient, expected[name], atol=2e-4, rtol=2e-3, msg=name)
        assert any(gradient.abs().max() > 1e-2 for gradient in expected.values())
    (statistics,) = (record["statistics"] for record in runs["one"][2])
    for record in runs["two"][2]:
        for name, values in record["statistics"].items():
            torch.testing.assert_close(values, statistics[name], atol=1e-5, rtol=1e-4, msg=name)
    assert len(statistics) >= 10


@pytest.mark.slow
def test_ddp_mixtures_are_shared_and_none_repeats(runs: Runs) -> None:
    (whole,) = (record["indices"] for record in runs["one"][2])
    assert whole == [[*range(step * BATCH, (step + 1) * BATCH)] for step in range(STEPS)]
    first, second = (record["indices"] for record in runs["two"][2])
    assert [a + b for a, b in zip(first, second, strict=True)] == whole


@pytest.mark.slow
def test_ddp_dropout_differs_between_processes_and_is_that_of_one_process(runs: Runs) -> None:
    (whole,) = (record["conditions"] for record in runs["one"][2])
    parts = zip(*(record["conditions"] for record in runs["two"][2]), strict=True)
    for expected, (first, second) in zip(whole, parts, strict=True):
        assert not torch.equal(first == 0, second == 0)
        torch.testing.assert_close(torch.cat([first, second], 1), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ddp_the_curve_is_that_of_one_process(runs: Runs) -> None:
    """Losses are means over the whole batch, and scores means over all validation queries."""
    expected, curve = (read_curve(runs[name][0].output) for name in ("one", "two"))
    assert len(curve) == STEPS + 2
    for row, row_of_one in zip(curve, expected, strict=True):
        assert row.keys() == row_of_one.keys()
        assert row == pytest.approx(row_of_one, abs=0.02, rel=0.02)
    assert curve[0]["loss"] == pytest.approx(expected[0]["loss"], abs=1e-4)


@pytest.mark.slow
def test_ddp_validation_is_split_and_calibration_runs_once(runs: Runs) -> None:
    records = runs["two"][2]
    scored = [index for record in records for batch in record["validated"] for index in batch]
    assert sorted(scored) == sorted([*range(5)] * 2)
    assert all(record["validated"] for record in records)
    assert [record["calibrations"] for record in records] == [1, 0]


@pytest.mark.slow
def test_ddp_one_validation_mixture_has_the_scores_of_one_process(
    config: Callable[..., TrainConfig],
) -> None:
    """There are fewer mixtures than processes."""
    curves = []
    for devices in (1, 2):
        few = ValidationConfig(num_mixtures=1, every_steps=1, mixtures=SHORT)
        values = config(
            validation=few, steps=1, warmup_steps=0, learning_rate=1e-6, devices=devices
        )
        train(values)
        curves.append(read_curve(values.output))
    assert [len(curve) for curve in curves] == [2, 2]
    assert curves[1][1] == pytest.approx(curves[0][1], abs=1e-2)
    assert "text_si_sdri" in curves[1][1]


@pytest.mark.slow
def test_ddp_the_first_process_alone_writes_files(runs: Runs) -> None:
    first, second = (record["written"] for record in runs["two"][2])
    assert {"checkpoint.safetensors", "curve.csv"} <= set(first)
    assert not second
    config = runs["two"][0]
    names = {path.name for path in config.output.iterdir()}
    assert names == {path.name for path in runs["one"][0].output.iterdir()}
    assert len([*(config.output / "tensorboard").iterdir()]) == 1


@pytest.mark.slow
def test_ddp_a_run_goes_on_in_another_number_of_processes(
    runs: Runs, config: Callable[..., TrainConfig], caplog: pytest.LogCaptureFixture
) -> None:
    """Its mixtures and its losses are those of the run of two processes, apart from rounding."""
    values = config()
    checkpoint = runs["two"][1] / FILE_NAME
    assert saved_step_of(checkpoint) == 2
    (values.output / FILE_NAME).write_bytes(checkpoint.read_bytes())
    train(values)
    assert "1 process on cpu (before: 2 processes on cpu)" in caplog.text
    expected = read_curve(runs["two"][0].output)[-3:]
    for row, before in zip(read_curve(values.output)[-3:], expected, strict=True):
        assert row == pytest.approx(before, abs=0.02, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("error", AudioError, "^rain.wav: cannot be read$"),
        ("killed", TrainingError, "process 1 of the run ended without a message .SIGKILL."),
    ],
)
def test_ddp_a_failure_ends_all_processes_with_its_message(
    how: str,
    kind: type[Exception],
    message: str,
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """While the other process waits. The process that starts them reports it."""
    with pytest.raises(kind, match=message):
        launched(failing, 2, config(), how, tmp_path / "ready")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_ddp_a_signal_ends_all_processes(
    name: str,
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupt() -> None:
        while not (tmp_path / "ready").exists() and not is_over.wait(0.05):
            pass
        os.kill(os.getpid(), getattr(signal, name))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    is_over, thread = threading.Event(), threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            launched(failing, 2, config(), "stopped", tmp_path / "ready")
    finally:
        is_over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_have_the_gradients_of_the_whole_batch(
    accumulate: int,
    config: Callable[..., TrainConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With a separator without batch norms, whose statistics are those of a part."""
    records, curves = [], []
    for parts in (1, accumulate):
        values = config(accumulate=parts)
        model = values.model.model_copy(update={"separator": WITHOUT_BATCH_NORM})
        values = values.model_copy(update={"model": model})
        folder = tmp_path_factory.mktemp("record")
        recorded_run(None, values, folder)
        records.append(torch.load(folder / "rank-0.pt", weights_only=True))
        curves.append(read_curve(values.output))
    for name, gradient in records[1]["gradients"].items():
        expected = records[0]["gradients"][name]
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-2, msg=name)
    assert len(curves[1]) == len(curves[0]) == STEPS + 2  # one row a step
    for row, expected in zip(*curves, strict=True):
        assert row == pytest.approx(expected, abs=0.02, rel=0.02)
    size = BATCH // accumulate
    assert [len(part) for part in records[1]["indices"]] == [size] * (accumulate * STEPS)
    assert records[1]["calibrations"] == 1


# Who this process is, and what the config must fit.


def test_a_launcher_tells_a_process_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_place() is None
    torchrun = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    with monkeypatch.context() as patch:
        for name, value in torchrun.items():
            patch.setenv(name, value)
        place = launched_place()
    assert place == Place(rank=5, size=6, local_rank=1, local_size=2)
    assert place is not None
    assert (place.num_nodes, place.is_first) == (3, False)


def test_slurm_tells_a_process_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:  # what is translated is forgotten after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    slurm = {
        "NTASKS": "4", "PROCID": "3", "LOCALID": "1", "NODEID": "1", "NNODES": "2",
        "NODELIST": "gpu[07-08]", "JOB_ID": "123456", "NTASKS_PER_NODE": "2",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched_place() == Place(rank=3, size=4, local_rank=1, local_size=2)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "18456")
    for name in (*names, "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=r"^SLURM starts 4 tasks, .* --ntasks-per-node"):
        launched_place()


@pytest.mark.parametrize(
    "values",
    [
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "none", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^the variables of the launcher"):
        launched_place()


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({}, Place(size=3, local_size=3), r"^batch_size: 4 .* a multiple of 3, such as 3$"),
        ({"accumulate": 3}, Place(), r"^batch_size: 4 .* with 3 accumulated parts each"),
        ({"devices": 4}, Place(size=2, local_size=2), r"^devices: 4, .* 2 processes on each of 1"),
        ({"num_nodes": 2}, Place(size=2, local_size=2), r"^num_nodes: 2, .*leave 'num_nodes' out"),
    ],
)
def test_a_config_must_fit_the_processes(
    changes: dict[str, Any],
    place: Place,
    message: str,
    config: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fit(config(**changes), place, "cpu")


def test_processes_that_no_launcher_started(config: Callable[..., TrainConfig]) -> None:
    assert needs_launch(config()) == needs_launch(config(devices=1)) == 1
    assert needs_launch(config(devices=3, num_nodes=1)) == 3
    with pytest.raises(ConfigError, match=r"^num_nodes: 2, .* a launcher, such as torchrun"):
        needs_launch(config(devices=3, num_nodes=2))
    with pytest.raises(ConfigError, match=r"^batch_size: "):
        train(config(devices=3))  # before a process is started


def test_a_run_of_one_process_needs_no_group(config: Callable[..., TrainConfig]) -> None:
    with joined(config(), "cpu") as processes:
        assert processes == Processes()
    assert not torch.distributed.is_initialized()
    assert torch.equal(processes.mean(torch.ones(2)), torch.ones(2))


def test_processes_are_not_part_of_a_runs_key(
    config: Callable[..., TrainConfig], debug_encoder: Any
) -> None:
    values = config()
    moved = values.model_copy(update={"devices": 2, "num_nodes": 3, "accumulate": 4})
    assert run_key(moved, debug_encoder) == run_key(values, debug_encoder)
