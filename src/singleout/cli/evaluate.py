"""``singleout evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from singleout.cli.options import AsJson, Encoder, Model, Results


def evaluate(
    manifest: Annotated[Path, typer.Argument(help="JSONL of captioned sounds.", readable=False)],
    split: Annotated[str, typer.Option(help="Which split of it.")] = "test",
    model: Model = None,
    encoder: Encoder = None,
    mixtures: Annotated[int, typer.Option(help="How many mixtures.", min=1)] = 600,
    seed: Annotated[int, typer.Option(help="Of the mixtures.", min=0)] = 0,
    output: Results = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on two-sound mixtures at -5 to 5 dB, with text and with audio queries."""
    import json
    from time import perf_counter

    from singleout.cli.extract import check_folder
    from singleout.cli.results import provenance, write_results
    from singleout.data.manifest import read_manifest
    from singleout.evaluate.run import EvaluationConfig, summary
    from singleout.evaluate.run import evaluate as run
    from singleout.model import QueriedSeparator

    started = perf_counter()
    if output is not None:
        check_folder(output.parent)  # before any work
    loaded = QueriedSeparator.from_pretrained(model, encoder)
    clips = read_manifest(manifest, split)
    config = EvaluationConfig(num_mixtures=mixtures, seed=seed)
    rows = run(loaded, clips, config)
    command = f"singleout evaluate MANIFEST --split {split} --mixtures {mixtures} --seed {seed}"
    command += "" if model is None else " --model MODEL"
    meta = {
        **provenance(command, loaded.encoder, perf_counter() - started),
        "num_sounds": len(clips),
        "config": config.model_dump(),
    }
    result = {"meta": meta, **summary(rows)}
    text = json.dumps(result, indent=2)
    if output is not None:
        write_results(output, text, rows)
    typer.echo(text if as_json else _table(result))


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['num_mixtures']} mixtures; dB, mean [95 % interval], median, share improved",
        f"{'system':14} {'SI-SDRi':>24} {'median':>7} {'improved':>9} {'SDRi':>7}",
    ]
    for name, entry in result["systems"].items():
        own, mean = entry["si_sdri_db"], entry["si_sdri_db"]["mean"]
        interval = f"{mean['estimate']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"
        share = f"{100 * own['share_improved']['estimate']:.0f} %"
        lines.append(
            f"{name:14} {interval:>24} {own['median']['estimate']:7.2f} {share:>9} "
            f"{entry['sdri_db']['mean']['estimate']:7.2f}"
        )
    gap = result["query_gap_db"]
    lines.append(
        f"query gap (audio - text): {gap['estimate']:.2f} [{gap['low']:.2f}, {gap['high']:.2f}] dB"
    )
    return "\n".join(lines)
