"""The training step, around the same forward path that evaluation and extraction use."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from singleout.data.dataset import Example
from singleout.data.embeddings import SAMPLE_RATE
from singleout.errors import TrainingError
from singleout.evaluate.metrics import score
from singleout.model import QueriedSeparator
from singleout.separators import Separator, averaged
from singleout.train.config import TrainConfig
from singleout.train.losses import SILENT_POWER, negative_si_sdr_db, separation_loss_db
from singleout.train.muon import MuonAdamW


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to a hundredth, or no change; 1 at the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "flat":
        return 1.0
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
        """[queries * batch, condition_dim]: audio or text, chosen per example, manipulated.

        An example without a caption is always conditioned on its sound.
        """
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + self.step_index)
        text = batch["text"].transpose(0, 1).flatten(0, 1)
        shape = (batch["text"].shape[1], batch["text"].shape[0])
        by_text = (torch.rand(shape, generator=generator) < self.run.p_text).flatten()
        by_text = by_text.to(text.device)
        by_text &= text.any(-1)
        manipulate = self.model.manipulator.train
        if self.run.query_audio.is_embedded_on_the_fly:
            audio = self.embedded(batch, generator)
        else:
            audio = batch["audio"].transpose(0, 1).flatten(0, 1)
        others, not_others = (
            batch[side].transpose(0, 1).flatten(0, 1) for side in ("others", "not_others")
        )
        positive = manipulate(audio, False, generator, others)
        if self.run.p_text or self.run.query_mixup:
            said = manipulate(text, True, generator)
            if self.run.query_mixup:
                alpha = torch.rand((len(said), 1), generator=generator).to(text.device)
                alpha = torch.where(text.any(-1, keepdim=True), alpha, 1.0)
                positive = alpha * positive + (1 - alpha) * said
            positive = torch.where(by_text[:, None], said, positive)
        if not self.model.config.negative:
            return positive
        not_audio, not_text = (
            batch[side].transpose(0, 1).flatten(0, 1) for side in ("not_audio", "not_text")
        )
        negative = manipulate(not_audio, False, generator, not_others)
        if self.run.p_text:
            by_text = torch.rand(len(text), generator=generator).to(text.device) < self.run.p_text
            said = manipulate(not_text, True, generator)
            negative = torch.where((by_text & not_text.any(-1))[:, None], said, negative)
        # A side without a prompt is zeros, whatever a manipulation makes of those.
        positive = torch.where((audio.any(-1) | text.any(-1))[:, None], positive, 0.0)
        negative = torch.where(not_audio.any(-1)[:, None], negative, 0.0)
        return self.model.joined(positive, negative)

    @torch.no_grad()
    def embedded(self, batch: Example, generator: torch.Generator) -> Tensor:
        """[queries * batch, dim] of the batch's query sounds, masked if so configured."""
        masks = self.run.query_audio.spec_augment
        augment = None if masks is None else lambda log_mel: masks.masked(log_mel, generator)
        sounds = batch["query_audio"].transpose(0, 1).flatten(0, 1).cpu()  # where the encoder is
        lengths = batch["query_samples"].T.flatten().tolist()
        none = torch.zeros(1, batch["text"].shape[-1])
        rows = [
            self.model.encoder.embed_audio(sound[:length], SAMPLE_RATE, augment) if length else none
            for sound, length in zip(sounds, lengths, strict=True)
        ]
        return torch.cat(rows).to(batch["text"].device, copy=True)

    def on_fit_start(self) -> None:
        self.model.manipulator.to(self.device)

    def training_step(self, batch: Example, index: int) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # as exact as at inference
            condition = self.condition(batch)
        estimate = self.model(batch["mixture"], condition)
        target = batch["targets"].transpose(0, 1).flatten(0, 1)
        mixture = batch["mixture"].repeat(len(target) // len(batch["mixture"]), 1, 1)
        losses = separation_loss_db(estimate.float(), target, mixture)
        is_silent = target.square().sum(-1) < SILENT_POWER
        if self.run.si_sdr_weight:
            direction = negative_si_sdr_db(estimate.float(), target)
            losses = torch.where(is_silent, losses, losses + self.run.si_sdr_weight * direction)
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
        self.averaged.update_parameters(self.model.separator)  # type: ignore[arg-type]
        self.step_index += 1

    def validation_step(self, batch: Example, index: int) -> None:
        self.log("step", float(self.step_index), on_epoch=True, batch_size=1)
        mixture = batch["mixture"].repeat(batch["audio"].shape[1], 1, 1)
        target = batch["targets"].transpose(0, 1).flatten(0, 1)
        for kind in ("audio", "text"):
            embedding = batch[kind].transpose(0, 1).flatten(0, 1)
            if not bool(embedding.any()):
                continue
            with torch.autocast(self.device.type, enabled=False):
                condition = self.model.conditions(embedding, is_text=kind == "text")
            separator: Separator = self.averaged.module  # type: ignore[assignment]
            encoded = separator.encode(batch["mixture"])
            estimate = averaged(separator, encoded, *condition)
            scores = score(estimate.float(), target, mixture)
            asked = scores.is_present[:, 0] & embedding.any(-1)
            improvement = scores.si_sdr_improvement[asked].float()
            if not len(improvement):
                continue
            self.log(
                f"{kind}_si_sdri",
                improvement.mean(),
                prog_bar=True,
                on_epoch=True,
                batch_size=len(improvement),
            )
            improved = scores.improved[asked].float()
            self.log(f"{kind}_improved", improved.mean(), on_epoch=True, batch_size=len(improved))

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
