"""Metrics against torchmetrics, closed forms and the rules written in their docstrings."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.audio import (
    scale_invariant_signal_distortion_ratio,
    signal_noise_ratio,
    source_aggregated_signal_distortion_ratio,
)

from singleout.errors import InputError
from singleout.evaluate.metrics import (
    SILENT_SI_SDR_DB,
    is_silent,
    sa_sdr,
    score,
    sdr,
    sdr_improvement,
    si_sdr,
    si_sdr_improvement,
    suppression,
)

METRICS: list[Callable[..., Tensor]] = [sdr, si_sdr, is_silent, suppression]

levels_db = st.floats(-60, 40)
shapes = st.lists(st.integers(1, 3), max_size=2).flatmap(
    lambda leading: st.integers(16, 2000).map(lambda samples: (*leading, samples))
)
seeds = st.integers(0, 2**31)


def noise(seed: int, *shape: int, rms_db: float = -20.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 ** (rms_db / 20) * torch.randn(shape, generator=generator, dtype=torch.float64)


def orthogonal_pair(num_samples: int = 4000) -> tuple[Tensor, Tensor]:
    """Two orthogonal waveforms of equal power."""
    phase = 2 * torch.pi * torch.arange(num_samples, dtype=torch.float64) / num_samples
    return 0.1 * torch.sin(5 * phase), 0.1 * torch.cos(9 * phase)


@settings(deadline=None)
@given(seed=seeds, shape=shapes, target_db=levels_db, error_db=levels_db)
def test_sdr_and_si_sdr_agree_with_torchmetrics(
    seed: int, shape: tuple[int, ...], target_db: float, error_db: float
) -> None:
    target = noise(seed, *shape, rms_db=target_db)
    estimate = target + noise(seed + 1, *shape, rms_db=error_db)
    expected = signal_noise_ratio(estimate, target, zero_mean=False)
    torch.testing.assert_close(sdr(estimate, target), expected, atol=1e-4, rtol=0)
    expected = scale_invariant_signal_distortion_ratio(estimate, target, zero_mean=False)
    torch.testing.assert_close(si_sdr(estimate, target), expected, atol=1e-6, rtol=1e-6)


def test_the_mean_is_not_removed() -> None:
    target, distortion = orthogonal_pair()
    estimate = target + distortion + 0.3
    zero_mean = scale_invariant_signal_distortion_ratio(estimate, target, zero_mean=True)
    assert zero_mean - si_sdr(estimate, target) > 5


@pytest.mark.parametrize("snr_db", [-15.0, 0.0, 7.5])
def test_orthogonal_error_scores_its_snr_in_both(snr_db: float) -> None:
    target, distortion = orthogonal_pair()
    estimate = target + 10 ** (-snr_db / 20) * distortion
    assert sdr(estimate, target).item() == pytest.approx(snr_db)
    assert si_sdr(estimate, target).item() == pytest.approx(snr_db)


@settings(deadline=None)
@given(seed=seeds, gain_db=levels_db)
def test_si_sdr_ignores_the_scale_of_either_waveform(seed: int, gain_db: float) -> None:
    target, gain = noise(seed, 500), 10 ** (gain_db / 20)
    estimate = target + noise(seed + 1, 500, rms_db=-25)
    expected = si_sdr(estimate, target)
    torch.testing.assert_close(si_sdr(gain * estimate, target), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(si_sdr(-gain * estimate, target), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(si_sdr(estimate, gain * target), expected, atol=1e-6, rtol=0)


def test_sdr_has_the_floor_of_audiosep() -> None:
    target = torch.full((1000,), 0.1)
    assert sdr(target, target).item() == pytest.approx(80)  # -20 dB above -100 dB
    assert sdr(target + 1e-6, target).item() == pytest.approx(80, abs=1e-3)
    assert sdr(torch.zeros(1000), torch.zeros(1000)).item() == 0
    assert sdr(target, torch.zeros(1000)).item() == pytest.approx(-80)


def test_a_perfect_estimate_scores_high_but_finite() -> None:
    target = noise(0, 1000)
    assert 100 < si_sdr(target, target) < math.inf


def test_a_clipped_estimate_loses_what_clipping_removed() -> None:
    target = noise(0, 4000, rms_db=0)
    clipped = target.clamp(-1, 1)
    lost = (target - clipped).square().mean()
    expected = 10 * torch.log10(target.square().mean() / lost)
    torch.testing.assert_close(sdr(clipped, target), expected)
    assert 5 < expected < sdr(target.clamp(-2, 2), target)


def test_half_the_mixture_has_sdr_but_no_si_sdr_improvement() -> None:
    target, interferer = orthogonal_pair()
    snr_db = torch.linspace(-5, 5, 201, dtype=torch.float64)
    mixture = target + 10 ** (-snr_db[:, None] / 20) * interferer
    scores = score(mixture / 2, target.expand_as(mixture), mixture)
    closed_form = 10 * torch.log10(4 / (1 + 10 ** (snr_db / 10)))
    torch.testing.assert_close(scores.sdr_improvement, closed_form)
    assert scores.sdr_improvement.mean().item() == pytest.approx(2.8, abs=0.05)
    assert scores.si_sdr_improvement.abs().max() < 1e-9
    assert not scores.improved.any()


@settings(deadline=None)
@given(seed=seeds, gain=st.floats(0.02, 50))
def test_no_gain_turns_the_mixture_into_an_improvement(seed: int, gain: float) -> None:
    target = noise(seed, 4, 800).float()
    mixture = target + noise(seed + 1, 4, 800, rms_db=-25).float()
    assert not score(gain * mixture, target, mixture).improved.any()


def test_silence_rule() -> None:
    target, interferer = orthogonal_pair()
    mixture = target + interferer  # 0 dB, 3.01 dB above the target
    gains_db = torch.tensor([0.0, -36.9, -37.1, -200.0], dtype=torch.float64)
    estimates = 10 ** (gains_db[:, None] / 20) * target  # a perfect direction at any level
    estimates = torch.cat([estimates, torch.zeros(1, target.numel())])
    scores = score(estimates, target.expand_as(estimates), mixture.expand_as(estimates))
    assert scores.is_silent.tolist() == [False, False, True, True, True]
    assert scores.improved.tolist() == [True, True, False, False, False]
    assert (scores.si_sdr[:2] > 100).all()
    assert (scores.si_sdr[2:] == SILENT_SI_SDR_DB).all()
    torch.testing.assert_close(scores.si_sdr_improvement[2:], torch.full((3,), -30.0).double())
    assert si_sdr(estimates[-1], target).item() == pytest.approx(0)  # what the rule is for


def test_silence_never_counts_as_improved_even_below_a_worse_mixture() -> None:
    target, interferer = orthogonal_pair()
    mixture = target + 100 * interferer
    scores = score(torch.zeros_like(target), target, mixture)
    assert scores.si_sdr_improvement.item() == pytest.approx(10)
    assert not scores.improved


def test_the_wrong_source_scores_below_the_mixture() -> None:
    target, interferer = noise(0, 16000), noise(1, 16000)
    scores = score(interferer, target, target + interferer)
    assert scores.si_sdr_improvement < -15
    assert not scores.improved


def test_an_absent_target_has_no_si_sdr_and_its_sdr_improvement_is_attenuation() -> None:
    mixture = noise(0, 3, 1000)
    estimate = torch.tensor([[1.0], [0.1], [0.0]], dtype=torch.float64) * mixture
    scores = score(estimate, torch.zeros_like(mixture), mixture)
    assert not scores.is_present.any()
    assert scores.si_sdr.isnan().all()
    assert scores.si_sdr_improvement.isnan().all()
    assert not scores.improved.any()
    assert scores.is_silent.tolist() == [False, False, True]
    expected = torch.tensor([0.0, 20.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(scores.sdr_improvement, expected, atol=0.3, rtol=0)


@settings(deadline=None)
@given(seed=seeds, shape=shapes, target_db=levels_db, error_db=levels_db)
def test_sa_sdr_agrees_with_torchmetrics_on_target_and_residual(
    seed: int, shape: tuple[int, ...], target_db: float, error_db: float
) -> None:
    target = noise(seed, *shape, rms_db=target_db)
    mixture = target + noise(seed + 1, *shape)
    estimate = target + noise(seed + 2, *shape, rms_db=error_db)
    expected = source_aggregated_signal_distortion_ratio(
        torch.stack([estimate, mixture - estimate], -2),
        torch.stack([target, mixture - target], -2),
        scale_invariant=False,
        zero_mean=False,
    )
    scores = sa_sdr(estimate, target, mixture)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_sa_sdr_of_an_absent_target_is_suppression_less_3_db() -> None:
    mixture = noise(0, 3, 1000)
    estimate = torch.tensor([[1.0], [0.1], [0.01]], dtype=torch.float64) * mixture
    scores = sa_sdr(estimate, torch.zeros_like(mixture), mixture)
    torch.testing.assert_close(scores, suppression(estimate, mixture) - 10 * math.log10(2))


def test_sa_sdr_is_finite_for_silence_and_for_perfection() -> None:
    target, zero = torch.full((1000,), 0.1), torch.zeros(1000)
    assert sa_sdr(target, target, target).item() == pytest.approx(80)
    assert sa_sdr(zero, zero, target).item() == pytest.approx(80)
    assert sa_sdr(zero, zero, zero).item() == 0


def test_suppression_is_the_level_below_the_mixture_within_its_cap() -> None:
    mixture = noise(0, 1000)
    gains_db = torch.tensor([6.0, 0.0, -37.0, -99.0, -101.0, -300.0], dtype=torch.float64)
    estimates = 10 ** (gains_db[:, None] / 20) * mixture
    expected = torch.tensor([-6.0, 0.0, 37.0, 99.0, 100.0, 100.0], dtype=torch.float64)
    scores = suppression(estimates, mixture.expand_as(estimates))
    torch.testing.assert_close(scores, expected)
    assert suppression(torch.zeros(1000).double(), mixture).item() == pytest.approx(100)
    assert suppression(mixture.clamp(-0.05, 0.05), mixture) > 1  # clipping takes power away


def test_suppression_of_silence_is_undefined() -> None:
    assert suppression(torch.ones(8), torch.zeros(8)).isnan()
    assert suppression(torch.zeros(8), torch.zeros(8)).isnan()


def test_zero_is_silent_even_when_the_mixture_is_zero() -> None:
    assert is_silent(torch.zeros(8), torch.zeros(8))


def test_scores_follow_the_definitions_of_the_improvements() -> None:
    target = noise(0, 2, 3, 400)
    mixture = target + noise(1, 2, 3, 400, rms_db=-15)
    estimate = target + noise(2, 2, 3, 400, rms_db=-30)
    scores = score(estimate, target, mixture)
    assert torch.equal(scores.sdr, sdr(estimate, target))
    assert torch.equal(scores.sdr_improvement, sdr_improvement(estimate, target, mixture))
    assert torch.equal(scores.si_sdr, si_sdr(estimate, target))
    assert torch.equal(scores.si_sdr_improvement, si_sdr_improvement(estimate, target, mixture))
    assert scores.improved.all()
    assert scores.improved.shape == scores.is_present.shape == (2, 3)


def test_float32_is_scored_in_float64() -> None:
    target = noise(0, 2000).float()
    estimate = target + noise(1, 2000, rms_db=-90).float()
    assert sdr(estimate, target).dtype == torch.float64
    assert torch.equal(si_sdr(estimate, target), si_sdr(estimate.double(), target.double()))


def test_inputs_are_not_changed() -> None:
    waveforms = [noise(seed, 2, 100) for seed in range(3)]
    copies = [waveform.clone() for waveform in waveforms]
    score(*waveforms)
    assert all(map(torch.equal, waveforms, copies))


def test_a_batch_of_no_waveforms_gives_no_scores() -> None:
    scores = score(*[torch.zeros(0, 100)] * 3)
    assert scores.sdr.shape == scores.si_sdr_improvement.shape == scores.improved.shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.ones(2, 8), torch.ones(8), r"same shape .* \[2, 8\], .* \[8\]"),
        (torch.ones(2, 0), torch.ones(2, 0), "no samples"),
        (torch.tensor(1.0), torch.tensor(1.0), "no samples"),
        (torch.ones(8), torch.full((8,), torch.nan), "NaN or infinite"),
        (torch.full((8,), torch.inf), torch.ones(8), "estimate holds NaN or infinite"),
        (torch.ones(8, dtype=torch.int16), torch.ones(8), "estimate must be a floating-point"),
    ],
)
def test_errors_name_the_cause(
    metric: Callable[..., Tensor], first: Tensor, second: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        metric(first, second)


def test_score_checks_the_mixture_too() -> None:
    with pytest.raises(InputError, match=r"mixture \[9\]"):
        score(torch.ones(8), torch.ones(8), torch.ones(9))
    with pytest.raises(InputError, match="mixture holds NaN"):
        score(torch.ones(8), torch.ones(8), torch.full((8,), torch.nan))
