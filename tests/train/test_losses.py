"""Losses of an estimate against its target."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from singleout.train.losses import negative_si_sdr_db, negative_snr_db, separation_loss_db


def test_the_loss_is_the_negative_snr_with_a_ceiling() -> None:
    target = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 4000, generator=torch.Generator().manual_seed(1))
    noise *= target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        negative_snr_db(target, target), torch.full((5,), -30.0), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        negative_snr_db(torch.zeros_like(target), target), torch.zeros(5), atol=0.01, rtol=0
    )
    torch.testing.assert_close(
        negative_snr_db(target + 0.1 * noise, target),
        torch.full((5,), 10 * math.log10(0.01 + 0.001)),
        atol=1e-3,
        rtol=0,
    )


def test_si_sdr_depends_on_the_direction_only_and_is_bounded() -> None:
    target, noise = torch.randn(2, 6, 4_000, generator=torch.Generator().manual_seed(0))
    noise -= (noise * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    noise *= target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    for level in (0.5, 1.0, 20.0):
        for share in (0.3, 1.0, 3.0):
            loss = negative_si_sdr_db(level * (target + share * noise), target)
            expected = torch.full((6,), 20 * math.log10(share))
            torch.testing.assert_close(loss, expected, atol=0.3, rtol=0)
    for estimate in (noise, torch.zeros_like(target)):
        loss = negative_si_sdr_db(estimate, target)
        torch.testing.assert_close(loss, torch.full((6,), 30.0), atol=0.1, rtol=0)
    assert (negative_si_sdr_db(target, target) < -26.9).all()
    for estimate in (torch.zeros(6, 4_000), 1e-6 * noise, target.clone()):
        estimate.requires_grad_()
        negative_si_sdr_db(estimate, target).sum().backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()
        assert estimate.grad.norm(dim=-1).max() * target.norm(dim=-1).max() < 3_000


@given(level=st.floats(1e-2, 1e2))
def test_the_loss_does_not_depend_on_the_level(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target, estimate = torch.randn(2, 1000, generator=generator)
    torch.testing.assert_close(
        negative_snr_db(level * estimate, level * target),
        negative_snr_db(estimate, target),
        atol=1e-3,
        rtol=0,
    )


def test_the_loss_and_its_gradient_are_finite_for_silence_and_perfection() -> None:
    for target in (torch.zeros(100), torch.ones(100)):
        for start in (torch.zeros(100), torch.ones(100)):
            estimate = start.clone().requires_grad_()
            loss = negative_snr_db(estimate, target)
            loss.backward()
            assert estimate.grad is not None
            assert torch.isfinite(loss)
            assert torch.isfinite(estimate.grad).all()


def random_signals(*shape: int, number: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed)))


def test_the_loss_of_a_silent_target_is_the_level_of_the_estimate() -> None:
    """From 0 dB for the mixture itself to -30 dB for silence; a quieter rest earns no more."""
    _, mixture, _ = random_signals(5, 4_000)
    silence = torch.zeros_like(mixture)
    for left, expected in ((1.0, 0.0), (0.1, -20), (0.0, -30), (1e-5, -30), (10.0, 20)):
        loss = separation_loss_db(left * mixture, silence, mixture)
        torch.testing.assert_close(loss, torch.full((5,), float(expected)), atol=0.5, rtol=0)
        exact = 10 * math.log10(left**2 + 1e-3)
        torch.testing.assert_close(loss, torch.full((5,), exact), atol=1e-3, rtol=0)


def test_the_loss_of_any_other_target_is_the_negative_snr() -> None:
    """To the bit, row by row."""
    target, mixture, estimate = random_signals(4, 1, 900)
    target[1] = 0
    losses = separation_loss_db(estimate, target, mixture)
    assert losses.shape == (4, 1)
    plain = negative_snr_db(estimate, target)
    for row in (0, 2, 3):
        assert torch.equal(losses[row], plain[row])
    assert losses[1] != plain[1]
    torch.testing.assert_close(
        separation_loss_db(target, target, mixture), torch.full((4, 1), -30.0), atol=1e-3, rtol=0
    )
    nothing = separation_loss_db(torch.zeros_like(target), target, mixture)[[0, 2, 3]]
    torch.testing.assert_close(nothing, torch.zeros(3, 1), atol=0.01, rtol=0)


@given(level=st.floats(1e-2, 1e2))
def test_the_loss_of_silence_does_not_depend_on_the_level(level: float) -> None:
    target, mixture, estimate = random_signals(2, 900)
    target[0] = 0
    torch.testing.assert_close(
        separation_loss_db(level * estimate, level * target, level * mixture),
        separation_loss_db(estimate, target, mixture),
        atol=1e-3,
        rtol=0,
    )


def test_the_loss_of_silence_has_finite_gradients() -> None:
    for mixture in (torch.zeros(100), torch.ones(100)):
        for target in (torch.zeros(100), torch.ones(100)):
            for start in (torch.zeros(100), torch.ones(100)):
                estimate = start.clone().requires_grad_()
                separation_loss_db(estimate, target, mixture).backward()
                assert estimate.grad is not None
                assert torch.isfinite(estimate.grad).all()
