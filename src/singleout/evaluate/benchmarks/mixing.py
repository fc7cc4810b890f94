"""Mixtures of any manifest at chosen SNRs, and queries for absent sounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from singleout.config import StrictConfig, validated
from singleout.data.clips import Clip
from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig, MixtureSpec, Planner
from singleout.data.render import render
from singleout.errors import ManifestError
from singleout.evaluate.benchmarks.aggregation import MEAN
from singleout.evaluate.benchmarks.benchmark import Benchmark, Item, Signals
from singleout.evaluate.evaluation import required_caption

SAMPLE_RATE = 32_000


class MixingConfig(StrictConfig):
    """Which mixtures are made.

    Args:
        split: of the manifest.
        snr_db: levels of the target over the other sound, by mean power over the segment. Each
            pair of sounds is mixed at each of these levels.
        num_mixtures: number of pairs of sounds.
        seed: of the pairs. The same seed and manifest give the same mixtures.
        absent: also query every mixture for an absent sound, of another class and group.
        mixtures: how they are drawn, all but their SNR. The first sound of each is the target.

    Example:
        >>> MixingConfig(snr_db=(0.0, 10.0)).num_mixtures
        600
    """

    split: str = "test"
    snr_db: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] = (-5.0, 0.0, 5.0)
    num_mixtures: Annotated[int, Field(ge=1)] = 600
    seed: Annotated[int, Field(ge=0)] = 0
    absent: bool = False
    mixtures: MixtureConfig = SCORED_MIXTURES

    @field_validator("snr_db")
    @classmethod
    def _differ(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(levels)) < len(levels):
            raise ValueError("an SNR is given twice")
        return levels


def load(name: str, **options: Any) -> Benchmark:
    """The benchmark of any manifest; see ``load_benchmark``.

    Args:
        name: of the benchmark.
        options: fields of ``MixingConfig``.

    Raises:
        ConfigError: an option is unknown or out of range.

    Example:
        >>> load("mix", num_mixtures=10).num_items is None
        True
    """
    return mixing(validated(MixingConfig, options, name))


def mixing(config: MixingConfig) -> Benchmark:
    """The benchmark of any manifest; its labels are the SNRs.

    Example:
        >>> mixing(MixingConfig()).lists_labels
        True
    """
    return Benchmark(
        name="mix",
        sample_rate=SAMPLE_RATE,
        num_items=None,
        aggregation=MEAN,
        read=partial(_items, config),
        lists_labels=True,
    )


def _items(config: MixingConfig, manifest: Path) -> list[Item]:
    """All pairs at the first SNR, then all pairs at the next.

    Raises:
        ManifestError: see ``read_manifest``; the clips cannot be mixed; a target has no caption; or
            no sound is surely absent from a mixture.
    """
    clips = read_manifest(manifest, config.split)
    items = []
    for snr_db in config.snr_db:
        mixtures = config.mixtures.model_copy(update={"snr_db": (snr_db, snr_db)})
        planner = Planner(clips, mixtures, config.seed)  # draws the same pairs at any SNR
        for index in range(config.num_mixtures):
            spec = planner.plan(0, index)
            mixed = [clips[source.clip] for source in spec.sources]
            queried = [mixed[0]]
            if config.absent:
                queried.append(_draw_absent(mixed, clips, [config.seed, index]))
            for clip in queried:
                is_absent = clip is not mixed[0]
                items.append(
                    Item(
                        origin=f"{manifest}: mixture {index} at {snr_db:g} dB",
                        caption=required_caption(clip),
                        label=f"{snr_db:+g} dB",
                        target=clip.group,
                        interference=tuple(other.path.name for other in mixed[1:]),
                        files=(),
                        load=partial(_load, spec, clips, mixtures, is_absent),
                        is_absent=is_absent,
                    )
                )
    return items


def _draw_absent(mixed: Sequence[Clip], clips: Sequence[Clip], seed: Sequence[int]) -> Clip:
    """A clip whose class, group and caption differ from those of all mixed clips."""
    labels, groups = {clip.label for clip in mixed}, {clip.group for clip in mixed}
    captions = {caption for clip in mixed for caption in clip.captions}
    candidates = [
        clip
        for clip in clips
        if clip.label not in labels
        and clip.group not in groups
        and clip.caption is not None
        and clip.caption not in captions
    ]
    if not candidates:
        raise ManifestError(
            f"{mixed[0].path}: the manifest has no captioned sound of another class and group, "
            "which could be absent from its mixture"
        )
    return candidates[int(np.random.default_rng(seed).integers(len(candidates)))]


def _load(
    spec: MixtureSpec,
    clips: Sequence[Clip],
    config: MixtureConfig,
    is_absent: bool,
    sample_rate: int,
) -> Signals:
    rendered = render(spec, clips, config, sample_rate)
    target = rendered.sources[0]
    return Signals(rendered.mixture, np.zeros_like(target) if is_absent else target)
