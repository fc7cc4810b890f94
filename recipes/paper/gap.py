"""What each deterministic manipulation does to the modality gap, on sounds not fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recipes.paper.report import save_picture
from recipes.paper.study import Run, Study, write_json
from singleout.data.embeddings import embeddings_of
from singleout.data.manifest import read_manifest
from singleout.encoders import QueryEncoder
from singleout.evaluate.gap.measure import embed_pairs, modality_gap
from singleout.manipulations import FitEmbeddings, Manipulator
from singleout.train.run import caption_embeddings, examples_of

DRAWN = {
    "matched_cosine": "matched cosine",
    "mismatched_cosine": "mismatched cosine",
    "centroid_distance": "centroid distance",
    "separability": "separability",
    "pair_accuracy_classes": "pair accuracy",
}


def write_gap(study: Study, encoder: QueryEncoder, results: Path) -> None:
    """Fit every manipulation that maps deterministically on the training sounds, measure it on the
    test sounds; ``gap.json`` and ``gap.png``."""
    config = study.reference
    clips = read_manifest(study.manifest, "train")
    sounds = embeddings_of(clips, config.mixtures, encoder)
    examples = examples_of(sounds, caption_embeddings(clips, encoder))
    found: dict[str, dict[str, Any]] = {}
    for scored in study.config.sets.values():
        test = read_manifest(study.manifest, scored.split)
        audio, text = embed_pairs(encoder, test, config.mixtures.segment_seconds)
        labels = [clip.label for clip in test]
        groups = [clip.group for clip in test]
        captions = [clip.caption or "" for clip in test]
        found[scored.split] = {}
        for name, manipulator in fitted(study, encoder.dim, examples).items():
            heard = manipulator.for_inference(audio, is_text=False)
            said = manipulator.for_inference(text, is_text=True)
            report = modality_gap(heard, said, labels, captions, groups, seed=0)
            found[scored.split][name] = dict(report)
    meta = {"command": "python -m recipes.paper", "encoder": encoder.fingerprint, "seed": 0}
    write_json(results / "gap.json", {"meta": meta, "splits": found})
    save_picture(results / "gap.png", lambda figure: draw_gap(figure, found["test_out_of_domain"]))


def fitted(study: Study, dim: int, examples: FitEmbeddings) -> dict[str, Manipulator]:
    """``none`` and the manipulators of all settings that change embeddings at inference."""
    probe = torch.nn.functional.normalize(examples.audio[:8] + 0.1, dim=-1)
    manipulators = {}
    for row in study.config.rows:
        for setting in row.grid:
            config = study.train_config(Run(row.name, setting, 0))
            manipulator = Manipulator(config.model.manipulation, dim)
            if manipulator.state is None:
                manipulator.fit(examples)
            same = manipulator.dim == dim and all(
                torch.equal(manipulator.for_inference(probe, is_text), probe)
                for is_text in (True, False)
            )
            if not same or row.name == "none":
                manipulators[f"{row.name} {setting}".strip()] = manipulator
    return manipulators


def draw_gap(figure: Any, found: dict[str, dict[str, Any]]) -> None:
    """One panel per figure, one bar per manipulation."""
    axes = figure.subplots(1, len(DRAWN), sharey=True)
    for axis, (key, title) in zip(axes, DRAWN.items(), strict=True):
        values = [
            value["estimate"] if isinstance(value := report[key], dict) else value
            for report in found.values()
        ]
        axis.barh(range(len(values)), [0.0 if v is None else v for v in values], color="#0072B2")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(found)), [name.replace("_", " ") for name in found])
    axes[0].invert_yaxis()
    figure.suptitle("modality gap out of domain, after each deterministic manipulation")
