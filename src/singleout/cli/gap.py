"""``singleout gap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import AsJson, named
from singleout.cli.outputs import check_file
from singleout.cli.results import provenance

if TYPE_CHECKING:
    from singleout.evaluate.statistics import Interval


def gap(
    manifest: Annotated[Path, typer.Argument(help="JSONL of captioned sounds.", readable=False)],
    encoder: Annotated[
        str,
        typer.Option(help="builtin, a CLAP's folder, hub id or .pt file, or an encoder's folder."),
    ] = "builtin",
    split: Annotated[
        str | None, typer.Option(help="Which split of it.", show_default="all")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="How much of each sound to embed, from its start.", min=0.1)
    ] = 10.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="JSON file of the figures.", parser=named, metavar="PATH"
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file of the picture.", parser=named, metavar="PATH")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the intervals and of the held-out sounds.", min=0)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure, and draw, how far an encoder's captions lie from its sounds."""
    import json
    from contextlib import ExitStack
    from time import perf_counter

    started = perf_counter()
    # What fails at once comes first.
    if plot is not None:
        from singleout.extract.picture import require_matplotlib

        require_matplotlib()
        if plot.suffix.lower() != ".png":
            raise typer.BadParameter(f"'{plot}': the picture is a PNG", param_hint="'--plot'")
        check_file(plot, manifest, *([output] if output else []))
    if output is not None:
        check_file(output, manifest)
    paths = [path for path in (output, plot) if path is not None]

    from singleout.data.manifest import read_manifest
    from singleout.encoders import load_encoder
    from singleout.errors import ManifestError
    from singleout.evaluate.gap.measure import embed_pairs, modality_gap
    from singleout.evaluate.gap.picture import save_picture
    from singleout.storage.atomic import replacing

    found = read_manifest(manifest, split)
    clips = [clip for clip in found if clip.caption and clip.caption.strip()]
    labels = [clip.label for clip in clips]
    if len(set(labels)) < 2:
        raise ManifestError(
            f"{manifest}: the gap needs captioned sounds of at least two classes; "
            f"{len(clips)} of {len(found)} sounds have a caption, of {len(set(labels))} classes"
        )
    loaded = load_encoder(encoder)
    audio, text = embed_pairs(loaded, clips, seconds)
    captions, groups = [clip.caption or "" for clip in clips], [clip.group for clip in clips]
    report = modality_gap(audio, text, labels, captions, groups, seed)
    command = f"singleout gap MANIFEST --encoder {encoder} --seconds {seconds:g} --seed {seed}"
    command += "" if split is None else f" --split {split}"
    meta = {
        **provenance(command, loaded, perf_counter() - started),
        "manifest": str(manifest),
        "split": split,
        "encoder": encoder,
        "fingerprint": loaded.fingerprint,
        "seconds_of_sound": seconds,
        "seed": seed,
        "num_without_caption": len(found) - len(clips),
    }
    result: dict[str, Any] = {"meta": meta, **report}
    printed = json.dumps(result, indent=2)
    with ExitStack() as all_or_none:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if output is not None:
            partial = all_or_none.enter_context(replacing(output))
            partial.write_text(printed + "\n", encoding="utf-8")
        if plot is not None:
            partial = all_or_none.enter_context(replacing(plot))
            title = f"Modality gap of {encoder} on {len(clips):,} sounds"
            save_picture(audio, text, labels, report, partial, title, seed)
    typer.echo(printed if as_json else _table(result))


def _table(result: dict[str, Any]) -> str:
    left_out = result["meta"]["num_without_caption"]
    separability = result["separability"]
    families, rank = result["pair_accuracy_families"], result["effective_rank"]
    nobody = "all sounds share captions or groups"
    lines = [
        f"{result['num_sounds']} sounds of {result['num_classes']} classes, "
        f"{result['num_captions']} captions, {result['dim']} dimensions"
        + (f"; {left_out} sounds without caption left out" if left_out else ""),
        f"{'':20} figure [95 % interval]",
        _line("matched cosine", result["matched_cosine"])
        + f"   std {result['matched_cosine_std']:.3f}",
        _line("mismatched cosine", result["mismatched_cosine"]),
        _line("difference", result["cosine_difference"]),
        _line("centroid distance", result["centroid_distance"])
        + f"   {100 * result['centroid_share']:.1f} % of the pairs' mean squared distance",
        _line("separability", separability)
        + ("   0.5: no gap, 1: apart" if separability is not None else f"   {nobody}"),
        _line("pair accuracy", result["pair_accuracy_classes"]) + "   of different classes",
        _line("", families)
        + ("   of different families" if families is not None else "   only one family of classes"),
        f"{'effective rank':20} sounds {rank['audio']:.1f}, captions {rank['text']:.1f}, "
        f"both {rank['joint']:.1f}",
        f"{'retrieval':20} {'recall@1':<22} {'@5':>6} {'@10':>6} {'median rank':>12} candidates",
    ]
    for name in ("text_to_audio", "audio_to_text"):
        own = result[name]
        lines.append(
            _line(name.replace("_", " "), own["recall_at_1"])
            + f" {own['recall_at_5']['estimate']:6.3f} {own['recall_at_10']['estimate']:6.3f}"
            + f" {own['median_rank']['estimate']:12.1f} {own['num_candidates']:10}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _line(name: str, figure: Interval | float | None) -> str:
    if figure is None:
        shown = "none"
    elif isinstance(figure, float):
        shown = f"{figure:.3f}"
    else:
        shown = f"{figure['estimate']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{name:20} {shown:<22}"
