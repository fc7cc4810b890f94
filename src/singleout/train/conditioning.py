"""From a batch to the condition of the separator: sound or caption, manipulated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.data.dataset import TrainingExample
from singleout.data.embeddings import SAMPLE_RATE
from singleout.data.seeds import Stream, row_draws
from singleout.manipulations import OtherSounds, RowDraws
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig


class Conditioning:
    """Makes the condition of every query of a batch.

    A query is conditioned on its sound, or on its caption with probability ``p_text``. A query
    without a caption is always conditioned on its sound.

    Every query draws its own random numbers, by the seed of the run, the index of the example and
    the number of the query. They do not depend on the batch, so that several processes draw what
    one process draws. A query draws in a fixed order: caption or sound, the alteration of the
    sound, the manipulation of the sound, that of the caption, mixup. The negative side has a stream
    to itself.

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
        positive = self._positive(batch, self._draws(batch, Stream.POSITIVE))
        if not self.model.config.negative:
            return positive
        negative = self._negative(batch, self._draws(batch, Stream.NEGATIVE))
        return self.model.combine(positive, negative)

    def _draws(self, batch: TrainingExample, stream: Stream) -> RowDraws:
        queries = batch["has_positive"].shape[1]
        return row_draws(self.config.seed, batch["index"].tolist(), queries, stream)

    def _positive(self, batch: TrainingExample, draws: RowDraws) -> Condition:
        config = self.config
        text, has_text = by_query(batch["text_embedding"]), by_query(batch["has_text"])
        uses_text = (draws.uniform() < config.p_text).to(text.device) & has_text
        if config.query_audio.is_embedded_on_the_fly:
            audio = self._embed(batch, draws)
        else:
            audio = by_query(batch["audio_embedding"])
        others = OtherSounds(by_query(batch["other_embeddings"]), by_query(batch["has_other"]))
        manipulate = self.model.manipulator.for_training
        embedding = manipulate(audio, False, draws, others)
        if config.p_text or config.query_mixup:
            mapped = manipulate(text, True, draws)
            if config.query_mixup:
                alpha = draws.uniform(1).to(text.device)
                alpha = torch.where(has_text[:, None], alpha, 1.0)
                embedding = alpha * embedding + (1 - alpha) * mapped
            embedding = torch.where(uses_text[:, None], mapped, embedding)
        return Condition.single(embedding, by_query(batch["has_positive"]))

    def _negative(self, batch: TrainingExample, draws: RowDraws) -> Condition:
        audio = by_query(batch["negative_audio_embedding"])
        text = by_query(batch["negative_text_embedding"])
        has_text = by_query(batch["has_negative_text"])
        others = OtherSounds(
            by_query(batch["negative_other_embeddings"]), by_query(batch["has_negative_other"])
        )
        manipulate = self.model.manipulator.for_training
        embedding = manipulate(audio, False, draws, others)
        if self.config.p_text:
            drawn = draws.uniform().to(text.device)
            mapped = manipulate(text, True, draws)
            uses_text = (drawn < self.config.p_text) & has_text
            embedding = torch.where(uses_text[:, None], mapped, embedding)
        return Condition.single(embedding, by_query(batch["has_negative"]))

    @torch.no_grad()
    def _embed(self, batch: TrainingExample, draws: RowDraws) -> Tensor:
        """Embeddings [queries * batch, dim] of the query sounds, masked if so configured."""
        none = batch["text_embedding"]
        lengths = by_query(batch["query_samples"]).tolist()
        rows = [row for row, length in enumerate(lengths) if length]
        embeddings = none.new_zeros(len(lengths), none.shape[-1])
        if not rows:
            return embeddings
        masks, of_sounds = self.config.query_audio.spec_augment, draws.of(rows)

        def augment(log_mel: Tensor, clips: Sequence[int]) -> Tensor:
            return log_mel if masks is None else masks.masked(log_mel, of_sounds.of(clips))

        padded = by_query(batch["query_audio"])
        sounds = [padded[row, : lengths[row]] for row in rows]
        embeddings[rows] = self.model.encoder.embed_audio(sounds, SAMPLE_RATE, augment).to(none)
        return embeddings


def by_query(values: Tensor) -> Tensor:
    """[batch, queries, ...] to [queries * batch, ...], the order in which separators decode.

    Example:
        >>> import torch
        >>> by_query(torch.tensor([[1, 2], [3, 4]])).tolist()
        [1, 3, 2, 4]
    """
    return values.transpose(0, 1).flatten(0, 1)
