"""``ChunkedSeparator``: chunks equal the whole, fades between chunks, and latency."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.condition import Condition
from singleout.extract.chunking import FADE_SECONDS, ChunkedSeparator
from singleout.model import QueriedSeparator
from singleout.separators import ConditionedUNetConfig, Identity, IdentityConfig
from tests.extract.chunks import separate_in_chunks
from tests.recordings import RATE, noise


class Alternating(Identity):
    """Estimates 1 and -1 in turns.

    Real separators differ far less between chunks, in half precision for example.
    """

    def __init__(self) -> None:
        super().__init__(IdentityConfig(sample_rate=RATE))
        self.sign = 1.0

    def decode(self, encoded: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        self.sign = -self.sign
        return torch.full_like(encoded, self.sign)


def test_chunks_that_differ_are_faded_into_each_other() -> None:
    audio = noise(5 * RATE)
    chunks = list(
        separate_in_chunks(Alternating(), [audio], [Condition.single(torch.zeros(1, 1))], RATE)
    )
    assert len(chunks) == 5
    target = np.concatenate(chunks, axis=2)[0, 0]
    assert (target.min(), target.max()) == (-1, 1)
    steepest = np.pi / (FADE_SECONDS * RATE)  # of a raised cosine from -1 to 1
    assert np.abs(np.diff(target)).max() <= 1.01 * steepest


def joined(chunks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All chunks as one array [queries, channels, samples]."""
    return np.concatenate(list(chunks), axis=2)


def test_chunks_of_the_full_size_separator_equal_the_whole() -> None:
    torch.manual_seed(0)
    separator = ConditionedUNetConfig(channels=(8, 8, 8, 8), bottleneck=16).build(8).eval()
    mixture = noise(12 * RATE)
    condition = torch.nn.functional.normalize(torch.randn(1, 8))
    with torch.inference_mode():
        whole, chunked = (
            joined(separate_in_chunks(separator, [mixture], [Condition.single(condition)], length))
            for length in (12 * RATE, RATE)
        )
    assert np.abs(chunked - whole).max() <= 1e-5 * np.abs(whole).max()


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 3_000), min_size=1, max_size=8),
    num_channels=st.integers(1, 3),
    chunk=st.integers(1, 2_000),
    context=st.integers(0, 900),
    stride=st.integers(1, 400),
    link_channels=st.booleans(),
)
def test_chunks_of_the_identity_are_the_mixture(
    lengths: list[int],
    num_channels: int,
    chunk: int,
    context: int,
    stride: int,
    link_channels: bool,
) -> None:
    """Chunks start at multiples of the stride and have their context, for blocks of any length."""
    total = sum(lengths)
    mixture = np.arange(1, num_channels * total + 1, dtype=np.float32).reshape(num_channels, total)
    mixture /= max(1, mixture.size)
    separator = EdgeSensitive(mixture, context, stride)
    blocks = np.split(mixture, np.cumsum(lengths)[:-1], axis=1)
    conditions = [Condition.single(row[None]) for row in torch.eye(2)]
    chunks = list(separate_in_chunks(separator, blocks, conditions, chunk, link_channels))
    if not total:
        assert not chunks
        return
    targets = joined(chunks)
    np.testing.assert_allclose(targets[0], mixture, atol=1e-6)
    np.testing.assert_allclose(targets[1], mixture, atol=1e-6)
    assert all(start % stride == 0 for start, _ in separator.reads)
    fade = round(FADE_SECONDS * separator.sample_rate)
    assert max(stop - start for start, stop in separator.reads) <= (
        chunk + 2 * context + 2 * stride + fade
    )


class EdgeSensitive(Identity):
    """Records which part of the mixture it gets, and spoils its edges.

    The mixture is a ramp, so that a value tells its position. At an edge of a chunk that is not an
    edge of the mixture, all samples within ``context_samples`` are wrong.
    """

    def __init__(self, mixture: NDArray[np.float32], context: int, stride: int) -> None:
        super().__init__(IdentityConfig(sample_rate=RATE))
        self.context_samples, self.stride_samples = context, stride
        self.mixture = mixture
        self.reads: list[tuple[int, int]] = []

    def encode(self, mixture: torch.Tensor) -> torch.Tensor:
        total = self.mixture.shape[1]
        position = round(float(mixture[0, 0, 0]) * self.mixture.size) - 1
        start = position % total
        stop = start + mixture.shape[2]
        self.reads.append((start, stop))
        estimate = mixture.clone()
        if start > 0:
            estimate[..., : self.context_samples] = 9
        if stop < total:
            estimate[..., mixture.shape[2] - self.context_samples :] = 9
        return estimate


@pytest.mark.parametrize(("chunk_samples", "num_blocks"), [(1, 12), (5_000, 40), (30_000, 40)])
def test_a_chunked_separator_keeps_its_latency(
    debug_model: QueriedSeparator, chunk_samples: int, num_blocks: int
) -> None:
    stage = ChunkedSeparator(
        debug_model.separator, [Condition.single(torch.ones(1, 32))], chunk_samples
    )
    assert stage.look_ahead_samples > debug_model.separator.context_samples
    pushed = returned = 0
    for _ in range(num_blocks):
        returned += sum(chunk.targets.shape[2] for chunk in stage.push(noise(3_000)))
        pushed += 3_000
        assert pushed - returned <= stage.latency_samples
    assert returned
    returned += sum(chunk.targets.shape[2] for chunk in stage.finish())
    assert returned == pushed
