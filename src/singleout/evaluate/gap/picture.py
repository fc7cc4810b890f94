"""Draws what ``modality_gap`` measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from singleout.evaluate.gap.geometry import as_codes, principal_axes
from singleout.evaluate.gap.measure import GapReport
from singleout.storage.atomic import replacing

MAX_DRAWN_PAIRS = 150
MAX_DRAWN_COSINES = 20_000
AUDIO_COLOUR, TEXT_COLOUR, GREY = "#0072B2", "#D55E00", "#666666"
"""Colours that colour-blind readers can distinguish (Okabe & Ito)."""


def save_picture(
    audio: Tensor,
    text: Tensor,
    labels: Sequence[str],
    report: GapReport,
    path: Path,
    title: str = "",
    seed: int = 0,
) -> None:
    """Draw what `modality_gap` measured as a PNG, whole or not at all.

    The left plot shows the cosines of matched and mismatched pairs. The middle plot shows both
    modalities on their two joint principal axes, with some pairs connected. The right plot shows
    the singular values.

    Args:
        audio, text, labels: as of `modality_gap`.
        report: its result.
        path: of the PNG.
        title: of the picture.
        seed: of the pairs that are drawn.

    Raises:
        ImportError: matplotlib (the extra ``plot``) is not installed.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from singleout.evaluate.gap.measure import modality_gap
        >>> audio, text, labels = torch.eye(3), torch.eye(3) + 0.1, ["dog", "cat", "rain"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "gap.png"
        ...     save_picture(audio, text, labels, modality_gap(audio, text, labels), path)
        ...     path.exists()
        True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    a, t = (x.detach().cpu().double() for x in (audio, text))
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(13, 4.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(title, parse_math=False)
    _draw_cosines(left, a, t, as_codes(labels).numpy(), report, rng)
    _draw_plane(middle, a, t, report, rng)
    _draw_spectra(right, a, t, report)
    for axis in (left, middle, right):
        axis.title.set_fontsize("medium")
        axis.spines[["top", "right"]].set_visible(False)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
        axis.legend(**below, ncols=4, frameon=False, fontsize="small", columnspacing=1.0)
    with replacing(path) as partial:
        canvas.print_figure(partial, format="png")


def _draw_cosines(
    axis: Any,
    a: Tensor,
    t: Tensor,
    label: NDArray[Any],
    report: GapReport,
    rng: np.random.Generator,
) -> None:
    sounds, words = F.normalize(a, dim=1), F.normalize(t, dim=1)
    i, j = rng.integers(len(a), size=(2, MAX_DRAWN_COSINES))
    differ = label[i] != label[j]
    matched = (sounds * words).sum(1).numpy()
    mismatched = (sounds[i[differ]] * words[j[differ]]).sum(1).numpy()
    means = (report["matched_cosine"]["estimate"], report["mismatched_cosine"])
    ends = np.concatenate([matched, mismatched])
    bins = np.linspace(ends.min() - 1e-3, ends.max() + 1e-3, 41)
    for name, cosines, middle, colour in (
        ("matched", matched, means[0], AUDIO_COLOUR),
        ("mismatched", mismatched, means[1], GREY),
    ):
        weights = np.full(len(cosines), 1 / max(1, len(cosines)))
        axis.hist(cosines, bins, weights=weights, color=colour, alpha=0.45, label=name)
        axis.axvline(middle, color=colour, linewidth=1.5, linestyle="--")
    axis.set_xlabel("cosine of sound and caption (dashed: mean)")
    axis.set_ylabel("share of pairs")
    axis.set_title(f"cosine: matched {means[0]:.2f}, mismatched {means[1]:.2f}")


def _draw_plane(
    axis: Any, a: Tensor, t: Tensor, report: GapReport, rng: np.random.Generator
) -> None:
    both = torch.cat([a, t])
    values, axes = principal_axes(both)
    shares = 100 * values.square() / values.square().sum().clamp(min=1e-300)
    sounds, words = (((x - both.mean(0)) @ axes[:, :2]).numpy() for x in (a, t))
    shown = rng.permutation(len(a))[:MAX_DRAWN_PAIRS]
    joined = np.stack([sounds[shown], words[shown]])
    axis.plot(*joined.transpose(2, 0, 1), color=GREY, alpha=0.25, linewidth=0.5, zorder=1)
    for name, cloud, colour, marker in (
        ("sounds", sounds, AUDIO_COLOUR, "o"),
        ("captions", words, TEXT_COLOUR, "^"),
    ):
        axis.scatter(*cloud[shown].T, s=12, color=colour, marker=marker, alpha=0.7, label=name)
        centroid = {"s": 130, "color": colour, "marker": marker, "edgecolor": "black"}
        axis.scatter(*cloud.mean(0), **centroid, zorder=3, label="their centroid")
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel(f"1st principal axis ({shares[0]:.0f} % of the variance)")
    axis.set_ylabel(f"2nd ({shares[1]:.0f} %)")
    apart = report["separability"]
    title = f"centroids {report['centroid_distance']:.2f} apart"
    axis.set_title(title + ("" if apart is None else f", separability {apart:.2f}"))


def _draw_spectra(axis: Any, a: Tensor, t: Tensor, report: GapReport) -> None:
    ranks = report["effective_rank"]
    for name, embeddings, colour, style in (
        ("sounds", a, AUDIO_COLOUR, "-"),
        ("captions", t, TEXT_COLOUR, "--"),
        ("both", torch.cat([a, t]), "black", ":"),
    ):
        values = principal_axes(embeddings)[0].numpy()
        shares = values[values > 0] / values.sum()
        axis.plot(np.arange(1, len(shares) + 1), shares, style, color=colour, label=name)
    axis.set_xlabel(f"number of the singular value, of {a.shape[1]}")
    axis.set_ylabel("share of their sum")
    axis.set_yscale("log")
    axis.set_title(f"effective rank: sounds {ranks['audio']:.1f}, captions {ranks['text']:.1f}")
