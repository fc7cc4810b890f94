"""Mixtures with their queries, ready for a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from singleout.config import StrictConfig
from singleout.data.class_index import ClassIndex
from singleout.data.clips import Clip, Clips
from singleout.data.embeddings import SAMPLE_RATE, EmbeddingTable, crop_offsets
from singleout.data.plan import MixtureConfig, MixtureSpec, Planner
from singleout.data.query_plan import PlannedQuery, QueriesConfig, QueryPlanner
from singleout.data.render import Mixture, read_crop, render
from singleout.data.seeds import Stream, random_stream
from singleout.errors import AudioError, ConfigError
from singleout.manipulations.audio import Mixup, SpecAugment
from singleout.storage.addresses import address_of

ALIKE_SHARE = 0.03
"""Share of all pairs of sounds, those with the closest embeddings, that count as alike: one
text may describe both. It is a share because encoders differ in their similarities."""
MAX_COMPARED = 1_000
"""Largest number of sounds whose pairs are compared to find the limit of alike pairs."""
BLOCK_CLIPS = 1 << 18
"""Clips whose names are hashed at once."""

Place = tuple[int, int]
"""Index of a clip and number of one of its crops."""


class QueryAudioConfig(StrictConfig):
    """Which sound is the query of an example, and its augmentation before it is embedded.

    Args:
        source: ``target`` uses the crop that is the target. The others avoid that the separator
            learns from traits of this very crop: ``other_crop`` uses another crop of the clip,
            ``same_class`` another clip of the class. If there is none, the next one in the order
            ``same_class``, ``other_crop``, ``target`` is used.
        mixup: mixes another sound into the query.
        spec_augment: masks the encoder's log-mel.

    Example:
        >>> QueryAudioConfig(mixup=Mixup()).is_embedded_on_the_fly
        True
    """

    source: Literal["target", "other_crop", "same_class"] = "target"
    mixup: Mixup | None = None
    spec_augment: SpecAugment | None = None

    @property
    def is_embedded_on_the_fly(self) -> bool:
        """Whether the encoder runs in training: augmented sounds are new in every step."""
        return self.mixup is not None or self.spec_augment is not None


class TrainingExample(TypedDict):
    """One mixture with its queries; a batch has one more dimension in front.

    Embeddings whose mask is False are filled with zeros and must not be used. The masks alone tell
    this: an embedding may be zero where its mask is True.

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
        other_embeddings, negative_other_embeddings: [queries, most, dim], of the sources of the
            mixture without the one that the positive, or negative, side names. ``most`` is the
            largest number of sources of a mixture.
        has_other, has_negative_other: bool [queries, most].
        clips: [queries], index of the clip that the query names, positive before negative.
        query_audio: [queries, samples], query sounds that are embedded during training, at the
            rate of cached ones (``embeddings.SAMPLE_RATE``), padded with zeros; else [queries, 0].
        query_samples: [queries], their lengths; 0 where there is no sound to embed.
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
    other_embeddings: Tensor
    has_other: Tensor
    negative_other_embeddings: Tensor
    has_negative_other: Tensor
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
        captions: embeddings of the clips' captions, any number for each; None without text.
        seed: of the plans.
        first, length: which mixtures.
        query_audio: which sounds are the queries.
        all_captions: draw one of a clip's captions each time instead of taking the first.
        queries: which kinds of queries are drawn.

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from pathlib import Path
        >>> from singleout.data.embeddings import build_table
        >>> from singleout.data.manifest import scan_folder
        >>> config = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.5, num_sources=(2, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(2):
        ...         noise = np.random.default_rng(i).normal(0, 0.1, 4_000)
        ...         soundfile.write(f"{folder}/{i}.wav", noise, 8_000)
        ...     clips = scan_folder(Path(folder))
        ...     table = build_table(clips, config, lambda clip, crop: torch.eye(4)[clip])
        ...     dataset = MixtureDataset(
        ...         clips, config, 8_000, table, captions=None, seed=0, first=100, length=10
        ...     )
        ...     example = dataset[0]
        >>> example["mixture"].shape, example["targets"].shape
        (torch.Size([1, 4000]), torch.Size([2, 1, 4000]))
        >>> example["index"], example["has_positive"], example["has_text"]
        (tensor(100), tensor([True, True]), tensor([False, False]))
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
        queries = queries or QueriesConfig()
        self.query_planner = QueryPlanner(clips, queries, config.class_balance)
        compares = queries.absent_share or queries.contrast_share
        self._alike_above = _alike_threshold(table) if compares else 1.0
        is_indexed = self.query_audio.source == "same_class"
        self._class = ClassIndex(clips) if is_indexed else None
        self._made_ns = time.time_ns()
        self._states = np.zeros(len(clips), np.int64)
        if not np.array_equal(crop_offsets(clips, config), table.offsets):
            raise ConfigError(
                f"the embeddings are of {table.counts.sum():,} crops that are not those of the "
                f"{len(clips):,} sounds, of {config.segment_seconds:g} s every "
                f"{config.crop_hop_seconds:g} s: make the embeddings again"
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingExample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        number = self.first + index
        spec = self.planner.plan(0, number)
        clips = {source.clip: self.clips[source.clip] for source in spec.sources}
        for source_number, clip in clips.items():
            self._check_unchanged(source_number, clip)
        rendered = render(spec, clips, self.config, self.sample_rate)
        # Queries have streams of their own, so that they do not change what is mixed.
        rng = random_stream(self.seed, 0, number, Stream.QUERY)
        kinds = random_stream(self.seed, 0, number, Stream.KIND)
        planned = self.query_planner.draw(spec, kinds, self._sound_alike)
        positive = [self._positive_place(query, spec, kinds) for query in planned]
        negative = [_source_place(spec, query.negative) for query in planned]
        sounds = [self._query_place(place, rng) for place in positive]
        texts = [self._caption(place, rng) for place in positive]
        query_audio, query_samples = self._query_audio(sounds, rng)
        negative_sounds = [self._query_place(place, kinds) for place in negative]
        negative_texts = [self._caption(place, kinds) for place in negative]
        others = [self._others(spec, query.positive) for query in planned]
        negative_others = [self._others(spec, query.negative) for query in planned]
        return TrainingExample(
            index=torch.tensor(number),
            mixture=torch.from_numpy(rendered.mixture)[None],
            targets=torch.stack([_target(rendered, query) for query in planned])[:, None],
            audio_embedding=self._sound_embeddings(sounds),
            has_positive=_is_given(sounds),
            text_embedding=self._rows(texts),
            has_text=_is_given(texts),
            negative_audio_embedding=self._sound_embeddings(negative_sounds),
            has_negative=_is_given(negative_sounds),
            negative_text_embedding=self._rows(negative_texts),
            has_negative_text=_is_given(negative_texts),
            other_embeddings=torch.stack([self._sound_embeddings(row) for row in others]),
            has_other=torch.stack([_is_given(row) for row in others]),
            negative_other_embeddings=torch.stack(
                [self._sound_embeddings(row) for row in negative_others]
            ),
            has_negative_other=torch.stack([_is_given(row) for row in negative_others]),
            clips=_named_clips(positive, negative),
            query_audio=query_audio,
            query_samples=query_samples,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the mixtures follow from: settings as they are, and hashes of the sounds.

        Two data sets of one fingerprint have the same mixtures, apart from ``first`` and
        ``length``.
        """
        clips, sounds = Clips.of(self.clips), blake2b(digest_size=8)
        for column in (clips.seconds, clips.label_codes, clips.group_codes, clips.family_codes):
            sounds.update(column.tobytes())
        for begin in range(0, len(clips), BLOCK_CLIPS):
            some = clips[begin : begin + BLOCK_CLIPS]
            sounds.update(some.columns["path.encoded"].tobytes())
        return {
            "sounds": sounds.hexdigest(),
            "embeddings": self.table.digest(),
            "captions": None if self.captions is None else self.captions.digest(),
            "mixtures": self.config.model_dump(mode="json"),
            "query_audio": self.query_audio.model_dump(mode="json"),
            "queries": self.query_planner.config.model_dump(mode="json"),
            "all_captions": self.all_captions,
            "sample_rate": self.sample_rate,
            "seed": self.seed,
        }

    def _check_unchanged(self, number: int, clip: Clip) -> None:
        """Refuse a sound that another one has replaced: its embeddings are those of the old one.

        Its file must stay as it was at its first use, and before that, as it was when this data
        set was made. Times that lie in the future say nothing.
        """
        place = clip.path if clip.member is None else Path(clip.member.shard)
        if clip.member is not None and address_of(clip.member.shard) is not None:
            return  # its store is far away
        try:
            status = place.stat()
            state = hash((status.st_size, status.st_mtime_ns)) or 1
            is_new = self._made_ns < status.st_mtime_ns <= time.time_ns()
            is_same = self._states[number] == state or (self._states[number] == 0 and not is_new)
            self._states[number] = state
        except OSError:
            is_same = False
        if not is_same:
            raise AudioError(
                f"{place}: was changed or removed during the training: repeat the command to go on "
                "from the last checkpoint"
            )

    def _others(self, spec: MixtureSpec, number: int | None) -> list[Place | None]:
        """Places of all sources but number ``number``, with None in place of missing ones."""
        others = [_source_place(spec, i) for i in range(len(spec.sources)) if i != number]
        return [*others, *[None] * (self.config.num_sources[1] - len(others))]

    def _positive_place(
        self, query: PlannedQuery, spec: MixtureSpec, rng: np.random.Generator
    ) -> Place | None:
        """The crop that the positive side of a query names, None without one."""
        if query.absent is None:
            return _source_place(spec, query.positive)
        return query.absent, int(rng.integers(self.table.count(query.absent)))

    def _query_place(self, place: Place | None, rng: np.random.Generator) -> Place | None:
        """The crop whose sound is the query for ``place``, see ``QueryAudioConfig.source``."""
        if place is None:
            return None
        clip, crop = place
        if self._class is not None and (other := self._class.draw_other(clip, rng)) is not None:
            return other, int(rng.integers(self.table.count(other)))
        crops = self.table.count(clip)
        if self.query_audio.source != "target" and crops > 1:
            crop = (crop + 1 + int(rng.integers(crops - 1))) % crops
        return clip, crop

    def _caption(self, place: Place | None, rng: np.random.Generator) -> Tensor | None:
        """Embedding [dim] of a caption of the clip at ``place``; None if it has no caption."""
        if self.captions is None or place is None or not (count := self.captions.count(place[0])):
            return None
        return self.captions.of(place[0], int(rng.integers(count)) if self.all_captions else 0)

    def _sound_embeddings(self, places: Sequence[Place | None]) -> Tensor:
        """Embeddings [places, dim] of crops, see ``_rows``."""
        return self._rows([None if place is None else self.table.of(*place) for place in places])

    def _rows(self, rows: Sequence[Tensor | None]) -> Tensor:
        """[rows, dim], with zeros in place of missing rows."""
        stacked = torch.zeros(len(rows), self.table.dim)
        for place, row in zip(stacked, rows, strict=True):
            if row is not None:
                place.copy_(row)
        return stacked

    def _query_audio(
        self, places: Sequence[Place | None], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Query sounds to embed during training, padded [places, samples], and their lengths."""
        if not self.query_audio.is_embedded_on_the_fly:
            return torch.zeros(len(places), 0), torch.zeros(len(places), dtype=torch.long)
        longest = round(self.config.segment_seconds * SAMPLE_RATE)
        padded = np.zeros((len(places), longest), np.float32)
        lengths = torch.zeros(len(places), dtype=torch.long)
        for number, place in enumerate(places):
            if place is not None:
                sound = self._query_sound(place, rng)[:longest]
                padded[number, : len(sound)] = sound
                lengths[number] = len(sound)
        return torch.from_numpy(padded), lengths

    def _query_sound(self, place: Place, rng: np.random.Generator) -> NDArray[np.float32]:
        """The samples of a query sound, with another sound mixed in if so configured."""
        clip, crop = place
        sound = read_crop(self.clips[clip], crop, self.config, SAMPLE_RATE)
        if self.query_audio.mixup is None:
            return sound
        other = int(rng.integers(len(self.clips)))
        other_crop = int(rng.integers(self.table.count(other)))
        interference = read_crop(self.clips[other], other_crop, self.config, SAMPLE_RATE)
        return self.query_audio.mixup.mixed(sound, interference, rng)

    def _sound_alike(self, clip: int, other: int) -> bool:
        """Whether two clips count as alike, by their first crops."""
        similarity = float(self.table.of(clip, 0) @ self.table.of(other, 0))
        return similarity > self._alike_above


def _is_given(values: Sequence[object | None]) -> Tensor:
    """Bool [values], False where a value is None."""
    return torch.tensor([value is not None for value in values])


def _named_clips(positive: Sequence[Place | None], negative: Sequence[Place | None]) -> Tensor:
    """[queries], index of the clip of the positive place, or else of the negative place."""
    clips = []
    for place, excluded in zip(positive, negative, strict=True):
        named = excluded if place is None else place
        assert named is not None
        clips.append(named[0])
    return torch.tensor(clips)


def _source_place(spec: MixtureSpec, number: int | None) -> Place | None:
    """The crop of source ``number`` of a mixture."""
    if number is None:
        return None
    source = spec.sources[number]
    return source.clip, source.crop


def _target(rendered: Mixture, query: PlannedQuery) -> Tensor:
    """The target [samples] of a query."""
    if query.absent is not None:
        return torch.zeros(len(rendered.mixture))
    if query.positive is not None:
        return torch.from_numpy(rendered.sources[query.positive])
    assert query.negative is not None
    return torch.from_numpy(rendered.mixture - rendered.sources[query.negative])


def _alike_threshold(table: EmbeddingTable) -> float:
    """The cosine that ``ALIKE_SHARE`` of the pairs of clips exceed, by their first crops."""
    num_clips = len(table.first)
    some = torch.linspace(0, num_clips - 1, min(num_clips, MAX_COMPARED)).long()
    rows = table.take(some.numpy()).first_crops()
    similarity = rows @ rows.T
    above, other = torch.triu_indices(len(rows), len(rows), 1)
    pairs = similarity[above, other].sort().values
    return float(pairs[round((1 - ALIKE_SHARE) * (len(pairs) - 1))]) if len(pairs) else 1.0
