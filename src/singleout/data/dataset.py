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
from singleout.data.queries import QueriesConfig, QuerySpec, Questioner
from singleout.data.render import Mixture, read_crop, render
from singleout.query.audio_manipulations import Mixup, SpecAugment

KINDS = 3
"""Last entry of the seeds of what is asked, where it is not simply each sound in turn."""

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


class Example(TypedDict):
    """One mixture; a batch has one more dimension in front.

    Attributes:
        mixture: [1, samples].
        targets: [queries, 1, samples]; silence where what is asked for is not there.
        audio: [queries, dim], embeddings of the query sounds, by default the targets' own crops;
            zeros where nothing positive is asked.
        text: [queries, dim], of their captions; zeros where there is no caption.
        not_audio, not_text: [queries, dim], of the sounds that are not wanted; zeros where nothing
            negative is asked.
        others, not_others: [queries, most, dim] for mixtures of at most ``most`` sounds, embeddings
            of those that are in the mixture but for the one that ``audio`` or ``not_audio`` asks
            for; zeros where there are fewer.
        clips: [queries], index of the clip that is asked for, else of the one that is not wanted.
        query_audio: [queries, samples], query sounds that are to be embedded on the fly, at the
            rate of cached ones (``embeddings.SAMPLE_RATE``), padded with zeros; else [queries, 0].
        query_samples: [queries], their lengths.
    """

    mixture: Tensor
    targets: Tensor
    audio: Tensor
    text: Tensor
    not_audio: Tensor
    not_text: Tensor
    others: Tensor
    not_others: Tensor
    clips: Tensor
    query_audio: Tensor
    query_samples: Tensor


class MixtureDataset(Dataset[Example]):
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
        self.questioner = Questioner(clips, asked, config.class_balance)
        needed = asked.absent_share or asked.contrast_share
        self._alike = _alike_from(table) if needed else 1.0
        self._class: dict[str, list[int]] = {}
        for i, clip in enumerate(clips):
            self._class.setdefault(clip.label, []).append(i)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(index)
        spec = self.planner.plan(0, self.first + index)
        # A stream of its own: what is asked with does not change what is mixed.
        rng = np.random.default_rng([self.seed, 0, self.first + index, 1])
        kinds = np.random.default_rng([self.seed, 0, self.first + index, KINDS])
        rendered = render(spec, self.clips, self.config, self.sample_rate)
        asked = self.questioner.draw(spec, kinds, self._sound_alike)
        wanted = [self._wanted(query, spec, kinds) for query in asked]
        unwanted = [_source(spec, query.negative) for query in asked]
        queries = [self._queried(*place, rng) if place else None for place in wanted]
        negatives = [self._queried(*place, kinds) if place else None for place in unwanted]
        text = torch.stack([self._caption(place, rng) for place in wanted])
        samples = [self._query_samples(place, rng) for place in queries]
        named = [place or other for place, other in zip(wanted, unwanted, strict=True)]
        on_the_fly = self.query_audio.is_embedded_on_the_fly
        longest = round(self.config.segment_seconds * SAMPLE_RATE) if on_the_fly else 0
        padded = np.zeros((len(samples), longest), np.float32)
        for row, sound in zip(padded, samples, strict=True):
            row[: len(sound)] = sound[:longest]
        return Example(
            mixture=torch.from_numpy(rendered.mixture)[None],
            targets=torch.stack([_target(rendered, query) for query in asked])[:, None],
            audio=self._sounds(queries),
            text=text,
            not_audio=self._sounds(negatives),
            not_text=torch.stack([self._caption(place, kinds) for place in unwanted]),
            others=self._others(spec, [query.positive for query in asked]),
            not_others=self._others(spec, [query.negative for query in asked]),
            clips=torch.tensor([place[0] for place in named if place is not None]),
            query_audio=torch.from_numpy(padded),
            query_samples=torch.tensor([min(len(sound), longest) for sound in samples]),
        )

    def _wanted(
        self, query: QuerySpec, spec: MixtureSpec, rng: np.random.Generator
    ) -> Place | None:
        if query.absent is None:
            return _source(spec, query.positive)
        return query.absent, int(rng.integers(num_crops(self.clips[query.absent], self.config)))

    def _sounds(self, places: Sequence[Place | None]) -> Tensor:
        """[places, dim], zeros for want of one."""
        none = torch.zeros(self.table.embeddings.shape[-1])
        return torch.stack([none if place is None else self.table.of(*place) for place in places])

    def _others(self, spec: MixtureSpec, asked: Sequence[int | None]) -> Tensor:
        """[asked, most, dim] of the sources but for the one that is asked for."""
        most = self.config.num_sources[1]
        rows = []
        for number in asked:
            beside = [_source(spec, i) for i in range(len(spec.sources)) if i != number]
            rows.append(self._sounds([*beside, *[None] * (most - len(beside))]))
        return torch.stack(rows)

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

    def _caption(self, place: Place | None, rng: np.random.Generator) -> Tensor:
        """[dim], zeros for want of a caption."""
        if self.captions is None or place is None or not (count := self.captions.count(place[0])):
            return torch.zeros(self.table.embeddings.shape[-1])
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


def _target(rendered: Mixture, query: QuerySpec) -> Tensor:
    """[samples]."""
    if query.absent is not None:
        return torch.zeros(len(rendered.mixture))
    if query.positive is not None:
        return torch.from_numpy(rendered.sources[query.positive])
    assert query.negative is not None
    return torch.from_numpy(rendered.mixture - rendered.sources[query.negative])
