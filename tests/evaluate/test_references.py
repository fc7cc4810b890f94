"""Reference estimates: what each must score, and the oracle mask against SciPy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import istft, stft
from torch import Tensor

from singleout.errors import InputError
from singleout.evaluate.metrics import Scores, score, si_sdr
from singleout.evaluate.references import REFERENCES, Reference, oracle_mask


def sources(*leading: int, num_samples: int = 16000) -> tuple[Tensor, Tensor]:
    """A gliding tone and white noise of equal power."""
    time = torch.arange(num_samples) / 16000
    tone = 0.14 * torch.sin(2 * torch.pi * (300 + 200 * time) * time).expand(*leading, num_samples)
    generator = torch.Generator().manual_seed(0)
    return tone.contiguous(), 0.1 * torch.randn(*leading, num_samples, generator=generator)


def reference_scores(name: str) -> Scores:
    target, interferer = sources(2)
    mixture = target + interferer
    return score(REFERENCES[name](mixture, target), target, mixture)


def test_registry_order_is_the_order_of_the_table() -> None:
    assert list(REFERENCES) == ["zeros", "mixture", "half_mixture", "oracle_mask"]


def test_zeros_are_silent_and_score_by_the_silence_rule() -> None:
    scores = reference_scores("zeros")
    assert scores.is_silent.all()
    assert (scores.si_sdr == -30).all()


def test_mixture_improves_nothing() -> None:
    scores = reference_scores("mixture")
    assert (scores.sdr_improvement == 0).all()
    assert (scores.si_sdr_improvement == 0).all()
    assert not scores.improved.any()


def test_half_mixture_improves_sdr_only() -> None:
    scores = reference_scores("half_mixture")
    assert torch.allclose(scores.sdr_improvement, torch.tensor(3.0).double(), atol=0.2)
    assert not scores.improved.any()


def test_oracle_mask_is_far_better_than_the_mixture() -> None:
    scores = reference_scores("oracle_mask")
    assert (scores.si_sdr_improvement > 10).all()
    assert scores.improved.all()


def test_oracle_mask_agrees_with_scipy() -> None:
    target, interferer = sources(num_samples=31 * 512)
    mixture = target + interferer
    window = torch.hann_window(2048, dtype=torch.float64).sqrt().numpy()
    spectra = [
        stft(waveform.double().numpy(), window=window, nperseg=2048, noverlap=1536)[2]
        for waveform in (target, interferer, mixture)
    ]
    mask = abs(spectra[0]) / (abs(spectra[0]) + abs(spectra[1]))
    _, expected = istft(mask * spectra[2], window=window, nperseg=2048, noverlap=1536)
    estimate = oracle_mask(mixture.double(), target.double())
    torch.testing.assert_close(estimate, torch.from_numpy(expected), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=25)
@given(num_samples=st.integers(1, 5000))
def test_oracle_mask_of_an_unmixed_target_is_the_target(num_samples: int) -> None:
    target, _ = sources(num_samples=num_samples)
    torch.testing.assert_close(oracle_mask(target, target), target, atol=1e-6, rtol=0)


def test_oracle_mask_of_an_absent_target_is_zero() -> None:
    _, mixture = sources(2)
    assert not oracle_mask(mixture, torch.zeros_like(mixture)).any()
    assert not oracle_mask(torch.zeros(100), torch.zeros(100)).any()


def test_oracle_mask_treats_channels_independently() -> None:
    target, interferer = sources(2, 2, num_samples=4000)
    mixture = target + interferer
    one = oracle_mask(mixture[1, 0], target[1, 0])
    torch.testing.assert_close(oracle_mask(mixture, target)[1, 0], one)
    assert si_sdr(one, target[1, 0]) > si_sdr(mixture[1, 0], target[1, 0])


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (700,), (3, 2, 2500), (0, 100)])
def test_shape_dtype_and_inputs_are_kept(
    reference: Reference, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    mixture, target = torch.full(shape, 0.5, dtype=dtype), torch.full(shape, 0.25, dtype=dtype)
    estimate = reference(mixture, target)
    assert (estimate.shape, estimate.dtype) == (mixture.shape, dtype)
    estimate += 1
    assert (mixture == 0.5).all()
    assert (target == 0.25).all()


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
def test_errors_are_those_of_the_metrics(reference: Reference) -> None:
    with pytest.raises(InputError, match="same shape"):
        reference(torch.ones(8), torch.ones(9))
    with pytest.raises(InputError, match="no samples"):
        reference(torch.ones(0), torch.ones(0))
    with pytest.raises(InputError, match="target holds NaN"):
        reference(torch.ones(8), torch.full((8,), torch.nan))
