"""Training of the tiny model on a folder of synthetic sounds, through the real loop."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_SEPARATOR
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from singleout import Extractor
from singleout.audio import write_wav
from singleout.data.embeddings import EmbeddingCache
from singleout.data.manifest import scan_folder
from singleout.data.plan import MixtureConfig, num_crops
from singleout.errors import ManifestError, ModelError, TrainingError
from singleout.model import EncoderReference, ModelConfig
from singleout.query import BuiltinEncoder
from singleout.query.manipulations import Chain, Dropout
from singleout.train.checkpoint import FILE_NAME, saved_step
from singleout.train.config import TrainConfig, ValidationConfig
from singleout.train.losses import negative_snr_db
from singleout.train.module import TrainingModule, ema_update, learning_rate_factor
from singleout.train.run import caption_embeddings, split_clips, train

RATE = 32_000
MIXTURES = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35, num_sources=(2, 3))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny network is faster so, and far faster on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    one_thread: None,
    own_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    configure: Callable[..., TrainConfig],
) -> tuple[TrainConfig, Path]:
    """A finished run of four steps, and a folder with its checkpoint of step two."""
    output = tmp_path_factory.mktemp("trained")
    stopped = tmp_path_factory.mktemp("stopped")
    config = configure(output)
    original = TrainingModule.on_train_batch_start

    def copy_checkpoint(self: TrainingModule, batch: Any, index: int) -> None:
        if self.step_index == 3:
            shutil.copy(output / FILE_NAME, stopped)
        original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", copy_checkpoint)
        train(config)
    return config, stopped


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
    assert before == {
        path: path.read_bytes() for path in sorted(config.output.rglob("*")) if path.is_file()
    }


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


def test_texts_are_needed_where_they_are_asked_for(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="p_text is above 0"):
        train(configure(tmp_path, p_text=0.5))


def test_the_loss_falls_on_an_easy_problem(
    configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    config = configure(tmp_path, steps=40, learning_rate=3e-3, mixtures=easy)
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
    clips, _ = split_clips(configure(tmp_path, manifest=captioned, audio=None))
    doubled = [clips[2], clips[0], clips[2]]
    embeddings = caption_embeddings(doubled, debug_encoder)
    assert embeddings is not None
    for clip, embedding in zip(doubled, embeddings, strict=True):
        assert clip.caption is not None
        expected = debug_encoder.embed_text(clip.caption)[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)
    assert caption_embeddings([*clips, *scan_folder(sounds)], debug_encoder) is None


# Config.


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


def test_the_average_forgets_its_start() -> None:
    update = ema_update(0.9)
    start, current = torch.zeros(3), torch.ones(3)
    assert torch.equal(update(start, current, 0), current)
    torch.testing.assert_close(update(start, current, 10), torch.full((3,), 0.5))
    torch.testing.assert_close(update(start, current, 10_000), torch.full((3,), 0.1))
