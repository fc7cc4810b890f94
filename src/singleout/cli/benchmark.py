"""``singleout benchmark``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import AsJson, Encoder, Model, Results
from singleout.cli.results import check_results, provenance, write_results
from singleout.evaluate.benchmarks import BENCHMARKS, load_benchmark

if TYPE_CHECKING:
    from singleout.evaluate.benchmarks.benchmark import Benchmark

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

Name = Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.")]
Data = Annotated[
    Path,
    typer.Option(help="Folder of the benchmark; for mix a JSONL manifest.", readable=False),
]
ClapScore = Annotated[
    str | None, typer.Option(help="Also compute CLAPScore, with this encoder (name or path).")
]
BssEval = Annotated[bool, typer.Option("--bss-eval", help="Also compute BSS-eval SDR.")]
References = Annotated[
    bool,
    typer.Option(
        "--references", help="Also score silence, the mixture, half of it and an oracle mask."
    ),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Score an incomplete set, without its missing items.")
]
Limit = Annotated[int | None, typer.Option(help="Score only this many items.", min=1)]
Split = Annotated[str | None, typer.Option(help="mix: split of the manifest.", show_default="test")]
Snr = Annotated[
    list[float] | None,
    typer.Option(help="mix: SNR in dB. Repeat the option for several.", show_default="-5, 0, 5"),
]
Mixtures = Annotated[
    int | None,
    typer.Option(help="mix: number of mixtures at each SNR.", min=1, show_default="600"),
]
Seed = Annotated[
    int | None, typer.Option(help="mix: seed of the mixtures.", min=0, show_default="0")
]
Absent = Annotated[
    bool, typer.Option("--absent", help="mix: also query sounds that are not in the mixture.")
]


def benchmark(
    name: Name,
    data: Data,
    model: Model = None,
    encoder: Encoder = None,
    clap_score: ClapScore = None,
    bss_eval: BssEval = False,
    references: References = False,
    partial: Partial = False,
    limit: Limit = None,
    split: Split = None,
    snr: Snr = None,
    mixtures: Mixtures = None,
    seed: Seed = None,
    absent: Absent = False,
    output: Results = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a published benchmark by its rules, or on mixtures of a manifest."""
    import json
    from time import perf_counter

    from singleout.encoders import load_encoder
    from singleout.evaluate.benchmarks.run import Extras, run_benchmark
    from singleout.model import QueriedSeparator

    started = perf_counter()
    if output is not None:
        check_results(output, data)  # before any work
    options = {"split": split, "snr_db": snr, "num_mixtures": mixtures, "seed": seed}
    options = {key: value for key, value in options.items() if value is not None}
    selected = _load(name, options | ({"absent": True} if absent else {}))
    items, missing = selected.items(data, partial)
    if missing:
        _warn(f"{len(missing):,} files are missing, such as {missing[0]}: their items are left out")
    num_complete, items = len(items), items[:limit]
    loaded = QueriedSeparator.from_pretrained(model, encoder)
    judge = None if clap_score is None else load_encoder(clap_score)
    with _one_line_warnings():
        rows = run_benchmark(loaded, selected, items, Extras(bss_eval, references, judge))
    command = f"singleout benchmark {name}"
    meta = {
        **provenance(command, loaded.encoder, perf_counter() - started),
        "options": options | {"absent": absent, "partial": partial, "limit": limit},
        "clap_score_encoder": None if judge is None else judge.fingerprint,
    }
    counts = {
        "num_items": len(items),
        "num_published_items": selected.num_items,
        "num_missing_files": len(missing),
        "is_whole": len(items) == num_complete == (selected.num_items or num_complete)
        and not missing,
    }
    result = _result(selected, rows, loaded.sample_rate, meta, counts)
    result["markdown"] = _markdown(result, "built-in" if model is None else Path(model).name)
    text = json.dumps(result, indent=2)
    if output is not None:
        write_results(output, text, rows)
    typer.echo(text if as_json else _table(result))


def _load(name: str, options: Mapping[str, Any]) -> Benchmark:
    """A name or options that the registry refuses are wrong usage."""
    from singleout.errors import ConfigError, InputError

    try:
        return load_benchmark(name, **options)
    except ConfigError:
        raise
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


def _result(
    benchmark: Benchmark,
    rows: list[dict[str, Any]],
    model_sample_rate: int,
    meta: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> dict[str, Any]:
    """The summary as it is written, without its row of a table."""
    from singleout.evaluate.benchmarks.run import benchmark_summary, by_label

    result = {
        "meta": meta,
        "protocol": benchmark.name,
        "sample_rate": benchmark.sample_rate,
        "model_sample_rate": model_sample_rate,
        "aggregation": benchmark.aggregation.name,
        **counts,
        "systems": benchmark_summary(rows, benchmark),
        "published": {system: dict(scores) for system, scores in benchmark.published.items()},
    }
    if benchmark.lists_labels:
        result["by_label"] = by_label(rows)
    return result


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print our warnings in one line; those of libraries stay as they are."""
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
    """Number of items, and of all published items if some are missing."""
    count, published = result["num_items"], result["num_published_items"]
    if result["is_whole"]:
        return f"{count:,}"
    return f"{count:,} of {published:,}" if published else f"{count:,}, not all"


def _columns(result: dict[str, Any]) -> list[str]:
    present = {key for scores in result["systems"].values() for key in scores}
    return [key for key in HEADINGS if key in present]


def _cell(scores: dict[str, Any], key: str, with_interval: bool = False) -> str:
    if key not in scores:
        return "-"
    entry = scores[key]
    value = entry if isinstance(entry, float) else entry["estimate"]
    cell = f"{100 * value:.0f} %" if key == "silent_share" else f"{value:.3f}"
    if with_interval and "low" in entry:
        cell += f" [{entry['low']:.2f}, {entry['high']:.2f}]"
    return cell


def _markdown(result: dict[str, Any], model: str) -> str:
    """A table of results with one row."""
    columns = _columns(result)
    heads = ["set", "model", "items", *(HEADINGS[key] for key in columns)]
    cells = [_cell(result["systems"]["model"], key, with_interval=True) for key in columns]
    row = [result["protocol"], model, _share_of_set(result), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), row))


def _table(result: dict[str, Any]) -> str:
    columns = _columns(result)
    lines = [
        f"{result['protocol']}: {_share_of_set(result)} items, scored at "
        f"{result['sample_rate']:,} Hz; {result['aggregation']}; dB [95 % interval]"
    ]

    def add(name: str, cells: Iterable[str]) -> None:
        lines.append(f"{name:26}" + "".join(f" {cell:>22}" for cell in cells))

    add("", (HEADINGS[key] for key in columns))
    for system, scores in result["systems"].items():
        add(system, (_cell(scores, key, with_interval=True) for key in columns))
    for system, scores in result["published"].items():
        add(f"{system}, published", (_cell(scores, key) for key in columns))
    for label, scores in result.get("by_label", {}).items():
        add(f"model, {label}", (_cell(scores, key) for key in columns))
    return "\n".join([*lines, "", result["markdown"]])
