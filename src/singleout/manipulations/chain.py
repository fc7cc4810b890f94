"""Several manipulations in order, with what they have learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.errors import ModelError, shortened
from singleout.manipulations.base import FitEmbeddings, OtherSounds, State, for_all
from singleout.manipulations.corruptions import Dropout, Noise, NoManipulation
from singleout.manipulations.draws import RowDraws
from singleout.manipulations.memories import Neighbours, Projection, Retrieval
from singleout.manipulations.projections import MeanShift, Pca, Pls

AnyManipulation = Annotated[
    NoManipulation | Dropout | Noise | MeanShift | Pca | Pls | Retrieval | Projection | Neighbours,
    Field(discriminator="type"),
]


class Chain(StrictConfig):
    """Manipulations one after the other; an empty chain changes nothing.

    Args:
        steps: the manipulations in their order.
        corrupt_text: also corrupt text that conditions training. This is a control experiment: it
            tells whether a manipulation bridges the modalities or merely regularises.

    Example:
        >>> from singleout.manipulations import Dropout, MeanShift
        >>> chain = Chain(steps=(MeanShift(), Dropout(p=0.3)))
        >>> [step.type for step in chain.steps]
        ['mean_shift', 'dropout']
    """

    steps: Annotated[tuple[AnyManipulation, ...], Field(max_length=16)] = ()
    corrupt_text: bool = False


class Manipulator(nn.Module):
    """A chain of manipulations with what its steps have learned.

    Tensors that a step has learned are buffers, so that they follow ``to(device)``. They are not
    part of ``state_dict()``: models and checkpoints store ``state`` separately.

    Args:
        chain: the steps.
        dim: length of the encoder's embeddings.
        state: tensors of all steps, named ``0.text_mean``, …; None where they are not fitted yet.

    Attributes:
        dim: length of the embeddings that the chain gives.

    Raises:
        ConfigError: a step cannot take embeddings of its length.
        ModelError: the state does not belong to these steps; names the wrong tensors.

    Example:
        >>> import torch
        >>> from singleout.manipulations import Chain, Dropout, Manipulator, RowDraws
        >>> manipulator = Manipulator(Chain(steps=(Dropout(p=0.5),)), dim=8)
        >>> audio = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
        >>> manipulator.for_training(audio, False, RowDraws.seeded(0, rows=2)).shape
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
        """Let every step learn. It gets the examples as the steps before it map them.

        Raises:
            ConfigError: the examples lack what a step learns from.

        Example:
            >>> import torch
            >>> from singleout.manipulations import Chain, FitEmbeddings, Manipulator, MeanShift
            >>> manipulator = Manipulator(Chain(steps=(MeanShift(),)), dim=2)
            >>> manipulator.fit(FitEmbeddings(torch.eye(2), torch.eye(2), torch.arange(2)))
            >>> manipulator.state["0.audio_mean"]
            tensor([0.5000, 0.5000])
        """
        self._learn(examples, lambda _, step, mapped: step.fit(mapped))

    def extend(self, examples: FitEmbeddings) -> None:
        """Add new examples to what the steps have learned, to continue training on more sounds.

        Raises:
            ModelError: the steps have not been fitted.

        Example:
            >>> import torch
            >>> from singleout.manipulations import Chain, FitEmbeddings, Manipulator, Neighbours
            >>> manipulator = Manipulator(Chain(steps=(Neighbours(),)), dim=4)
            >>> nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
            >>> manipulator.fit(FitEmbeddings(torch.eye(4)[:3], *nothing))
            >>> manipulator.extend(FitEmbeddings(torch.eye(4)[3:], *nothing))
            >>> manipulator.state["0.memory"].shape
            torch.Size([4, 4])
        """
        self._learn(
            examples,
            lambda number, step, mapped: step.extended(
                self._state_of(number, mapped.audio), mapped
            ),
        )

    def _learn(
        self,
        examples: FitEmbeddings,
        learned_by: Callable[[int, AnyManipulation, FitEmbeddings], State],
    ) -> None:
        """Set the state to what ``learned_by`` gives for the number, step and mapped examples."""
        audio, text = examples.audio, examples.text
        state: dict[str, Tensor] = {}
        for number, step in enumerate(self.steps):
            learned = learned_by(number, step, FitEmbeddings(audio, text, examples.pairs))
            state |= {f"{number}.{name}": tensor.contiguous() for name, tensor in learned.items()}
            audio = step.map(audio, torch.zeros(len(audio), dtype=torch.bool), learned)
            text = step.map(text, torch.ones(len(text), dtype=torch.bool), learned)
        self.state = state

    def for_training(
        self,
        embedding: Tensor,
        is_text: bool | Tensor,
        draws: RowDraws,
        others: OtherSounds | None = None,
    ) -> Tensor:
        """Embeddings as the separator gets them in training.

        Text is mapped like audio, but corrupted only if the chain has ``corrupt_text``.

        Args:
            embedding: float32 [batch, encoder's dim].
            is_text: one value for all, or bool [batch].
            draws: source of all random numbers, one row per embedding.
            others: the other sounds of each mixture, of the encoder's dim; None where they are
                unknown. Every step maps them like the embedding itself, without corruption.

        Returns:
            float32 [batch, dim].

        Raises:
            ModelError: the steps have not been fitted.

        Example:
            >>> import torch
            >>> from singleout.manipulations import Chain, Dropout, Manipulator, RowDraws
            >>> manipulator = Manipulator(Chain(steps=(Dropout(p=0.5),)), dim=4)
            >>> is_text = torch.tensor([False, True])
            >>> manipulator.for_training(torch.ones(2, 4), is_text, RowDraws.seeded(0, rows=2))
            tensor([[2., 2., 2., 0.],
                    [1., 1., 1., 1.]])
        """
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            state = self._state_of(number, embedding)
            mapped = step.map(embedding, text, state)
            if others is not None:
                others = _mapped(step, others, state)
            is_spared = text[:, None] & (not self.corrupt_text)
            corrupted = step.corrupt(mapped, draws, state, others)
            embedding = torch.where(is_spared, mapped, corrupted)
        return embedding

    def for_inference(self, embedding: Tensor, is_text: bool | Tensor) -> Tensor:
        """Embeddings as the separator gets them at inference.

        The result is deterministic. If several parts stand for an embedding (``condition``), this
        is the best of them.

        Args:
            embedding: float32 [batch, encoder's dim].
            is_text: one value for all, or bool [batch].

        Returns:
            float32 [batch, dim].

        Raises:
            ModelError: the steps have not been fitted.

        Example:
            >>> import torch
            >>> from singleout.manipulations import Chain, Dropout, Manipulator
            >>> manipulator = Manipulator(Chain(steps=(Dropout(p=0.5),)), dim=4)
            >>> manipulator.for_inference(torch.ones(1, 4), False)
            tensor([[1., 1., 1., 1.]])
        """
        text = for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            embedding = step.map(embedding, text, self._state_of(number, embedding))
        return embedding

    def condition(self, embedding: Tensor, is_text: bool) -> Condition:
        """The condition of embeddings at inference.

        It has one part, ``for_inference``, unless a step gives several.

        Args:
            embedding: float32 [batch, encoder's dim].
            is_text: one value for all.

        Raises:
            ModelError: the steps have not been fitted.

        Example:
            >>> import torch
            >>> from singleout.manipulations import Chain, FitEmbeddings, Manipulator, Neighbours
            >>> manipulator = Manipulator(Chain(steps=(Neighbours(sounds=2),)), dim=4)
            >>> manipulator.fit(FitEmbeddings(torch.eye(4), torch.eye(4), torch.arange(4)))
            >>> manipulator.condition(torch.ones(1, 4), is_text=True).embeddings.shape
            torch.Size([1, 2, 4])
        """
        condition = Condition.single(embedding)
        for number, step in enumerate(self.steps):
            parts = step.condition(
                condition.embeddings.flatten(0, 1), is_text, self._state_of(number, embedding)
            )
            weights = condition.weights.reshape(-1, 1) * parts.weights
            condition = Condition(
                parts.embeddings.reshape(len(embedding), -1, parts.embeddings.shape[-1]),
                weights.reshape(len(embedding), -1),
                condition.mask,
            )
        return condition

    def _state_of(self, number: int, like: Tensor) -> State:
        """The tensors of one step by their names in that step, on the device of ``like``.

        A model may be on another device than the encoder, whose embeddings are on the CPU.
        """
        state = self.state
        if state is None:
            raise ModelError("the model's manipulation has not been fitted: train it first")
        prefix = f"{number}."
        return {
            name.removeprefix(prefix): tensor.to(like)
            for name, tensor in state.items()
            if name.startswith(prefix)
        }


def _mapped(step: AnyManipulation, others: OtherSounds, state: State) -> OtherSounds:
    """The other sounds as a step maps them."""
    rows = others.embeddings.flatten(0, 1)
    mapped = step.map(rows, for_all(False, rows), state)
    return OtherSounds(mapped.reshape(*others.mask.shape, -1), others.mask)


def _buffer(name: str) -> str:
    """Name of the buffer of a tensor: torch allows no dot in it."""
    return "learned_" + name.replace(".", "_", 1)


def _check(state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state whose tensors do not have these names and shapes."""
    wrong = []
    for name in sorted(state.keys() | shapes.keys()):
        if name not in state or name not in shapes:
            wrong.append(f"'{name}' is {'missing' if name in shapes else 'unexpected'}")
            continue
        shape, expected = tuple(state[name].shape), shapes[name]
        fits = len(shape) == len(expected) and all(
            size and want in (size, -1) for size, want in zip(shape, expected, strict=True)
        )
        if not fits:
            wrong.append(f"'{name}' is {list(shape)}, expected {list(expected)}")
        elif state[name].dtype != torch.float32:
            wrong.append(f"'{name}' is {state[name].dtype}, expected torch.float32")
    if wrong:
        listed = shortened("; ".join(wrong), 1_000)
        raise ModelError(f"the manipulation's tensors are wrong: {listed}")
