"""Fit the alignment of the two modalities and carry everything over into the aligned space.

Reads what ``embed.py`` and the first training stage left: the encoder, the tables, the extractor.
Writes their aligned counterparts: ``encoder-aligned``, ``embeddings-aligned`` and, as the start of
the second stage, the first stage's extractor with its query layer mapped into the new space. The
shipped encoder, whose audio tower ``distil.py`` taught in the old space, is aligned in place.

The rank was chosen on the validation packages: pair accuracy 0.914 without alignment, 0.912 at 16,
0.919 at 32, 0.921 at 48, 0.918 at 64 and 0.916 at 96 directions (teacher head, seed 0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.config import load_config
from singleout.data.embeddings import EmbeddingTable, table_key
from singleout.data.manifest import read_manifest
from singleout.data.plan import MixtureConfig
from singleout.model import EncoderReference, QueriedSeparator
from singleout.query.builtin import Alignment, BuiltinEncoder
from singleout.train.config import TrainConfig

RANK = 48


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
    shipped = BuiltinEncoder.from_pretrained(args.shipped)
    alignment: Alignment | None = None
    splits: list[tuple[str, MixtureConfig]] = [
        ("train", config.mixtures),
        ("validation", config.validation.mixtures),
    ]
    for split, mixtures in splits:
        clips = read_manifest(config.manifest, split)
        key = table_key(clips, mixtures, "given")
        table = EmbeddingTable.load(config.embeddings / f"{split}.safetensors", key)
        if alignment is None:
            words = [clip.caption or "" for clip in clips]
            captions = [encoder.embed_text(words[i : i + 64]) for i in range(0, len(words), 64)]
            first = table.embeddings[list(table.offsets[:-1])]
            alignment = fit(first, torch.cat(captions), RANK)
        moved = F.normalize((table.embeddings - alignment.audio_mean) @ alignment.basis.T, dim=-1)
        EmbeddingTable(moved, table.offsets).save(folder / f"{split}.safetensors", key)
    assert alignment is not None
    model = QueriedSeparator.from_pretrained(work / "run" / "model", encoder)
    new_encoder = aligned(encoder, alignment, work / "encoder-aligned")
    aligned(shipped, alignment, args.shipped)
    name = EncoderReference(name=str(work / "encoder-aligned"))
    moved_model = QueriedSeparator(model.config.model_copy(update={"encoder": name}), new_encoder)
    move_query_layer(model, moved_model, alignment)
    moved_model.save_pretrained(work / "run" / "model-aligned")
    print(f"aligned to {RANK} directions: {folder}, {args.shipped}")


if __name__ == "__main__":
    main()
