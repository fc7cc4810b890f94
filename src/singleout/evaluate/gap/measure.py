"""The modality gap: how far texts lie from the sounds they describe, and in what way.

A separator that is trained on embeddings of audio and asked in words meets embeddings from another
place. `modality_gap` measures that place; it takes embeddings, not an encoder, so that manipulated
ones can be measured as well. Formulas and how to read them: ``docs/gap.md``.

Sources: Liang et al., "Mind the Gap", NeurIPS 2022 (centroid distance); Roy & Vetterli, "The
effective rank", EUSIPCO 2007.
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
from singleout.data.manifest import Clip
from singleout.encoders import QueryEncoder
from singleout.errors import InputError
from singleout.evaluate.statistics import Interval, bootstrap_interval, mean, median
from singleout.progress import track

TIE = 1e-6
"""Cosines that differ by less are equal: rounding must not decide who is nearer."""
NUM_FOLDS = 5
RIDGE = 1e-3
"""Of the linear classifier, relative to the mean variance of a dimension."""

_CHUNK_COSINES = 2**21
"""Cosines held at once: bounds the memory, does not change the result."""


class Retrieval(TypedDict):
    """One query per sound; how many candidates are nearer than the first right one."""

    recall_at_1: Interval
    recall_at_5: Interval
    recall_at_10: Interval
    median_rank: Interval
    num_candidates: int


class EffectiveRank(TypedDict):
    """Of the sounds, of the captions, and of both in one cloud; between 1 and ``dim``."""

    audio: float
    text: float
    joint: float


class GapReport(TypedDict):
    """All figures of the gap; ready for JSON. See ``docs/gap.md``.

    ``separability`` is None where a group or caption links all sounds, so that none can be held
    out; ``pair_accuracy_families`` is None where all classes are of one family.
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
    """Sounds (their first ``seconds``, channels averaged) and first captions, each [clips, dim].

    Raises:
        AudioError: a file cannot be read.
        QueryError: a clip has no caption.
    """
    sounds = []
    for clip in track(clips, "embedding the sounds"):
        audio, rate = read_audio(clip.path)
        sounds.append(encoder.embed_audio(audio[:, : round(seconds * rate)].mean(0), rate))
    # Once each: sounds of one caption have the very same text embedding.
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

    Cosines and what follows from them ignore the length of embeddings (an all-zero one has the
    cosine 0 with everything); centroids, separability and ranks take embeddings as they are.

    Args:
        audio: [sounds, dim].
        text: [sounds, dim], row by row the captions of the sounds.
        labels: class of each sound, ``family/name`` or any other text.
        captions: what each sound's caption says: equal captions are one candidate, and any of
            their sounds is right. By default no two are equal.
        groups: sounds of one recording; drawn and held out together. By default each its own.
        seed: of the bootstrap and of who is held out.

    Raises:
        InputError: shapes or lengths differ, a value is not finite, fewer than two sounds or
            classes.
    """
    _check(audio, text, labels, captions=captions, groups=groups)
    rows = range(len(audio))
    caption = as_codes(rows if captions is None else captions)
    group = as_codes(rows if groups is None else groups)
    families = [label.split("/")[0] for label in labels]

    a, t = (x.detach().cpu().double() for x in (audio, text))
    offset = a.mean(0) - t.mean(0)
    distance = float((a - t).square().sum(1).mean())
    centroid = float(offset.norm())

    sounds, words = F.normalize(a, dim=1), F.normalize(t, dim=1)
    matched = (sounds * words).sum(1).numpy()
    mismatched = _mismatched_cosine(sounds, words, as_codes(labels))
    distinct = F.normalize(_sums(words, caption), dim=1)
    numbers = torch.arange(len(distinct))
    drawn = group.numpy()
    return GapReport(
        num_sounds=len(audio),
        num_classes=len(set(labels)),
        num_captions=len(distinct),
        num_groups=int(group.max()) + 1,
        dim=audio.shape[1],
        matched_cosine=bootstrap_interval(matched, drawn, seed=seed),
        matched_cosine_std=float(matched.std()),
        mismatched_cosine=mismatched,
        cosine_difference=float(matched.mean()) - mismatched,
        centroid_distance=centroid,
        centroid_share=centroid**2 / distance if distance else 0.0,
        separability=_separability(a, t, _linked(group, caption), seed),
        pair_accuracy_classes=pair_accuracy(audio, text, labels, groups, seed),
        pair_accuracy_families=(
            pair_accuracy(audio, text, families, groups, seed) if len(set(families)) > 1 else None
        ),
        text_to_audio=_retrieval(words, sounds, caption, caption, drawn, seed),
        audio_to_text=_retrieval(sounds, distinct, caption, numbers, drawn, seed),
        effective_rank=EffectiveRank(
            audio=effective_rank(a), text=effective_rank(t), joint=effective_rank(torch.cat([a, t]))
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

    Over all ordered pairs of different labels; 0.5 by chance. It bounds what an extractor can do
    with text. A tie is an error. Arguments and errors as of `modality_gap`.
    """
    _check(audio, text, labels, groups=groups)
    sounds, words = (F.normalize(x.detach().cpu().double(), dim=1) for x in (audio, text))
    own, label = (sounds * words).sum(1, keepdim=True).float(), as_codes(labels)
    nearer, pairs = [], []
    for part, cosines in _cosines(words, sounds):
        others = label[part, None] != label
        nearer.append((others & (own[part] - cosines > TIE)).sum(1))
        pairs.append(others.sum(1))
    of = torch.cat(pairs).double().numpy()
    return bootstrap_interval(
        torch.cat(nearer).numpy(),
        None if groups is None else as_codes(groups).numpy(),
        lambda values, weights: (weights @ values) / (weights @ of),
        seed=seed,
    )


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the singular values of centred [count, dim]; 0 for a single point."""
    values = principal_axes(embeddings.double())[0]
    shares = values[values > 0] / values.sum()
    return float((-shares * shares.log()).sum().exp()) if len(shares) else 0.0


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


def as_codes(names: Sequence[str] | Sequence[int] | NDArray[np.int64]) -> Tensor:
    """Names as numbers from zero, in the order of the names: that of the sounds has no say."""
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1])


def _sums(rows: Tensor, codes: Tensor) -> Tensor:
    """[codes, dim] from [count, dim]: rows of one code are added."""
    return rows.new_zeros(int(codes.max()) + 1, rows.shape[1]).index_add_(0, codes, rows)


def _mismatched_cosine(sounds: Tensor, words: Tensor, label: Tensor) -> float:
    """Mean over all ordered pairs of different classes.

    The sum over all pairs is a product of sums, as is that within each class: no pair is visited.
    """
    within = (_sums(sounds, label) * _sums(words, label)).sum()
    num_pairs = len(label) ** 2 - int(torch.bincount(label).square().sum())
    return float(sounds.sum(0) @ words.sum(0) - within) / num_pairs


def _cosines(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which unit-norm queries, and float32 [those queries, candidates]."""
    size = max(1, _CHUNK_COSINES // len(candidates))
    queries, candidates = queries.float(), candidates.float()
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        yield part, queries[part] @ candidates.T


def _retrieval(
    queries: Tensor,
    candidates: Tensor,
    wanted: Tensor,
    offered: Tensor,
    groups: NDArray[np.int64],
    seed: int,
) -> Retrieval:
    """A candidate is right if what it offers is what the query wants; a tie with a wrong one loses.

    Args:
        queries: unit norm [sounds, dim].
        candidates: unit norm [candidates, dim].
        wanted: caption numbers [sounds].
        offered: caption numbers [candidates].
        groups: what the bootstrap draws [sounds].
        seed: of the bootstrap.
    """
    parts = []
    for part, cosines in _cosines(queries, candidates):
        right = wanted[part, None] == offered
        best = cosines.where(right, -torch.inf).amax(1, keepdim=True)
        parts.append(1 + (~right & (cosines > best - TIE)).sum(1))
    ranks = torch.cat(parts).numpy()
    within = {k: bootstrap_interval(ranks <= k, groups, mean, seed=seed) for k in (1, 5, 10)}
    return Retrieval(
        recall_at_1=within[1],
        recall_at_5=within[5],
        recall_at_10=within[10],
        median_rank=bootstrap_interval(ranks, groups, median, seed=seed),
        num_candidates=len(candidates),
    )


def _linked(group: Tensor, caption: Tensor) -> Tensor:
    """Numbers [sounds] that sounds share if a group or a caption links them, however indirectly."""
    linked = group
    while True:
        before = linked
        for ids in (caption, group):
            least = torch.full((int(ids.max()) + 1,), len(ids))
            linked = least.scatter_reduce(0, ids, linked, "amin")[ids]
        if torch.equal(linked, before):
            return as_codes(linked.numpy())


def _separability(audio: Tensor, text: Tensor, linked: Tensor, seed: int) -> float | None:
    """Cross-validated accuracy of ridge regression on which modality an embedding is of.

    Linked sounds are held out together: no pair, recording or caption is on both sides.
    """
    count = int(linked.max()) + 1
    if count < 2:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    fold = order[linked] % NUM_FOLDS
    hits = 0
    for number in range(min(NUM_FOLDS, count)):
        held = fold == number
        known = torch.cat([audio[~held], text[~held]])
        side = torch.ones(len(known), dtype=known.dtype)
        side[len(known) // 2 :] = -1
        centre = known.mean(0)
        known = known - centre
        gram = known.T @ known
        # The smallest number keeps the system solvable if all embeddings are equal.
        gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
        weights = torch.linalg.solve(gram, known.T @ side)
        hits += int(((audio[held] - centre) @ weights > 0).sum())
        hits += int(((text[held] - centre) @ weights <= 0).sum())
    return hits / (2 * len(audio))


def principal_axes(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [dim] of centred [count, dim], falling, and their axes [dim, dim]."""
    centred = embeddings - embeddings.mean(0)
    squares, axes = torch.linalg.eigh(centred.T @ centred)
    rounding = squares.max() * len(squares) * torch.finfo(squares.dtype).eps
    values = squares.where(squares > rounding, 0.0).sqrt()
    return values.flip(0), axes.flip(1)
