"""Outputs of the teachers, and the crops that the audio tower learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from recipes.builtin import features as features_module
from recipes.builtin.distil import start_from
from recipes.builtin.embed import (
    tagged,
    write_uncaptioned,
)
from recipes.builtin.features import TeacherFeatures, TeacherOutput, teacher_features
from recipes.builtin.shards import CROP_SECONDS, draw, plain, sampling_weight
from singleout.data.clips import Clip
from singleout.data.manifest import read_manifest
from singleout.encoders import BuiltinEncoder
from singleout.encoders.audio_tower import SAMPLE_RATE
from singleout.encoders.builtin import BuiltinNetwork
from tests.recipes.builtin.corpora import clip


def test_a_crop_depends_only_on_seed_and_number(clips: list[Clip]) -> None:
    weight = sampling_weight(clips)
    assert weight[-1] == pytest.approx(1)
    crops = [draw(clips, weight, seed=1, index=i) for i in range(30)]
    for index, crop in enumerate(crops):
        assert crop.shape == (round(CROP_SECONDS * SAMPLE_RATE),)
        assert crop.dtype == np.float32
        assert 0 < np.abs(crop).max() <= 0.96
        np.testing.assert_array_equal(crop, draw(clips, weight, seed=1, index=index))
    assert not np.array_equal(crops[0], draw(clips, weight, seed=2, index=0))


def test_most_crops_are_plain_and_have_the_teachers_output(clips: list[Clip]) -> None:
    """The features of a plain crop are those of the place of its audio."""
    length = round(CROP_SECONDS * SAMPLE_RATE)
    long = 4 * length
    position = np.arange(long) / long
    for one in clips:
        soundfile.write(one.path, 0.5 * position, SAMPLE_RATE, subtype="FLOAT")
    patches = 1 + int((long / SAMPLE_RATE - 0.96) / 0.48)
    features = TeacherFeatures(
        np.tile(np.arange(patches)[:, None], (40, 1_024)).astype(np.float16),
        np.zeros((40 * patches, 521), np.float16),
        np.arange(41) * patches,
        np.zeros((40, 512), np.float16),
        np.arange(41),
    )
    weight = sampling_weight(clips)
    drawn = [plain(clips, features, weight, 3, i) for i in range(400)]
    known = [one for one in drawn if one is not None]
    assert 0.6 < len(known) / 400 < 0.8
    starts = set()
    for audio, output in known:
        assert audio.shape == (length,)
        assert 0.29 < np.abs(audio).max() < 0.96
        slope = float(audio[-1] - audio[0]) / (length - 1)
        start_s = float(audio[0]) / slope / SAMPLE_RATE
        assert abs(start_s - 0.48 * float(output.embeddings[0, 0])) < 0.01
        assert output.embeddings.shape == (3, 1_024)
        starts.add(round(start_s, 2))
    assert len(starts) > 8
    again = plain(clips, features, weight, 3, [one is not None for one in drawn].index(True))
    assert again is not None
    np.testing.assert_array_equal(again[0], known[0][0])
    some = features.of([7, 3])
    assert some.offsets.tolist() == [0, patches, 2 * patches]
    assert some.effect_offsets.tolist() == [0, 1, 2]


def test_a_tower_starts_from_another_except_for_its_last_layer(
    debug_encoder: BuiltinEncoder,
) -> None:
    torch.manual_seed(3)
    fresh = BuiltinEncoder(
        BuiltinNetwork(debug_encoder.config), debug_encoder.tokenizer_json, debug_encoder.config
    )
    sound = torch.randn(2, SAMPLE_RATE)
    expected = debug_encoder.network.audio.features(sound)
    assert not torch.allclose(fresh.network.audio.features(sound), expected, atol=1e-3)
    start_from(fresh, debug_encoder)
    torch.testing.assert_close(fresh.network.audio.features(sound), expected)
    assert not torch.allclose(fresh.network.audio(sound), debug_encoder.network.audio(sound))


def test_a_stretch_of_a_sound_has_the_blocks_with_their_middle_in_it() -> None:
    """Patches begin every 0.48 s and last 0.96 s; blocks last 2.32 s."""
    patches, blocks = np.arange(30), np.arange(6)
    features = TeacherFeatures(
        np.tile(patches[:, None], (1, 1_024)).astype(np.float16),
        np.tile(patches[:, None], (1, 521)).astype(np.float16),
        np.array([0, 10, 30]),
        np.tile(blocks[:, None], (1, 512)).astype(np.float16),
        np.array([0, 2, 6]),
    )
    whole = features.stretch(1)
    assert (features.num_patches(1), whole.embeddings[:, 0].tolist()) == (20, list(range(10, 30)))
    assert whole.effects[:, 0].tolist() == [2, 3, 4, 5]
    second = features.stretch(1, 5, 5)  # from 2.4 to 5.28 s; middles at 1.16, 3.48, 5.80 s, …
    assert second.logits[:, 0].tolist() == [15, 16, 17, 18, 19]
    assert second.effects[:, 0].tolist() == [3]
    assert features.stretch(1, 3, 1).effects[:, 0].tolist() == [
        2
    ]  # no middle is inside: the nearest block
    assert features.crop(0, 100.0, 4.0).embeddings[:, 0].tolist() == [9]
    assert features.crop(0, 0.96, 1.9).embeddings[:, 0].tolist() == [2, 3, 4]


def test_features_are_kept_for_the_same_list_of_sounds(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An equal list with the same teachers reads the file; no temporary file remains."""

    def silent(audio: np.ndarray, rate_hz: int) -> TeacherOutput:
        return TeacherOutput(torch.zeros(2, 1_024), torch.zeros(2, 521), torch.zeros(1, 512))

    monkeypatch.setattr(features_module, "Teachers", lambda effects: silent)
    monkeypatch.setattr(
        features_module, "ProcessPoolExecutor", lambda *_, initializer, initargs: _Here(initializer)
    )
    cache = tmp_path / "deep" / "features.npz"
    first = teacher_features(clips, cache)
    assert first.offsets.tolist() == list(range(0, 82, 2))
    assert first.effect_offsets.tolist() == list(range(41))
    made = cache.stat().st_mtime_ns
    again = teacher_features(clips, cache)
    np.testing.assert_array_equal(again.offsets, first.offsets)
    assert cache.stat().st_mtime_ns == made
    assert len(teacher_features(clips[1:], cache).offsets) == 40
    assert cache.stat().st_mtime_ns != made
    assert [path.name for path in cache.parent.iterdir()] == ["features.npz"]


class _Here:
    """An executor in this process."""

    def __init__(self, initializer: Callable[[bool], None]) -> None:
        initializer(True)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[Path], Any], paths: list[Path], chunksize: int) -> list[Any]:
        return [function(path) for path in paths]


def test_sounds_without_captions_have_the_class_of_the_highest_score(tmp_path: Path) -> None:
    logits = np.full((4, 521), -10, np.float16)
    logits[[0, 1, 2, 3], [7, 7, 3, 9]] = [5, 8, 5, 4]
    features = TeacherFeatures(
        np.zeros((4, 1_024), np.float16), logits, np.array([0, 1, 3, 4]),
        np.zeros((3, 512), np.float16), np.arange(4),
    )  # fmt: skip
    names = [f"class {i}" for i in range(521)]
    other = [replace(clip(tmp_path / f"{i}.wav"), caption=None, group=f"g{i}") for i in range(2)]
    labelled = tagged(other, 1, features, names)
    assert [c.label for c in labelled] == ["class 7", "class 9"]
    for c in labelled:
        c.path.touch()
    write_uncaptioned(labelled, tmp_path / "uncaptioned.jsonl")
    again = read_manifest(tmp_path / "uncaptioned.jsonl")
    assert [(c.path, c.label, c.group, c.caption, c.seconds) for c in again] == [
        (c.path, c.label, c.group, None, c.seconds) for c in labelled
    ]
