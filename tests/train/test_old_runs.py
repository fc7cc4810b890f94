"""Checkpoints and models of an old revision (``tests/golden/old_run``) still work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from singleout import Extractor, Query
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig
from singleout.train.run import train
from tests.golden.old_run.make import CONFIG, HERE, QUERY, mixture, write_corpus


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the sounds of the old run: their paths are part of its identity."""
    write_corpus(tmp_path)
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_old_checkpoint_resumes_to_the_end(folder: Path) -> None:
    """With the draws of the present revision, see ``make.py``."""
    (folder / "run").mkdir()
    shutil.copy(HERE / FILE_NAME, folder / "run")
    model = train(TrainConfig.model_validate(CONFIG))
    resumed = load_file(model / "model.safetensors")
    expected = load_file(HERE / "resumed.safetensors")
    assert expected.keys() == load_file(HERE / "model" / "model.safetensors").keys()
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, atol=2e-3, rtol=2e-2, msg=name)


def test_checkpoints_have_the_same_tensors_and_metadata_as_before(folder: Path) -> None:
    train(TrainConfig.model_validate(CONFIG | {"steps": 2, "output": "new"}))
    shapes, metadata = [], []
    for path in (HERE / FILE_NAME, folder / "new" / FILE_NAME):
        shapes.append({name: tensor.shape for name, tensor in load_file(path).items()})
        with safetensors.safe_open(path, "pt") as file:
            metadata.append(file.metadata())
    old, new = shapes
    assert old == new
    assert {name.split(".")[0] for name in new} == {"module", "manipulation", "optimizer"}
    assert metadata[0].keys() == {"step", "key", "encoder", "sounds"}
    assert metadata[1].keys() == metadata[0].keys() | {
        *("precision", "devices", "singleout_checksum")
    }
    for name in ("step", "encoder", "sounds"):  # the key is that of another number of steps
        assert metadata[0][name] == metadata[1][name]


def test_an_old_model_gives_the_same_target(folder: Path) -> None:
    """The old revision gave the separator's target as it was, infrasound included."""
    extractor = Extractor.from_pretrained(HERE / "model")
    batch = torch.from_numpy(mixture())[None]
    with torch.inference_mode():
        target = extractor.model.extract_clip(batch, [extractor.model.embed(Query(QUERY))])[0]
    expected = np.load(HERE / "target.npz")["target"]
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(target, expected, atol=1e-5)
