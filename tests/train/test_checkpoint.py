"""Checkpoints: resumed, refused, corrupt."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch.optim import Adam

from singleout.encoders import BuiltinEncoder, load_encoder
from singleout.errors import ModelError, OutputError
from singleout.manipulations import Neighbours, Pca
from singleout.model import EncoderReference, QueriedSeparator
from singleout.storage.tensors import read_safetensors, write_safetensors
from singleout.train.checkpoint import FILE_NAME, PREVIOUS_NAME, restore, save, saved_step
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.train.run import train
from tests.cli.commands import file_size_limit
from tests.train.runs import (
    MIXTURES,
    assert_same,
    saved_step_of,
    tensors_below,
    train_and_copy,
    with_steps,
)


def test_a_resumed_run_ends_like_an_uninterrupted_run(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole, stopped = trained
    output = tmp_path / "resumed"
    shutil.copytree(stopped, output)
    before = load_file(output / FILE_NAME)
    train(configure(output, num_workers=0))
    assert_same(tensors_below(output), tensors_below(whole.output))
    assert_same(load_file(output / FILE_NAME), load_file(whole.output / FILE_NAME))
    after = load_file(output / FILE_NAME)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_resumed_run_with_muon_ends_like_an_uninterrupted_run(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = configure(tmp_path / "whole", optimizer="muon")
    (tmp_path / "resumed").mkdir()
    train_and_copy(whole, tmp_path / "resumed")
    resumed = configure(tmp_path / "resumed", optimizer="muon")
    train(resumed)
    assert_same(load_file(resumed.output / FILE_NAME), load_file(whole.output / FILE_NAME))


def test_the_last_checkpoint_is_of_the_last_step(trained: tuple[TrainConfig, Path]) -> None:
    config, stopped = trained
    for path, step in ((stopped / FILE_NAME, 2), (config.output / FILE_NAME, config.steps)):
        assert saved_step_of(path) == step
        tensors = load_file(path)
        assert int(tensors["module.model.separator.out_norm.num_batches_tracked"]) == step
        assert int(tensors["module.averaged.n_averaged"]) == step
        assert int(tensors["optimizer.0.step"]) == step


def test_another_config_in_the_same_folder_is_refused(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig]
) -> None:
    config, _ = trained
    before = {
        path: path.read_bytes() for path in sorted(config.output.rglob("*")) if path.is_file()
    }
    with pytest.raises(ModelError, match="another config") as caught:
        train(configure(config.output, learning_rate=2e-3))
    assert "\n" not in str(caught.value)
    assert f"(learning_rate: {config.learning_rate}, now 0.002)" in str(caught.value)
    assert before == {
        path: path.read_bytes() for path in sorted(config.output.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 3, "clip_norm": 2.0, "seed": 5, "warmup_steps": 1},
            r"\(batch_size: 2, now 3; .*: .*; .*: .*; and 1 more\)",
        ),
        (
            {"mixtures": MIXTURES.model_copy(update={"segment_seconds": 0.5})},
            r"\(mixtures\.segment_seconds: [\d.]+, now 0\.5\)",
        ),
    ],
)
def test_the_error_names_at_most_three_keys_that_differ(
    changes: dict[str, Any],
    message: str,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ModelError, match=message):
        train(configure(trained[0].output, **changes))


@pytest.mark.parametrize("text", [None, "[1]", "{"])
def test_another_config_is_refused_without_the_config_of_the_run(
    text: str | None,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    (tmp_path / FILE_NAME).write_bytes((trained[1] / FILE_NAME).read_bytes())
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"another config \(.*config\.json cannot be read"):
        train(configure(tmp_path, learning_rate=2e-3))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_a_corrupt_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ModelError, match="corrupt or truncated weights") as caught:
        saved_step(tmp_path, "key")
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_one_line(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = (trained[1] / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="corrupt or truncated weights"):
        train(configure(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_no_checkpoint_is_step_zero(tmp_path: Path) -> None:
    assert saved_step(tmp_path, "key") == 0


def test_another_encoder_of_the_same_name_is_refused(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Otherwise a finished run would be saved again with the new encoder."""
    config = configure(tmp_path / "run", steps=1)
    folder = Path(config.model.encoder.name)
    moved = shutil.copytree(folder, tmp_path / "encoder")
    model = config.model.model_copy(update={"encoder": EncoderReference(name=str(moved))})
    config = config.model_copy(update={"model": model})
    train(config)
    before = (config.output / "model" / "config.json").read_bytes()
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = copy.deepcopy(debug_encoder)
        torch.nn.init.normal_(next(other.network.audio.parameters()))
    other.save_pretrained(moved)
    with pytest.raises(ModelError, match="was started with another query encoder") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert (config.output / "model" / "config.json").read_bytes() == before


def test_other_sounds_are_another_run(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    copies = shutil.copytree(sounds, tmp_path / "sounds")
    config = configure(tmp_path / "run", steps=1, audio=copies)
    train(config)
    shutil.copy(copies / "0.wav", copies / "new.wav")
    with pytest.raises(ModelError, match="was started with a different set of sounds"):
        train(config)
    (copies / "new.wav").unlink()
    train(config)


def test_checkpoints_of_earlier_versions_resume(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Their metadata have no sounds and no encoder, and they lack the learned manipulation."""
    config = with_steps(configure(tmp_path / "run", steps=1), Neighbours(sounds=2))
    weights = (train(config) / "model.safetensors").read_bytes()
    path = config.output / FILE_NAME
    with safetensors.safe_open(path, "pt") as file:
        old = {name: file.metadata()[name] for name in ("key", "step")}
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("manipulation.")}
    save_file(tensors, path, old)
    assert (train(config) / "model.safetensors").read_bytes() == weights


def test_a_resumed_run_keeps_what_its_manipulation_has_learned(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Axes that are learned again could have the opposite sign, unlike the weights."""
    config = with_steps(configure(tmp_path / "run", steps=1), Pca(k=3, centre="none"))
    train(config)
    path = config.output / FILE_NAME
    tensors, metadata = read_safetensors(path)
    names = [name for name in tensors if name.startswith("manipulation.")]
    assert names
    negated = {name: -tensor if name in names else tensor for name, tensor in tensors.items()}
    write_safetensors(negated, path, metadata)
    saved = load_file(train(config) / "model.safetensors")
    for name in names:
        torch.testing.assert_close(saved[name], -tensors[name])


def few_tensors() -> tuple[TrainingModule, Adam]:
    """A module without weights, and an optimiser with two numbers of state."""
    config = TrainConfig.model_validate(
        {"audio": "sounds", "output": "run", "model": {"separator": {"type": "identity"}}}
    )
    module = TrainingModule(QueriedSeparator(config.model, load_encoder()), config)
    return module, Adam([torch.nn.Parameter(torch.ones(2))])


def test_a_restored_state_lies_in_memory_as_its_weights_do(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Another order may round differently."""
    config = configure(tmp_path)

    def module_and_optimizer() -> tuple[TrainingModule, torch.optim.Optimizer]:
        model = QueriedSeparator(config.model, debug_encoder)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        module = TrainingModule(model, config)
        return module, module.configure_optimizers()

    module, optimizer = module_and_optimizer()
    for weight in module.model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    save(module, optimizer, tmp_path / FILE_NAME, {"key": "0123"})
    module, optimizer = module_and_optimizer()
    restore(module, optimizer, tmp_path / FILE_NAME)
    strides = {
        (weight.stride(), state["exp_avg"].stride()) for weight, state in optimizer.state.items()
    }
    assert all(one == other for one, other in strides)
    assert any(len(stride) == 4 and stride[1] == 1 for stride, _ in strides)


KEY = {"key": "0123", "encoder": "a", "sounds": "b"}
IDENTITY = {"encoder": "a", "sounds": "b"}


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> Path:
    """A folder with the checkpoint of step 2 and the one before, of step 1."""
    module, optimizer = few_tensors()
    for step in (1, 2):
        module.step_index = step
        save(module, optimizer, tmp_path / FILE_NAME, KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS_NAME, FILE_NAME]
    assert [saved_step_of(tmp_path / name) for name in (PREVIOUS_NAME, FILE_NAME)] == [1, 2]
    return tmp_path


def test_no_flipped_bit_of_a_checkpoint_is_taken(two_checkpoints: Path) -> None:
    """Every byte of the file, each with another bit."""
    path = two_checkpoints / FILE_NAME
    (two_checkpoints / PREVIOUS_NAME).unlink()
    whole = path.read_bytes()
    assert saved_step(two_checkpoints, "0123", IDENTITY) == 2
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ModelError, match="there is no checkpoint before it") as caught:
            saved_step(two_checkpoints, "0123", IDENTITY)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [-1, -9, -300, 1, 9])
def test_a_cut_or_lengthened_checkpoint_is_not_taken(change: int, two_checkpoints: Path) -> None:
    path = two_checkpoints / FILE_NAME
    (two_checkpoints / PREVIOUS_NAME).unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[:change] if change < 0 else whole + bytes(change))
    with pytest.raises(ModelError, match="corrupt or truncated"):
        saved_step(two_checkpoints, "0123", IDENTITY)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    two_checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, previous = two_checkpoints / FILE_NAME, two_checkpoints / PREVIOUS_NAME
    kept = previous.read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "singleout"):
        assert saved_step(two_checkpoints, "0123", IDENTITY) == 1
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: corrupt or truncated")
    assert warning.endswith("the run goes on from the checkpoint before it, of step 1")
    assert path.read_bytes() == previous.read_bytes() == kept
    assert saved_step(two_checkpoints, "0123", IDENTITY) == 1
    assert caplog.messages == [warning]


def test_the_checkpoint_before_of_another_run_is_not_taken(two_checkpoints: Path) -> None:
    path, previous = two_checkpoints / FILE_NAME, two_checkpoints / PREVIOUS_NAME
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    for key, identity, message in (
        ("4567", IDENTITY, "another config"),
        ("0123", {**IDENTITY, "sounds": "c"}, "a different set of sounds"),
    ):
        with pytest.raises(ModelError, match=message):
            saved_step(two_checkpoints, key, identity)
    assert path.read_bytes() == damaged
    assert saved_step_of(previous) == 1


def test_two_damaged_checkpoints_are_one_line_with_the_way_out(two_checkpoints: Path) -> None:
    for name in (FILE_NAME, PREVIOUS_NAME):
        (two_checkpoints / name).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="delete the checkpoint to start anew") as caught:
        saved_step(two_checkpoints, "0123", IDENTITY)
    assert all(name in str(caught.value) for name in (FILE_NAME, PREVIOUS_NAME))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [{}, {"key": "0123"}, {"step": "-1"}, {"step": "1", "x": ""}])
def test_damaged_metadata_are_not_taken(metadata: dict[str, str], two_checkpoints: Path) -> None:
    """Also in files without a checksum, as earlier versions wrote them."""
    path = two_checkpoints / FILE_NAME
    save_file({"optimizer.0.step": torch.ones(1)}, path, metadata)
    assert saved_step(two_checkpoints, "0123", IDENTITY) == 1


def test_a_full_disk_keeps_both_checkpoints(two_checkpoints: Path) -> None:
    module, optimizer = few_tensors()
    before = {path.name: path.read_bytes() for path in two_checkpoints.iterdir()}
    module.step_index = 3
    with file_size_limit(100), pytest.raises(OutputError, match="cannot be written") as caught:
        save(module, optimizer, two_checkpoints / FILE_NAME, KEY)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in two_checkpoints.iterdir()} == before


def test_a_run_goes_on_from_the_checkpoint_before_to_the_same_end(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole, stopped = trained
    output = tmp_path / "run"
    shutil.copytree(stopped, output)
    train(configure(output))
    assert saved_step_of(output / PREVIOUS_NAME) == 2
    (output / FILE_NAME).write_bytes((output / FILE_NAME).read_bytes()[:-100])
    train(configure(output))
    assert_same(tensors_below(output), tensors_below(whole.output))
