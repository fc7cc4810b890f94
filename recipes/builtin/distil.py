"""Teach the shipped audio tower to imitate the teachers and their head.

The tower hears random crops of the training sounds: most of them as they are, of which the
teachers' view of about that place is known; the others mixed, filtered and at another speed, and
then the teachers hear the very same audio. Targets: the teacher head's embedding, compared in the
aligned space in which queries meet, and the tagger's logits over 521 classes, once by a layer of
their own, only to shape the features, and once by the words for those classes: what a sound lies
near to among all that may be said of it is what queries ask.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import safetensors.torch
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from recipes.builtin.embed import unlabelled_clips
from recipes.builtin.features import (
    PATCH_HOP_SECONDS,
    PATCH_SECONDS,
    Heard,
    TeacherFeatures,
    Teachers,
    teacher_features,
)
from recipes.builtin.heads import Recipe, TaggerHead, TaggerView, Words, read_phrases
from recipes.builtin.teachers import YamNet
from recipes.builtin.warm_start import V0, packaged
from singleout.config import load_config
from singleout.data.effects import low_pass
from singleout.data.manifest import Clip, read_manifest
from singleout.encoders.audio_tower import SAMPLE_RATE, level
from singleout.encoders.builtin import BuiltinEncoder, SideBySide
from singleout.train.config import TrainConfig

CROP_SECONDS = 2.3
"""One block of the sound effects network."""
SHARD_CROPS = 4_096
PLAIN_SHARE = 0.7

_state: dict[str, object] = {}


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
    """A crop, by default a random one, placed at random where the clip is shorter."""
    wanted = round(CROP_SECONDS * SAMPLE_RATE)
    with soundfile.SoundFile(clip.path) as file:
        if start is None:
            start = int(rng.integers(0, max(1, file.frames - wanted + 1)))
        file.seek(min(start, file.frames))
        audio = file.read(wanted, dtype="float32", always_2d=True).mean(1)
    placed = np.zeros(wanted, np.float32)
    onset = int(rng.integers(0, wanted - len(audio) + 1)) if rng.random() < 0.5 else 0
    placed[onset : onset + len(audio)] = audio
    return placed


def draw(
    clips: list[Clip], weight: NDArray[np.float64], seed: int, index: int
) -> NDArray[np.float32]:
    """Crop number ``index``: one sound, or two mixed; filtered, at another speed and level."""
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
    return (audio * (rng.uniform(0.3, 0.95) / max(peak, 1e-4))).astype(np.float32)


def plain(
    clips: list[Clip],
    features: TeacherFeatures,
    weight: NDArray[np.float64],
    seed: int,
    index: int,
) -> tuple[NDArray[np.float32], Heard] | None:
    """Crop number ``index`` as it is, with what the teachers heard; None where the number is one of
    those that ``draw`` alters.

    Args:
        features: of the same clips.
    """
    rng = np.random.default_rng([seed, index, 1])
    if rng.random() >= PLAIN_SHARE:
        return None
    row = int(np.searchsorted(weight, rng.random()))
    beyond = features.num_patches(row) - round((CROP_SECONDS - PATCH_SECONDS) / PATCH_HOP_SECONDS)
    patch = int(rng.integers(max(1, beyond)))
    start = round(patch * PATCH_HOP_SECONDS * SAMPLE_RATE)
    heard = features.crop(row, patch * PATCH_HOP_SECONDS, CROP_SECONDS)
    return _levelled(_read(clips[row], rng, start), rng), heard


def _start_worker(
    clips: list[Clip],
    features: TeacherFeatures,
    weight: NDArray[np.float64],
    teacher: Path,
    seed: int,
) -> None:
    torch.set_num_threads(1)
    view, head = load_teacher(teacher)
    _state.update(features=features)
    _state.update(clips=clips, weight=weight, view=view, head=head, hear=Teachers(), seed=seed)


@torch.inference_mode()
def _example(index: int) -> tuple[NDArray[np.int16], NDArray[np.float16], NDArray[np.float16]]:
    clips, features, weight, seed = (_state[k] for k in ("clips", "features", "weight", "seed"))
    known = plain(clips, features, weight, seed, index)  # type: ignore[arg-type]
    if known is None:
        audio = draw(clips, weight, seed, index)  # type: ignore[arg-type]
        heard = _state["hear"](audio, SAMPLE_RATE)  # type: ignore[operator]
    else:
        audio, heard = known
    features, mean = _state["view"](heard)  # type: ignore[operator]
    target = _state["head"](features[None])[0]  # type: ignore[operator]
    return (
        (audio * 32_767).astype(np.int16),
        target.numpy().astype(np.float16),
        mean.numpy().astype(np.float16),
    )


def sampling_weight(clips: list[Clip]) -> NDArray[np.float64]:
    """Cumulative probabilities that favour rare classes; an unlabelled clip is a class alone."""
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
    """Audio with the teacher's answers, ``count`` shards; those that exist are kept."""
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


def distil(
    encoder: BuiltinEncoder,
    shards: list[Path],
    words: Words,
    passes: int,
    learning_rate: float,
    resume: Path,
) -> None:
    """Train ``encoder.network.audio`` in place; a checkpoint is kept after every shard.

    Args:
        words: the phrases for the 521 classes, as the encoder embeds them.
    """
    torch.manual_seed(0)
    recipe = Recipe()
    network = encoder.network
    tower = network.audio.requires_grad_(True).train()
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tags = nn.Linear(2 * tower.width, 521)
    weights = [*tower.parameters(), *tags.parameters()]
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.05)
    batch = 64
    per_shard = SHARD_CROPS // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=passes * len(shards) * per_shard, pct_start=0.1
    )
    done = 0
    if resume.exists():
        state = torch.load(resume, weights_only=True)
        tower.load_state_dict(state["tower"])
        tags.load_state_dict(state["tags"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["done"]
    for turn in track(range(done, passes * len(shards)), "distilling"):
        rng = np.random.default_rng([1, turn])
        order = np.random.default_rng([2, turn // len(shards)]).permutation(len(shards))
        with np.load(shards[order[turn % len(shards)]]) as shard:
            audio, target, logits = (shard[key] for key in ("audio", "target", "logits"))
        cosines = []
        for rows in rng.permutation(SHARD_CROPS).reshape(per_shard, batch):
            wave = torch.from_numpy(audio[rows].astype(np.float32) / 32_767)
            # A random cut, so that a shard's second pass is not the same input again.
            cut = int(rng.integers(0, 3_200))
            with torch.autocast("cpu", torch.bfloat16):
                features = tower.features(level(wave[:, cut:]))
                embedding = tower.head(features)
                tagged = tags(features)
            embedding = network.aligned_audio(F.normalize(embedding.float(), dim=-1))
            wanted = network.aligned_audio(torch.from_numpy(target[rows].astype(np.float32)))
            opinion = torch.sigmoid(0.5 * torch.from_numpy(logits[rows].astype(np.float32)))
            loss = 4 * (1 - (embedding * wanted).sum(-1)).mean()
            loss = loss + 20 * F.binary_cross_entropy_with_logits(tagged.float(), opinion)
            scale = 18.0
            similarity = embedding @ wanted.T * scale
            loss = loss + 0.5 * F.cross_entropy(similarity, (wanted @ wanted.T * scale).softmax(-1))
            said = embedding @ words.drawn(rng).T * scale
            heard = torch.from_numpy(logits[rows].astype(np.float32)) / recipe.names_temperature
            loss = loss + 0.25 * F.cross_entropy(said, heard.softmax(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
            schedule.step()
            cosines.append(float((embedding.detach() * wanted).sum(-1).mean()))
        print(f"shard {turn + 1}/{passes * len(shards)}: cosine {np.mean(cosines):.3f}", flush=True)
        partial = resume.with_suffix(".partial")
        torch.save(
            {
                "tower": tower.state_dict(),
                "tags": tags.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "done": turn + 1,
            },
            partial,
        )
        partial.replace(resume)
    tower.eval().requires_grad_(False)


def start_from(encoder: BuiltinEncoder, other: BuiltinEncoder) -> None:
    """Give the tower the weights of another one, all but the last layer, which is of its space."""
    state = encoder.network.audio.state_dict()
    last = f"head.{len(encoder.network.audio.head) - 1}."
    theirs = other.network.audio.state_dict()
    state.update({key: value for key, value in theirs.items() if not key.startswith(last)})
    encoder.network.audio.load_state_dict(state)


def track_phrases() -> Iterable[list[str]]:
    """All that each class is called, in the tagger's order."""
    phrases = read_phrases()
    return track([phrases[name] for name in YamNet().class_names], "phrases")


def main() -> None:
    """Make the shards, distil, save the finished encoder into the package."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("src/singleout/builtin/encoder"))
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    work = config.output.parent
    torch.set_num_threads(args.jobs)
    clips = [clip for clip in read_manifest(config.manifest) if clip.split != "test"]
    clips += unlabelled_clips(config)
    features = teacher_features(clips, work / "features.npz", args.jobs)
    rows = [i for i, clip in enumerate(clips) if clip.split == "train"]
    clips, features = [clips[i] for i in rows], features.of(rows)
    teacher = work / "teacher.safetensors"
    # Of another teacher, or of other sounds, nothing is taken over.
    names = "\n".join(str(clip.path) for clip in clips)
    key = hashlib.sha256(teacher.read_bytes() + names.encode()).hexdigest()[:12]
    shards = make_shards(
        clips, features, teacher, work / f"shards-{key}", args.shards, args.jobs, seed=0
    )
    encoder = BuiltinEncoder.from_pretrained(work / "encoder")
    if config.init is not None:  # the run goes on from an earlier model
        start_from(encoder, BuiltinEncoder.from_pretrained(packaged(V0, work) / "encoder"))
    said = [encoder.embed_text(texts).clone() for texts in track_phrases()]
    distil(encoder, shards, Words([], said), args.passes, 2e-3, work / f"distil-{key}.pt")
    encoder.save_pretrained(args.output)
    print(f"saved {args.output}, fingerprint {encoder.fingerprint}")


if __name__ == "__main__":
    main()
