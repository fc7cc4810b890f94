"""The parts of a training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.condition import Condition
from singleout.data.dataset import TrainingExample
from singleout.encoders import BuiltinEncoder
from singleout.errors import TrainingError
from singleout.evaluate.metrics import score
from singleout.manipulations import Dropout, MeanShift, Pca, RowDraws
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.losses import negative_si_sdr_db, negative_snr_db, separation_loss_db
from singleout.train.module import TrainingModule, ema_update, learning_rate_factor
from tests.train.batches import batch_of, module_of
from tests.train.runs import flat, with_steps

STATE_OF_PCA = {"1.audio_mean", "1.text_mean", "1.basis"}


def test_validation_scores_captions_where_targets_have_them(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Targets without a caption are scored by their sound only."""
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(3, uncaptioned=(1, 3, 5))
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=generator)
    batch["mixture"] = batch["targets"].sum(1)
    config = with_steps(configure(tmp_path), MeanShift())
    model = QueriedSeparator(config.model, debug_encoder).eval()
    means = torch.randn(2, 32, generator=generator)
    model.manipulator.state = {"0.audio_mean": means[0], "0.text_mean": means[1]}
    module = TrainingModule(model, config).eval()
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    with torch.no_grad():
        module.on_validation_epoch_start()
        for rows in ([0], [1, 2]):  # the means are over all queries, and not over batches
            part = {name: values[rows] for name, values in batch.items()}  # type: ignore[index]
            module.validation_step(TrainingExample(**part), 0)  # type: ignore[typeddict-item]
        module.on_validation_epoch_end()
        for kind, rows in (("audio", [0, 1, 2, 3, 4, 5]), ("text", [0, 2, 4])):
            queries = flat(batch[f"{kind}_embedding"])  # type: ignore[literal-required]
            embeddings = model.manipulator.for_inference(queries, kind == "text")
            estimate = model(batch["mixture"], Condition.single(embeddings))
            scores = score(estimate, flat(batch["targets"]), batch["mixture"].repeat(2, 1, 1))
            mean = float(scores.si_sdr_improvement[rows].mean())
            assert logged[f"{kind}_si_sdri"] == pytest.approx(mean, abs=1e-4)
            improved = float(scores.improved[rows].float().mean())
            assert logged[f"{kind}_improved"] == pytest.approx(improved)
    module.on_validation_epoch_start()
    logged.clear()
    module.on_validation_epoch_end()  # without a scored query
    assert not logged


def test_the_averaged_weights_need_no_gradients(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """DDP would wait for them."""
    config = configure(tmp_path)
    module = TrainingModule(QueriedSeparator(config.model, debug_encoder), config)
    assert not any(weight.requires_grad for weight in module.averaged.parameters())
    assert all(weight.requires_grad for weight in module.model.separator.parameters())


def test_the_loss_of_a_step_is_the_mean_over_its_parts(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    config = with_steps(configure(tmp_path, accumulate=2, batch_size=4))
    batch = batch_of(4)
    batch["targets"] = torch.randn(4, 2, 1, 2_000, generator=torch.Generator().manual_seed(0))
    batch["mixture"] = batch["targets"].sum(1)
    module = module_of(config, debug_encoder)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    losses = []
    for rows in ([0, 1], [2, 3]):
        assert not logged
        part = {name: values[rows] for name, values in batch.items()}  # type: ignore[index]
        losses.append(float(module.training_step(TrainingExample(**part), 0)))  # type: ignore[typeddict-item]
    assert logged["loss"] == pytest.approx(sum(losses) / 2)
    batch["mixture"][0] = torch.nan
    module.training_step(batch, 0)
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        module.training_step(batch, 1)


def test_the_parts_of_the_loss_are_weighted(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(3)
    generator = torch.Generator().manual_seed(0)
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=generator)
    batch["mixture"] = batch["targets"].sum(1)
    batch["targets"][0, 1] = batch["targets"][2, 0] = 0
    config = configure(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = QueriedSeparator(config.model, debug_encoder).eval()
    module = TrainingModule(model, config)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value.detach())}  # type: ignore[method-assign]
        if isinstance(value, torch.Tensor) else {name: value})  # fmt: skip

    def loss_of(**changes: Any) -> float:
        module.run = config.model_copy(update=changes)
        with torch.no_grad():
            return float(module.training_step(batch, 0))

    with torch.no_grad():
        estimate = model(batch["mixture"], module.condition(batch))
    target, mixture = flat(batch["targets"]), batch["mixture"].repeat(2, 1, 1)
    losses = separation_loss_db(estimate, target, mixture)[:, 0]
    silent = torch.tensor([False, False, True, True, False, False])
    assert torch.equal(target.any(-1)[:, 0], ~silent)
    weighted = {
        weight: float(torch.where(silent, weight * losses, losses).mean())
        for weight in (0.0, 0.5, 1.0)
    }
    assert weighted[0.0] != pytest.approx(weighted[1.0], abs=1e-3)
    assert loss_of() == pytest.approx(weighted[1.0], abs=1e-5)
    for weight, expected in weighted.items():
        loss = loss_of(absent_weight=weight)
        assert loss == pytest.approx(expected, abs=1e-5)
        assert logged["loss"] == pytest.approx(loss, abs=1e-6)
    si_sdr = negative_si_sdr_db(estimate, target)[:, 0]
    total = torch.where(silent, 0.5 * losses, losses + 0.3 * si_sdr).mean()
    assert loss_of(absent_weight=0.5, si_sdr_weight=0.3) == pytest.approx(float(total), abs=1e-5)


def test_the_loss_of_a_step_is_the_loss_of_its_estimates(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    config = with_steps(configure(tmp_path))
    batch = batch_of(3)
    batch["targets"] = torch.randn(3, 2, 1, 2_000, generator=torch.Generator().manual_seed(0))
    batch["mixture"] = batch["targets"].sum(1)
    module = module_of(config, debug_encoder)
    logged: list[str] = []
    module.log = lambda name, value, **_: logged.append(name)  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)
    expected = negative_snr_db(batch["mixture"].repeat(2, 1, 1), flat(batch["targets"])).mean()
    torch.testing.assert_close(loss, expected)
    assert set(logged) == {"loss"}


@settings(deadline=None)
@given(warmup=st.integers(0, 50), more=st.integers(1, 200))
def test_the_learning_rate_warms_up_then_falls(warmup: int, more: int) -> None:
    config = TrainConfig.model_validate(
        {
            "audio": "a",
            "output": "b",
            "model": {"separator": {"type": "identity"}},
            "warmup_steps": warmup,
            "steps": warmup + more,
        }
    )
    factors = [learning_rate_factor(step, config) for step in range(config.steps + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup] == 1
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)


def test_a_flat_schedule_warms_up_and_stays() -> None:
    config = TrainConfig.model_validate(
        {
            "audio": "a",
            "output": "b",
            "model": {"separator": {"type": "identity"}},
            "schedule": "flat",
            "warmup_steps": 4,
            "steps": 20,
        }
    )
    factors = [learning_rate_factor(step, config) for step in range(20)]
    assert factors == [0.25, 0.5, 0.75, *[1.0] * 17]
    # Old run keys stay valid: at their defaults, the new settings are not dumped.
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert "schedule" not in cosine.model_dump()
    assert "si_sdr_weight" not in cosine.model_dump()


def test_the_average_forgets_its_start() -> None:
    update = ema_update(0.9)
    start, current = torch.zeros(3), torch.ones(3)
    assert torch.equal(update(start, current, 0), current)
    torch.testing.assert_close(update(start, current, 10), torch.full((3,), 0.5))
    torch.testing.assert_close(update(start, current, 10_000), torch.full((3,), 0.1))


def test_the_modes_of_a_model_do_not_change_its_manipulator(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """``train()`` and ``eval()`` of ``nn.Module`` switch a flag, which the manipulator ignores."""
    config = with_steps(configure(tmp_path), MeanShift(), Pca(k=3), Dropout(p=0.5))
    module = module_of(config, debug_encoder)
    manipulator = module.model.manipulator
    before = {name: tensor.clone() for name, tensor in (manipulator.state or {}).items()}
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for mode in (True, False):
        assert module.train(mode) is module
        assert manipulator.training is mode
        draws = RowDraws.seeded(1, rows=4)
        results.append(
            (
                manipulator.for_training(rows, False, draws),
                manipulator.for_inference(rows, False),
                manipulator.condition(rows, True).embeddings,
            )
        )
    for trained, evaluated in zip(*results, strict=True):
        assert torch.equal(trained, evaluated)
    state = manipulator.state
    assert state is not None
    assert state.keys() == before.keys() == {"0.audio_mean", "0.text_mean", *STATE_OF_PCA}
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_the_manipulator_is_not_among_the_weights(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Checkpoints and models store what it has learned under names of their own."""
    module = module_of(with_steps(configure(tmp_path), MeanShift()), debug_encoder)
    assert not [name for name in module.state_dict() if "manipulator" in name]
    assert not list(module.model.manipulator.parameters())
    module.double()  # moves and converts, as .to(device) does
    state = module.model.manipulator.state
    assert state is not None
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
