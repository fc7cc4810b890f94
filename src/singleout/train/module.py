"""The training step, around the same forward path that evaluation and extraction use."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from singleout.data.dataset import Example
from singleout.errors import TrainingError
from singleout.evaluate.metrics import score
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.losses import negative_snr_db


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
        self.averaged = AveragedModel(model.separator, avg_fn=ema_update(config.ema_decay))  # type: ignore[arg-type]

    def condition(self, batch: Example) -> Tensor:
        """[queries * batch, dim]: audio or text embeddings, chosen per example, manipulated."""
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + self.step_index)
        audio, text = batch["audio"].transpose(0, 1), batch["text"].transpose(0, 1)
        by_text = torch.rand(audio.shape[:2], generator=generator) < self.run.p_text
        embedding = torch.where(by_text[..., None], text, audio).flatten(0, 1)
        return self.model.config.manipulation.train(embedding, generator)

    def training_step(self, batch: Example, index: int) -> Tensor:
        estimate = self.model(batch["mixture"], self.condition(batch)).float()
        target = batch["targets"].transpose(0, 1).flatten(0, 1)
        loss = negative_snr_db(estimate, target).mean()
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.step_index}: lower the learning rate or "
                "look for broken sounds; the last checkpoint is intact"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        factor = learning_rate_factor(self.step_index, self.run)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.run.learning_rate * factor
        self.log("learning_rate", self.run.learning_rate * factor)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.averaged.update_parameters(self.model.separator)  # type: ignore[arg-type]
        self.step_index += 1

    def validation_step(self, batch: Example, index: int) -> None:
        mixture = batch["mixture"].repeat(batch["audio"].shape[1], 1, 1)
        target = batch["targets"].transpose(0, 1).flatten(0, 1)
        for kind in ("audio", "text"):
            embedding = batch[kind].transpose(0, 1).flatten(0, 1)
            if not bool(embedding.any()):
                continue
            condition = self.model.config.manipulation.infer(embedding)
            estimate = self.averaged.module(batch["mixture"], condition)
            scores = score(estimate.float(), target, mixture)
            improvement = scores.si_sdr_improvement[scores.is_present].float()
            if not len(improvement):
                continue
            self.log(
                f"{kind}_si_sdri",
                improvement.mean(),
                prog_bar=True,
                on_epoch=True,
                batch_size=len(improvement),
            )
            improved = scores.improved[scores.is_present].float()
            self.log(f"{kind}_improved", improved.mean(), on_epoch=True, batch_size=len(improved))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.run.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.run.learning_rate,
        )
