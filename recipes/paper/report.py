"""Claims, table and pictures of the study, from its results; needs neither sounds nor models.

Command: ``python -m recipes.paper --report``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from recipes.documents import fill_in
from recipes.paper.claims import DOMAINS, KINDS, Sets, claims, describe
from recipes.paper.study import Line, Study, write_json
from singleout.errors import ConfigError
from singleout.evaluate.statistics import Interval, summarise
from singleout.storage.atomic import replacing

COMMAND = "python -m recipes.paper --report"
COLOURS = {"text": "#D55E00", "audio": "#0072B2"}
TITLES = {"in_domain": "in domain", "out_of_domain": "out of domain"}

Entry = dict[str, Any]


def write_report(study: Study, results: Path, document: Path | None) -> None:
    """Write ``claims.json``, ``table.json`` and the pictures, and fill in the document's tables.

    Args:
        study: with its finished runs.
        results: folder of ``mixtures.json`` and of the files that are written.
        document: None for no document.

    Raises:
        ConfigError: ``mixtures.json`` is missing, or the runs have several encoders.
    """
    encoders = {line["encoder"] for line in study.done.values()}
    if len(encoders) > 1:
        raise ConfigError(
            f"{results / 'runs.jsonl'}: runs of several encoders ({', '.join(sorted(encoders))}) "
            "do not compare: keep the lines of one encoder"
        )
    if not (results / "mixtures.json").exists():
        raise ConfigError(f"{results}: mixtures.json is missing: run the study first (make paper)")
    sets: Sets = json.loads((results / "mixtures.json").read_text(encoding="utf-8"))["sets"]
    _check_mixtures(study, sets, results)
    entries = [
        entry
        for row in study.config.rows
        for setting in row.grid
        if (entry := describe(study, row.name, setting, sets)) is not None
    ]
    meta = describe_runs(study, sets)
    judged = claims(study, sets)
    write_json(results / "claims.json", {"meta": meta, "claims": judged})
    write_json(
        results / "table.json",
        {"meta": meta, "rows": entries, "references": reference_rows(sets)},
    )
    draw_pictures(study, entries, results)
    if document is not None:
        parts = {
            "claims": claims_table(judged),
            "rows": rows_table(entries, reference_rows(sets)),
            "views": views_table(best_of(entries)),
            "meta": meta_text(meta),
        }
        fill_in(document, parts)


def draw_pictures(study: Study, entries: Sequence[Entry], results: Path) -> None:
    """Write the pictures of the study into ``results``."""
    pictures: dict[str, Callable[[Any], None]] = {
        "rows.png": lambda figure: draw_rows(figure, best_of(entries)),
        "dropout.png": lambda figure: draw_sweep(
            figure, dropout_points(entries), "dropout probability p", text_of(entries)
        ),
        "scaling.png": lambda figure: draw_sweep(
            figure, scaling_points(entries), "share of the uncaptioned recordings", None
        ),
        "curves.png": lambda figure: draw_curves(figure, study),
    }
    for name, draw in pictures.items():
        save_picture(results / name, draw)


def _check_mixtures(study: Study, sets: Sets, results: Path) -> None:
    for run, line in study.done.items():
        for name, digest in line["mixtures"].items():
            if sets[name]["digest"] != digest:
                raise ConfigError(
                    f"{results / 'mixtures.json'}: {run.name} was scored on other mixtures of "
                    f"'{name}': delete this file, then run the study again"
                )


def describe_runs(study: Study, sets: Sets) -> dict[str, Any]:
    """The runs and mixtures behind the figures."""
    lines = list(study.done.values())
    return {
        "command": COMMAND,
        "unit": "dB of SI-SDRi, 95 % bootstrap intervals over seeds and target clips",
        "num_runs": len(lines),
        "num_runs_of_the_whole_study": study.num_runs(),
        "steps": sorted({line["steps"] for line in lines}),
        "parameters": sorted({line["parameters"] for line in lines}),
        "encoder": sorted({line["encoder"] for line in lines}),
        "git": sorted({name for line in lines for name in line["git"].split()}),
        "machines": sorted({json.dumps(line["machine"], sort_keys=True) for line in lines}),
        "training_hours": round(sum(line["training_s"] for line in lines) / 3600, 2),
        "mixtures": {name: len(each["target"]) for name, each in sets.items()},
        "target_clips": {name: len(set(each["target"])) for name, each in sets.items()},
        "seen_captions": {
            name: round(sum(each["seen_caption"]) / len(each["target"]), 3)
            for name, each in sets.items()
        },
    }


def reference_rows(sets: dict[str, Any]) -> dict[str, Any]:
    """Scores of the references on the same mixtures: zeros, mixture, half mixture, oracle mask."""
    names = next(iter(sets.values()))["references"]
    result: dict[str, Any] = {}
    for name in names:
        result[name] = {}
        for domain in DOMAINS:
            values = sets[domain]["references"][name]
            improved = [value > 1e-6 for value in values]
            result[name][domain] = summarise(values, improved, sets[domain]["target"])
    return result


def best_of(entries: Iterable[Entry]) -> list[Entry]:
    """The entries of the settings that validation chose."""
    return [entry for entry in entries if entry["chosen"]]


def text_of(entries: Sequence[Entry]) -> Entry | None:
    """The row of text training, which the other rows are compared with."""
    return next((entry for entry in entries if entry["row"] == "text"), None)


def dropout_points(entries: Iterable[Entry]) -> list[tuple[float, Entry]]:
    """Points of the dropout sweep: probability and entry, by probability."""
    points = []
    for entry in entries:
        if entry["row"] == "none":
            points.append((0.0, entry))
        elif entry["row"] == "dropout":
            points.append((float(entry["setting"].removeprefix("p=")), entry))
    return sorted(points, key=lambda point: point[0])


def scaling_points(entries: Iterable[Entry]) -> list[tuple[float, Entry]]:
    """Points of the scaling curve: share of the uncaptioned recordings and entry, by share."""
    shares = {"quarter": 0.25, "half": 0.5, "all": 1.0}
    points = []
    for entry in entries:
        if entry["row"] == "captioned":
            points.append((0.0, entry))
        elif entry["row"] == "captioned_audio":
            points.append((shares[entry["setting"]], entry))
    return sorted(points, key=lambda point: point[0])


# Tables


def _db(interval: Interval) -> str:
    """Signed hundredths with the interval, for Markdown."""
    estimate, low, high = (interval[key] for key in ("estimate", "low", "high"))
    return f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def claims_table(judged: dict[str, dict[str, Any]]) -> str:
    """Markdown table of the claims: the judged interval, and those of the other views."""
    head = ["claim", "judged", "verdict", "other domain", "floored", "unseen captions", "by seed"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for number, claim in judged.items():
        (other,) = (domain for domain in DOMAINS if domain != claim["domain"])
        cells = [
            f"{number}. {claim['statement']}",
            f"{TITLES[claim['domain']]}: {_db(claim)}",  # type: ignore[arg-type]
            f"**{claim['verdict']}**",
            f"{TITLES[other]}: {_db(claim[other])}",
            _db(claim["floored"]),
            _db(claim["unseen_captions"]),
            ", ".join(f"{each:+.2f}" for each in claim["by_seed"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def views_table(entries: Iterable[Entry]) -> str:
    """Markdown table of text queries by other views than the plain mean, and of the query gap."""
    head = ["row"]
    for domain in DOMAINS:
        title = TITLES[domain]
        head += [f"{title}: floored", "unseen captions", "minus dropout row", "query gap"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for entry in entries:
        cells = [_name(entry)]
        for domain in DOMAINS:
            part = entry[domain]
            keys = ("text_floored", "text_unseen_captions", "minus_dropout", "query_gap")
            cells += [_db(part[key]) if key in part else "" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def meta_text(meta: dict[str, Any]) -> str:
    """Sentences on the runs and mixtures behind the figures."""
    machines = {json.loads(each)["cpu"] for each in meta["machines"]}
    return (
        f"{meta['num_runs']} of {meta['num_runs_of_the_whole_study']} runs, "
        f"{meta['training_hours']} hours of training with one thread each "
        f"({', '.join(sorted(machines)) or 'no machine yet'}); steps {meta['steps']}, "
        f"parameters {meta['parameters']}; mixtures {meta['mixtures']} of "
        f"{meta['target_clips']} target clips; share of targets whose first caption is, word for "
        f"word, that of a training sound: {meta['seen_captions']}."
    )


def _name(entry: Entry) -> str:
    setting = f", {entry['setting']}" if entry["setting"] else ""
    return f"{entry['row'].replace('_', ' ')}{setting}"


def rows_table(entries: Iterable[Entry], references: dict[str, Any]) -> str:
    """Markdown table of all rows, settings and references, for both domains."""
    head = ["row", "seeds"]
    for domain in DOMAINS:
        head += [f"{TITLES[domain]}: text", "median", "improved", "audio", "minus text row"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for entry in entries:
        name = _name(entry)
        cells = [f"**{name}**" if entry["chosen"] else name, str(entry["seeds"])]
        for domain in DOMAINS:
            part = entry[domain]
            text = part["text"]
            cells += [
                _db(text["mean"]),
                f"{text['median']['estimate']:+.2f}",
                f"{100 * text['share_improved']['estimate']:.0f} %",
                f"{part['audio']['mean']['estimate']:+.2f}",
                _db(part["minus_text"]) if "minus_text" in part else "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    for name, parts in references.items():
        cells = [name.replace("_", " "), ""]
        for domain in DOMAINS:
            part = parts[domain]
            cells += [
                f"{part['mean']['estimate']:+.2f}",
                f"{part['median']['estimate']:+.2f}",
                f"{100 * part['share_improved']['estimate']:.0f} %",
                "",
                "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# Pictures


def save_picture(path: Path, draw: Callable[[Any], None]) -> None:
    """Draw a picture and write it as a PNG; an interrupted call leaves the old file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _errors(intervals: Sequence[Interval]) -> list[list[float]]:
    """Lengths of matplotlib's error bars, below and above."""
    return [
        [max(0.0, interval["estimate"] - interval["low"]) for interval in intervals],
        [max(0.0, interval["high"] - interval["estimate"]) for interval in intervals],
    ]


def draw_rows(figure: Any, entries: Sequence[Entry]) -> None:
    """Draw the mean and interval of every row, text queries above audio queries.

    A line shows the row of text training.
    """
    axes = figure.subplots(1, 2, sharey=True)
    reference = text_of(entries)
    names = [f"{_name(entry)} ({entry['seeds']})" for entry in entries]
    for axis, domain in zip(axes, DOMAINS, strict=True):
        for kind, offset in (("text", -0.14), ("audio", 0.14)):
            means = [entry[domain][kind]["mean"] for entry in entries]
            axis.errorbar(
                [interval["estimate"] for interval in means],
                [i + offset for i in range(len(entries))],
                xerr=_errors(means),
                fmt="o",
                color=COLOURS[kind],
                label=f"{kind} queries",
                markersize=5,
                capsize=2,
            )
        if reference is not None:
            axis.axvline(
                reference[domain]["text"]["mean"]["estimate"], color=COLOURS["text"], alpha=0.4
            )
        axis.set_title(TITLES[domain])
        axis.set_xlabel("SI-SDRi (dB), mean and 95 % interval")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(entries)), names)
    axes[0].set_ylabel("row (seeds)")
    axes[0].invert_yaxis()
    axes[1].legend(loc="best")


def draw_sweep(
    figure: Any, points: Sequence[tuple[float, Entry]], label: str, reference: Entry | None
) -> None:
    """Draw means with intervals against a quantity; a band shows the row of text training."""
    axes = figure.subplots(1, 2, sharey=True)
    for axis, domain in zip(axes, DOMAINS, strict=True):
        if reference is not None:
            band = reference[domain]["text"]["mean"]
            axis.axhspan(band["low"], band["high"], color=COLOURS["text"], alpha=0.12)
            axis.axhline(
                band["estimate"], color=COLOURS["text"], alpha=0.5, label="text row, text queries"
            )
        for kind in KINDS:
            means = [entry[domain][kind]["mean"] for _, entry in points]
            axis.errorbar(
                [x for x, _ in points],
                [interval["estimate"] for interval in means],
                yerr=_errors(means),
                marker="o",
                color=COLOURS[kind],
                label=f"{kind} queries",
                capsize=3,
            )
        axis.set_title(TITLES[domain])
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("SI-SDRi (dB)")
    axes[1].legend(loc="best")


def draw_curves(figure: Any, study: Study) -> None:
    """Draw the validation scores along the training."""
    axes = figure.subplots(1, 2, sharey=True)
    styles = ["-", "--", ":", "-."]
    shown = [row.name for row in study.config.rows if study.seeds_of(row.name)]
    for number, name in enumerate(shown):
        lines = study.seeds_of(name)
        for axis, kind in zip(axes, KINDS, strict=True):
            x, y = mean_curve(lines, kind)
            axis.plot(
                x, y, styles[number // 10 % 4], color=f"C{number % 10}",
                label=name.replace("_", " "),
            )  # fmt: skip
    for axis, kind in zip(axes, KINDS, strict=True):
        axis.set_title(f"validation, {kind} queries")
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("SI-SDRi (dB), mean over seeds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)


def mean_curve(lines: Sequence[Line], kind: str) -> tuple[list[float], list[float]]:
    """Steps that all runs logged, and the mean score of the runs at each of them."""
    by_step: dict[float, list[float]] = {}
    for line in lines:
        for point in line["curve"]:
            by_step.setdefault(point["step"], []).append(point[kind])
    steps = sorted(step for step, scores in by_step.items() if len(scores) == len(lines))
    return steps, [sum(by_step[step]) / len(lines) for step in steps]
