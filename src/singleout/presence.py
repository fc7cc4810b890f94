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

from singleout.config import StrictConfig
from singleout.query import QueryEncoder
from singleout.query.manipulations import Manipulator, Members

SILENT_RMS = 1e-5
"""-100 dB: a sound as quiet as that is like nothing."""
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
        self._waiting: NDArray[np.float32] | None = None
        self._likeness: list[NDArray[np.float64]] = []  # [queries, frames, channels]
        self._power: list[NDArray[np.float64]] = []

    def push(self, targets: NDArray[np.float32]) -> None:
        """Listen to what comes next, float32 [queries, channels, samples]."""
        waiting = self._waiting
        waiting = targets if waiting is None else np.concatenate([waiting, targets], axis=2)
        hop = self.hop_samples
        number = max(0, waiting.shape[2] // hop - 1)
        for start in range(0, number * hop, hop):
            self._hear(waiting[:, :, start : start + 2 * hop])
        self._waiting = waiting[:, :, number * hop :].copy()

    def finish(self) -> Heard:
        """Of all that was heard, no frames of no samples; the last window ends with it and may be
        shorter."""
        rest = self._waiting
        if rest is not None and rest.shape[2] > (self.hop_samples if self._power else 0):
            self._hear(rest)
        self._waiting = None
        queries = len(self.asked)
        if not self._power:
            return Heard(np.full(queries, NOTHING, np.float32), np.zeros((queries, 0), np.float32))
        power, likeness = (np.stack(parts, 1) for parts in (self._power, self._likeness))
        level = power.sum(2)
        over_time = _mean(likeness, power, 2)
        over_time[level < QUIET * level.max(1, keepdims=True)] = NOTHING
        whole = _mean(likeness, power, (1, 2))
        return Heard(whole.astype(np.float32), over_time.astype(np.float32))

    @property
    def num_frames(self) -> int:
        """Windows that have been heard."""
        return len(self._power)

    def around(self, first: int, last: int, reach: int) -> NDArray[np.float64]:
        """[queries, frames], of windows ``first`` to ``last`` as far as there are any: likeness of
        all up to ``reach`` windows away, by their power and the less the farther they are."""
        there = slice(max(0, first - reach), last + 1 + reach)
        power, likeness = (np.stack(p[there], 1) for p in (self._power, self._likeness))
        heard = np.arange(there.start, there.start + power.shape[1])
        frames = np.arange(max(0, first), min(last, self.num_frames - 1) + 1)
        near = np.maximum(0, 1 - np.abs(frames[:, None] - heard) / (reach + 1))
        weight = near[None, :, :, None] * power[:, None]
        return _mean(likeness[:, None], weight, (2, 3))

    @torch.inference_mode()
    def _hear(self, window: NDArray[np.float32]) -> None:
        """[queries, channels, samples]."""
        sounds = torch.tensor(window)
        # What is not finite, the extractor refuses with the recording's name.
        power = sounds.double().square().mean(2).nan_to_num(0.0, 0.0)
        power[power.sqrt() < SILENT_RMS] = 0.0
        heard = torch.where((power > 0)[..., None], sounds, 0.0).flatten(0, 1)
        rows = [
            self.encoder.embed_audio(heard[first : first + MAX_CLIPS], self.sample_rate)
            for first in range(0, len(heard), MAX_CLIPS)
        ]
        embedded = self.manipulator.infer(torch.cat(rows), False).cpu()
        by_query = F.normalize(embedded, dim=-1).reshape(*window.shape[:2], -1)
        likeness = torch.cat(
            [
                weights @ (members[0] @ channels.T)
                for (members, weights), channels in zip(self.asked, by_query, strict=True)
            ]
        )
        self._power.append(power.numpy())
        self._likeness.append(likeness.double().nan_to_num(NOTHING).numpy())


def _mean(
    likeness: NDArray[np.float64], power: NDArray[np.float64], axes: int | tuple[int, ...]
) -> NDArray[np.float64]:
    """Weighted by power; of silence, the least there is."""
    total = power.sum(axes)
    mean = (likeness * power).sum(axes) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, NOTHING)
