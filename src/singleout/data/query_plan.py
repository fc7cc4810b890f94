"""What a mixture is asked for, as pure data: a sound, all but a sound, or one that is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from singleout.config import StrictConfig
from singleout.data.manifest import Clip
from singleout.data.plan import MixtureSpec, Share, clip_weights

NUM_QUERIES = 2
"""Each mixture is asked for two of its sounds: the same input with two answers cannot be solved
without listening to the query, and the encoder's half of the work serves both."""

MAX_TRIES = 60

Alike = Callable[[int, int], bool]
"""Of two clips: whether they may be called by the same words."""


def never(clip: int, other: int) -> bool:
    """Where classes tell already."""
    return False


class QueriesConfig(StrictConfig):
    """How often what is asked. The rest asks for a sound by a positive prompt alone.

    Args:
        absent_share: for a sound that is not in the mixture: the target is silence.
        near_miss_share: of those, how often it is of the family of one that is there, if that has
            other classes.
        removal_share: by a negative prompt alone: the target is all but that sound.
        contrast_share: for a sound by a positive prompt, and not for another by a negative one.
    """

    absent_share: Share = 0.0
    near_miss_share: Share = 0.5
    removal_share: Share = 0.0
    contrast_share: Share = 0.0

    @model_validator(mode="after")
    def _at_most_all(self) -> QueriesConfig:
        if self.absent_share + self.removal_share + self.contrast_share > 1:
            raise ValueError("absent_share, removal_share and contrast_share are more than 1")
        return self

    @property
    def has_negative(self) -> bool:
        """Whether any query has a negative prompt."""
        return self.removal_share > 0 or self.contrast_share > 0


@dataclass(frozen=True)
class PlannedQuery:
    """One question to a mixture.

    Attributes:
        positive: number of the source that is asked for; None with nothing positive, or ``absent``.
        negative: number of the source that is not wanted, or None.
        absent: index of the clip that is asked for in vain, or None.
    """

    positive: int | None = None
    negative: int | None = None
    absent: int | None = None


class _Draw:
    """Draws clips by their weights."""

    def __init__(self, clips: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        self._clips, self._cumulative = clips, np.cumsum(weight / weight.sum())

    def __call__(self, rng: np.random.Generator) -> int:
        drawn = int(np.searchsorted(self._cumulative, rng.random()))
        return int(self._clips[min(drawn, len(self._clips) - 1)])


class QueryPlanner:
    """Draws the questions to a mixture of clips.

    Args:
        clips: that mixtures are drawn from.
        config: how often what is asked.
        class_balance: of those mixtures: sounds that are not there are drawn as those that are, so
            that a question alone does not tell which it is.
    """

    def __init__(self, clips: Sequence[Clip], config: QueriesConfig, class_balance: float) -> None:
        self.clips, self.config = clips, config
        weight = clip_weights(clips, class_balance)
        families: dict[str, list[int]] = {}
        for i, clip in enumerate(clips):
            families.setdefault(clip.family, []).append(i)
        self._any = _Draw(np.arange(len(clips)), weight)
        self._family = {name: _Draw(np.array(own), weight[own]) for name, own in families.items()}

    def draw(
        self,
        spec: MixtureSpec,
        rng: np.random.Generator,
        sounds_alike: Alike = never,
    ) -> tuple[PlannedQuery, ...]:
        """One question about each of the first ``NUM_QUERIES`` sources.

        Args:
            spec: the mixture.
            rng: three draws are made per question, whatever comes of them, and more for an absent
                sound.
            sounds_alike: of two clips; one that sounds like a source is not absent.
        """
        config = self.config
        drawn = []
        for number in range(min(NUM_QUERIES, len(spec.sources))):
            kind, near = rng.random(2)
            others = [other for other in range(len(spec.sources)) if other != number]
            other = int(rng.choice(others)) if others else None
            if kind < config.absent_share:
                is_near = near < config.near_miss_share
                absent = self.absent(spec, is_near, rng, sounds_alike)
                if absent is None and is_near:  # as of a family of one class
                    absent = self.absent(spec, False, rng, sounds_alike)
                drawn.append(PlannedQuery(positive=number) if absent is None else absent)
            elif (kind := kind - config.absent_share) < config.removal_share:
                drawn.append(PlannedQuery(negative=number))
            elif kind - config.removal_share < config.contrast_share and not (
                other is not None
                and sounds_alike(spec.sources[number].clip, spec.sources[other].clip)
            ):
                drawn.append(PlannedQuery(positive=number, negative=other))
            else:
                drawn.append(PlannedQuery(positive=number))
        return tuple(drawn)

    def absent(
        self,
        spec: MixtureSpec,
        is_near: bool,
        rng: np.random.Generator,
        sounds_alike: Alike = never,
    ) -> PlannedQuery | None:
        """A sound of another class and recording than all that are there.

        Args:
            spec: the mixture.
            is_near: of a family that is there.
            rng: what draws it.
            sounds_alike: see ``draw``.

        Returns:
            None where nothing is found that is surely not there.
        """
        there = [self.clips[source.clip] for source in spec.sources]
        labels, groups = {clip.label for clip in there}, {clip.group for clip in there}
        for _ in range(MAX_TRIES):
            if is_near:
                clip = self._family[there[int(rng.integers(len(there)))].family](rng)
            else:
                clip = self._any(rng)
            other = self.clips[clip]
            if other.label in labels or other.group in groups:
                continue
            if not any(sounds_alike(clip, source.clip) for source in spec.sources):
                return PlannedQuery(absent=clip)
        return None
