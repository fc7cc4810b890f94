"""Manipulations that keep embeddings and answer with those nearest to what is asked."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.config import added
from singleout.errors import ConfigError
from singleout.query.manipulations.base import (
    Examples,
    Manipulation,
    Members,
    Positive,
    State,
    alone,
    mean_of,
)

SAME = 0.9999
"""Cosine from which two embeddings are one sound's, rounded."""


def _sample(embeddings: Tensor, count: int) -> Tensor:
    """At most ``count`` rows, drawn by a fixed seed, in their order."""
    if len(embeddings) <= count:
        return embeddings
    drawn = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
    return embeddings[drawn[:count].sort().values]


def _with_new(memory: Tensor, embeddings: Tensor, count: int) -> Tensor:
    """The memory, and those of other embeddings that are not in it already; at most ``count``."""
    rows = torch.unique(embeddings, dim=0)
    is_new = [(part @ memory.T).amax(1) < SAME for part in rows.split(1_024)]
    return _sample(torch.cat([memory, rows[torch.cat(is_new)]]), count)


class Retrieval(Manipulation):
    """Audio is replaced by the captions nearest to it, from a cache of captions; text passes.

    After "Language-based audio retrieval cache", arXiv 2409.09398: the separator is conditioned on
    text embeddings alone, in training as at inference. The captions need not be of its sounds.

    Args:
        nearest: how many; their mean is taken and brought to unit norm.
        memory: captions that are kept at most.
    """

    type: Literal["retrieval"] = "retrieval"
    nearest: Positive = 1
    memory: Positive = 16_384

    def fit(self, examples: Examples) -> dict[str, Tensor]:
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
        found = (embedding @ captions.T).topk(self.nearest, dim=-1).indices
        retrieved = F.normalize(captions[found].mean(1), dim=-1)
        return torch.where(is_text[:, None], embedding, retrieved)


class Projection(Manipulation):
    """One modality is expressed by a memory of the other: a weighted sum, weights by likeness.

    After DeCap (Li et al., 2023). Where the separator is trained on audio, the text of inference
    is projected onto a memory of audio embeddings (``onto`` audio); the reverse projects the audio
    of training onto a memory of captions.

    Args:
        onto: modality of the memory, which passes unchanged.
        temperature: of the softmax over cosines; DeCap has 1/100.
        blend: share of the projection in the result, the rest is the embedding itself.
        memory: embeddings that are kept at most.
    """

    type: Literal["projection"] = "projection"
    onto: Literal["audio", "text"] = "audio"
    temperature: Annotated[float, Field(gt=0)] = 0.01
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    memory: Positive = 16_384

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        what = "sounds" if self.onto == "audio" else "captions"
        embeddings = examples.audio if self.onto == "audio" else examples.text
        mean_of(embeddings, what, self.type)
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
    """A sound stands for those that sound like it: in training it is replaced by one near to it,
    and words are answered by sounds near to them, whose estimates are averaged.

    The separator is conditioned on embeddings of real sounds alone, in training as at inference,
    and mostly not on the very sound that it is to single out (which may be its own nearest): what
    it learns to follow is what near sounds have in common. Ours; the memory is what ``Projection``
    has, after DeCap.

    Args:
        p: share of the sounds that are replaced in training.
        reach: share of the memory that is near enough to replace a sound; nearer ones are likelier:
            number ``n * u ** 3`` of n, for an even u.
        sounds: how many stand for words.
        candidates: sounds nearest to the words that those are chosen from.
        diversity: how much being like a chosen one counts against a candidate, over its likeness
            to the words.
        temperature: of the softmax over the chosen ones' likeness to the words, by which their
            estimates are weighted.
        memory: sounds that are kept at most.
        conditional: a sound is replaced by those alone that are nearer to it than to every other
            sound of its mixture, where these are known; where there is none, it stays.
    """

    type: Literal["neighbours"] = "neighbours"
    p: Annotated[float, Field(ge=0, le=1)] = 0.8
    reach: Annotated[float, Field(gt=0, le=1)] = 0.25
    sounds: Positive = 4
    candidates: Positive = 600
    diversity: Annotated[float, Field(ge=0)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.1
    memory: Positive = 32_768
    conditional: bool = added(False)

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        mean_of(examples.audio, "sounds", self.type)
        return {"memory": _sample(torch.unique(examples.audio, dim=0), self.memory)}

    def extended(self, state: State, examples: Examples) -> State:
        """With those that are new: any real sound is as good."""
        return {"memory": _with_new(state["memory"], examples.audio, self.memory)}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"memory": (-1, dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        memory = state["memory"]
        nearest = memory[(embedding @ memory.T).argmax(-1)]
        return torch.where(is_text[:, None], nearest, embedding)

    def members(self, embedding: Tensor, is_text: bool, state: State) -> Members:
        if not is_text:
            return alone(embedding)
        memory = state["memory"]
        count = min(self.candidates, len(memory))
        likeness, places = (embedding @ memory.T).topk(count, dim=-1)
        candidates = memory[places]
        chosen: list[Tensor] = []
        closest = torch.zeros_like(likeness)  # to any that is chosen
        for _ in range(min(self.sounds, count)):
            best = (likeness - self.diversity * closest).argmax(-1)
            found = candidates[torch.arange(len(best), device=best.device), best]
            near = (candidates @ found[:, :, None])[:, :, 0]
            closest = near if not chosen else torch.maximum(closest, near)
            likeness = likeness.scatter(1, best[:, None], -torch.inf)  # once is enough
            chosen.append(found)
        members = torch.stack(chosen, 1)
        weights = (members @ embedding[:, :, None])[:, :, 0].div(self.temperature).softmax(-1)
        return Members(members, weights)

    def corrupt(
        self, embedding: Tensor, generator: Generator, state: State, others: Tensor | None = None
    ) -> Tensor:
        if not self.p:
            return embedding
        memory = state["memory"]
        is_replaced, place = (
            drawn.to(embedding.device)
            for drawn in torch.rand((2, len(embedding)), generator=generator)
        )
        reach = math.ceil(self.reach * len(memory))
        likeness, nearest = (embedding @ memory.T).topk(reach, dim=-1)
        is_replaced = is_replaced < self.p
        if self.conditional and others is not None:
            fits = likeness > _most_like(others, memory).gather(1, nearest)
            count = fits.sum(1)
            is_replaced &= count > 0
            drawn = (count * place**3).long().clamp(max=(count - 1).clamp(min=0))
            # The place of the fitting one that has so many before it.
            drawn = ((fits.cumsum(1) == drawn[:, None] + 1) & fits).long().argmax(1)
        else:
            drawn = (reach * place**3).long().clamp(max=reach - 1)
        near = memory[nearest.gather(1, drawn[:, None])[:, 0]]
        return torch.where(is_replaced[:, None], near, embedding)


def _most_like(others: Tensor, memory: Tensor) -> Tensor:
    """[batch, memory]: how like each is to the one of [batch, others, dim] that it is most like;
    rows of zeros are nobody's."""
    likeness = others @ memory.T
    likeness = likeness.masked_fill(~others.any(-1, keepdim=True), -torch.inf)
    return likeness.amax(1)
