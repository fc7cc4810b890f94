"""The curve of a run: its losses and its scores, in one file over all sessions.

``curve.csv`` has a row for a regular number of steps and one for each validation. A session that
resumes the run first drops the rows after the checkpoint, because their steps are taken again. The
file is then that of a run that was never stopped, to the byte. TensorBoard shows the same rows.
"""

from __future__ import annotations

import csv
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import lightning
from lightning.pytorch.callbacks import Callback

from singleout.storage.atomic import replacing
from singleout.train.module import TrainingModule

FILE_NAME = "curve.csv"
"""Name of the curve in the folder of a run."""
LOSSES = ("loss", "learning_rate")
"""Columns of a row of training."""
SCORES = ("audio_si_sdri", "audio_improved", "text_si_sdri", "text_improved")
"""Columns of a row of validation. Without captions, those of texts are empty."""
COLUMNS = ("step", *LOSSES, *SCORES)
"""Columns of the file. ``step`` is the number of steps that the run had taken."""
OLD_LOGS = "logs/version_*/metrics.csv"
"""Files that earlier versions wrote, one for each session."""

Row = dict[str, float]
"""Values by column; columns that are empty are missing."""


def read_curve(folder: Path) -> list[Row]:
    """The rows of a run's curve, by step; a row of training comes before one of validation.

    Logs of earlier versions, one for each session, are read as one curve. A last row that a killed
    session left incomplete is missing. So are damaged rows, with a warning.

    Args:
        folder: of the run.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = "step,loss,learning_rate\\n20,-1.5,0.001\\n40,-2.25,0.0"
        ...     _ = Path(folder, FILE_NAME).write_text(text)
        ...     read_curve(Path(folder))
        [{'step': 20.0, 'loss': -1.5, 'learning_rate': 0.001}]
    """
    path = folder / FILE_NAME
    if path.exists():
        return _rows(path)
    rows: dict[tuple[float, bool], Row] = {}
    for log in sorted(folder.glob(OLD_LOGS), key=lambda path: path.stat().st_mtime):
        for row in _rows(log):
            step = row["step"] + ("loss" in row)  # the old logs count the steps before
            rows[step, "loss" not in row] = {**row, "step": step}
    return [rows[key] for key in sorted(rows)]


def _rows(path: Path) -> list[Row]:
    """The complete rows of a file; all its values are numbers."""
    text = path.read_text(encoding="utf-8", errors="replace")
    header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    names = header.split(",")
    rows = []
    for line in lines:
        values = line.split(",")
        if len(values) != len(names):
            continue
        cells = dict(zip(names, values, strict=True))
        with suppress(ValueError):
            rows.append({name: float(cells[name]) for name in COLUMNS if cells.get(name)})
    rows = [row for row in rows if "step" in row]
    if damaged := len(lines) - len(rows):
        logging.getLogger("singleout").warning(
            "%s: %d of its %d lines are damaged, and are left out", path, damaged, len(lines)
        )
    return rows


class Curve(Callback):
    """Writes the curve of a run, and the same to TensorBoard.

    Every row is on the disk before the run goes on, and so before a checkpoint of its step. With
    several processes, only the first one writes.

    Args:
        folder: of the run.
        start: steps that earlier sessions have taken. Later rows of theirs are dropped.
        every_steps: steps from one row of training to the next.

    Raises:
        OSError: the curve of earlier sessions cannot be read.

    Example:
        >>> Curve(Path("run"), start=0, every_steps=20).has_scores(0)
        False
    """

    def __init__(self, folder: Path, start: int, every_steps: int) -> None:
        self.folder, self.start, self.every_steps = folder, start, every_steps
        self.rows = [row for row in read_curve(folder) if row["step"] <= start]
        self._file: IO[str] | None = None
        self._board: Any = None

    def has_scores(self, step: int) -> bool:
        """Whether an earlier session has scored the model after this number of steps."""
        return any(row["step"] == step and "loss" not in row for row in self.rows)

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if trainer.is_global_zero:
            self._file, self._board = self._opened_file(), self._opened_board()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(module, TrainingModule)
        is_step_over = (batch_idx + 1) % module.run.accumulate == 0
        if is_step_over and module.step_index % self.every_steps == 0:
            self._write(trainer, module.step_index, LOSSES)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        assert isinstance(module, TrainingModule)
        self._write(trainer, module.step_index, SCORES)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()
            self._file = self._board = None

    def on_exception(self, *_: Any) -> None:
        with suppress(OSError):  # of the same disk that the exception may be about
            self.teardown()

    def _write(self, trainer: lightning.Trainer, step: int, names: tuple[str, ...]) -> None:
        if self._file is None:
            return
        figures = trainer.callback_metrics
        values = {name: float(figures[name]) for name in names if name in figures}
        self.rows.append({"step": step, **values})
        _writer(self._file).writerow(self.rows[-1])
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def _opened_file(self) -> IO[str]:
        """The file with the rows of earlier sessions, to append to."""
        path = self.folder / FILE_NAME
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = _writer(file)
            writer.writeheader()
            writer.writerows({**row, "step": int(row["step"])} for row in self.rows)
        return path.open("a", encoding="utf-8", newline="")

    def _opened_board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what earlier sessions wrote from this step on.
        return SummaryWriter(self.folder / "tensorboard", purge_step=self.start + 1)


def _writer(file: IO[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
