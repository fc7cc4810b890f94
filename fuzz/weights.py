"""Readers of weights."""

from __future__ import annotations

import argparse
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch

from fuzz import mutation
from fuzz.target import Files, Target
from singleout.storage.foreign import read_tensors
from singleout.storage.tensors import load_tensors, save_tensors


def _small_module() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


class Safetensors(Target):
    """Weights of models, and safetensors of other projects."""

    name = "safetensors"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        save_tensors(_small_module(), folder / "seed", extra={"learned.mean": torch.ones(2)})
        save_tensors(torch.nn.Linear(6, 5), folder / "int8", int8_below="w")
        kinds = {str(kind): torch.zeros(3, 1, dtype=getattr(torch, kind)) for kind in
                 ("bool", "uint8", "int64", "float64", "bfloat16", "float8_e4m3fn")}  # fmt: skip
        self.seeds = [
            (folder / "seed").read_bytes(),
            (folder / "int8").read_bytes(),
            safetensors.torch.save(kinds, {"format": "pt", "note": "x" * 50}),
            safetensors.torch.save(
                {"module.weight": torch.ones(3, 4), "module.bias": torch.ones(3)}
            ),
        ]
        self.module = _small_module()

    def make(self, random: Random) -> Files:
        reader = random.choice(("model", "foreign"))
        seed = random.choice(self.seeds[:1] if reader == "model" else self.seeds)
        if random.random() < 0.5:
            return {"input": mutation.mutated_bytes(random, [seed]), "reader": reader.encode()}
        size = int.from_bytes(seed[:8], "little")
        header = mutation.mutated_json(random, [json.loads(seed[8 : 8 + size])])
        head = header.encode(errors="surrogatepass")
        stated = len(head) if random.random() < 0.9 else random.choice(mutation.LENGTHS)
        data = stated.to_bytes(8, "little") + head + seed[8 + size :]
        return {"input": data, "reader": reader.encode()}

    def read(self, folder: Path) -> None:
        path = (folder / "input").rename(folder / "input.safetensors")
        if (folder / "reader").read_bytes() == b"foreign":
            tensors = read_tensors(path)
            _check_tensors(tensors)
        else:
            load_tensors(self.module, path, extra_prefix="learned.")
            assert self.module[0].weight.shape == (3, 4), "weights of another shape"


def _check_tensors(tensors: dict[str, torch.Tensor]) -> None:
    assert tensors, "no tensors"
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()), "not a tensor"
    assert all(isinstance(name, str) for name in tensors), "a name that is no text"


class _Canary:
    """Makes a folder when it is unpickled by an unsafe reader."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("canary-was-here",)


class Checkpoint(Target):
    """Checkpoints of other projects, as ``torch.save`` writes them."""

    name = "checkpoint"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        state = {"module.weight": torch.ones(3, 4), "module.bias": torch.zeros(3)}
        values: list[Any] = [
            state,
            {"state_dict": state, "epoch": 3, "loss": np.float64(0.5)},
            {"model": state, "args": argparse.Namespace(rate=1e-3, path=Path("x"))},
            {"model_state_dict": {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor(1)}},
            [1, 2, 3],
            {"state_dict": state, "canary": _Canary()},
        ]
        self.seeds = []
        for value in values:
            for zipped in (True, False):
                output = io.BytesIO()
                torch.save(value, output, _use_new_zipfile_serialization=zipped)
                self.seeds.append(output.getvalue())

    def make(self, random: Random) -> Files:
        return {"input.ckpt": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        try:
            tensors = read_tensors(folder / "input.ckpt")
        finally:
            if Path("canary-was-here").exists():
                Path("canary-was-here").rmdir()
                raise AssertionError("code in the file ran")
        _check_tensors(tensors)
