"""Embeddings of all crops of all clips, computed once, read in training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from singleout.data.manifest import Clip
from singleout.data.plan import MixtureConfig, num_crops
from singleout.data.render import read_crop
from singleout.errors import ModelError
from singleout.progress import track
from singleout.query.encoder import QueryEncoder
from singleout.weights import write_safetensors


@dataclass(frozen=True)
class EmbeddingTable:
    """One embedding per crop.

    Attributes:
        embeddings: float32 [crops, dim], unit norm.
        offsets: [clips + 1], where each clip's crops start.
    """

    embeddings: Tensor
    offsets: tuple[int, ...]

    def of(self, clip: int, crop: int) -> Tensor:
        """[dim] of one crop."""
        return self.embeddings[self.offsets[clip] + crop]

    def save(self, path: Path, key: str) -> None:
        """Write with the key that ``load`` will ask for."""
        tensors = {"embeddings": self.embeddings, "offsets": torch.tensor(self.offsets)}
        write_safetensors(tensors, path, {"key": key})

    @classmethod
    def load(cls, path: Path, key: str) -> EmbeddingTable:
        """Read a table.

        Raises:
            ModelError: missing or corrupt, or made for other clips, crops or another encoder.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                found = (file.metadata() or {}).get("key")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not a table of embeddings ({error})") from None
        if found != key:
            raise ModelError(
                f"{path}: made for other clips, crops or another encoder (key {found}, expected "
                f"{key}): delete it to have it made again"
            )
        return cls(tensors["embeddings"].float(), tuple(tensors["offsets"].tolist()))


def table_key(clips: Sequence[Clip], config: MixtureConfig, encoder: str) -> str:
    """Changes with the clips, how they are cropped, or the encoder's fingerprint."""
    names = [(clip.path.name, round(clip.seconds, 3)) for clip in clips]
    crops = (config.segment_seconds, config.crop_hop_seconds)
    text = json.dumps([encoder, crops, names])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_table(
    clips: Sequence[Clip],
    config: MixtureConfig,
    embed: Callable[[int, int], Tensor],
) -> EmbeddingTable:
    """Embed every crop with ``embed(clip, crop) -> [dim]``."""
    rows: list[Tensor] = []
    offsets = [0]
    for i, clip in enumerate(track(clips, "embedding the sounds")):
        rows += [embed(i, crop) for crop in range(num_crops(clip, config))]
        offsets.append(len(rows))
    return EmbeddingTable(torch.stack(rows).float(), tuple(offsets))


def table_of(
    clips: Sequence[Clip], config: MixtureConfig, encoder: QueryEncoder, cache: Path
) -> EmbeddingTable:
    """The encoder's embeddings of the clips, from ``cache`` or computed and kept there."""
    key = table_key(clips, config, encoder.fingerprint)
    if cache.exists():
        return EmbeddingTable.load(cache, key)

    def embed(clip: int, crop: int) -> Tensor:
        audio = read_crop(clips[clip], crop, config, 32_000)
        return encoder.embed_audio(np.ascontiguousarray(audio), 32_000)[0]

    table = build_table(clips, config, embed)
    cache.parent.mkdir(parents=True, exist_ok=True)
    table.save(cache, key)
    return table
