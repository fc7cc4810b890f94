"""The queried separator: encoder + manipulation + separator, one path for all uses.

On disk a model is a folder: ``config.json`` and ``model.safetensors`` (the separator). The encoder
is named with its fingerprint, not copied.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import StrictConfig, validated
from singleout.errors import ConfigError, ModelError, QueryError
from singleout.query import QueryEncoder, load_encoder
from singleout.query.manipulations import Chain
from singleout.separators import AnySeparator, Separator
from singleout.types import Query
from singleout.weights import load_tensors, save_tensors

PACKAGED = "builtin/extractor"
"""Folder of the shipped model, inside the package."""


class EncoderReference(StrictConfig):
    """Which encoder a model was trained with."""

    name: str = "builtin"
    fingerprint: str | None = None


class ModelConfig(StrictConfig):
    """All that rebuilds a model around its weights.

    Args:
        separator: which one, and its sizes.
        manipulation: of the embeddings, in training and at inference.
        encoder: reference to the query encoder.
    """

    format: Literal[1] = 1
    separator: AnySeparator
    manipulation: Chain = Chain()
    encoder: EncoderReference = EncoderReference()


class QueriedSeparator(nn.Module):
    """Extracts from a mixture what a query describes."""

    def __init__(self, config: ModelConfig, encoder: QueryEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder  # not a submodule: it is frozen and saved on its own
        self.separator: Separator = config.separator.build(encoder.dim)  # type: ignore[assignment]

    @property
    def sample_rate(self) -> int:
        """Of the mixtures it takes, Hz."""
        return self.separator.sample_rate

    def embed(self, query: Query) -> Tensor:
        """The condition of one query, float32 [1, dim]: the mean of its positive prompts.

        Raises:
            QueryError: the query has negative prompts, which this model does not support.
        """
        if query.negative:
            raise QueryError(
                f"this model cannot answer negative prompts ({', '.join(query.negative)}): "
                "leave them out"
            )
        mean = self.encoder.embed_text(query.positive).mean(0, keepdim=True)
        return self.config.manipulation.infer(F.normalize(mean, dim=-1))

    def forward(self, mixture: Tensor, condition: Tensor) -> Tensor:
        """Mixture [batch, 1, samples], condition [queries * batch, dim] to the targets.

        The first query of every mixture comes first, then the second of every mixture; the result
        is float32 [queries * batch, 1, samples].
        """
        return self.separator(mixture, condition)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (float16), each whole or not at all."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_tensors(self.separator, path / "model.safetensors")  # type: ignore[arg-type]
        reference = EncoderReference(
            name=self.config.encoder.name, fingerprint=self.encoder.fingerprint
        )
        config = self.config.model_copy(update={"encoder": reference})
        partial = path / "config.json.partial"
        partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path / "config.json")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, encoder: QueryEncoder | None = None
    ) -> QueriedSeparator:
        """The model in the package, or the one in ``folder``; in evaluation mode.

        Raises:
            ModelError: no such folder, or its files are corrupt or of another architecture.
        """
        path = Path(str(files("singleout") / PACKAGED)) if folder is None else Path(folder)
        config = read_config(path)
        if encoder is None:
            encoder = load_encoder(config.encoder.name, config.encoder.fingerprint)
        with torch.device("meta"):
            model = cls(config, encoder)
        load_tensors(model.separator, path / "model.safetensors")  # type: ignore[arg-type]
        return model.eval().requires_grad_(False)


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder.

    Raises:
        ModelError: the folder or its config is missing, or it is not one of ours.
    """
    path = folder / "config.json"
    if not folder.exists():
        raise ModelError(f"model '{folder}' does not exist: give a folder that holds config.json")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model '{folder}': no readable config.json ({error})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: not a model's config")
    try:
        return validated(ModelConfig, values, str(path))
    except ConfigError as error:
        raise ModelError(f"model of another architecture: {error}") from None
