"""Training of the tiny model on synthetic sounds, through the real loop."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from recipes.builtin.snapshot import snapshot
from singleout import Extractor
from singleout.audio import write_wav
from singleout.config import validated
from singleout.data.embedding_cache import EmbeddingCache
from singleout.data.embeddings import embeddings_of
from singleout.data.manifest import scan_folder
from singleout.data.plan import SCORED_MIXTURES, num_crops
from singleout.encoders import BuiltinEncoder, load_encoder
from singleout.errors import AudioError, ConfigError, ManifestError, ModelError, TrainingError
from singleout.evaluate.evaluation import EvaluationConfig
from singleout.evaluate.scenarios import calibration_of
from singleout.manipulations import AnyManipulation, Chain, MeanShift, Pca, Retrieval
from singleout.model import QueriedSeparator
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
from singleout.train.corpus import VALIDATION_SEED, read_corpus, split_clips
from singleout.train.module import TrainingModule
from singleout.train.run import calibrate, train
from tests.train.runs import (
    MIXTURES,
    RATE,
    SHORT,
    assert_same,
    saved_step_of,
    tensors_below,
    with_steps,
)

pytestmark = pytest.mark.slow


def test_the_same_run_gives_the_same_model(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(configure(tmp_path))
    assert_same(tensors_below(tmp_path), tensors_below(trained[0].output))


def test_another_seed_gives_another_model(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(configure(tmp_path, seed=1, steps=1))
    one, other = tensors_below(tmp_path), tensors_below(trained[0].output)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])


def test_a_finished_run_only_saves_its_model_again(trained: tuple[TrainConfig, Path]) -> None:
    config, _ = trained
    expected = tensors_below(config.output)
    checkpoint = (config.output / FILE_NAME).read_bytes()
    (config.output / "model" / "model.safetensors").unlink()
    assert train(config) == config.output / "model"
    assert_same(tensors_below(config.output), expected)
    assert (config.output / FILE_NAME).read_bytes() == checkpoint


def test_the_trained_model_extracts(trained: tuple[TrainConfig, Path]) -> None:
    extractor = Extractor.from_pretrained(trained[0].output / "model")
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, RATE)).astype(np.float32)
    result = extractor.extract(mixture, "a dog barking", RATE)
    assert np.isfinite(result.target).all()
    assert np.abs(result.target + result.residual - mixture).max() <= 1e-6


def test_a_run_leaves_its_config_logs_and_no_partial_files(
    trained: tuple[TrainConfig, Path],
) -> None:
    config, _ = trained
    written = json.loads((config.output / "config.json").read_text())
    assert TrainConfig.model_validate(written) == config
    assert list(config.output.glob("tensorboard/events*"))
    assert not list(config.output.rglob("*.partial"))


def test_a_snapshot_is_the_averaged_model_of_a_run(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config, stopped = trained
    model, step = snapshot(config)
    model.save_pretrained(tmp_path / "model")
    assert step == 4
    assert_same(tensors_below(tmp_path), tensors_below(config.output))
    earlier, step = snapshot(configure(stopped))
    assert step == 2
    weights = earlier.separator.state_dict()
    pairs = [(tensor, weights[name]) for name, tensor in model.separator.state_dict().items()]
    assert not all(torch.equal(*pair) for pair in pairs)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    original = TrainingModule.training_step

    def break_at_three(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.step_index == 3:
            kept.append((tmp_path / FILE_NAME).read_bytes())
            with torch.no_grad():
                next(self.model.separator.parameters()).fill_(math.nan)
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", break_at_three)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 3.*checkpoint is intact"):
        train(configure(tmp_path))
    assert (tmp_path / FILE_NAME).read_bytes() == kept[0]
    assert saved_step_of(tmp_path / FILE_NAME) == 2
    assert not (tmp_path / "model").exists()


def test_validation_scores_both_kinds_of_queries(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    validation = ValidationConfig(
        num_mixtures=3,
        every_steps=1,
        mixtures=SHORT,
    )
    train(
        configure(
            tmp_path, manifest=captioned, audio=None, validation=validation, p_text=0.5, steps=2
        )
    )
    header = (tmp_path / "curve.csv").read_text().splitlines()[0].split(",")
    for name in ("audio_si_sdri", "text_si_sdri", "audio_improved", "text_improved"):
        assert name in header


def test_runs_share_the_cached_embeddings(
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "cache"))
    train(configure(tmp_path / "first", steps=1))
    (file,) = (tmp_path / "cache" / "embeddings").iterdir()
    assert file.stem == debug_encoder.fingerprint
    monkeypatch.delattr(BuiltinEncoder, "embed_audio")
    train(configure(tmp_path / "second", steps=1))


def test_a_run_uses_the_embeddings_of_a_file(
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[torch.Tensor] = []
    original = TrainingModule.training_step

    def record(self: TrainingModule, batch: Any, index: int) -> Any:
        batches.append(batch["audio_embedding"].clone())
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", record)
    config = configure(tmp_path / "run", steps=1, embeddings=tmp_path / "given.sqlite")
    row = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    with EmbeddingCache(tmp_path / "given.sqlite", debug_encoder.fingerprint, 32) as cache:
        for clip in split_clips(config)[0]:
            for crop in range(num_crops(clip, MIXTURES)):
                cache.put(cache.key(clip, crop, MIXTURES), row)
    train(config)
    (audio,) = batches
    assert torch.equal(audio, row.expand_as(audio))
    other = MIXTURES.model_copy(update={"crop_hop_seconds": 0.3})
    with pytest.raises(ModelError, match=r"given\.sqlite: lacks crop 1 of"):
        train(config.model_copy(update={"output": tmp_path / "other", "mixtures": other}))


@pytest.mark.parametrize("regime", [{"p_text": 0.5}, {"query_mixup": True}])
def test_training_by_text_needs_captions(
    regime: dict[str, Any],
    captioned: Path,
    sounds: Path,
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    more = UncaptionedConfig(manifest=captioned)
    for uncaptioned in (None, more):  # the captions of `more` are ignored
        with pytest.raises(ManifestError, match=r"training by text .* needs captions"):
            train(configure(tmp_path, uncaptioned=uncaptioned, **regime))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (MeanShift(), "'mean_shift': learns from captions, and there are none"),
        (Retrieval(), "'retrieval': learns from captions, and there are none"),
        (Pca(k=33, centre="none"), "'pca': k is 33, embeddings have length 32"),
    ],
)
def test_manipulations_that_cannot_learn_are_one_line(
    step: AnyManipulation, message: str, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = with_steps(configure(tmp_path), step)
    with pytest.raises(ConfigError, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_on_an_easy_problem(
    optimizer: str,
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tones and noises at 0 dB, without manipulation."""
    losses: list[float] = []
    original = TrainingModule.training_step

    def record(self: TrainingModule, batch: Any, index: int) -> Any:
        loss = original(self, batch, index)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", record)
    easy = MIXTURES.model_copy(update={"num_sources": (2, 2), "snr_db": (0.0, 0.0)})
    changes = {"steps": 40, "learning_rate": 3e-3, "mixtures": easy, "optimizer": optimizer}
    config = configure(tmp_path, **changes)
    model = config.model.model_copy(update={"manipulation": Chain()})
    train(config.model_copy(update={"model": model, "checkpoint_every": 1_000}))
    assert len(losses) == 40
    assert np.mean(losses[-20:]) < np.mean(losses[:3]) - 1
    assert (tmp_path / "curve.csv").is_file()


def test_data_that_cannot_be_used_leaves_nothing_behind(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(ManifestError, match="not a folder of audio files"):
        train(configure(output, audio=tmp_path / "no"))
    assert not output.exists()


def test_missing_devices_and_impossible_embeddings_are_refused(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = configure(tmp_path / "run", manifest=captioned, audio=None, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device: take"):
            train(config)
        assert not (tmp_path / "run").exists()
    values = config.model_dump() | {"embeddings": "e.sqlite", "query_audio": {"mixup": {}}}
    with pytest.raises(ConfigError, match="need the encoder itself"):
        validated(TrainConfig, values, "here")


def test_presence_is_calibrated_if_all_validation_sounds_have_captions(
    calibrated_model_folder: Path, sounds: Path
) -> None:
    model = QueriedSeparator.from_pretrained(calibrated_model_folder)
    clips = [
        dataclasses.replace(clip, caption=f"sound {i}", label=f"a/{i}")
        for i, clip in enumerate(scan_folder(sounds))
    ]
    short = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.5, "crop_hop_seconds": 0.25})
    config = ValidationConfig(num_mixtures=2, mixtures=short)
    before = model.config.presence
    partly_captioned = [*clips[:-1], dataclasses.replace(clips[-1], caption=None)]
    calibrate(model, partly_captioned, config)
    assert model.config.presence == before
    calibrate(model, clips, config)
    assert model.config.presence not in (before, None)
    evaluation = EvaluationConfig(num_mixtures=10, seed=VALIDATION_SEED + 1, mixtures=short)
    expected = calibration_of(model, clips, evaluation)
    assert (model.config.presence, model.config.gate) == expected


def test_mixtures_of_one_sound_can_be_trained_on(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    single = MIXTURES.model_copy(update={"num_sources": (1, 1)})
    assert (train(configure(tmp_path, steps=1, mixtures=single)) / "config.json").is_file()


def test_an_error_in_a_worker_process_is_one_line(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    copies = shutil.copytree(sounds, tmp_path / "sounds")
    config = configure(tmp_path / "run", audio=copies, num_workers=1)
    read_corpus(config)
    table = embeddings_of(
        scan_folder(copies), config.mixtures, load_encoder(config.model.encoder.name)
    )
    assert len(table.embeddings)  # all is remembered, so that only rendering reads the sounds
    for path in copies.glob("*.wav"):
        info = soundfile.info(path)
        stamp = path.stat()
        write_wav(path, np.full((1, info.frames), np.nan, np.float32), info.samplerate)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(AudioError, match=r"wav: has NaN or infinite samples$") as caught:
        train(config)
    assert str(caught.value).startswith(str(copies))
