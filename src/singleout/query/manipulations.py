"""Embedding manipulations: what keeps a separator from overfitting to audio queries.

Each has two faces. ``train`` is applied to the embeddings that condition training (of audio, as a
rule), ``infer`` to those that condition inference (of text, as a rule). A face is a deterministic
``map``, which both faces share and which may treat the modalities differently, and, in training
and on audio alone, a random ``corrupt``. Randomness comes from the generator that is handed in, so
a run is reproducible to the bit.

Manipulations compose: ``Chain`` lists them, ``Manipulator`` runs them in order. Those that learn
from embeddings (means, components, memories) do so in one ``fit``; what they have learnt is saved
with the model.

What acts on the query's audio before it is embedded (mixup, SpecAugment) is in
``audio_manipulations``.

Source where no other is named: Saijo et al., "Leveraging Audio-Only Data for Text-Queried Target
Sound Extraction", 2024. Rates, variances and sizes are our choices unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.config import StrictConfig
from singleout.errors import ConfigError, ModelError

State = Mapping[str, Tensor]
"""What a manipulation has learnt, by name."""

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Examples:
    """Embeddings to fit on, float32, unit norm.

    Attributes:
        audio: [sounds, dim], of audio.
        text: [captions, dim], of captions; none where nothing is captioned.
        pairs: [captions], which sound each caption is of.
    """

    audio: Tensor
    text: Tensor
    pairs: Tensor


class Manipulation(StrictConfig):
    """Maps embeddings [batch, dim] to embeddings [batch, dim_out]; this one changes nothing."""

    def dim_out(self, dim: int) -> int:
        """Length of its results.

        Raises:
            ConfigError: it cannot take embeddings of length ``dim``.
        """
        return dim

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        """What there is to learn: the state that ``map`` will be given.

        Raises:
            ConfigError: the examples lack what it learns from.
        """
        return {}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state for embeddings of length ``dim``; -1 where any length will do."""
        return {}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        """The deterministic part; ``is_text`` [batch] tells the modality."""
        return embedding

    def corrupt(self, embedding: Tensor, generator: Generator) -> Tensor:
        """The random part, in training only."""
        return embedding


class NoManipulation(Manipulation):
    """Embeddings pass unchanged (the paper's plain audio-query training)."""

    type: Literal["none"] = "none"


class Dropout(Manipulation):
    """Each entry is zeroed with probability ``p``, the others are scaled by 1 / (1 - p).

    Args:
        p: in [0, 1).
        renormalise: bring the result back to unit norm.
    """

    type: Literal["dropout"] = "dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    renormalise: bool = False

    def corrupt(self, embedding: Tensor, generator: Generator) -> Tensor:
        drawn = torch.rand(embedding.shape, generator=generator).to(embedding.device)
        kept = embedding * (drawn >= self.p).to(embedding) / (1 - self.p)
        return F.normalize(kept, dim=-1) if self.renormalise else kept


class Noise(Manipulation):
    """Noise is added: Gaussian (CapDec: Nukrai et al., 2022), or uniform in a ball.

    Args:
        relative_norm: of the noise over the embedding's norm: the root mean square of Gaussian
            noise, that is sigma * sqrt(dim) for unit embeddings; the radius of the ball.
        kind: ``gaussian`` or ``ball``.
        renormalise: bring the result back to unit norm.
    """

    type: Literal["noise"] = "noise"
    relative_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    kind: Literal["gaussian", "ball"] = "gaussian"
    renormalise: bool = True

    def corrupt(self, embedding: Tensor, generator: Generator) -> Tensor:
        dim = embedding.shape[-1]
        noise = torch.randn(embedding.shape, generator=generator)
        if self.kind == "ball":
            radius = torch.rand((*embedding.shape[:-1], 1), generator=generator) ** (1 / dim)
            noise = F.normalize(noise, dim=-1) * radius
        else:
            noise = noise / dim**0.5
        noise = noise.to(embedding.device)
        norm = embedding.norm(dim=-1, keepdim=True)
        noisy = embedding + self.relative_norm * norm * noise
        return F.normalize(noisy, dim=-1) if self.renormalise else noisy


def _mean(embeddings: Tensor, what: str, who: str) -> Tensor:
    if not len(embeddings):
        raise ConfigError(f"manipulation '{who}': learns from {what}, and there are none")
    return embeddings.mean(0)


class MeanShift(Manipulation):
    """Each modality's own mean is removed: a - mean(a) in training, t - mean(t) at inference.

    With ``Noise`` after it, this is C3 (Zhang et al., "Connect, collapse, corrupt", 2024).

    Args:
        renormalise: bring the result back to unit norm.
    """

    type: Literal["mean_shift"] = "mean_shift"
    renormalise: bool = True

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        return {
            "audio_mean": _mean(examples.audio, "sounds", self.type),
            "text_mean": _mean(examples.text, "captions", self.type),
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"audio_mean": (dim,), "text_mean": (dim,)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        shifted = embedding - torch.where(is_text[:, None], state["text_mean"], state["audio_mean"])
        return F.normalize(shifted, dim=-1) if self.renormalise else shifted


class Pca(Manipulation):
    """Projection on principal components of the audio embeddings.

    Args:
        k: how many components.
        keep: the first k, or all but these (``rest``: what differs most between sounds may be
            what differs between recordings).
        centre: remove each modality's ``own`` mean, the ``audio`` mean from both, or ``none``.
        renormalise: bring the result to unit norm.
    """

    type: Literal["pca"] = "pca"
    k: Positive = 48
    keep: Literal["first", "rest"] = "first"
    centre: Literal["own", "audio", "none"] = "own"
    renormalise: bool = True

    def dim_out(self, dim: int) -> int:
        out = self.k if self.keep == "first" else dim - self.k
        if not 0 < out <= dim:
            raise ConfigError(f"manipulation 'pca': k is {self.k}, embeddings have length {dim}")
        return out

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        audio_mean = _mean(examples.audio, "sounds", self.type)
        centred = examples.audio - audio_mean
        components = torch.linalg.eigh(centred.T @ centred)[1].flip(1).T
        text_mean = audio_mean
        if self.centre == "own":
            text_mean = _mean(examples.text, "captions", self.type)
        scale = float(self.centre != "none")
        return {
            "audio_mean": scale * audio_mean,
            "text_mean": scale * text_mean,
            "basis": components[: self.k] if self.keep == "first" else components[self.k :],
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"audio_mean": (dim,), "text_mean": (dim,), "basis": (self.dim_out(dim), dim)}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        mean = torch.where(is_text[:, None], state["text_mean"], state["audio_mean"])
        projected = (embedding - mean) @ state["basis"].T
        return F.normalize(projected, dim=-1) if self.renormalise else projected


class Pls(Manipulation):
    """Both modalities in the directions in which they vary together.

    Singular vectors of the cross-covariance of captions and their sounds, after arXiv 2605.29628
    (partial least squares); each modality keeps its own first k.

    Args:
        k: how many directions.
        renormalise: bring the result to unit norm.
    """

    type: Literal["pls"] = "pls"
    k: Positive = 48
    renormalise: bool = True

    def dim_out(self, dim: int) -> int:
        if self.k > dim:
            raise ConfigError(f"manipulation 'pls': k is {self.k}, embeddings have length {dim}")
        return self.k

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        text_mean = _mean(examples.text, "captioned sounds", self.type)
        heard = examples.audio[examples.pairs]
        audio_mean = heard.mean(0)
        left, _, right = torch.linalg.svd((heard - audio_mean).T @ (examples.text - text_mean))
        return {
            "audio_mean": audio_mean,
            "text_mean": text_mean,
            "audio_basis": left[:, : self.k].T,
            "text_basis": right[: self.k],
        }

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {
            "audio_mean": (dim,),
            "text_mean": (dim,),
            "audio_basis": (self.k, dim),
            "text_basis": (self.k, dim),
        }

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        heard = (embedding - state["audio_mean"]) @ state["audio_basis"].T
        said = (embedding - state["text_mean"]) @ state["text_basis"].T
        projected = torch.where(is_text[:, None], said, heard)
        return F.normalize(projected, dim=-1) if self.renormalise else projected


def _sample(embeddings: Tensor, count: int) -> Tensor:
    """At most ``count`` rows, drawn by a fixed seed, in their order."""
    if len(embeddings) <= count:
        return embeddings
    drawn = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
    return embeddings[drawn[:count].sort().values]


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
        _mean(examples.text, "captions", self.type)
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
        _mean(embeddings, what, self.type)
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


AnyManipulation = Annotated[
    NoManipulation | Dropout | Noise | MeanShift | Pca | Pls | Retrieval | Projection,
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
        audio, text = examples.audio, examples.text
        state: dict[str, Tensor] = {}
        for number, step in enumerate(self.steps):
            learnt = step.fit(Examples(audio, text, examples.pairs))
            state |= {f"{number}.{name}": tensor.contiguous() for name, tensor in learnt.items()}
            audio = step.map(audio, torch.zeros(len(audio), dtype=torch.bool), learnt)
            text = step.map(text, torch.ones(len(text), dtype=torch.bool), learnt)
        self.state = state

    def to(self, device: torch.device) -> None:
        """Take what it has learnt to where the embeddings are."""
        if self.state is not None:
            self.state = {name: tensor.to(device) for name, tensor in self.state.items()}

    def train(self, embedding: Tensor, is_text: bool | Tensor, generator: Generator) -> Tensor:
        """What the separator sees in training, [batch, dim].

        Args:
            embedding: [batch, encoder's dim].
            is_text: of all, or of each [batch]; text is mapped, but not corrupted unless the chain
                says so.
            generator: of the random parts.
        """
        text = _for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            mapped = step.map(embedding, text, self._of(number))
            spared = text[:, None] & (not self.corrupt_text)
            embedding = torch.where(spared, mapped, step.corrupt(mapped, generator))
        return embedding

    def infer(self, embedding: Tensor, is_text: bool | Tensor) -> Tensor:
        """What the separator sees at inference, [batch, dim]; deterministic."""
        text = _for_all(is_text, embedding)
        for number, step in enumerate(self.steps):
            embedding = step.map(embedding, text, self._of(number))
        return embedding

    def _of(self, number: int) -> State:
        if self.state is None:
            raise ModelError("the model's manipulation has not been fitted: train it first")
        prefix = f"{number}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.state.items()
            if name.startswith(prefix)
        }


def _for_all(is_text: bool | Tensor, embedding: Tensor) -> Tensor:
    if isinstance(is_text, Tensor):
        return is_text
    return torch.full((len(embedding),), is_text, device=embedding.device)


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
