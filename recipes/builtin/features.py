"""The outputs of the teachers for every sound, computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from recipes.builtin.teachers import (
    EFFECTS_BLOCK_FRAMES,
    EFFECTS_HOP,
    EFFECTS_RATE_HZ,
    YAMNET_HOP_FRAMES,
    YAMNET_RATE_HZ,
    SoundEffects,
    YamNet,
)
from singleout.audio import resample
from singleout.data.clips import Clip
from singleout.storage.atomic import replacing

PATCH_HOP_SECONDS = YAMNET_HOP_FRAMES / 100
PATCH_SECONDS = 0.96
BLOCK_SECONDS = EFFECTS_BLOCK_FRAMES * EFFECTS_HOP / EFFECTS_RATE_HZ


class TeacherOutput(NamedTuple):
    """Output of the teachers for one stretch of sound, float32.

    Attributes:
        embeddings: [patches, 1024] of the tagger.
        logits: [patches, 521] of the tagger.
        effects: [blocks, 512] of the sound effects network; [blocks, 0] where it was not run.
    """

    embeddings: Tensor
    logits: Tensor
    effects: Tensor


class Teachers:
    """The teachers of the audio side.

    Args:
        effects: whether the sound effects network is loaded, too.
    """

    def __init__(self, effects: bool = True) -> None:
        self.tagger = YamNet()
        self._effects = SoundEffects() if effects else None

    def __call__(self, audio: NDArray[np.float32], rate_hz: int) -> TeacherOutput:
        """The output for mono ``audio`` [samples] at ``rate_hz``."""
        embeddings, logits = self.tagger(resample(audio, rate_hz, YAMNET_RATE_HZ))
        effects = np.zeros((1, 0), np.float32)
        if self._effects is not None:
            effects = self._effects(resample(audio, rate_hz, EFFECTS_RATE_HZ))
        return TeacherOutput(*(torch.from_numpy(part) for part in (embeddings, logits, effects)))


@dataclass(frozen=True)
class TeacherFeatures:
    """Outputs of the teachers for all clips, one clip after the other.

    Attributes:
        embeddings: float16 [patches, 1024].
        logits: float16 [patches, 521].
        offsets: [clips + 1], where each clip's patches start.
        effects: float16 [blocks, 512], or [blocks, 0].
        effect_offsets: [clips + 1], where each clip's blocks start.
    """

    embeddings: NDArray[np.float16]
    logits: NDArray[np.float16]
    offsets: NDArray[np.int64]
    effects: NDArray[np.float16]
    effect_offsets: NDArray[np.int64]

    def of(self, clips: Sequence[int]) -> TeacherFeatures:
        """The features of some of the clips, in the given order."""
        parts = []
        for values, offsets in (
            (self.embeddings, self.offsets),
            (self.logits, self.offsets),
            (self.effects, self.effect_offsets),
        ):
            some = [values[offsets[i] : offsets[i + 1]] for i in clips]
            parts.append((np.concatenate(some), np.cumsum([0, *map(len, some)])))
        (embeddings, offsets), (logits, _), (effects, effect_offsets) = parts
        return TeacherFeatures(embeddings, logits, offsets, effects, effect_offsets)

    def num_patches(self, clip: int) -> int:
        """Number of patches of a clip, at least one."""
        return int(self.offsets[clip + 1] - self.offsets[clip])

    def stretch(self, clip: int, first: int = 0, count: int | None = None) -> TeacherOutput:
        """Patches ``first`` to ``first + count`` of a clip (all by default) with their blocks.

        The blocks are those whose middle lies within the patches, or else the nearest block.
        """
        count = self.num_patches(clip) - first if count is None else count
        start = int(self.offsets[clip]) + first
        begin, end = (int(x) for x in self.effect_offsets[clip : clip + 2])
        from_s = first * PATCH_HOP_SECONDS
        to_s = (first + count - 1) * PATCH_HOP_SECONDS + PATCH_SECONDS
        middles = (np.arange(end - begin) + 0.5) * BLOCK_SECONDS
        inside = np.flatnonzero((middles >= from_s) & (middles < to_s))
        if not len(inside):
            inside = np.abs(middles - (from_s + to_s) / 2).argmin()[None]
        patches = slice(start, start + count)
        return TeacherOutput(
            torch.from_numpy(self.embeddings[patches]).float(),
            torch.from_numpy(self.logits[patches]).float(),
            torch.from_numpy(self.effects[begin + inside]).float(),
        )

    def crop(self, clip: int, start_seconds: float, seconds: float) -> TeacherOutput:
        """The patches that begin within a crop, at least one, with their blocks."""
        last = self.num_patches(clip) - 1
        first = min(round(start_seconds / PATCH_HOP_SECONDS), last)
        count = max(1, int((seconds - 0.9) / PATCH_HOP_SECONDS) + 1)
        return self.stretch(clip, first, min(last + 1 - first, count))


_teachers: Teachers | None = None


def _start_worker(effects: bool) -> None:
    global _teachers
    torch.set_num_threads(1)
    _teachers = Teachers(effects)


def _output_of(path: Path) -> tuple[NDArray[np.float16], ...]:
    assert _teachers is not None
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return tuple(part.numpy().astype(np.float16) for part in _teachers(audio.mean(1), rate))


def teacher_features(
    clips: list[Clip], cache: Path, jobs: int = 2, effects: bool = True
) -> TeacherFeatures:
    """Run the teachers on every clip, or read ``cache`` if it was made from the same clips.

    Args:
        clips: the sounds.
        cache: file of the features.
        jobs: number of processes.
        effects: whether the sound effects network runs, too.
    """
    names = np.array([str(clip.path) for clip in clips])
    fields = tuple(TeacherFeatures.__dataclass_fields__)
    if cache.exists():
        stored = np.load(cache)
        is_whole = set(fields) < set(stored) and bool(stored["effects"].shape[1]) == effects
        if is_whole and np.array_equal(stored["names"], names):
            return TeacherFeatures(*(stored[field] for field in fields))
    paths = [clip.path for clip in clips]
    Teachers(effects)  # downloads the teachers, before the processes need them
    with ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=(effects,)) as pool:
        results = pool.map(_output_of, paths, chunksize=16)
        rows = list(track(results, "teachers", total=len(clips)))
    embeddings, logits, blocks = (np.concatenate(column) for column in zip(*rows, strict=True))
    offsets, effect_offsets = (np.cumsum([0, *(len(row[part]) for row in rows)]) for part in (0, 2))
    features = TeacherFeatures(embeddings, logits, offsets, blocks, effect_offsets)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cache) as partial, partial.open("wb") as file:
        np.savez(file, names=names, **{field: getattr(features, field) for field in fields})
    return features
