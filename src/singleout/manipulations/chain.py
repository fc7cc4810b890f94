"""Several manipulations in order, with what they have learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.errors import ModelError
from singleout.manipulations.base import FitEmbeddings, State, for_all
from singleout.manipulations.corruptions import Dropout, Noise, NoManipulation
from singleout.manipulations.memories import Neighbours, Projection, Retrieval
from singleout.manipulations.projections import MeanShift, Pca, Pls

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


class Manipulator(nn.Module):
    """A chain of manipulations with what its steps have learned.

    Tensors that a step has learned are buffers, so that they follow ``to(device)``. They are not
    part of ``state_dict()``: models and checkpoints store them apart (``state``).

    Args:
        chain: the steps.
        dim: length of the encoder's embeddings.
        state: tensors of all steps, named ``0.text_mean``, …; None where they are not fitted yet.

    Attributes:
        dim: length of the embeddings that the chain gives.

    Raises:
        ConfigError: a step cannot take embeddings of its length.
        ModelError: the state is not of these steps; names every tensor that is wrong.

    Example:
        >>> import torch
        >>> from singleout.manipulations import Chain, Dropout, Manipulator
        >>> manipulator = Manipulator(Chain(steps=(Dropout(p=0.5),)), dim=8)
        >>> audio = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> manipulator.for_training(audio, False, generator).shape
        torch.Size([2, 8])
    """

    def __init__(self, chain: Chain, dim: int, state: State | None = None) -> None:
        super().__init__()
        self.steps, self.corrupt_text = chain.steps, chain.corrupt_text
        shapes: dict[str, tuple[int, ...]] = {}
        for number, step in enumerate(self.steps):
            shapes |= {f"{number}.{name}": shape for name, shape in step.shapes(dim).items()}
            dim = step.dim_out(dim)
        self.dim = dim
        self._shapes = shapes
        self._is_fitted = not shapes
        if state is not None:
            self.state = state

    @property
    def state(self) -> State | None:
        """Tensors of all steps by name; None as long as the steps are not fitted."""
        if not self._is_fitted:
            return None
        return {name: self.get_buffer(_buffer(name)) for name in self._shapes}

    @state.setter
    def state(self, state: State) -> None:
        _check(state, self._shapes)
        for name, tensor in state.items():
            self.register_buffer(_buffer(name), tensor, persistent=False)
        self._is_fitted = True

    def fit(self, examples: FitEmbeddings) -> None:
        """Let every step learn from what the steps before it make of the examples.

        Raises:
            ConfigError: the examples lack what a step learns from.
        """
        self._learn(examples, lambda number, step, own: step.fit(own))

    def extend(self, examples: FitEmbeddings) -> None:
        """Add new examples to what the steps have learned, where training continues with more
        sounds."""
        self._learn(examples, lambda number, step, own: step.extended(self._of(number), own))

    def _learn(
        self,
        examples: FitEmbeddings,
        learned_by: Callable[[int, AnyManipulation, FitEmbeddings], State],
    ) -> None:
        audio, text = examples.audio, examples.text
        state: dict[str, Tensor] = {}
        for number, step in enumerate(self.steps):
            learned = learned_by(number, step, FitEmbeddings(audio, text, examples.pairs))
            state |= {f"{number}.{name}": tensor.contiguous() for name, tensor in learned.items()}
            audio = step.map(audio, torch.zeros(len(audio), dtype=torch.bool), learned)
            text = step.map(text, torch.ones(len(text), dtype=torch.bool), learned)
        self.state = state

    def for_training(
        self, embedding: Tensor, is_text: bool | Tensor, generator: Generator
    ) -> Tensor:
        """Embeddings as the separator gets them in training, float32 [batch, dim].

        Args:
            embedding: [batch, encoder's dim].
            is_text: one value for all, or bool [batch]. Text is mapped, and corrupted only where
                the chain says so.
            generator: source of the random parts.
        """
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            mapped = step.map(embedding, text, self._of(number))
            is_spared = text[:, None] & (not self.corrupt_text)
            corrupted = step.corrupt(mapped, generator, self._of(number))
            embedding = torch.where(is_spared, mapped, corrupted)
        return embedding

    def for_inference(self, embedding: Tensor, is_text: bool | Tensor) -> Tensor:
        """Embeddings as the separator gets them at inference, float32 [batch, dim].

        The result is deterministic. Where several parts stand for an embedding (``condition``),
        this is the best of them.
        """
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            embedding = step.map(embedding, text, self._of(number))
        return embedding

    def condition(self, embedding: Tensor, is_text: bool) -> Condition:
        """The condition of embeddings at inference.

        It has one part, ``for_inference``, unless a step gives several.

        Args:
            embedding: [batch, encoder's dim].
            is_text: one value for all.
        """
        condition = Condition.single(embedding)
        for number, step in enumerate(self.steps):
            own = step.condition(condition.embeddings.flatten(0, 1), is_text, self._of(number))
            weights = condition.weights.reshape(-1, 1) * own.weights
            condition = Condition(
                own.embeddings.reshape(len(embedding), -1, own.embeddings.shape[-1]),
                weights.reshape(len(embedding), -1),
                condition.mask,
            )
        return condition

    def _of(self, number: int) -> State:
        state = self.state
        if state is None:
            raise ModelError("the model's manipulation has not been fitted: train it first")
        prefix = f"{number}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }


def _buffer(name: str) -> str:
    """Name of the buffer of a tensor: torch allows no dot in it."""
    return "learned_" + name.replace(".", "_", 1)


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
