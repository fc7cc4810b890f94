"""Similarity between an extracted target and its query, and the presence that follows from it.

The query encoder measures it: the target is embedded window by window, as a query sound is, and
compared with the query. So every model whose similarities are calibrated gives a probability that
the sound is present.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from singleout.audio.silence import SILENT_RMS, SILENT_WINDOW_RATIO
from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.encoders import QueryEncoder
from singleout.manipulations import Manipulator

LOWEST = -1.0
"""Similarity of silence to anything: the lowest value of a cosine."""
MAX_CLIPS = 32
"""Windows embedded at once."""


class PresenceCalibration(StrictConfig):
    """Turns similarity into probability; fitted on validation mixtures (``model.calibration``).

    Platt's scaling (1999): probability = sigmoid(scale * similarity + bias).

    Args:
        scale, bias: of the formula.

    Example:
        >>> PresenceCalibration(scale=4.0, bias=-1.0).probability([0.25, 0.9]).round(2)
        array([0.5 , 0.93], dtype=float32)
    """

    scale: float
    bias: float

    def probability(self, similarity: ArrayLike) -> NDArray[np.float32]:
        """Probability of presence, float32, of the shape of ``similarity``."""
        value = np.asarray(similarity, np.float64) * self.scale + self.bias
        return (0.5 + 0.5 * np.tanh(0.5 * value)).astype(np.float32)  # a sigmoid, without overflow


@dataclass(frozen=True, eq=False)
class Presence:
    """Whether a sound is present in a recording.

    Attributes:
        probability: that the sound is present anywhere, 0 to 1.
        over_time: float32 [frames], probability that it is present at that time.
        frame_seconds: from the start of one frame to the next; the first starts at 0.

    Example:
        >>> import numpy as np
        >>> Presence(0.9, np.array([0.1, 0.9], np.float32), 0.5)
        Presence(probability=0.900, frames=2, frame_seconds=0.5)
    """

    probability: float
    over_time: NDArray[np.float32]
    frame_seconds: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Presence):
            return NotImplemented
        return (
            self.probability == other.probability
            and self.frame_seconds == other.frame_seconds
            and np.array_equal(self.over_time, other.over_time)
        )

    def __hash__(self) -> int:
        return hash((self.probability, self.frame_seconds, self.over_time.tobytes()))

    def __repr__(self) -> str:
        return (
            f"Presence(probability={self.probability:.3f}, frames={len(self.over_time)}, "
            f"frame_seconds={self.frame_seconds:g})"
        )


class Similarity(NamedTuple):
    """Similarity between the extracted targets and their queries, from -1 to 1.

    Attributes:
        overall: float32 [queries], of the whole target. Windows count by their power, so that
            neither silence nor the length of a recording makes a difference.
        over_time: float32 [queries, frames], window by window; -1 where the target is 30 dB below
            its loudest window.

    Example:
        >>> import numpy as np
        >>> overall, over_time = np.array([0.5], np.float32), np.array([[0.4, 0.6]], np.float32)
        >>> Similarity(overall, over_time).over_time.shape
        (1, 2)
    """

    overall: NDArray[np.float32]
    over_time: NDArray[np.float32]


class Windows:
    """Cuts a stream of blocks [..., samples] into windows of two hops, one hop apart.

    Example:
        >>> import numpy as np
        >>> windows = Windows(hop=4)
        >>> [len(window) for window in windows.push(np.zeros(13, np.float32))]
        [8, 8]
        >>> [len(window) for window in windows.finish()]
        [5]
    """

    def __init__(self, hop: int) -> None:
        self._hop, self._count = hop, 0
        self._rest: NDArray[np.float32] | None = None

    def push(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Append a block; the windows that it completes."""
        hop, rest = self._hop, self._rest
        samples = block if rest is None else np.concatenate([rest, block], axis=-1)
        number = max(0, samples.shape[-1] // hop - 1)
        self._count += number
        self._rest = samples[..., number * hop :].copy()
        return [samples[..., i * hop : (i + 2) * hop] for i in range(number)]

    def finish(self) -> list[NDArray[np.float32]]:
        """The last window, which may be shorter; none if the windows reached the end already."""
        rest, self._rest = self._rest, None
        if rest is None or rest.shape[-1] <= (self._hop if self._count else 0):
            return []
        return [rest]


class SimilarityMeter:
    """Measures, block by block, the similarity between targets and queries.

    Args:
        encoder: of the queries.
        manipulator: of the model. Both sides are compared as the separator would get them.
        queries: positive side of each query, [1, parts, dim]. The similarity of a query is the
            weighted mean over its parts.
        sample_rate: of the targets, Hz.

    Attributes:
        hop_samples, frame_seconds: from one window to the next: half a window of the encoder.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> from singleout.model import QueriedSeparator
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> with torch.inference_mode():
        ...     meter = model.similarity_meter([model.embed(Query("rain"))])
        >>> meter.push(np.zeros((1, 1, 32_000), np.float32))
        >>> meter.finish().overall  # of silence
        array([-1.], dtype=float32)
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        manipulator: Manipulator,
        queries: Sequence[Condition],
        sample_rate: int,
    ) -> None:
        self.encoder, self.manipulator, self.sample_rate = encoder, manipulator, sample_rate
        self.queries = [
            (F.normalize(query.embeddings[0].cpu(), dim=-1), query.weights[0].cpu())
            for query in queries
        ]
        self.hop_samples = max(1, round(encoder.window_seconds * sample_rate / 2))
        self.frame_seconds = self.hop_samples / sample_rate
        self._windows = Windows(self.hop_samples)
        self._similarity: list[NDArray[np.float64]] = []  # each [queries, channels]
        self._power: list[NDArray[np.float64]] = []

    def push(self, targets: NDArray[np.float32]) -> None:
        """Append a block of targets, float32 [queries, channels, samples]."""
        self._measure(self._windows.push(targets))

    def finish(self) -> Similarity:
        """The similarity of all that was pushed; no frames if there were no samples."""
        self._measure(self._windows.finish())
        queries = len(self.queries)
        if not self._power:
            overall = np.full(queries, LOWEST, np.float32)
            return Similarity(overall, np.zeros((queries, 0), np.float32))
        power, similarity = (np.stack(parts, 1) for parts in (self._power, self._similarity))
        level = power.sum(2)
        over_time = weighted_mean(similarity, power, 2)
        over_time[level < SILENT_WINDOW_RATIO * level.max(1, keepdims=True)] = LOWEST
        whole = weighted_mean(similarity, power, (1, 2))
        return Similarity(whole.astype(np.float32), over_time.astype(np.float32))

    @property
    def num_frames(self) -> int:
        """Number of windows that are measured."""
        return len(self._power)

    def around(
        self, first: int, last: int, reach: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Similarity and power around each of the windows ``first`` to ``last``.

        Args:
            first, last: numbers of windows.
            reach: windows to either side that count, the less the farther they are.

        Returns:
            Both [queries, channels, frames]: the similarity is a mean by power, the power a sum.
        """
        part = slice(max(0, first - reach), last + 1 + reach)
        power, similarity = (np.stack(p[part], 2) for p in (self._power, self._similarity))
        weights = neighbour_weights(first, last, reach, power.shape[2])
        return _ratio((similarity * power) @ weights, power @ weights), power @ weights

    @torch.inference_mode()
    def _measure(self, windows: Sequence[NDArray[np.float32]]) -> None:
        """Embed and compare windows, each [queries, channels, samples] of one length."""
        if not windows:
            return
        sounds = torch.from_numpy(np.stack(windows))
        # Samples that are not finite are refused elsewhere, with the name of the recording.
        power = sounds.double().square().mean(3).nan_to_num(0.0, 0.0)
        power[power.sqrt() < SILENT_RMS] = 0.0
        audible = torch.where((power > 0)[..., None], sounds, 0.0).flatten(0, 2)
        rows = [
            self.encoder.embed_audio(audible[first : first + MAX_CLIPS], self.sample_rate)
            for first in range(0, len(audible), MAX_CLIPS)
        ]
        embedded = self.manipulator.for_inference(torch.cat(rows), False).cpu()
        by_window = F.normalize(embedded, dim=-1).reshape(*power.shape, -1)
        similarity = torch.stack(
            [
                by_window[:, number] @ parts.T @ weights
                for number, (parts, weights) in enumerate(self.queries)
            ],
            1,
        )
        self._power += list(power.numpy())
        self._similarity += list(similarity.double().nan_to_num(LOWEST).numpy())


def neighbour_weights(first: int, last: int, reach: int, count: int) -> NDArray[np.float64]:
    """Triangular weights of the windows around each of the windows ``first`` to ``last``.

    Args:
        first, last: numbers of the windows in the middle.
        reach: the weight falls to zero one window beyond it.
        count: number of windows from ``first - reach`` (or 0) on.

    Returns:
        [count, last - first + 1].

    Example:
        >>> neighbour_weights(1, 1, 1, 3)[:, 0]
        array([0.5, 1. , 0.5])
    """
    windows = max(0, first - reach) + np.arange(count)
    frames = np.arange(first, last + 1)
    weights: NDArray[np.float64] = 1 - np.abs(windows[:, None] - frames) / (reach + 1)
    return weights.clip(0)


def weighted_mean(
    similarity: NDArray[np.float64], power: NDArray[np.float64], axes: int | tuple[int, ...]
) -> NDArray[np.float64]:
    """Mean of similarities over ``axes`` by power; ``LOWEST`` where there is no power.

    Example:
        >>> import numpy as np
        >>> float(weighted_mean(np.array([0.0, 1.0]), np.array([1.0, 3.0]), 0))
        0.75
    """
    return _ratio((similarity * power).sum(axes), power.sum(axes))


def _ratio(weighted: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(power > 0, weighted / np.where(power > 0, power, 1.0), LOWEST)
