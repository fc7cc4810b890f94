"""Mixtures with their queries, ready for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from singleout.config import StrictConfig
from singleout.data.embeddings import SAMPLE_RATE, EmbeddingTable
from singleout.data.manifest import Clip
from singleout.data.plan import MixtureConfig, MixtureSpec, Planner, num_crops
from singleout.data.query_plan import PlannedQuery, QueriesConfig, QueryPlanner
from singleout.data.render import Mixture, read_crop, render
from singleout.data.seeds import Stream, random_stream
from singleout.manipulations.audio import Mixup, SpecAugment

ALIKE_SHARE = 0.03
"""Of all pairs of sounds, those whose embeddings are closest may well be called by the same words:
a share, as encoders differ in how far apart they put things."""
MAX_COMPARED = 1_000


Place = tuple[int, int]
"""Index of a clip, and of one of its crops."""


class QueryAudioConfig(StrictConfig):
    """Which sound is the query of an example, and what is done to it before it is embedded.

    Args:
        source: the crop that is the ``target``; against leakage of what only this very crop has,
            an ``other_crop`` of its clip, or a clip of the ``same_class``. Where there is no
            other: the next best in this order, the target at last.
        mixup: another sound is mixed in.
        spec_augment: the encoder's log-mel is masked.
    """

    source: Literal["target", "other_crop", "same_class"] = "target"
    mixup: Mixup | None = None
    spec_augment: SpecAugment | None = None

    @property
    def is_embedded_on_the_fly(self) -> bool:
        """Whether the encoder runs in training, because no cache could hold what it embeds."""
        return self.mixup is not None or self.spec_augment is not None


class TrainingExample(TypedDict):
    """One mixture with its queries; a batch has one more dimension in front.

    A value whose mask is False is not defined: it is zeros, and must not be used.

    Attributes:
        index: [], number of the example in the run.
        mixture: [1, samples].
        targets: [queries, 1, samples]; silence where the sound of the query is absent.
        audio_embedding: [queries, dim], of the query sounds, by default the targets' own crops.
        has_positive: bool [queries], whether the query has a positive side.
        text_embedding: [queries, dim], of the captions of the query sounds.
        has_text: bool [queries], whether there is such a caption.
        negative_audio_embedding, negative_text_embedding: [queries, dim], of the sounds to exclude.
        has_negative, has_negative_text: bool [queries], as for the positive side.
        clips: [queries], index of the clip that the query names, positive before negative.
        query_audio: [queries, samples], query sounds that are embedded during training, at the
            rate of cached ones (``embeddings.SAMPLE_RATE``), padded with zeros; else [queries, 0].
        query_samples: [queries], their lengths.
    """

    index: Tensor
    mixture: Tensor
    targets: Tensor
    audio_embedding: Tensor
    has_positive: Tensor
    text_embedding: Tensor
    has_text: Tensor
    negative_audio_embedding: Tensor
    has_negative: Tensor
    negative_text_embedding: Tensor
    has_negative_text: Tensor
    clips: Tensor
    query_audio: Tensor
    query_samples: Tensor


class MixtureDataset(Dataset[TrainingExample]):
    """Mixtures number ``first``, ``first + 1``, … of an endless epoch.

    Args:
        clips: what to mix.
        config: how to mix.
        sample_rate: Hz.
        table: embeddings of the clips' crops.
        captions: embeddings of the clips' captions, none to several each; None without text.
        seed: of the plans.
        first, length: which mixtures.
        query_audio: which sounds are the queries.
        all_captions: draw one of a clip's captions each time instead of taking the first.
        queries: what is asked.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        config: MixtureConfig,
        sample_rate: int,
        table: EmbeddingTable,
        captions: EmbeddingTable | None,
        seed: int,
        first: int,
        length: int,
        query_audio: QueryAudioConfig | None = None,
        all_captions: bool = False,
        queries: QueriesConfig | None = None,
    ) -> None:
        self.clips, self.config, self.sample_rate = clips, config, sample_rate
        self.table, self.captions, self.all_captions = table, captions, all_captions
        self.planner = Planner(clips, config, seed)
        self.seed, self.first, self.length = seed, first, length
        self.query_audio = query_audio or QueryAudioConfig()
        asked = queries or QueriesConfig()
        self.questioner = QueryPlanner(clips, asked, config.class_balance)
        needed = asked.absent_share or asked.contrast_share
        self._alike = _alike_from(table) if needed else 1.0
        self._class: dict[str, list[int]] = {}
        for i, clip in enumerate(clips):
            self._class.setdefault(clip.label, []).append(i)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingExample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        spec = self.planner.plan(0, self.first + index)
        # A stream of its own: what is asked with does not change what is mixed.
        rng = random_stream(self.seed, 0, self.first + index, Stream.QUERY)
        kinds = random_stream(self.seed, 0, self.first + index, Stream.KIND)
        rendered = render(spec, self.clips, self.config, self.sample_rate)
        asked = self.questioner.draw(spec, kinds, self._sound_alike)
        wanted = [self._wanted(query, spec, kinds) for query in asked]
        unwanted = [_source(spec, query.negative) for query in asked]
        queries = [self._queried(*place, rng) if place else None for place in wanted]
        negatives = [self._queried(*place, kinds) if place else None for place in unwanted]
        texts = [self._caption(place, rng) for place in wanted]
        samples = [self._query_samples(place, rng) for place in queries]
        negative_texts = [self._caption(place, kinds) for place in unwanted]
        named = [place or other for place, other in zip(wanted, unwanted, strict=True)]
        on_the_fly = self.query_audio.is_embedded_on_the_fly
        longest = round(self.config.segment_seconds * SAMPLE_RATE) if on_the_fly else 0
        padded = np.zeros((len(samples), longest), np.float32)
        for row, sound in zip(padded, samples, strict=True):
            row[: len(sound)] = sound[:longest]
        return TrainingExample(
            index=torch.tensor(self.first + index),
            mixture=torch.from_numpy(rendered.mixture)[None],
            targets=torch.stack([_target(rendered, query) for query in asked])[:, None],
            audio_embedding=self._sounds(queries),
            has_positive=_is_given(queries),
            text_embedding=self._rows(texts),
            has_text=_is_given(texts),
            negative_audio_embedding=self._sounds(negatives),
            has_negative=_is_given(negatives),
            negative_text_embedding=self._rows(negative_texts),
            has_negative_text=_is_given(negative_texts),
            clips=torch.tensor([place[0] for place in named if place is not None]),
            query_audio=torch.from_numpy(padded),
            query_samples=torch.tensor([min(len(sound), longest) for sound in samples]),
        )

    def _wanted(
        self, query: PlannedQuery, spec: MixtureSpec, rng: np.random.Generator
    ) -> Place | None:
        if query.absent is None:
            return _source(spec, query.positive)
        return query.absent, int(rng.integers(num_crops(self.clips[query.absent], self.config)))

    def _sounds(self, places: Sequence[Place | None]) -> Tensor:
        """Embeddings of the places that are given, [places, dim]."""
        return self._rows([None if place is None else self.table.of(*place) for place in places])

    def _rows(self, rows: Sequence[Tensor | None]) -> Tensor:
        """[rows, dim], with zeros in place of rows that are missing."""
        none = torch.zeros(self.table.embeddings.shape[-1])
        return torch.stack([none if row is None else row for row in rows])

    def _sound_alike(self, clip: int, other: int) -> bool:
        """By their first crops."""
        return float(self.table.of(clip, 0) @ self.table.of(other, 0)) > self._alike

    def _queried(self, clip: int, crop: int, rng: np.random.Generator) -> Place:
        """Clip and crop that are the query for a crop of a clip."""
        if self.query_audio.source == "same_class":
            group = self.clips[clip].group
            members = self._class[self.clips[clip].label]
            others = [other for other in members if self.clips[other].group != group]
            if others:
                clip = int(rng.choice(others))
                return clip, int(rng.integers(num_crops(self.clips[clip], self.config)))
        crops = num_crops(self.clips[clip], self.config)
        if self.query_audio.source != "target" and crops > 1:
            crop = (crop + 1 + int(rng.integers(crops - 1))) % crops
        return clip, crop

    def _caption(self, place: Place | None, rng: np.random.Generator) -> Tensor | None:
        """Embedding [dim] of a caption of a clip; None if it has none."""
        if self.captions is None or place is None or not (count := self.captions.count(place[0])):
            return None
        return self.captions.of(place[0], int(rng.integers(count)) if self.all_captions else 0)

    def _query_samples(self, place: Place | None, rng: np.random.Generator) -> NDArray[np.float32]:
        """The query sound, with another mixed in if so configured; empty if there is no need."""
        if place is None or not self.query_audio.is_embedded_on_the_fly:
            return np.zeros(0, np.float32)
        clip, crop = place
        sound = read_crop(self.clips[clip], crop, self.config, SAMPLE_RATE)
        if self.query_audio.mixup is None:
            return sound
        other = int(rng.integers(len(self.clips)))
        added = int(rng.integers(num_crops(self.clips[other], self.config)))
        interference = read_crop(self.clips[other], added, self.config, SAMPLE_RATE)
        return self.query_audio.mixup.mixed(sound, interference, rng)


def _is_given(values: Sequence[object | None]) -> Tensor:
    """Bool [values]."""
    return torch.tensor([value is not None for value in values])


def _alike_from(table: EmbeddingTable) -> float:
    """The cosine that ``ALIKE_SHARE`` of the pairs of clips exceed, by their first crops."""
    first = torch.tensor(table.offsets[:-1])
    some = torch.linspace(0, len(first) - 1, min(len(first), MAX_COMPARED)).long()
    rows = table.embeddings[first[some]]
    similarity = rows @ rows.T
    above, other = torch.triu_indices(len(rows), len(rows), 1)
    pairs = similarity[above, other].sort().values
    return float(pairs[round((1 - ALIKE_SHARE) * (len(pairs) - 1))]) if len(pairs) else 1.0


def _source(spec: MixtureSpec, number: int | None) -> Place | None:
    if number is None:
        return None
    source = spec.sources[number]
    return source.clip, source.crop


def _target(rendered: Mixture, query: PlannedQuery) -> Tensor:
    """[samples]."""
    if query.absent is not None:
        return torch.zeros(len(rendered.mixture))
    if query.positive is not None:
        return torch.from_numpy(rendered.sources[query.positive])
    assert query.negative is not None
    return torch.from_numpy(rendered.mixture - rendered.sources[query.negative])
