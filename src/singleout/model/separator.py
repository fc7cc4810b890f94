"""``QueriedSeparator``: encoder, manipulation and separator, one path for all uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.condition import Condition
from singleout.encoders import QueryEncoder
from singleout.encoders.examples import embed_example
from singleout.errors import QueryError
from singleout.manipulations import Manipulator
from singleout.model.config import ModelConfig
from singleout.model.level_gate import LevelGate
from singleout.model.similarity import SimilarityMeter
from singleout.separators import Separator
from singleout.separators.bounds import check_size
from singleout.types import Example, Prompt, Query


class QueriedSeparator(nn.Module):
    """Extracts from a mixture the sound that a query describes.

    Args:
        config: of the model.
        encoder: embeds texts and sounds. It is frozen, and saved on its own.

    Raises:
        ConfigError: the separator is too large (``separators.bounds``), or the manipulation cannot
            take the embeddings of the encoder.

    Example:
        >>> import torch
        >>> from singleout import Query
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> condition = model.embed(Query("a dog barking"))
        >>> with torch.inference_mode():
        ...     model(torch.randn(1, 1, 32_000), condition).shape
        torch.Size([1, 1, 32000])
    """

    def __init__(self, config: ModelConfig, encoder: QueryEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder  # not a submodule: training must not change or save it
        self.manipulator = Manipulator(config.manipulation, encoder.dim)
        self.separator = self._built()

    def _built(self) -> Separator:
        """The separator. It is built on the meta device first, where its size can be checked."""
        with torch.device("meta"):
            separator = self.config.separator.build(self.condition_dim)
        check_size(separator)
        if torch.get_default_device().type == "meta":
            return separator
        return self.config.separator.build(self.condition_dim)

    @property
    def sample_rate(self) -> int:
        """Sample rate of mixtures and targets, Hz."""
        return self.separator.sample_rate

    @property
    def condition_dim(self) -> int:
        """Length of the embeddings in a condition, both sides together."""
        return self.manipulator.dim * (2 if self.config.negative else 1)

    def embed(self, query: Query, *, strict: bool = False) -> Condition:
        """The condition of one query, [1, parts, condition_dim].

        Each side of the query is the mean of its prompts. Words may have several parts, sounds
        that stand for them (``Neighbours``).

        Args:
            query: texts and examples.
            strict: refuse examples that are cut or damaged.

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
        return self.combine(self._side(query.positive, strict), self._side(query.negative, strict))

    def condition(self, embeddings: Tensor, is_text: bool) -> Condition:
        """The condition of positive prompts, all texts or all sounds.

        Args:
            embeddings: of the encoder, [queries, dim].
            is_text: the modality of all of them.

        Returns:
            A condition, [queries, parts, condition_dim].
        """
        return self.combine(self.manipulator.condition(embeddings, is_text))

    def combine(self, positive: Condition, negative: Condition | None = None) -> Condition:
        """The sides of queries as one condition, as the separator takes it."""
        if not self.config.negative:
            return positive
        if negative is None:
            negative = Condition.missing(self.manipulator.dim, len(positive.weights))
            negative = negative.to(positive.weights.device)
        return Condition.combine(positive, negative)

    def side(self, text: Tensor | None = None, audio: Tensor | None = None) -> Condition:
        """One side of a query, [1, parts, dim], from the embeddings of its prompts.

        Args:
            text: embeddings of the texts, [number, encoder's dim].
            audio: embeddings of the examples, [number, encoder's dim].
        """
        modalities = [
            (rows, is_text) for rows, is_text in ((text, True), (audio, False)) if rows is not None
        ]
        if not modalities:
            return Condition.missing(self.manipulator.dim)
        total = torch.zeros(1, 1, self.manipulator.dim)
        norm = torch.zeros(1, 1, 1)
        weights = torch.ones(1, 1)
        for rows, is_text in modalities:
            mean = F.normalize(rows.mean(0, keepdim=True), dim=-1)
            condition = self.manipulator.condition(mean, is_text)
            total = total + len(rows) * condition.embeddings
            norm = norm + len(rows) * condition.embeddings.norm(dim=-1, keepdim=True)
            weights = weights * condition.weights  # examples have one part
        number = sum(len(rows) for rows, _ in modalities)
        mask = torch.ones(1, 1, dtype=torch.bool)
        if len(modalities) == 1:
            return Condition(total / number, weights, mask)
        # As long as its parts: the mean of two directions is shorter than each.
        return Condition(F.normalize(total, dim=-1) * (norm / number), weights, mask)

    def _side(self, prompts: tuple[Prompt, ...], strict: bool) -> Condition:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        examples = [prompt for prompt in prompts if isinstance(prompt, Example)]
        audio = [embed_example(example, self.encoder, strict) for example in examples]
        return self.side(
            self.encoder.embed_text(texts) if texts else None,
            torch.cat(audio) if audio else None,
        )

    def separate(self, mixture: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        """Estimate one target per condition; conditions may differ in their number of parts.

        Args:
            mixture: float32 [batch, channels, samples].
            conditions: each of the whole batch.

        Returns:
            Targets, each [batch, channels, samples], at the separator's own level.
        """
        encoded = self.separator.encode(mixture)
        return [self.separator.estimate(encoded, condition) for condition in conditions]

    def similarity_meter(self, conditions: Sequence[Condition]) -> SimilarityMeter:
        """Measures the similarity between targets and the positive sides of queries."""
        positive = [condition.positive for condition in conditions]
        return SimilarityMeter(self.encoder, self.manipulator, positive, self.sample_rate)

    def level_gate(
        self,
        conditions: Sequence[Condition],
        is_enabled: bool = True,
        link_channels: bool = True,
    ) -> LevelGate:
        """Sets the level of targets by their similarity to the query, block by block.

        Args:
            conditions: of every query. The target of a query without a positive side keeps its
                level.
            is_enabled: False, or a model without a gate: targets keep their level, and only the
                similarity is measured.
            link_channels: one level for all channels.
        """
        gate = self.config.gate if is_enabled else None
        is_gated = [condition.has_positive for condition in conditions]
        return LevelGate(gate, self.similarity_meter(conditions), is_gated, link_channels)

    def extract_clip(self, mixture: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """Targets of a short clip at their level, as an ``Extractor`` gives them.

        Args:
            mixture: float32 [1, channels, samples].
            conditions: one per query.

        Returns:
            float32 [queries, channels, samples].
        """
        estimates = self.separate(mixture, conditions)
        targets = torch.stack([estimate[0].float() for estimate in estimates])
        if self.config.gate is None:
            return targets
        gate = self.level_gate(conditions)
        levelled = gate.whole(targets.detach().cpu().numpy(), mixture[0].detach().cpu().numpy())
        return torch.from_numpy(levelled).to(targets.device)

    def forward(self, mixture: Tensor, condition: Condition) -> Tensor:
        """Estimate targets.

        Args:
            mixture: float32 [batch, channels, samples].
            condition: of queries * batch: the first query of every mixture, then the second of
                every mixture, and so on.

        Returns:
            float32 [queries * batch, channels, samples].
        """
        return self.separator.estimate(self.separator.encode(mixture), condition)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (float16), each whole or not at all.

        Raises:
            ModelError: the manipulation is not fitted yet, or a weight is not finite.
            OutputError: the folder cannot be written.
        """
        from singleout.model.loading import save_model

        save_model(self, Path(folder))

    def push_to_hub(self, identifier: str, private: bool = False) -> str:
        """Save the model and put it on the hub as ``owner/name``; returns its address.

        A model card is added where the repository has none.

        Raises:
            MissingExtraError: huggingface-hub is not installed.
            ModelError: the encoder is a folder on this machine, which nobody else has; or the hub
                cannot be reached or refuses.
        """
        from singleout.model.loading import push_model

        return push_model(self, identifier, private)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        encoder: str | QueryEncoder | None = None,
        revision: str | None = None,
    ) -> QueriedSeparator:
        """Load a model in evaluation mode.

        Args:
            name_or_path: ``builtin`` (or None) for the model in the package; the folder of a saved
                model; a checkpoint of AudioSep's layout, as a file or as a folder of a hub; or a
                hub id, ``owner/name`` or ``owner/name@revision``.
            encoder: the encoder, or its name, instead of the one that the model names or holds.
                Presence and gate, which are fitted to that one, are left out with another.
            revision: branch, tag or commit on the hub.

        Raises:
            ModelError: there is no such model; its files are corrupt or of another architecture;
                or the encoder gives embeddings of another length than the model takes.
        """
        from singleout.model.loading import load_model

        return load_model(cls, name_or_path, encoder, revision)
