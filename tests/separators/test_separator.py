"""The base class of separators: its abstract members, weighted parts, the downmix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.condition import Condition
from singleout.separators import Separator
from singleout.separators.separator import downmix
from tests.conftest import TINY_SEPARATOR

DIM = 32


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ABSTRACT = {"decode", "encode", "context_samples", "output_layers", "stride_samples"}


class Gain(Separator):
    """The smallest separator: the target is the mixture times the first entry of the query."""

    stride_samples = 1
    context_samples = 0
    output_layers = ()

    def encode(self, mixture: Tensor) -> Tensor:
        return mixture

    def decode(self, encoded: Tensor, embedding: Tensor) -> Tensor:
        mixtures = encoded.repeat(len(embedding) // len(encoded), 1, 1)
        return mixtures * embedding[:, :1, None]


def test_a_separator_needs_all_abstract_members() -> None:
    assert Separator.__abstractmethods__ == ABSTRACT
    with pytest.raises(TypeError, match="abstract"):
        Separator(4, 16_000)  # type: ignore[abstract]
    for name in ABSTRACT:
        members = {key: value for key, value in vars(Gain).items() if key in ABSTRACT - {name}}
        incomplete = type("Incomplete", (Separator,), members)
        with pytest.raises(TypeError, match=f"abstract .*{name}"):
            incomplete(4, 16_000)


def test_a_separator_needs_no_other_members() -> None:
    separator = Gain(4, 16_000)
    assert isinstance(separator, torch.nn.Module)
    assert (separator.embedding_dim, separator.sample_rate) == (4, 16_000)
    mixture, query = seeded(0, 2, 1, 10), seeded(1, 2, 4)
    assert torch.equal(separator(mixture, query), mixture * query[:, :1, None])


@pytest.mark.parametrize(
    "separator", [Gain(DIM, 16_000), TINY_SEPARATOR.build(DIM).eval()], ids=["gain", "unet"]
)
@torch.inference_mode()
def test_the_estimate_of_several_parts_is_their_weighted_mean(separator: Any) -> None:
    mixture, parts = 0.1 * seeded(0, 2, 1, 3_000), F.normalize(seeded(5, 4, 3, DIM), dim=-1)
    weights = seeded(2, 4, 3).softmax(1)
    condition = Condition(parts, weights, torch.ones(4, 1, dtype=torch.bool))
    encoded = separator.encode(mixture)
    targets = torch.stack([separator.decode(encoded, parts[:, part]) for part in range(3)])
    expected = (weights.T[:, :, None, None] * targets).sum(0)
    torch.testing.assert_close(separator.estimate(encoded, condition), expected)
    # The order of the parts has no effect.
    swapped = Condition(parts.flip(1), weights.flip(1), condition.mask)
    torch.testing.assert_close(separator.estimate(encoded, swapped), expected)


# The downmix.


def spectra(*shape: int) -> torch.Tensor:
    return torch.complex(seeded(1, *shape), seeded(2, *shape))


def test_a_single_channel_is_not_changed_by_the_downmix() -> None:
    spectrum = spectra(2, 1, 9, 5)
    assert torch.equal(downmix(spectrum), spectrum[:, 0])


def test_the_downmix_has_the_level_of_the_channels_for_every_polarity() -> None:
    one = spectra(2, 1, 9, 5)
    for gains in ([1.0, 1.0, 1.0], [1.0, -1.0], [0.0, 1.0, -1.0], [0.3, 0.9]):
        gain = torch.tensor(gains)[None, :, None, None]
        mono = downmix(one * gain)
        level = gain.square().mean().sqrt()
        torch.testing.assert_close(mono.abs(), one[:, 0].abs() * level)
        rotation = mono / (one[:, 0] * level)
        torch.testing.assert_close(rotation.abs(), torch.ones_like(rotation.real))
        if sum(gains) > 0:
            torch.testing.assert_close(mono, one[:, 0] * level)
    silent = downmix(torch.zeros(1, 2, 9, 5, dtype=torch.complex64))
    assert not silent.any()
