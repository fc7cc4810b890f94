"""Guards: results that a change of the structure must not change.

The expected values are in ``tests/golden/guards.json``. ``python -m tests.test_guards`` writes them
again. Do that only for an intended change of behaviour.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from recipes.paper.study import Study
from singleout import Extractor
from singleout.cli import app
from singleout.config import load_config
from singleout.train.config import TrainConfig
from singleout.train.curve import read_curve
from singleout.train.run import run_key, train

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "guards.json"
CONFIGS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/paper/*_common.yaml")])
STUDIES = tuple(ROOT / "configs" / "paper" / f"{size}.yaml" for size in ("full", "small"))
COMMANDS = ("", "extract", "train", "evaluate", "benchmark", "gap")
HOP = 800
"""25 ms: samples per value of the target's outline."""

SMALL = {
    "separator": {
        "type": "conditioned_unet",
        "num_fft": 512,
        "hop": 128,
        "fold": 4,
        "channels": [8, 8, 8],
        "time_strides": [2, 1],
        "bottleneck": 16,
        "dilations": [1, 2],
        "query_dim": 16,
    }
}


def outline(target: np.ndarray) -> list[float]:
    """RMS in every 25 ms of a target [channels, samples], rounded to 1e-6 of full scale.

    Processors round differently, so a hash of the samples would hold on one machine only.
    """
    mono = target[0, : target.shape[1] // HOP * HOP].reshape(-1, HOP)
    return [round(float(value), 6) for value in np.sqrt(np.square(mono, dtype=np.float64).mean(1))]


def packaged_target() -> np.ndarray:
    """The target of ``make demo``, float32 [channels, samples]."""
    query = (ROOT / "examples" / "query.txt").read_text().strip()
    return Extractor.from_pretrained().extract(ROOT / "examples" / "mixture.wav", query).target


def run_keys() -> dict[str, str]:
    """Run key of every shipped config and of every row of the studies.

    The home folder and the encoder are fixed.
    """
    encoder: Any = SimpleNamespace(fingerprint="0123456789abcdef")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/home/singleout")
        configs = {_name(path): load_config(TrainConfig, path) for path in CONFIGS}
        for study in map(Study, STUDIES):
            for row in study.rows:
                config = study.train_config(study.first_run(row))
                configs[f"{_name(study.path)}: {row}"] = config
        return {name: run_key(config, encoder) for name, config in configs.items()}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def options(command: str) -> list[str]:
    """Option names of a command of ``singleout``; ``""`` stands for the program itself."""
    program: Any = typer.main.get_command(app)
    parameters = (program.commands[command] if command else program).params
    return sorted(name for p in parameters for name in (*p.opts, *p.secondary_opts) if "-" in name)


def write_sounds(folder: Path) -> Path:
    """Write six sounds of 1 s, tones and noises of three classes; the path of their manifest."""
    rate = 32_000
    rows = []
    for i in range(6):
        time = np.arange(rate) / rate
        tone = np.sin(2 * np.pi * 150 * (i + 1) * time)
        noise = np.random.default_rng([i]).normal(size=rate)
        soundfile.write(folder / f"{i}.wav", 0.1 * (noise if i % 2 else tone), rate)
        rows.append(
            {"path": f"{i}.wav", "seconds": 1.0, "caption": f"sound {i}", "class": f"c/{i % 3}"}
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows))
    return manifest


def loss_curve(folder: Path, manifest: Path, encoder: Path, *changes: str) -> list[float]:
    """Losses of 20 steps of the packaged model's recipe, at a tiny size."""
    run = folder / "run"
    config = load_config(
        TrainConfig,
        ROOT / "configs" / "builtin.yaml",
        [
            f"manifest={json.dumps(str(manifest))}", "uncaptioned=null", "init=null",
            "embeddings=null", f"output={json.dumps(str(run))}",
            f"model.separator={json.dumps(SMALL['separator'])}",
            f"model.encoder.name={json.dumps(str(encoder))}",
            "mixtures.segment_seconds=0.7", "mixtures.crop_hop_seconds=0.35", "steps=20",
            "warmup_steps=5", "batch_size=2", "validation.num_mixtures=0", "precision=float32",
            "num_workers=0", "checkpoint_every=20", *changes,
        ],
    )  # fmt: skip
    train(config)
    return [row["loss"] for row in read_curve(run) if "loss" in row]


CURVES = {
    "recipe": (),
    "debug": (
        'model.manipulation.steps=[{"type":"dropout","p":0.5}]', "model.negative=false",
        "queries={}", "optimizer=adamw", "p_text=0.5", "learning_rate=0.001",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """The expected values."""
    values: dict[str, Any] = json.loads(GOLDEN.read_text())
    return values


def test_the_packaged_model_gives_the_same_target(golden: dict[str, Any]) -> None:
    values = outline(packaged_target())
    np.testing.assert_allclose(values, golden["target"], rtol=5e-3, atol=2e-5)


def test_run_keys_of_shipped_configs_stay(golden: dict[str, Any]) -> None:
    assert run_keys() == golden["run_keys"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c or "singleout")
def test_options_stay(command: str, golden: dict[str, Any]) -> None:
    assert set(golden["options"][command]) <= set(options(command))


@pytest.mark.parametrize("name", CURVES)
def test_loss_curves_stay(
    name: str, golden: dict[str, Any], tmp_path: Path, debug_encoder_folder: Path
) -> None:
    curve = loss_curve(tmp_path, write_sounds(tmp_path), debug_encoder_folder, *CURVES[name])
    assert len(curve) == 20
    np.testing.assert_allclose(curve, golden["loss"][name], rtol=5e-3, atol=5e-3)


def main() -> None:
    """Write the golden values."""
    from tests.conftest import write_debug_encoder

    target = packaged_target()
    losses = {}
    for name, changes in CURVES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            os.environ["SINGLEOUT_CACHE"] = str(path / "cache")
            write_debug_encoder(path / "encoder")
            losses[name] = loss_curve(path, write_sounds(path), path / "encoder", *changes)
    values = {
        "target": outline(target),
        "run_keys": run_keys(),
        "options": {command: options(command) for command in COMMANDS},
        "loss": losses,
    }
    GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
    print("SHA-256 of the target on this machine:", hashlib.sha256(target.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
