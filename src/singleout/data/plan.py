"""A mixture as pure data, before any sample is read.

A spec is drawn from ``(seed, epoch, index)`` alone: ranks, workers and resuming cannot change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from singleout.config import StrictConfig, added
from singleout.data.manifest import Clip
from singleout.data.seeds import Stream, random_stream
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
        gate_share: how often a sound is cut off, once or several times, as if it stopped.
        reverb_share: how often a sound is heard in a room of its own.
        rt60_seconds: range of the time in which that room's echo decays by 60 dB.
        bed_share: how often there is noise in the background, which is never asked for.
        bed_snr_db: range of the level of all sounds together over it.
        lossy_share: how often the mixture went through a lossy encoder before it is heard.
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
    gate_share: Share = added(0.0)
    reverb_share: Share = added(0.0)
    rt60_seconds: tuple[float, float] = added((0.2, 1.2))
    bed_share: Share = added(0.0)
    bed_snr_db: tuple[float, float] = added((0.0, 25.0))
    lossy_share: Share = added(0.0)

    @model_validator(mode="after")
    def _in_order(self) -> MixtureConfig:
        ranges = ("num_sources", "snr_db", "gain_db", "speed", "band_hz", "rt60_seconds")
        for name in (*ranges, "bed_snr_db"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is a range: its first value is not above its second")
        if (
            self.num_sources[0] < 1
            or min(self.speed[0], self.band_hz[0], self.rt60_seconds[0]) <= 0
        ):
            raise ValueError("num_sources starts at 1; speed, band_hz, rt60_seconds are positive")
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
LOSSY_FORMATS = ("MP3", "OGG")


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
        silences_seconds: from where to where it is cut off.
        room: decay time in seconds and number of a room, or None.
    """

    clip: int
    crop: int
    onset_seconds: tuple[float, ...]
    snr_db: float
    speed: float
    band_hz: float | None
    silences_seconds: tuple[tuple[float, float], ...] = ()
    room: tuple[float, int] | None = None


@dataclass(frozen=True)
class BackgroundSpec:
    """Noise in the background.

    Attributes:
        snr_db: level of all sounds together over it.
        slope_db: of its spectrum per octave: 0 is white, -3 pink, -6 brown.
        number: of the noise, for its samples.
    """

    snr_db: float
    slope_db: float
    number: int


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture.

    Attributes:
        sources: its sounds, target first.
        gain_db: its level.
        bed: noise in its background.
        lossy: what it went through before it is heard: format and compression level in [0, 1].
    """

    sources: tuple[SourceSpec, ...]
    gain_db: float
    bed: BackgroundSpec | None = None
    lossy: tuple[str, float] | None = None


def num_crops(clip: Clip, config: MixtureConfig) -> int:
    """Crops start at 0, hop, 2 hops, … until one reaches the end of the clip."""
    left = clip.seconds - config.segment_seconds
    return 1 + max(0, int(np.ceil(left / config.crop_hop_seconds - 1e-9)))


def clip_weights(clips: Sequence[Clip], class_balance: float) -> NDArray[np.float64]:
    """How much more likely one clip is drawn than another; see ``MixtureConfig.class_balance``."""
    size = Counter(clip.label for clip in clips)
    return np.array([float(size[clip.label]) ** -class_balance for clip in clips])


class Planner:
    """Draws mixtures from clips.

    Raises:
        ManifestError: the clips hold no mixture of as many sounds, all of different classes and
            groups.
    """

    def __init__(self, clips: Sequence[Clip], config: MixtureConfig, seed: int) -> None:
        self.clips, self.config, self.seed = clips, config, seed
        labels = {clip.label for clip in clips}
        groups = {clip.group for clip in clips}
        needed = config.num_sources[1]
        if min(len(labels), len(groups)) < needed or not _has_mixture(clips, needed):
            raise ManifestError(
                f"mixtures of {needed} sounds need as many kinds of sounds, each of recordings of "
                f"its own (without a manifest, {needed} files); there are {len(clips)} sounds of "
                f"{len(labels)} kinds (classes) in {len(groups)} recordings (groups)"
            )
        weight = clip_weights(clips, config.class_balance)
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
            drawn = min(drawn, len(self.clips) - 1)  # sums of shares may end below 1
            clip = self.clips[drawn]
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
        gain_db = float(rng.uniform(*config.gain_db))
        # Of streams of their own: each changes nothing of what there is without it.
        streams = [
            random_stream(self.seed, epoch, index, Stream.SCENE, number) for number in range(4)
        ]
        return self._harder(MixtureSpec(tuple(sources), gain_db), *streams)

    def _harder(
        self,
        spec: MixtureSpec,
        gates: np.random.Generator,
        rooms: np.random.Generator,
        beds: np.random.Generator,
        coders: np.random.Generator,
    ) -> MixtureSpec:
        config = self.config
        sources = []
        for source in spec.sources:
            silences: tuple[tuple[float, float], ...] = ()
            if gates.random() < config.gate_share:
                edges = np.sort(gates.uniform(0, config.segment_seconds, 2 * gates.integers(1, 4)))
                silences = tuple((float(a), float(b)) for a, b in edges.reshape(-1, 2))
            room = None
            if rooms.random() < config.reverb_share:
                rt60 = float(np.exp(rooms.uniform(*np.log(config.rt60_seconds))))
                room = rt60, int(rooms.integers(1 << 31))
            sources.append(replace(source, silences_seconds=silences, room=room))
        bed, lossy = None, None
        if beds.random() < config.bed_share:
            slope_db, snr_db = float(beds.uniform(-7, 1)), float(beds.uniform(*config.bed_snr_db))
            bed = BackgroundSpec(snr_db, slope_db, int(beds.integers(1 << 31)))
        if coders.random() < config.lossy_share:
            lossy = str(coders.choice(LOSSY_FORMATS)), float(coders.uniform(0.2, 0.9))
        return replace(spec, sources=tuple(sources), bed=bed, lossy=lossy)

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
