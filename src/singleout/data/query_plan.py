"""The queries of a mixture as pure data: a sound, all but a sound, or a sound that is absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from singleout.config import StrictConfig
from singleout.data.class_index import CodeIndex
from singleout.data.clips import Clip, Clips
from singleout.data.draws import clip_weights, cumulative, draw
from singleout.data.plan import MixtureSpec, Share

NUM_QUERIES = 2
"""Queries per mixture, one for each of its first sounds.

The same mixture with two targets cannot be solved without the query. The separator encodes the
mixture once for both.
"""

MAX_TRIES = 60
"""Draws of an absent sound before a mixture is left without one."""

SoundsAlike = Callable[[int, int], bool]
"""Whether the same words could describe two clips, given by their indices."""


def never_alike(clip: int, other: int) -> bool:
    """The ``SoundsAlike`` of a corpus whose classes differ in sound.

    Example:
        >>> never_alike(0, 1)
        False
    """
    return False


class QueriesConfig(StrictConfig):
    """How often each kind of query is drawn. The other queries name a present sound.

    Args:
        absent_share: the query names a sound that is not in the mixture. The target is silence.
        near_miss_share: how often such an absent sound is of the family of a present one, if that
            family has other classes.
        removal_share: the query has only a negative prompt. The target is all but that sound.
        contrast_share: the query has a positive prompt for one sound and a negative prompt for
            another.

    Example:
        >>> QueriesConfig(removal_share=0.1).has_negative
        True
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
    """One query of a mixture.

    Attributes:
        positive: number of the source that the query names; None if it names none, or ``absent``.
        negative: number of the source that the query excludes, or None.
        absent: index of a clip that the query names although it is not in the mixture, or None.

    Example:
        >>> PlannedQuery(positive=0, negative=1)  # the first source, without the second
        PlannedQuery(positive=0, negative=1, absent=None)
    """

    positive: int | None = None
    negative: int | None = None
    absent: int | None = None


class QueryPlanner:
    """Draws the queries of mixtures.

    Args:
        clips: that mixtures are drawn from.
        config: how often each kind of query is drawn.
        class_balance: of those mixtures. Absent sounds are drawn like present ones, so that the
            query alone does not tell which it is.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from singleout.data.plan import MixtureConfig, Planner
        >>> clips = [
        ...     Clip(Path(name), 5.0, None, (), name, name, "train")
        ...     for name in ("dog.wav", "rain.wav")
        ... ]
        >>> mixture = Planner(clips, MixtureConfig(num_sources=(2, 2)), seed=0).plan(0, 0)
        >>> planner = QueryPlanner(clips, QueriesConfig(contrast_share=1.0), class_balance=0.5)
        >>> planner.draw(mixture, np.random.default_rng(0))[1]
        PlannedQuery(positive=1, negative=0, absent=None)
    """

    def __init__(self, clips: Sequence[Clip], config: QueriesConfig, class_balance: float) -> None:
        self.clips, self.config, self.class_balance = Clips.of(clips), config, class_balance
        if config.absent_share:  # made here, workers that are forked later share it
            _ = self._sums, self._family_sums

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """See ``cumulative``, of all clips."""
        return cumulative(clip_weights(self.clips, self.class_balance))

    @cached_property
    def _families(self) -> CodeIndex:
        return CodeIndex(self.clips.family_codes)

    @cached_property
    def _family_sums(self) -> NDArray[np.float64]:
        """See ``cumulative``, of each family by itself, in the order of ``_families``."""
        sums = clip_weights(self.clips, self.class_balance)[self._families.order]
        is_large = np.diff(self._families.offsets) > 1
        starts, stops = self._families.offsets[:-1], self._families.offsets[1:]
        sums[starts[~is_large]] = 1.0
        for start, stop in zip(starts[is_large].tolist(), stops[is_large].tolist(), strict=True):
            cumulative(sums[start:stop])
        return sums

    def draw(
        self,
        spec: MixtureSpec,
        rng: np.random.Generator,
        sounds_alike: SoundsAlike = never_alike,
    ) -> tuple[PlannedQuery, ...]:
        """Draw one query for each of the first ``NUM_QUERIES`` sources.

        Args:
            spec: the mixture.
            rng: gives three draws per query of any kind, and more for an absent sound.
            sounds_alike: a clip that sounds like a source is not absent.
        """
        return tuple(
            self._draw_one(number, spec, rng, sounds_alike)
            for number in range(min(NUM_QUERIES, len(spec.sources)))
        )

    def _draw_one(
        self, number: int, spec: MixtureSpec, rng: np.random.Generator, sounds_alike: SoundsAlike
    ) -> PlannedQuery:
        """The query of source ``number``."""
        config = self.config
        kind, near = rng.random(2)
        others = [other for other in range(len(spec.sources)) if other != number]
        other = int(rng.choice(others)) if others else None
        if kind < config.absent_share:
            is_near = near < config.near_miss_share
            absent = self.absent(spec, is_near, rng, sounds_alike)
            if absent is None and is_near:  # for example, the family has one class
                absent = self.absent(spec, False, rng, sounds_alike)
            return PlannedQuery(positive=number) if absent is None else absent
        kind -= config.absent_share
        if kind < config.removal_share:
            return PlannedQuery(negative=number)
        is_contrast = kind - config.removal_share < config.contrast_share
        if (
            is_contrast
            and other is not None
            and not sounds_alike(spec.sources[number].clip, spec.sources[other].clip)
        ):
            return PlannedQuery(positive=number, negative=other)
        return PlannedQuery(positive=number)

    def absent(
        self,
        spec: MixtureSpec,
        is_near: bool,
        rng: np.random.Generator,
        sounds_alike: SoundsAlike = never_alike,
    ) -> PlannedQuery | None:
        """Draw a query for a sound whose class and group differ from those of all sources.

        Args:
            spec: the mixture.
            is_near: whether the sound is of the family of a source.
            rng: source of the draws.
            sounds_alike: see ``draw``.

        Returns:
            None if no clip is certainly absent.

        Example:
            >>> import numpy as np
            >>> from pathlib import Path
            >>> from singleout.data.plan import MixtureSpec, SourceSpec
            >>> clips = [
            ...     Clip(Path(name), 5.0, None, (), name, name, "train")
            ...     for name in ("dog.wav", "rain.wav")
            ... ]
            >>> planner = QueryPlanner(clips, QueriesConfig(), class_balance=0.5)
            >>> dog = MixtureSpec((SourceSpec(0, 0, (0.0,), 0.0, 1.0, None),), gain_db=0.0)
            >>> planner.absent(dog, False, np.random.default_rng(0)).absent
            1
        """
        present = [source.clip for source in spec.sources]
        labels, groups = self.clips.label_codes, self.clips.group_codes
        present_labels, present_groups = (
            set(labels[present].tolist()),
            set(groups[present].tolist()),
        )
        for _ in range(MAX_TRIES):
            if is_near:
                number = self._draw_near(present[int(rng.integers(len(present)))], rng)
            else:
                number = draw(self._sums, rng)
            if labels[number] in present_labels or groups[number] in present_groups:
                continue
            if not any(sounds_alike(number, clip) for clip in present):
                return PlannedQuery(absent=number)
        return None

    def _draw_near(self, clip: int, rng: np.random.Generator) -> int:
        """A clip of the family of a clip."""
        family = int(self.clips.family_codes[clip])
        start, stop = self._families.offsets[family : family + 2]
        return int(self._families.order[start + draw(self._family_sums[start:stop], rng)])
