"""Batches of random embeddings, and modules that give their conditions."""

from __future__ import annotations

import torch

from singleout.data.dataset import TrainingExample
from singleout.data.embeddings import EmbeddingTable
from singleout.encoders import BuiltinEncoder
from singleout.model import QueriedSeparator
from singleout.separators import IdentityConfig
from singleout.train.config import TrainConfig
from singleout.train.corpus import fit_embeddings
from singleout.train.module import TrainingModule


def module_of(config: TrainConfig, encoder: BuiltinEncoder) -> TrainingModule:
    """A module with a separator that returns the mixture; its manipulation learns from noise."""
    separator = IdentityConfig(sample_rate=config.model.separator.sample_rate)
    model = QueriedSeparator(config.model.model_copy(update={"separator": separator}), encoder)
    if model.manipulator.state is None:
        rows = torch.randn(2, 20, encoder.dim, generator=torch.Generator().manual_seed(9))
        tables = [EmbeddingTable(side, tuple(range(21))) for side in rows]
        model.manipulator.fit(fit_embeddings(*tables))
    return TrainingModule(model, config)


def batch_of(batch: int, uncaptioned: tuple[int, ...] = (), dim: int = 32) -> TrainingExample:
    """Random embeddings of two queries per mixture.

    Args:
        batch: number of mixtures.
        uncaptioned: rows, in the order [queries * batch], that have no caption.
        dim: of the embeddings.
    """
    generator = torch.Generator().manual_seed(4)
    audio, text = torch.nn.functional.normalize(
        torch.randn(2, batch, 2, dim, generator=generator), dim=-1
    )
    has_text = torch.ones(batch, 2, dtype=torch.bool)
    for row in uncaptioned:
        text[row % batch, row // batch] = 0
        has_text[row % batch, row // batch] = False
    return TrainingExample(
        index=torch.arange(batch),
        mixture=torch.zeros(batch, 1, 10),
        targets=torch.zeros(batch, 2, 1, 10),
        audio_embedding=audio,
        has_positive=torch.ones(batch, 2, dtype=torch.bool),
        text_embedding=text,
        has_text=has_text,
        negative_audio_embedding=torch.zeros_like(audio),
        has_negative=torch.zeros(batch, 2, dtype=torch.bool),
        negative_text_embedding=torch.zeros_like(text),
        has_negative_text=torch.zeros(batch, 2, dtype=torch.bool),
        other_embeddings=torch.zeros(batch, 2, 3, dim),
        has_other=torch.zeros(batch, 2, 3, dtype=torch.bool),
        negative_other_embeddings=torch.zeros(batch, 2, 3, dim),
        has_negative_other=torch.zeros(batch, 2, 3, dtype=torch.bool),
        clips=torch.zeros(batch, 2, dtype=torch.long),
        query_audio=torch.zeros(batch, 2, 0),
        query_samples=torch.zeros(batch, 2, dtype=torch.long),
    )


def negative_batch_of(batch: int) -> TrainingExample:
    """Rows 0 to 2 of the order [queries * batch] have negative prompts.

    Row 0 is a removal, row 1 a contrast, row 2 a contrast without captions. All other rows have a
    positive prompt only.
    """
    values = batch_of(batch, uncaptioned=(0, 2, 5))
    generator = torch.Generator().manual_seed(8)
    audio, text = torch.nn.functional.normalize(torch.randn(2, 3, 32, generator=generator), dim=-1)
    for row in range(3):
        place = row % batch, row // batch
        values["negative_audio_embedding"][place] = audio[row]
        values["has_negative"][place] = True
        if row < 2:
            values["negative_text_embedding"][place] = text[row]
            values["has_negative_text"][place] = True
    values["audio_embedding"][0, 0] = 0
    values["has_positive"][0, 0] = False
    return values


def embeddings_at(module: TrainingModule, batch: TrainingExample, step: int = 0) -> torch.Tensor:
    """Embeddings [queries * batch, dim] of the condition of a batch at a step of the run."""
    index = step * module.run.batch_size + torch.arange(len(batch["mixture"]))
    condition = module.condition(TrainingExample(**{**batch, "index": index}))
    assert condition.embeddings.shape[1] == 1
    assert torch.equal(condition.weights, torch.ones(len(condition.embeddings), 1))
    return condition.embeddings[:, 0]
