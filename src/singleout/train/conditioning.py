"""From a batch to the condition of the separator: sound or caption, manipulated."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from singleout.condition import Condition
from singleout.data.dataset import TrainingExample
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.seeds import batch_generator
from singleout.manipulations import OtherSounds
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig


class Conditioning:
    """Makes the condition of every query of a batch.

    A query is conditioned on its sound, or on its caption with probability ``p_text``. A query
    without a caption is always conditioned on its sound. All draws follow from the seed of the run
    and the index of the example.

    The draws of a batch follow in a fixed order: captions, the alterations of query sounds, the
    manipulation of sounds, that of captions, mixup; then the same for negative prompts.

    Args:
        model: its encoder, manipulator and sides are used.
        config: of the run.

    Example:
        >>> import torch
        >>> from singleout.encoders import load_encoder
        >>> config = TrainConfig(
        ...     audio="sounds", output="run", model={"separator": {"type": "identity"}}, p_text=1.0
        ... )
        >>> encoder = load_encoder("builtin")
        >>> condition = Conditioning(QueriedSeparator(config.model, encoder), config)
        >>> caption = encoder.embed_text("a dog barking")
        >>> batch = {  # one mixture with one query
        ...     "index": torch.tensor([0]),
        ...     "audio_embedding": torch.zeros(1, 1, encoder.dim),
        ...     "has_positive": torch.tensor([[True]]),
        ...     "text_embedding": caption[None],
        ...     "has_text": torch.tensor([[True]]),
        ...     "other_embeddings": torch.zeros(1, 1, 1, encoder.dim),
        ...     "has_other": torch.tensor([[[False]]]),
        ... }
        >>> bool((condition(batch).embeddings == caption).all())
        True
    """

    def __init__(self, model: QueriedSeparator, config: TrainConfig) -> None:
        self.model, self.config = model, config

    def __call__(self, batch: TrainingExample) -> Condition:
        """The condition of a batch.

        Args:
            batch: of examples, each entry with the batch in front.

        Returns:
            A condition of queries * batch, one part each: the first query of every mixture, then
            the second of every mixture.
        """
        first = int(batch["index"].min())
        generator = batch_generator(self.config.seed, first, self.config.batch_size)
        positive = self._positive(batch, generator)
        if not self.model.config.negative:
            return positive
        return self.model.combine(positive, self._negative(batch, generator))

    def _positive(self, batch: TrainingExample, generator: Generator) -> Condition:
        config = self.config
        text, has_text = by_query(batch["text_embedding"]), by_query(batch["has_text"])
        drawn = torch.rand(batch["has_text"].T.shape, generator=generator)
        uses_text = (drawn < config.p_text).flatten().to(text.device) & has_text
        if config.query_audio.is_embedded_on_the_fly:
            audio = self._embed(batch, generator)
        else:
            audio = by_query(batch["audio_embedding"])
        others = OtherSounds(by_query(batch["other_embeddings"]), by_query(batch["has_other"]))
        manipulate = self.model.manipulator.for_training
        embedding = manipulate(audio, False, generator, others)
        if config.p_text or config.query_mixup:
            mapped = manipulate(text, True, generator)
            if config.query_mixup:
                alpha = torch.rand((len(mapped), 1), generator=generator).to(text.device)
                alpha = torch.where(has_text[:, None], alpha, 1.0)
                embedding = alpha * embedding + (1 - alpha) * mapped
            embedding = torch.where(uses_text[:, None], mapped, embedding)
        return Condition.single(embedding, by_query(batch["has_positive"]))

    def _negative(self, batch: TrainingExample, generator: Generator) -> Condition:
        audio = by_query(batch["negative_audio_embedding"])
        text = by_query(batch["negative_text_embedding"])
        has_text = by_query(batch["has_negative_text"])
        others = OtherSounds(
            by_query(batch["negative_other_embeddings"]), by_query(batch["has_negative_other"])
        )
        manipulate = self.model.manipulator.for_training
        embedding = manipulate(audio, False, generator, others)
        if self.config.p_text:
            drawn = torch.rand(len(text), generator=generator).to(text.device)
            mapped = manipulate(text, True, generator)
            uses_text = (drawn < self.config.p_text) & has_text
            embedding = torch.where(uses_text[:, None], mapped, embedding)
        return Condition.single(embedding, by_query(batch["has_negative"]))

    @torch.no_grad()
    def _embed(self, batch: TrainingExample, generator: Generator) -> Tensor:
        """Embeddings [queries * batch, dim] of the query sounds, masked if so configured."""
        masks = self.config.query_audio.spec_augment
        augment = None if masks is None else lambda log_mel: masks.masked(log_mel, generator)
        sounds = by_query(batch["query_audio"]).cpu()  # where the encoder is
        lengths = by_query(batch["query_samples"]).tolist()
        none = torch.zeros(1, batch["text_embedding"].shape[-1])
        rows = [
            self.model.encoder.embed_audio(sound[:length], SAMPLE_RATE, augment) if length else none
            for sound, length in zip(sounds, lengths, strict=True)
        ]
        return torch.cat(rows).to(batch["text_embedding"].device, copy=True)


def by_query(values: Tensor) -> Tensor:
    """[batch, queries, ...] to [queries * batch, ...], the order in which separators decode.

    Example:
        >>> import torch
        >>> by_query(torch.tensor([[1, 2], [3, 4]])).tolist()
        [1, 3, 2, 4]
    """
    return values.transpose(0, 1).flatten(0, 1)
