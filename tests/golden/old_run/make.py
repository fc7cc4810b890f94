"""Writes a checkpoint and a saved model with an old revision of singleout.

``tests/train/test_old_runs.py`` reads the files. They were made at commit f407324, in this folder:

    PYTHONPATH=/path/to/f407324/src python make.py

``encoder`` is the tiny encoder of ``tests/conftest.py``.

``resumed.safetensors`` has the weights of the model to which the present revision resumes that
checkpoint. They are not those of ``model``: the old revision drew the manipulations of a batch from
one generator, and every query now draws its own. It is written from the root of the project:

    python -m tests.golden.old_run.make resumed
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 32_000
HERE = Path(__file__).parent
QUERY = "a dog barking"
CONFIG: dict[str, Any] = {
    "manifest": "manifest.jsonl",
    "output": "run",
    "model": {
        "separator": {
            "type": "conditioned_unet",
            "num_fft": 256,
            "hop": 64,
            "fold": 4,
            "channels": [4, 4],
            "time_strides": [2],
            "bottleneck": 8,
            "dilations": [1],
            "query_dim": 8,
        },
        "manipulation": {
            "steps": [{"type": "mean_shift"}, {"type": "pca", "k": 3}, {"type": "dropout"}]
        },
        "encoder": {"name": "encoder"},
        "negative": True,
    },
    "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25},
    "validation": {"num_mixtures": 0},
    "queries": {"removal_share": 0.25, "contrast_share": 0.25},
    "p_text": 0.5,
    "steps": 4,
    "batch_size": 2,
    "warmup_steps": 2,
    "precision": "float32",
    "checkpoint_every": 2,
    "num_workers": 0,
}


def write_corpus(folder: Path) -> None:
    """A manifest of five tones with captions, the tiny encoder, and no run yet."""
    rows = []
    for number in range(5):
        time = np.arange(int(RATE * (0.4 + 0.2 * number))) / RATE
        tone = 0.1 * np.sin(2 * np.pi * 200 * (number + 1) * time)
        soundfile.write(folder / f"{number}.wav", tone, RATE)
        seconds = len(time) / RATE
        rows.append({"path": f"{number}.wav", "seconds": seconds, "caption": f"tone {number}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(HERE / "encoder", folder / "encoder")


def mixture() -> np.ndarray:
    """Two of the tones, a quarter of a second, float32 [1, samples]."""
    time = np.arange(RATE // 4) / RATE
    tones = [0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (200, 800)]
    return sum(tones).astype(np.float32)[None]  # type: ignore[union-attr]


def resume() -> None:
    """Resume the checkpoint, and keep the weights of the model."""
    from singleout.train.checkpoint import FILE_NAME
    from singleout.train.config import TrainConfig
    from singleout.train.run import train

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SINGLEOUT_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        write_corpus(Path())
        Path("run").mkdir()
        shutil.copy(HERE / FILE_NAME, "run")
        model = train(TrainConfig.model_validate(CONFIG))
        shutil.copy(model / "model.safetensors", HERE / "resumed.safetensors")
        os.chdir(HERE)


def main() -> None:
    """Train four steps; keep the checkpoint of step two, the model and a target of the model."""
    from singleout import Extractor
    from singleout.train.checkpoint import FILE_NAME
    from singleout.train.config import TrainConfig
    from singleout.train.module import TrainingModule
    from singleout.train.run import train

    original = TrainingModule.on_train_batch_start

    def keep_checkpoint(self: TrainingModule, batch: Any, index: int) -> None:
        if self.step_index == 3:
            shutil.copy(Path("run") / FILE_NAME, HERE)
        original(self, batch, index)

    TrainingModule.on_train_batch_start = keep_checkpoint  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SINGLEOUT_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        write_corpus(Path())
        model = train(TrainConfig.model_validate(CONFIG))
        target = Extractor.from_pretrained(model).extract(mixture(), QUERY, RATE).target
        shutil.copytree(model, HERE / "model", dirs_exist_ok=True)
        os.chdir(HERE)
    np.savez_compressed(HERE / "target.npz", target=target)


if __name__ == "__main__":
    resume() if sys.argv[1:] == ["resumed"] else main()
