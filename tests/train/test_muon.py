"""The optimiser that makes gradients of matrices orthogonal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.train import muon
from singleout.train.muon import MuonAdamW, orthogonalised


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1_000))
@settings(max_examples=40)
def test_no_direction_of_a_step_dominates(rows: int, columns: int, seed: int) -> None:
    """Singular values within the iteration's range, whatever those of the gradient are; directions
    that the gradient hardly has stay below."""
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(rows, columns, generator=generator)
    values = torch.linalg.svdvals(orthogonalised(gradient))
    assert values.max() < 1.3
    given_values = torch.linalg.svdvals(gradient)
    full = int((given_values > 0.05 * given_values.norm()).sum())
    assert values[full - 1] > 0.5


def test_an_orthogonal_step_keeps_the_gradients_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(8, 12, generator=generator)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    aligned = u.T @ orthogonalised(gradient) @ v.T
    off = aligned - torch.diag(aligned.diagonal())
    assert off.abs().max() < 0.1
    assert aligned.diagonal().min() > 0.5


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_size_of_a_gradient_does_not_count(scale: float) -> None:
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        orthogonalised(gradient * scale), orthogonalised(gradient), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("is_fast", [True, False])
def test_either_number_type_makes_a_gradient_orthogonal(
    is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without instructions for bfloat16 the CPU uses float32; the results differ by rounding."""
    gradient = torch.randn(9, 30, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(muon, "FAST_BFLOAT16", is_fast)
    assert muon.number_type(torch.device("cuda")) is torch.bfloat16
    ours = orthogonalised(gradient)
    assert ours.dtype is torch.float32
    assert torch.equal(ours, ours.bfloat16().float()) == is_fast
    monkeypatch.setattr(muon, "FAST_BFLOAT16", not is_fast)
    torch.testing.assert_close(ours, orthogonalised(gradient), atol=0.05, rtol=0)


def test_a_gradient_of_zeros_is_no_step() -> None:
    assert not orthogonalised(torch.zeros(3, 4)).any()


def _weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = [(5, 4, 3, 3), (5,), (7, 5), (3, 7)]
    weights = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    return weights


def test_vectors_and_the_output_are_stepped_as_by_adamw() -> None:
    ours, theirs = _weights(), _weights()
    MuonAdamW(ours, ours[3:], 1e-2, 0.5).step()
    torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.0).step()
    for number in (1, 3):
        torch.testing.assert_close(ours[number], theirs[number], rtol=0, atol=0)
    for number in (0, 2):
        assert not torch.allclose(ours[number], theirs[number])


def test_a_matrix_moves_as_far_as_by_adamw() -> None:
    """At the root mean square, 0.2 per unit of learning rate."""
    weights, before = _weights(), _weights()
    MuonAdamW(weights, weights[3:], 1e-2, 0.0).step()
    for number in (0, 2):
        moved = (weights[number] - before[number]).detach().square().mean().sqrt() / 1e-2
        assert 0.1 < moved < 0.3


def test_weights_decay() -> None:
    weights, kept = _weights(), _weights()
    MuonAdamW(weights, weights[3:], 1e-2, 0.5).step()
    MuonAdamW(kept, kept[3:], 1e-2, 0.0).step()
    torch.testing.assert_close(weights[0], kept[0] - 0.005 * _weights()[0])


def test_weights_without_a_gradient_stay() -> None:
    weights = _weights()
    weights[0].grad = None
    MuonAdamW(weights, weights[3:], 1e-2, 0.5).step()
    assert torch.equal(weights[0], _weights()[0])


def test_the_layout_of_a_weight_does_not_count() -> None:
    """What a checkpoint brings back may lie otherwise in memory."""
    plain, last = _weights(), _weights()
    last[0] = last[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    last[0].grad = _weights()[0].grad
    for weights in (plain, last):
        MuonAdamW(weights, weights[3:], 1e-2, 0.5).step()
    assert torch.equal(plain[0], last[0])


def test_closures_are_called() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    output = torch.ones(1, 2, requires_grad=True)

    def closure() -> torch.Tensor:
        loss = (output @ weight).sum()
        loss.backward()
        return loss

    before = weight.detach().clone()
    assert MuonAdamW([weight, output], [output], 0.1, 0.0).step(closure) == 4
    assert not torch.equal(weight, before)
