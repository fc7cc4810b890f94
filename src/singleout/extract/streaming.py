"""A recording to its parts, block by block, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.audio import AudioReader, ResampleStream
from singleout.errors import ModelError
from singleout.extract.chunking import separated
from singleout.manipulations import Members
from singleout.model import QueriedSeparator
from singleout.model.level_gate import GatedStream

MIN_CHUNK_SECONDS = 2.0
FEW_CHANNELS = 2


def parts(
    model: QueriedSeparator,
    reader: AudioReader,
    conditions: Sequence[Members],
    chunk_seconds: float,
    link_channels: bool,
    gated: GatedStream | None = None,
    gain: float = 1.0,
) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
    """The mixture as it was read, and the target of every query in it.

    Read → resample → separate in chunks → bring to level → resample back, each a stream. The
    mixture waits until its targets are known.

    Args:
        conditions: of every query, [1, members, dim], on the device of the separator.
        chunk_seconds: kept per chunk of up to two channels; more of them share the memory.
        gated: hears the targets at the model's rate, and gives them their level.
        gain: at which the model hears the recording; the targets have its own level again.

    Yields:
        The mixture, [channels, samples] in the recording's type, and float32 targets
        [queries, channels, samples]; none of them empty.

    Raises:
        AudioError: the recording cannot be read, or not to its end.
        ModelError: the model's output is not finite.
    """
    info = reader.info
    if link_channels:
        share = FEW_CHANNELS / max(FEW_CHANNELS, info.channels)
        chunk_seconds = max(min(chunk_seconds, MIN_CHUNK_SECONDS), chunk_seconds * share)
    waiting = Queue()

    def heard() -> Iterator[NDArray[np.float32]]:
        for block in reader.blocks():
            waiting.push(block)
            heard_at = block if gain == 1.0 else block * gain
            yield heard_at.astype(np.float32, copy=False)

    chunk_samples = max(1, round(chunk_seconds * model.sample_rate))
    at_rate = _resampled(heard(), info.sample_rate, model.sample_rate, info.channels)
    beside = Queue()

    def followed() -> Iterator[NDArray[np.float32]]:
        for block in at_rate:
            beside.push(block)
            yield block

    chunks = separated(
        model.separator,
        at_rate if gated is None else followed(),
        conditions,
        chunk_samples,
        link_channels,
    )
    back = [ResampleStream(model.sample_rate, info.sample_rate, info.channels) for _ in conditions]
    targets = Queue()
    while True:
        # Generators do not keep a thread's mode between two values: the caller has its own.
        with torch.inference_mode():
            found = next(chunks, None)
        if found is None:
            break
        _refuse_not_finite(found, waiting, reader.name)
        if gated is not None:
            found = gated.push(found, beside.pop(found.shape[2]))
        targets.push(_at_rate(found, back) / np.float32(gain))
        if ready := min(len(targets), len(waiting)):
            yield waiting.pop(ready), targets.pop(ready)
    if gated is not None and (last := gated.finish()).size:
        targets.push(_at_rate(last, back) / np.float32(gain))
    targets.push(np.stack([stream.finish() for stream in back]) / np.float32(gain))
    if rest := len(waiting):
        yield waiting.pop(rest), targets.pop(rest)


def _resampled(
    blocks: Iterable[NDArray[np.float32]], rate_in: int, rate_out: int, channels: int
) -> Iterator[NDArray[np.float32]]:
    stream = ResampleStream(rate_in, rate_out, channels)
    for block in blocks:
        yield stream.push(block)
    yield stream.finish()


def _at_rate(found: NDArray[np.float32], back: Sequence[ResampleStream]) -> NDArray[np.float32]:
    """[queries, channels, samples], each query by its own stream."""
    return np.stack([stream.push(target) for stream, target in zip(back, found, strict=True)])


def _refuse_not_finite(output: NDArray[np.float32], waiting: Queue, name: str) -> None:
    if np.isfinite(output).all():
        return
    raise ModelError(
        f"{name}: the model's output is not finite: its weights are damaged, or the recording is "
        f"far beyond full scale (its peak is {waiting.peak():.3g})"
    )


class Queue:
    """Blocks [..., samples] that come in and go out at different lengths."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[Any]] = []

    def __len__(self) -> int:
        return sum(block.shape[-1] for block in self._blocks)

    def push(self, block: NDArray[Any]) -> None:
        """At the end."""
        self._blocks.append(block)

    def pop(self, num_samples: int) -> NDArray[Any]:
        """From the front; zeros where there are fewer."""
        taken, missing = [], num_samples
        while missing and self._blocks:
            block = self._blocks.pop(0)
            if block.shape[-1] > missing:
                self._blocks.insert(0, block[..., missing:])
                block = block[..., :missing]
            taken.append(block)
            missing -= block.shape[-1]
        if missing:
            taken.append(np.zeros((*taken[-1].shape[:-1], missing), taken[-1].dtype))
        return taken[0] if len(taken) == 1 else np.concatenate(taken, axis=-1)

    def peak(self) -> float:
        """Largest magnitude."""
        return max((float(np.abs(b).max()) for b in self._blocks if b.size), default=0.0)
