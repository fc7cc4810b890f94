"""Mixtures of any manifest at stated SNRs, and queries for what is not in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from singleout.config import StrictConfig
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import SCORED_MIXTURES, MixtureConfig, MixtureSpec, Planner
from singleout.data.render import render
from singleout.errors import ManifestError
from singleout.evaluate.benchmarks.aggregation import MEAN
from singleout.evaluate.benchmarks.protocol import Item, Protocol, Signals

SAMPLE_RATE = 32_000


class MixingConfig(StrictConfig):
    """Which mixtures.

    Args:
        split: of the manifest.
        snr_db: levels of the target over the other sound, mean power over the segment; each
            mixture is made at each of them.
        num_mixtures: how many pairs of sounds.
        seed: of the pairs; the same seed and manifest give the same mixtures.
        absent: also ask every mixture for a sound that is not in it: of neither's class or group.
        mixtures: how they are drawn, all but their SNR; the first sound of each is the target.
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


def mixing(config: MixingConfig) -> Protocol:
    """The protocol of a manifest; its labels are the SNRs."""
    return Protocol(
        name="mix",
        sample_rate=SAMPLE_RATE,
        num_items=None,
        aggregation=MEAN,
        read=partial(_items, config),
        lists_labels=True,
    )


def _items(config: MixingConfig, manifest: Path) -> list[Item]:
    """Pair by pair, each at all SNRs.

    Raises:
        ManifestError: see `read_manifest`; the clips hold no mixture; a target has no caption; or
            all captions could describe a sound of a mixture.
    """
    clips = read_manifest(manifest, config.split)
    items = []
    for snr_db in config.snr_db:
        mixtures = config.mixtures.model_copy(update={"snr_db": (snr_db, snr_db)})
        planner = Planner(clips, mixtures, config.seed)  # draws the same pairs at any SNR
        for index in range(config.num_mixtures):
            spec = planner.plan(0, index)
            target, *others = (clips[source.clip] for source in spec.sources)
            asked = [target]
            if config.absent:
                asked.append(_not_in([target, *others], clips, [config.seed, index]))
            for clip in asked:
                if clip.caption is None:
                    raise ManifestError(f"{clip.path}: has no caption to be asked for by text")
                is_absent = clip is not target
                items.append(
                    Item(
                        origin=f"{manifest}: mixture {index} at {snr_db:g} dB",
                        caption=clip.caption,
                        label=f"{snr_db:+g} dB",
                        target=clip.group,
                        interference=tuple(other.path.name for other in others),
                        files=(),
                        load=partial(_load, spec, clips, mixtures, is_absent),
                        is_absent=is_absent,
                    )
                )
    return items


def _not_in(mixed: Sequence[Clip], clips: Sequence[Clip], seed: Sequence[int]) -> Clip:
    labels, groups = {clip.label for clip in mixed}, {clip.group for clip in mixed}
    captions = {caption for clip in mixed for caption in clip.captions}
    others = [
        clip
        for clip in clips
        if clip.label not in labels
        and clip.group not in groups
        and clip.caption is not None
        and clip.caption not in captions
    ]
    if not others:
        raise ManifestError(
            f"{mixed[0].path}: no captioned sound of another class and group can be asked for "
            "that is not in its mixture"
        )
    return others[int(np.random.default_rng(seed).integers(len(others)))]


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
