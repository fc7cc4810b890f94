"""Fit the alignment of the two modalities and carry everything over into the aligned space.

Reads what ``embed.py`` and the first training stage left: the encoder, the tables, the extractor.
Writes their aligned counterparts: ``encoder-aligned``, ``embeddings-aligned`` and, as the start of
the second stage, the first stage's extractor with its query layer mapped into the new space. The
shipped encoder, whose audio tower ``distil.py`` taught in the old space, is aligned in place.

The rank was chosen by the pair accuracy of the teacher's embeddings on the validation packages:
``results/alignment.json``, written by each run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from singleout.config import load_config
from singleout.data.embeddings import EmbeddingTable, table_key
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import MixtureConfig
from singleout.model import EncoderReference, QueriedSeparator
from singleout.query.builtin import Alignment, BuiltinEncoder
from singleout.train.config import TrainConfig

RANK = 48
RANKS = (16, 32, 48, 64, 96)


def fit(sounds: Tensor, captions: Tensor, rank: int) -> Alignment:
    """Means of both modalities and the leading principal directions of the sounds."""
    alignment = Alignment(sounds.shape[1], rank)
    alignment.audio_mean.copy_(sounds.mean(0))
    alignment.text_mean.copy_(captions.mean(0))
    _, _, directions = torch.linalg.svd(sounds - sounds.mean(0), full_matrices=False)
    alignment.basis.copy_(directions[:rank])
    return alignment


def aligned(encoder: BuiltinEncoder, alignment: Alignment, folder: Path) -> BuiltinEncoder:
    """``encoder`` with the alignment, saved in ``folder``."""
    encoder.network.alignment = alignment
    result = BuiltinEncoder(
        encoder.network,
        encoder.tokenizer_json,
        {**encoder.config, "rank": len(alignment.basis)},
    )
    result.save_pretrained(folder)
    return result


def move_query_layer(model: QueriedSeparator, to: QueriedSeparator, alignment: Alignment) -> None:
    """Copy the weights; the query layer takes aligned embeddings for those it was trained on.

    An old embedding is about mean + radius * basis^T (aligned embedding); the separator scales
    embeddings by the root of their length.
    """
    weights = model.separator.state_dict()  # type: ignore[attr-defined]
    old_dim, rank = alignment.basis.shape[1], alignment.basis.shape[0]
    matrix, bias = weights["query.0.weight"], weights["query.0.bias"]
    radius = (1 - alignment.audio_mean.square().sum()).sqrt()
    weights["query.0.bias"] = bias + old_dim**0.5 * matrix @ alignment.audio_mean
    weights["query.0.weight"] = matrix @ alignment.basis.T * radius * (old_dim / rank) ** 0.5
    to.separator.load_state_dict(weights)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Split:
    """One split's clips with the teacher's embeddings of their crops and of their captions."""

    name: str
    clips: list[Clip]
    key: str
    table: EmbeddingTable
    captions: Tensor

    @property
    def first_crops(self) -> Tensor:
        """[clips, dim]."""
        return self.table.embeddings[list(self.table.offsets[:-1])]


def _split(
    config: TrainConfig, name: str, mixtures: MixtureConfig, encoder: BuiltinEncoder
) -> Split:
    assert config.manifest is not None
    assert config.embeddings is not None
    clips = read_manifest(config.manifest, name)
    key = table_key(clips, mixtures, "given")
    table = EmbeddingTable.load(config.embeddings / f"{name}.safetensors", key)
    words = [clip.caption or "" for clip in clips]
    captions = [encoder.embed_text(words[i : i + 64]) for i in range(0, len(words), 64)]
    return Split(name, clips, key, table, torch.cat(captions))


def pair_accuracy(sounds: Tensor, captions: Tensor, clips: list[Clip]) -> float:
    """How often a caption is nearer to its sound than to one of another family."""
    family = [clip.label.split("/")[0] for clip in clips]
    numbers = torch.tensor([sorted(set(family)).index(name) for name in family])
    similarity = captions @ sounds.T
    nearer = similarity.diag()[:, None] > similarity
    return float(nearer[numbers[:, None] != numbers[None]].float().mean())


def report(train: Split, validation: Split) -> None:
    """Write ``results/alignment.json``: pair accuracy on validation without and at each rank."""
    scores = {"none": pair_accuracy(validation.first_crops, validation.captions, validation.clips)}
    for rank in RANKS:
        alignment = fit(train.first_crops, train.captions, rank)
        sounds = alignment(validation.first_crops, alignment.audio_mean)
        captions = alignment(validation.captions, alignment.text_mean)
        scores[str(rank)] = pair_accuracy(sounds, captions, validation.clips)
    path = Path("results/alignment.json")
    path.parent.mkdir(exist_ok=True)
    meta = {"command": "python -m recipes.builtin.align", "split": "validation", "seed": 0}
    text = json.dumps({"meta": meta, "pair_accuracy_by_rank": scores}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Fit on the training split and write everything aligned."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--shipped", type=Path, default=Path("src/singleout/builtin/encoder"))
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    assert config.embeddings is not None
    work = config.output.parent
    folder = work / "embeddings-aligned"
    folder.mkdir(exist_ok=True)
    encoder = BuiltinEncoder.from_pretrained(work / "encoder")
    train = _split(config, "train", config.mixtures, encoder)
    validation = _split(config, "validation", config.validation.mixtures, encoder)
    alignment = fit(train.first_crops, train.captions, RANK)
    for split in (train, validation):
        moved = alignment(split.table.embeddings, alignment.audio_mean)
        EmbeddingTable(moved, split.table.offsets).save(
            folder / f"{split.name}.safetensors", split.key
        )
    model = QueriedSeparator.from_pretrained(work / "run" / "model", encoder)
    report(train, validation)
    new_encoder = aligned(encoder, alignment, work / "encoder-aligned")
    aligned(BuiltinEncoder.from_pretrained(args.shipped), alignment, args.shipped)
    name = EncoderReference(name=str(work / "encoder-aligned"))
    moved_model = QueriedSeparator(model.config.model_copy(update={"encoder": name}), new_encoder)
    move_query_layer(model, moved_model, alignment)
    moved_model.save_pretrained(work / "run" / "model-aligned")
    print(f"aligned to {RANK} directions: {folder}, {args.shipped}")


if __name__ == "__main__":
    main()
