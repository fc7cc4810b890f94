"""Shapes of clouds of embeddings: principal axes, effective rank, and how well two are separated.

Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_FOLDS = 5
RIDGE = 1e-3
"""Ridge penalty of the linear classifier, relative to the mean variance of a dimension."""


def as_codes(names: Sequence[str] | Sequence[int] | NDArray[np.int64]) -> Tensor:
    """Number names from zero in their sorted order, which does not depend on the order of sounds.

    Example:
        >>> as_codes(["dog", "cat", "dog"])
        tensor([1, 0, 1])
    """
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1])


def principal_axes(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes of a cloud of embeddings.

    Args:
        embeddings: float64 [count, dim].

    Returns:
        Singular values [dim] of the centred embeddings, largest first, and their axes [dim, dim],
        one per column.

    Example:
        >>> values, axes = principal_axes(torch.tensor([[0.0, -3.0], [0.0, 3.0]]).double())
        >>> values.round(decimals=2).tolist()
        [4.24, 0.0]
    """
    centred = embeddings - embeddings.mean(0)
    squares, axes = torch.linalg.eigh(centred.T @ centred)
    rounding = squares.max() * len(squares) * torch.finfo(squares.dtype).eps
    values = squares.where(squares > rounding, 0.0).sqrt()
    return values.flip(0), axes.flip(1)


def effective_rank(embeddings: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values of the centred embeddings.

    Args:
        embeddings: [count, dim].

    Returns:
        From 1 to ``dim``; 0 if all embeddings are equal.

    Example:
        >>> round(effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])), 3)
        4.0
    """
    values = principal_axes(embeddings.double())[0]
    shares = values[values > 0] / values.sum()
    return float((-shares * shares.log()).sum().exp()) if len(shares) else 0.0


def linked_groups(group: Tensor, caption: Tensor) -> Tensor:
    """Sets of sounds that are linked by a group or a caption, directly or through other sounds.

    Args:
        group, caption: numbers [sounds].

    Returns:
        Number of each sound's set, [sounds].

    Example:
        >>> linked_groups(group=torch.tensor([0, 0, 1, 2]), caption=torch.tensor([0, 1, 1, 2]))
        tensor([0, 0, 0, 1])
    """
    linked = group
    while True:
        before = linked
        for ids in (caption, group):
            least = torch.full((int(ids.max()) + 1,), len(ids))
            linked = least.scatter_reduce(0, ids, linked, "amin")[ids]
        if torch.equal(linked, before):
            return as_codes(linked.numpy())


def separability(audio: Tensor, text: Tensor, linked: Tensor, seed: int) -> float | None:
    """How well a linear classifier tells the embeddings of two modalities apart.

    It is the cross-validated accuracy of ridge regression. Linked sounds are held out together,
    so that training and test share no pair, recording or caption.

    Args:
        audio, text: float64 [sounds, dim].
        linked: see ``linked_groups``.
        seed: of the folds.

    Returns:
        Accuracy, 0 to 1; None if all sounds are linked.

    Example:
        >>> sounds = torch.eye(4).double()
        >>> separability(sounds, sounds + 9, torch.arange(4), seed=0)
        1.0
    """
    count = int(linked.max()) + 1
    if count < 2:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    fold = order[linked] % NUM_FOLDS
    hits = 0
    for number in range(min(NUM_FOLDS, count)):
        is_held_out = fold == number
        training = torch.cat([audio[~is_held_out], text[~is_held_out]])
        modality = torch.ones(len(training), dtype=training.dtype)
        modality[len(training) // 2 :] = -1
        centre = training.mean(0)
        training = training - centre
        gram = training.T @ training
        # The smallest number keeps the system solvable if all embeddings are equal.
        gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
        weights = torch.linalg.solve(gram, training.T @ modality)
        hits += int(((audio[is_held_out] - centre) @ weights > 0).sum())
        hits += int(((text[is_held_out] - centre) @ weights <= 0).sum())
    return hits / (2 * len(audio))
