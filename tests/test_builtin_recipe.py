"""The recipe of the built-in model: alignment, folds, heads, and what the audio tower hears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from recipes.builtin.alignment import Split, fit, pair_accuracy
from recipes.builtin.distil import CROP_SECONDS, draw, sampling_weight
from recipes.builtin.embed import NUM_FOLDS, fold_of
from recipes.builtin.heads import CROPS_PER_CLIP, Crops, Recipe, Words, train_heads
from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import Clip
from singleout.query.audio_tower import SAMPLE_RATE


def clip(path: Path, label: str = "animal/dog", group: str = "g") -> Clip:
    return Clip(path, 1.0, "a dog barking", (), label, group, "train")


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Forty sounds in ten packages, four classes of two families."""
    rng = np.random.default_rng(0)
    labels = ["animal/dog", "animal/cat", "tool/saw", "tool/drill"]
    found = []
    for i in range(40):
        path = tmp_path / f"package{i % 10}" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, SAMPLE_RATE // 4 + 999 * i), SAMPLE_RATE)
        found.append(clip(path, labels[i % 4], f"g{i}"))
    return found


def test_alignment_removes_a_modality_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(200, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
    gap = torch.zeros(64)
    gap[0] = 20
    sounds = F.normalize(shared + gap, dim=-1)
    captions = F.normalize(shared - gap, dim=-1)
    clips = [clip(Path(f"{i}.wav"), f"family{i}/x") for i in range(200)]
    table = EmbeddingTable(sounds, torch.arange(201))
    alignment = fit(Split(clips, table, captions), rank=6)
    said = alignment(captions, alignment.text_mean)
    heard = alignment(sounds, alignment.audio_mean)
    assert float((sounds * captions).sum(-1).mean()) < 0.1
    assert float((heard * said).sum(-1).mean()) > 0.95
    assert heard.shape == (200, 6)
    torch.testing.assert_close(heard.norm(dim=-1), torch.ones(200))


def test_pair_accuracy_compares_other_families_alone() -> None:
    clips = [clip(Path(f"{i}"), label) for i, label in enumerate(["a/1", "a/2", "b/1"])]
    captions = torch.eye(3)
    # The first caption is nearer to the second sound (same family) than to its own: not counted.
    # The third is nearer to the first: one wrong of its two, of four pairs in all.
    sounds = torch.tensor([[0.5, 0.0, 0.9], [0.9, 1.0, 0.0], [0.0, 0.0, 0.6]])
    assert pair_accuracy(sounds, captions, clips) == pytest.approx(3 / 4)


def test_folds_keep_packages_and_groups_together(clips: list[Clip]) -> None:
    tied = [replace(c, group="tied") if i in (0, 1) else c for i, c in enumerate(clips)]
    fold = fold_of(tied)
    assert set(fold) == set(range(NUM_FOLDS))
    assert fold[0] == fold[1]
    for package in {c.path.parent for c in clips}:
        untied = {fold[i] for i, c in enumerate(tied) if c.path.parent == package and i > 1}
        assert len(untied) == 1


def test_the_tower_hears_the_same_crop_for_the_same_number(clips: list[Clip]) -> None:
    weight = sampling_weight(clips)
    assert weight[-1] == pytest.approx(1)
    crops = [draw(clips, weight, seed=1, index=i) for i in range(30)]
    for index, crop in enumerate(crops):
        assert crop.shape == (round(CROP_SECONDS * SAMPLE_RATE),)
        assert crop.dtype == np.float32
        assert 0 < np.abs(crop).max() <= 0.96
        np.testing.assert_array_equal(crop, draw(clips, weight, seed=1, index=index))
    assert not np.array_equal(crops[0], draw(clips, weight, seed=2, index=0))


def test_heads_learn_to_match_captions(clips: list[Clip]) -> None:
    """On features that tell the class, a caption ends up nearest to its own class."""
    generator = torch.Generator().manual_seed(0)
    classes = [0, 1, 2, 3] * 10
    prototypes = torch.randn(4, 2_953, generator=generator)
    noise = torch.randn(40, CROPS_PER_CLIP, 2_953, generator=generator)
    vectors = F.normalize(torch.randn(4, 384, generator=generator), dim=-1)
    crops = Crops(prototypes[classes][:, None] + 0.1 * noise, torch.zeros(40, CROPS_PER_CLIP, 521))
    names = F.normalize(torch.randn(521, 384, generator=generator), dim=-1)
    words = Words([vectors[c][None] for c in classes], names)
    recipe = Recipe(dim=16, hidden=32, steps=60, batch_size=32, names_weight=0.0)
    audio, text = train_heads(clips, crops, words, np.arange(40), recipe)
    with torch.no_grad():
        similarity = text(vectors) @ audio(crops.features[:, 0]).T
        own = torch.tensor(classes)[None] == torch.arange(4)[:, None]
        assert float(similarity[own].min()) > float(similarity[~own].max())
    fixed = {k: v.clone() for k, v in text.state_dict().items()}
    other, same = train_heads(clips, crops, words, np.arange(20), recipe, text)
    assert all(torch.equal(v, fixed[k]) for k, v in same.state_dict().items())
    assert other is not audio
