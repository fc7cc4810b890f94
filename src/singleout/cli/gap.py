"""``singleout gap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import AsJson, Manifest, named
from singleout.cli.outputs import check_file, make_folder
from singleout.cli.results import format_interval, provenance

if TYPE_CHECKING:
    from singleout.data.clips import Clip
    from singleout.evaluate.statistics import Interval

GapEncoder = Annotated[
    str,
    typer.Option(
        help="builtin; folder, hub id or .pt file of a CLAP; or folder of an encoder.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of the manifest.", show_default="all")]
Seconds = Annotated[
    float, typer.Option(help="Length to embed of each sound, from its start.", min=0.1)
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="JSON file of the figures.", parser=named, metavar="PATH"),
]
Plot = Annotated[
    Path | None, typer.Option(help="PNG file of the picture.", parser=named, metavar="PATH")
]
Seed = Annotated[int, typer.Option(help="Seed of the intervals and of the held-out sounds.", min=0)]


def gap(
    manifest: Manifest,
    encoder: GapEncoder = "builtin",
    split: Split = None,
    seconds: Seconds = 10.0,
    output: Output = None,
    plot: Plot = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure, and draw, the distance between an encoder's embeddings of captions and sounds."""
    import json
    from time import perf_counter

    started = perf_counter()
    _check_outputs(manifest, output, plot)  # before any work

    from singleout.encoders import load_encoder
    from singleout.evaluate.gap.measure import embed_pairs, modality_gap
    from singleout.evaluate.gap.picture import save_picture
    from singleout.storage.atomic import replacing_all

    clips, num_without_caption = _captioned(manifest, split)
    labels = [clip.label for clip in clips]
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
        "num_without_caption": num_without_caption,
    }
    result: dict[str, Any] = {"meta": meta, **report}
    printed = json.dumps(result, indent=2)
    paths = [path for path in (output, plot) if path is not None]
    for path in paths:
        make_folder(path.parent)
    with replacing_all(paths) as partials:
        for path, partial in zip(paths, partials, strict=True):
            if path == output:
                partial.write_text(printed + "\n", encoding="utf-8")
            else:
                title = f"Modality gap of {encoder} on {len(clips):,} sounds"
                save_picture(audio, text, labels, report, partial, title, seed)
    typer.echo(printed if as_json else _table(result))


def _check_outputs(manifest: Path, output: Path | None, plot: Path | None) -> None:
    if plot is not None:
        from singleout.extract.picture import require_matplotlib

        require_matplotlib()
        if plot.suffix.lower() != ".png":
            raise typer.BadParameter(f"'{plot}': the picture is a PNG", param_hint="'--plot'")
        check_file(plot, manifest, *([output] if output else []))
    if output is not None:
        check_file(output, manifest)


def _captioned(manifest: Path, split: str | None) -> tuple[list[Clip], int]:
    """The clips with a caption, and the number of the others.

    Raises:
        ManifestError: the clips with a caption are of fewer than two classes.
    """
    from singleout.data.manifest import read_manifest
    from singleout.errors import ManifestError

    clips = read_manifest(manifest, split)
    captioned = [clip for clip in clips if clip.caption and clip.caption.strip()]
    num_classes = len({clip.label for clip in captioned})
    if num_classes < 2:
        raise ManifestError(
            f"{manifest}: the gap needs captioned sounds of at least two classes; "
            f"{len(captioned)} of {len(clips)} sounds have a caption, of {num_classes} classes"
        )
    return captioned, len(clips) - len(captioned)


def _table(result: dict[str, Any]) -> str:
    num_without = result["meta"]["num_without_caption"]
    without_caption = f"; {num_without} sounds without caption left out" if num_without else ""
    separability = result["separability"]
    families, rank = result["pair_accuracy_families"], result["effective_rank"]
    lines = [
        f"{result['num_sounds']} sounds of {result['num_classes']} classes, "
        f"{result['num_captions']} captions, {result['dim']} dimensions{without_caption}",
        f"{'':20} figure [95 % interval]",
        _line("matched cosine", result["matched_cosine"])
        + f"   std {result['matched_cosine_std']:.3f}",
        _line("mismatched cosine", result["mismatched_cosine"]),
        _line("difference", result["cosine_difference"]),
        _line("centroid distance", result["centroid_distance"])
        + f"   {100 * result['centroid_share']:.1f} % of the pairs' mean squared distance",
        _line("separability", separability)
        + (
            "   all sounds share captions or groups"
            if separability is None
            else "   0.5: no gap, 1: apart"
        ),
        _line("pair accuracy", result["pair_accuracy_classes"]) + "   of different classes",
        _line("", families)
        + ("   of different families" if families is not None else "   only one family of classes"),
        f"{'effective rank':20} sounds {rank['audio']:.1f}, captions {rank['text']:.1f}, "
        f"both {rank['joint']:.1f}",
        f"{'retrieval':20} {'recall@1':<22} {'@5':>6} {'@10':>6} {'median rank':>12} candidates",
    ]
    for name in ("text_to_audio", "audio_to_text"):
        retrieval = result[name]
        lines.append(
            _line(name.replace("_", " "), retrieval["recall_at_1"])
            + f" {retrieval['recall_at_5']['estimate']:6.3f}"
            + f" {retrieval['recall_at_10']['estimate']:6.3f}"
            + f" {retrieval['median_rank']['estimate']:12.1f} {retrieval['num_candidates']:10}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _line(name: str, figure: Interval | float | None) -> str:
    if figure is None:
        shown = "none"
    elif isinstance(figure, float):
        shown = f"{figure:.3f}"
    else:
        shown = format_interval(figure, 3)
    return f"{name:20} {shown:<22}"
