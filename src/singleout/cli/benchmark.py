"""``singleout benchmark``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import AsJson, Encoder, Model, Results
from singleout.cli.results import check_results, provenance, write_results

if TYPE_CHECKING:
    from singleout.evaluate.benchmarks import Protocol

NAMES = (
    "audioset, audiocaps, clotho, esc50, music, vggsound, dcase2024-validation, "
    "dcase2024-evaluation, dcase2024-evaluation-real, mix"
)
HEADINGS = {
    "sdri_db": "SDRi",
    "si_sdr_db": "SI-SDR",
    "sdr_db": "SDR",
    "si_sdri_db": "SI-SDRi",
    "bss_eval_sdr_db": "BSS-eval SDR",
    "clap_score": "CLAPScore",
    "suppression_db": "suppression",
    "silent_share": "silent",
}


def benchmark(
    name: Annotated[str, typer.Argument(help=f"One of: {NAMES}.")],
    data: Annotated[
        Path, typer.Option(help="Folder of the set; for mix a JSONL manifest.", readable=False)
    ],
    model: Model = None,
    encoder: Encoder = None,
    clap_score: Annotated[
        str | None, typer.Option(help="Also CLAPScore, by this encoder (name or path).")
    ] = None,
    bss_eval: Annotated[bool, typer.Option("--bss-eval", help="Also BSS-eval SDR.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Also silence, mixture, half of it, oracle.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score what is there of an incomplete set.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Score the first items only.", min=1)] = None,
    split: Annotated[
        str | None, typer.Option(help="mix: of the manifest.", show_default="test")
    ] = None,
    snr: Annotated[
        list[float] | None, typer.Option(help="mix: in dB; repeat it.", show_default="-5, 0, 5")
    ] = None,
    mixtures: Annotated[
        int | None, typer.Option(help="mix: how many at each SNR.", min=1, show_default="600")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="mix: of the mixtures.", min=0, show_default="0")
    ] = None,
    absent: Annotated[
        bool, typer.Option("--absent", help="mix: also ask for sounds that are not there.")
    ] = False,
    output: Results = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a published set, by that set's own rules, or on mixtures of a manifest."""
    import json
    from time import perf_counter

    from singleout.encoders import load_encoder
    from singleout.evaluate.benchmarks.run import Extras, by_label, run, summary
    from singleout.model import QueriedSeparator

    started = perf_counter()
    if output is not None:
        check_results(output, data)  # before any work
    options = {"split": split, "snr_db": snr, "num_mixtures": mixtures, "seed": seed}
    options = {key: value for key, value in options.items() if value is not None}
    protocol = _protocol(name, options | ({"absent": True} if absent else {}))
    items, missing = protocol.items(data, partial)
    if missing:
        _warn(f"{len(missing):,} files are missing, such as {missing[0]}: their items are left out")
    found, items = len(items), items[:limit]
    loaded = QueriedSeparator.from_pretrained(model, encoder)
    judge = None if clap_score is None else load_encoder(clap_score)
    with _one_line_warnings():
        rows = run(loaded, protocol, items, Extras(bss_eval, references, judge))
    result: dict[str, Any] = {
        "meta": {
            **provenance(f"singleout benchmark {name}", loaded.encoder, perf_counter() - started),
            "options": options | {"absent": absent, "partial": partial, "limit": limit},
            "clap_score_encoder": None if judge is None else judge.fingerprint,
        },
        "protocol": protocol.name,
        "sample_rate": protocol.sample_rate,
        "model_sample_rate": loaded.sample_rate,
        "aggregation": protocol.aggregation.name,
        "num_items": len(items),
        "num_published_items": protocol.num_items,
        "num_missing_files": len(missing),
        "is_whole": len(items) == found == (protocol.num_items or found) and not missing,
        "systems": summary(rows, protocol),
        "published": {system: dict(scores) for system, scores in protocol.published.items()},
    }
    if protocol.lists_labels:
        result["by_label"] = by_label(rows)
    result["markdown"] = _markdown(result, "built-in" if model is None else Path(model).name)
    text = json.dumps(result, indent=2)
    if output is not None:
        write_results(output, text, rows)
    typer.echo(text if as_json else _table(result))


def _protocol(name: str, options: dict[str, Any]) -> Protocol:
    from singleout.config import validated
    from singleout.evaluate.benchmarks import PROTOCOLS, MixingConfig, mixing

    if name == "mix":
        return mixing(validated(MixingConfig, options, "mix"))
    if name not in PROTOCOLS:
        raise typer.BadParameter(f"'{name}' is none of {', '.join(PROTOCOLS)}, mix")
    if options:
        raise typer.BadParameter(f"{', '.join(options)}: only mix has a choice of mixtures")
    return PROTOCOLS[name]


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Ours only; those of libraries stay as they are."""
    import warnings

    from singleout.evaluate.clap_score import JudgeWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", JudgeWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *a: Any, **k: Any) -> None:
            if issubclass(category, JudgeWarning):
                _warn(str(message))
            else:
                shown(message, category, *a, **k)

        warnings.showwarning = show
        yield


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)


def _share_of_set(result: dict[str, Any]) -> str:
    """How many items, and of how many if they are not all."""
    count, published = result["num_items"], result["num_published_items"]
    if result["is_whole"]:
        return f"{count:,}"
    return f"{count:,} of {published:,}" if published else f"{count:,}, not all"


def _columns(result: dict[str, Any]) -> list[str]:
    present = {key for scores in result["systems"].values() for key in scores}
    return [key for key in HEADINGS if key in present]


def _cell(scores: dict[str, Any], key: str) -> str:
    if key not in scores:
        return "-"
    entry = scores[key]
    value = entry if isinstance(entry, float) else entry["estimate"]
    return f"{100 * value:.0f} %" if key == "silent_share" else f"{value:.3f}"


def _interval(scores: dict[str, Any], key: str) -> str:
    entry = scores.get(key, {})
    return f" [{entry['low']:.2f}, {entry['high']:.2f}]" if "low" in entry else ""


def _markdown(result: dict[str, Any], model: str) -> str:
    """A row for a table of results, below the heads of its columns."""
    columns = _columns(result)
    heads = ["set", "model", "items", *(HEADINGS[key] for key in columns)]
    scores = result["systems"]["model"]
    cells = [_cell(scores, key) + _interval(scores, key) for key in columns]
    lines = [heads, ["---"] * len(heads)]
    lines.append([result["protocol"], model, _share_of_set(result), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(result: dict[str, Any]) -> str:
    columns = _columns(result)
    lines = [
        f"{result['protocol']}: {_share_of_set(result)} items, scored at "
        f"{result['sample_rate']:,} Hz; {result['aggregation']}; dB [95 % interval]"
    ]

    def add(name: str, scores: dict[str, Any], with_interval: bool) -> None:
        cells = (
            _cell(scores, key) + (_interval(scores, key) if with_interval else "")
            for key in columns
        )
        lines.append(f"{name:26}" + "".join(f" {cell:>22}" for cell in cells))

    lines.append(" " * 26 + "".join(f" {HEADINGS[key]:>22}" for key in columns))
    for system, scores in result["systems"].items():
        add(system, scores, True)
    for system, scores in result["published"].items():
        add(f"{system}, published", scores, False)
    for label, scores in result.get("by_label", {}).items():
        add(f"model, {label}", scores, False)
    return "\n".join([*lines, "", result["markdown"]])
