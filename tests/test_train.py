"""Training of the tiny model on a folder of synthetic sounds, through the real loop."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import soundfile
import torch
from conftest import TINY_SEPARATOR
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from recipes.builtin.snapshot import snapshot
from singleout import Example as Sound
from singleout import Extractor, Query
from singleout.audio import write_wav
from singleout.config import validated
from singleout.data.dataset import Example, MixtureDataset, QueryAudioConfig
from singleout.data.embeddings import EmbeddingCache, EmbeddingTable, embeddings_of
from singleout.data.manifest import Clip, scan_folder
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig, num_crops
from singleout.data.queries import QueriesConfig
from singleout.errors import AudioError, ConfigError, ManifestError, ModelError, TrainingError
from singleout.evaluate.metrics import score
from singleout.evaluate.questions import calibrated
from singleout.evaluate.run import EvaluationConfig
from singleout.model import EncoderReference, ModelConfig, QueriedSeparator
from singleout.query import BuiltinEncoder, load_encoder
from singleout.query.audio_manipulations import Mixup, SpecAugment
from singleout.query.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    Manipulator,
    MeanShift,
    Neighbours,
    Noise,
    Pca,
    Retrieval,
)
from singleout.separators import IdentityConfig
from singleout.train.checkpoint import FILE_NAME, saved_step
from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
from singleout.train.losses import negative_si_sdr_db, negative_snr_db, separation_loss_db
from singleout.train.module import TrainingModule, ema_update, learning_rate_factor
from singleout.train.run import (
    VALIDATION_SEED,
    calibrate,
    caption_embeddings,
    examples_of,
    split_clips,
    train,
    uncaptioned_clips,
)

RATE = 32_000
MIXTURES = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35, num_sources=(2, 3))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Embeddings are kept here, not below the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINGLEOUT_CACHE", str(folder))
        yield folder


def write_sounds(folder: Path, number: int) -> None:
    """Noises and tones of 0.3 to 1.5 s."""
    for i in range(number):
        rng = np.random.default_rng([i])
        time = np.arange(int(RATE * (0.3 + 1.2 * i / number))) / RATE
        tone = np.sin(2 * np.pi * 200 * (i + 1) * time)
        audio = 0.1 * (rng.normal(size=len(time)) if i % 2 else tone)
        write_wav(folder / f"{i}.wav", audio[None].astype(np.float32), RATE)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, 6)
    return folder


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def trained(
    own_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    configure: Callable[..., TrainConfig],
) -> tuple[TrainConfig, Path]:
    """A finished run of four steps, and a folder with its checkpoint of step two."""
    config = configure(tmp_path_factory.mktemp("trained"))
    stopped = tmp_path_factory.mktemp("stopped")
    train_and_copy(config, stopped)
    return config, stopped


def train_and_copy(config: TrainConfig, stopped: Path) -> None:
    """Train, and leave the checkpoint of step two in ``stopped``."""
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


def test_a_resumed_run_ends_as_one_that_was_never_stopped(
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


def test_a_resumed_run_of_muon_ends_as_one_that_was_never_stopped(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = configure(tmp_path / "whole", optimizer="muon")
    (tmp_path / "resumed").mkdir()
    train_and_copy(whole, tmp_path / "resumed")
    resumed = configure(tmp_path / "resumed", optimizer="muon")
    train(resumed)
    assert_same(load_file(resumed.output / FILE_NAME), load_file(whole.output / FILE_NAME))


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
    assert list(config.output.glob("tensorboard/*/events*"))
    assert not list(config.output.rglob("*.partial"))


def test_a_snapshot_of_a_run_is_its_averaged_model(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole, stopped = trained
    model, step = snapshot(whole)
    model.save_pretrained(tmp_path / "model")
    assert step == 4
    assert_same(tensors_below(tmp_path), tensors_below(whole.output))
    earlier, step = snapshot(configure(stopped))
    assert step == 2
    ours, theirs = (m.separator.state_dict() for m in (model, earlier))  # type: ignore[attr-defined]
    assert any(not torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_the_last_checkpoint_is_of_the_last_step(trained: tuple[TrainConfig, Path]) -> None:
    config, stopped = trained
    for path, step in ((stopped / FILE_NAME, 2), (config.output / FILE_NAME, config.steps)):
        assert saved_step_of(path) == step
        tensors = load_file(path)
        assert int(tensors["module.model.separator.out_norm.num_batches_tracked"]) == step
        assert int(tensors["module.averaged.n_averaged"]) == step
        assert int(tensors["optimizer.0.step"]) == step


def saved_step_of(path: Path) -> int:
    import safetensors

    with safetensors.safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


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
    ("changes", "said"),
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
def test_what_differs_is_named_a_few_keys_at_most(
    changes: dict[str, Any],
    said: str,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ModelError, match=said):
        train(configure(trained[0].output, **changes))


@pytest.mark.parametrize("left", [None, "[1]", "{"])
def test_without_the_config_of_the_run_it_is_refused_all_the_same(
    left: str | None,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    (tmp_path / FILE_NAME).write_bytes((trained[1] / FILE_NAME).read_bytes())
    if left is not None:
        (tmp_path / "config.json").write_text(left)
    with pytest.raises(ModelError, match=r"another config \(.*config\.json cannot be read"):
        train(configure(tmp_path, learning_rate=2e-3))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_a_corrupt_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ModelError, match="corrupt or truncated checkpoint") as caught:
        saved_step(path, "key")
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_one_line(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = (trained[1] / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="corrupt or truncated checkpoint"):
        train(configure(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_no_checkpoint_is_step_zero(tmp_path: Path) -> None:
    assert saved_step(tmp_path / FILE_NAME, "key") == 0


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    original = TrainingModule.training_step

    def break_at_three(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.step_index == 3:
            kept.append((tmp_path / FILE_NAME).read_bytes())
            with torch.no_grad():
                self.model.separator.stem.weight.fill_(math.nan)  # type: ignore[attr-defined]
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
        mixtures=ValidationConfig().mixtures.model_copy(
            update={"segment_seconds": 0.7, "crop_hop_seconds": 0.35}
        ),
    )
    train(
        configure(
            tmp_path, manifest=captioned, audio=None, validation=validation, p_text=0.5, steps=2
        )
    )
    (log,) = tmp_path.glob("logs/*/metrics.csv")
    header = log.read_text().splitlines()[0].split(",")
    for name in ("audio_si_sdri", "text_si_sdri", "audio_improved", "text_improved"):
        assert name in header


def test_runs_share_the_encoders_embeddings(
    trained: tuple[TrainConfig, Path],
    own_cache: Path,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (kept,) = (own_cache / "embeddings").iterdir()
    assert kept.stem == debug_encoder.fingerprint
    monkeypatch.delattr(BuiltinEncoder, "embed_audio")
    train(configure(tmp_path, steps=1))


def test_a_run_is_conditioned_on_given_embeddings(
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[torch.Tensor] = []
    original = TrainingModule.training_step

    def record(self: TrainingModule, batch: Any, index: int) -> Any:
        heard.append(batch["audio"].clone())
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", record)
    config = configure(tmp_path / "run", steps=1, embeddings=tmp_path / "given.sqlite")
    given = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    with EmbeddingCache(tmp_path / "given.sqlite", debug_encoder.fingerprint, 32) as cache:
        for clip in split_clips(config)[0]:
            for crop in range(num_crops(clip, MIXTURES)):
                cache.put(cache.key(clip, crop, MIXTURES), given)
    train(config)
    (audio,) = heard
    assert torch.equal(audio, given.expand_as(audio))
    other = MIXTURES.model_copy(update={"crop_hop_seconds": 0.3})
    with pytest.raises(ModelError, match=r"given\.sqlite: lacks crop 1 of"):
        train(config.model_copy(update={"output": tmp_path / "other", "mixtures": other}))


def test_init_starts_from_a_model(
    trained: tuple[TrainConfig, Path], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    init = trained[0].output / "model"
    train(configure(tmp_path, init=init, steps=1, learning_rate=1e-9, weight_decay=0.0))
    start, end = load_file(init / "model.safetensors"), tensors_below(tmp_path)
    for name in ("stem.weight", "out.weight", "query.0.weight"):
        torch.testing.assert_close(start[name], end[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("regime", [{"p_text": 0.5}, {"query_mixup": True}])
def test_texts_are_needed_where_they_are_asked_for(
    regime: dict[str, Any],
    captioned: Path,
    sounds: Path,
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    more = UncaptionedConfig(manifest=captioned)
    for uncaptioned in (None, more):  # whose captions do not count
        with pytest.raises(ManifestError, match="training by text needs captions"):
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
    assert list(tmp_path.glob("logs/*/metrics.csv"))


@pytest.mark.parametrize("number", [3, 19, 20, 39, 40, 100])
def test_a_twentieth_of_a_folder_is_held_out_where_it_can_make_mixtures(
    number: int,
    tmp_path: Path,
    configure: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("singleout.train.run.scan_folder", lambda folder: list(range(number)))
    kept, held_out = split_clips(configure(tmp_path))
    assert sorted([*kept, *held_out]) == list(range(number))  # type: ignore[type-var]
    assert len(held_out) == (number // 20 if number >= 40 else 0)
    assert split_clips(configure(tmp_path)) == (kept, held_out)


def test_a_manifest_without_validation_trains_without(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    manifest = captioned.with_name("train-only.jsonl")
    rows = captioned.read_text().splitlines()
    manifest.write_text("\n".join(row for row in rows if '"train"' in row))
    kept, held_out = split_clips(configure(tmp_path, manifest=manifest, audio=None))
    assert len(kept) == 4
    assert held_out == []


def test_a_validation_sound_that_is_missing_is_not_passed_over(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    manifest = captioned.with_name("broken.jsonl")
    manifest.write_text(
        captioned.read_text() + '{"path": "no.wav", "seconds": 1, "split": "validation"}\n'
    )
    with pytest.raises(ManifestError, match=r"broken\.jsonl:8: names a missing file"):
        split_clips(configure(tmp_path, manifest=manifest, audio=None))


def test_data_that_cannot_be_used_leaves_nothing_behind(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(ManifestError, match="not a folder of audio files"):
        train(configure(output, audio=tmp_path / "no"))
    assert not output.exists()


def test_caption_embeddings_are_in_the_order_of_the_clips(
    captioned: Path, debug_encoder: BuiltinEncoder, sounds: Path, configure: Any, tmp_path: Path
) -> None:
    """None, one or several of a clip; the same words are the same embedding."""
    clips, _ = split_clips(configure(tmp_path, manifest=captioned, audio=None))
    mute = scan_folder(sounds)
    several = dataclasses.replace(clips[1], alternatives=("another", "sound number 0"))
    ordered = [mute[0], clips[2], several, mute[1], clips[0], clips[2]]
    table = caption_embeddings(ordered, debug_encoder)
    assert table is not None
    assert [table.count(i) for i in range(6)] == [0, 1, 3, 0, 1, 1]
    for i, clip in enumerate(ordered):
        for number, caption in enumerate(clip.captions):
            expected = debug_encoder.embed_text(caption)[0]
            torch.testing.assert_close(table.of(i, number), expected, atol=1e-5, rtol=0)
    assert torch.equal(table.of(2, 2), table.of(4, 0))
    assert caption_embeddings(mute, debug_encoder) is None


def test_captions_are_paired_with_their_sounds() -> None:
    sounds = EmbeddingTable(torch.randn(7, 4), (0, 2, 3, 6, 7))
    captions = EmbeddingTable(torch.randn(5, 4), (0, 1, 1, 4, 5))
    examples = examples_of(sounds, captions)
    assert torch.equal(examples.audio, sounds.embeddings[[0, 2, 3, 6]]), "one each"
    assert torch.equal(examples.text, captions.embeddings)
    assert examples.pairs.tolist() == [0, 2, 2, 2, 3]
    mute = examples_of(sounds, None)
    assert mute.text.shape == (0, 4)
    assert mute.pairs.tolist() == []


# What the separator is conditioned on.


def with_steps(config: TrainConfig, *steps: AnyManipulation) -> TrainConfig:
    model = config.model.model_copy(update={"manipulation": Chain(steps=steps)})
    return config.model_copy(update={"model": model})


def module_of(config: TrainConfig, encoder: BuiltinEncoder) -> TrainingModule:
    """Around a separator that has no part in it; what is to learn is learnt from noise."""
    separator = IdentityConfig(sample_rate=config.model.separator.sample_rate)
    model = QueriedSeparator(config.model.model_copy(update={"separator": separator}), encoder)
    if model.manipulator.state is None:
        rows = torch.randn(2, 20, encoder.dim, generator=torch.Generator().manual_seed(9))
        tables = [EmbeddingTable(side, tuple(range(21))) for side in rows]
        model.manipulator.fit(examples_of(*tables))
    return TrainingModule(model, config)


def batch_of(batch: int, mute: tuple[int, ...] = (), dim: int = 32) -> Example:
    """Random embeddings; rows of the flat order [queries * batch] that have no caption."""
    generator = torch.Generator().manual_seed(4)
    audio, text = torch.nn.functional.normalize(
        torch.randn(2, batch, 2, dim, generator=generator), dim=-1
    )
    for row in mute:
        text[row % batch, row // batch] = 0
    return Example(
        mixture=torch.zeros(batch, 1, 10),
        targets=torch.zeros(batch, 2, 1, 10),
        audio=audio,
        text=text,
        not_audio=torch.zeros_like(audio),
        not_text=torch.zeros_like(text),
        others=torch.zeros(batch, 2, 3, dim),
        not_others=torch.zeros(batch, 2, 3, dim),
        clips=torch.zeros(batch, 2, dtype=torch.long),
        query_audio=torch.zeros(batch, 2, 0),
        query_samples=torch.zeros(batch, 2, dtype=torch.long),
    )


def flat(embedding: torch.Tensor) -> torch.Tensor:
    """[batch, queries, dim] in the order of the separator's queries."""
    return torch.cat([embedding[:, query] for query in range(embedding.shape[1])])


@pytest.mark.parametrize("p_text", [0.0, 0.3, 1.0])
def test_each_captioned_example_is_asked_by_text_as_often_as_configured(
    p_text: float,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    mute = (1, 5, 6)
    batch = batch_of(5, mute)
    heard, said = flat(batch["audio"]), flat(batch["text"])
    module = module_of(with_steps(configure(tmp_path, p_text=p_text)), debug_encoder)
    by_text = torch.zeros(10)
    mixed = 0
    for module.step_index in range(200):
        condition = module.condition(batch)
        rows = (condition == said).all(-1)
        assert torch.equal(condition, torch.where(rows[:, None], said, heard))
        by_text += rows
        mixed += 0 < int(rows.sum()) < 7
        assert torch.equal(condition, module.condition(batch))  # of this step
    assert by_text[list(mute)].sum() == 0
    captioned = torch.tensor([row not in mute for row in range(10)])
    spread = 4 * (p_text * (1 - p_text) / 200) ** 0.5
    assert (by_text[captioned] / 200 - p_text).abs().max() <= spread + 1e-6
    if 0 < p_text < 1:  # by the example, not by the batch
        assert mixed > 150


def test_both_sides_are_manipulated_and_text_is_never_corrupted(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(6, mute=(2, 9))
    config = with_steps(configure(tmp_path, p_text=0.5), MeanShift(), Pca(k=9), Dropout(p=0.5))
    module = module_of(config, debug_encoder)
    infer = module.model.manipulator.infer
    heard, said = infer(flat(batch["audio"]), False), infer(flat(batch["text"]), True)
    asked = []
    for module.step_index in range(10):
        condition = module.condition(batch)
        assert condition.shape == (12, 9)
        by_text = (condition == said).all(-1)
        asked.append(int(by_text.sum()))
        assert not by_text[[2, 9]].any()
        dropped = condition[~by_text]
        torch.testing.assert_close(
            dropped, torch.where(dropped == 0, 0.0, 2 * heard[~by_text]), atol=1e-6, rtol=1e-5
        )
        assert 0.2 < (dropped == 0).float().mean() < 0.8
    assert 0 < sum(asked) < 100


def test_both_sides_are_asked_by_what_is_nearer_than_the_other_sounds(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    nearer = Neighbours(p=1.0, reach=1.0, conditional=True)
    config = taking_negatives(configure(tmp_path), nearer)
    module = module_of(config, debug_encoder)
    batch = batch_of(6)
    for side, generator in (("not_audio", 1), ("others", 2), ("not_others", 3)):
        drawn = torch.randn(batch[side].shape, generator=torch.Generator().manual_seed(generator))  # type: ignore[literal-required]
        batch[side] = torch.nn.functional.normalize(drawn, dim=-1)  # type: ignore[literal-required]
    for module.step_index in range(5):
        sides = module.condition(batch).split(debug_encoder.dim, -1)
        for found, asked, others in zip(
            sides, ("audio", "not_audio"), ("others", "not_others"), strict=True
        ):
            own = flat(batch[asked])  # type: ignore[literal-required]
            beside = flat(batch[others])  # type: ignore[literal-required]
            assert not torch.equal(found, own)
            likeness = (beside @ found[:, :, None])[:, :, 0].amax(-1)
            kept = (found == own).all(-1)
            assert (kept | ((found * own).sum(-1) > likeness)).all()


def test_another_seed_or_step_asks_otherwise(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(6)
    config = with_steps(configure(tmp_path, p_text=0.5), Noise())
    modules = [
        module_of(config.model_copy(update={"seed": seed}), debug_encoder) for seed in (0, 1)
    ]
    conditions = []
    for module in modules:
        for module.step_index in (0, 1):
            conditions.append(module.condition(batch))
    for i, condition in enumerate(conditions):
        assert not any(torch.equal(condition, other) for other in conditions[:i])


def test_query_mixup_draws_points_between_sound_and_caption(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(5, mute=(0, 7))
    heard, said = flat(batch["audio"]), flat(batch["text"])
    captioned = said.any(-1)
    module = module_of(with_steps(configure(tmp_path, query_mixup=True)), debug_encoder)
    drawn = []
    for module.step_index in range(150):
        condition = module.condition(batch)
        assert torch.equal(condition[~captioned], heard[~captioned])
        along = (heard - said)[captioned]
        alpha = ((condition - said)[captioned] * along).sum(-1) / along.square().sum(-1)
        between = said[captioned] + alpha[:, None] * along
        torch.testing.assert_close(condition[captioned], between, atol=1e-6, rtol=0)
        drawn.append(alpha)
    alphas = torch.stack(drawn)
    assert alphas.min() > -1e-6
    assert alphas.max() < 1 + 1e-6
    uniform = torch.linspace(0, 1, alphas.numel())
    distance = (alphas.flatten().sort().values - uniform).abs().max()
    assert distance < 1.95 / alphas.numel() ** 0.5  # Kolmogorov and Smirnov, 0.1 %
    assert alphas.std(1).min() > 0.05  # drawn for each row
    module.run = configure(tmp_path, query_mixup=True, p_text=1.0)
    only_text = module.condition(batch)
    assert torch.equal(only_text, torch.where(captioned[:, None], said, heard))


# Two sides of a query.


def taking_negatives(config: TrainConfig, *steps: AnyManipulation) -> TrainConfig:
    config = with_steps(config, *steps)
    return config.model_copy(update={"model": config.model.model_copy(update={"negative": True})})


def questions_of(batch: int) -> Example:
    """Rows 0 to 2 of the flat order: removal, contrast and a contrast without captions; all others
    ask with a positive prompt alone."""
    asked = batch_of(batch, mute=(0, 2, 5))
    generator = torch.Generator().manual_seed(8)
    for name in ("not_audio", "not_text"):
        rows = torch.nn.functional.normalize(torch.randn(3, 32, generator=generator), dim=-1)
        for row in range(3):
            asked[name][row % batch, row // batch] = rows[row]  # type: ignore[literal-required]
    asked["audio"][0, 0] = 0
    asked["not_text"][2 % batch, 2 // batch] = 0
    return asked


@pytest.mark.parametrize(
    "regime", [{}, {"p_text": 0.4}, {"query_mixup": True}, {"p_text": 0.3, "query_mixup": True}]
)
def test_positive_sides_are_conditioned_as_without_negative_prompts(
    regime: dict[str, Any],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """To the bit, at any step."""
    batch = batch_of(5, mute=(1, 7))
    config = configure(tmp_path, **regime)
    steps = MeanShift(), Noise(), Dropout(p=0.5)
    plain = module_of(with_steps(config, *steps), debug_encoder)
    both = module_of(taking_negatives(config, *steps), debug_encoder)
    assert plain.model.condition_dim == 32
    assert both.model.condition_dim == 64
    for step in range(5):
        plain.step_index = both.step_index = step
        condition = both.condition(batch)
        assert torch.equal(condition[:, :32], plain.condition(batch))
        assert not condition[:, 32:].any()


@pytest.mark.parametrize("query_mixup", [False, True])
@pytest.mark.parametrize("p_text", [0.0, 0.5, 1.0])
def test_each_side_is_conditioned_on_its_sound_or_its_caption(
    p_text: float,
    query_mixup: bool,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """And is zeros without either, whatever a manipulation makes of zeros."""
    batch = questions_of(4)
    config = configure(tmp_path, p_text=p_text, query_mixup=query_mixup)
    module = module_of(taking_negatives(config, MeanShift()), debug_encoder)
    infer = module.model.manipulator.infer
    assert infer(torch.zeros(1, 32), False).any()
    heard, said = infer(flat(batch["not_audio"]), False), infer(flat(batch["not_text"]), True)
    by_text = torch.zeros(8)
    for module.step_index in range(120):
        condition = module.condition(batch)
        assert torch.equal(condition, module.condition(batch))
        positive, negative = condition.chunk(2, -1)
        assert not positive[0].any()
        assert positive[1:].any(-1).all()
        assert not negative[3:].any()
        rows = (negative == said).all(-1)[:3]
        assert torch.equal(negative[:3], torch.where(rows[:, None], said[:3], heard[:3]))
        by_text[:3] += rows
    assert by_text[2] == 0
    assert (by_text[:2] / 120 - p_text).abs().max() <= 4 * (p_text * (1 - p_text) / 120) ** 0.5


def test_training_and_inference_join_the_sides_alike(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """What is asked at inference was seen in training."""
    sounds = [0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    rows = [debug_encoder.embed_audio(sound, RATE)[0] for sound in sounds]
    batch = batch_of(2)
    none = torch.zeros(32)
    batch["audio"] = torch.stack([torch.stack([rows[0], none]), torch.stack([rows[0], rows[1]])])
    batch["text"] = torch.zeros_like(batch["audio"])
    batch["not_audio"] = torch.stack([torch.stack([none, rows[0]]), torch.stack([rows[1], none])])
    batch["not_text"] = torch.zeros_like(batch["audio"])
    module = module_of(taking_negatives(configure(tmp_path), MeanShift()), debug_encoder)
    one, two = (Sound(sound.numpy(), RATE) for sound in sounds)
    asked = [Query((one,)), Query((one,), (two,)), Query((), (one,)), Query((two,))]
    expected = torch.cat([module.model.embed(query).embeddings[0] for query in asked])
    torch.testing.assert_close(module.condition(batch), expected, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def clips(sounds: Path) -> list[Clip]:
    """Two classes of two recordings each, and two sounds alone in theirs."""
    labels = ["noise", "tone", "noise", "tone", "a", "b"]
    found = scan_folder(sounds)
    return [dataclasses.replace(c, label=label) for c, label in zip(found, labels, strict=True)]


def batch_from(
    clips: list[Clip], encoder: BuiltinEncoder, query_audio: QueryAudioConfig, rate: int = RATE
) -> Example:
    table = embeddings_of(clips, MIXTURES, encoder)
    dataset = MixtureDataset(clips, MIXTURES, rate, table, None, 3, 0, 4, query_audio)
    rows = [dataset[i] for i in range(4)]
    return Example(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]})  # type: ignore[literal-required, typeddict-item]


ON_THE_FLY = [
    QueryAudioConfig(spec_augment=SpecAugment()),
    QueryAudioConfig(source="other_crop", mixup=Mixup(gain_db=(-5.0, 0.0))),
    QueryAudioConfig(source="same_class", mixup=Mixup(share=0.5), spec_augment=SpecAugment()),
]


@pytest.mark.parametrize("query_audio", ON_THE_FLY)
def test_altered_sounds_are_embedded_on_the_fly(
    query_audio: QueryAudioConfig,
    clips: list[Clip],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """Against the encoder's embedding of what is altered by hand."""
    batch = batch_from(clips, debug_encoder, query_audio)
    config = with_steps(configure(tmp_path, query_audio=query_audio, seed=2))
    module = module_of(config, debug_encoder)
    module.step_index = 5
    before = torch.get_rng_state()
    condition = module.condition(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(condition, module.condition(batch))

    generator = torch.Generator().manual_seed(2 * 1_000_003 + 5)
    torch.rand(8, generator=generator)  # which are asked by text
    masks = query_audio.spec_augment
    lengths, cached = batch["query_samples"].T.flatten(), flat(batch["audio"])
    assert len(lengths.unique()) > 1
    for row, sound in enumerate(flat(batch["query_audio"])):
        log_mels: list[torch.Tensor] = []

        def altered(log_mel: torch.Tensor, seen: Any = log_mels) -> torch.Tensor:
            seen += [log_mel, log_mel if masks is None else masks.masked(log_mel, generator)]
            return seen[-1]

        sound = sound[: lengths[row]]
        expected = debug_encoder.embed_audio(sound, RATE, altered)[0]
        torch.testing.assert_close(condition[row], expected, atol=1e-6, rtol=0)
        if masks is not None:
            assert not torch.equal(*log_mels)
            assert not torch.allclose(condition[row], cached[row], atol=1e-4)
    if masks is None:
        assert ((condition - cached).abs().amax(-1) > 1e-4).sum() >= 6
    module.step_index = 6
    assert torch.equal(condition, module.condition(batch)) == (masks is None)


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_sounds_that_are_not_altered_are_embedded_as_the_cached_ones(
    rate: int,
    clips: list[Clip],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """Whatever the separator's rate."""
    never = QueryAudioConfig(mixup=Mixup(share=0.0), spec_augment=SpecAugment(share=0.0))
    batch = batch_from(clips, debug_encoder, never, rate)
    config = with_steps(configure(tmp_path, query_audio=never))
    separator = config.model.separator.model_copy(update={"sample_rate": rate})
    model = config.model.model_copy(update={"separator": separator})
    module = module_of(config.model_copy(update={"model": model}), debug_encoder)
    assert module.model.sample_rate == rate
    torch.testing.assert_close(module.condition(batch), flat(batch["audio"]), atol=1e-5, rtol=0)


def test_validation_scores_text_where_there_is_some(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Of mixtures some of whose targets have no caption."""
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(3, mute=(1, 3, 5))
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=generator)
    batch["mixture"] = batch["targets"].sum(1)
    config = with_steps(configure(tmp_path), MeanShift())
    model = QueriedSeparator(config.model, debug_encoder).eval()
    means = torch.randn(2, 32, generator=generator)
    model.manipulator.state = {"0.audio_mean": means[0], "0.text_mean": means[1]}
    module = TrainingModule(model, config).eval()
    logged: dict[str, tuple[float, int]] = {}
    module.log = lambda name, value, batch_size, **_: logged.update(  # type: ignore[method-assign, assignment]
        {name: (float(value), batch_size)}
    )
    with torch.no_grad():
        module.validation_step(batch, 0)
        for kind, rows in (("audio", [0, 1, 2, 3, 4, 5]), ("text", [0, 2, 4])):
            condition = model.manipulator.infer(flat(batch[kind]), kind == "text")  # type: ignore[literal-required]
            estimate = model(batch["mixture"], condition)
            scores = score(estimate, flat(batch["targets"]), batch["mixture"].repeat(2, 1, 1))
            mean = float(scores.si_sdr_improvement[rows].mean())
            assert logged[f"{kind}_si_sdri"] == (pytest.approx(mean, abs=1e-4), len(rows))
    assert logged["text_improved"][1] == 3
    assert logged["audio_improved"][1] == 6


# Regimes, through the whole run.


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Example, torch.Tensor]]:
    """Each batch with its condition."""
    taken: list[tuple[Example, torch.Tensor]] = []
    original = TrainingModule.condition

    def record(self: TrainingModule, batch: Example) -> torch.Tensor:
        condition = original(self, batch)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(condition, original(self, batch))
        assert condition.dtype == torch.float32
        taken.append((batch, condition))
        return condition

    monkeypatch.setattr(TrainingModule, "condition", record)
    return taken


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_partly_captioned_corpus_is_asked_by_what_there_is(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    steps_taken: list[tuple[Example, torch.Tensor]],
    tmp_path: Path,
) -> None:
    rows = rows_of(captioned)
    rows[1]["caption"] = None
    rows[2]["alternatives"] = ["another", "a third"]
    manifest = write_rows(captioned.with_name("partly.jsonl"), rows)
    config = configure(tmp_path, manifest=manifest, audio=None, p_text=1.0, batch_size=4)
    train(with_steps(config))
    captions = {0: [rows[0]["caption"]], 3: [rows[3]["caption"]]}
    captions[2] = [rows[2]["caption"], "another", "a third"]
    heard_of: dict[int, set[int]] = {}
    for batch, condition in steps_taken:
        numbers = flat(batch["clips"][..., None])[:, 0].tolist()
        for clip, row, heard in zip(numbers, condition, flat(batch["audio"]), strict=True):
            if clip == 1:
                assert torch.equal(row, heard)
                continue
            said = debug_encoder.embed_text(captions[clip])
            distance = (said - row).abs().amax(-1)
            assert distance.min() < 1e-5
            heard_of.setdefault(clip, set()).add(int(distance.argmin()))
    assert heard_of == {0: {0}, 2: {0, 1, 2}, 3: {0}}


def test_captions_of_the_uncaptioned_corpus_are_not_looked_at(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[Example, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: set[str] = set()
    original = BuiltinEncoder.embed_text

    def record(self: BuiltinEncoder, text: Any) -> torch.Tensor:
        read.update([text] if isinstance(text, str) else text)
        return original(self, text)

    monkeypatch.setattr(BuiltinEncoder, "embed_text", record)
    rows = rows_of(captioned)
    more = [
        {**row, "caption": f"secret {i}", "alternatives": ["hidden"], "group": f"more {i}"}
        for i, row in enumerate(rows)
    ]
    folder = shutil.copytree(captioned.parent, tmp_path / "more")
    manifest = write_rows(folder / "more.jsonl", more)
    config = configure(
        tmp_path,
        manifest=captioned,
        audio=None,
        uncaptioned=UncaptionedConfig(manifest=manifest),
        p_text=1.0,
        batch_size=4,
    )
    train(with_steps(config, Pca(k=6)))
    assert read == {f"sound number {i}" for i in range(4)}
    drawn = torch.cat([batch["clips"].flatten() for batch, _ in steps_taken])
    assert set(drawn.tolist()) == set(range(8))  # four of each corpus
    for batch, _ in steps_taken:
        assert torch.equal(batch["text"].any(-1), batch["clips"] < 4)


@pytest.fixture(scope="module")
def large_manifest(captioned: Path) -> Path:
    """150 recordings of two lines each, all of one file."""
    rows = [
        {"path": "0.wav", "seconds": 0.3, "caption": f"{i}", "group": f"recording {i // 2}"}
        for i in range(300)
    ]
    rows.append({**rows[0], "split": "test", "group": "elsewhere"})
    return write_rows(captioned.with_name("large.jsonl"), rows)


@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(deadline=None, max_examples=20)
def test_a_larger_share_holds_every_smaller_one(
    shares: tuple[float, float], large_manifest: Path
) -> None:
    small, large = (
        uncaptioned_clips(UncaptionedConfig(manifest=large_manifest, share=share))
        for share in sorted(shares)
    )
    groups = [{clip.group for clip in found} for found in (small, large)]
    assert groups[0] <= groups[1]
    for found, names, share in zip((small, large), groups, sorted(shares), strict=True):
        assert len(found) == 2 * len(names)  # whole recordings
        assert len(names) / 150 == pytest.approx(share, abs=0.15)
        assert all(clip.captions == () and clip.split == "train" for clip in found)


def test_shares_of_nothing_and_everything(
    large_manifest: Path,
    sounds: Path,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    assert len(uncaptioned_clips(UncaptionedConfig(manifest=large_manifest))) == 300
    assert uncaptioned_clips(UncaptionedConfig(manifest=large_manifest, share=0.0)) == []
    assert uncaptioned_clips(UncaptionedConfig(audio=sounds)) == scan_folder(sounds)
    # What is drawn does not hang on what else is in the manifest.
    half = UncaptionedConfig(manifest=large_manifest, share=0.5)
    few = write_rows(large_manifest.with_name("few.jsonl"), rows_of(large_manifest)[100:140])
    expected = [c.group for c in uncaptioned_clips(half) if 50 <= int(c.group.split()[1]) < 70]
    found = uncaptioned_clips(UncaptionedConfig(manifest=few, share=0.5))
    assert [clip.group for clip in found] == expected
    # None of it is as if there were none.
    none = UncaptionedConfig(manifest=large_manifest, share=0.0)
    train(configure(tmp_path, uncaptioned=none))
    assert_same(tensors_below(tmp_path), tensors_below(trained[0].output))


@pytest.mark.parametrize(
    ("source", "expected"),
    [("other_crop", {"own"}), ("same_class", {"other", "own"})],
)
def test_the_run_asks_with_other_sounds_than_the_targets(
    source: Any,
    expected: set[str],
    captioned: Path,
    debug_encoder: BuiltinEncoder,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[Example, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Clips 2 and 3 are long enough for several crops; 1 and 3 are of one class."""
    rows = [{**row, "class": "abcb"[i]} for i, row in enumerate(rows_of(captioned)[:4])]
    manifest = write_rows(captioned.with_name(f"{source}.jsonl"), rows)
    config = configure(
        tmp_path,
        manifest=manifest,
        audio=None,
        query_audio=QueryAudioConfig(source=source),
        batch_size=4,
    )
    train(with_steps(config))
    clips, _ = split_clips(config)
    table = embeddings_of(clips, MIXTURES, debug_encoder)
    targets = MixtureDataset(clips, MIXTURES, RATE, table, None, config.seed, 0, 16)
    plain = torch.cat([targets[i]["audio"] for i in range(16)])
    batches = [batch for batch, _ in steps_taken]
    heard = torch.cat([batch["audio"].flatten(0, 1) for batch in batches])
    numbers = torch.cat([batch["clips"].flatten() for batch in batches]).tolist()
    kinds = set()
    for clip, row, target in zip(numbers, heard, plain, strict=True):
        rows_found = (table.embeddings == row).all(-1).nonzero().flatten().tolist()
        (found,) = rows_found
        owner = int(np.searchsorted(table.offsets, found, "right")) - 1
        if source == "same_class" and clip in (1, 3):
            assert owner == 4 - clip
            kinds.add("other")
            continue
        assert owner == clip
        kinds.add("own")
        assert torch.equal(row, target) == (table.count(clip) == 1)
    assert kinds == expected


def test_conditions_are_exact_whatever_the_runs_precision(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[Example, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """In bfloat16, a run would see other directions than inference."""
    config = configure(
        tmp_path,
        manifest=captioned,
        audio=None,
        precision="bfloat16",
        steps=1,
        query_audio=QueryAudioConfig(spec_augment=SpecAugment()),
    )
    train(with_steps(config, MeanShift(), Pca(k=8)))
    assert len(steps_taken) == 1


def test_devices_and_embeddings_that_cannot_be_are_refused(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = configure(tmp_path / "run", manifest=captioned, audio=None, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device here"):
            train(config)
        assert not (tmp_path / "run").exists()
    values = config.model_dump() | {"embeddings": "e.sqlite", "query_audio": {"mixup": {}}}
    with pytest.raises(ConfigError, match="need the encoder itself"):
        validated(TrainConfig, values, "here")


def test_a_run_of_everything_resumes_to_the_bit_and_its_steps_go_on(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Masked and mixed sounds, several captions, both corpora, a manipulation that learns."""
    rows = rows_of(captioned)
    rows[0]["alternatives"] = ["another", "a third"]
    rows[3]["caption"] = None
    manifest = write_rows(captioned.with_name("everything.jsonl"), rows)
    short = ValidationConfig().mixtures.model_copy(
        update={"segment_seconds": 0.7, "crop_hop_seconds": 0.35}
    )
    config = configure(
        tmp_path / "whole",
        manifest=manifest,
        audio=None,
        uncaptioned=UncaptionedConfig(manifest=captioned, share=0.9),
        query_audio=QueryAudioConfig(
            source="same_class", mixup=Mixup(), spec_augment=SpecAugment()
        ),
        p_text=0.3,
        query_mixup=True,
        validation=ValidationConfig(num_mixtures=2, every_steps=1, mixtures=short),
    )
    config = with_steps(config, MeanShift(), Pca(k=12), Retrieval(), Noise(), Dropout(p=0.2))
    (tmp_path / "rest").mkdir()
    train_and_copy(config, tmp_path / "rest")
    rest = config.model_copy(update={"output": tmp_path / "rest"})
    train(rest)
    assert_same(tensors_below(rest.output), tensors_below(config.output))
    assert_same(load_file(rest.output / FILE_NAME), load_file(config.output / FILE_NAME))

    def validated(output: Path) -> list[int]:
        with (output / "logs" / "version_0" / "metrics.csv").open() as file:
            return [int(row["step"]) for row in csv.DictReader(file) if row["audio_si_sdri"]]

    assert validated(config.output) == [1, 2, 3, 4]
    assert validated(rest.output) == [3, 4]

    model = QueriedSeparator.from_pretrained(config.output / "model")
    assert isinstance(model.manipulator, Manipulator)
    assert model.manipulator.dim == 12
    assert model.manipulator.state is not None
    assert set(model.manipulator.state) == {
        *("0.audio_mean", "0.text_mean"),
        *("1.audio_mean", "1.text_mean", "1.basis"),
        "2.captions",
    }
    # Five captions of three sounds: no others are looked at.
    assert len(model.manipulator.state["2.captions"]) == 5
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, RATE)).astype(np.float32)
    target = Extractor(model).extract(mixture, "a dog barking", RATE).target
    assert np.isfinite(target).all()


# Questions of every kind, through the whole run.

EVERY_KIND = QueriesConfig(absent_share=0.25, removal_share=0.25, contrast_share=0.25)


@pytest.fixture(scope="module")
def asked_everything(
    own_cache: Path,
    captioned: Path,
    tmp_path_factory: pytest.TempPathFactory,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
) -> tuple[TrainConfig, Path]:
    """A finished run, and a folder with its checkpoint of step two."""
    harder = MIXTURES.model_copy(
        update={"gate_share": 0.5, "reverb_share": 0.5, "bed_share": 0.5, "lossy_share": 0.5}
    )
    short = ValidationConfig().mixtures.model_copy(
        update={"segment_seconds": 0.7, "crop_hop_seconds": 0.35}
    )
    config = configure(
        tmp_path_factory.mktemp("asked"),
        manifest=captioned,
        audio=None,
        mixtures=harder,
        queries=EVERY_KIND,
        p_text=0.5,
        absent_weight=0.5,
        batch_size=4,
        validation=ValidationConfig(num_mixtures=2, every_steps=2, mixtures=short),
    )
    model = config.model.model_copy(update={"negative": True})
    # To a tiny encoder all sounds are alike, and none is surely absent.
    given = tmp_path_factory.mktemp("given") / "given.sqlite"
    generator = torch.Generator().manual_seed(3)
    with EmbeddingCache(given, debug_encoder.fingerprint, 32) as cache:
        train_clips, validation_clips = split_clips(config)
        for clips, mixtures in ((train_clips, harder), (validation_clips, short)):
            for clip in clips:
                for crop in range(num_crops(clip, mixtures)):
                    row = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
                    cache.put(cache.key(clip, crop, mixtures), row)
    config = config.model_copy(update={"model": model, "embeddings": given})
    stopped = tmp_path_factory.mktemp("asked-stopped")
    kinds: set[tuple[bool, ...]] = set()
    original = TrainingModule.training_step

    def record(self: TrainingModule, batch: Any, index: int) -> Any:
        rows = (flat(batch[name]).flatten(1).any(-1) for name in ("audio", "not_audio", "targets"))
        kinds.update(zip(*(row.tolist() for row in rows), strict=True))
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", record)
        train_and_copy(config, stopped)
    # Plain, contrast, removal, absent.
    expected = {(True, False, True), (True, True, True), (False, True, True), (True, False, False)}
    assert kinds == expected
    return config, stopped


def test_a_run_that_asked_everything_resumes_to_the_bit(
    asked_everything: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, stopped = asked_everything
    assert saved_step_of(stopped / FILE_NAME) == 2
    rest = config.model_copy(update={"output": tmp_path / "rest"})
    shutil.copytree(stopped, rest.output)
    train(rest)
    assert_same(tensors_below(rest.output), tensors_below(config.output))
    assert_same(load_file(rest.output / FILE_NAME), load_file(config.output / FILE_NAME))
    read = [(run.output / "model" / "config.json").read_text() for run in (rest, config)]
    assert read[0] == read[1]  # with its calibration
    written = json.loads((config.output / "config.json").read_text())
    assert TrainConfig.model_validate(written) == config
    with (config.output / "logs" / "version_0" / "metrics.csv").open() as file:
        header = csv.DictReader(file).fieldnames
    assert header is not None
    assert {"audio_si_sdri", "text_si_sdri"} <= set(header)


def test_a_run_that_asked_everything_answers_everything(
    asked_everything: tuple[TrainConfig, Path],
) -> None:
    config, _ = asked_everything
    extractor = Extractor.from_pretrained(config.output / "model")
    assert extractor.model.config.negative
    mixture = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    sound = Sound(np.random.default_rng(1).normal(0, 0.1, 9_000).astype(np.float32), RATE)
    targets, presences = [], []
    for query in (
        Query("a dog"),
        Query(("a dog", sound)),
        Query((), ("a dog",)),
        Query("a dog", ("rain", sound)),
        Query((sound,)),
    ):
        result = extractor.extract(mixture, query, RATE)
        assert np.isfinite(result.target).all()
        assert np.abs(result.target + result.residual - mixture).max() <= 1e-6
        targets.append(result.target)
        if not query.positive:  # nothing is asked to be there
            assert result.presence is None
            continue
        assert result.presence is not None
        assert 0 <= result.presence <= 1
        presences.append(result.presence)
    assert len(set(presences)) == len(presences)
    for i, target in enumerate(targets):
        assert all(np.abs(target - other).max() > 1e-5 for other in targets[:i])


def test_presence_is_calibrated_where_all_validation_sounds_have_captions(
    telling_model_folder: Path, sounds: Path
) -> None:
    model = QueriedSeparator.from_pretrained(telling_model_folder)
    found = scan_folder(sounds)
    clips = [
        dataclasses.replace(c, caption=f"sound {i}", label=f"a/{i}") for i, c in enumerate(found)
    ]
    short = SCORED_MIXTURES.model_copy(update={"segment_seconds": 0.5, "crop_hop_seconds": 0.25})
    config = ValidationConfig(num_mixtures=2, mixtures=short)
    before = model.config.presence
    mute = [*clips[:-1], dataclasses.replace(clips[-1], caption=None)]
    calibrate(model, mute, config)
    assert model.config.presence == before
    calibrate(model, clips, config)
    assert model.config.presence not in (before, None)
    asked = EvaluationConfig(num_mixtures=100, seed=VALIDATION_SEED + 1, mixtures=short)
    expected = calibrated(model, clips, asked)
    assert (model.config.presence, model.config.gate) == expected


def test_another_encoder_of_the_same_name_is_refused(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """A finished run would else be saved anew as one of the new encoder."""
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
    with pytest.raises(ModelError, match="began with another query encoder") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert (config.output / "model" / "config.json").read_bytes() == before


def test_other_sounds_are_another_run(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(sounds, tmp_path / "sounds")
    config = configure(tmp_path / "run", steps=1, audio=mine)
    train(config)
    shutil.copy(mine / "0.wav", mine / "new.wav")
    with pytest.raises(ModelError, match="began with other sounds than there are now"):
        train(config)
    (mine / "new.wav").unlink()
    train(config)


def test_checkpoints_of_earlier_versions_go_on(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """They do not say which sounds and encoder they are of, nor what a manipulation had learnt."""
    config = with_steps(configure(tmp_path / "run", steps=1), Neighbours(sounds=2))
    weights = (train(config) / "model.safetensors").read_bytes()
    path = config.output / FILE_NAME
    with safetensors.safe_open(path, "pt") as file:
        old = {name: file.metadata()[name] for name in ("key", "step")}
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("manipulation.")}
    save_file(tensors, path, old)
    assert (train(config) / "model.safetensors").read_bytes() == weights


def test_what_a_manipulation_learnt_goes_on_with_the_run(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Learnt anew, axes could turn round under the weights."""
    config = with_steps(configure(tmp_path / "run", steps=1), Pca(k=3, centre="none"))
    train(config)
    path = config.output / FILE_NAME
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    names = [name for name in tensors if name.startswith("manipulation.")]
    assert names
    marked = {name: -tensor if name in names else tensor for name, tensor in tensors.items()}
    save_file(marked, path, metadata)
    found = load_file(train(config) / "model.safetensors")
    for name in names:
        torch.testing.assert_close(found[name], -tensors[name])


def test_a_memory_of_another_encoder_is_left(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    first = with_steps(configure(tmp_path / "first", steps=1), Neighbours(sounds=2))
    learnt = load_file(train(first) / "model.safetensors")["manipulation.0.memory"]
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = copy.deepcopy(debug_encoder)
        torch.nn.init.normal_(next(other.network.audio.parameters()))
    other.save_pretrained(tmp_path / "encoder")
    model = first.model.model_copy(
        update={"encoder": EncoderReference(name=str(tmp_path / "encoder"))}
    )
    changes = {"model": model, "init": first.output / "model", "output": tmp_path / "second"}
    found = load_file(train(first.model_copy(update=changes)) / "model.safetensors")
    nearest = (found["manipulation.0.memory"] @ learnt.T).amax(1)
    assert len(nearest) == len(learnt)
    assert float(nearest.max()) < 0.9999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixtures": {"num_sources": [1, 3]}}, r"mixtures.num_sources is \[1, 3\].*begin at 2"),
        (
            {"validation": {"mixtures": {"num_sources": [1, 2]}}},
            r"validation.mixtures.num_sources is \[1, 2\]",
        ),
        ({"seed": 2**32}, "'seed'"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    model = {"separator": {"type": "identity"}}
    values = {"audio": "sounds", "output": "run", "model": model, **changes}
    with pytest.raises(ConfigError, match=message):
        validated(TrainConfig, values, "run.yaml")


def test_mixtures_of_one_sound_are_asked_for_it(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    alone = MIXTURES.model_copy(update={"num_sources": (1, 1)})
    assert (train(configure(tmp_path, steps=1, mixtures=alone)) / "config.json").is_file()


def test_more_sounds_are_none_that_are_held_out_or_there_already(
    captioned: Path, sounds: Path, tmp_path: Path
) -> None:
    clips = scan_folder(captioned.parent)
    known, out = clips[:2], clips[2:4]
    files = {clip.path.resolve() for clip in out}
    found = uncaptioned_clips(
        UncaptionedConfig(audio=captioned.parent), known, (files, {clips[4].group})
    )
    assert [clip.path for clip in found] == [clip.path for clip in clips[4:]]
    found = uncaptioned_clips(UncaptionedConfig(manifest=captioned), (), ((), {"0.wav"}))
    assert [clip.path.name for clip in found] == ["1.wav", "2.wav", "3.wav"]


def test_a_folder_that_is_given_twice_is_not_trained_on_where_it_is_scored(
    configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounds").mkdir()
    write_sounds(tmp_path / "sounds", 60)
    config = configure(
        tmp_path / "run",
        audio=tmp_path / "sounds",
        uncaptioned=UncaptionedConfig(audio=tmp_path / "sounds"),
        steps=1,
    )
    trained_on: list[Clip] = []
    original = MixtureDataset.__init__

    def spy(self: MixtureDataset, clips: list[Clip], *args: Any, **kwargs: Any) -> None:
        trained_on.extend(clips)
        original(self, clips, *args, **kwargs)

    monkeypatch.setattr(MixtureDataset, "__init__", spy)
    train(config)
    to_train, to_score = split_clips(config)
    assert len(to_score) == 3
    assert sorted(clip.path for clip in trained_on) == sorted(clip.path for clip in to_train)


def test_an_error_in_a_process_that_renders_is_one_line(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(sounds, tmp_path / "sounds")
    config = configure(tmp_path / "run", audio=mine, num_workers=1)
    table = embeddings_of(
        scan_folder(mine), config.mixtures, load_encoder(config.model.encoder.name)
    )
    assert len(table.embeddings)  # which are kept, so that it is rendering that fails
    for path in mine.glob("*.wav"):
        found = soundfile.info(path)
        stamp = path.stat()
        write_wav(path, np.full((1, found.frames), np.nan, np.float32), found.samplerate)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(AudioError, match=r"wav: has NaN or infinite samples$") as caught:
        train(config)
    assert str(caught.value).startswith(str(mine))


def test_what_a_manipulation_has_learnt_goes_on_with_the_weights(
    configure: Callable[..., TrainConfig], sounds: Path, tmp_path: Path
) -> None:
    """Where it is the same manipulation, with what is new; another one learns anew, from the sounds
    of now."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(sounds.glob("*.wav"))[:4]:
        shutil.copy(path, few)
    steps = Neighbours(sounds=2)
    first = with_steps(configure(tmp_path / "first", steps=1, audio=few), steps)
    learnt = load_file(train(first) / "model.safetensors")["manipulation.0.memory"]
    for step, is_same in ((steps, True), (Neighbours(sounds=1), False)):
        again = with_steps(configure(tmp_path / f"again {is_same}", steps=1), step)
        again = again.model_copy(update={"init": first.output / "model"})
        found = load_file(train(again) / "model.safetensors")["manipulation.0.memory"]
        assert torch.equal(found[: len(learnt)], learnt) == is_same
        assert len(found) > len(learnt)


def test_the_step_weighs_silence(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(3)
    generator = torch.Generator().manual_seed(0)
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=generator)
    batch["mixture"] = batch["targets"].sum(1)
    batch["targets"][0, 1] = batch["targets"][2, 0] = 0
    config = configure(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = QueriedSeparator(config.model, debug_encoder).eval()
    module = TrainingModule(model, config)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value.detach())}  # type: ignore[method-assign, assignment]
        if isinstance(value, torch.Tensor) else {name: value})  # fmt: skip

    def loss_of(**changes: Any) -> float:
        module.run = config.model_copy(update=changes)
        with torch.no_grad():
            return float(module.training_step(batch, 0))

    with torch.no_grad():
        estimate = model(batch["mixture"], module.condition(batch))
    target, mixture = flat(batch["targets"]), batch["mixture"].repeat(2, 1, 1)
    losses = separation_loss_db(estimate, target, mixture)[:, 0]
    silent = torch.tensor([False, False, True, True, False, False])
    assert torch.equal(target.any(-1)[:, 0], ~silent)
    separated = {
        weight: float(torch.where(silent, weight * losses, losses).mean())
        for weight in (0.0, 0.5, 1.0)
    }
    assert separated[0.0] != pytest.approx(separated[1.0], abs=1e-3)
    assert loss_of() == pytest.approx(separated[1.0], abs=1e-5)
    for weight, expected in separated.items():
        found = loss_of(absent_weight=weight)
        assert found == pytest.approx(expected, abs=1e-5)
        assert logged["loss"] == pytest.approx(found, abs=1e-6)
    direction = negative_si_sdr_db(estimate, target)[:, 0]
    added = torch.where(silent, 0.5 * losses, losses + 0.3 * direction).mean()
    assert loss_of(absent_weight=0.5, si_sdr_weight=0.3) == pytest.approx(float(added), abs=1e-5)


def test_the_loss_is_that_of_the_estimates(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    config = with_steps(configure(tmp_path))
    batch = batch_of(3)
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=torch.Generator().manual_seed(0))
    batch["mixture"] = batch["targets"].sum(1)
    module = module_of(config, debug_encoder)
    logged: list[str] = []
    module.log = lambda name, value, **_: logged.append(name)  # type: ignore[method-assign, assignment]
    loss = module.training_step(batch, 0)
    expected = negative_snr_db(batch["mixture"].repeat(2, 1, 1), flat(batch["targets"])).mean()
    torch.testing.assert_close(loss, expected)
    assert set(logged) == {"loss", "step"}


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


# Config.


@pytest.mark.parametrize(
    ("queries", "model", "query_audio", "message"),
    [
        ({"removal_share": 0.1}, {}, {}, "need a model that takes them: model.negative"),
        ({"contrast_share": 0.1}, {}, {}, "need a model that takes them: model.negative"),
        ({"contrast_share": 0.1}, {"negative": True}, {"mixup": {}}, "do not go with mixup"),
        ({"absent_share": 0.1}, {}, {"mixup": {}}, None),
        ({"removal_share": 0.1}, {"negative": True}, {"source": "same_class"}, None),
    ],
)
def test_negative_questions_need_a_model_that_takes_them(
    queries: dict[str, Any], model: dict[str, Any], query_audio: dict[str, Any], message: str | None
) -> None:
    values = {
        "audio": "a",
        "output": "b",
        "model": {"separator": {"type": "identity"}, **model},
        "queries": queries,
        "query_audio": query_audio,
    }
    if message is None:
        assert TrainConfig.model_validate(values).queries == QueriesConfig(**queries)
        return
    with pytest.raises(ConfigError, match=message):
        validated(TrainConfig, values, "here")


def test_the_weight_of_silence_is_not_negative() -> None:
    values = {"audio": "a", "output": "b", "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match="absent_weight"):
        TrainConfig.model_validate({**values, "absent_weight": -0.1})


def test_a_run_has_exactly_one_source(tmp_path: Path) -> None:
    values: dict[str, Any] = {"output": tmp_path, "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match="either a manifest or a folder"):
        TrainConfig.model_validate(values)
    with pytest.raises(ValidationError, match="either a manifest or a folder"):
        TrainConfig.model_validate({**values, "manifest": "a", "audio": "b"})
    TrainConfig.model_validate({**values, "audio": "b"})


def test_home_is_expanded() -> None:
    config = TrainConfig.model_validate(
        {"audio": "~/a", "output": "~/b", "model": {"separator": {"type": "identity"}}}
    )
    assert config.output == Path.home() / "b"
    assert config.audio == Path.home() / "a"


@pytest.mark.parametrize(
    ("key", "value"),
    [("p_text", 1.1), ("steps", 0), ("learning_rate", 0), ("ema_decay", 1), ("seed", -1)],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    values = {"audio": "a", "output": "b", "model": {"separator": {"type": "identity"}}}
    with pytest.raises(ValidationError, match=key):
        TrainConfig.model_validate({**values, key: value})


# The step's parts.


def test_the_loss_is_the_negative_snr_with_a_ceiling() -> None:
    target = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 4000, generator=torch.Generator().manual_seed(1))
    noise *= target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        negative_snr_db(target, target), torch.full((5,), -30.0), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        negative_snr_db(torch.zeros_like(target), target), torch.zeros(5), atol=0.01, rtol=0
    )
    torch.testing.assert_close(
        negative_snr_db(target + 0.1 * noise, target),
        torch.full((5,), 10 * math.log10(0.01 + 0.001)),
        atol=1e-3,
        rtol=0,
    )


def test_si_sdr_counts_the_direction_alone_and_is_bounded() -> None:
    target, noise = torch.randn(2, 6, 4_000, generator=torch.Generator().manual_seed(0))
    noise -= (noise * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    noise *= target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    for level in (0.5, 1.0, 20.0):
        for wrong in (0.3, 1.0, 3.0):
            loss = negative_si_sdr_db(level * (target + wrong * noise), target)
            expected = torch.full((6,), 20 * math.log10(wrong))
            torch.testing.assert_close(loss, expected, atol=0.3, rtol=0)
    for estimate in (noise, torch.zeros_like(target)):
        nothing = negative_si_sdr_db(estimate, target)
        torch.testing.assert_close(nothing, torch.full((6,), 30.0), atol=0.1, rtol=0)
    assert (negative_si_sdr_db(target, target) < -26.9).all()
    for estimate in (torch.zeros(6, 4_000), 1e-6 * noise, target.clone()):
        estimate.requires_grad_()
        negative_si_sdr_db(estimate, target).sum().backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()
        assert estimate.grad.norm(dim=-1).max() * target.norm(dim=-1).max() < 3_000


@given(level=st.floats(1e-2, 1e2))
def test_the_loss_does_not_depend_on_the_level(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target, estimate = torch.randn(2, 1000, generator=generator)
    torch.testing.assert_close(
        negative_snr_db(level * estimate, level * target),
        negative_snr_db(estimate, target),
        atol=1e-3,
        rtol=0,
    )


def test_the_loss_and_its_gradient_are_finite_for_silence_and_perfection() -> None:
    for target in (torch.zeros(100), torch.ones(100)):
        for start in (torch.zeros(100), torch.ones(100)):
            estimate = start.clone().requires_grad_()
            loss = negative_snr_db(estimate, target)
            loss.backward()
            assert estimate.grad is not None
            assert torch.isfinite(loss)
            assert torch.isfinite(estimate.grad).all()


def drawn_losses(*shape: int, number: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed)))


def test_the_loss_of_a_silent_target_is_the_level_of_what_is_left() -> None:
    """From 0 dB for the mixture itself to -30 dB for silence; a quieter rest earns no more."""
    _, mixture, _ = drawn_losses(5, 4_000)
    silence = torch.zeros_like(mixture)
    for left, expected in ((1.0, 0.0), (0.1, -20), (0.0, -30), (1e-5, -30), (10.0, 20)):
        loss = separation_loss_db(left * mixture, silence, mixture)
        torch.testing.assert_close(loss, torch.full((5,), float(expected)), atol=0.5, rtol=0)
        exact = 10 * math.log10(left**2 + 1e-3)
        torch.testing.assert_close(loss, torch.full((5,), exact), atol=1e-3, rtol=0)


def test_the_loss_of_any_other_target_is_the_negative_snr() -> None:
    """To the bit, row by row."""
    target, mixture, estimate = drawn_losses(4, 1, 900)
    target[1] = 0
    losses = separation_loss_db(estimate, target, mixture)
    assert losses.shape == (4, 1)
    plain = negative_snr_db(estimate, target)
    for row in (0, 2, 3):
        assert torch.equal(losses[row], plain[row])
    assert losses[1] != plain[1]
    torch.testing.assert_close(
        separation_loss_db(target, target, mixture), torch.full((4, 1), -30.0), atol=1e-3, rtol=0
    )
    nothing = separation_loss_db(torch.zeros_like(target), target, mixture)[[0, 2, 3]]
    torch.testing.assert_close(nothing, torch.zeros(3, 1), atol=0.01, rtol=0)


@given(level=st.floats(1e-2, 1e2))
def test_the_loss_of_silence_does_not_depend_on_the_level(level: float) -> None:
    target, mixture, estimate = drawn_losses(2, 900)
    target[0] = 0
    torch.testing.assert_close(
        separation_loss_db(level * estimate, level * target, level * mixture),
        separation_loss_db(estimate, target, mixture),
        atol=1e-3,
        rtol=0,
    )


def test_the_loss_of_silence_has_finite_gradients() -> None:
    for mixture in (torch.zeros(100), torch.ones(100)):
        for target in (torch.zeros(100), torch.ones(100)):
            for start in (torch.zeros(100), torch.ones(100)):
                estimate = start.clone().requires_grad_()
                separation_loss_db(estimate, target, mixture).backward()
                assert estimate.grad is not None
                assert torch.isfinite(estimate.grad).all()


@settings(deadline=None)
@given(warmup=st.integers(0, 50), more=st.integers(1, 200))
def test_the_learning_rate_warms_up_then_falls(warmup: int, more: int) -> None:
    config = TrainConfig.model_validate(
        {
            "audio": "a",
            "output": "b",
            "model": {"separator": {"type": "identity"}},
            "warmup_steps": warmup,
            "steps": warmup + more,
        }
    )
    factors = [learning_rate_factor(step, config) for step in range(config.steps + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup] == 1
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)


def test_a_flat_schedule_warms_up_and_stays() -> None:
    config = TrainConfig.model_validate(
        {
            "audio": "a",
            "output": "b",
            "model": {"separator": {"type": "identity"}},
            "schedule": "flat",
            "warmup_steps": 4,
            "steps": 20,
        }
    )
    factors = [learning_rate_factor(step, config) for step in range(20)]
    assert factors == [0.25, 0.5, 0.75, *[1.0] * 17]
    plain = config.model_copy(update={"schedule": "cosine"})
    assert "schedule" not in plain.model_dump()  # configs of earlier runs stay what they were
    assert "si_sdr_weight" not in plain.model_dump()


def test_the_average_forgets_its_start() -> None:
    update = ema_update(0.9)
    start, current = torch.zeros(3), torch.ones(3)
    assert torch.equal(update(start, current, 0), current)
    torch.testing.assert_close(update(start, current, 10), torch.full((3,), 0.5))
    torch.testing.assert_close(update(start, current, 10_000), torch.full((3,), 0.1))
