"""Regimes of training, through whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from singleout import Example as Sound
from singleout import Extractor, Query
from singleout.data.dataset import MixtureDataset, QueryAudioConfig, TrainingExample
from singleout.data.embedding_cache import EmbeddingCache
from singleout.data.embeddings import embeddings_of
from singleout.data.plan import num_crops
from singleout.data.query_plan import QueriesConfig
from singleout.encoders import BuiltinEncoder
from singleout.manipulations import Dropout, Manipulator, MeanShift, Noise, Pca, Retrieval
from singleout.manipulations.audio import Mixup, SpecAugment
from singleout.model import QueriedSeparator
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
from singleout.train.corpus import split_clips
from singleout.train.curve import read_curve
from singleout.train.module import TrainingModule
from singleout.train.run import train
from tests.train.runs import (
    MIXTURES,
    RATE,
    SHORT,
    assert_same,
    flat,
    rows_of,
    saved_step_of,
    tensors_below,
    train_and_copy,
    with_steps,
    write_rows,
)

pytestmark = pytest.mark.slow

ALL_KINDS = QueriesConfig(absent_share=0.25, removal_share=0.25, contrast_share=0.25)


def test_a_partly_captioned_corpus_uses_captions_and_sounds(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    steps_taken: list[tuple[TrainingExample, torch.Tensor]],
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
    captions_of: dict[int, set[int]] = {}
    for batch, condition in steps_taken:
        numbers = flat(batch["clips"][..., None])[:, 0].tolist()
        for clip, row, audio in zip(
            numbers, condition, flat(batch["audio_embedding"]), strict=True
        ):
            if clip == 1:
                assert torch.equal(row, audio)
                continue
            text = debug_encoder.embed_text(captions[clip])
            distance = (text - row).abs().amax(-1)
            assert distance.min() < 1e-5
            captions_of.setdefault(clip, set()).add(int(distance.argmin()))
    assert captions_of == {0: {0}, 2: {0, 1, 2}, 3: {0}}


def test_captions_of_the_uncaptioned_corpus_are_ignored(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[TrainingExample, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: set[str] = set()
    original = BuiltinEncoder.embed_text

    def record(self: BuiltinEncoder, text: Any) -> torch.Tensor:
        read.update([text] if isinstance(text, str) else text)
        return original(self, text)

    monkeypatch.setattr(BuiltinEncoder, "embed_text", record)
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "cache"))  # has no captions yet
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
        assert torch.equal(batch["has_text"], batch["clips"] < 4)
        assert torch.equal(batch["text_embedding"].any(-1), batch["has_text"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [("other_crop", {"same clip"}), ("same_class", {"other clip", "same clip"})],
)
def test_queries_are_other_sounds_than_the_targets(
    source: Any,
    expected: set[str],
    captioned: Path,
    debug_encoder: BuiltinEncoder,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[TrainingExample, torch.Tensor]],
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
    plain = torch.cat([targets[i]["audio_embedding"] for i in range(16)])
    batches = [batch for batch, _ in steps_taken]
    queries = torch.cat([batch["audio_embedding"].flatten(0, 1) for batch in batches])
    numbers = torch.cat([batch["clips"].flatten() for batch in batches]).tolist()
    kinds = set()
    for clip, row, target in zip(numbers, queries, plain, strict=True):
        (crop,) = (table.embeddings == row).all(-1).nonzero().flatten().tolist()
        query_clip = int(np.searchsorted(table.offsets, crop, "right")) - 1
        if source == "same_class" and clip in (1, 3):
            assert query_clip == 4 - clip
            kinds.add("other clip")
            continue
        assert query_clip == clip
        kinds.add("same clip")
        assert torch.equal(row, target) == (table.count(clip) == 1)
    assert kinds == expected


def test_conditions_are_exact_in_bfloat16_runs(
    captioned: Path,
    configure: Callable[..., TrainConfig],
    steps_taken: list[tuple[TrainingExample, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Conditions in bfloat16 would have other directions than at inference."""
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


def test_a_run_with_all_alterations_resumes_to_the_bit_and_continues_its_steps(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Masked and mixed sounds, several captions, both corpora, a manipulation that learns."""
    rows = rows_of(captioned)
    rows[0]["alternatives"] = ["another", "a third"]
    rows[3]["caption"] = None
    manifest = write_rows(captioned.with_name("everything.jsonl"), rows)
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
        validation=ValidationConfig(num_mixtures=2, every_steps=1, mixtures=SHORT),
    )
    config = with_steps(config, MeanShift(), Pca(k=12), Retrieval(), Noise(), Dropout(p=0.2))
    (tmp_path / "rest").mkdir()
    train_and_copy(config, tmp_path / "rest")
    rest = config.model_copy(update={"output": tmp_path / "rest"})
    train(rest)
    assert_same(tensors_below(rest.output), tensors_below(config.output))
    assert_same(load_file(rest.output / FILE_NAME), load_file(config.output / FILE_NAME))

    def validated_steps(output: Path) -> list[int]:
        return [int(row["step"]) for row in read_curve(output) if "audio_si_sdri" in row]

    assert validated_steps(config.output) == [1, 2, 3, 4]
    assert validated_steps(rest.output) == [2, 3, 4]  # with that of the checkpoint

    model = QueriedSeparator.from_pretrained(config.output / "model")
    assert isinstance(model.manipulator, Manipulator)
    assert model.manipulator.dim == 12
    assert model.manipulator.state is not None
    assert set(model.manipulator.state) == {
        *("0.audio_mean", "0.text_mean"),
        *("1.audio_mean", "1.text_mean", "1.basis"),
        "2.captions",
    }
    # Five captions of three sounds: the others are ignored.
    assert len(model.manipulator.state["2.captions"]) == 5
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, RATE)).astype(np.float32)
    target = Extractor(model).extract(mixture, "a dog barking", RATE).target
    assert np.isfinite(target).all()


@pytest.fixture(scope="module")
def all_queries_run(
    captioned: Path,
    tmp_path_factory: pytest.TempPathFactory,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
) -> tuple[TrainConfig, Path]:
    """A finished run with all kinds of queries, and a folder with its checkpoint of step two."""
    harder = MIXTURES.model_copy(
        update={"gate_share": 0.5, "reverb_share": 0.5, "bed_share": 0.5, "lossy_share": 0.5}
    )
    config = configure(
        tmp_path_factory.mktemp("all-queries"),
        manifest=captioned,
        audio=None,
        mixtures=harder,
        queries=ALL_KINDS,
        p_text=0.5,
        absent_weight=0.5,
        batch_size=4,
        validation=ValidationConfig(num_mixtures=2, every_steps=2, mixtures=SHORT),
    )
    model = config.model.model_copy(update={"negative": True})
    # All sounds are alike to a tiny encoder, so that none would count as absent.
    given = tmp_path_factory.mktemp("given") / "given.sqlite"
    generator = torch.Generator().manual_seed(3)
    with EmbeddingCache(given, debug_encoder.fingerprint, 32) as cache:
        train_clips, validation_clips = split_clips(config)
        for clips, mixtures in ((train_clips, harder), (validation_clips, SHORT)):
            for clip in clips:
                for crop in range(num_crops(clip, mixtures)):
                    row = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
                    cache.put(cache.key(clip, crop, mixtures), row)
    config = config.model_copy(update={"model": model, "embeddings": given})
    stopped = tmp_path_factory.mktemp("all-queries-stopped")
    kinds: set[tuple[bool, ...]] = set()
    original = TrainingModule.training_step

    def record(self: TrainingModule, batch: Any, index: int) -> Any:
        is_present = flat(batch["targets"]).flatten(1).any(-1)
        sides = flat(batch["has_positive"]), flat(batch["has_negative"])
        for side, embedding in zip(sides, ("audio", "negative_audio"), strict=True):
            assert torch.equal(side, flat(batch[f"{embedding}_embedding"]).any(-1))
        kinds.update(zip(*(mask.tolist() for mask in (*sides, is_present)), strict=True))
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", record)
        train_and_copy(config, stopped)
    # Plain, contrast, removal, absent.
    expected = {(True, False, True), (True, True, True), (False, True, True), (True, False, False)}
    assert kinds == expected
    return config, stopped


def test_a_run_with_all_kinds_of_queries_resumes_to_the_bit(
    all_queries_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, stopped = all_queries_run
    assert saved_step_of(stopped / FILE_NAME) == 2
    rest = config.model_copy(update={"output": tmp_path / "rest"})
    shutil.copytree(stopped, rest.output)
    train(rest)
    assert_same(tensors_below(rest.output), tensors_below(config.output))
    assert_same(load_file(rest.output / FILE_NAME), load_file(config.output / FILE_NAME))
    texts = [(run.output / "model" / "config.json").read_text() for run in (rest, config)]
    assert texts[0] == texts[1]  # with its calibration
    written = json.loads((config.output / "config.json").read_text())
    assert TrainConfig.model_validate(written) == config
    assert {"audio_si_sdri", "text_si_sdri"} <= read_curve(config.output)[-1].keys()


def test_a_model_of_all_kinds_of_queries_extracts_by_all_kinds(
    all_queries_run: tuple[TrainConfig, Path],
) -> None:
    config, _ = all_queries_run
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
        if not query.positive:  # a removal names no sound that may be present
            assert result.presence is None
            continue
        assert result.presence is not None
        assert 0 <= result.presence.probability <= 1
        presences.append(result.presence.probability)
    assert len(set(presences)) == len(presences)
    for i, target in enumerate(targets):
        assert all(np.abs(target - other).max() > 1e-5 for other in targets[:i])
