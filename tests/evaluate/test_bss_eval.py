"""BSS-eval SDR against torchmetrics, against its definition by least squares, and at its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.audio import signal_distortion_ratio

from singleout.errors import InputError
from singleout.evaluate.bss_eval import bss_eval_sdr
from singleout.evaluate.metrics import sdr, si_sdr


def noise(seed: int, *shape: int, rms_db: float = -20.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 ** (rms_db / 20) * torch.randn(shape, generator=generator, dtype=torch.float64)


def filtered(waveform: Tensor, taps: Tensor) -> Tensor:
    """A causal filter of each waveform ``[items, samples]``."""
    padded = F.pad(waveform[:, None], (len(taps) - 1, 0))
    return F.conv1d(padded, taps.flip(0)[None, None])[:, 0]


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    num_samples=st.integers(1_000, 6_000),
    error_db=st.floats(-60, 10),
    gain_db=st.floats(-60, 20),
)
def test_it_agrees_with_torchmetrics(
    seed: int, num_samples: int, error_db: float, gain_db: float
) -> None:
    target = noise(seed, 2, num_samples)
    estimate = filtered(target, noise(seed + 1, 40, rms_db=0))
    estimate = 10 ** (gain_db / 20) * (estimate + noise(seed + 2, 2, num_samples, rms_db=error_db))
    expected = signal_distortion_ratio(estimate, target)
    torch.testing.assert_close(bss_eval_sdr(estimate, target), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_samples", [10, 200])  # fewer samples than taps, and more
def test_it_is_the_projection_on_delayed_targets(num_samples: int) -> None:
    num_taps = 24
    target, estimate = noise(0, num_samples).numpy(), noise(1, num_samples).numpy()
    column = np.concatenate([target, np.zeros(num_taps - 1)])
    delayed = toeplitz(column, np.zeros(num_taps))
    padded = np.concatenate([estimate, np.zeros(num_taps - 1)])
    projected = delayed @ np.linalg.lstsq(delayed, padded, rcond=None)[0]
    expected = 10 * np.log10(np.sum(projected**2) / np.sum((padded - projected) ** 2))
    score = bss_eval_sdr(torch.from_numpy(estimate), torch.from_numpy(target), num_taps)
    assert score.item() == pytest.approx(expected, abs=1e-6)


def test_a_short_filter_is_an_error_only_for_other_metrics() -> None:
    target = noise(0, 1, 8_000)
    estimate = filtered(target, noise(1, 100, rms_db=0))
    assert bss_eval_sdr(estimate, target).item() > 15
    assert si_sdr(estimate, target).item() < 0
    assert sdr(estimate, target).item() < 0


def test_a_filter_beyond_the_taps_is_an_error() -> None:
    target = noise(0, 1, 8_000)
    assert bss_eval_sdr(F.pad(target, (500, 0))[:, :8_000], target).item() > 10
    assert bss_eval_sdr(F.pad(target, (600, 0))[:, :8_000], target).item() < -5


def test_scores_stay_within_100_db() -> None:
    target = noise(0, 2_000)
    assert bss_eval_sdr(target, target).item() == pytest.approx(100)
    assert bss_eval_sdr(-3 * target, target).item() == pytest.approx(100)
    assert bss_eval_sdr(torch.zeros(2_000), torch.zeros(2_000) + 0.1).item() == pytest.approx(-100)


def test_a_tone_as_target_is_not_singular() -> None:
    tone = 0.1 * torch.sin(0.1 * torch.arange(16_000, dtype=torch.float64))
    estimate = tone + noise(0, 16_000, rms_db=-60)
    expected = sdr(estimate, tone).item()
    assert bss_eval_sdr(estimate, tone).item() == pytest.approx(expected, abs=0.2)


def test_an_absent_target_has_no_score() -> None:
    target = torch.stack([noise(0, 1_000), torch.zeros(1_000).double(), noise(1, 1_000)])
    estimate = target + noise(2, 3, 1_000, rms_db=-30)
    scores = bss_eval_sdr(estimate, target)
    assert scores.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(scores[2], bss_eval_sdr(estimate[2], target[2]))


def test_clipping_is_an_error() -> None:
    target = noise(0, 8_000, rms_db=0)
    clipped = target.clamp(-1, 1)
    expected = signal_distortion_ratio(clipped, target)
    torch.testing.assert_close(bss_eval_sdr(clipped, target), expected, atol=1e-4, rtol=0)
    assert expected < bss_eval_sdr(target.clamp(-2, 2), target) < 100


def test_shape_and_level_do_not_matter() -> None:
    target = noise(0, 2, 3, 700)
    estimate = target + noise(1, 2, 3, 700, rms_db=-30)
    scores = bss_eval_sdr(estimate, target)
    assert scores.shape == (2, 3)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(bss_eval_sdr(1e-170 * estimate, 1e-3 * target), scores)
    assert bss_eval_sdr(torch.zeros(0, 100), torch.zeros(0, 100)).shape == (0,)


@pytest.mark.parametrize(
    ("estimate", "target", "message"),
    [
        (torch.ones(2, 8), torch.ones(8), "same shape"),
        (torch.ones(2, 0), torch.ones(2, 0), "no samples"),
        (torch.full((8,), torch.nan), torch.ones(8), "estimate holds NaN"),
        (torch.ones(8), torch.ones(8, dtype=torch.int16), "target must be a floating-point"),
    ],
)
def test_errors_name_the_cause(estimate: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bss_eval_sdr(estimate, target)
