"""``init``: runs that start from a model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from singleout.config import validated
from singleout.data.manifest import scan_folder
from singleout.encoders import BuiltinEncoder
from singleout.errors import ModelError
from singleout.manipulations import Neighbours
from singleout.model import EncoderReference, QueriedSeparator
from singleout.storage.models import resolve_model
from singleout.train.config import TrainConfig
from singleout.train.corpus import training_dataset
from singleout.train.run import initial_model, train
from tests.train.runs import assert_same, cache_model, taking_negatives, tensors_below, with_steps


def test_init_starts_from_a_model(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    init = trained[0].output / "model"
    train(configure(tmp_path, init=init, steps=1, learning_rate=1e-9, weight_decay=0.0))
    start, end = load_file(init / "model.safetensors"), tensors_below(tmp_path)
    for name in ("stem.weight", "out.weight", "query.0.weight"):
        torch.testing.assert_close(start[name], end[name], atol=1e-3, rtol=0)


def test_init_keeps_what_the_same_manipulation_has_learned(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    """The same manipulation adds the sounds of the new run; another one learns from these only."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(sounds.glob("*.wav"))[:4]:
        shutil.copy(path, few)
    steps = Neighbours(sounds=2)
    first = with_steps(configure(tmp_path / "first", steps=1, audio=few), steps)
    learned = load_file(train(first) / "model.safetensors")["manipulation.0.memory"]
    for step, is_same in ((steps, True), (Neighbours(sounds=1), False)):
        again = with_steps(configure(tmp_path / f"again {is_same}", steps=1), step)
        again = again.model_copy(update={"init": first.output / "model"})
        memory = load_file(train(again) / "model.safetensors")["manipulation.0.memory"]
        assert torch.equal(memory[: len(learned)], learned) == is_same
        assert len(memory) > len(learned)


def test_a_memory_of_another_encoder_is_not_kept(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    first = with_steps(configure(tmp_path / "first", steps=1), Neighbours(sounds=2))
    learned = load_file(train(first) / "model.safetensors")["manipulation.0.memory"]
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = copy.deepcopy(debug_encoder)
        torch.nn.init.normal_(next(other.network.audio.parameters()))
    other.save_pretrained(tmp_path / "encoder")
    model = first.model.model_copy(
        update={"encoder": EncoderReference(name=str(tmp_path / "encoder"))}
    )
    changes = {"model": model, "init": first.output / "model", "output": tmp_path / "second"}
    second = train(first.model_copy(update=changes))
    memory = load_file(second / "model.safetensors")["manipulation.0.memory"]
    nearest = (memory @ learned.T).amax(1)
    assert len(nearest) == len(learned)
    assert float(nearest.max()) < 0.9999


def test_init_of_another_shape_is_one_line(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = taking_negatives(configure(tmp_path, init=trained[0].output / "model"))
    with pytest.raises(
        ModelError, match=r"model: its weights do not fit .*query\.0\.weight"
    ) as error:
        train(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_builtin_is_the_packaged_model(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    packaged = QueriedSeparator.from_pretrained("builtin")
    model = packaged.config.model_copy(update={"sha256": None})
    config = configure(tmp_path, init="builtin", model=model)
    dataset = training_dataset(config, scan_folder(sounds), packaged.encoder)
    started = initial_model(config, packaged.encoder, dataset)
    assert_same(started.separator.state_dict(), packaged.separator.state_dict())
    memory, extended = packaged.manipulator.state, started.manipulator.state
    assert memory is not None
    assert extended is not None
    for name, tensor in memory.items():
        assert torch.equal(extended[name][: len(tensor)], tensor), name


@pytest.mark.parametrize("init", ["someone/debug", "someone/debug@main"])
def test_a_hub_id_is_a_model(
    init: str,
    configure: Callable[..., TrainConfig],
    debug_model_folder: Path,
    debug_model: QueriedSeparator,
    sounds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache_model(tmp_path / "hub", debug_model_folder, monkeypatch)
    values = {**configure(tmp_path / "run").model_dump(), "init": init}
    config = validated(TrainConfig, values, "run.yaml")
    dataset = training_dataset(config, scan_folder(sounds), debug_model.encoder)
    started = initial_model(config, debug_model.encoder, dataset)
    assert_same(started.separator.state_dict(), debug_model.separator.state_dict())
    with pytest.raises(ModelError, match="someone/other: no folder of that name"):
        initial_model(
            config.model_copy(update={"init": "someone/other"}), debug_model.encoder, dataset
        )


@pytest.mark.parametrize(
    ("init", "is_packaged"), [("builtin", True), ("./builtin", False), ("run/../builtin", False)]
)
def test_a_folder_called_builtin_is_not_the_packaged_model(
    init: str, is_packaged: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"separator": {"type": "identity"}}
    config = TrainConfig.model_validate(
        {"audio": "sounds", "output": "run", "model": model, "init": init}
    )
    assert config.init is not None
    resolved = resolve_model(config.init)
    assert (resolved == resolve_model("builtin")) == is_packaged
    assert is_packaged or resolved.resolve() == (tmp_path / "builtin").resolve()
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
