"""Sounds, and tiny runs on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from singleout.condition import Condition
from singleout.data.dataset import TrainingExample
from singleout.data.manifest import scan_folder
from singleout.manipulations import Chain, Dropout
from singleout.model import EncoderReference, ModelConfig
from singleout.train.conditioning import Conditioning
from singleout.train.config import TrainConfig, ValidationConfig
from tests.conftest import TINY_SEPARATOR
from tests.train.runs import MIXTURES, train_and_copy, write_sounds


@pytest.fixture(scope="session", autouse=True)
def few_calibration_mixtures() -> Iterator[None]:
    """Calibration takes 10 mixtures instead of 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.train.run.MIN_CALIBRATION_MIXTURES", 10)
        yield


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, 6)
    return folder


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with captions, four sounds to train on and three to validate with."""
    folder = tmp_path_factory.mktemp("captioned")
    write_sounds(folder, 7)
    rows = [
        {
            "path": clip.path.name,
            "seconds": clip.seconds,
            "caption": f"sound number {i}",
            "split": "train" if i < 4 else "validation",
        }
        for i, clip in enumerate(scan_folder(folder))
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture(scope="session")
def configure(sounds: Path, debug_encoder_folder: Path) -> Callable[..., TrainConfig]:
    """A tiny run on ``sounds``, with changes."""

    def make(output: Path, **changes: Any) -> TrainConfig:
        config = TrainConfig(
            audio=sounds,
            output=output,
            model=ModelConfig(
                separator=TINY_SEPARATOR,
                manipulation=Chain(steps=(Dropout(p=0.5),)),
                encoder=EncoderReference(name=str(debug_encoder_folder)),
            ),
            mixtures=MIXTURES,
            validation=ValidationConfig(num_mixtures=0),
            steps=4,
            batch_size=2,
            warmup_steps=2,
            precision="float32",
            checkpoint_every=2,
            num_workers=0,
        )
        return config.model_copy(update=changes)

    return make


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, configure: Callable[..., TrainConfig]
) -> tuple[TrainConfig, Path]:
    """A finished run of four steps, and a folder with its checkpoint of step two."""
    config = configure(tmp_path_factory.mktemp("trained"))
    stopped = tmp_path_factory.mktemp("stopped")
    train_and_copy(config, stopped)
    return config, stopped


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainingExample, torch.Tensor]]:
    """Each batch of a run, with the embeddings [queries * batch, dim] of its condition."""
    taken: list[tuple[TrainingExample, torch.Tensor]] = []
    original = Conditioning.__call__

    def record(self: Conditioning, batch: TrainingExample) -> Condition:
        condition = original(self, batch)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(condition.embeddings, original(self, batch).embeddings)
        assert condition.embeddings.dtype == torch.float32
        assert condition.embeddings.shape[1] == 1
        taken.append((batch, condition.embeddings[:, 0]))
        return condition

    monkeypatch.setattr(Conditioning, "__call__", record)
    return taken
