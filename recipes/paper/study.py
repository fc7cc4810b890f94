"""The study as data: its runs, the finished ones, and the chosen setting of each grid."""

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

from singleout.config import Positive, StrictConfig, load_config
from singleout.errors import ConfigError
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig

ROWS = "rows"
"""Folder of the rows' configs, next to the file of the study."""

SCORING = 2
"""Version of the scoring. After a change of it, runs are scored again, but not trained again."""

FLOOR_DB = -30.0
"""About the score of silence. Lower scores count as this one where a setting is chosen and in the
floored means, so that no single clip decides."""


class SetConfig(StrictConfig):
    """Fixed mixtures that every run is scored on.

    Args:
        split: of the manifest.
        num_mixtures, seed: number of mixtures, and the seed that they are drawn by.
    """

    split: str
    num_mixtures: Positive
    seed: Annotated[int, Field(ge=0)]


class RowConfig(StrictConfig):
    """One row of the table.

    Args:
        name: of the row, and of its config in the folder ``rows``.
        seeds: number of seeds. The first one trains every setting of the grid, the others the
            chosen setting.
        changes: overrides of the row's config that hold for every setting.
        grid: settings by name, each a list of further overrides.
        fixed: the setting that the row is about. The other settings are then no candidates, but
            points of a curve.
    """

    name: str
    seeds: Positive = 1
    changes: tuple[str, ...] = ()
    grid: dict[str, tuple[str, ...]] = Field(default={"": ()})
    fixed: str | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> RowConfig:
        if not self.grid or (self.fixed is not None and self.fixed not in self.grid):
            raise ValueError("'grid' needs a setting, and 'fixed' names one of its settings")
        return self


class StudyConfig(StrictConfig):
    """A study.

    Args:
        common: file of the values that all rows share, next to the file of the study.
        sets: mixtures that the runs are scored on. ``validation`` chooses the settings.
        rows: in the order in which they run.
    """

    common: str
    sets: dict[str, SetConfig]
    rows: tuple[RowConfig, ...]

    @model_validator(mode="after")
    def _is_complete(self) -> StudyConfig:
        if "validation" not in self.sets:
            raise ValueError("'sets' needs 'validation', which chooses the settings")
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same name")
        return self


@dataclass(frozen=True)
class Run:
    """One training: a setting of a row, with one seed."""

    row: str
    setting: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run in messages and of its folder."""
        setting = f"-{self.setting}" if self.setting else ""
        return f"{self.row}{setting}-seed{self.seed}"


Line = dict[str, Any]
"""A finished run, one line of ``runs.jsonl``."""

LINE_KEYS = (
    "row", "setting", "seed", "config_hash", "encoder", "git", "machine", "steps", "parameters",
    "embedding_dim", "training_s", "evaluation_s", "curve", "mixtures", "si_sdri_db",
)  # fmt: skip


class Study:
    """A study with the lines of its finished runs.

    Args:
        path: file of the study. The folder ``rows`` next to it holds one config per row.
        lines: of ``runs.jsonl``. Lines of another config or encoder than the current ones are
            stale.
        fingerprint: of the encoder; None accepts the lines of any encoder.

    Attributes:
        rows: by name.
        done: finished runs.
        stale: lines that do not belong to a run of the study.

    Raises:
        ConfigError: a config is missing or wrong.
    """

    def __init__(
        self, path: Path, lines: Sequence[Line] = (), fingerprint: str | None = None
    ) -> None:
        self.path = path
        self.config = load_config(StudyConfig, path)
        self.rows = {row.name: row for row in self.config.rows}
        hashes = {run: self.hash_of(run) for run in self._possible()}
        self.done: dict[Run, Line] = {}
        self.stale: list[Line] = []
        for line in lines:
            run = Run(line["row"], line["setting"], line["seed"])
            is_same_encoder = fingerprint in (None, line["encoder"])
            if is_same_encoder and hashes.get(run) == line["config_hash"]:
                self.done[run] = line
            else:
                self.stale.append(line)

    @cached_property
    def reference(self) -> TrainConfig:
        """Config of the first row: corpus, encoder and mixtures that all rows share."""
        return self.train_config(self.first_run(self.config.rows[0].name))

    def first_run(self, row: str) -> Run:
        """The first setting of a row, with seed 0."""
        return Run(row, next(iter(self.rows[row].grid)), 0)

    @property
    def manifest(self) -> Path:
        """The sounds of all splits.

        Raises:
            ConfigError: the first row has no manifest.
        """
        if self.reference.manifest is None:
            raise ConfigError(f"{self.path}: its first row needs a manifest with all splits")
        return self.reference.manifest

    def _possible(self) -> Iterator[Run]:
        for row in self.config.rows:
            for setting in row.grid:
                for seed in range(row.seeds):
                    yield Run(row.name, setting, seed)

    def train_config(self, run: Run) -> TrainConfig:
        """Config of the training of a run."""
        row = self.rows[run.row]
        overrides = [*row.changes, *row.grid[run.setting], f"seed={run.seed}"]
        folder = self.path.parent
        path, common = folder / ROWS / f"{run.row}.yaml", folder / self.config.common
        return load_config(TrainConfig, path, overrides, base=common)

    def folder_of(self, run: Run) -> Path:
        """Folder that the run trains in; another config of the same run has another folder."""
        return self.reference.output.parent / f"{run.name}-{self.training_hash(run)[:8]}"

    def training_hash(self, run: Run) -> str:
        """Hash of all that decides the trained model, but not of the place of its files."""
        values = self.train_config(run).model_dump(
            mode="json", exclude={"output", "num_workers", "device"}
        )
        return _hash(values)

    def hash_of(self, run: Run) -> str:
        """Hash of all that decides the scores of a run."""
        sets = {name: each.model_dump() for name, each in self.config.sets.items()}
        return _hash([self.training_hash(run), sets, SCORING])

    def chosen(self, row: str) -> str | None:
        """The setting of a row with the highest mean of text queries on validation, seed 0.

        None as long as a candidate is not trained. The test sets play no part.
        """
        config = self.rows[row]
        if config.fixed is not None or len(config.grid) == 1:
            return config.fixed if config.fixed is not None else next(iter(config.grid))
        candidates = [Run(row, setting, 0) for setting in config.grid]
        if any(run not in self.done for run in candidates):
            return None
        return max(candidates, key=lambda run: validation_score(self.done[run])).setting

    def needed(self) -> list[Run]:
        """Every run that is known to be necessary by now, in order, done or not."""
        runs = []
        for row in self.config.rows:
            runs += [Run(row.name, setting, 0) for setting in row.grid]
            winner = self.chosen(row.name)
            if winner is not None:
                runs += [Run(row.name, winner, seed) for seed in range(1, row.seeds)]
        return runs

    def to_do(self) -> list[Run]:
        """The needed runs that are not done."""
        return [run for run in self.needed() if run not in self.done]

    def num_runs(self) -> int:
        """Number of runs of the whole study."""
        return sum(len(row.grid) + row.seeds - 1 for row in self.config.rows)

    def seeds_of(self, row: str, setting: str | None = None) -> list[Line]:
        """Finished runs of a row by seed, of one setting: the chosen one by default."""
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
    """Lines of ``runs.jsonl``; an empty list where the file does not exist.

    Raises:
        ConfigError: a line is not that of a run.
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
            raise ConfigError(
                f"{path}:{number}: not the line of a run: it lacks {', '.join(missing)}"
            )
        lines.append(line)
    return lines


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; an interrupted call leaves the old file."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
