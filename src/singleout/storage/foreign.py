"""Checkpoints of other projects: their tensors are read, and nothing in them is executed."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from singleout.errors import ModelError

FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
CHECKPOINT_SUFFIXES = ("safetensors", "ckpt", "bin", "pt", "pth")


def checkpoint_file(path: Path) -> Path:
    """``path`` itself, or the one checkpoint in a folder as hubs lay it out.

    Raises:
        ModelError: nothing is there, or more than one file that could be meant.
    """
    if not path.is_dir():
        return path
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    found = sorted(p for suffix in CHECKPOINT_SUFFIXES for p in path.glob(f"*.{suffix}"))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(p.name for p in found) or "none"
    raise ModelError(f"{path}: one checkpoint is needed, found {listed}: name the file itself")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of somebody's checkpoint by name, on the CPU, whatever wraps them.

    Reads safetensors and what ``torch.save`` wrote: a plain state dict, or one under
    ``state_dict`` (Lightning, LAION), ``model`` or ``model_state_dict``. A common prefix
    ``module.`` (data-parallel training) is dropped. Nothing in the file is executed: only tensors
    and plain values are unpickled.

    Raises:
        ModelError: the file is missing, truncated or no checkpoint, holds code, or holds no
            tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give the path of a checkpoint")
    if path.suffix == ".safetensors":
        try:
            tensors: Any = safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: corrupt or truncated weights ({error})") from None
    else:
        tensors = _unpickled(path)
        for wrapper in ("state_dict", "model_state_dict", "model"):
            if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
                tensors = tensors[wrapper]
                break
    if isinstance(tensors, dict):
        tensors = {k: v for k, v in tensors.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not isinstance(tensors, dict) or not tensors:
        raise ModelError(f"{path}: holds no tensors: a checkpoint's state dict is needed")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return dict(tensors)


# Checkpoints of the field carry scores as NumPy scalars, and options in a namespace or as paths;
# torch counts these as code.
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


_MAGIC = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""First bytes of a zip and of a pickle: what ``torch.save`` writes, and wrote before 1.6."""


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(2) not in _MAGIC:
            raise ModelError(
                f"{path}: not a checkpoint, or truncated: a file of torch.save is needed"
            )
    scalar = np.float64(0).__reduce__()[0]
    # Files name the function by the module it lived in when they were written.
    renamed: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*_PLAIN_VALUES, *renamed]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class)|GLOBAL", str(error)):
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"'{name[1]}'" if name else "objects that are no tensors"
            raise ModelError(
                f"{path}: refused: it holds code or objects ({what}), and loading them could run "
                "anything; save its state dict alone, as safetensors"
            ) from None
        raise ModelError(f"{path}: not a checkpoint, or truncated") from None
    except Exception:  # a damaged pickle fails anywhere, with any error
        raise ModelError(f"{path}: not a checkpoint, or truncated") from None
