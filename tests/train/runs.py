"""Helpers for tests of training runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from singleout.audio import write_wav
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig
from singleout.manipulations import AnyManipulation, Chain
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.train.run import train

RATE = 32_000
MIXTURES = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35, num_sources=(2, 3))
SHORT = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.7, "crop_hop_seconds": 0.35})
"""Validation mixtures as short as ``MIXTURES``."""


def write_sounds(folder: Path, number: int) -> None:
    """Noises and tones of 0.3 to 1.5 s."""
    for i in range(number):
        rng = np.random.default_rng([i])
        time = np.arange(int(RATE * (0.3 + 1.2 * i / number))) / RATE
        tone = np.sin(2 * np.pi * 200 * (i + 1) * time)
        audio = 0.1 * (rng.normal(size=len(time)) if i % 2 else tone)
        write_wav(folder / f"{i}.wav", audio[None].astype(np.float32), RATE)


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train_and_copy(config: TrainConfig, stopped: Path) -> None:
    """Train, and copy the checkpoint of step two to ``stopped``."""
    original = TrainingModule.on_train_batch_start

    def copy_checkpoint(self: TrainingModule, batch: Any, index: int) -> None:
        if self.step_index == 3:
            shutil.copy(config.output / FILE_NAME, stopped)
        original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", copy_checkpoint)
        train(config)


def tensors_below(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def saved_step_of(path: Path) -> int:
    with safetensors.safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def with_steps(config: TrainConfig, *steps: AnyManipulation) -> TrainConfig:
    model = config.model.model_copy(update={"manipulation": Chain(steps=steps)})
    return config.model_copy(update={"model": model})


def taking_negatives(config: TrainConfig, *steps: AnyManipulation) -> TrainConfig:
    """The config with a model that takes negative prompts."""
    config = with_steps(config, *steps)
    return config.model_copy(update={"model": config.model.model_copy(update={"negative": True})})


def flat(values: torch.Tensor) -> torch.Tensor:
    """[batch, queries, ...] to [queries * batch, ...], the order of the separator's queries."""
    return torch.cat([values[:, query] for query in range(values.shape[1])])


def cache_model(hub: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a model into a hub's cache as ``someone/debug``, without network; its folder there."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--someone--debug"
    snapshot = shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    return snapshot
