"""The training step, around the same forward path that evaluation and extraction use."""

from __future__ import annotations

import math
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
from singleout.train.losses import separation_loss_db
from singleout.train.muon import MuonAdamW


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to a hundredth; 1 at the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))


def ema_update(decay: float) -> Any:
    """Average that forgets its start quickly: after n updates the decay is at most n / (n + 10)."""

    def update(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        n = int(num_averaged)
        return averaged.lerp(current, 1 - min(decay, n / (n + 10)))

    return update


class TrainingModule(lightning.LightningModule):
    """Loss, optimiser and averaged weights of a ``QueriedSeparator``.

    ``step_index`` counts optimiser steps over all sessions of a resumed run; everything random is
    drawn from the seed and it.
    """

    def __init__(self, model: QueriedSeparator, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.run = config
        self.step_index = 0
        self.condition = Conditioning(model, config)
        self.averaged = AveragedModel(model.separator, avg_fn=ema_update(config.ema_decay))

    def on_fit_start(self) -> None:
        self.model.manipulator.to(self.device)

    def training_step(self, batch: TrainingExample, index: int) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # as exact as at inference
            condition = self.condition(batch)
        estimate = self.model(batch["mixture"], condition)
        target = by_query(batch["targets"])
        mixture = batch["mixture"].repeat(len(target) // len(batch["mixture"]), 1, 1)
        losses = separation_loss_db(estimate.float(), target, mixture)
        is_silent = target.square().sum(-1) < SILENT_ENERGY
        loss = torch.where(is_silent, self.run.absent_weight * losses, losses).mean()
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.step_index}: lower the learning rate or "
                "look for broken sounds; the last checkpoint is intact"
            )
        self.log("loss", loss, prog_bar=True)
        self.log(
            "step", float(self.step_index)
        )  # of the whole run, where Lightning has a session's
        return loss

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        factor = learning_rate_factor(self.step_index, self.run)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.run.learning_rate * factor
        self.log("learning_rate", self.run.learning_rate * factor)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.averaged.update_parameters(self.model.separator)
        self.step_index += 1

    def validation_step(self, batch: TrainingExample, index: int) -> None:
        self.log("step", float(self.step_index), on_epoch=True, batch_size=1)
        mixture = batch["mixture"].repeat(batch["targets"].shape[1], 1, 1)
        target = by_query(batch["targets"])
        sides = {
            "audio": (by_query(batch["audio_embedding"]), by_query(batch["has_positive"])),
            "text": (by_query(batch["text_embedding"]), by_query(batch["has_text"])),
        }
        for kind, (embedding, is_given) in sides.items():
            if not bool(is_given.any()):
                continue
            with torch.autocast(self.device.type, enabled=False):
                condition = self.model.condition(embedding, is_text=kind == "text")
            separator = self.averaged.module
            assert isinstance(separator, Separator)
            estimate = separator.estimate(separator.encode(batch["mixture"]), condition)
            scores = score(estimate.float(), target, mixture)
            is_scored = scores.is_present[:, 0] & is_given
            improvement = scores.si_sdr_improvement[is_scored].float()
            if not len(improvement):
                continue
            improved = scores.improved[is_scored].float().mean()
            options: dict[str, Any] = {"on_epoch": True, "batch_size": len(improvement)}
            self.log(f"{kind}_si_sdri", improvement.mean(), prog_bar=True, **options)
            self.log(f"{kind}_improved", improved, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer:
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
