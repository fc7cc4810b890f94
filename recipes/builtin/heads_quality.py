"""One experiment with the heads of the joint space: pair accuracy on packages left out.

Command: ``python -m recipes.builtin.heads_quality NAME [key=value ...]``.

The overrides change fields of ``Recipe`` in ``heads.py``. The heads are trained once without each
of some folds of the training packages, and once on all of them. Pair accuracy is measured on the
fold left out and on the validation packages, with and without an alignment. A line goes to
``results/heads.jsonl``, a row into ``docs/experiments.md``. Test packages are never used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.builtin import teachers
from recipes.builtin.alignment import RANKS, Split, fit, pair_accuracy
from recipes.builtin.embed import fold_of, tagged, unlabelled_clips, words_of
from recipes.builtin.features import teacher_features
from recipes.builtin.heads import Crops, Recipe, Words, random_crops, train_heads, view_of
from recipes.documents import fill_in
from singleout.config import load_config
from singleout.data.clips import Clip
from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import read_manifest
from singleout.train.config import TrainConfig

RESULTS = Path("results/heads.jsonl")
DOCUMENT = Path("docs/experiments.md")
FOLDS = (0, 2, 4)
"""Folds that are left out. Three of the five folds of ``embed.py`` give the same ranking."""


@torch.inference_mode()
def accuracies(
    heads: tuple[Any, Any],
    clips: list[Clip],
    crops: Crops,
    words: Words,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
) -> dict[str, float]:
    """Pair accuracy between families on the captioned clips of ``held_out``.

    It compares whole clips with first captions.

    Args:
        heads: of audio and of text.
        clips, crops, words: all sounds and captions.
        train: indices of the clips that the alignments are fitted on.
        held_out: indices of the clips that are scored.

    Returns:
        Accuracy without an alignment, ``none``, and with one of each rank.
    """
    captioned = held_out[[len(words.captions[i]) > 0 for i in held_out.tolist()]]
    fitted, scored = (_split(heads, clips, crops, words, rows) for rows in (train, captioned))
    accuracy = {"none": pair_accuracy(scored.first_crops, scored.captions, scored.clips)}
    for rank in (rank for rank in RANKS if rank < min(fitted.first_crops.shape)):
        alignment = fit(fitted, rank)
        sounds = alignment(scored.first_crops, alignment.audio_mean)
        captions = alignment(scored.captions, alignment.text_mean)
        accuracy[str(rank)] = pair_accuracy(sounds, captions, scored.clips)
    return {name: round(value, 5) for name, value in accuracy.items()}


def _split(
    heads: tuple[Any, Any],
    clips: list[Clip],
    crops: Crops,
    words: Words,
    rows: NDArray[np.int64],
) -> Split:
    """The clips ``rows``, each with one crop (the whole clip) and its first caption."""
    audio, text = heads
    embeddings = audio(crops.features[rows, 0]).clone()
    captions = [words.captions[i][:1] for i in rows.tolist() if len(words.captions[i])]
    table = EmbeddingTable(embeddings, tuple(range(len(rows) + 1)))
    return Split([clips[i] for i in rows], table, text(torch.cat(captions)).clone())


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown table with a row per experiment."""
    rows = [
        "| heads | changes | folds: no alignment | best rank | validation: no alignment "
        "| that rank |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        folds = line["folds"]
        mean = {key: float(np.mean([fold[key] for fold in folds])) for key in folds[0]}
        rank = max((key for key in mean if key != "none"), key=mean.__getitem__)
        changes = "<br>".join(f"`{change}`" for change in line["changes"])
        rows.append(
            f"| **{line['name']}** {line['tried']} | {changes} | {mean['none']:.4f} "
            f"| {mean[rank]:.4f} ({rank}) | {line['validation']['none']:.4f} "
            f"| {line['validation'][rank]:.4f} |"
        )
    return "\n".join(rows)


def changed(overrides: list[str]) -> Recipe:
    """The recipe with some fields changed, such as ``steps=900``.

    Raises:
        SystemExit: an override names no field.
    """
    names = {field.name: field for field in dataclasses.fields(Recipe)}
    values = {}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or key not in names:
            raise SystemExit(
                f"error: '{override}': write key=value with a key of {', '.join(names)}"
            )
        values[key] = type(getattr(Recipe(), key))(json.loads(value))
    return dataclasses.replace(Recipe(), **values)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the experiment of the command line; its line."""
    torch.set_num_threads(args.jobs)
    recipe = changed(args.overrides)
    config = load_config(TrainConfig, args.config)
    assert config.manifest is not None
    work = config.output.parent
    work.mkdir(parents=True, exist_ok=True)
    captioned = [clip for clip in read_manifest(config.manifest) if clip.split != "test"]
    others = unlabelled_clips(config)
    class_names = teachers.YamNet().class_names
    features = teacher_features(captioned + others, work / "features.npz", args.jobs)
    clips = captioned + tagged(others, len(captioned), features, class_names)
    split = np.array([clip.split for clip in clips])
    train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
    if not args.uncaptioned:
        train = train[train < len(captioned)]
    words = words_of(clips, class_names, work / "captions.pt")
    crops = random_crops(features, view_of(features, words.names, train), seed=0)
    fold = fold_of([clips[i] for i in train])

    def accuracy_without(rows: NDArray[np.int64], held_out: NDArray[np.int64]) -> dict[str, float]:
        heads = train_heads(clips, crops, words, rows, recipe)
        return accuracies(heads, clips, crops, words, rows, held_out)

    return {
        "name": args.name,
        "changes": [*args.overrides, *(["uncaptioned, too"] if args.uncaptioned else [])],
        "tried": args.tried,
        "folds": [accuracy_without(train[fold != k], train[fold == k]) for k in FOLDS],
        "validation": accuracy_without(train, validation),
        "recipe": dataclasses.asdict(recipe),
        "num_sounds": len(train),
        "torch": torch.__version__,
    }


def main() -> None:
    """Make one experiment; without a name, only write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--tried", default="", help="purpose of the experiment, in a few words")
    parser.add_argument(
        "--uncaptioned", action="store_true", help="train on sounds without captions, too"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_intermixed_args()  # allows overrides after options
    lines = [json.loads(x) for x in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    if args.name is not None:
        if args.name in [line["name"] for line in lines]:
            raise SystemExit(
                f"error: {RESULTS} has an experiment '{args.name}' already: take another name"
            )
        line = run(args)
        lines.append(line)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    fill_in(DOCUMENT, {"heads": table(lines)})


if __name__ == "__main__":
    main()
