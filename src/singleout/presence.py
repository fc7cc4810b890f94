"""Whether a sound is in a recording: how like what is asked the recording sounds, second by second.

The query encoder tells it, without the separator: a window of the recording is embedded as a query
sound is, and compared with what is asked. So every model tells presence whose likeness has been
calibrated, and the work is done once for all queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
MAX_WINDOWS = 32
"""Embedded at once, of all channels together."""


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


class Listener:
    """Compares a recording, as it comes, with what is asked.

    Args:
        encoder: of the queries.
        manipulator: what the model makes of embeddings: both sides are compared as the separator
            would see them.
        asked: of each query, what is wanted, [1, members, dim]; its likeness is the mean over them.
        sample_rate: of the recording, Hz.

    Attributes:
        frame_seconds: from one window to the next: half a window of the encoder's.
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
        self._hop = max(1, round(encoder.window_seconds * sample_rate / 2))
        self.frame_seconds = self._hop / sample_rate
        self._waiting: NDArray[np.float32] | None = None
        self._found: list[NDArray[np.float32]] = []

    def hearing(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The blocks, float32 [channels, samples], as they pass; see ``push``."""
        for block in blocks:
            self.push(block)
            yield block

    def push(self, block: NDArray[np.float32]) -> None:
        """Listen to what comes next, float32 [channels, samples]."""
        waiting = self._waiting
        waiting = block if waiting is None else np.concatenate([waiting, block], axis=1)
        while waiting.shape[1] >= 2 * self._hop:
            most = max(1, MAX_WINDOWS // len(waiting))
            number = min(waiting.shape[1] // self._hop - 1, most)
            starts = range(0, number * self._hop, self._hop)
            windows = [waiting[:, start : start + 2 * self._hop] for start in starts]
            self._found.append(self._likeness(np.stack(windows)))
            waiting = waiting[:, number * self._hop :]
        self._waiting = waiting

    def finish(self) -> NDArray[np.float32]:
        """Likeness [queries, frames], -1 to 1, of all that was heard; the last window ends with it
        and may be shorter. What is like it in any channel is like it; no frames of no samples."""
        rest = self._waiting
        if rest is not None and rest.shape[1] > (self._hop if self._found else 0):
            self._found.append(self._likeness(rest[None]))
        self._waiting = None
        return np.concatenate([np.zeros((len(self.asked), 0), np.float32), *self._found], axis=1)

    @torch.inference_mode()
    def _likeness(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[windows, channels, samples] to [queries, windows]."""
        sounds = torch.from_numpy(windows.reshape(-1, windows.shape[2]))
        # What is not finite, the separator will refuse with the recording's name.
        sounds = torch.where(sounds.isfinite().all(1, keepdim=True), sounds, 0.0)
        embedded = self.manipulator.infer(self.encoder.embed_audio(sounds, self.sample_rate), False)
        heard = F.normalize(embedded.cpu(), dim=-1)
        likeness = torch.cat([w @ (members[0] @ heard.T) for members, w in self.asked])
        is_silent = sounds.double().square().mean(1).sqrt() < SILENT_RMS
        likeness = likeness.nan_to_num(NOTHING).masked_fill(is_silent, NOTHING)
        by_channel = likeness.reshape(len(self.asked), *windows.shape[:2])
        return by_channel.amax(2).numpy().astype(np.float32)
