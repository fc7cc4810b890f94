"""Manipulations of a query's audio: their statistics, and the hook in the encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Generator, Tensor

from singleout.config import StrictConfig, validated
from singleout.encoders import BuiltinEncoder, ClapEncoder, QueryEncoder
from singleout.encoders.encoder import Augment
from singleout.errors import ConfigError
from singleout.manipulations import RowDraws
from singleout.manipulations.audio import Mixup, SpecAugment
from tests.encoders.clap_models import tiny_encoder

pytestmark = pytest.mark.slow

Wave = NDArray[np.float32]


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def draws_for(given_: Tensor, seed: int = 0) -> RowDraws:
    return RowDraws.seeded(seed, len(given_))


def log_mels(*shape: int, seed: int = 7) -> Tensor:
    """In dB, and no two values alike."""
    return -40 + 20 * torch.randn(shape, generator=seeded(seed))


def wave(num_samples: int, seed: int = 0) -> Wave:
    """No sample is nearly silent, so that a single one is a sound."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(0.05, 0.2, num_samples) * rng.choice([-1, 1], num_samples)
    return np.asarray(drawn, np.float32)


def power(audio: NDArray[Any]) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


def added_by(mixed: Wave, target: Wave) -> NDArray[np.float64]:
    return mixed.astype(np.float64) - target


# SpecAugment.


def chance(masks: int, max_share: float, length: int) -> Tensor:
    """How likely each place is hidden by any of the masks, by counting; [length]."""
    widest = round(max_share * length)
    one = torch.zeros(length, dtype=torch.float64)
    for width in range(widest + 1):
        for first in range(length - width + 1):
            one[first : first + width] += 1 / (widest + 1) / (length - width + 1)
    return 1 - (1 - one) ** masks


@pytest.mark.parametrize(
    "augment",
    [
        SpecAugment(),
        SpecAugment(share=0.3),
        SpecAugment(time_masks=1, frequency_masks=0, max_time_share=0.2),
        SpecAugment(time_masks=0, frequency_masks=1, max_frequency_share=1.0),
        SpecAugment(time_masks=3, frequency_masks=1, max_time_share=1.0, max_frequency_share=0.5),
    ],
)
def test_every_place_is_hidden_with_the_expected_probability(augment: SpecAugment) -> None:
    clips, frames, mels = 6_000, 20, 16
    given_ = log_mels(clips, 1, frames, mels)
    hidden = (augment.masked(given_, draws_for(given_)) != given_)[:, 0].double().mean(0)
    shown = [
        1 - chance(augment.time_masks, augment.max_time_share, frames)[:, None],
        1 - chance(augment.frequency_masks, augment.max_frequency_share, mels),
    ]
    expected = augment.share * (1 - shown[0] * shown[1])
    error = (expected * (1 - expected) / clips).sqrt()
    assert ((hidden - expected).abs() <= 5 * error + 1e-9).all()
    if augment.time_masks == 1 and not augment.frequency_masks:
        # Half the largest width, on average.
        assert expected.mean() == pytest.approx(augment.max_time_share / 2)


def test_one_mask_is_one_block_of_any_width_up_to_the_largest() -> None:
    clips, frames, widest = 8_000, 40, 10
    given_ = log_mels(clips, 1, frames, 3)
    augment = SpecAugment(time_masks=1, frequency_masks=0, max_time_share=widest / frames)
    hidden = (augment.masked(given_, draws_for(given_)) != given_)[:, 0]
    assert torch.equal(hidden.all(-1), hidden.any(-1)), "whole frames"
    frame_hidden = hidden[..., 0]
    widths = frame_hidden.sum(-1)
    edges = frame_hidden.int().diff(prepend=torch.zeros(clips, 1), append=torch.zeros(clips, 1))
    assert torch.equal((edges > 0).sum(-1), (widths > 0).long()), "one block"
    share = torch.bincount(widths, minlength=widest + 1) / clips
    assert share.shape == (widest + 1,)
    assert (share - 1 / (widest + 1)).abs().max() <= 5 * (1 / (widest + 1) / clips) ** 0.5


@settings(deadline=None, max_examples=40)
@given(
    augment=st.builds(
        SpecAugment,
        share=st.floats(0, 1),
        time_masks=st.integers(0, 3),
        frequency_masks=st.integers(0, 3),
        max_time_share=st.floats(0.01, 1),
        max_frequency_share=st.floats(0.01, 1),
    ),
    shape=st.tuples(*(st.integers(1, high) for high in (5, 4, 60, 30))),
    seed=st.integers(0, 2**31),
)
def test_masks_are_blocks_of_the_mean_and_spare_the_rest(
    augment: SpecAugment, shape: tuple[int, ...], seed: int
) -> None:
    given_ = log_mels(*shape)
    before, state = given_.clone(), torch.get_rng_state()
    masked = augment.masked(given_, draws_for(given_, seed))
    assert torch.equal(given_, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(masked, augment.masked(given_, draws_for(given_, seed)))
    assert (masked.shape, masked.dtype) == (given_.shape, given_.dtype)
    if given_[0].numel() == 1:
        return  # a single value equals the mean
    for clip, before_clip in zip(masked, given_, strict=True):
        hidden = clip != before_clip
        torch.testing.assert_close(clip[hidden], before_clip.mean().expand(int(hidden.sum())))
        assert torch.equal(hidden, hidden[:1].expand_as(hidden)), "the same in every channel"
        frame_hidden, band_hidden = hidden[0].all(1), hidden[0].all(0)
        assert torch.equal(hidden[0], frame_hidden[:, None] | band_hidden)
        # All is hidden if all of either is: then the other's blocks cannot be told apart.
        if not hidden.all():
            for of_axis, masks, share in (
                (frame_hidden, augment.time_masks, augment.max_time_share),
                (band_hidden, augment.frequency_masks, augment.max_frequency_share),
            ):
                assert int(of_axis.sum()) <= masks * round(share * len(of_axis))
                runs = torch.cat([torch.zeros(1), of_axis.float()]).diff() > 0
                assert int(runs.sum()) <= masks


@pytest.mark.parametrize(
    "augment", [SpecAugment(time_masks=0, frequency_masks=0), SpecAugment(share=0)]
)
def test_no_masks_are_the_identity(augment: SpecAugment) -> None:
    given_ = log_mels(5, 4, 30, 8)
    assert torch.equal(augment.masked(given_, draws_for(given_)), given_)


def test_masks_differ_between_clips_and_calls_but_not_between_batches() -> None:
    augment, given_ = SpecAugment(share=0.7), log_mels(1, 1, 50, 20).repeat(9, 1, 1, 1)
    draws = draws_for(given_)
    together = augment.masked(given_, draws)
    assert len(torch.unique(together, dim=0)) > 4
    assert not torch.equal(together, augment.masked(given_, draws))
    draws, rows = draws_for(given_), ([0, 1, 2, 3], [4], [5, 6, 7, 8])
    parts = [augment.masked(given_[part], draws.of(part)) for part in rows]
    assert torch.equal(together != given_, torch.cat(parts) != given_)
    torch.testing.assert_close(together, torch.cat(parts))


def test_the_share_does_not_move_the_masks() -> None:
    given_ = log_mels(64, 1, 50, 20)
    always, sometimes = (SpecAugment(share=s).masked(given_, draws_for(given_)) for s in (1.0, 0.5))
    untouched = (sometimes == given_).flatten(1).all(1)
    assert 16 <= int(untouched.sum()) <= 48
    assert torch.equal(sometimes[~untouched], always[~untouched])


# Mixup.


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 500),
    other_length=st.integers(1, 1_500),
    gain_db=st.floats(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_the_added_clip_has_the_level_that_was_drawn(
    length: int, other_length: int, gain_db: float, seed: int
) -> None:
    target, other = wave(length, 1), wave(other_length, 2)
    spared = target.copy(), other.copy()
    mixup = Mixup(gain_db=(gain_db, gain_db))
    mixed = mixup.mixed(target, other, np.random.default_rng(seed))
    assert mixed.shape == target.shape
    assert mixed.dtype == np.float32
    level = 10 * np.log10(power(added_by(mixed, target)) / power(target))
    assert level == pytest.approx(gain_db, abs=1e-4)
    assert np.array_equal(mixed, mixup.mixed(target, other, np.random.default_rng(seed)))
    assert np.array_equal(target, spared[0])
    assert np.array_equal(other, spared[1])


def test_gains_are_uniform_in_their_range() -> None:
    target, other, rng = wave(50, 1), wave(80, 2), np.random.default_rng(0)
    mixup, count = Mixup(gain_db=(-12, 4)), 3_000
    powers = [power(added_by(mixup.mixed(target, other, rng), target)) for _ in range(count)]
    levels = np.sort(10 * np.log10(np.array(powers) / power(target)))
    assert -12 - 1e-4 <= levels[0] < levels[-1] <= 4 + 1e-4
    assert levels.mean() == pytest.approx(-4, abs=5 * 16 / (12 * count) ** 0.5)
    # Kolmogorov's distance at one in a thousand.
    distance = np.abs((levels + 12) / 16 - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / count**0.5


def test_a_long_clip_is_cut_anywhere() -> None:
    target, other, rng = wave(10), np.arange(1, 31, dtype=np.float32), np.random.default_rng(0)
    mixup, count = Mixup(gain_db=(20, 20)), 4_200
    starts = []
    for _ in range(count):
        added = added_by(mixup.mixed(target, other, rng), target)
        step = (added[-1] - added[0]) / 9
        starts.append(round(added[0] / step) - 1)
        np.testing.assert_allclose(added / step, starts[-1] + np.arange(1, 11), rtol=1e-3)
    share = np.bincount(starts, minlength=21) / count
    assert share.shape == (21,)
    assert np.abs(share - 1 / 21).max() <= 5 * (1 / 21 / count) ** 0.5


def test_a_short_clip_is_repeated_from_its_start() -> None:
    target, other = wave(11), wave(4, 3)
    added = added_by(Mixup().mixed(target, other, np.random.default_rng(0)), target)
    scale = added[0] / other[0]
    np.testing.assert_allclose(added, scale * np.tile(other, 3)[:11], rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_examples_is_mixed(share: float) -> None:
    target, other, rng = wave(20, 1), wave(30, 2), np.random.default_rng(0)
    count = 2_000
    mixed = [Mixup(share=share).mixed(target, other, rng) is not target for _ in range(count)]
    assert np.mean(mixed) == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize(
    ("target", "other"),
    [
        (np.zeros(50, np.float32), wave(80)),
        (wave(50), np.zeros(80, np.float32)),
        (wave(50), np.zeros(3, np.float32)),
        (wave(50), np.zeros(0, np.float32)),
        (wave(50), 1e-6 * wave(80)),
        (wave(50), np.full(80, 1e-45, np.float32)),
    ],
)
def test_silence_is_not_mixed(target: Wave, other: Wave) -> None:
    assert Mixup().mixed(target, other, np.random.default_rng(0)) is target


def test_loud_targets_are_neither_clipped_nor_scaled() -> None:
    target, other = 5 * wave(1_000, 1), wave(1_000, 2)
    mixed = Mixup(gain_db=(0, 0)).mixed(target, other, np.random.default_rng(0))
    scale = np.sqrt(power(target) / power(other))
    np.testing.assert_allclose(mixed, target + scale * other, atol=1e-6)
    assert np.abs(mixed).max() > 1


def test_the_generator_gives_as_many_numbers_in_every_case() -> None:
    silent = np.zeros(40, np.float32)
    states = []
    for mixup, target, other in [
        (Mixup(), wave(40), wave(90)),
        (Mixup(share=0), wave(40), wave(90)),
        (Mixup(), silent, wave(90)),
    ]:
        rng = np.random.default_rng(5)
        mixup.mixed(target, other, rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2]


# Configs.


@pytest.mark.parametrize("config", [Mixup(), Mixup(share=0.2, gain_db=(3, 3)), SpecAugment()])
def test_a_config_survives_json(config: StrictConfig) -> None:
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Mixup, {"share": 1.1}, "'share'.*less than or equal to 1"),
        (Mixup, {"share": float("nan")}, "'share'"),
        (Mixup, {"gain_db": (0, -3)}, "gain_db is a range"),
        (Mixup, {"gain_db": (0, float("inf"))}, "'gain_db.1'.*a finite number"),
        (Mixup, {"gain_db": (0, 101)}, "'gain_db.1'.*less than or equal to 100"),
        (Mixup, {"gain_db": (float("nan"), 0)}, "'gain_db.0'"),
        (Mixup, {"gain_db": (0,)}, "'gain_db.1'"),
        (Mixup, {"snr_db": (0, 1)}, "unknown key 'snr_db'"),
        (SpecAugment, {"share": -0.1}, "'share'.*greater than or equal to 0"),
        (SpecAugment, {"time_masks": -1}, "'time_masks'.*greater than or equal to 0"),
        (SpecAugment, {"frequency_masks": 1.5}, "'frequency_masks'.*integer"),
        (SpecAugment, {"max_time_share": 0}, "'max_time_share'.*greater than 0"),
        (SpecAugment, {"max_frequency_share": 1.1}, "'max_frequency_share'.*or equal to 1"),
    ],
)
def test_wrong_values_are_one_line(
    kind: type[StrictConfig], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validated(kind, values, "here")
    assert "\n" not in str(caught.value)


# The hook in the encoders.

RATE = 48_000


@pytest.fixture(scope="module", params=["builtin", "clap", "fused clap"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "builtin":
        return BuiltinEncoder.from_pretrained()
    return tiny_encoder(tmp_path_factory.mktemp("tokenizer"), fused=request.param == "fused clap")


@pytest.fixture(scope="module", params=[0.7, 10.5], ids=["short", "long"])
def clips(request: pytest.FixtureRequest) -> Tensor:
    return 0.1 * torch.randn(3, int(RATE * request.param), generator=seeded())


@pytest.mark.parametrize(
    "identity",
    [
        lambda log_mel, clips: log_mel,
        lambda log_mel, clips: log_mel.contiguous().clone(),
        lambda log_mel, clips: SpecAugment(share=0).masked(log_mel, draws_for(log_mel)),
    ],
    ids=["same", "copy", "unmasked"],
)
def test_an_identity_changes_no_bit(
    identity: Augment, encoder: QueryEncoder, clips: Tensor
) -> None:
    expected = encoder.embed_audio(clips, RATE)
    assert torch.equal(encoder.embed_audio(clips, RATE, None), expected)
    assert torch.equal(encoder.embed_audio(clips, RATE, identity), expected)


def test_a_constant_makes_all_sounds_alike(encoder: QueryEncoder, clips: Tensor) -> None:
    plain = encoder.embed_audio(clips, RATE)
    alike = encoder.embed_audio(clips, RATE, lambda x, clips: torch.full_like(x, -3))
    torch.testing.assert_close(alike, alike[:1].expand_as(alike), atol=1e-5, rtol=0)
    torch.testing.assert_close(alike.norm(dim=-1), torch.ones(3))
    assert ((plain - alike).abs().amax(-1) > 1e-3).all()


def test_masking_one_sound_changes_the_embedding_of_that_sound_only(
    encoder: QueryEncoder, clips: Tensor
) -> None:
    augment = SpecAugment(max_time_share=0.6, max_frequency_share=0.6)

    def of_the_second(log_mel: Tensor, clips: Sequence[int]) -> Tensor:
        masked = log_mel.clone()
        masked[1:2] = augment.masked(log_mel[1:2], draws_for(log_mel[1:2]))
        return masked

    plain, masked = (encoder.embed_audio(clips, RATE, hook) for hook in (None, of_the_second))
    torch.testing.assert_close(masked.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(masked[[0, 2]], plain[[0, 2]], atol=1e-5, rtol=0)
    assert (masked[1] - plain[1]).abs().max() > 1e-4


def test_the_hook_gets_clips_channels_frames_and_mels(encoder: QueryEncoder, clips: Tensor) -> None:
    seen: list[Tensor] = []

    def augment(log_mel: Tensor, numbers: Sequence[int]) -> Tensor:
        assert list(numbers) == [0, 1, 2]
        seen.append(log_mel.clone())
        return log_mel

    encoder.embed_audio(clips, RATE, augment)
    builtin = isinstance(encoder, BuiltinEncoder)
    channels = 4 if isinstance(encoder, ClapEncoder) and encoder._features.settings.fused else 1
    frames = 1 + clips.shape[-1] * 100 // RATE if builtin else 1_001
    assert [x.shape for x in seen] == [(3, channels, frames, 64)]
    assert seen[0].dtype == torch.float32
