"""Manipulations that keep a memory of embeddings and answer with those nearest to the query."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from singleout.condition import Condition
from singleout.config import Positive, added
from singleout.errors import ConfigError
from singleout.manipulations.base import (
    FitEmbeddings,
    Manipulation,
    OtherSounds,
    State,
    mean_of,
)
from singleout.manipulations.draws import RowDraws

IDENTICAL = 0.9999
"""Two embeddings of at least this cosine are the same sound, apart from rounding."""


def _sample(embeddings: Tensor, count: int) -> Tensor:
    """At most ``count`` rows in their order, drawn with a fixed seed."""
    if len(embeddings) <= count:
        return embeddings
    drawn = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
    return embeddings[drawn[:count].sort().values]


def _with_new(memory: Tensor, embeddings: Tensor, count: int) -> Tensor:
    """The memory and the embeddings that it does not hold yet, at most ``count`` rows."""
    rows = torch.unique(embeddings, dim=0)
    is_new = [(part @ memory.T).amax(1) < IDENTICAL for part in rows.split(1_024)]
    return _sample(torch.cat([memory, rows[torch.cat(is_new)]]), count)


class Retrieval(Manipulation):
    """Audio is replaced by the nearest captions of a memory of captions; text passes unchanged.

    The separator then sees only text embeddings, in training and at inference. The captions need
    not describe its sounds. After "Language-based audio retrieval cache", arXiv 2409.09398.

    Args:
        nearest: number of captions; their mean is taken and brought to unit norm.
        memory: largest number of captions that are kept.

    Example:
        >>> import torch
        >>> step, captions = Retrieval(), torch.eye(3)
        >>> state = step.fit(FitEmbeddings(captions, captions, torch.arange(3)))
        >>> step.map(torch.tensor([[0.8, 0.6, 0.0]]), torch.tensor([False]), state)
        tensor([[1., 0., 0.]])
    """

    type: Literal["retrieval"] = "retrieval"
    nearest: Positive = 1
    memory: Positive = 16_384

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        mean_of(examples.text, "captions", self.type)
        captions = _sample(torch.unique(examples.text, dim=0), self.memory)
        if len(captions) < self.nearest:
            raise ConfigError(
                f"manipulation 'retrieval': takes the {self.nearest} nearest of "
                f"{len(captions)} captions"
            )
        return {"captions": captions}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"captions": (-1, dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        captions = state["captions"]
        nearest = (embedding @ captions.T).topk(min(self.nearest, len(captions)), dim=-1).indices
        retrieved = F.normalize(captions[nearest].mean(1), dim=-1)
        return torch.where(is_text[:, None], embedding, retrieved)


class Projection(Manipulation):
    """One modality is replaced by a weighted sum of a memory of the other modality.

    The weights are a softmax over cosine similarities, after DeCap (Li et al., 2023). If the
    separator is trained on audio, text is projected onto a memory of audio at inference
    (``onto="audio"``). With ``onto="text"``, audio is projected onto captions in training.

    Args:
        onto: modality of the memory. Embeddings of this modality pass unchanged.
        temperature: of the softmax; 1/100 in DeCap.
        blend: share of the projection in the result, in (0, 1]. The rest is the embedding.
        memory: largest number of embeddings that are kept.

    Example:
        >>> import torch
        >>> step, sounds = Projection(onto="audio"), torch.eye(3)
        >>> state = step.fit(FitEmbeddings(sounds, sounds, torch.arange(3)))
        >>> step.map(torch.tensor([[0.8, 0.6, 0.0]]), torch.tensor([True]), state).round(decimals=3)
        tensor([[1., 0., 0.]])
    """

    type: Literal["projection"] = "projection"
    onto: Literal["audio", "text"] = "audio"
    temperature: Annotated[float, Field(ge=1e-6)] = 0.01
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    memory: Positive = 16_384

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        kind = "sounds" if self.onto == "audio" else "captions"
        embeddings = examples.audio if self.onto == "audio" else examples.text
        mean_of(embeddings, kind, self.type)
        return {"memory": _sample(torch.unique(embeddings, dim=0), self.memory)}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"memory": (-1, dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        memory = state["memory"]
        weight = (embedding @ memory.T / self.temperature).softmax(-1)
        projected = F.normalize(weight @ memory, dim=-1)
        blended = F.normalize(self.blend * projected + (1 - self.blend) * embedding, dim=-1)
        passes = is_text if self.onto == "text" else ~is_text
        return torch.where(passes[:, None], embedding, blended)


class Neighbours(Manipulation):
    """Real sounds near to the query stand for the query.

    In training, a sound is replaced by a sound near to it. At inference, several sounds stand for
    a text, and the separator's estimates for them are averaged.

    So the separator sees only embeddings of real sounds. In training it mostly sees another sound
    than the target, although a sound may also be its own neighbour. It learns to follow what near
    sounds have in common. The method is ours; the memory is that of ``Projection``, after DeCap.

    Args:
        p: share of the sounds that are replaced in training.
        reach: share of the memory that is near enough to replace a sound. Of n such sounds, in
            order of distance, number ``n * u ** 3`` is taken, for a uniform u. So nearer sounds
            are likelier.
        sounds: number of sounds that stand for a text.
        candidates: number of sounds nearest to the text from which they are chosen.
        diversity: weight of a candidate's similarity to the chosen sounds. It counts against the
            candidate's similarity to the text.
        temperature: of the softmax over the similarities of the chosen sounds to the text. It
            gives the weights of the parts.
        memory: largest number of sounds that are kept.
        conditional: replace a sound only by sounds that are nearer to it than to every other sound
            of its mixture. If there is none, the sound stays. Where the other sounds are unknown,
            this changes nothing.

    Example:
        >>> import torch
        >>> step, sounds = Neighbours(sounds=2), torch.eye(3)
        >>> state = step.fit(FitEmbeddings(sounds, sounds, torch.arange(3)))
        >>> condition = step.condition(torch.tensor([[0.8, 0.6, 0.0]]), True, state)
        >>> condition.embeddings
        tensor([[[1., 0., 0.],
                 [0., 1., 0.]]])
        >>> condition.weights.round(decimals=2)
        tensor([[0.8800, 0.1200]])
    """

    type: Literal["neighbours"] = "neighbours"
    p: Annotated[float, Field(ge=0, le=1)] = 0.8
    reach: Annotated[float, Field(gt=0, le=1)] = 0.25
    sounds: Annotated[int, Field(gt=0, le=256)] = 4
    candidates: Positive = 600
    diversity: Annotated[float, Field(ge=0, le=1_000)] = 0.5
    temperature: Annotated[float, Field(ge=1e-6)] = 0.1
    memory: Positive = 32_768
    conditional: bool = added(False)

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        mean_of(examples.audio, "sounds", self.type)
        return {"memory": _sample(torch.unique(examples.audio, dim=0), self.memory)}

    def extended(self, state: State, examples: FitEmbeddings) -> State:
        """The memory with the new sounds added: every real sound may stand for a text."""
        return {"memory": _with_new(state["memory"], examples.audio, self.memory)}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"memory": (-1, dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        memory = state["memory"]
        nearest = memory[(embedding @ memory.T).argmax(-1)]
        return torch.where(is_text[:, None], nearest, embedding)

    def condition(self, embedding: Tensor, is_text: bool, state: State) -> Condition:
        """For text ``sounds`` parts, for audio one part: the embedding itself.

        The sounds are chosen one after the other: first the nearest, then always the candidate
        that is near to the text and unlike the chosen ones (maximal marginal relevance, Carbonell
        and Goldstein, 1998).
        """
        if not is_text:
            return Condition.single(embedding)
        memory = state["memory"]
        count = min(self.candidates, len(memory))
        similarity, rows = (embedding @ memory.T).topk(count, dim=-1)
        candidates = memory[rows]
        chosen: list[Tensor] = []
        to_chosen = torch.zeros_like(similarity)  # similarity to the nearest chosen sound
        for _ in range(min(self.sounds, count)):
            best = (similarity - self.diversity * to_chosen).argmax(-1)
            sound = candidates[torch.arange(len(best), device=best.device), best]
            to_sound = (candidates @ sound[:, :, None])[:, :, 0]
            to_chosen = to_sound if not chosen else torch.maximum(to_chosen, to_sound)
            similarity = similarity.scatter(1, best[:, None], -torch.inf)  # chosen once only
            chosen.append(sound)
        parts = torch.stack(chosen, 1)
        weights = (parts @ embedding[:, :, None])[:, :, 0].div(self.temperature).softmax(-1)
        return Condition(parts, weights, torch.ones_like(weights[:, :1], dtype=torch.bool))

    def corrupt(
        self,
        embedding: Tensor,
        draws: RowDraws,
        state: State,
        others: OtherSounds | None = None,
    ) -> Tensor:
        if not self.p:
            return embedding
        memory = state["memory"]
        uniform, place = draws.uniform(2).T.to(embedding.device)
        is_replaced = uniform < self.p
        reach = math.ceil(self.reach * len(memory))
        similarity, nearest = (embedding @ memory.T).topk(reach, dim=-1)
        if self.conditional and others is not None:
            fits = similarity > _similarity_to_others(others, memory).gather(1, nearest)
            count = fits.sum(1)
            is_replaced &= count > 0
            rank = (count * place**3).long().clamp(max=(count - 1).clamp(min=0))
            # Column of the fitting sound that has ``rank`` fitting sounds before it.
            drawn = ((fits.cumsum(1) == rank[:, None] + 1) & fits).long().argmax(1)
        else:
            drawn = (reach * place**3).long().clamp(max=reach - 1)
        near = memory[nearest.gather(1, drawn[:, None])[:, 0]]
        return torch.where(is_replaced[:, None], near, embedding)


def _similarity_to_others(others: OtherSounds, memory: Tensor) -> Tensor:
    """Similarity [batch, memory] of each sound in the memory to the nearest other sound."""
    similarity = others.embeddings @ memory.T
    return similarity.masked_fill(~others.mask[..., None], -torch.inf).amax(1)
