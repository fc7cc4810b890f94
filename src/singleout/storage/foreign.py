"""Checkpoints of other projects. Their tensors are read, and nothing in them is executed."""

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
"""File names of weights on model hubs, in order of preference."""
CHECKPOINT_SUFFIXES = ("safetensors", "ckpt", "bin", "pt", "pth")
"""File suffixes of checkpoints."""


def checkpoint_file(path: Path) -> Path:
    """The file of a checkpoint: ``path`` itself, or the only checkpoint in the folder ``path``.

    In a folder as on model hubs, ``model.safetensors`` or ``pytorch_model.bin`` is taken.

    Raises:
        ModelError: the folder has no checkpoint, or several.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "step_100.ckpt").touch()
        ...     checkpoint_file(Path(folder)).name
        'step_100.ckpt'
    """
    if not path.is_dir():
        return path
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    files = sorted(file for suffix in CHECKPOINT_SUFFIXES for file in path.glob(f"*.{suffix}"))
    if len(files) == 1:
        return files[0]
    listed = ", ".join(file.name for file in files) or "none"
    raise ModelError(f"{path}: must hold one checkpoint, holds {listed}: name the file itself")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU.

    Reads safetensors files and files of ``torch.save``: a plain state dict, or one under
    ``state_dict`` (Lightning, LAION), ``model`` or ``model_state_dict``. A common prefix
    ``module.`` (data-parallel training) is dropped. Nothing in the file is executed: only tensors
    and plain values are unpickled.

    Raises:
        ModelError: the file is missing, truncated or not a checkpoint, or it holds code, or it
            holds no tensors.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "last.ckpt"
        ...     torch.save({"epoch": 3, "state_dict": {"module.weight": torch.ones(2)}}, file)
        ...     read_tensors(file)
        {'weight': tensor([1., 1.])}
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file: give the path of a checkpoint")
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
        raise ModelError(f"{path}: holds no tensors: give a checkpoint with a state dict")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return dict(tensors)


# Common checkpoints hold scores as NumPy scalars, and options in a namespace or as paths. Torch
# would refuse these as code.
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


_MAGIC = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""First bytes of a zip file and of a pickle: ``torch.save`` writes zip files since torch 1.6."""


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(2) not in _MAGIC:
            raise ModelError(f"{path}: not a checkpoint, or truncated: give a file of torch.save")
    scalar = np.float64(0).__reduce__()[0]
    # A file names the function by its module in the NumPy version that wrote the file.
    renamed: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*_PLAIN_VALUES, *renamed]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class)|GLOBAL", str(error)):
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            kind = f"'{name[1]}'" if name else "objects that are not tensors"
            raise ModelError(
                f"{path}: refused: it holds code or objects ({kind}), and loading them could run "
                "any program: save only its state dict, as safetensors"
            ) from None
        raise ModelError(f"{path}: not a checkpoint, or truncated") from None
    except Exception:  # a damaged pickle may raise any error
        raise ModelError(f"{path}: not a checkpoint, or truncated") from None
