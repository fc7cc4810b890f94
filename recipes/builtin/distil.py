"""Teach the shipped audio tower to imitate the teachers and their head.

Command: ``python -m recipes.builtin.distil [--config FILE] [--shards N] [--passes N]``, a step of
``make builtin``.

The inputs are random crops of the training sounds. Most crops are plain: the teachers' output for
about the same place is known. The others are mixed, filtered and resampled, and the teachers run on
the very same audio.

There are three targets:

- the embedding of the teacher head, compared in the aligned space of the queries;
- the tagger's logits of 521 classes, predicted by a layer that does not ship: it shapes features;
- the same logits, predicted by the similarity to the words for those classes, as queries use it.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.builtin.embed import unlabelled_clips
from recipes.builtin.features import teacher_features
from recipes.builtin.heads import Recipe, Words, read_phrases
from recipes.builtin.shards import SHARD_CROPS, make_shards
from recipes.builtin.teachers import YamNet
from recipes.builtin.warm_start import V0, packaged
from singleout.config import load_config
from singleout.data.manifest import read_manifest
from singleout.encoders.audio_tower import level
from singleout.encoders.builtin import BuiltinEncoder
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig

BATCH_SIZE = 64
SCALE = 18.0
"""Of cosines, before a softmax."""


class Distillation:
    """Training of the audio tower of an encoder, in place.

    Args:
        encoder: whose ``network.audio`` is trained.
        words: phrases of the 521 classes, as the encoder embeds them.
        num_steps: of the whole training.
        learning_rate: the highest one of the schedule.
    """

    def __init__(
        self, encoder: BuiltinEncoder, words: Words, num_steps: int, learning_rate: float
    ) -> None:
        torch.manual_seed(0)
        self.network, self.words = encoder.network, words
        self.tower = self.network.audio.requires_grad_(True).train()
        self.tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tags = nn.Linear(2 * self.tower.width, 521)
        self.weights = [*self.tower.parameters(), *self.tags.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, learning_rate, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, learning_rate, total_steps=num_steps, pct_start=0.1
        )
        self._temperature = Recipe().names_temperature

    def step(self, wave: Tensor, target: Tensor, logits: Tensor, rng: np.random.Generator) -> float:
        """One training step.

        Args:
            wave: [batch, samples].
            target: embeddings of the teacher head, [batch, dim].
            logits: of the tagger, [batch, 521].
            rng: draws the phrases of the classes.

        Returns:
            Mean cosine between the embeddings of tower and teacher.
        """
        with torch.autocast("cpu", torch.bfloat16):
            features = self.tower.features(level(wave))
            embedding = self.tower.head(features)
            tagged = self.tags(features)
        embedding = self.network.aligned_audio(F.normalize(embedding.float(), dim=-1))
        target = self.network.aligned_audio(target)
        loss = 4 * (1 - (embedding * target).sum(-1)).mean()
        scores = torch.sigmoid(0.5 * logits)
        loss = loss + 20 * F.binary_cross_entropy_with_logits(tagged.float(), scores)
        similarity = embedding @ target.T * SCALE
        of_teacher = (target @ target.T * SCALE).softmax(-1)
        loss = loss + 0.5 * F.cross_entropy(similarity, of_teacher)
        to_classes = embedding @ self.words.drawn(rng).T * SCALE
        shares = (logits / self._temperature).softmax(-1)
        loss = loss + 0.25 * F.cross_entropy(to_classes, shares)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.optimizer.step()
        self.schedule.step()
        return float((embedding.detach() * target).sum(-1).mean())

    def _parts(self) -> dict[str, Any]:
        names = ("tower", "tags", "optimizer", "schedule")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path, done: int) -> None:
        """Write a checkpoint after ``done`` shards."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        with replacing(path) as partial:
            torch.save({**states, "done": done}, partial)

    def load(self, path: Path) -> int:
        """Read a checkpoint; the number of shards that are done."""
        states = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(states[name])
        return int(states["done"])


def distil(
    encoder: BuiltinEncoder,
    shards: list[Path],
    words: Words,
    passes: int,
    learning_rate: float,
    resume: Path,
) -> None:
    """Train ``encoder.network.audio`` in place.

    Args:
        encoder: whose audio tower is trained.
        shards: files of ``make_shards``.
        words: phrases of the 521 classes, as the encoder embeds them.
        passes: over all shards.
        learning_rate: the highest one of the schedule.
        resume: the checkpoint, written after every shard.
    """
    per_shard = SHARD_CROPS // BATCH_SIZE
    num_turns = passes * len(shards)
    training = Distillation(encoder, words, num_turns * per_shard, learning_rate)
    done = training.load(resume) if resume.exists() else 0
    for turn in track(range(done, num_turns), "distilling"):
        rng = np.random.default_rng([1, turn])
        order = np.random.default_rng([2, turn // len(shards)]).permutation(len(shards))
        with np.load(shards[order[turn % len(shards)]]) as shard:
            audio, target, logits = (shard[key] for key in ("audio", "target", "logits"))
        cosines = []
        for rows in rng.permutation(SHARD_CROPS).reshape(per_shard, BATCH_SIZE):
            wave = torch.from_numpy(audio[rows].astype(np.float32) / 32_767)
            # A random cut, so that the second pass over a shard has other inputs.
            cut = int(rng.integers(0, 3_200))
            embedding, scores = (
                torch.from_numpy(x[rows].astype(np.float32)) for x in (target, logits)
            )
            cosines.append(training.step(wave[:, cut:], embedding, scores, rng))
        print(f"shard {turn + 1}/{num_turns}: cosine {np.mean(cosines):.3f}", flush=True)
        training.save(resume, turn + 1)
    encoder.network.audio.eval().requires_grad_(False)


def start_from(encoder: BuiltinEncoder, other: BuiltinEncoder) -> None:
    """Copy the weights of another tower, without its last layer, which maps to another space."""
    state = encoder.network.audio.state_dict()
    last = f"head.{len(encoder.network.audio.head) - 1}."
    weights = other.network.audio.state_dict()
    state.update({key: value for key, value in weights.items() if not key.startswith(last)})
    encoder.network.audio.load_state_dict(state)


def track_phrases() -> Iterable[list[str]]:
    """Phrases of each class, in the tagger's order, with a progress bar."""
    phrases = read_phrases()
    return track([phrases[name] for name in YamNet().class_names], "phrases")


def main() -> None:
    """Make the shards, train the tower, and save the finished encoder into the package."""
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
    # The key changes with the teacher and the sounds, so that no files of others are used.
    names = "\n".join(str(clip.path) for clip in clips)
    key = hashlib.sha256(teacher.read_bytes() + names.encode()).hexdigest()[:12]
    shards = make_shards(
        clips, features, teacher, work / f"shards-{key}", args.shards, args.jobs, seed=0
    )
    encoder = BuiltinEncoder.from_pretrained(work / "encoder")
    if config.init is not None:  # the run continues from an earlier model
        start_from(encoder, BuiltinEncoder.from_pretrained(packaged(V0, work) / "encoder"))
    phrases = [encoder.embed_text(texts).clone() for texts in track_phrases()]
    distil(encoder, shards, Words([], phrases), args.passes, 2e-3, work / f"distil-{key}.pt")
    encoder.save_pretrained(args.output)
    print(f"saved {args.output}, fingerprint {encoder.fingerprint}")


if __name__ == "__main__":
    main()
