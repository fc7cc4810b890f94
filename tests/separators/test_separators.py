"""Properties of all separators: chunks, several queries, any length, silence, parts."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from singleout.condition import Condition
from singleout.config import validated
from singleout.encoders import BuiltinEncoder
from singleout.errors import ConfigError
from singleout.model import ModelConfig, QueriedSeparator
from singleout.separators import (
    BandSplitConfig,
    ConditionedUNetConfig,
    IdentityConfig,
    LocoformerConfig,
    ResUNet30Config,
)
from singleout.separators.band_split import band_edges
from tests.conftest import TINY_SEPARATOR, randomise_statistics

DIM = 32
OTHER = ConditionedUNetConfig(
    sample_rate=16_000,
    num_fft=256,
    hop=64,
    fold=2,
    channels=(4, 6),
    time_strides=(3,),
    bottleneck=8,
    dilations=(3,),
    query_dim=4,
)


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        separator = config.build(DIM)
        randomise_statistics(separator)
    return separator.eval().requires_grad_(False)


BANDS = BandSplitConfig(
    sample_rate=16_000,
    num_fft=256,
    hop=64,
    num_bands=7,
    channels=8,
    dilations=(1, 3, 2),
    free_blocks=1,
    query_dim=4,
)
LOCOFORMER = LocoformerConfig(
    sample_rate=16_000,
    num_fft=256,
    hop=128,
    fold=16,
    channels=8,
    hidden=12,
    heads=2,
    num_blocks=2,
    free_blocks=1,
    window=4,
    query_dim=4,
)
SEPARATORS = {
    "unet": built(TINY_SEPARATOR),
    "other": built(OTHER),
    "bands": built(BANDS),
    "locoformer": built(LOCOFORMER),
    "identity": built(IdentityConfig()),
}
every = pytest.mark.parametrize("separator", SEPARATORS.values(), ids=SEPARATORS.keys())


def embeddings(number: int, seed: int = 5) -> Tensor:
    return torch.nn.functional.normalize(seeded(seed, number, DIM), dim=-1)


@pytest.mark.parametrize(
    "config",
    [TINY_SEPARATOR, BANDS, LOCOFORMER, ResUNet30Config(sample_rate=16_000, num_fft=256, hop=64)],
    ids=lambda config: config.type,
)
def test_targets_depend_on_the_query_only_through_the_output_layers(config: Any) -> None:
    """If the output layers are zero, all queries have the same target."""
    separator = built(config)
    mixture, queries = 0.1 * seeded(0, 1, 1, 4_000), embeddings(2)

    def differ() -> bool:
        one, other = separator(mixture, queries)
        return not torch.equal(one, other)

    assert differ()
    for layer in separator.output_layers:
        for weight in layer.parameters():
            weight.zero_()
    assert not differ()


@every
def test_chunks_with_context_equal_the_whole(separator: Any) -> None:
    stride, context = separator.stride_samples, separator.context_samples
    context = -(-context // stride) * stride
    body = 3 * stride
    mixture = 0.1 * seeded(0, 1, 1, 2 * context + 3 * body + 17)
    query = embeddings(1)
    whole = separator(mixture, query)
    start = context + body
    chunk = separator(mixture[..., start - context : start + body + context], query)
    torch.testing.assert_close(
        chunk[..., context : context + body], whole[..., start : start + body], atol=2e-6, rtol=0
    )


@every
def test_samples_beyond_the_context_have_no_effect(separator: Any) -> None:
    context = separator.context_samples
    length = 2 * context + 2000
    mixture, query = 0.1 * seeded(0, 1, 1, length), embeddings(1)
    changed = mixture.clone()
    middle = length // 2
    changed[..., middle] += 1.0
    difference = (separator(changed, query) - separator(mixture, query)).abs()[0, 0]
    assert difference[middle] > 0
    before, after = difference[: max(0, middle - context)], difference[middle + context + 1 :]
    assert not len(before) or before.max() < 2e-6
    assert not len(after) or after.max() < 2e-6


@every
def test_several_queries_equal_one_at_a_time(separator: Any) -> None:
    mixtures = 0.1 * seeded(0, 2, 1, 5000)
    queries = embeddings(6).view(3, 2, DIM)
    together = separator(mixtures, queries.flatten(0, 1)).view(3, 2, 1, -1)
    for q in range(3):
        for m in range(2):
            single = separator(mixtures[m : m + 1], queries[q, m : m + 1])
            torch.testing.assert_close(together[q, m], single[0], atol=1e-6, rtol=0)
    encoded = separator.encode(mixtures)
    for q in range(3):
        torch.testing.assert_close(
            separator.decode(encoded, queries[q]), together[q], atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", ["unet", "other", "bands", "locoformer"])
def test_the_query_matters(name: str) -> None:
    mixture = 0.1 * seeded(0, 1, 1, 5000)
    one, two = SEPARATORS[name](mixture, embeddings(2))
    assert (one - two).abs().max() > 1e-4


@every
@settings(deadline=None, max_examples=10)
@given(num_samples=st.integers(1, 4000), batch=st.integers(1, 2), level=st.floats(1e-6, 1.0))
def test_a_target_has_the_length_of_its_mixture(
    separator: Any, num_samples: int, batch: int, level: float
) -> None:
    mixture = level * seeded(1, batch, 1, num_samples)
    before = mixture.clone()
    target = separator(mixture, embeddings(batch))
    assert target.shape == mixture.shape
    assert target.dtype == torch.float32
    assert torch.isfinite(target).all()
    assert torch.equal(mixture, before)


@every
def test_digital_silence_stays_silent(separator: Any) -> None:
    silence = torch.zeros(1, 1, 3000)
    assert not separator(silence, embeddings(1)).any()


@every
def test_a_target_has_at_most_the_power_of_its_mixture(separator: Any) -> None:
    """The mask's magnitude is below one."""
    mixture = 0.1 * seeded(0, 1, 1, 20_000)
    target = separator(mixture, embeddings(1))
    assert target.square().sum() <= mixture.square().sum() * (1 + 1e-5)


@pytest.mark.parametrize("hop", [128, 256])
@pytest.mark.parametrize("num_samples", [1, 512, 2_560, 2_700, 2_815, 256 * 11 + 200])
def test_the_inverse_transform_restores_the_mixture(hop: int, num_samples: int) -> None:
    """From the first to the last sample, for every overlap."""
    separator = built(TINY_SEPARATOR.model_copy(update={"hop": hop}))
    mixture = seeded(0, 2, 3, num_samples)
    again = separator.stft.inverse(separator.encode(mixture).spectrum, num_samples)
    torch.testing.assert_close(again, mixture, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [TINY_SEPARATOR, OTHER, BANDS, LOCOFORMER])
def test_channels_share_one_mask(config: Any) -> None:
    separator = built(config)
    mixture, query = 0.1 * seeded(0, 2, 1, 9_000), embeddings(4)
    mono = separator(mixture, query)
    same = separator(mixture.expand(2, 3, -1), query)
    torch.testing.assert_close(same, mono.expand(4, 3, -1), atol=1e-6, rtol=1e-4)
    inverted = separator(torch.cat([mixture, -mixture], 1), query)
    torch.testing.assert_close(inverted[:, 0], -inverted[:, 1])
    torch.testing.assert_close(inverted[:, :1].abs(), mono.abs(), atol=1e-6, rtol=1e-4)
    two = 0.1 * seeded(3, 2, 2, 9_000)
    swapped = separator(two.flip(1), query)
    torch.testing.assert_close(swapped.flip(1), separator(two, query), atol=1e-6, rtol=1e-4)
    panned = separator(torch.cat([0.8 * mixture, 0.2 * mixture], 1), query)
    torch.testing.assert_close(panned[:, 0], 4 * panned[:, 1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("config", [TINY_SEPARATOR, OTHER])
def test_training_reaches_every_weight(config: ConditionedUNetConfig) -> None:
    separator = config.build(DIM)
    target = separator(0.1 * seeded(0, 2, 1, 8000), embeddings(4))
    target.square().sum().backward()
    for name, parameter in separator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_default_has_at_most_8_million_weights() -> None:
    with torch.device("meta"):
        separator = ConditionedUNetConfig().build(256)
    assert sum(p.numel() for p in separator.parameters()) <= 8_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_strides": (2,)}, "one entry less than channels"),
        ({"hop": 300}, "multiple of 2 hops"),
        ({"hop": 2_048}, "multiple of 2 hops"),
        ({"fold": 1_024}, "divisible by fold"),
        ({"fold": 0}, "greater than 0"),
        ({"channels": ()}, "one entry less"),
        ({"depth": 3}, "not permitted"),
    ],
)
def test_sizes_of_a_unet_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConditionedUNetConfig.model_validate(changes)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"type": kind, key: value}, key)
    for kind, keys in {
        "conditioned_unet": ["sample_rate", "num_fft", "hop", "fold", "bottleneck", "query_dim"],
        "band_split": ["sample_rate", "num_fft", "hop", "num_bands", "channels", "query_dim"],
        "locoformer": ["sample_rate", "num_fft", "channels", "hidden", "num_blocks", "window"],
        "resunet30": ["sample_rate", "num_fft", "hop"],
        "identity": ["sample_rate"],
    }.items()
    for key in keys
    for value in (0, 10**7, 2**62, 10**4_000, float("inf"))
] + [
    ({"type": "conditioned_unet", "channels": [2**62] * 3}, "channels"),
    ({"type": "conditioned_unet", "dilations": [1] * 100_000}, "dilations"),
    ({"type": "conditioned_unet", "dilations": [10**6]}, "dilations"),
    ({"type": "band_split", "dilations": [1] * 100_000}, "dilations"),
    ({"type": "locoformer", "num_blocks": 10**6}, "num_blocks"),
    ({"type": "resunet30", "num_fft": 2_048, "hop": 1}, "at most 64 hops"),
    ({"type": "conditioned_unet", "num_fft": 2_048, "hop": 16}, "at most 64 hops"),
]


@pytest.mark.parametrize(("values", "message"), HOSTILE, ids=lambda v: str(v)[:40])
def test_sizes_beyond_their_bounds_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validated(ModelConfig, {"separator": values}, "config.json")
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ConditionedUNetConfig(channels=(16_000,) * 4), "weights: the limit is 1,000,000,000"),
        (LocoformerConfig(channels=16_384, hidden=16_384), "weights: the limit"),
        (BandSplitConfig(channels=16_384), "weights: the limit"),
        (
            ConditionedUNetConfig(num_fft=65_536, hop=32_768, time_strides=(32, 32, 1)),
            "samples of stride: the limit",
        ),
        (ConditionedUNetConfig(dilations=(1_024,) * 8), "samples of context: the limit"),
    ],
)
def test_sizes_that_are_too_large_together_are_refused(
    config: Any, message: str, debug_encoder: BuiltinEncoder
) -> None:
    """In training too, where the network is not built on the meta device."""
    with pytest.raises(ConfigError, match=message):
        QueriedSeparator(ModelConfig(separator=config), debug_encoder)


def test_separators_are_chosen_by_type() -> None:
    for config in (TINY_SEPARATOR, OTHER, IdentityConfig(sample_rate=8_000)):
        model = ModelConfig(separator=config)
        assert ModelConfig.model_validate_json(model.model_dump_json()) == model
        assert config.build(DIM).sample_rate == config.sample_rate
    with pytest.raises(ValidationError, match="transformer"):
        ModelConfig.model_validate({"separator": {"type": "transformer"}})


# Bands, and windows of attention.


@pytest.mark.parametrize(("num_bins", "num_bands"), [(1_024, 48), (128, 7), (128, 32), (40, 10)])
def test_bands_cover_the_spectrum_and_widen(num_bins: int, num_bands: int) -> None:
    edges = band_edges(num_bins, num_bands)
    widths = [high - low for low, high in itertools.pairwise(edges)]
    assert (edges[0], edges[-1], len(widths)) == (0, num_bins, num_bands)
    assert min(widths) >= 4
    assert all(later >= width - 1 for width, later in itertools.pairwise(widths))  # rounding


@pytest.mark.parametrize("config", [BANDS, LOCOFORMER])
def test_a_few_steps_lower_the_loss(config: Any) -> None:
    """Gradients reach every weight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        separator = config.build(DIM).train()
        mixture, query = 0.1 * seeded(0, 2, 1, 4_000), embeddings(2)
        target = 0.5 * mixture
        optimizer = torch.optim.Adam(separator.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            estimate = separator(mixture, query)
            loss = (estimate - target).square().mean() / target.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and bool(p.grad.any()) for p in separator.parameters())


@pytest.mark.parametrize(
    ("config", "values", "reason"),
    [
        (BandSplitConfig, {"num_bands": 300}, "num_bands: a band has 4"),
        (BandSplitConfig, {"free_blocks": 8}, "free_blocks leaves no block"),
        (BandSplitConfig, {"hop": 700}, "multiple of 2 hops"),
        (LocoformerConfig, {"fold": 7}, "divisible by fold"),
        (LocoformerConfig, {"heads": 5}, "divisible by heads"),
        (LocoformerConfig, {"free_blocks": 4}, "free_blocks leaves no block"),
    ],
)
def test_sizes_of_bands_and_blocks_that_do_not_fit_are_refused(
    config: Any, values: dict[str, int], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(**values)


# Parts and defaults.


@every
def test_the_estimate_of_one_part_is_its_target(separator: Any) -> None:
    mixture, query = 0.1 * seeded(0, 1, 1, 3_000), embeddings(2)
    encoded = separator.encode(mixture)
    estimate = separator.estimate(encoded, Condition.single(query))
    assert torch.equal(estimate, separator.decode(encoded, query))


CONFIGS = (
    BandSplitConfig,
    ConditionedUNetConfig,
    IdentityConfig,
    LocoformerConfig,
    ResUNet30Config,
)


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_are_only_in_the_config(kind: Any) -> None:
    """The constructor of a network has no defaults, and builds what its config says."""
    config = kind()
    with torch.device("meta"):
        separator = config.build(DIM)
    parameters = inspect.signature(type(separator)).parameters.values()
    assert all(parameter.default is inspect.Parameter.empty for parameter in parameters)
    assert separator.sample_rate == config.sample_rate
    assert separator.embedding_dim == (0 if kind is IdentityConfig else DIM)
