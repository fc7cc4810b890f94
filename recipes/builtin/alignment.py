"""Fit the alignment in which the encoder ends: modality means removed, principal directions kept.

What a rank costs in pair accuracy on the validation packages: ``results/alignment.json``, written
by each run of ``recipes.builtin.embed``. Why it is not the whole space: ADR 3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import Clip
from singleout.encoders.builtin import Alignment

RANK = 96
RANKS = (32, 48, 64, 96, 128, 192)


@dataclass(frozen=True)
class Split:
    """One split's clips with the teacher's embeddings of their crops and of their captions.

    ``captions`` has a row, the first caption, for each clip that has any.
    """

    clips: list[Clip]
    table: EmbeddingTable
    captions: Tensor

    @property
    def first_crops(self) -> Tensor:
        """[clips, dim]."""
        return self.table.embeddings[list(self.table.offsets[:-1])]


def fit(train: Split, rank: int = RANK) -> Alignment:
    """Means of both modalities and the sounds' leading principal directions, of what is captioned,
    as the heads learn from that alone."""
    sounds = train.first_crops[[clip.caption is not None for clip in train.clips]]
    alignment = Alignment(sounds.shape[1], rank)
    alignment.audio_mean.copy_(sounds.mean(0))
    alignment.text_mean.copy_(train.captions.mean(0))
    _, _, directions = torch.linalg.svd(sounds - sounds.mean(0), full_matrices=False)
    alignment.basis.copy_(directions[:rank])
    return alignment


def pair_accuracy(sounds: Tensor, captions: Tensor, clips: list[Clip]) -> float:
    """How often a caption is nearer to its sound than to one of another family."""
    family = [clip.label.split("/")[0] for clip in clips]
    numbers = torch.tensor([sorted(set(family)).index(name) for name in family])
    similarity = captions @ sounds.T
    nearer = similarity.diag()[:, None] > similarity
    return float(nearer[numbers[:, None] != numbers[None]].float().mean())


def report(train: Split, validation: Split, path: Path = Path("results/alignment.json")) -> None:
    """Write the pair accuracy on validation without an alignment and at each rank."""
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
