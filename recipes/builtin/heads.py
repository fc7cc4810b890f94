"""The joint space: small heads on frozen teachers.

Text: MiniLM -> ``TextHead`` (ships). Audio: YAMNet and a network trained on libraries of sound
effects -> ``TaggerHead`` (does not ship; it is the teacher that ``distil.py`` teaches the shipped
audio tower to imitate, and it embeds the training crops of the extractor, cross-fitted). Losses:
contrastive on the captions, where all clips of one class are right answers, plus the tagger's own
opinion over all 521 AudioSet classes as soft targets, each class said in one of its many phrases
(``phrases.csv``). That makes the vocabulary open, and on unseen packages it adds far more than
captions do. It needs no captions, but sounds without in the batches seemed to make the heads worse
on packages left out (``heads_quality.py --uncaptioned``; only that side of the comparison is on
record so far).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.builtin.features import Heard, TeacherFeatures
from singleout.data.manifest import Clip
from singleout.encoders.builtin import SideBySide, TextHead
from singleout.storage.tensors import has_fast_bfloat16

CROPS_PER_CLIP = 6
MAX_CROP_PATCHES = 8
FAST = has_fast_bfloat16()
NUM_TAGGER_FEATURES = 384 + 521 + 2 * 1024
PHRASES = Path(__file__).with_name("phrases.csv")
"""What people call the 521 classes: written by hand for this purpose, from no corpus."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and weights of the training of the heads; all are our choices, made on packages left
    out: ``heads_quality.py``."""

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
    """What the teachers heard to the input of ``TaggerHead``; holds no trained weights.

    Args:
        names: unit sentence vectors of the 521 class names, [521, 384].
        mean, std: of the tagger's embeddings, [1024], or of these and of the sound effects
            network's after them, [1536].
    """

    def __init__(self, names: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("names", names)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, heard: Heard) -> tuple[Tensor, Tensor]:
        """Features [2953], or [3977] of both networks, and mean logits [521]."""
        probability = torch.sigmoid(0.5 * heard.logits)
        words = F.normalize((probability / probability.sum(-1, keepdim=True)) @ self.names, dim=-1)
        mean_logits = heard.logits.mean(0)
        e = (heard.embeddings - self.mean[:1024]) / self.std[:1024]
        effects = (heard.effects - self.mean[1024:]) / self.std[1024:]
        told = [words.mean(0), torch.sigmoid(0.5 * mean_logits)]
        parts = [part for x in (e, effects) for part in (x.mean(0), x.amax(0) / 2)]
        return torch.cat([*told, *parts]), mean_logits


class TaggerHead(nn.Module):
    """Features of ``TaggerView`` to a unit embedding [batch, dim].

    The words that the tagger's scores amount to pass through a linear map of their own: with it
    alone the head starts as a working zero-shot model.

    Args:
        hidden, dim: sizes.
        effects: whether the sound effects network is heard, too.
        mlp_weight: of what both networks' embeddings say beside the words.
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
        words, scores, embeddings = features.tensor_split([384, 384 + 521], -1)
        out = self.words(words) + self.mlp_weight * self.mlp(embeddings) + 0.1 * self.scores(scores)
        return F.normalize(out, dim=-1)


@dataclass(frozen=True)
class Crops:
    """Views of random crops of every clip; the first of each is the whole clip.

    Attributes:
        features: [clips, CROPS_PER_CLIP, features] of ``TaggerView``.
        logits: [clips, CROPS_PER_CLIP, 521].
    """

    features: Tensor
    logits: Tensor


def view_of(features: TeacherFeatures, names: Tensor, train: NDArray[np.int64]) -> TaggerView:
    """A view standardised on the training clips."""
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
    """Up to eight patches in a row, drawn for every clip."""
    clips = []
    for clip in range(len(features.offsets) - 1):
        rng = np.random.default_rng([seed, clip])
        available = features.num_patches(clip)
        crops = [features.heard(clip)]
        for _ in range(CROPS_PER_CLIP - 1):
            length = int(rng.integers(1, min(MAX_CROP_PATCHES, available) + 1))
            start = int(rng.integers(0, available - length + 1))
            crops.append(features.heard(clip, start, length))
        clips.append([view(heard) for heard in crops])
    return Crops(
        torch.stack([torch.stack([crop[0] for crop in crops]) for crops in clips]),
        torch.stack([torch.stack([crop[1] for crop in crops]) for crops in clips]),
    )


@dataclass(frozen=True)
class Words:
    """Sentence vectors of MiniLM, unit norm.

    Attributes:
        captions: for every clip, [captions, 384]; none for one without.
        phrases: of the 521 classes, [phrases, 384] each: the class's name first, then other words.
    """

    captions: list[Tensor]
    phrases: list[Tensor]

    @property
    def names(self) -> Tensor:
        """[521, 384]: the middle of all that a class is called."""
        return F.normalize(torch.stack([said.mean(0) for said in self.phrases]), dim=-1)

    def drawn(self, rng: np.random.Generator) -> Tensor:
        """[521, 384]: one phrase of each class."""
        counts = np.array([len(said) for said in self.phrases])
        picked = (rng.random(len(counts)) * counts).astype(int).tolist()
        return torch.stack([said[i] for said, i in zip(self.phrases, picked, strict=True)])


def read_phrases(path: Path = PHRASES) -> dict[str, list[str]]:
    """Of every AudioSet class its name, lower case, and then other words for it."""
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
    """Train heads of both sides on the clips ``train``, or those of sounds alone against fixed ones
    of text; ``recipe.members`` of each, one by one.

    Clips without a caption learn from the tagger's opinion alone.

    The second form is what cross-fitting needs: audio heads that have not seen a fold, all in the
    one space that the text heads span.
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
    """One of ``train_heads``."""
    torch.manual_seed(recipe.seed)
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
    log_scale = nn.Parameter(torch.tensor(14.0).log())
    weights = [*audio.parameters(), log_scale]
    if fixed_text is None:
        weights += text.parameters()
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    label = np.unique([clip.label for clip in clips], return_inverse=True)[1]
    is_captioned = np.array([len(words.captions[i]) > 0 for i in train])
    captioned, others = train[is_captioned], train[~is_captioned]
    chances = [_favour_rare(label[rows]) for rows in (captioned, others)]
    audio.train()
    text.train(fixed_text is None)
    for step in track(range(recipe.steps), "heads"):
        rng = np.random.default_rng([recipe.seed, step])
        batch = rng.choice(captioned, recipe.batch_size, p=chances[0])
        crop = rng.integers(0, CROPS_PER_CLIP, len(batch))
        captions = torch.stack(
            [words.captions[i][rng.integers(len(words.captions[i]))] for i in batch.tolist()]
        )
        features = crops.features[batch, crop]
        said = text(captions)
        scale = log_scale.exp().clamp(max=100)
        logits = crops.logits[batch, crop]
        if len(others):
            more = rng.choice(others, recipe.uncaptioned_batch_size, p=chances[1])
            crop = rng.integers(0, CROPS_PER_CLIP, len(more))
            features = torch.cat([features, crops.features[more, crop]])
            logits = torch.cat([logits, crops.logits[more, crop]])
        # Nearly all of a step's time.
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16 and FAST):
            heard = audio(features).float()
        same = torch.from_numpy(label[batch][:, None] == label[batch][None]).float()
        same /= same.sum(1, keepdim=True)
        similarity = heard[: len(said)] @ said.T * scale
        loss = F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)
        opinion = F.softmax(logits / recipe.names_temperature, -1)
        named = heard @ text(words.drawn(rng)).T * scale
        loss = loss + recipe.names_weight * F.cross_entropy(named, opinion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return audio.eval(), text.eval()


def _favour_rare(label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chance of each row: a class gets the root of its share."""
    if not len(label):
        return np.zeros(0)
    weight: NDArray[np.float64] = np.bincount(label)[label] ** -0.5
    return weight / weight.sum()
