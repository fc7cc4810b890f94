"""The joint space: alignment, folds and heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes.builtin import (
    heads_quality,
)
from recipes.builtin.alignment import RANKS, Split, fit, pair_accuracy
from recipes.builtin.embed import (
    NUM_FOLDS,
    fold_of,
)
from recipes.builtin.heads import (
    CROPS_PER_CLIP,
    Crops,
    Recipe,
    Words,
    read_phrases,
    train_heads,
)
from singleout.data.clips import Clip
from singleout.data.embeddings import EmbeddingTable
from tests.recipes.builtin.corpora import clip

pytestmark = pytest.mark.slow


def test_alignment_removes_a_modality_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(200, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
    gap = torch.zeros(64)
    gap[0] = 20
    sounds = F.normalize(shared + gap, dim=-1)
    captions = F.normalize(shared - gap, dim=-1)
    clips = [clip(Path(f"{i}.wav"), f"family{i}/x") for i in range(200)]
    # As many other sounds without captions: they change neither the means nor the directions.
    others = [replace(clip(Path(f"{i}.wav")), caption=None) for i in range(200)]
    other = F.normalize(gap + 5 * torch.ones(200, 64), dim=-1)
    table = EmbeddingTable(torch.cat([sounds, other]), tuple(range(401)))
    alignment = fit(Split(clips + others, table, captions), rank=6)
    text = alignment(captions, alignment.text_mean)
    audio = alignment(sounds, alignment.audio_mean)
    assert float((sounds * captions).sum(-1).mean()) < 0.1
    assert float((audio * text).sum(-1).mean()) > 0.95
    assert audio.shape == (200, 6)
    torch.testing.assert_close(audio.norm(dim=-1), torch.ones(200))


def test_pair_accuracy_compares_only_other_families() -> None:
    clips = [clip(Path(f"{i}"), label) for i, label in enumerate(["a/1", "a/2", "b/1"])]
    captions = torch.eye(3)
    # The first caption is nearer to the second sound than to the first. Both are of one family, so
    # this pair does not count. The third caption is nearer to the first sound: one wrong pair of
    # the four that count.
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


def test_heads_learn_to_match_captions(clips: list[Clip]) -> None:
    """The features depend on the class, so a caption ends up nearest to its class."""
    generator = torch.Generator().manual_seed(0)
    classes = [0, 1, 2, 3] * 10
    prototypes = torch.randn(4, 2_953, generator=generator)
    noise = torch.randn(40, CROPS_PER_CLIP, 2_953, generator=generator)
    vectors = F.normalize(torch.randn(4, 384, generator=generator), dim=-1)
    crops = Crops(prototypes[classes][:, None] + 0.1 * noise, torch.zeros(40, CROPS_PER_CLIP, 521))
    names = F.normalize(torch.randn(521, 384, generator=generator), dim=-1)
    words = Words([vectors[c][None] for c in classes], list(names[:, None]))
    recipe = Recipe(dim=16, hidden=32, steps=40, batch_size=32, names_weight=0.0, members=2)
    audio, text = train_heads(clips, crops, words, np.arange(40), recipe)
    with torch.no_grad():
        similarity = text(vectors) @ audio(crops.features[:, 0]).T
        matches = torch.tensor(classes)[None] == torch.arange(4)[:, None]
        assert float(similarity[matches].min()) > float(similarity[~matches].max())
    fixed = {k: v.clone() for k, v in text.state_dict().items()}
    other, same = train_heads(clips, crops, words, np.arange(20), recipe, text)
    assert all(torch.equal(v, fixed[k]) for k, v in same.state_dict().items())
    assert other is not audio
    one, another = (head(vectors) for head in text.heads)
    assert not torch.allclose(one, another, atol=0.1)
    both = text(vectors)
    torch.testing.assert_close(both @ both.T, (one @ one.T + another @ another.T) / 2)


def test_heads_learn_from_sounds_without_captions() -> None:
    """They learn from the tagger's scores, with any phrase of a class."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.arange(3).repeat(20)  # classes 5, 6 and 7; only those of 5 are captioned
    prototypes = torch.randn(3, 2_953, generator=generator)
    noise = torch.randn(60, CROPS_PER_CLIP, 2_953, generator=generator)
    logits = torch.full((60, CROPS_PER_CLIP, 521), -20.0)
    logits[torch.arange(60), :, 5 + kinds] = 20
    phrases = list(F.normalize(torch.randn(521, 2, 384, generator=generator), dim=-1))
    captions = [phrases[5][:1] if kind == 0 else torch.zeros(0, 384) for kind in kinds.tolist()]
    clips = [clip(Path(f"{i}.wav"), f"a/{kind}") for i, kind in enumerate(kinds.tolist())]
    recipe = Recipe(dim=16, hidden=32, steps=60, batch_size=16, uncaptioned_batch_size=32)
    crops = Crops(prototypes[kinds][:, None] + 0.1 * noise, logits)
    audio, text = train_heads(clips, crops, Words(captions, phrases), np.arange(60), recipe)
    with torch.no_grad():
        embeddings = audio(crops.features[:, 0])
        for phrase in range(2):
            names = text(torch.stack([phrases[number][phrase] for number in (5, 6, 7)]))
            assert torch.equal((embeddings @ names.T).argmax(1), kinds)


def test_every_class_has_its_phrases() -> None:
    phrases = read_phrases()
    assert len(phrases) == 521
    everything = [text for texts in phrases.values() for text in texts[1:]]
    assert len(set(everything)) == len(everything) > 3_500
    assert all(name.lower() == texts[0] for name, texts in phrases.items())
    assert all(6 <= len(texts) - 1 <= 10 for texts in phrases.values())
    assert all(text == text.lower().strip() and len(text.split()) <= 9 for text in everything)
    words = Words([], [torch.eye(384)[: len(texts)] for texts in phrases.values()])
    drawn = words.drawn(np.random.default_rng(0))
    assert drawn.shape == (521, 384)
    assert len(set(drawn.argmax(1).tolist())) > 5
    torch.testing.assert_close(words.names.norm(dim=-1), torch.ones(521))


def test_quality_of_heads_is_measured_on_sounds_left_out() -> None:
    """Features and captions depend on the class, so the accuracy is 1. Some clips lack captions."""
    generator = torch.Generator().manual_seed(2)
    kinds = torch.arange(60) % 3
    prototypes = torch.randn(3, 2_953, generator=generator)
    noise = 0.1 * torch.randn(60, CROPS_PER_CLIP, 2_953, generator=generator)
    crops = Crops(prototypes[kinds][:, None] + noise, torch.zeros(60, CROPS_PER_CLIP, 521))
    vectors = F.normalize(torch.randn(3, 384, generator=generator), dim=-1)
    phrases = list(F.normalize(torch.randn(521, 1, 384, generator=generator), dim=-1))
    clips = [clip(Path(f"{i}.wav"), f"family {k}/x") for i, k in enumerate(kinds.tolist())]
    bare = range(45, 60, 2)
    clips = [replace(c, caption=None) if i in bare else c for i, c in enumerate(clips)]
    captions = [
        vectors[k][None] if i not in bare else torch.zeros(0, 384)
        for i, k in enumerate(kinds.tolist())
    ]
    words = Words(captions, phrases)
    recipe = heads_quality.changed(["dim=20", "hidden=32", "steps=40", "members=2"])
    assert (recipe.dim, recipe.members, recipe.seed) == (20, 2, Recipe().seed)
    rows = np.arange(40)
    heads = train_heads(clips, crops, words, rows, recipe)
    accuracy = heads_quality.accuracies(heads, clips, crops, words, rows, np.arange(40, 60))
    assert set(accuracy) == {"none", *(str(rank) for rank in RANKS if rank < 40)}
    assert accuracy["none"] == 1
    shuffled = Words([captions[i % 40] for i in range(60)], phrases)
    wrong = heads_quality.accuracies(heads, clips, crops, shuffled, rows, np.arange(40, 44))
    assert wrong["none"] < 0.5
    line = {
        "name": "n",
        "tried": "t",
        "changes": ["dim=16"],
        "folds": [accuracy],
        "validation": wrong,
    }
    assert "| **n** t | `dim=16` | 1.0000 |" in heads_quality.table([line])
    with pytest.raises(SystemExit, match="'width=3': write key=value with a key of dim, hidden"):
        heads_quality.changed(["width=3"])
