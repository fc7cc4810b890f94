"""Clips, configs and noises that the tests of ``singleout.data`` share."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.data.clips import Clip, Member
from singleout.data.plan import MixtureConfig, MixtureSpec, SourceSpec

RATE = 32_000
SHORT = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35)
PAIRS = SHORT.model_copy(update={"num_sources": (2, 2)})
EFFECT_SHARES = ("gate_share", "reverb_share", "bed_share", "lossy_share")
HARDER = SHORT.model_copy(update=dict.fromkeys(EFFECT_SHARES, 0.5))
HARDEST = SHORT.model_copy(update=dict.fromkeys(EFFECT_SHARES, 1.0))


def noise(num_samples: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def power_db(audio: NDArray[Any]) -> Any:
    return 10 * np.log10(np.square(audio, dtype=np.float64).mean(-1))


def clip_of(number: int, seconds: float = 3.0, label: str = "", group: str = "") -> Clip:
    """A clip without a file."""
    name = f"{number}.wav"
    return Clip(Path(name), seconds, None, (), label or name, group or name, "train")


MANY_CLIPS = [
    clip_of(i, 0.4 + 0.9 * i, f"family {i % 3}/class {i % 9}", f"group {i // 2}") for i in range(27)
]
"""Three families of three classes each; two clips in every group."""


def source_of(clip: int, **changes: Any) -> SourceSpec:
    """The first crop of a clip, at the start of the mixture and without effects."""
    return replace(SourceSpec(clip, 0, (0.0,), 0.0, 1.0, None), **changes)


def spec_of(*sources: SourceSpec) -> MixtureSpec:
    return MixtureSpec(sources, 0.0)


def lag_of(audio: NDArray[Any], other: NDArray[Any]) -> int:
    """By how many samples the second is late."""
    length = 2 * len(audio)
    spectrum = np.fft.rfft(other, length) * np.fft.rfft(audio, length).conj()
    lag = int(np.fft.irfft(spectrum, length).argmax())
    return lag if lag < len(audio) else lag - length


def as_pcm(clips: Sequence[Clip], folder: Path, suffix: str) -> list[Clip]:
    """The same clips in files of 16 bits."""
    copies = [folder / f"{number:09}.{suffix}" for number in range(len(clips))]
    for clip, copy in zip(clips, copies, strict=True):
        audio, rate = soundfile.read(clip.path)
        soundfile.write(copy, audio, rate, subtype="PCM_16")
    return [replace(clip, path=copy) for clip, copy in zip(clips, copies, strict=True)]


def in_shard(clips: Sequence[Clip], shard: Path) -> list[Clip]:
    """The same clips as members of a shard, a new tar."""
    with tarfile.open(shard, "w") as tar:
        for clip in clips:
            tar.add(clip.path, clip.path.name)
    members = []
    with tarfile.open(shard) as tar:
        for clip in clips:
            info, place = soundfile.info(clip.path), tar.getmember(clip.path.name)
            member = Member(str(shard), place.offset_data, place.size, info.samplerate, info.frames)
            members.append(replace(clip, path=shard / clip.path.name, member=member))
    return members
