"""Train the joint space and embed every training crop with heads that never saw its package.

An audio head fitted on the very clips that the extractor trains on places them closer to their
captions than it places anybody's own recordings. So the heads
whose embeddings condition the extractor are cross-fitted: five heads, each trained without a fifth
of the packages and used on that fifth, all against one fixed text head, hence in one space.

The alignment (``alignment.py``) is fitted on these embeddings and applied to them: what is kept is
in the space in which the extractor is queried, under the fingerprint of the encoder saved here.

With ``--space builtin`` no encoder is made: the text head and the alignment are those of the
encoder in the package, and audio heads alone are trained, so that an extractor trained on these
embeddings takes the place of the one that ships.
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
from singleout.audio import replacing
from singleout.config import load_config
from singleout.data.embeddings import EmbeddingCache, EmbeddingTable, build_table
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import MixtureConfig, num_crops
from singleout.query.builtin import BuiltinEncoder, BuiltinNetwork, SideBySide
from singleout.query.minilm import for_sentences, tokenize
from singleout.train.config import TrainConfig
from singleout.weights import write_safetensors

NUM_FOLDS = 5


def sentence_vectors(sentences: list[str]) -> Tensor:
    """MiniLM's unit vectors, [sentences, 384]."""
    model, tokenizer = teachers.minilm()
    for_sentences(tokenizer)
    batches = range(0, len(sentences), 64)
    with torch.inference_mode():
        rows = [
            model(*tokenize(tokenizer, sentences[i : i + 64])) for i in track(batches, "captions")
        ]
    return F.normalize(torch.cat(rows), dim=-1).clone()


def words_of(clips: list[Clip], class_names: list[str], cache: Path) -> Words:
    """Sentence vectors of all captions, and of all phrases of the 521 classes."""
    phrases = read_phrases()
    said = [phrases[name] for name in class_names]
    captions = {caption for clip in clips for caption in clip.captions}
    sentences = sorted(captions.union(*said))
    stored = torch.load(cache, weights_only=True) if cache.exists() else {}
    if stored.get("sentences") != sentences:
        stored = {"sentences": sentences, "vectors": sentence_vectors(sentences)}
        torch.save(stored, cache)
    vectors = stored["vectors"]
    index = {sentence: i for i, sentence in enumerate(sentences)}

    def of(texts: Sequence[str]) -> Tensor:
        return vectors[[index[text] for text in texts]]  # type: ignore[no-any-return]

    return Words([of(clip.captions) for clip in clips], [of(texts) for texts in said])


def tagged(
    clips: list[Clip], first: int, features: TeacherFeatures, class_names: list[str]
) -> list[Clip]:
    """Clips without captions, row ``first`` on of the features, in the class that the tagger hears
    most: two that it hears alike are never mixed. Each class is a family alone."""
    found = []
    for row, clip in enumerate(clips, first):
        logits = features.logits[features.offsets[row] : features.offsets[row + 1]]
        name = class_names[int(logits.astype(np.float32).mean(0).argmax())]
        found.append(replace(clip, label=name.replace("/", " "), has_class=True))
    return found


def write_uncaptioned(clips: list[Clip], path: Path) -> None:
    """The manifest that the extractor's config names."""
    rows = (
        {"path": str(c.path), "seconds": c.seconds, "class": c.label, "group": c.group}
        for c in clips
    )
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fold_of(clips: list[Clip]) -> NDArray[np.int64]:
    """Fold of each clip: packages are dealt out, and a shared group ties packages together."""
    packages = sorted({clip.path.parent.name for clip in clips})
    order = np.random.default_rng([0]).permutation(len(packages))
    fold = {packages[p]: i % NUM_FOLDS for i, p in enumerate(order)}
    by_group: dict[str, int] = {}
    for clip in clips:
        by_group.setdefault(clip.group, fold[clip.path.parent.name])
    return np.array([by_group[clip.group] for clip in clips])


def unlabelled_clips(config: TrainConfig) -> list[Clip]:
    """The sounds without captions beside the config's manifest, if it trains on such."""
    if config.uncaptioned is None:
        return []
    assert config.manifest is not None
    return read_manifest(config.manifest.with_name("unlabelled.jsonl"), "train")


def embed_crops(
    clips: list[Clip],
    rows: NDArray[np.int64],
    config: MixtureConfig,
    features: TeacherFeatures,
    view: TaggerView,
    heads: list[SideBySide],
    head_of: NDArray[np.int64],
) -> EmbeddingTable:
    """The table of the clips ``rows``, clip i embedded by ``heads[head_of[i]]``."""

    @torch.inference_mode()
    def embed(clip: int, crop: int) -> Tensor:
        start = crop * config.crop_hop_seconds
        found = features.crop(int(rows[clip]), start, config.segment_seconds)
        return heads[head_of[clip]](view(found)[0][None])[0]

    return build_table([clips[i] for i in rows], config, embed)


def keep(
    splits: dict[str, Split], plans: dict[str, MixtureConfig], encoder: BuiltinEncoder, path: Path
) -> None:
    """Write the splits' aligned embeddings as the encoder's; an older file is replaced, whole."""
    alignment = encoder.network.alignment
    assert alignment is not None
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with EmbeddingCache(partial, encoder.fingerprint, encoder.dim) as cache:
        for name, split in splits.items():
            aligned = alignment(split.table.embeddings, alignment.audio_mean)
            table = EmbeddingTable(aligned, split.table.offsets)
            for i, clip in enumerate(track(split.clips, f"keeping {name}")):
                for crop in range(num_crops(clip, plans[name])):
                    cache.put(cache.key(clip, crop, plans[name]), table.of(i, crop))
    partial.replace(path)


_given: list[Any] = []


def without_fold(left_out: int) -> SideBySide:
    """Audio heads that have not seen a fold, of what is ``_given`` to forked processes."""
    clips, crops, words, train, fold, recipe, text = _given
    return train_heads(clips, crops, words, train[fold != left_out], recipe, text)[0]


def text_heads_of(encoder: BuiltinEncoder) -> SideBySide:
    """What audio heads are trained against to be in the encoder's space."""
    heads = encoder.network.text_head
    assert isinstance(heads, SideBySide)
    return heads


def new_encoder(text: SideBySide, recipe: Recipe, splits: dict[str, Split]) -> BuiltinEncoder:
    """An encoder with this text head and the alignment of these splits; its audio tower is still
    untrained."""
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
    report(splits["train"], splits["validation"])
    network.alignment = fit(splits["train"])
    return BuiltinEncoder(network, tokenizer.to_str(), sizes)


def main() -> None:
    """Features, heads, cross-fitted tables, and an encoder whose audio tower is still untrained."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--space",
        choices=("new", "builtin"),
        default="new",
        help="of a new encoder, or of the one in the package",
    )
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    assert config.embeddings is not None
    shipped = BuiltinEncoder.from_pretrained() if args.space == "builtin" else None
    work = config.output.parent
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # or forked processes would wait for threads that are not there

    captioned = [clip for clip in read_manifest(config.manifest) if clip.split != "test"]
    others = unlabelled_clips(config)
    class_names = teachers.YamNet().class_names
    features = teacher_features(captioned + others, work / "features.npz", args.jobs)
    others = tagged(others, len(captioned), features, class_names)
    if config.uncaptioned is not None:
        assert config.uncaptioned.manifest is not None
        if config.uncaptioned.manifest.parent == config.manifest.parent:
            parser.error(f"{config.uncaptioned.manifest} is the corpus's: name another to write")
        write_uncaptioned(others, config.uncaptioned.manifest)
    clips = captioned + others
    split = np.array([clip.split for clip in clips])
    train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    words = words_of(clips, class_names, work / "captions.pt")
    view = view_of(features, words.names, train)
    crops = random_crops(features.of(range(len(captioned))), view, seed=0)
    recipe = Recipe()
    learning = train[train < len(captioned)]  # not from the others: see heads.py
    fixed = None if shipped is None else text_heads_of(shipped)
    full, text = train_heads(clips, crops, words, learning, recipe, fixed)
    fold = fold_of([clips[i] for i in train])
    _given[:] = [clips, crops, words, learning, fold[: len(learning)], recipe, text]
    fork = get_context("fork")  # the sounds' features are gigabytes: processes share them
    with ProcessPoolExecutor(args.jobs, fork) as pool:
        heads = list(pool.map(without_fold, range(NUM_FOLDS)))
    state = {f"head.{k}": v for k, v in full.state_dict().items()}
    state |= {f"view.{k}": v for k, v in view.state_dict().items()}
    write_safetensors(state, work / "teacher.safetensors")

    plans = {"train": config.mixtures, "validation": config.validation.mixtures}
    tables = {
        "train": embed_crops(clips, train, plans["train"], features, view, heads, fold),
        "validation": embed_crops(
            clips, validation, plans["validation"], features, view, [full],
            np.zeros(len(validation), int),
        ),
    }  # fmt: skip
    splits = {}
    for name, rows in (("train", train), ("validation", validation)):
        captions = torch.cat([words.captions[i][:1] for i in rows])
        with torch.inference_mode():
            said = text(captions).clone()
        splits[name] = Split([clips[i] for i in rows], tables[name], said)
    if shipped is None:
        shipped = new_encoder(text, recipe, splits)
        shipped.save_pretrained(work / "encoder")  # its fingerprint exists from here on
    keep(splits, plans, shipped, config.embeddings)


if __name__ == "__main__":
    main()
