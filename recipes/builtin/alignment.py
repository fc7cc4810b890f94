"""Fit the alignment, the last layer of the encoder.

It removes the mean of each modality and keeps the principal directions of the sounds. Each run of
``recipes.builtin.embed`` writes the pair accuracy of several ranks on the validation packages to
``results/alignment.json``. ADR 3 explains why the alignment does not keep the whole space.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from singleout.data.clips import Clip
from singleout.data.embeddings import EmbeddingTable
from singleout.encoders.builtin import Alignment

RANK = 96
RANKS = (32, 48, 64, 96, 128, 192)


@dataclass(frozen=True)
class Split:
    """The clips of a split with embeddings of their crops and captions by the teacher heads.

    Attributes:
        clips: of the split.
        table: embeddings of all crops.
        captions: embeddings of the first caption of each clip that has captions.
    """

    clips: list[Clip]
    table: EmbeddingTable
    captions: Tensor

    @property
    def first_crops(self) -> Tensor:
        """Embeddings of the first crop of each clip, [clips, dim]."""
        return self.table.first_crops()


def fit(train: Split, rank: int = RANK) -> Alignment:
    """Fit the alignment on the captioned clips, as the heads learn only from these.

    Args:
        train: the split.
        rank: number of principal directions.
    """
    sounds = train.first_crops[[clip.caption is not None for clip in train.clips]]
    alignment = Alignment(sounds.shape[1], rank)
    alignment.audio_mean.copy_(sounds.mean(0))
    alignment.text_mean.copy_(train.captions.mean(0))
    _, _, directions = torch.linalg.svd(sounds - sounds.mean(0), full_matrices=False)
    alignment.basis.copy_(directions[:rank])
    return alignment


def pair_accuracy(sounds: Tensor, captions: Tensor, clips: list[Clip]) -> float:
    """Share of pairs in which a caption is nearer to its sound than to one of another family."""
    family = [clip.label.split("/")[0] for clip in clips]
    numbers = torch.tensor([sorted(set(family)).index(name) for name in family])
    similarity = captions @ sounds.T
    nearer = similarity.diag()[:, None] > similarity
    return float(nearer[numbers[:, None] != numbers[None]].float().mean())


def report(train: Split, validation: Split, path: Path = Path("results/alignment.json")) -> None:
    """Write the pair accuracy on validation without an alignment and with one of each rank."""
    scores = {"none": pair_accuracy(validation.first_crops, validation.captions, validation.clips)}
    for rank in RANKS:
        alignment = fit(train, rank)
        sounds = alignment(validation.first_crops, alignment.audio_mean)
        captions = alignment(validation.captions, alignment.text_mean)
        scores[str(rank)] = pair_accuracy(sounds, captions, validation.clips)
    path.parent.mkdir(exist_ok=True)
    meta = {"command": "python -m recipes.builtin.embed", "split": "validation", "seed": 0}
    text = json.dumps({"meta": meta, "pair_accuracy_by_rank": scores}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
