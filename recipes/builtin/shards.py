"""Training examples of the audio tower: crops of sounds with the outputs of the teachers.

``recipes.builtin.distil`` makes them, in files of ``SHARD_CROPS`` crops.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track

from recipes.builtin.features import (
    PATCH_HOP_SECONDS,
    PATCH_SECONDS,
    TeacherFeatures,
    TeacherOutput,
    Teachers,
)
from recipes.builtin.heads import Recipe, TaggerHead, TaggerView
from singleout.data.clips import Clip
from singleout.data.effects import low_pass
from singleout.encoders.audio_tower import SAMPLE_RATE
from singleout.encoders.builtin import SideBySide

CROP_SECONDS = 2.3
"""Length of one block of the sound effects network."""
SHARD_CROPS = 4_096
PLAIN_SHARE = 0.7


def load_teacher(path: Path) -> tuple[TaggerView, SideBySide]:
    """The view and the head that ``embed.py`` saved."""
    tensors = safetensors.torch.load_file(path)
    parts = {
        prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in ("head.", "view.")
    }
    view = TaggerView(*(parts["view."][name] for name in ("names", "mean", "std")))
    recipe = Recipe()
    sizes = recipe.hidden, recipe.dim, True, recipe.mlp_weight
    head = SideBySide([TaggerHead(*sizes) for _ in range(recipe.members)])
    head.load_state_dict(parts["head."])
    return view, head.eval()


def _read(clip: Clip, rng: np.random.Generator, start: int | None = None) -> NDArray[np.float32]:
    """A crop, by default a random one; a shorter clip is placed at random in it."""
    length = round(CROP_SECONDS * SAMPLE_RATE)
    with soundfile.SoundFile(clip.path) as file:
        if start is None:
            start = int(rng.integers(0, max(1, file.frames - length + 1)))
        file.seek(min(start, file.frames))
        audio = file.read(length, dtype="float32", always_2d=True).mean(1)
    placed = np.zeros(length, np.float32)
    onset = int(rng.integers(0, length - len(audio) + 1)) if rng.random() < 0.5 else 0
    placed[onset : onset + len(audio)] = audio
    return placed


def draw(
    clips: list[Clip], weight: NDArray[np.float64], seed: int, index: int
) -> NDArray[np.float32]:
    """Crop number ``index`` with random changes: a second sound, a filter, speed and level.

    Args:
        clips: the sounds.
        weight: see ``sampling_weight``.
        seed: of all crops.
        index: number of the crop.
    """
    rng = np.random.default_rng([seed, index])
    audio = _read(clips[int(np.searchsorted(weight, rng.random()))], rng)
    if rng.random() < 0.35:
        other = _read(clips[int(np.searchsorted(weight, rng.random()))], rng)
        power = np.sqrt(np.square(audio).mean() / max(float(np.square(other).mean()), 1e-9))
        audio = audio + np.float32(power * 10 ** (-rng.uniform(0, 20) / 20)) * other
    if rng.random() < 0.5:
        speed = rng.uniform(0.8, 1.25)
        audio = np.interp(np.arange(0, len(audio), speed), np.arange(len(audio)), audio)
        audio = np.resize(audio.astype(np.float32), round(CROP_SECONDS * SAMPLE_RATE))
    if rng.random() < 0.3:
        audio = low_pass(audio, float(np.exp(rng.uniform(*np.log([1_500, 12_000])))), SAMPLE_RATE)
    return _levelled(audio, rng)


def _levelled(audio: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    peak = np.abs(audio).max()
    scaled: NDArray[np.float32] = audio * (rng.uniform(0.3, 0.95) / max(peak, 1e-4))
    return scaled.astype(np.float32)


def plain(
    clips: list[Clip],
    features: TeacherFeatures,
    weight: NDArray[np.float64],
    seed: int,
    index: int,
) -> tuple[NDArray[np.float32], TeacherOutput] | None:
    """Plain crop number ``index`` with the teachers' output; None if ``draw`` makes this crop.

    Args:
        clips: the sounds.
        features: of the same clips.
        weight: see ``sampling_weight``.
        seed: of all crops.
        index: number of the crop.
    """
    rng = np.random.default_rng([seed, index, 1])
    if rng.random() >= PLAIN_SHARE:
        return None
    row = int(np.searchsorted(weight, rng.random()))
    beyond = features.num_patches(row) - round((CROP_SECONDS - PATCH_SECONDS) / PATCH_HOP_SECONDS)
    patch = int(rng.integers(max(1, beyond)))
    start = round(patch * PATCH_HOP_SECONDS * SAMPLE_RATE)
    output = features.crop(row, patch * PATCH_HOP_SECONDS, CROP_SECONDS)
    return _levelled(_read(clips[row], rng, start), rng), output


class _Worker(NamedTuple):
    """What a process needs to make examples."""

    clips: list[Clip]
    features: TeacherFeatures
    weight: NDArray[np.float64]
    view: TaggerView
    head: SideBySide
    teachers: Teachers
    seed: int


_worker: _Worker | None = None


def _start_worker(
    clips: list[Clip],
    features: TeacherFeatures,
    weight: NDArray[np.float64],
    teacher: Path,
    seed: int,
) -> None:
    global _worker
    torch.set_num_threads(1)
    view, head = load_teacher(teacher)
    _worker = _Worker(clips, features, weight, view, head, Teachers(), seed)


@torch.inference_mode()
def _example(index: int) -> tuple[NDArray[np.int16], NDArray[np.float16], NDArray[np.float16]]:
    """Audio, embedding of the teacher head and the tagger's mean logits of a crop."""
    worker = _worker
    assert worker is not None
    known = plain(worker.clips, worker.features, worker.weight, worker.seed, index)
    if known is None:
        audio = draw(worker.clips, worker.weight, worker.seed, index)
        output = worker.teachers(audio, SAMPLE_RATE)
    else:
        audio, output = known
    features, mean = worker.view(output)
    target = worker.head(features[None])[0]
    return (
        (audio * 32_767).astype(np.int16),
        target.numpy().astype(np.float16),
        mean.numpy().astype(np.float16),
    )


def sampling_weight(clips: list[Clip]) -> NDArray[np.float64]:
    """Cumulative probabilities of the clips: those of rare classes are drawn more often.

    An unlabelled clip is a class by itself.
    """
    labels = [clip.label for clip in clips]
    _, inverse, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = count[inverse] ** -0.5
    return np.cumsum(weight / weight.sum())


def make_shards(
    clips: list[Clip],
    features: TeacherFeatures,
    teacher: Path,
    folder: Path,
    count: int,
    jobs: int,
    seed: int,
) -> list[Path]:
    """Write ``count`` shards of crops with the teachers' targets; existing shards are kept.

    Args:
        clips, features: the sounds and their features.
        teacher: file of the teacher head.
        folder: of the shards.
        count: number of shards.
        jobs: number of processes.
        seed: of the crops.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.npz" for i in range(count)]
    arguments = (clips, features, sampling_weight(clips), teacher, seed)
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    with ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=arguments) as pool:
        for i in track(missing, "teacher"):
            indices = range(i * SHARD_CROPS, (i + 1) * SHARD_CROPS)
            rows = list(pool.map(_example, indices, chunksize=64))
            audio, target, logits = (np.stack(column) for column in zip(*rows, strict=True))
            partial = paths[i].with_suffix(".partial.npz")
            np.savez(partial, audio=audio, target=target, logits=logits)
            partial.replace(paths[i])
    return paths
