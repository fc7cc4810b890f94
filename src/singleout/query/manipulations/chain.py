"""Several manipulations in order, with what they have learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from singleout.config import StrictConfig
from singleout.errors import ModelError
from singleout.query.manipulations.base import Examples, Members, State, alone, for_all
from singleout.query.manipulations.corruptions import Dropout, Noise, NoManipulation
from singleout.query.manipulations.memories import Neighbours, Projection, Retrieval
from singleout.query.manipulations.projections import MeanShift, Pca, Pls

AnyManipulation = Annotated[
    NoManipulation | Dropout | Noise | MeanShift | Pca | Pls | Retrieval | Projection | Neighbours,
    Field(discriminator="type"),
]


class Chain(StrictConfig):
    """Manipulations one after the other; an empty chain changes nothing.

    Args:
        steps: in this order.
        corrupt_text: text that conditions training is corrupted, too, as a control: whether a
            manipulation bridges the modalities or merely regularises.
    """

    steps: tuple[AnyManipulation, ...] = ()
    corrupt_text: bool = False


class Manipulator:
    """A chain with what its steps have learnt.

    Args:
        chain: the steps.
        dim: length of the encoder's embeddings.
        state: of all steps, named ``0.text_mean``, …; None where they are still to be fitted.

    Attributes:
        dim: length of the embeddings it gives.
        state: of all steps; None as long as they are to be fitted.

    Raises:
        ConfigError: a step cannot take embeddings of its length.
        ModelError: the state is not of these steps; names every tensor that is wrong.
    """

    def __init__(self, chain: Chain, dim: int, state: State | None = None) -> None:
        self.steps, self.corrupt_text = chain.steps, chain.corrupt_text
        wanted: dict[str, tuple[int, ...]] = {}
        for number, step in enumerate(self.steps):
            wanted |= {f"{number}.{name}": shape for name, shape in step.shapes(dim).items()}
            dim = step.dim_out(dim)
        self.dim = dim
        self.state = {} if state is None and not wanted else state
        if self.state is not None:
            _check(self.state, wanted)

    def fit(self, examples: Examples) -> None:
        """Every step learns from what the steps before it make of the examples.

        Raises:
            ConfigError: the examples lack what a step learns from.
        """
        self._learn(examples, lambda number, step, own: step.fit(own))

    def extend(self, examples: Examples) -> None:
        """Take in what is new, where training goes on with other sounds."""
        self._learn(examples, lambda number, step, own: step.extended(self._of(number), own))

    def _learn(
        self, examples: Examples, learnt_by: Callable[[int, AnyManipulation, Examples], State]
    ) -> None:
        audio, text = examples.audio, examples.text
        state: dict[str, Tensor] = {}
        for number, step in enumerate(self.steps):
            learnt = learnt_by(number, step, Examples(audio, text, examples.pairs))
            state |= {f"{number}.{name}": tensor.contiguous() for name, tensor in learnt.items()}
            audio = step.map(audio, torch.zeros(len(audio), dtype=torch.bool), learnt)
            text = step.map(text, torch.ones(len(text), dtype=torch.bool), learnt)
        self.state = state

    def to(self, device: torch.device) -> None:
        """Take what it has learnt to where the embeddings are."""
        if self.state is not None:
            self.state = {name: tensor.to(device) for name, tensor in self.state.items()}

    def train(
        self,
        embedding: Tensor,
        is_text: bool | Tensor,
        generator: Generator,
        others: Tensor | None = None,
    ) -> Tensor:
        """What the separator sees in training, [batch, dim].

        Args:
            embedding: [batch, encoder's dim].
            is_text: of all, or of each [batch]; text is mapped, but not corrupted unless the chain
                says so.
            generator: of the random parts.
            others: [batch, others, encoder's dim], of the other sounds of each one's mixture, zeros
                where there are fewer; they are mapped as well, and not corrupted.
        """
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            state = self._of(number)
            mapped = step.map(embedding, text, state)
            if others is not None:
                others = _mapped_sounds(step, others, state)
            spared = text[:, None] & (not self.corrupt_text)
            corrupted = step.corrupt(mapped, generator, state, others)
            embedding = torch.where(spared, mapped, corrupted)
        return embedding

    def infer(self, embedding: Tensor, is_text: bool | Tensor) -> Tensor:
        """What the separator sees at inference, [batch, dim]; deterministic. Where several stand
        for one (see ``members``), the best of them."""
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            embedding = step.map(embedding, text, self._of(number))
        return embedding

    def members(self, embedding: Tensor, is_text: bool) -> Members:
        """What the separator sees at inference, one after the other, to average the estimates: one
        member, ``infer``, unless a step gives several.

        Args:
            embedding: [batch, encoder's dim].
            is_text: of all.
        """
        found = alone(embedding)
        for number, step in enumerate(self.steps):
            each = step.members(found.embeddings.flatten(0, 1), is_text, self._of(number))
            weights = found.weights.reshape(-1, 1) * each.weights
            found = Members(
                *(t.reshape(len(embedding), -1, *t.shape[2:]) for t in (each.embeddings, weights))
            )
        return found

    def _of(self, number: int) -> State:
        if self.state is None:
            raise ModelError("the model's manipulation has not been fitted: train it first")
        prefix = f"{number}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.state.items()
            if name.startswith(prefix)
        }


def _mapped_sounds(step: AnyManipulation, sounds: Tensor, state: State) -> Tensor:
    """[batch, sounds, dim] of sounds to those that ``map`` makes of them; zeros stay zeros."""
    rows = sounds.flatten(0, 1)
    mapped = step.map(rows, for_all(False, rows), state)
    mapped = torch.where(rows.any(-1, keepdim=True), mapped, 0.0)
    return mapped.reshape(*sounds.shape[:2], -1)


def _check(state: State, wanted: Mapping[str, tuple[int, ...]]) -> None:
    wrong = []
    for name in sorted(state.keys() | wanted.keys()):
        if name not in state or name not in wanted:
            wrong.append(f"'{name}' is {'missing' if name in wanted else 'unexpected'}")
            continue
        found, shape = tuple(state[name].shape), wanted[name]
        fits = len(found) == len(shape) and all(
            want in (have, -1) and have for have, want in zip(found, shape, strict=True)
        )
        if not fits:
            wrong.append(f"'{name}' is {list(found)}, expected {list(shape)}")
        elif state[name].dtype != torch.float32:
            wrong.append(f"'{name}' is {state[name].dtype}, expected torch.float32")
    if wrong:
        raise ModelError(f"the manipulation's tensors are wrong: {'; '.join(wrong)}")
