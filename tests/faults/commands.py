"""The commands that faults are injected into, each with tiny data and its right results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from singleout.encoders import BuiltinEncoder
from singleout.model import EncoderReference, ModelConfig, QueriedSeparator
from tests.conftest import TINY_SEPARATOR, write_debug_encoder
from tests.recordings import files_below, noise, write_recording

RATE = 8_000
OLD = b"an old result"


@dataclass(frozen=True)
class Command:
    """A command with its data.

    Attributes:
        name: for the table.
        arguments: of ``singleout``.
        prepare: makes the folder that the command works in, before every run.
        results: contents of the result files by name, without what differs between runs.
        groups: files that belong together: all of them are old, or all are new.
    """

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[], None]
    results: Callable[[], dict[str, bytes]]
    groups: tuple[tuple[str, ...], ...]


class Workshop:
    """A folder with a tiny model and inputs, and the folder ``work`` that commands change."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.model = root / "model"
        write_debug_encoder(root / "encoder")
        reference = EncoderReference(name=str(root / "encoder"))
        config = ModelConfig(separator=TINY_SEPARATOR, encoder=reference)
        torch.manual_seed(2)
        encoder = BuiltinEncoder.from_pretrained(root / "encoder")
        QueriedSeparator(config, encoder).save_pretrained(self.model)
        for seed in range(3):
            write_recording(root / "in" / f"{seed}.wav", noise(RATE, seed=seed), RATE)
        self._write_sounds()

    def _write_sounds(self) -> None:
        rows = []
        for seed in range(6):
            name = f"{seed}.wav"
            write_recording(self.root / "sounds" / name, noise(8_000, seed=seed), 16_000, "FLOAT")
            rows.append({"path": name, "seconds": 0.5, "caption": f"sound {seed}"})
        for row in rows:
            row["split"] = "test"
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.root / "sounds" / "manifest.jsonl").write_text(lines)
        mixtures = {"segment_seconds": 0.5, "crop_hop_seconds": 0.25}
        config: dict[str, Any] = {
            "audio": str(self.root / "sounds"),
            "output": str(self.work / "run"),
            "model": {
                "separator": TINY_SEPARATOR.model_dump(mode="json"),
                "manipulation": {"steps": [{"type": "dropout", "p": 0.5}]},
                "encoder": {"name": str(self.root / "encoder")},
            },
            "mixtures": mixtures,
            "steps": 2,
            "warmup_steps": 1,
            "batch_size": 2,
            "num_workers": 0,
            "precision": "float32",
            "checkpoint_every": 1,
            "validation": {"num_mixtures": 0},
        }
        (self.root / "run.json").write_text(json.dumps(config))

    def commands(self) -> tuple[Command, ...]:
        """All commands."""
        return (
            self._extract("extract", "0.wav", ["0"]),
            self._extract("extract, batch", "", ["0", "1", "2"]),
            Command(
                "train",
                ("train", str(self.root / "run.json")),
                self._clear,
                lambda: self._results("run/model/[!.]*"),
                (("run/model/config.json", "run/model/model.safetensors"),),
            ),
            Command(
                "evaluate",
                (
                    *("evaluate", str(self.root / "sounds" / "manifest.jsonl")),
                    *("--model", str(self.model), "--mixtures", "2"),
                    *("-o", str(self.work / "scores.json")),
                ),
                lambda: self._clear("scores.json", "scores.rows.jsonl"),
                lambda: self._results("scores*"),
                (("scores.json", "scores.rows.jsonl"),),
            ),
        )

    def _extract(self, name: str, source: str, stems: list[str]) -> Command:
        pairs = [tuple(f"{s}.a-dog.{part}.wav" for part in ("target", "residual")) for s in stems]
        recordings = self.root / "in" / source
        options = ("-o", str(self.work), "--model", str(self.model))
        return Command(
            name,
            ("extract", str(recordings), "a dog", *options),
            lambda: self._clear(*(name for pair in pairs for name in pair)),
            lambda: self._results("*.wav"),
            tuple(pairs),
        )

    def _clear(self, *old: str) -> None:
        """An empty folder ``work``, with old results of these names."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for name in old:
            (self.work / name).write_bytes(OLD)

    def _results(self, pattern: str) -> dict[str, bytes]:
        paths = [path for path in self.work.glob(pattern) if path.is_file()]
        return {path.relative_to(self.work).as_posix(): _lasting(path) for path in paths}

    def left_behind(self) -> list[str]:
        """Names of temporary files below the folder ``work``."""
        names = files_below(self.work)
        return [name for name in names if "partial" in name or "journal" in name]


def _lasting(path: Path) -> bytes:
    """The contents of a result without the time that it took."""
    data = path.read_bytes()
    if path.suffix == ".json" and data != OLD:
        values = json.loads(data)
        values.get("meta", {}).pop("seconds", None)
        return json.dumps(values).encode()
    return data
