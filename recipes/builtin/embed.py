"""Train the joint space and embed every training crop with heads that never saw its package.

Command: ``python -m recipes.builtin.embed [--config FILE] [--jobs N] [--space SPACE]``, a step of
``make builtin``.

An audio head places the clips that it was fitted on closer to their captions than the recordings of
users. So the heads that embed the crops of the extractor are cross-fitted: five heads, each trained
without a fifth of the packages and used on that fifth. One fixed text head keeps all of them in one
space.

The alignment (``alignment.py``) is fitted on these embeddings and applied to them. So they are
stored in the space of the extractor's queries, under the fingerprint of the saved encoder.

With ``--space builtin`` the recipe makes no encoder. It takes the text heads and the alignment of
the packaged encoder, and trains only audio heads. So an extractor that is trained on these
embeddings works with the packaged encoder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from recipes.builtin import teachers
from recipes.builtin.alignment import RANK, Split, fit, report
from recipes.builtin.features import TeacherFeatures, teacher_features
from recipes.builtin.heads import (
    Recipe,
    TaggerView,
    Words,
    random_crops,
    read_phrases,
    train_heads,
    view_of,
)
from singleout.config import load_config
from singleout.data.clips import Clip
from singleout.data.embedding_cache import EmbeddingCache
from singleout.data.embeddings import EmbeddingTable, build_table
from singleout.data.manifest import read_manifest
from singleout.data.plan import MixtureConfig, num_crops
from singleout.encoders.builtin import Alignment, BuiltinEncoder, BuiltinNetwork, SideBySide
from singleout.encoders.minilm import for_sentences, tokenize
from singleout.storage.atomic import replacing
from singleout.storage.tensors import write_safetensors
from singleout.train.config import TrainConfig

NUM_FOLDS = 5


def sentence_vectors(sentences: list[str]) -> Tensor:
    """Vectors of MiniLM, [sentences, 384], of unit norm."""
    model, tokenizer = teachers.minilm()
    for_sentences(tokenizer)
    batches = range(0, len(sentences), 64)
    with torch.inference_mode():
        rows = [
            model(*tokenize(tokenizer, sentences[i : i + 64])) for i in track(batches, "captions")
        ]
    return F.normalize(torch.cat(rows), dim=-1).clone()


def words_of(clips: list[Clip], class_names: list[str], cache: Path) -> Words:
    """Sentence vectors of all captions, and of all phrases of the 521 classes.

    Args:
        clips: with their captions.
        class_names: of the tagger, in its order.
        cache: file of the vectors, which is written if it is missing or of other sentences.
    """
    by_class = read_phrases()
    phrases = [by_class[name] for name in class_names]
    captions = {caption for clip in clips for caption in clip.captions}
    sentences = sorted(captions.union(*phrases))
    stored = torch.load(cache, weights_only=True) if cache.exists() else {}
    if stored.get("sentences") != sentences:
        stored = {"sentences": sentences, "vectors": sentence_vectors(sentences)}
        torch.save(stored, cache)
    vectors: Tensor = stored["vectors"]
    index = {sentence: i for i, sentence in enumerate(sentences)}

    def vectors_of(texts: Sequence[str]) -> Tensor:
        return vectors[[index[text] for text in texts]]

    return Words([vectors_of(clip.captions) for clip in clips], list(map(vectors_of, phrases)))


def tagged(
    clips: list[Clip], first: int, features: TeacherFeatures, class_names: list[str]
) -> list[Clip]:
    """Clips without captions, each with the class that the tagger scores highest.

    Two clips of the same class are never mixed. Each class is a family by itself.

    Args:
        clips: without captions.
        first: row of the first clip in ``features``; the others follow.
        features: of all clips.
        class_names: of the tagger, in its order.
    """
    labelled = []
    for row, clip in enumerate(clips, first):
        logits = features.logits[features.offsets[row] : features.offsets[row + 1]]
        name = class_names[int(logits.astype(np.float32).mean(0).argmax())]
        labelled.append(replace(clip, label=name.replace("/", " "), has_class=True))
    return labelled


def write_uncaptioned(clips: list[Clip], path: Path) -> None:
    """Write the manifest of sounds without captions that the extractor's config names."""
    rows = (
        {"path": str(c.path), "seconds": c.seconds, "class": c.label, "group": c.group}
        for c in clips
    )
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fold_of(clips: list[Clip]) -> NDArray[np.int64]:
    """Fold of each clip. A package is in one fold, and clips of one group are in the same fold."""
    packages = sorted({clip.path.parent.name for clip in clips})
    order = np.random.default_rng([0]).permutation(len(packages))
    fold = {packages[p]: i % NUM_FOLDS for i, p in enumerate(order)}
    by_group: dict[str, int] = {}
    for clip in clips:
        by_group.setdefault(clip.group, fold[clip.path.parent.name])
    return np.array([by_group[clip.group] for clip in clips])


def unlabelled_clips(config: TrainConfig) -> list[Clip]:
    """Sounds of ``unlabelled.jsonl`` next to the config's manifest, if the config uses such."""
    if config.uncaptioned is None:
        return []
    assert config.manifest is not None
    return list(read_manifest(config.manifest.with_name("unlabelled.jsonl"), "train"))


def embed_crops(
    clips: list[Clip],
    rows: NDArray[np.int64],
    config: MixtureConfig,
    features: TeacherFeatures,
    view: TaggerView,
    heads: list[SideBySide],
    head_of: NDArray[np.int64],
) -> EmbeddingTable:
    """Embeddings of all crops of some clips.

    Args:
        clips: all clips.
        rows: indices of the clips to embed.
        config: cuts the clips into crops.
        features, view: of all clips.
        heads: of the audio side.
        head_of: for each of ``rows``, the number of its head.
    """

    @torch.inference_mode()
    def embed(clip: int, crop: int) -> Tensor:
        start = crop * config.crop_hop_seconds
        output = features.crop(int(rows[clip]), start, config.segment_seconds)
        embedding: Tensor = heads[head_of[clip]](view(output)[0][None])[0]
        return embedding

    return build_table([clips[i] for i in rows], config, embed)


def keep(
    splits: dict[str, Split], plans: dict[str, MixtureConfig], encoder: BuiltinEncoder, path: Path
) -> None:
    """Write the aligned embeddings of the splits as those of the encoder.

    An older file is replaced at the end.
    """
    alignment = encoder.network.alignment
    assert alignment is not None
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with EmbeddingCache(partial, encoder.fingerprint, encoder.dim) as cache:
        for name, split in splits.items():
            aligned = alignment(split.table.embeddings, alignment.audio_mean)
            table = EmbeddingTable(aligned, split.table.offsets)
            for i, clip in enumerate(track(split.clips, f"storing {name}")):
                for crop in range(num_crops(clip, plans[name])):
                    cache.put(cache.key(clip, crop, plans[name]), table.of(i, crop))
    partial.replace(path)


_shared: list[Any] = []
"""Arguments of ``without_fold``, for forked processes."""


def without_fold(left_out: int) -> SideBySide:
    """Audio heads that have not seen a fold, trained on the data in ``_shared``."""
    clips, crops, words, train, fold, recipe, text = _shared
    return train_heads(clips, crops, words, train[fold != left_out], recipe, text)[0]


def parse_arguments() -> tuple[argparse.Namespace, TrainConfig]:
    """Arguments of the command, and the config that they name."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--space",
        choices=("new", "builtin"),
        default="new",
        help="embed in the space of a new encoder, or of the packaged encoder",
    )
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    if config.uncaptioned is not None:
        assert config.uncaptioned.manifest is not None
        if config.uncaptioned.manifest.parent == config.manifest.parent:
            parser.error(
                f"{config.uncaptioned.manifest}: this folder holds the corpus: name a manifest "
                "in another folder"
            )
    return args, config


def main() -> None:
    """Write features, cross-fitted embeddings, and an encoder whose audio tower is untrained."""
    args, config = parse_arguments()
    assert config.manifest is not None
    assert config.embeddings is not None
    packaged = BuiltinEncoder.from_pretrained() if args.space == "builtin" else None
    work = config.output.parent
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # forked processes would wait for threads that do not exist in them

    captioned = [clip for clip in read_manifest(config.manifest) if clip.split != "test"]
    others = unlabelled_clips(config)
    class_names = teachers.YamNet().class_names
    features = teacher_features(captioned + others, work / "features.npz", args.jobs)
    others = tagged(others, len(captioned), features, class_names)
    if config.uncaptioned is not None:
        assert config.uncaptioned.manifest is not None
        write_uncaptioned(others, config.uncaptioned.manifest)
    clips = captioned + others
    split = np.array([clip.split for clip in clips])
    train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    words = words_of(clips, class_names, work / "captions.pt")
    view = view_of(features, words.names, train)
    crops = random_crops(features.of(range(len(captioned))), view, seed=0)
    recipe = Recipe()
    captioned_train = train[train < len(captioned)]  # without the others: see heads.py
    fixed_text = None if packaged is None else text_heads_of(packaged)
    full, text = train_heads(clips, crops, words, captioned_train, recipe, fixed_text)
    fold = fold_of([clips[i] for i in train])
    _shared[:] = [clips, crops, words, captioned_train, fold[: len(captioned_train)], recipe, text]
    fork = get_context("fork")  # the features are gigabytes, which forked processes share
    with ProcessPoolExecutor(args.jobs, fork) as pool:
        heads = list(pool.map(without_fold, range(NUM_FOLDS)))
    state = {f"head.{k}": v for k, v in full.state_dict().items()}
    state |= {f"view.{k}": v for k, v in view.state_dict().items()}
    write_safetensors(state, work / "teacher.safetensors")

    plans = {"train": config.mixtures, "validation": config.validation.mixtures}
    no_fold = np.zeros(len(validation), int)
    tables = {
        "train": embed_crops(clips, train, plans["train"], features, view, heads, fold),
        "validation": embed_crops(
            clips, validation, plans["validation"], features, view, [full], no_fold
        ),
    }
    splits = {
        name: split_of(clips, rows, tables[name], words, text)
        for name, rows in (("train", train), ("validation", validation))
    }
    encoder = packaged
    if encoder is None:
        report(splits["train"], splits["validation"])
        encoder = untrained_encoder(recipe, text, fit(splits["train"]))
        encoder.save_pretrained(work / "encoder")  # gives the encoder its fingerprint
    keep(splits, plans, encoder, config.embeddings)


@torch.inference_mode()
def split_of(
    clips: list[Clip],
    rows: NDArray[np.int64],
    table: EmbeddingTable,
    words: Words,
    text: SideBySide,
) -> Split:
    """The clips ``rows`` with the embeddings of their crops and of their first captions."""
    captions = torch.cat([words.captions[i][:1] for i in rows])
    return Split([clips[i] for i in rows], table, text(captions).clone())


def text_heads_of(encoder: BuiltinEncoder) -> SideBySide:
    """The text heads of an encoder. Audio heads that are trained with them share their space."""
    heads = encoder.network.text_head
    assert isinstance(heads, SideBySide)
    return heads


def untrained_encoder(recipe: Recipe, text: SideBySide, alignment: Alignment) -> BuiltinEncoder:
    """An encoder with trained text heads and alignment, and a random audio tower."""
    sizes = {
        "dim": recipe.dim,
        "text_hidden": recipe.hidden,
        "text_heads": recipe.members,
        "sentence": {},
        "audio_channels": [32, 64, 128, 256, 448],
        "rank": RANK,
    }
    network = BuiltinNetwork(sizes)
    sentence, tokenizer = teachers.minilm()
    network.sentence.load_state_dict(sentence.state_dict())
    network.text_head.load_state_dict(text.state_dict())
    network.alignment = alignment
    return BuiltinEncoder(network, tokenizer.to_str(), sizes)


if __name__ == "__main__":
    main()
