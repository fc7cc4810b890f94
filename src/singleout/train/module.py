"""The training step, around the same forward path that evaluation and extraction use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from singleout.audio.silence import SILENT_ENERGY
from singleout.data.dataset import TrainingExample
from singleout.errors import TrainingError
from singleout.evaluate.metrics import score
from singleout.model import QueriedSeparator
from singleout.separators import Separator
from singleout.train.conditioning import Conditioning, by_query
from singleout.train.config import TrainConfig
from singleout.train.losses import negative_si_sdr_db, separation_loss_db
from singleout.train.muon import MuonAdamW
from singleout.train.processes import Processes

KINDS = ("audio", "text")
"""Kinds of queries by which a model is scored: sounds and captions."""


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, relative to ``config.learning_rate``.

    It rises linearly during ``config.warmup_steps``. Then it falls along a cosine, to a hundredth
    at the last step, or it stays if ``config.schedule`` is ``flat``.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(
        ...     audio="sounds", output="run", model=model, warmup_steps=10, steps=100
        ... )
        >>> [round(learning_rate_factor(step, config), 3) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.505, 0.01]
        >>> learning_rate_factor(55, config.model_copy(update={"schedule": "flat"}))
        1.0
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "flat":
        return 1.0
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))


def ema_update(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The update of an exponential moving average of weights, for ``AveragedModel``.

    After n updates the decay is at most n / (n + 10), so that the average soon forgets the random
    weights of the start.

    Args:
        decay: weight of the old average, 0 to 1, after many updates.

    Returns:
        A function of the average, the current weight and the number of updates.

    Example:
        >>> import torch
        >>> update = ema_update(0.9)
        >>> [update(torch.zeros(1), torch.ones(1), n).item() for n in (0, 10)]
        [1.0, 0.5]
    """

    def update(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        n = int(num_averaged)
        return averaged.lerp(current, 1 - min(decay, n / (n + 10)))

    return update


class TrainingModule(lightning.LightningModule):
    """Loss, optimiser and averaged weights of a ``QueriedSeparator``.

    Args:
        model: what is trained.
        config: of the run.
        processes: that share every batch; by default this one alone.

    Attributes:
        step_index: number of optimiser steps over all sessions of a resumed run.
        condition: from a batch to the condition of its queries.
        averaged: the separator with averaged weights, which is validated and saved.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> module = TrainingModule(
        ...     QueriedSeparator(config.model, load_encoder("builtin")), config
        ... )
        >>> module.step_index
        0
    """

    def __init__(
        self, model: QueriedSeparator, config: TrainConfig, processes: Processes | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.run = config
        self.processes = processes or Processes()
        self.step_index = 0
        self.condition = Conditioning(model, config)
        self.averaged = AveragedModel(model.separator, avg_fn=ema_update(config.ema_decay))
        self.averaged.requires_grad_(False)  # else DDP waits for its gradients
        self._losses: list[Tensor] = []
        """Of the parts of the step so far."""
        self._scores = torch.zeros(len(KINDS), 3)
        """Sums of the improvements, and numbers of improved and of scored queries, by kind."""

    def training_step(self, batch: TrainingExample, index: int) -> Tensor:
        """The loss of a batch: the mean of ``separation_loss_db`` over all queries.

        Where the target is not silence, ``negative_si_sdr_db`` is added with the weight
        ``config.si_sdr_weight``. What is logged is the mean over the parts and processes of a step.

        Raises:
            TrainingError: the loss is not finite.
        """
        with torch.autocast(self.device.type, enabled=False):  # as exact as at inference
            condition = self.condition(batch)
        estimate = self.model(batch["mixture"], condition)
        target = by_query(batch["targets"])
        mixture = batch["mixture"].repeat(len(target) // len(batch["mixture"]), 1, 1)
        losses = separation_loss_db(estimate.float(), target, mixture)
        is_silent = target.square().sum(-1) < SILENT_ENERGY
        if self.run.si_sdr_weight:
            si_sdr = negative_si_sdr_db(estimate.float(), target)
            losses = torch.where(is_silent, losses, losses + self.run.si_sdr_weight * si_sdr)
        loss = torch.where(is_silent, self.run.absent_weight * losses, losses).mean()
        self._losses.append(loss.detach())
        if len(self._losses) == self.run.accumulate:
            self._log_loss()
        return loss

    def _log_loss(self) -> None:
        """Log the loss of a whole step. All processes see the same, and stop at the same step."""
        loss = self.processes.mean(torch.stack(self._losses).mean())
        self._losses = []
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.step_index}: lower the learning rate or "
                "look for broken sounds; the last checkpoint is intact"
            )
        self.log("loss", loss, prog_bar=True)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Set the learning rate of the step."""
        factor = learning_rate_factor(self.step_index, self.run)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.run.learning_rate * factor
        self.log("learning_rate", self.run.learning_rate * factor)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, update the averaged weights and count the step.

        Callbacks that come after it, such as that of the checkpoint, see the end of the step.
        """
        super().optimizer_step(*args, **kwargs)
        self.averaged.update_parameters(self.model.separator)
        self.step_index += 1

    def on_validation_epoch_start(self) -> None:
        """Begin with no scores."""
        self._scores = torch.zeros_like(self._scores)

    def validation_step(self, batch: TrainingExample, index: int) -> None:
        """Score the averaged weights, by sounds and by captions.

        Only queries whose sound is present are scored.
        """
        mixture = batch["mixture"].repeat(batch["targets"].shape[1], 1, 1)
        target = by_query(batch["targets"])
        sides = {
            "audio": (by_query(batch["audio_embedding"]), by_query(batch["has_positive"])),
            "text": (by_query(batch["text_embedding"]), by_query(batch["has_text"])),
        }
        for row, kind in enumerate(KINDS):
            embedding, is_given = sides[kind]
            if not bool(is_given.any()):
                continue
            with torch.autocast(self.device.type, enabled=False):
                condition = self.model.condition(embedding, is_text=kind == "text")
            separator = self.averaged.module
            assert isinstance(separator, Separator)
            estimate = separator.estimate(separator.encode(batch["mixture"]), condition)
            scores = score(estimate.float(), target, mixture)
            is_scored = scores.is_present[:, 0] & is_given
            values = scores.si_sdr_improvement, scores.improved, is_scored
            self._scores[row] += torch.stack([v[is_scored].float().sum() for v in values]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the queries of all processes.

        ``…_si_sdri`` is the improvement of SI-SDR in dB, ``…_improved`` the share of targets that
        are better than the mixture. A kind without a scored query is not logged.
        """
        totals = self.processes.total(self._scores)
        for kind, (improvement, improved, count) in zip(KINDS, totals, strict=True):
            if count:
                self.log(f"{kind}_si_sdri", improvement / count, prog_bar=True)
                self.log(f"{kind}_improved", improved / count)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser that the config names. Vectors, such as biases, have no weight decay."""
        if self.run.optimizer == "muon":
            layers = self.model.separator.output_layers
            return MuonAdamW(
                self.model.parameters(),
                [weight for layer in layers for weight in layer.parameters()],
                self.run.learning_rate,
                self.run.weight_decay,
            )
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.run.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.run.learning_rate,
        )
