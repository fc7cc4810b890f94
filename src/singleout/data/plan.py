"""A mixture as pure data, before any sample is read.

A spec is drawn from ``(seed, epoch, index)`` alone: ranks, workers and resuming cannot change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from singleout.config import StrictConfig
from singleout.data.manifest import Clip
from singleout.errors import ManifestError

Share = Annotated[float, Field(ge=0, le=1)]


class MixtureConfig(StrictConfig):
    """How mixtures are drawn. All values are our choices.

    Args:
        segment_seconds: length of a mixture.
        crop_hop_seconds: sounds longer than a segment are cut at multiples of this, so that the
            embeddings of all possible crops can be cached.
        num_sources: fewest and most sounds in a mixture.
        snr_db: range of the level of the first sound over each other one, mean power over the
            segment.
        gain_db: range of the level of the whole mixture relative to an RMS of 0.05.
        repeat_share: how often a short sound is repeated in time instead of placed once.
        speed: range of the playback speed (changes pitch too).
        source_band_share: how often one sound alone is low-passed.
        mixture_band_share: how often all sounds are low-passed alike.
        band_hz: range of the cut-off, drawn log-uniformly.
        class_balance: 0 draws every clip alike, 1 every class alike.
    """

    segment_seconds: Annotated[float, Field(gt=0)] = 4.0
    crop_hop_seconds: Annotated[float, Field(gt=0)] = 2.0
    num_sources: tuple[int, int] = (2, 3)
    snr_db: tuple[float, float] = (-8.0, 8.0)
    gain_db: tuple[float, float] = (-15.0, 9.0)
    repeat_share: Share = 0.5
    speed: tuple[float, float] = (0.9, 1.1)
    source_band_share: Share = 0.2
    mixture_band_share: Share = 0.2
    band_hz: tuple[float, float] = (2_000.0, 14_000.0)
    class_balance: Share = 0.5

    @model_validator(mode="after")
    def _in_order(self) -> MixtureConfig:
        for name in ("num_sources", "snr_db", "gain_db", "speed", "band_hz"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is a range: its first value is not above its second")
        if self.num_sources[0] < 1 or min(self.speed[0], self.band_hz[0]) <= 0:
            raise ValueError("num_sources starts at 1; speed and band_hz are positive")
        if not 0 < self.crop_hop_seconds <= self.segment_seconds < 3_600:
            raise ValueError("crop_hop_seconds is at most segment_seconds, which is below an hour")
        return self


SCORED_MIXTURES = MixtureConfig(
    num_sources=(2, 2),
    snr_db=(-5.0, 5.0),
    gain_db=(0.0, 0.0),
    speed=(1.0, 1.0),
    source_band_share=0.0,
    mixture_band_share=0.0,
)
"""Two unaltered sounds at -5 to 5 dB: what validation and evaluation score."""

MAX_MISSES = 1_000


@dataclass(frozen=True)
class SourceSpec:
    """One sound in a mixture.

    Attributes:
        clip: index into the clips.
        crop: which crop of the clip, in units of ``crop_hop_seconds``.
        onset_seconds: where the crop starts, once or several times.
        snr_db: level of the first sound of the mixture over this one; 0 for the first.
        speed: playback speed.
        band_hz: cut-off of a low-pass, or None.
    """

    clip: int
    crop: int
    onset_seconds: tuple[float, ...]
    snr_db: float
    speed: float
    band_hz: float | None


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture: its sounds, target first, and its level."""

    sources: tuple[SourceSpec, ...]
    gain_db: float


def num_crops(clip: Clip, config: MixtureConfig) -> int:
    """Crops start at 0, hop, 2 hops, … until one reaches the end of the clip."""
    left = clip.seconds - config.segment_seconds
    return 1 + max(0, int(np.ceil(left / config.crop_hop_seconds - 1e-9)))


class Planner:
    """Draws mixtures from clips.

    Raises:
        ManifestError: the clips hold no mixture of as many sounds, all of different classes and
            groups.
    """

    def __init__(self, clips: Sequence[Clip], config: MixtureConfig, seed: int) -> None:
        self.clips, self.config, self.seed = clips, config, seed
        labels, counts = np.unique([clip.label for clip in clips], return_counts=True)
        groups = {clip.group for clip in clips}
        needed = config.num_sources[1]
        if min(len(labels), len(groups)) < needed or not _has_mixture(clips, needed):
            raise ManifestError(
                f"mixtures of {needed} sounds need as many classes of sounds; there are "
                f"{len(clips)} sounds of {len(labels)} classes in {len(groups)} groups"
            )
        size = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        weight = np.array([size[clip.label] ** -config.class_balance for clip in clips])
        self._cumulative = np.cumsum(weight / weight.sum())

    def plan(self, epoch: int, index: int) -> MixtureSpec:
        """The mixture number ``index`` of ``epoch``."""
        rng = np.random.default_rng([self.seed, epoch, index])
        config = self.config
        count = int(rng.integers(config.num_sources[0], config.num_sources[1] + 1))
        chosen: list[int] = []
        misses = 0
        while len(chosen) < count:
            if misses == MAX_MISSES:  # what was drawn first cannot be completed: start over
                chosen, misses = [], 0
            drawn = int(np.searchsorted(self._cumulative, rng.random()))
            clip = self.clips[min(drawn, len(self.clips) - 1)]
            if all(
                clip.label != self.clips[other].label and clip.group != self.clips[other].group
                for other in chosen
            ):
                chosen.append(drawn)
            else:
                misses += 1
        shared_band = self._band(rng, config.mixture_band_share)
        sources = []
        for position, drawn in enumerate(chosen):
            clip = self.clips[drawn]
            speed = float(rng.uniform(*config.speed))
            band = self._band(rng, config.source_band_share)
            if shared_band is not None:
                band = shared_band if band is None else min(band, shared_band)
            sources.append(
                SourceSpec(
                    clip=drawn,
                    crop=int(rng.integers(num_crops(clip, config))),
                    onset_seconds=self._onsets(rng, clip.seconds / speed),
                    snr_db=float(rng.uniform(*config.snr_db)) if position else 0.0,
                    speed=speed,
                    band_hz=band,
                )
            )
        return MixtureSpec(tuple(sources), float(rng.uniform(*config.gain_db)))

    def _band(self, rng: np.random.Generator, share: float) -> float | None:
        drawn, cut = rng.random(), np.exp(rng.uniform(*np.log(self.config.band_hz)))
        return float(cut) if drawn < share else None

    def _onsets(self, rng: np.random.Generator, seconds: float) -> tuple[float, ...]:
        room = self.config.segment_seconds - seconds
        if room <= 0:
            return (0.0,)
        if rng.random() >= self.config.repeat_share:
            return (float(rng.uniform(0, room)),)
        gap = float(rng.choice([0.0, rng.uniform(0.05, 1.0)]))
        first = float(rng.uniform(0, min(room, seconds + gap)))
        onsets = np.arange(first, self.config.segment_seconds - 0.1, seconds + gap)
        return tuple(float(onset) for onset in onsets) or (first,)


def _has_mixture(clips: Sequence[Clip], count: int) -> bool:
    """Whether ``count`` clips of different classes and groups exist."""

    def extend(labels: frozenset[str], groups: frozenset[str], left: int) -> bool:
        return left == 0 or any(
            extend(labels | {clip.label}, groups | {clip.group}, left - 1)
            for clip in clips
            if clip.label not in labels and clip.group not in groups
        )

    return extend(frozenset(), frozenset(), count)
