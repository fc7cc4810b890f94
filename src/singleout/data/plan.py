"""A mixture as pure data, before any sample is read.

A plan is drawn from ``(seed, epoch, index)`` alone: ranks, workers and resuming cannot change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from singleout.config import StrictConfig, added
from singleout.data.clips import Clip, Clips
from singleout.data.draws import clip_weights, cumulative, draw
from singleout.data.mixable import edges_with_matching, unmixable
from singleout.data.permutation import Permutation
from singleout.data.seeds import Stream, mixture_stream, random_stream
from singleout.errors import ManifestError, shortened

Share = Annotated[float, Field(ge=0, le=1)]
"""A probability: how often something is drawn."""
Seconds = Annotated[float, Field(ge=0.001, le=3_600)]
Decibels = Annotated[float, Field(ge=-200, le=200)]
Count = Annotated[int, Field(le=64)]
Speed = Annotated[float, Field(le=100)]
Rt60 = Annotated[float, Field(le=60)]
Hertz = Annotated[float, Field(le=1e6)]
"""Ranges far beyond every use, which keep a damaged config from taking all memory."""


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
        source_band_share: how often a single sound is low-passed.
        mixture_band_share: how often all sounds are low-passed alike.
        band_hz: range of the cut-off, drawn log-uniformly.
        class_balance: from 0, all clips are equally likely, to 1, all classes are equally likely.
        gate_share: how often a sound is silenced for one to three intervals, as if it stopped.
        reverb_share: how often a sound gets the echoes of a room.
        rt60_seconds: range of the time in which those echoes decay by 60 dB.
        bed_share: how often there is noise in the background. No query refers to it.
        bed_snr_db: range of the level of all sounds together over the background.
        lossy_share: how often the mixture is encoded by a lossy codec and decoded again.
        targets: which clip is the first sound: ``drawn`` like the others, or ``each_once``: every
            clip once, in random order, before any clip comes again. ``class_balance`` is 0 then.

    Example:
        >>> MixtureConfig(num_sources=(2, 2)).segment_seconds
        4.0
    """

    segment_seconds: Seconds = 4.0
    crop_hop_seconds: Seconds = 2.0
    num_sources: tuple[Count, Count] = (2, 3)
    snr_db: tuple[Decibels, Decibels] = (-8.0, 8.0)
    gain_db: tuple[Decibels, Decibels] = (-15.0, 9.0)
    repeat_share: Share = 0.5
    speed: tuple[Speed, Speed] = (0.9, 1.1)
    source_band_share: Share = 0.2
    mixture_band_share: Share = 0.2
    band_hz: tuple[Hertz, Hertz] = (2_000.0, 14_000.0)
    class_balance: Share = 0.5
    gate_share: Share = added(0.0)
    reverb_share: Share = added(0.0)
    rt60_seconds: tuple[Rt60, Rt60] = added((0.2, 1.2))
    bed_share: Share = added(0.0)
    bed_snr_db: tuple[Decibels, Decibels] = added((0.0, 25.0))
    lossy_share: Share = added(0.0)
    targets: Literal["drawn", "each_once"] = added("drawn")

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
        if self.targets == "each_once" and self.class_balance:
            raise ValueError(
                "targets: each_once makes all clips equally frequent, so class_balance has to be "
                f"0, and it is {self.class_balance}"
            )
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
"""Draws of unfit clips after which the choice of the clips starts over."""
LOSSY_FORMATS = ("MP3", "OGG")
"""Codecs of ``lossy_share``."""


@dataclass(frozen=True)
class SourceSpec:
    """One sound in a mixture.

    Attributes:
        clip: index into the clips.
        crop: number of the crop of the clip, in units of ``crop_hop_seconds``.
        onset_seconds: where the crop starts, once or several times.
        snr_db: level of the first sound of the mixture over this one; 0 for the first.
        speed: playback speed.
        band_hz: cut-off of a low-pass, or None.
        silences_seconds: start and end of each interval in which the sound is silenced.
        room: decay time in seconds and number of a room, or None.

    Example:
        >>> rain = SourceSpec(
        ...     clip=3, crop=1, onset_seconds=(0.0,), snr_db=4.0, speed=1.0, band_hz=8_000.0
        ... )
        >>> rain.silences_seconds
        ()
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
        snr_db: level of all sounds together over the noise.
        slope_db: of its spectrum per octave: 0 is white, -3 pink, -6 brown.
        number: seed of its samples.

    Example:
        >>> pink = BackgroundSpec(snr_db=15.0, slope_db=-3.0, number=1)
    """

    snr_db: float
    slope_db: float
    number: int


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture.

    Attributes:
        sources: its sounds, target first.
        gain_db: level of the whole.
        background: noise under the sounds, or None.
        lossy: codec and compression level in [0, 1] that the mixture goes through, or None.

    Example:
        >>> dog = SourceSpec(0, 0, onset_seconds=(0.5,), snr_db=0.0, speed=1.0, band_hz=None)
        >>> spec = MixtureSpec((dog,), gain_db=-6.0, lossy=("MP3", 0.5))
        >>> spec.background is None
        True
    """

    sources: tuple[SourceSpec, ...]
    gain_db: float
    background: BackgroundSpec | None = None
    lossy: tuple[str, float] | None = None


def num_crops(clip: Clip, config: MixtureConfig) -> int:
    """Number of crops of a clip: they start at 0, hop, 2 hops, … until one reaches its end.

    Example:
        >>> from pathlib import Path
        >>> clip = Clip(Path("rain.wav"), 9.0, None, (), "rain", "rain.wav", "train")
        >>> num_crops(clip, MixtureConfig(segment_seconds=4.0, crop_hop_seconds=2.0))
        4
    """
    return int(crop_counts(np.array(clip.seconds), config))


def crop_counts(seconds: NDArray[np.float64], config: MixtureConfig) -> NDArray[np.int64]:
    """Numbers of crops of clips, see ``num_crops``.

    Args:
        seconds: lengths of the clips, of any shape.
        config: with the lengths of crops.

    Example:
        >>> crop_counts(np.array([1.0, 9.0]), MixtureConfig())
        array([1, 4])
    """
    hops = np.ceil((seconds - config.segment_seconds) / config.crop_hop_seconds - 1e-9)
    return 1 + np.maximum(0, hops).astype(np.int64)


def check_mixable(clips: Sequence[Clip], config: MixtureConfig) -> None:
    """Refuse clips that make no mixture.

    Args:
        clips: the sounds.
        config: how to mix them.

    Raises:
        ManifestError: the clips hold no mixture of as many sounds, all of different classes and
            groups; or each clip has to be a target, and no mixture holds one of them.

    Example:
        >>> from pathlib import Path
        >>> names = ("dog.wav", "rain.wav", "car.wav")
        >>> clips = [Clip(Path(name), 5.0, None, (), name, name, "train") for name in names]
        >>> check_mixable(clips, MixtureConfig(num_sources=(2, 3)))
    """
    clips = Clips.of(clips)
    labels, groups = clips.label_codes, clips.group_codes
    needed = config.num_sources[1]
    edges, largest = edges_with_matching(labels, groups, needed + 1)
    if largest < needed:
        raise ManifestError(
            f"mixtures of {needed} sounds need {needed} sounds of different classes and "
            f"different groups (without a manifest, {needed} files). Add sounds (now: sounds "
            f"{len(clips)}, classes {labels.max(initial=-1) + 1}, groups "
            f"{groups.max(initial=-1) + 1})"
        )
    # With more than ``needed``, enough are left without the class and the group of any clip.
    is_each = config.targets == "each_once" and largest == needed
    if is_each and (is_bad := unmixable(edges, needed)).any():
        label, group = edges[is_bad][0]
        clip = clips[int(np.flatnonzero((labels == label) & (groups == group))[0])]
        raise ManifestError(
            f"{shortened(clip.path, 500)}: is in no mixture of {needed} sounds, because its class "
            "and its group exclude too many others. Remove it, or set mixtures.targets to drawn"
        )


class Planner:
    """Draws mixtures from clips.

    Args:
        clips: the sounds.
        config: how to mix them.
        seed: of the run.

    Raises:
        ManifestError: see ``check_mixable``.

    Example:
        >>> from pathlib import Path
        >>> clips = [
        ...     Clip(Path(name), 5.0, None, (), name, name, "train")
        ...     for name in ("dog.wav", "rain.wav")
        ... ]
        >>> spec = Planner(clips, MixtureConfig(num_sources=(2, 2)), seed=0).plan(0, 0)
        >>> sorted(source.clip for source in spec.sources)
        [0, 1]
    """

    def __init__(self, clips: Sequence[Clip], config: MixtureConfig, seed: int) -> None:
        self.clips, self.config, self.seed = Clips.of(clips), config, seed
        check_mixable(self.clips, config)
        self._cumulative = cumulative(clip_weights(self.clips, config.class_balance))

    def plan(self, epoch: int, index: int) -> MixtureSpec:
        """The mixture number ``index`` of ``epoch``."""
        rng = mixture_stream(self.seed, epoch, index)
        config = self.config
        count = int(rng.integers(config.num_sources[0], config.num_sources[1] + 1))
        first = [self._target(epoch, index)] if config.targets == "each_once" else []
        chosen = self._choose_clips(rng, count, first)
        shared_band = self._band(rng, config.mixture_band_share)
        sources = []
        for position, number in enumerate(chosen):
            seconds = self.clips.seconds[number]
            speed = float(rng.uniform(*config.speed))
            band = self._band(rng, config.source_band_share)
            if shared_band is not None:
                band = shared_band if band is None else min(band, shared_band)
            sources.append(
                SourceSpec(
                    clip=number,
                    crop=int(rng.integers(crop_counts(seconds, config))),
                    onset_seconds=self._onsets(rng, float(seconds) / speed),
                    snr_db=float(rng.uniform(*config.snr_db)) if position else 0.0,
                    speed=speed,
                    band_hz=band,
                )
            )
        gain_db = float(rng.uniform(*config.gain_db))
        return self._with_effects(MixtureSpec(tuple(sources), gain_db), epoch, index)

    def _target(self, epoch: int, index: int) -> int:
        """The clip that is the target of a mixture if each clip is one once."""
        number, place = divmod(index, len(self.clips))
        return _order(len(self.clips), self.seed, epoch, number).at(place)

    def _choose_clips(self, rng: np.random.Generator, count: int, first: list[int]) -> list[int]:
        """Indices of ``count`` clips of different classes and groups, ``first`` among them."""
        labels, groups = self.clips.label_codes, self.clips.group_codes
        chosen, misses = list(first), 0
        while len(chosen) < count:
            if misses == MAX_MISSES:  # the first clips exclude all others: start over
                chosen, misses = list(first), 0
            number = draw(self._cumulative, rng)
            if all(
                labels[number] != labels[other] and groups[number] != groups[other]
                for other in chosen
            ):
                chosen.append(number)
            else:
                misses += 1
        return chosen

    def _with_effects(self, spec: MixtureSpec, epoch: int, index: int) -> MixtureSpec:
        """``spec`` with silences, rooms, a background and a codec.

        Each effect has its own stream. So an effect changes neither the rest of the mixture nor
        the other effects.
        """
        silences, rooms, backgrounds, codecs = (
            random_stream(self.seed, epoch, index, Stream.SCENE, number) for number in range(4)
        )
        sources = tuple(
            replace(source, silences_seconds=self._silences(silences), room=self._room(rooms))
            for source in spec.sources
        )
        background, lossy = self._background(backgrounds), self._lossy(codecs)
        return replace(spec, sources=sources, background=background, lossy=lossy)

    def _silences(self, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
        if rng.random() >= self.config.gate_share:
            return ()
        edges = np.sort(rng.uniform(0, self.config.segment_seconds, 2 * rng.integers(1, 4)))
        return tuple((float(start), float(stop)) for start, stop in edges.reshape(-1, 2))

    def _room(self, rng: np.random.Generator) -> tuple[float, int] | None:
        if rng.random() >= self.config.reverb_share:
            return None
        rt60_seconds = float(np.exp(rng.uniform(*np.log(self.config.rt60_seconds))))
        return rt60_seconds, int(rng.integers(1 << 31))

    def _background(self, rng: np.random.Generator) -> BackgroundSpec | None:
        if rng.random() >= self.config.bed_share:
            return None
        slope_db = float(rng.uniform(-7, 1))
        snr_db = float(rng.uniform(*self.config.bed_snr_db))
        return BackgroundSpec(snr_db, slope_db, int(rng.integers(1 << 31)))

    def _lossy(self, rng: np.random.Generator) -> tuple[str, float] | None:
        if rng.random() >= self.config.lossy_share:
            return None
        return str(rng.choice(LOSSY_FORMATS)), float(rng.uniform(0.2, 0.9))

    def _band(self, rng: np.random.Generator, share: float) -> float | None:
        chance, cutoff_hz = rng.random(), np.exp(rng.uniform(*np.log(self.config.band_hz)))
        return float(cutoff_hz) if chance < share else None

    def _onsets(self, rng: np.random.Generator, seconds: float) -> tuple[float, ...]:
        """Where a sound of a length starts; more than once if it is repeated."""
        free = self.config.segment_seconds - seconds
        if free <= 0:
            return (0.0,)
        if rng.random() >= self.config.repeat_share:
            return (float(rng.uniform(0, free)),)
        gap = float(rng.choice([0.0, rng.uniform(0.05, 1.0)]))
        first = float(rng.uniform(0, min(free, seconds + gap)))
        onsets = np.arange(first, self.config.segment_seconds - 0.1, seconds + gap)
        return tuple(float(onset) for onset in onsets) or (first,)


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int, number: int) -> Permutation:
    """The order of the targets in pass ``number`` over all clips."""
    return Permutation(size, random_stream(seed, epoch, number, Stream.TARGET))
