"""Manipulations of a query's audio, in training only, before the sound is embedded.

``Mixup`` changes the waveform. ``SpecAugment`` changes the encoder's log-mel: it is the ``augment``
of ``QueryEncoder.embed_audio``. All random numbers come from generators that the caller passes,
so that a run can be repeated to the bit.

Both are among the methods of Saijo et al., "Leveraging Audio-Only Data for Text-Queried Target
Sound Extraction", 2024 (known second-hand). All levels, sizes and shares are our choices.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from singleout.audio.silence import MIN_AMPLIFIED_RMS
from singleout.config import StrictConfig
from singleout.manipulations.draws import RowDraws

Share = Annotated[float, Field(ge=0, le=1)]
MaskShare = Annotated[float, Field(gt=0, le=1)]
Decibels = Annotated[float, Field(ge=-100, le=100)]


class Mixup(StrictConfig):
    """Another clip is mixed into the target before the target is embedded.

    Args:
        share: probability that an example is mixed.
        gain_db: range of the level of the added clip relative to the target, drawn uniformly,
            within -100 to 100 dB. Levels are mean powers over the length of the target.

    Example:
        >>> import numpy as np
        >>> target, other = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
        >>> mixup = Mixup(gain_db=(-20.0, -20.0))
        >>> mixup.mixed(target, other, np.random.default_rng(0))
        array([1.1, 1.1, 1.1, 1.1], dtype=float32)
    """

    share: Share = 1.0
    gain_db: tuple[Decibels, Decibels] = (-15.0, 0.0)

    @model_validator(mode="after")
    def _in_order(self) -> Mixup:
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError("gain_db is a range: its first value is not above its second")
        return self

    def mixed(
        self, target: NDArray[np.float32], other: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Add ``other`` to the target.

        The target is neither scaled nor clipped, so that the result may exceed full scale.

        Args:
            target: float32 [samples], at least one.
            other: float32 [samples] of any length, at the same rate. It is cut at a random place,
                or repeated, to the length of the target.
            rng: gives as many numbers whether or not the example is mixed.

        Returns:
            float32 [samples]; the target unchanged if the example is not mixed or if one of the
            two is silent.
        """
        length = len(target)
        applied = rng.random() < self.share
        gain_db = rng.uniform(*self.gain_db)
        start = rng.integers(max(0, len(other) - length) + 1)
        if not applied:
            return target
        added = np.resize(other[start : start + length], length)
        power, added_power = (np.square(x, dtype=np.float64).mean() for x in (target, added))
        if min(power, added_power) <= MIN_AMPLIFIED_RMS**2:
            return target
        return target + np.float32(np.sqrt(power / added_power) * 10 ** (gain_db / 20)) * added


class SpecAugment(StrictConfig):
    """Blocks of frames and of mel bands are hidden from the encoder.

    After Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
    Recognition", 2019, without time warping. In the paper a mask is zero, in features of zero
    mean. Our features are not normalised yet, so a mask is the mean of the clip's log-mel over all
    channels, frames and bands, including silence and padding.

    Args:
        share: probability that an example is masked.
        time_masks, frequency_masks: number of masks; they may overlap.
        max_time_share, max_frequency_share: largest width of a mask, as a share of all frames or
            bands.

    Example:
        >>> import torch
        >>> augment = SpecAugment(time_masks=1, frequency_masks=0, max_time_share=0.5)
        >>> log_mel = torch.arange(8.0).view(1, 1, 8, 1)  # 8 frames, 1 band, mean 3.5
        >>> augment.masked(log_mel, RowDraws.seeded(0, rows=1)).flatten()
        tensor([0.0000, 1.0000, 2.0000, 3.5000, 3.5000, 3.5000, 6.0000, 7.0000])
    """

    share: Share = 1.0
    time_masks: Annotated[int, Field(ge=0, le=1_000)] = 2
    frequency_masks: Annotated[int, Field(ge=0, le=1_000)] = 2
    max_time_share: MaskShare = 0.25
    max_frequency_share: MaskShare = 0.25

    def masked(self, log_mel: Tensor, draws: RowDraws) -> Tensor:
        """A copy of the log-mel with its blocks hidden.

        Every clip has its own masks, which are the same in all its channels.

        Args:
            log_mel: float32 [clips, channels, frames, mels].
            draws: source of all random numbers, one row per clip.

        Returns:
            float32 [clips, channels, frames, mels].
        """
        _, _, frames, mels = log_mel.shape
        sizes = [1, 2 * self.time_masks, 2 * self.frequency_masks]
        drawn = draws.uniform(sum(sizes)).to(log_mel.device)
        chance, in_time, in_frequency = torch.split(drawn, sizes, dim=1)
        applied = chance < self.share
        frame_hidden = applied & _blocks(in_time, frames, self.max_time_share)
        band_hidden = applied & _blocks(in_frequency, mels, self.max_frequency_share)
        hidden = frame_hidden[:, None, :, None] | band_hidden[:, None, None]
        return torch.where(hidden, log_mel.mean((1, 2, 3), keepdim=True), log_mel)


def _blocks(drawn: Tensor, length: int, max_share: float) -> Tensor:
    """Where the blocks lie, bool [clips, length], from uniform numbers [clips, 2 * blocks].

    Widths are uniform from 0 to the largest, starts are uniform among all at which the block fits.
    (The paper leaves out the last start, so that it never masks the last frame.)
    """
    width = (drawn[:, 0::2, None] * (round(max_share * length) + 1)).floor()
    first = (drawn[:, 1::2, None] * (length - width + 1)).floor()
    position = torch.arange(length, device=drawn.device)
    return ((first <= position) & (position < first + width)).any(1)
