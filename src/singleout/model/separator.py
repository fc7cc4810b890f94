"""The queried separator: encoder + manipulation + separator, one path for all uses.

On disk a model is a folder: ``config.json`` and ``model.safetensors`` (the separator and what the
manipulation has learnt). The encoder is named with its fingerprint, not copied. Checkpoints of
AudioSep's layout are models, too.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.audio import replacing
from singleout.config import StrictConfig, added, validated
from singleout.encoders import QueryEncoder, load_encoder
from singleout.encoders.examples import heard
from singleout.errors import ConfigError, ModelError, QueryError
from singleout.manipulations import Chain, Manipulator, Members, alone
from singleout.model.level_gate import Gate, GatedStream
from singleout.model.similarity import Listener, PresenceCalibration
from singleout.separators import (
    AnySeparator,
    ResUNet30,
    ResUNet30Config,
    Separator,
    averaged,
)
from singleout.separators.resunet30.checkpoint import (
    SUFFIXES,
    checkpoint_file,
    holds_checkpoint,
)
from singleout.storage.hub import fetched, is_hub_id, place_of, split_revision, upload
from singleout.storage.tensors import load_tensors, save_tensors
from singleout.types import Example, Prompt, Query

PACKAGED = "builtin/extractor"
"""Folder of the shipped model, inside the package."""

LEARNT = "manipulation."
"""Prefix, in ``model.safetensors``, of what the manipulation has learnt."""


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
        negative: whether it takes negative prompts: conditions are then twice as long.
        presence: how likeness becomes the probability that a sound is there; None: it is not told.
        gate: at which level targets are given, by their likeness; None: as they are.
        quietest_db: RMS over full scale of the quietest mixtures it was trained with; an
            ``Extractor`` brings quieter recordings up to it. None: all are heard as they are.
        sha256: of ``model.safetensors``; checked when the model is loaded.
    """

    format: Literal[1] = 1
    separator: AnySeparator
    manipulation: Chain = Chain()
    encoder: EncoderReference = EncoderReference()
    negative: bool = added(False)
    presence: PresenceCalibration | None = added(None)
    gate: Gate | None = added(None)
    quietest_db: float | None = added(None)
    sha256: str | None = None


class QueriedSeparator(nn.Module):
    """Extracts from a mixture what a query describes."""

    def __init__(self, config: ModelConfig, encoder: QueryEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder  # not a submodule: it is frozen and saved on its own
        self.manipulator = Manipulator(config.manipulation, encoder.dim)
        self.separator: Separator = config.separator.build(self.condition_dim)  # type: ignore[assignment]

    @property
    def sample_rate(self) -> int:
        """Of the mixtures it takes, Hz."""
        return self.separator.sample_rate

    @property
    def condition_dim(self) -> int:
        """Length of what the separator is conditioned on."""
        return self.manipulator.dim * (2 if self.config.negative else 1)

    def embed(self, query: Query) -> Members:
        """The condition of one query: [1, members, condition_dim].

        Of each side of the query, the mean of its prompts; zeros where it has none. Words may have
        several members, sounds that stand for them, each of which is asked for (``Neighbours``).

        Raises:
            QueryError: the query has negative prompts, which this model does not support; or an
                example is silent or longer than a minute.
            AudioError: an example cannot be read.
        """
        if query.negative and not self.config.negative:
            raise QueryError(
                f"this model cannot answer negative prompts ({', '.join(map(str, query.negative))})"
                ": leave them out"
            )
        return self.asked(self._side(query.positive), self._side(query.negative))

    def conditions(self, embeddings: Tensor, is_text: bool) -> Members:
        """Of positive prompts alone, all words or all sounds: embeddings [queries, dim] to
        [queries, members, condition_dim]."""
        positive = self.manipulator.members(embeddings, is_text)
        return self.asked(positive, alone(torch.zeros_like(positive.embeddings[:, 0])))

    def joined(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Of both sides, [..., dim], the separator's condition."""
        return torch.cat([positive, negative], -1) if self.config.negative else positive

    def asked(self, positive: Members, negative: Members) -> Members:
        """``joined``: of as many members the first of both, the second of both, and so on; of one
        member this with each of the other side."""
        members = max(positive.embeddings.shape[1], negative.embeddings.shape[1])
        sides = [side.embeddings.expand(-1, members, -1) for side in (positive, negative)]
        weights = positive.weights * negative.weights
        return Members(self.joined(*sides), weights / weights.sum(1, keepdim=True))

    def _side(self, prompts: tuple[Prompt, ...]) -> Members:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        examples = [prompt for prompt in prompts if isinstance(prompt, Example)]
        return self.side(
            self.encoder.embed_text(texts) if texts else None,
            torch.cat([heard(example, self.encoder) for example in examples]) if examples else None,
        )

    def side(self, words: Tensor | None = None, sounds: Tensor | None = None) -> Members:
        """What one side of a query asks, [1, members, dim], of the embeddings [number, dim] of its
        words and of its examples, which count alike; zeros where there are none."""
        embedded = [
            (rows, is_text)
            for rows, is_text in ((words, True), (sounds, False))
            if rows is not None
        ]
        number = sum(len(rows) for rows, _ in embedded)
        total = torch.zeros(1, 1, self.manipulator.dim)
        size = torch.zeros(1, 1, 1)
        weights = torch.ones(1, 1)
        for rows, is_text in embedded:
            mean = F.normalize(rows.mean(0, keepdim=True), dim=-1)
            found = self.manipulator.members(mean, is_text)
            total = total + len(rows) * found.embeddings
            size = size + len(rows) * found.embeddings.norm(dim=-1, keepdim=True)
            weights = weights * found.weights  # examples have one member
        if len(embedded) < 2:
            return Members(total / max(1, number), weights)
        # As long as its parts: the mean of two directions is shorter than each.
        return Members(F.normalize(total, dim=-1) * (size / number), weights)

    def answers(self, mixture: Tensor, conditions: Sequence[Members]) -> list[Tensor]:
        """``forward`` for queries that may have different numbers of members."""
        encoded = self.separator.encode(mixture)
        return [averaged(self.separator, encoded, *condition) for condition in conditions]

    def listener(self, conditions: Sequence[Members]) -> Listener:
        """What compares targets with the wanted side of queries, whose conditions ``embed`` gave; a
        side without a prompt is like nothing in particular."""
        return Listener(self.encoder, self.manipulator, self._wanted(conditions), self.sample_rate)

    def gated(
        self, conditions: Sequence[Members], is_gated: bool = True, link_channels: bool = True
    ) -> GatedStream:
        """What gives targets at their level, if the model has a gate and it is not to be left out,
        and listens to them as they come; a query that only takes away is left as it is."""
        asks = [bool(members.any()) for members, _ in self._wanted(conditions)]
        gate = self.config.gate if is_gated else None
        return GatedStream(gate, self.listener(conditions), asks, link_channels)

    def singled_out(self, mixture: Tensor, conditions: Sequence[Members]) -> Tensor:
        """``answers`` at their level: of a mixture [1, channels, samples] float32 targets
        [queries, channels, samples], as ``Extractor`` gives them."""
        found = torch.stack([answer[0].float() for answer in self.answers(mixture, conditions)])
        if self.config.gate is None:
            return found
        stream = self.gated(conditions)
        targets, beside = (wave.detach().cpu().numpy() for wave in (found, mixture[0]))
        return torch.from_numpy(stream.whole(targets, beside)).to(found.device)

    def _wanted(self, conditions: Sequence[Members]) -> list[Members]:
        """Their positive sides."""
        dim = self.manipulator.dim
        return [Members(members[..., :dim], weights) for members, weights in conditions]

    def forward(self, mixture: Tensor, condition: Tensor | Members) -> Tensor:
        """Mixture [batch, 1, samples], conditions of queries * batch (tensors [queries * batch,
        condition_dim] in training) to the targets.

        The first query of every mixture comes first, then the second of every mixture; the result
        is float32 [queries * batch, 1, samples], the mean over the members.
        """
        if isinstance(condition, Tensor):
            return self.separator(mixture, condition)
        return averaged(self.separator, self.separator.encode(mixture), *condition)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (float16), each whole or not at all.

        Raises:
            ModelError: the manipulation is still to be fitted, a weight is not finite, or the
                folder cannot be written.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from None
        learnt = self.manipulator.state
        if learnt is None:
            raise ModelError(f"{path}: not saved: the manipulation has not been fitted")
        beside = {LEARNT + name: tensor for name, tensor in learnt.items()}
        save_tensors(self.separator, path / "model.safetensors", beside=beside)  # type: ignore[arg-type]
        reference = EncoderReference(
            name=self.config.encoder.name, fingerprint=self.encoder.fingerprint
        )
        digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        config = self.config.model_copy(update={"encoder": reference, "sha256": digest})
        with replacing(path / "config.json") as partial:
            partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def push_to_hub(self, identifier: str, private: bool = False) -> str:
        """Save and put on the hub as ``owner/name``; returns the address.

        A model card is added where the repository has none.

        Raises:
            MissingExtraError: huggingface-hub is not installed.
            ModelError: the encoder is a folder on this machine, which nobody else has; or the hub
                cannot be reached or refuses.
        """
        name = self.config.encoder.name
        if name != "builtin" and (not is_hub_id(name) or Path(name).exists()):
            raise ModelError(
                f"{identifier}: its query encoder '{name}' is on this machine alone: put the "
                "encoder on the hub and name it by its hub id in the model's config first"
            )
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), identifier, private, self.model_card())

    def model_card(self) -> str:
        """Markdown for the hub: what the model is, what it needs, how it is used."""
        config = self.config
        steps = ", ".join(step.type for step in config.manipulation.steps) or "none"
        return f"""---
library_name: singleout
tags: [audio, source-separation, target-sound-extraction]
---
# A singleout model

Singles out of a recording the sound that words describe.

- Separator: `{config.separator.type}`, {self.sample_rate:,} Hz
- Query encoder: `{config.encoder.name}`, fingerprint `{self.encoder.fingerprint}`
- Manipulation of the embeddings: {steps}

```console
$ singleout extract MIXTURE.wav "a dog barking" --model OWNER/NAME
```

The training data, the licence and the measured quality are for the author to add.
"""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        encoder: str | QueryEncoder | None = None,
        revision: str | None = None,
    ) -> QueriedSeparator:
        """A model in evaluation mode.

        Args:
            name_or_path: nothing is the model in the package. Or the folder of a saved model; a
                checkpoint of AudioSep's layout (a file, or a folder as hubs lay it out); or a hub
                id, ``owner/name`` or ``owner/name@revision``.
            encoder: or its name, instead of the one that the model names or holds; presence and
                gate, which are calibrated to its own, are left out of another.
            revision: branch, tag or commit on the hub.

        Raises:
            ModelError: no such model, or its files are corrupt or of another architecture; or the
                encoder gives embeddings of another length than the model takes.
        """
        if isinstance(encoder, str):
            encoder = load_encoder(encoder)
        if name_or_path is None:
            return cls._from_folder(Path(str(files("singleout") / PACKAGED)), encoder)
        path = place_of(name_or_path)
        if not path.exists() and is_hub_id(str(name_or_path)):
            identifier, revision = split_revision(str(name_or_path), revision)
            path = fetched(identifier, revision, ["config.json", "model.safetensors"])
            if not (path / "model.safetensors").is_file():
                # Only where nothing better is offered; the cache calls a folder by its commit.
                patterns = [f"*.{suffix}" for suffix in SUFFIXES]
                path = fetched(identifier, path.name, patterns)
        if path.is_file() or (path.is_dir() and not _is_ours(path)):
            return cls._from_checkpoint(path, encoder)
        return cls._from_folder(path, encoder)

    @classmethod
    def _from_folder(cls, path: Path, encoder: QueryEncoder | None) -> QueriedSeparator:
        config = read_config(path)
        if encoder is None:
            encoder = load_encoder(config.encoder.name, config.encoder.fingerprint)
        elif encoder.fingerprint != config.encoder.fingerprint:
            reference = EncoderReference(name=encoder.name, fingerprint=encoder.fingerprint)
            # Likeness is another encoder's, to which nothing has been calibrated.
            changes = {"encoder": reference, "presence": None, "gate": None}
            config = config.model_copy(update=changes)
        weights = path / "model.safetensors"
        if config.sha256 is not None and weights.is_file():
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            if digest != config.sha256:
                raise ModelError(
                    f"{weights}: corrupt or truncated: its SHA-256 is {digest[:12]}…, config.json "
                    f"says {config.sha256[:12]}…; fetch or save the model again"
                )
        try:
            with torch.device("meta"):
                model = cls(config, encoder)
        except ConfigError as error:  # its embeddings are too short for the manipulation
            raise ModelError(f"{path}: query encoder '{encoder.name}': {error}") from None
        learnt = load_tensors(model.separator, weights, beside_below=LEARNT)  # type: ignore[arg-type]
        state = {name.removeprefix(LEARNT): tensor for name, tensor in learnt.items()}
        try:
            model.manipulator = Manipulator(config.manipulation, encoder.dim, state)
        except ModelError as error:
            raise ModelError(f"{weights}: {error}") from None
        return model.eval().requires_grad_(False)

    @classmethod
    def _from_checkpoint(cls, path: Path, encoder: QueryEncoder | None) -> QueriedSeparator:
        separator = ResUNet30.from_checkpoint(path, inference_precision="auto")
        if encoder is None:
            from singleout.encoders.laion import encoder_inside

            encoder = encoder_inside(checkpoint_file(path))
        if encoder.dim != separator.embedding_dim:
            raise ModelError(
                f"{path}: takes embeddings of length {separator.embedding_dim}, the query encoder "
                f"'{encoder.name}' gives {encoder.dim}: give the one it was trained with"
            )
        config = ModelConfig(
            separator=ResUNet30Config(
                sample_rate=separator.sample_rate, num_fft=separator.num_fft, hop=separator.hop
            ),
            encoder=EncoderReference(name=encoder.name, fingerprint=encoder.fingerprint),
        )
        with torch.device("meta"):
            model = cls(config, encoder)
        model.separator = separator
        return model.eval()


def _is_ours(folder: Path) -> bool:
    """Whether a folder is one of ``save_pretrained``, whole or not, and no checkpoint of others."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return not isinstance(config, dict) or "separator" in config
    except (OSError, ValueError):
        return not holds_checkpoint(folder)


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
