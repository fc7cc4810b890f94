"""Readers of manifests and configs."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutation
from fuzz.target import Files, Target
from singleout.config import load_config
from singleout.data.manifest import check_splits, held_out, read_manifest
from singleout.train.config import TrainConfig

MANIFEST_ROWS: list[dict[str, Any]] = [
    {"path": "a.wav", "seconds": 1.5},
    {"path": "b.wav", "seconds": 2, "caption": "a dog", "class": "animal/dog", "split": "train"},
    {"path": "a.wav", "seconds": 0.5, "alternatives": ["a hound"], "group": "g", "split": "test"},
    {"path": "b.wav", "seconds": 3.25, "split": None, "licence": {"name": "CC0"}, "caption": None},
]  # fmt: skip


class Manifest(Target):
    """Manifests."""

    name = "manifest"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        for name in ("a.wav", "b.wav"):
            (folder / name).touch()

    def make(self, random: Random) -> Files:
        rows = [json.dumps(row) for row in random.sample(MANIFEST_ROWS, random.randrange(0, 4))]
        rows.insert(random.randrange(len(rows) + 1), mutation.mutated_json(random, MANIFEST_ROWS))
        text = random.choice(("\n", "\n", "\n\n", "\r\n")).join(rows)
        data = text.encode(errors="surrogatepass")
        if random.random() < 0.2:
            data = mutation.mutated_bytes(random, [data])
        return {"manifest.jsonl": data}

    def read(self, folder: Path) -> None:
        path = folder / "manifest.jsonl"
        check_splits(path)
        files, groups = held_out(path)
        assert all(map(str, files)), "a file without a name"
        assert all(isinstance(group, str) for group in groups), "a group that is no text"
        for clip in read_manifest(path):
            assert 0 < clip.seconds < 1e9, "an impossible length"
            assert clip.label, "a clip without a label"
            assert clip.group, "a clip without a group"


RUN: dict[str, Any] = {
    "manifest": "m.jsonl",
    "output": "run",
    "model": {
        "separator": {"type": "conditioned_unet", "num_fft": 512, "hop": 128, "channels": [8, 8, 8],
                      "time_strides": [2, 1], "dilations": [1, 2], "fold": 4, "bottleneck": 16,
                      "query_dim": 16},
        "manipulation": {"steps": [{"type": "neighbours", "p": 0.5}, {"type": "dropout"}]},
        "encoder": {"name": "builtin"}, "negative": True, "quietest_db": -60.0,
        "presence": {"scale": 3.0, "bias": -0.2},
        "gate": {"low": 0.1, "high": 0.4, "floor_db": -20.0, "gain_db": 2.0},
    },
    "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25, "num_sources": [2, 3],
                 "snr_db": [-5, 5]},
    "queries": {"absent_share": 0.1, "near_miss_share": 0.5},
    "query_audio": {"mixup": {"gain_db": [0, 3]}},
    "validation": {"num_mixtures": 4},
    "uncaptioned": {"audio": "more", "share": 0.5},
    "steps": 20, "batch_size": 2, "learning_rate": 1e-3, "seed": 1,
}  # fmt: skip
MODELS: list[dict[str, Any]] = [
    {"separator": {"type": "band_split", "num_fft": 512, "hop": 256, "num_bands": 4, "channels": 4,
                   "dilations": [1, 2], "free_blocks": 1, "query_dim": 8}},
    {"separator": {"type": "locoformer", "num_fft": 512, "hop": 256, "fold": 8, "channels": 8,
                   "hidden": 8, "heads": 2, "num_blocks": 2, "window": 4, "query_dim": 8}},
    {"separator": {"type": "identity", "sample_rate": 16000}, "manipulation": {
        "steps": [{"type": "mean_shift"}, {"type": "pca", "k": 8}, {"type": "noise"}]}},
    {"separator": {"type": "identity"}, "manipulation": {
        "steps": [{"type": "projection", "temperature": 0.05}, {"type": "retrieval"}]}},
]  # fmt: skip
RESUNET30 = {"separator": {"type": "resunet30", "num_fft": 256, "hop": 80}}
YAML = (
    "steps: 3\noutput: run\naudio: sounds\nmodel: {separator: {type: identity}}\n",
    "extends: base.yaml\n# a comment\nlearning_rate: 1e-3\nmodel:\n  negative: true\n",
    "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2020-01-01}\nd: [1, 0x1f, 1:30, .inf, ~, yes]\n",
    "manifest: m\noutput: 'a'\nmodel: {separator: {type: identity}}\n"
    "mixtures:\n  num_sources: [2, 3]\n  snr_db:\n  - -5\n  - 5\n",
)
OVERRIDES = ("steps=3", "model.separator.type=identity", "queries={}", "mixtures.snr_db=[-3, 3]")


class Config(Target):
    """Configs of training runs: JSON, YAML, configs that extend others, and overrides."""

    name = "config"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        runs = [RUN, *({**RUN, "model": model} for model in (*MODELS, RESUNET30))]
        self.runs: list[Any] = [*runs, {"extends": "base.yaml", "steps": 5}]
        (folder / "base.yaml").write_text(json.dumps({**RUN, "query_audio": {}}), encoding="utf-8")

    def make(self, random: Random) -> Files:
        kind = random.random()
        text = (
            mutation.mutated_json(random, self.runs)
            if kind < 0.6
            else mutation.mutated_text(random, YAML)
        )
        override = mutation.mutated_text(random, OVERRIDES) if kind < 0.2 else ""
        return {
            "config.yaml": text.encode(errors="surrogatepass"),
            "override": override.encode(errors="surrogatepass"),
        }

    def read(self, folder: Path) -> None:
        override = (folder / "override").read_bytes().decode(errors="replace")
        config = load_config(TrainConfig, folder / "config.yaml", [override] if override else [])
        TrainConfig.model_validate_json(config.model_dump_json())
