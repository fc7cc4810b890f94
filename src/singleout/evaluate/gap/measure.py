"""The modality gap: the distance between the embeddings of texts and of the sounds they describe.

A separator that is trained on embeddings of audio gets text queries whose embeddings lie elsewhere.
`modality_gap` measures this. It takes embeddings, not an encoder, so that manipulated embeddings
can be measured as well. Formulas and how to read them: ``docs/gap.md``.

Source: Liang et al., "Mind the Gap", NeurIPS 2022 (centroid distance).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from singleout.audio import read_audio
from singleout.data.clips import Clip
from singleout.encoders import QueryEncoder
from singleout.errors import InputError
from singleout.evaluate.gap.geometry import as_codes, effective_rank, linked_groups, separability
from singleout.evaluate.statistics import Interval, bootstrap_interval, mean, median
from singleout.progress import track

TIE = 1e-6
"""Cosines that differ by less count as equal, so that rounding decides nothing."""
_CHUNK_COSINES = 2**21
"""Cosines held at once. Bounds the memory, does not change the result."""


class Retrieval(TypedDict):
    """Retrieval with one query per sound, by the rank of the nearest correct candidate.

    Attributes:
        recall_at_1, recall_at_5, recall_at_10: share of queries of at most this rank.
        median_rank: 1 is the best.
        num_candidates: number of candidates.
    """

    recall_at_1: Interval
    recall_at_5: Interval
    recall_at_10: Interval
    median_rank: Interval
    num_candidates: int


class EffectiveRank(TypedDict):
    """Effective ranks of the sounds, of the captions, and of both together, from 1 to ``dim``."""

    audio: float
    text: float
    joint: float


class GapReport(TypedDict):
    """All figures of the gap, ready for JSON; see `modality_gap` and ``docs/gap.md``.

    ``separability`` is None where groups or captions link all sounds, so that none can be held
    out. ``pair_accuracy_families`` is None where all classes are of one family.
    """

    num_sounds: int
    num_classes: int
    num_captions: int
    num_groups: int
    dim: int
    matched_cosine: Interval
    matched_cosine_std: float
    mismatched_cosine: float
    cosine_difference: float
    centroid_distance: float
    centroid_share: float
    separability: float | None
    pair_accuracy_classes: Interval
    pair_accuracy_families: Interval | None
    text_to_audio: Retrieval
    audio_to_text: Retrieval
    effective_rank: EffectiveRank


def embed_pairs(
    encoder: QueryEncoder, clips: Sequence[Clip], seconds: float = 10.0
) -> tuple[Tensor, Tensor]:
    """Embed sounds and their captions.

    Args:
        encoder: of the embeddings.
        clips: each with a caption, of which the first is embedded.
        seconds: length of each sound that is embedded, from its start, with channels averaged.

    Returns:
        Sounds and captions, each [clips, dim].

    Raises:
        AudioError: a file cannot be read.
        QueryError: a clip has no caption.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from singleout.audio import write_wav
        >>> from singleout.encoders import load_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "hum.wav"
        ...     write_wav(path, np.zeros((1, 8_000), np.float32), 8_000)
        ...     clip = Clip(path, 1.0, "a hum", (), "hum", "1", "test")
        ...     audio, text = embed_pairs(load_encoder("builtin"), [clip])
        >>> audio.shape == text.shape
        True
    """
    sounds = []
    for clip in track(clips, "embedding the sounds"):
        audio, rate = read_audio(clip.path, strict=True)
        sounds.append(encoder.embed_audio(audio[:, : round(seconds * rate)].mean(0), rate))
    # Once each, so that sounds of one caption have exactly the same text embedding.
    captions = dict.fromkeys(clip.caption or "" for clip in clips)
    texts = {c: encoder.embed_text(c) for c in track(tuple(captions), "embedding the captions")}
    return torch.cat(sounds), torch.cat([texts[clip.caption or ""] for clip in clips])


def modality_gap(
    audio: Tensor,
    text: Tensor,
    labels: Sequence[str],
    captions: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> GapReport:
    """Measure the gap between sounds and their captions.

    Cosines and retrieval ignore the length of embeddings; the cosine of an all-zero embedding is
    0. Centroids, separability and effective ranks take embeddings as they are.

    Args:
        audio: [sounds, dim].
        text: [sounds, dim], the captions of the sounds in the same order.
        labels: class of each sound, ``family/name`` or any other text.
        captions: caption of each sound. Equal captions are one candidate, and all their sounds are
            correct. By default no two captions are equal.
        groups: recording of each sound. Sounds of one recording are drawn and held out together.
            By default each sound is a recording.
        seed: of the bootstrap and of the folds.

    Raises:
        InputError: shapes or lengths differ, a value is not finite, or there are fewer than two
            sounds or classes.

    Example:
        >>> audio, text = torch.eye(3), torch.eye(3) + 0.1
        >>> report = modality_gap(audio, text, ["animal/dog", "animal/cat", "water/rain"])
        >>> report["text_to_audio"]["recall_at_1"]["estimate"]
        1.0
        >>> round(report["centroid_distance"], 3)
        0.173
    """
    _check(audio, text, labels, captions=captions, groups=groups)
    rows = range(len(audio))
    caption = as_codes(rows if captions is None else captions)
    group = as_codes(rows if groups is None else groups)
    families = [label.split("/")[0] for label in labels]
    by_class, by_family = (
        pair_accuracy(audio, text, names, groups, seed) if len(set(names)) > 1 else None
        for names in (labels, families)
    )
    assert by_class is not None
    pairs = [embeddings.detach().cpu().double() for embeddings in (audio, text)]
    return _report(pairs[0], pairs[1], as_codes(labels), caption, group, by_class, by_family, seed)


def _report(
    audio: Tensor,
    text: Tensor,
    label: Tensor,
    caption: Tensor,
    group: Tensor,
    by_class: Interval,
    by_family: Interval | None,
    seed: int,
) -> GapReport:
    """All figures, from float64 embeddings, numbers [sounds] and the pair accuracies."""
    distance = float((audio - text).square().sum(1).mean())
    centroid = float((audio.mean(0) - text.mean(0)).norm())
    sounds, words = F.normalize(audio, dim=1), F.normalize(text, dim=1)
    matched = (sounds * words).sum(1).numpy()
    mismatched = _mismatched_cosine(sounds, words, label)
    distinct = F.normalize(_sums(words, caption), dim=1)
    numbers = torch.arange(len(distinct))
    drawn = group.numpy()
    return GapReport(
        num_sounds=len(audio),
        num_classes=int(label.max()) + 1,
        num_captions=len(distinct),
        num_groups=int(group.max()) + 1,
        dim=audio.shape[1],
        matched_cosine=bootstrap_interval(matched, drawn, seed=seed),
        matched_cosine_std=float(matched.std()),
        mismatched_cosine=mismatched,
        cosine_difference=float(matched.mean()) - mismatched,
        centroid_distance=centroid,
        centroid_share=centroid**2 / distance if distance else 0.0,
        separability=separability(audio, text, linked_groups(group, caption), seed),
        pair_accuracy_classes=by_class,
        pair_accuracy_families=by_family,
        text_to_audio=_retrieval(words, sounds, caption, caption, drawn, seed),
        audio_to_text=_retrieval(sounds, distinct, caption, numbers, drawn, seed),
        effective_rank=EffectiveRank(
            audio=effective_rank(audio),
            text=effective_rank(text),
            joint=effective_rank(torch.cat([audio, text])),
        ),
    )


def pair_accuracy(
    audio: Tensor,
    text: Tensor,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Interval:
    """How often a caption is nearer to its sound than to a sound of another label.

    The share is over all ordered pairs of different labels; chance is 0.5, and a tie is an error.
    It bounds the quality of extraction by text.

    Args:
        audio, text, labels, groups, seed: see `modality_gap`.

    Raises:
        InputError: see `modality_gap`.

    Example:
        >>> audio, labels = torch.eye(3), ["dog", "cat", "rain"]
        >>> pair_accuracy(audio, audio, labels)["estimate"]
        1.0
        >>> pair_accuracy(audio, audio.flip(0), labels)["estimate"]  # only "cat" is right
        0.3333333333333333
    """
    _check(audio, text, labels, groups=groups)
    sounds, words = (F.normalize(x.detach().cpu().double(), dim=1) for x in (audio, text))
    matched, label = (sounds * words).sum(1, keepdim=True).float(), as_codes(labels)
    counts_nearer, counts = [], []
    for part, cosines in _cosines(words, sounds):
        is_other = label[part, None] != label
        counts_nearer.append((is_other & (matched[part] - cosines > TIE)).sum(1))
        counts.append(is_other.sum(1))
    num_others = torch.cat(counts).double().numpy()
    return bootstrap_interval(
        torch.cat(counts_nearer).numpy(),
        None if groups is None else as_codes(groups).numpy(),
        lambda values, weights: (weights @ values) / (weights @ num_others),
        seed=seed,
    )


def _check(
    audio: Tensor, text: Tensor, labels: Sequence[str], **names: Sequence[str] | None
) -> None:
    if audio.ndim != 2 or audio.shape != text.shape or audio.shape[1] < 2:
        shapes = f"{list(audio.shape)} and {list(text.shape)}"
        raise InputError(f"audio and text must both be [sounds, dim >= 2], got {shapes}")
    if len(audio) < 2:
        raise InputError(f"the gap needs at least two sounds, got {len(audio)}")
    for modality, embeddings in {"audio": audio, "text": text}.items():
        bad = int((~torch.isfinite(embeddings).all(1)).sum())
        if bad:
            raise InputError(f"{modality} embeddings must be finite, {bad} are not")
    for name, values in {"labels": labels, **names}.items():
        if values is not None and len(values) != len(audio):
            raise InputError(f"{name} must name {len(audio)} sounds, got {len(values)}")
    if len(set(labels)) < 2:
        raise InputError(
            f"all sounds are of one class ('{labels[0]}'): mismatched cosine and pair accuracy "
            "compare sounds of different classes"
        )


def _sums(rows: Tensor, codes: Tensor) -> Tensor:
    """Sums of the rows of each code, [codes, dim] from [count, dim]."""
    return rows.new_zeros(int(codes.max()) + 1, rows.shape[1]).index_add_(0, codes, rows)


def _mismatched_cosine(sounds: Tensor, words: Tensor, label: Tensor) -> float:
    """Mean cosine of all ordered pairs of different classes.

    The sum over all pairs is a product of sums, and so is the sum within a class. So the time is
    linear in the number of sounds.
    """
    within = (_sums(sounds, label) * _sums(words, label)).sum()
    num_pairs = len(label) ** 2 - int(torch.bincount(label).square().sum())
    return float(sounds.sum(0) @ words.sum(0) - within) / num_pairs


def _cosines(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of unit-norm queries, with their cosines, float32 [queries of it, candidates]."""
    size = max(1, _CHUNK_COSINES // len(candidates))
    queries, candidates = queries.float(), candidates.float()
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        yield part, queries[part] @ candidates.T


def _retrieval(
    queries: Tensor,
    candidates: Tensor,
    query_captions: Tensor,
    candidate_captions: Tensor,
    groups: NDArray[np.int64],
    seed: int,
) -> Retrieval:
    """A candidate is correct if it has the caption of the query; a tie with a wrong one loses.

    Args:
        queries: unit norm [sounds, dim].
        candidates: unit norm [candidates, dim].
        query_captions: numbers [sounds].
        candidate_captions: numbers [candidates].
        groups: drawn by the bootstrap, [sounds].
        seed: of the bootstrap.
    """
    parts = []
    for part, cosines in _cosines(queries, candidates):
        is_correct = query_captions[part, None] == candidate_captions
        best = cosines.where(is_correct, -torch.inf).amax(1, keepdim=True)
        parts.append(1 + (~is_correct & (cosines > best - TIE)).sum(1))
    ranks = torch.cat(parts).numpy()
    within = {k: bootstrap_interval(ranks <= k, groups, mean, seed=seed) for k in (1, 5, 10)}
    return Retrieval(
        recall_at_1=within[1],
        recall_at_5=within[5],
        recall_at_10=within[10],
        median_rank=bootstrap_interval(ranks, groups, median, seed=seed),
        num_candidates=len(candidates),
    )
