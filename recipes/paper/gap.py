"""The modality gap after each deterministic manipulation, on sounds that were not fitted on."""

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
from singleout.train.corpus import caption_embeddings, fit_embeddings

DRAWN = {
    "matched_cosine": "matched cosine",
    "mismatched_cosine": "mismatched cosine",
    "centroid_distance": "centroid distance",
    "separability": "separability",
    "pair_accuracy_classes": "pair accuracy",
}


def write_gap(study: Study, encoder: QueryEncoder, results: Path) -> None:
    """Write ``gap.json`` and ``gap.png``.

    Every deterministic manipulation is fitted on the training sounds and measured on the others.
    """
    config = study.reference
    clips = read_manifest(study.manifest, "train")
    sounds = embeddings_of(clips, config.mixtures, encoder)
    examples = fit_embeddings(sounds, caption_embeddings(clips, encoder))
    reports: dict[str, dict[str, Any]] = {}
    for scored in study.config.sets.values():
        test = read_manifest(study.manifest, scored.split)
        audio, text = embed_pairs(encoder, test, config.mixtures.segment_seconds)
        labels = [clip.label for clip in test]
        groups = [clip.group for clip in test]
        captions = [clip.caption or "" for clip in test]
        reports[scored.split] = {}
        for name, manipulator in fitted(study, encoder.dim, examples).items():
            mapped_audio = manipulator.for_inference(audio, is_text=False)
            mapped_text = manipulator.for_inference(text, is_text=True)
            report = modality_gap(mapped_audio, mapped_text, labels, captions, groups, seed=0)
            reports[scored.split][name] = dict(report)
    meta = {"command": "python -m recipes.paper", "encoder": encoder.fingerprint, "seed": 0}
    write_json(results / "gap.json", {"meta": meta, "splits": reports})
    out_of_domain = reports["test_out_of_domain"]
    save_picture(results / "gap.png", lambda figure: draw_gap(figure, out_of_domain))


def fitted(study: Study, dim: int, examples: FitEmbeddings) -> dict[str, Manipulator]:
    """The fitted manipulators that change embeddings at inference, and that of ``none``.

    Returns:
        By name of the row and its setting.
    """
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


def draw_gap(figure: Any, reports: dict[str, dict[str, Any]]) -> None:
    """Draw one panel per measure, with one bar per manipulation."""
    axes = figure.subplots(1, len(DRAWN), sharey=True)
    for axis, (key, title) in zip(axes, DRAWN.items(), strict=True):
        values = [
            value["estimate"] if isinstance(value := report[key], dict) else value
            for report in reports.values()
        ]
        axis.barh(range(len(values)), [0.0 if v is None else v for v in values], color="#0072B2")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(reports)), [name.replace("_", " ") for name in reports])
    axes[0].invert_yaxis()
    figure.suptitle("modality gap out of domain, after each deterministic manipulation")
