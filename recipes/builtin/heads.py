"""The joint space of text and audio: small heads on frozen teachers.

- Text: MiniLM -> ``TextHead``, which ships.
- Audio: YAMNet and a network trained on libraries of sound effects -> ``TaggerHead``. It does not
  ship: ``distil.py`` teaches the shipped audio tower to imitate it. Cross-fitted heads embed the
  training crops of the extractor.

The first loss is contrastive on the captions, where all clips of one class are right answers. The
second takes the tagger's scores of all 521 AudioSet classes as soft targets. Each class is named by
one of its many phrases (``phrases.csv``). The second loss makes the vocabulary open: on unseen
packages it adds far more than captions do. It needs no captions. But sounds without captions in the
batches seemed to make the heads worse on packages left out (``heads_quality.py --uncaptioned``;
only that side of the comparison is on record so far).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.builtin.features import TeacherFeatures, TeacherOutput
from singleout.data.clips import Clip
from singleout.encoders.builtin import SideBySide, TextHead
from singleout.storage.tensors import has_fast_bfloat16

CROPS_PER_CLIP = 6
MAX_CROP_PATCHES = 8
FAST = has_fast_bfloat16()
NUM_TAGGER_FEATURES = 384 + 521 + 2 * 1024
PHRASES = Path(__file__).with_name("phrases.csv")
"""Common names of the 521 classes, written by hand for this purpose and not taken from a corpus."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and weights of the training of the heads.

    All values are our choices, made on packages left out (``heads_quality.py``).
    """

    dim: int = 256
    hidden: int = 512
    steps: int = 600
    batch_size: int = 256
    uncaptioned_batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    names_weight: float = 2.0
    names_temperature: float = 2.0
    mlp_weight: float = 0.3
    members: int = 2
    bfloat16: bool = True
    """Where the CPU has the instructions."""
    seed: int = 0


class TaggerView(nn.Module):
    """Turns the output of the teachers into the input of ``TaggerHead``; without trained weights.

    Args:
        names: unit sentence vectors of the 521 class names, [521, 384].
        mean, std: statistics of the tagger's embeddings, [1024]; with those of the sound effects
            network after them, [1536].
    """

    names: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, names: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("names", names)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, output: TeacherOutput) -> tuple[Tensor, Tensor]:
        """Features [2953], or [3977] with both networks, and mean logits [521]."""
        probability = torch.sigmoid(0.5 * output.logits)
        words = F.normalize((probability / probability.sum(-1, keepdim=True)) @ self.names, dim=-1)
        mean_logits = output.logits.mean(0)
        tagger = (output.embeddings - self.mean[:1024]) / self.std[:1024]
        effects = (output.effects - self.mean[1024:]) / self.std[1024:]
        classes = [words.mean(0), torch.sigmoid(0.5 * mean_logits)]
        pooled = [part for x in (tagger, effects) for part in (x.mean(0), x.amax(0) / 2)]
        return torch.cat([*classes, *pooled]), mean_logits


class TaggerHead(nn.Module):
    """Maps features of ``TaggerView`` to a unit embedding.

    The mean word vector of the tagger's classes passes through a separate linear map. With this map
    alone, the head starts as a working zero-shot model.

    Args:
        hidden, dim: sizes.
        effects: whether the features contain those of the sound effects network.
        mlp_weight: weight of the networks' embeddings relative to the word vector.
    """

    def __init__(
        self, hidden: int, dim: int, effects: bool = True, mlp_weight: float = 0.3
    ) -> None:
        super().__init__()
        self.mlp_weight = mlp_weight
        self.words = nn.Linear(384, dim)
        self.scores = nn.Linear(521, dim)
        self.mlp = nn.Sequential(
            nn.Dropout(0.4),
            nn.Linear(3072 if effects else 2048, hidden),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(hidden, dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features [batch, features] to embeddings [batch, dim] of unit norm."""
        words, scores, embeddings = features.tensor_split([384, 384 + 521], -1)
        out = self.words(words) + self.mlp_weight * self.mlp(embeddings) + 0.1 * self.scores(scores)
        return F.normalize(out, dim=-1)


@dataclass(frozen=True)
class Crops:
    """Features of random crops of every clip; the first crop of each clip is the whole clip.

    Attributes:
        features: [clips, CROPS_PER_CLIP, features] of ``TaggerView``.
        logits: [clips, CROPS_PER_CLIP, 521].
    """

    features: Tensor
    logits: Tensor


def view_of(features: TeacherFeatures, names: Tensor, train: NDArray[np.int64]) -> TaggerView:
    """A view whose statistics are those of the clips ``train``.

    Args:
        features: of all clips.
        names: see ``TaggerView``.
        train: indices of clips.
    """
    means, stds = [], []
    for values, offsets in (
        (features.embeddings, features.offsets),
        (features.effects, features.effect_offsets),
    ):
        rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in train])
        part = torch.from_numpy(values[rows]).float()
        means.append(part.mean(0))
        stds.append(part.std(0) + 1e-3)
    return TaggerView(names, torch.cat(means), torch.cat(stds))


def random_crops(features: TeacherFeatures, view: TaggerView, seed: int) -> Crops:
    """Random crops of every clip, each of up to eight patches in a row."""
    clips = []
    for clip in range(len(features.offsets) - 1):
        rng = np.random.default_rng([seed, clip])
        available = features.num_patches(clip)
        crops = [features.stretch(clip)]
        for _ in range(CROPS_PER_CLIP - 1):
            length = int(rng.integers(1, min(MAX_CROP_PATCHES, available) + 1))
            start = int(rng.integers(0, available - length + 1))
            crops.append(features.stretch(clip, start, length))
        clips.append([view(crop) for crop in crops])
    return Crops(
        torch.stack([torch.stack([crop[0] for crop in crops]) for crops in clips]),
        torch.stack([torch.stack([crop[1] for crop in crops]) for crops in clips]),
    )


@dataclass(frozen=True)
class Words:
    """Sentence vectors of MiniLM, unit norm.

    Attributes:
        captions: for every clip, [captions, 384]; [0, 384] for a clip without captions.
        phrases: for every class of the 521, [phrases, 384]; the name of the class is the first.
    """

    captions: list[Tensor]
    phrases: list[Tensor]

    @property
    def names(self) -> Tensor:
        """Mean vector of the phrases of each class, [521, 384], of unit norm."""
        return F.normalize(torch.stack([phrases.mean(0) for phrases in self.phrases]), dim=-1)

    def drawn(self, rng: np.random.Generator) -> Tensor:
        """One random phrase of each class, [521, 384]."""
        counts = np.array([len(phrases) for phrases in self.phrases])
        picked = (rng.random(len(counts)) * counts).astype(int).tolist()
        return torch.stack([phrases[i] for phrases, i in zip(self.phrases, picked, strict=True)])


def read_phrases(path: Path = PHRASES) -> dict[str, list[str]]:
    """Phrases of every AudioSet class: its name in lower case, then other words for it."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["class"]: [row["class"].lower(), *row["phrases"].split(" | ")] for row in rows}


def train_heads(
    clips: list[Clip],
    crops: Crops,
    words: Words,
    train: NDArray[np.int64],
    recipe: Recipe,
    fixed_text: SideBySide | None = None,
) -> tuple[SideBySide, SideBySide]:
    """Train ``recipe.members`` pairs of heads, one by one.

    Clips without a caption learn only from the tagger's scores.

    Args:
        clips, crops, words: the sounds and their captions.
        train: indices of the clips that are trained on.
        recipe: sizes and weights.
        fixed_text: text heads that are kept. Cross-fitting needs them: audio heads that have not
            seen a fold, all in the space that the same text heads span.

    Returns:
        Audio heads and text heads.
    """
    fixed = [None] * recipe.members if fixed_text is None else list(fixed_text.heads)
    pairs = [
        train_pair(clips, crops, words, train, replace(recipe, seed=recipe.seed + member), text)
        for member, text in enumerate(fixed)
    ]
    return SideBySide([pair[0] for pair in pairs]), SideBySide([pair[1] for pair in pairs])


def train_pair(
    clips: list[Clip],
    crops: Crops,
    words: Words,
    train: NDArray[np.int64],
    recipe: Recipe,
    fixed_text: nn.Module | None = None,
) -> tuple[TaggerHead, TextHead]:
    """Train one pair of heads, as ``train_heads`` does."""
    torch.manual_seed(recipe.seed)
    audio, text = _new_heads(crops, recipe, fixed_text)
    log_scale = nn.Parameter(torch.tensor(14.0).log())
    weights = [*audio.parameters(), log_scale]
    if fixed_text is None:
        weights += text.parameters()
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    batches = _Batches(clips, crops, words, train, recipe)
    audio.train()
    text.train(fixed_text is None)
    for step in track(range(recipe.steps), "heads"):
        rng = np.random.default_rng([recipe.seed, step])
        batch = batches.draw(rng)
        caption_embeddings = text(batch.captions)
        scale = log_scale.exp().clamp(max=100)
        # This line takes nearly all the time of a step.
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16 and FAST):
            embeddings = audio(batch.features).float()
        similarity = embeddings[: len(caption_embeddings)] @ caption_embeddings.T * scale
        loss = F.cross_entropy(similarity, batch.same_class)
        loss = loss + F.cross_entropy(similarity.T, batch.same_class)
        scores = F.softmax(batch.logits / recipe.names_temperature, -1)
        to_classes = embeddings @ text(words.drawn(rng)).T * scale
        loss = loss + recipe.names_weight * F.cross_entropy(to_classes, scores)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return audio.eval(), text.eval()


def _new_heads(
    crops: Crops, recipe: Recipe, fixed_text: nn.Module | None
) -> tuple[TaggerHead, TextHead]:
    """Heads at the start of the training: the word vectors of both sides are mapped alike."""
    has_effects = crops.features.shape[-1] > NUM_TAGGER_FEATURES
    audio = TaggerHead(recipe.hidden, recipe.dim, has_effects, recipe.mlp_weight)
    text = TextHead(384, recipe.hidden, recipe.dim)
    if fixed_text is not None:
        text.load_state_dict(fixed_text.state_dict())
    with torch.no_grad():
        if fixed_text is None:
            text.linear.weight.copy_(torch.linalg.qr(torch.randn(384, recipe.dim))[0].T)
            text.linear.bias.zero_()
        audio.words.load_state_dict(text.linear.state_dict())
    return audio, text


class _Batch(NamedTuple):
    """A batch of captioned clips, followed by clips without captions where there are any.

    ``captions`` and ``same_class`` (the share of each clip among those of its class) are of the
    captioned clips only.
    """

    features: Tensor
    logits: Tensor
    captions: Tensor
    same_class: Tensor


class _Batches:
    """Draws batches of crops, rare classes more often."""

    def __init__(
        self,
        clips: list[Clip],
        crops: Crops,
        words: Words,
        train: NDArray[np.int64],
        recipe: Recipe,
    ) -> None:
        self._crops, self._words, self._recipe = crops, words, recipe
        self._label = np.unique([clip.label for clip in clips], return_inverse=True)[1]
        is_captioned = np.array([len(words.captions[i]) > 0 for i in train])
        self._rows = (train[is_captioned], train[~is_captioned])
        self._chances = [_favour_rare(self._label[rows]) for rows in self._rows]

    def draw(self, rng: np.random.Generator) -> _Batch:
        captioned, others = self._rows
        batch = rng.choice(captioned, self._recipe.batch_size, p=self._chances[0])
        crop = rng.integers(0, CROPS_PER_CLIP, len(batch))
        candidates = [self._words.captions[i] for i in batch.tolist()]
        captions = torch.stack([each[rng.integers(len(each))] for each in candidates])
        features, logits = self._crops.features[batch, crop], self._crops.logits[batch, crop]
        if len(others):
            more = rng.choice(others, self._recipe.uncaptioned_batch_size, p=self._chances[1])
            crop = rng.integers(0, CROPS_PER_CLIP, len(more))
            features = torch.cat([features, self._crops.features[more, crop]])
            logits = torch.cat([logits, self._crops.logits[more, crop]])
        label = self._label[batch]
        same_class = torch.from_numpy(label[:, None] == label[None]).float()
        same_class /= same_class.sum(1, keepdim=True)
        return _Batch(features, logits, captions, same_class)


def _favour_rare(label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each row: that of a class is proportional to the root of its share."""
    if not len(label):
        return np.zeros(0)
    weight: NDArray[np.float64] = np.bincount(label).astype(np.float64)[label] ** -0.5
    probability: NDArray[np.float64] = weight / weight.sum()
    return probability
