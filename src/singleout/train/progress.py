"""Progress of a run on stderr: a bar on a terminal, else one line a minute."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from lightning.pytorch.callbacks import Callback

from singleout.progress import is_shown

SECONDS_PER_LINE = 60.0
SECONDS_PER_DRAWING = 0.5
"""The bar is drawn no more often, because its figures have to be copied from the device."""


class RunProgress(Callback):
    """Shows steps, speed, loss and the scores of the last validation.

    Args:
        start: steps that earlier sessions have taken.
        steps: of the whole run.

    Example:
        >>> progress = RunProgress(start=100, steps=1_000)  # a callback of a Trainer
        >>> progress.steps
        1000
    """

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps
        self._bar: Any = None
        self._start_time = self._last_time = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._start_time = self._last_time = monotonic()
        if not is_shown():
            return
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task("training", total=self.steps, completed=self.start, figures="")
        self._bar.start()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        done = self.start + trainer.global_step
        now = monotonic()
        pause = SECONDS_PER_LINE if self._bar is None else SECONDS_PER_DRAWING
        if now - self._last_time < pause:
            return
        self._last_time = now
        speed = trainer.global_step / max(now - self._start_time, 1e-9)
        scores = (f"{name} {float(v):.2f}" for name, v in trainer.progress_bar_metrics.items())
        figures = ", ".join([f"{speed:.2f} steps/s", *scores])
        if self._bar is not None:
            self._bar.update(0, completed=done, figures=figures)
        elif sys.stderr is not None:
            print(f"step {done:,} of {self.steps:,}: {figures}", file=sys.stderr, flush=True)

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
