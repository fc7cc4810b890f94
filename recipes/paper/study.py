"""The study as data: which runs there are, which are done, which setting of a grid won."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from singleout.config import StrictConfig, load_config
from singleout.errors import ConfigError
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig

Positive = Annotated[int, Field(gt=0)]

SCORING = 2
"""Raised when runs are scored in another way; then they are scored again, not trained again."""

FLOOR_DB = -30.0
"""About what silence scores: worse estimates count no worse where a setting is chosen, and in the
floored means, so that no single clip decides."""


class SetConfig(StrictConfig):
    """Fixed mixtures that every run is scored on: ``num_mixtures`` of a split, drawn by a seed."""

    split: str
    num_mixtures: Positive
    seed: Annotated[int, Field(ge=0)]


class RowConfig(StrictConfig):
    """One row of the table.

    Args:
        name: of the row, and of its config beside the study's.
        seeds: how many; the first trains every setting of the grid, the others the winner.
        grid: settings by name, each a list of overrides; the first is the config as it stands.
        fixed: the setting that the row is about, where the others are no candidates but a curve.
    """

    name: str
    seeds: Positive = 1
    grid: dict[str, tuple[str, ...]] = Field(default={"": ()})
    fixed: str | None = None

    @model_validator(mode="after")
    def _known(self) -> RowConfig:
        if not self.grid or (self.fixed is not None and self.fixed not in self.grid):
            raise ValueError("grid needs a setting, and 'fixed' names one of them")
        return self


class StudyConfig(StrictConfig):
    """Rows in the order in which they run, and what they are scored on; ``validation`` decides."""

    sets: dict[str, SetConfig]
    rows: tuple[RowConfig, ...]

    @model_validator(mode="after")
    def _decidable(self) -> StudyConfig:
        if "validation" not in self.sets:
            raise ValueError("sets need 'validation', by which settings are chosen")
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("every row needs a name of its own")
        return self


@dataclass(frozen=True)
class Run:
    """One training: a setting of a row, with one seed."""

    row: str
    setting: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        setting = f"-{self.setting}" if self.setting else ""
        return f"{self.row}{setting}-seed{self.seed}"


Line = dict[str, Any]
"""A finished run, as in ``runs.jsonl``."""

LINE_KEYS = (
    "row", "setting", "seed", "config_hash", "encoder", "git", "machine", "steps", "parameters",
    "embedding_dim", "training_s", "evaluation_s", "curve", "mixtures", "si_sdri_db",
)  # fmt: skip


class Study:
    """A study's folder of configs, with the lines of the runs that are finished.

    Args:
        folder: holds ``study.yaml`` and one config per row.
        lines: of ``runs.jsonl``; those of another config or encoder than today's do not count.
        fingerprint: of the encoder; None counts the lines of any.

    Raises:
        ConfigError: a config is missing or wrong.
    """

    def __init__(
        self, folder: Path, lines: Sequence[Line] = (), fingerprint: str | None = None
    ) -> None:
        self.folder = folder
        self.config = load_config(StudyConfig, folder / "study.yaml")
        self.rows = {row.name: row for row in self.config.rows}
        hashes = {run: self.hash_of(run) for run in self._possible()}
        self.done: dict[Run, Line] = {}
        self.stale: list[Line] = []
        for line in lines:
            run = Run(line["row"], line["setting"], line["seed"])
            known = fingerprint in (None, line["encoder"])
            if known and hashes.get(run) == line["config_hash"]:
                self.done[run] = line
            else:
                self.stale.append(line)

    @cached_property
    def reference(self) -> TrainConfig:
        """The first row's config: corpus, encoder and mixtures that all rows share."""
        row = self.config.rows[0]
        return self.train_config(Run(row.name, next(iter(row.grid)), 0))

    @property
    def manifest(self) -> Path:
        """The sounds, with all splits.

        Raises:
            ConfigError: the first row has none.
        """
        if self.reference.manifest is None:
            raise ConfigError(f"{self.folder}: its first row needs a manifest with all splits")
        return self.reference.manifest

    def _possible(self) -> Iterator[Run]:
        for row in self.config.rows:
            for setting in row.grid:
                for seed in range(row.seeds):
                    yield Run(row.name, setting, seed)

    def train_config(self, run: Run) -> TrainConfig:
        """What the run is told."""
        overrides = [*self.rows[run.row].grid[run.setting], f"seed={run.seed}"]
        return load_config(TrainConfig, self.folder / f"{run.row}.yaml", overrides)

    def folder_of(self, run: Run) -> Path:
        """Where it trains: beside the other runs, another folder for another config."""
        return self.reference.output.parent / f"{run.name}-{self.training_hash(run)[:8]}"

    def training_hash(self, run: Run) -> str:
        """Of all that decides what is trained, wherever its files lie."""
        values = self.train_config(run).model_dump(
            mode="json", exclude={"output", "num_workers", "device"}
        )
        return _hash(values)

    def hash_of(self, run: Run) -> str:
        """Of all that decides a run's scores."""
        sets = {name: each.model_dump() for name, each in self.config.sets.items()}
        return _hash([self.training_hash(run), sets, SCORING])

    def chosen(self, row: str) -> str | None:
        """The winning setting: the highest mean of text queries on validation with seed 0.

        None as long as a candidate is not trained. Test sets have no say.
        """
        config = self.rows[row]
        if config.fixed is not None or len(config.grid) == 1:
            return config.fixed if config.fixed is not None else next(iter(config.grid))
        candidates = [Run(row, setting, 0) for setting in config.grid]
        if any(run not in self.done for run in candidates):
            return None
        return max(candidates, key=lambda run: validation_score(self.done[run])).setting

    def wanted(self) -> list[Run]:
        """Every run that is known to be needed by now, in order, done or not."""
        runs = []
        for row in self.config.rows:
            runs += [Run(row.name, setting, 0) for setting in row.grid]
            winner = self.chosen(row.name)
            if winner is not None:
                runs += [Run(row.name, winner, seed) for seed in range(1, row.seeds)]
        return runs

    def to_do(self) -> list[Run]:
        """Those of ``wanted`` that are not done."""
        return [run for run in self.wanted() if run not in self.done]

    def num_runs(self) -> int:
        """Of the whole study."""
        return sum(len(row.grid) + row.seeds - 1 for row in self.config.rows)

    def seeds_of(self, row: str, setting: str | None = None) -> list[Line]:
        """Finished runs of a row, by seed: of the chosen setting, or of another."""
        setting = self.chosen(row) if setting is None else setting
        if setting is None:
            return []
        runs = [Run(row, setting, seed) for seed in range(self.rows[row].seeds)]
        return [self.done[run] for run in runs if run in self.done]


def _hash(values: Any) -> str:
    text = json.dumps(values, sort_keys=True).replace(str(Path.home()), "~")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def validation_score(line: Line) -> float:
    """Mean SI-SDRi of text queries on the validation mixtures, floored, dB."""
    return float(np.maximum(line["si_sdri_db"]["validation"]["text"], FLOOR_DB).mean())


def read_lines(path: Path) -> list[Line]:
    """Lines of ``runs.jsonl``; none where there is no such file.

    Raises:
        ConfigError: a line is not one of ours.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            missing = [key for key in LINE_KEYS if key not in line]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: not the line of a run: {error}") from None
        if missing:
            raise ConfigError(f"{path}:{number}: not the line of a run: no {', '.join(missing)}")
        lines.append(line)
    return lines


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
