"""``singleout evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from singleout.cli.options import AsJson, Encoder, Manifest, Model, Results, SkipBad
from singleout.cli.results import check_results, format_interval, provenance, write_results

Questions = Annotated[
    bool,
    typer.Option(
        "--questions",
        help="Score every scenario: also absent sounds, and text with audio or negative prompts.",
    ),
]


def evaluate(
    manifest: Manifest,
    split: Annotated[str, typer.Option(help="Split of the manifest.")] = "test",
    model: Model = None,
    encoder: Encoder = None,
    mixtures: Annotated[int, typer.Option(help="Number of mixtures.", min=1)] = 600,
    sources: Annotated[int, typer.Option(help="Number of sounds in each mixture.", min=2)] = 2,
    questions: Questions = False,
    seed: Annotated[int, typer.Option(help="Seed of the mixtures.", min=0)] = 0,
    output: Results = None,
    as_json: AsJson = False,
    skip_bad: SkipBad = False,
) -> None:
    """Score a model on mixtures of sounds at -5 to 5 dB, with text and with audio queries."""
    import json
    from time import perf_counter

    from singleout import evaluate as evaluation
    from singleout.data.checking import SoundCheck
    from singleout.data.manifest import read_manifest
    from singleout.data.plan import SCORED_MIXTURES, check_mixable
    from singleout.model import QueriedSeparator

    started = perf_counter()
    if output is not None:
        check_results(output, manifest)  # before any work
    loaded = QueriedSeparator.from_pretrained(model, encoder)
    check = SoundCheck()
    clips = check.usable(read_manifest(manifest, split, on_bad=check.add))
    check.finish(skip_bad)
    scored = SCORED_MIXTURES.model_copy(update={"num_sources": (sources, sources)})
    check_mixable(clips, scored)
    config = evaluation.EvaluationConfig(num_mixtures=mixtures, seed=seed, mixtures=scored)
    if questions:
        rows = evaluation.evaluate_scenarios(loaded, clips, config)
        result = evaluation.scenario_summary(rows)
    else:
        rows = evaluation.evaluate(loaded, clips, config)
        result = evaluation.summary(rows)
    command = f"singleout evaluate MANIFEST --split {split} --mixtures {mixtures} --seed {seed}"
    command += f" --sources {sources}" if sources != 2 else ""
    command += " --questions" if questions else ""
    command += "" if model is None else " --model MODEL"
    meta = {
        **provenance(command, loaded.encoder, perf_counter() - started),
        "num_sounds": len(clips),
        "left_out": {str(path): reason for path, reason in check.reasons.items()},
        "config": config.model_dump(),
    }
    text = json.dumps({"meta": meta, **result}, indent=2)
    if output is not None:
        write_results(output, text, rows)
    table = _scenario_table if questions else _table
    typer.echo(text if as_json else table(result))


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['num_mixtures']} mixtures; dB, mean [95 % interval], median, share improved",
        f"{'system':14} {'SI-SDRi':>24} {'median':>7} {'improved':>9} {'SDRi':>7}",
    ]
    for name, entry in result["systems"].items():
        si_sdri = entry["si_sdri_db"]
        share = f"{100 * si_sdri['share_improved']['estimate']:.0f} %"
        lines.append(
            f"{name:14} {format_interval(si_sdri['mean']):>24} "
            f"{si_sdri['median']['estimate']:7.2f} {share:>9} "
            f"{entry['sdri_db']['mean']['estimate']:7.2f}"
        )
    lines.append(f"query gap (audio - text): {format_interval(result['query_gap_db'])} dB")
    return "\n".join(lines)


def _scenario_table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['num_mixtures']} mixtures; dB, mean [95 % interval], share improved, share "
        "within 3 dB of the target's level, median suppression",
        f"{'scenario':22} {'SI-SDRi':>22} {'improved':>9} {'level':>6} {'suppression':>12}",
    ]
    for name, entry in result["questions"].items():
        scores = " " * 39
        if (si_sdri := entry.get("si_sdri_db")) is not None:
            share = f"{100 * si_sdri['share_improved']['estimate']:.0f} %"
            level = f"{100 * entry['level_within_3_db']['estimate']:.0f} %"
            scores = f"{format_interval(si_sdri['mean']):>22} {share:>9} {level:>6}"
        lines.append(f"{name:22} {scores} {entry['suppression_db']['estimate']:12.1f}")
    for key, name in (
        ("text_minus_audio_db", "text minus audio, dB"),
        ("negative_adds_db", "gain by the negative prompt, dB"),
    ):
        if key in result:
            lines.append(f"{name}: {format_interval(result[key])}")
    for name, area in result.get("presence_auroc", {}).items():
        lines.append(f"presence, area under the curve, {name}: {format_interval(area, 3)}")
    if (error := result.get("presence_calibration_error")) is not None:
        lines.append(f"presence, calibration error: {error:.3f}")
    return "\n".join(lines)
