"""Samples of FFmpeg's frames in the rate and channels of a recording's first frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from singleout.audio.ffmpeg.streams import WAV_CHANNELS, wav_order
from singleout.audio.resampling import ResampleStream

SAMPLES: dict[str, Any] = {
    "u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "flt": np.float32, "dbl": np.float64,
}  # fmt: skip
"""Types of samples by FFmpeg's names."""
MAX_MIXED_CHANNELS = 8
"""FFmpeg has no rule to mix more channels into another layout."""


def samples_of(frame: Any) -> NDArray[np.float32]:
    """The samples of a frame, float32 [channels, samples] with full scale 1.

    Example:
        >>> import av
        >>> packed = np.array([[0, 16_384, -32_768, 0]], np.int16)
        >>> samples_of(av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo"))
        array([[ 0. , -1. ],
               [ 0.5,  0. ]], dtype=float32)
    """
    # ``to_ndarray`` of PyAV reads a ninth plane of eight, which crashes.
    dtype, channels = SAMPLES[frame.format.packed.name], len(frame.layout.channels)
    if frame.format.is_planar:
        planes = frame.planes[:channels]
        array = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes])
    else:
        packed = np.frombuffer(frame.planes[0], dtype, frame.samples * channels)
        array = packed.reshape(-1, channels).T
    samples = array.astype(np.float32)
    if array.dtype == np.uint8:
        return (samples - np.float32(128)) / np.float32(128)
    if array.dtype.kind == "i":
        samples /= np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    return samples


class FrameConverter:
    """Converts frames to the rate and channels of the first one, in the order of a WAV.

    Broadcasts may change both at any time. Channels are mixed by FFmpeg's rules. Where a layout
    has no rule, channels keep their places, and missing ones are silent.

    Args:
        first: the first frame.

    Example:
        >>> import av
        >>> def frame(layout: str, rate: int) -> av.AudioFrame:
        ...     sound = np.ones((1, 100 * av.AudioLayout(layout).nb_channels), np.float32)
        ...     frame = av.AudioFrame.from_ndarray(sound, format="flt", layout=layout)
        ...     frame.sample_rate = rate
        ...     return frame
        >>> converter = FrameConverter(frame("stereo", 48_000))
        >>> converter.push(frame("stereo", 48_000)).shape
        (2, 100)
        >>> converter.push(frame("mono", 24_000)).shape[0], converter.finish().shape[0]
        (2, 2)
    """

    def __init__(self, first: Any) -> None:
        self._layout, self._rate = first.layout, first.sample_rate
        self._num_channels = len(first.layout.channels)
        self._order = wav_order(first.layout)
        self._shape = (first.layout.name, first.sample_rate)
        self._is_mixable = _is_mixable(first.layout)
        self._mixer: Any = None
        self._resampler = ResampleStream(self._rate, self._rate, self._num_channels)

    def push(self, frame: Any) -> NDArray[np.float32]:
        """The samples of a frame, float32 [channels, samples]; of resampled ones some wait."""
        parts = []
        shape = (frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            parts.append(self.finish())
            self._shape = shape
            self._resampler = ResampleStream(frame.sample_rate, self._rate, self._num_channels)
            self._mixer = self._mixer_of(frame)
        samples = samples_of(frame)
        if len(samples) != self._num_channels:
            samples = self._mixed(frame, samples)
        parts.append(self._resampler.push(samples))
        samples = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return samples if self._order is None else samples[self._order]

    def finish(self) -> NDArray[np.float32]:
        """The samples that wait, float32 [channels, samples]."""
        rest = self._resampler.finish()
        self._resampler = ResampleStream(self._shape[1], self._rate, self._num_channels)
        return rest if self._order is None else rest[self._order]

    def _mixer_of(self, frame: Any) -> Any:
        from av import AudioResampler

        if not self._is_mixable or not _is_mixable(frame.layout):
            return None
        return AudioResampler("fltp", self._layout, frame.sample_rate)

    def _mixed(self, frame: Any, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._mixer is not None:
            frame.pts = None
            mixed = [samples_of(each) for each in self._mixer.resample(frame)]
            return np.concatenate(mixed, axis=1)
        placed = np.zeros((self._num_channels, samples.shape[1]), np.float32)
        count = min(len(placed), len(samples))
        placed[:count] = samples[:count]
        return placed


def _is_mixable(layout: Any) -> bool:
    """Whether FFmpeg has rules to mix a layout and another one."""
    names = {channel.name for channel in layout.channels}
    is_known = len(layout.channels) <= MAX_MIXED_CHANNELS and names <= set(WAV_CHANNELS)
    return is_known and wav_order(layout) is None
