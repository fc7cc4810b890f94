"""The tagger's view of every sound: patch embeddings and logits, computed once and kept."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.progress import track

from recipes.builtin.teachers import YAMNET_HOP_FRAMES, YAMNET_RATE_HZ, YamNet
from singleout.audio import resample
from singleout.data.manifest import Clip

PATCH_HOP_SECONDS = YAMNET_HOP_FRAMES / 100

_teacher: YamNet | None = None


@dataclass(frozen=True)
class TaggerFeatures:
    """Patches of all clips, one after the other.

    Attributes:
        embeddings: float16 [patches, 1024].
        logits: float16 [patches, 521].
        offsets: [clips + 1], where each clip's patches start.
    """

    embeddings: NDArray[np.float16]
    logits: NDArray[np.float16]
    offsets: NDArray[np.int64]

    def crop(self, clip: int, start_seconds: float, seconds: float) -> slice:
        """The patches of a clip that begin in a crop; at least one."""
        first, last = self.offsets[clip], self.offsets[clip + 1]
        begin = min(first + round(start_seconds / PATCH_HOP_SECONDS), last - 1)
        count = max(1, int((seconds - 0.9) / PATCH_HOP_SECONDS) + 1)
        return slice(int(begin), int(min(last, begin + count)))


def _tag(path: Path) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    global _teacher
    if _teacher is None:
        import torch

        torch.set_num_threads(1)
        _teacher = YamNet()
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    embeddings, logits = _teacher(resample(audio.mean(1), rate, YAMNET_RATE_HZ))
    return embeddings.astype(np.float16), logits.astype(np.float16)


def tagger_features(clips: list[Clip], cache: Path, jobs: int = 2) -> TaggerFeatures:
    """Tag every clip, or read ``cache`` when it was made from the same list of clips."""
    names = np.array([str(clip.path) for clip in clips])
    if cache.exists():
        stored = np.load(cache)
        if np.array_equal(stored["names"], names):
            return TaggerFeatures(stored["embeddings"], stored["logits"], stored["offsets"])
    paths = [clip.path for clip in clips]
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(_tag, paths, chunksize=16)
        rows = list(track(results, "tagging", total=len(clips)))
    embeddings = np.concatenate([row[0] for row in rows])
    logits = np.concatenate([row[1] for row in rows])
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)])
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, names=names, embeddings=embeddings, logits=logits, offsets=offsets)
    return TaggerFeatures(embeddings, logits, offsets)
