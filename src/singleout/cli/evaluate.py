"""``singleout evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from singleout.cli.options import AsJson, Encoder, Model, Results
from singleout.cli.results import check_results, provenance, write_results


def evaluate(
    manifest: Annotated[Path, typer.Argument(help="JSONL of captioned sounds.", readable=False)],
    split: Annotated[str, typer.Option(help="Which split of it.")] = "test",
    model: Model = None,
    encoder: Encoder = None,
    mixtures: Annotated[int, typer.Option(help="How many mixtures.", min=1)] = 600,
    sources: Annotated[int, typer.Option(help="Sounds in each mixture.", min=2)] = 2,
    questions: Annotated[
        bool,
        typer.Option(
            "--questions",
            help="Ask for sounds that are not there, with examples and with negative prompts, too.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the mixtures.", min=0)] = 0,
    output: Results = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on mixtures of sounds at -5 to 5 dB, with text and with audio queries."""
    import json
    from time import perf_counter

    from singleout.data.manifest import read_manifest
    from singleout.data.plan import SCORED_MIXTURES
    from singleout.evaluate.evaluation import EvaluationConfig, summary
    from singleout.evaluate.evaluation import evaluate as run
    from singleout.evaluate.scenarios import ask, findings
    from singleout.model import QueriedSeparator

    started = perf_counter()
    if output is not None:
        check_results(output, manifest)  # before any work
    loaded = QueriedSeparator.from_pretrained(model, encoder)
    clips = read_manifest(manifest, split)
    scored = SCORED_MIXTURES.model_copy(update={"num_sources": (sources, sources)})
    config = EvaluationConfig(num_mixtures=mixtures, seed=seed, mixtures=scored)
    rows = (ask if questions else run)(loaded, clips, config)
    command = f"singleout evaluate MANIFEST --split {split} --mixtures {mixtures} --seed {seed}"
    command += f" --sources {sources}" if sources != 2 else ""
    command += " --questions" if questions else ""
    command += "" if model is None else " --model MODEL"
    meta = {
        **provenance(command, loaded.encoder, perf_counter() - started),
        "num_sounds": len(clips),
        "config": config.model_dump(),
    }
    result = {"meta": meta, **(findings if questions else summary)(rows)}
    text = json.dumps(result, indent=2)
    if output is not None:
        write_results(output, text, rows)
    table = _table_of_questions if questions else _table
    typer.echo(text if as_json else table(result))


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['num_mixtures']} mixtures; dB, mean [95 % interval], median, share improved",
        f"{'system':14} {'SI-SDRi':>24} {'median':>7} {'improved':>9} {'SDRi':>7}",
    ]
    for name, entry in result["systems"].items():
        own = entry["si_sdri_db"]
        interval = _interval(own["mean"])
        share = f"{100 * own['share_improved']['estimate']:.0f} %"
        lines.append(
            f"{name:14} {interval:>24} {own['median']['estimate']:7.2f} {share:>9} "
            f"{entry['sdri_db']['mean']['estimate']:7.2f}"
        )
    gap = result["query_gap_db"]
    lines.append(f"query gap (audio - text): {_interval(gap)} dB")
    return "\n".join(lines)


def _table_of_questions(result: dict[str, Any]) -> str:
    lines = [
        f"{result['num_mixtures']} mixtures; dB, mean [95 % interval], share improved, share "
        "within 3 dB of the target's level, median suppression",
        f"{'question':22} {'SI-SDRi':>22} {'improved':>9} {'level':>6} {'suppression':>12}",
    ]
    for name, entry in result["questions"].items():
        scores = " " * 39
        if (own := entry.get("si_sdri_db")) is not None:
            share = f"{100 * own['share_improved']['estimate']:.0f} %"
            level = f"{100 * entry['level_within_3_db']['estimate']:.0f} %"
            scores = f"{_interval(own['mean']):>22} {share:>9} {level:>6}"
        lines.append(f"{name:22} {scores} {entry['suppression_db']['estimate']:12.1f}")
    for key, name in (
        ("text_minus_audio_db", "text minus audio, dB"),
        ("negative_adds_db", "what the negative prompt adds, dB"),
    ):
        if key in result:
            lines.append(f"{name}: {_interval(result[key])}")
    for kind, area in result.get("presence_auroc", {}).items():
        lines.append(f"presence, area under the curve, {kind}: {_interval(area, 3)}")
    if (error := result.get("presence_calibration_error")) is not None:
        lines.append(f"presence, calibration error: {error:.3f}")
    return "\n".join(lines)


def _interval(interval: dict[str, float], digits: int = 2) -> str:
    estimate, low, high = (f"{interval[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"
