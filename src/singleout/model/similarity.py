"""Whether a sound is in a recording: how like what is asked that sounds which was singled out.

The query encoder tells it: the target is embedded window by window, as a query sound is, and
compared with what is asked. So every model tells presence whose likeness has been calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from singleout.audio import SILENT_RMS
from singleout.config import StrictConfig
from singleout.encoders import QueryEncoder
from singleout.manipulations import Manipulator, Members

NOTHING = -1.0
"""Likeness of silence: the least there is."""
MAX_CLIPS = 32
"""Embedded at once."""
QUIET = 1e-3
"""Where the target is 30 dB below its loudest window, it is as good as not there."""


class PresenceCalibration(StrictConfig):
    """From likeness to probability, fitted on validation mixtures (``evaluate.questions``).

    Args:
        scale, bias: probability = sigmoid(scale * likeness + bias).
    """

    scale: float
    bias: float

    def probability(self, likeness: ArrayLike) -> NDArray[np.float32]:
        """Of the same shape."""
        value = np.asarray(likeness, np.float64) * self.scale + self.bias
        return (0.5 + 0.5 * np.tanh(0.5 * value)).astype(np.float32)  # a sigmoid, without overflow


@dataclass(frozen=True)
class Presence:
    """Whether a sound is in a recording.

    Attributes:
        probability: that it is, anywhere.
        over_time: float32 [frames], that it is there at that time.
        frame_seconds: from the beginning of one frame to the next, the first at 0.
    """

    probability: float
    over_time: NDArray[np.float32]
    frame_seconds: float


class Heard(NamedTuple):
    """How like what is asked a target sounds, -1 to 1.

    Attributes:
        likeness: [queries], of the whole: its windows count by their power. So neither silence nor
            the length of a recording makes a difference.
        over_time: [queries, frames], window by window; -1 where the target is 30 dB below its
            loudest window.
    """

    likeness: NDArray[np.float32]
    over_time: NDArray[np.float32]


class Windows:
    """Windows of two hops, one hop apart, of waves [..., samples] as they come."""

    def __init__(self, hop: int) -> None:
        self._hop, self._count = hop, 0
        self._waiting: NDArray[np.float32] | None = None

    def push(self, waves: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Those that are complete."""
        hop, waiting = self._hop, self._waiting
        waiting = waves if waiting is None else np.concatenate([waiting, waves], axis=-1)
        number = max(0, waiting.shape[-1] // hop - 1)
        self._count += number
        self._waiting = waiting[..., number * hop :].copy()
        return [waiting[..., i * hop : (i + 2) * hop] for i in range(number)]

    def finish(self) -> list[NDArray[np.float32]]:
        """The last, which ends with all and may be shorter; none where the one before it did."""
        rest, self._waiting = self._waiting, None
        if rest is None or rest.shape[-1] <= (self._hop if self._count else 0):
            return []
        return [rest]


class Listener:
    """Compares targets, as they come, with what was asked.

    Args:
        encoder: of the queries.
        manipulator: what the model makes of embeddings: both sides are compared as the separator
            would see them.
        asked: of each query, what is wanted, [1, members, dim]; its likeness is the mean over them.
        sample_rate: of the targets, Hz.

    Attributes:
        hop_samples, frame_seconds: from one window to the next: half a window of the encoder's.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        manipulator: Manipulator,
        asked: Sequence[Members],
        sample_rate: int,
    ) -> None:
        self.encoder, self.manipulator, self.sample_rate = encoder, manipulator, sample_rate
        self.asked = [
            Members(F.normalize(members.cpu(), dim=-1), weights.cpu()) for members, weights in asked
        ]
        self.hop_samples = max(1, round(encoder.window_seconds * sample_rate / 2))
        self.frame_seconds = self.hop_samples / sample_rate
        self._windows = Windows(self.hop_samples)
        self._likeness: list[NDArray[np.float64]] = []  # [queries, frames, channels]
        self._power: list[NDArray[np.float64]] = []

    def push(self, targets: NDArray[np.float32]) -> None:
        """Listen to what comes next, float32 [queries, channels, samples]."""
        self._hear(self._windows.push(targets))

    def finish(self) -> Heard:
        """Of all that was heard, no frames of no samples."""
        self._hear(self._windows.finish())
        queries = len(self.asked)
        if not self._power:
            return Heard(np.full(queries, NOTHING, np.float32), np.zeros((queries, 0), np.float32))
        power, likeness = (np.stack(parts, 1) for parts in (self._power, self._likeness))
        level = power.sum(2)
        over_time = mean_likeness(likeness, power, 2)
        over_time[level < QUIET * level.max(1, keepdims=True)] = NOTHING
        whole = mean_likeness(likeness, power, (1, 2))
        return Heard(whole.astype(np.float32), over_time.astype(np.float32))

    @property
    def num_frames(self) -> int:
        """Windows that have been heard."""
        return len(self._power)

    def around(
        self, first: int, last: int, reach: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Likeness and power [queries, channels, frames] around windows ``first`` to ``last``:
        ``nearby`` of the power, and of the likeness by it."""
        there = slice(max(0, first - reach), last + 1 + reach)
        power, likeness = (np.stack(p[there], 2) for p in (self._power, self._likeness))
        near = nearby(first, last, reach, power.shape[2])
        return _ratio((likeness * power) @ near, power @ near), power @ near

    @torch.inference_mode()
    def _hear(self, windows: Sequence[NDArray[np.float32]]) -> None:
        """Each [queries, channels, samples], all of one length."""
        if not windows:
            return
        sounds = torch.from_numpy(np.stack(windows))
        # What is not finite, the extractor refuses with the recording's name.
        power = sounds.double().square().mean(3).nan_to_num(0.0, 0.0)
        power[power.sqrt() < SILENT_RMS] = 0.0
        heard = torch.where((power > 0)[..., None], sounds, 0.0).flatten(0, 2)
        rows = [
            self.encoder.embed_audio(heard[first : first + MAX_CLIPS], self.sample_rate)
            for first in range(0, len(heard), MAX_CLIPS)
        ]
        embedded = self.manipulator.infer(torch.cat(rows), False).cpu()
        by_window = F.normalize(embedded, dim=-1).reshape(*power.shape, -1)
        likeness = torch.stack(
            [
                by_window[:, number] @ members[0].T @ weights[0]
                for number, (members, weights) in enumerate(self.asked)
            ],
            1,
        )
        self._power += list(power.numpy())
        self._likeness += list(likeness.double().nan_to_num(NOTHING).numpy())


def nearby(first: int, last: int, reach: int, count: int) -> NDArray[np.float64]:
    """Weights [windows, frames] of the ``count`` windows from ``first - reach`` on around each of
    ``first`` to ``last``, up to ``reach`` to either side: the less the farther, none beyond."""
    windows = max(0, first - reach) + np.arange(count)
    frames = np.arange(first, last + 1)
    weights: NDArray[np.float64] = 1 - np.abs(windows[:, None] - frames) / (reach + 1)
    return weights.clip(0)


def mean_likeness(
    likeness: NDArray[np.float64], power: NDArray[np.float64], axes: int | tuple[int, ...]
) -> NDArray[np.float64]:
    """Weighted by power; of silence, the least there is."""
    return _ratio((likeness * power).sum(axes), power.sum(axes))


def _ratio(weighted: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(power > 0, weighted / np.where(power > 0, power, 1.0), NOTHING)
