"""Manipulations of a query's audio: what keeps a separator from overfitting to audio queries,
applied before the sound is embedded and in training only.

``Mixup`` acts on the waveform, ``SpecAugment`` on the encoder's log-mel, as the ``augment`` of
``QueryEncoder.embed_audio``. Randomness comes from the generator that is handed in, so a run is
reproducible to the bit.

Source: both are among the methods of Saijo et al., "Leveraging Audio-Only Data for Text-Queried
Target Sound Extraction", 2024 (known second-hand). All levels, sizes and shares are our choices.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Generator, Tensor

from singleout.audio.silence import MIN_AMPLIFIED_RMS
from singleout.config import StrictConfig

Share = Annotated[float, Field(ge=0, le=1)]
MaskShare = Annotated[float, Field(gt=0, le=1)]
Decibels = Annotated[float, Field(ge=-100, le=100)]


class Mixup(StrictConfig):
    """Another clip is mixed into the target before it is embedded.

    Args:
        share: how often an example is mixed at all.
        gain_db: range of the level of the added clip relative to the target, mean power over the
            target's length, drawn uniformly; within -100 to 100 dB.
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
        """The target with ``other`` added, float32 [samples]; the target itself where an example
        is not mixed or one of the two is silent.

        The target is neither scaled nor clipped, so that the result may exceed full scale.

        Args:
            target: [samples], one at least.
            other: [samples] of any length at the same rate: cut at random, or repeated, to the
                target's.
            rng: moves on alike whether or not the example is mixed.
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

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
    Recognition", 2019, without its time warping. There the mask's value is zero in features of
    zero mean; ours are not normalised yet, so it is the mean of the clip's log-mel: over all
    channels, frames and bands, silence and padding among them.

    Args:
        share: how often an example is masked at all.
        time_masks, frequency_masks: how many; they may overlap.
        max_time_share, max_frequency_share: largest width of one, over the frames or bands.
    """

    share: Share = 1.0
    time_masks: Annotated[int, Field(ge=0)] = 2
    frequency_masks: Annotated[int, Field(ge=0)] = 2
    max_time_share: MaskShare = 0.25
    max_frequency_share: MaskShare = 0.25

    def masked(self, log_mel: Tensor, generator: Generator) -> Tensor:
        """[clips, channels, frames, mels] to the same; the input is spared.

        Every clip has its own masks, the same in all its channels.
        """
        clips, _, frames, mels = log_mel.shape
        # As many draws for every clip, clip by clip: its masks are the same however an encoder
        # batches, and whether or not the clips before it are masked.
        sizes = [1, 2 * self.time_masks, 2 * self.frequency_masks]
        drawn = torch.rand(clips, sum(sizes), generator=generator).to(log_mel.device)
        chance, in_time, in_frequency = torch.split(drawn, sizes, dim=1)
        applied = chance < self.share
        frame_hidden = applied & _blocks(in_time, frames, self.max_time_share)
        band_hidden = applied & _blocks(in_frequency, mels, self.max_frequency_share)
        hidden = frame_hidden[:, None, :, None] | band_hidden[:, None, None]
        return torch.where(hidden, log_mel.mean((1, 2, 3), keepdim=True), log_mel)


def _blocks(drawn: Tensor, length: int, max_share: float) -> Tensor:
    """Bool [clips, length], true inside of any block, from [clips, 2 * blocks] in [0, 1).

    Widths are uniform in 0 to the largest, first positions among all at which the block fits.
    (The paper leaves out the last of these, so that the last frame is never masked.)
    """
    width = (drawn[:, 0::2, None] * (round(max_share * length) + 1)).floor()
    first = (drawn[:, 1::2, None] * (length - width + 1)).floor()
    position = torch.arange(length, device=drawn.device)
    return ((first <= position) & (position < first + width)).any(1)
