"""How far a run is: a bar on a terminal, else a line a minute; on stderr, as of all commands."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from lightning.pytorch.callbacks import Callback

SECONDS_PER_LINE = 60.0
SECONDS_PER_DRAWING = 0.5
"""Of the bar: its figures have to come from the device."""


class RunProgress(Callback):
    """Tells steps, speed, loss and the last validation's scores.

    Args:
        start: steps that were taken before this session.
        steps: of the whole run.
    """

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps
        self._bar: Any = None
        self._began = self._told = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._began = self._told = monotonic()
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        columns = (*Progress.get_default_columns(), TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task("training", total=self.steps, completed=self.start, said="")
        self._bar.start()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        done = self.start + trainer.global_step
        now = monotonic()
        pause = SECONDS_PER_LINE if self._bar is None else SECONDS_PER_DRAWING
        if now - self._told < pause:
            return
        self._told = now
        speed = trainer.global_step / max(now - self._began, 1e-9)
        scores = (f"{name} {float(v):.2f}" for name, v in trainer.progress_bar_metrics.items())
        said = ", ".join([f"{speed:.2f} steps/s", *scores])
        if self._bar is not None:
            self._bar.update(0, completed=done, said=said)
        else:
            print(f"step {done:,} of {self.steps:,}: {said}", file=sys.stderr, flush=True)

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
