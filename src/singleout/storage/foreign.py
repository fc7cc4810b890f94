"""Checkpoints of other projects. Their tensors are read, and nothing in them is executed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleout.errors import ModelError, one_line, shortened
from singleout.storage.checked import MAX_TENSORS
from singleout.storage.disk import open_model_file
from singleout.storage.pickles import IGNORED, UnsafeError, check_checkpoint
from singleout.storage.tensors import read_safetensors

FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights on model hubs, in order of preference."""
CHECKPOINT_SUFFIXES = ("safetensors", "ckpt", "bin", "pt", "pth")
"""File suffixes of checkpoints."""


def checkpoint_file(path: Path) -> Path:
    """The file of a checkpoint: ``path`` itself, or the only checkpoint in the folder ``path``.

    In a folder as on model hubs, ``model.safetensors`` or ``pytorch_model.bin`` is taken.

    Raises:
        ModelError: the folder has no checkpoint, or several, or may not be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "step_100.ckpt").touch()
        ...     checkpoint_file(Path(folder)).name
        'step_100.ckpt'
    """
    try:
        if not path.is_dir():
            return path
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
        files = sorted(f for f in path.iterdir() if f.suffix[1:] in CHECKPOINT_SUFFIXES)
        files = [file for file in files if file.is_file()]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(files) == 1:
        return files[0]
    listed = shortened(", ".join(file.name for file in files)) or "none"
    raise ModelError(f"{path}: must hold one checkpoint, holds {listed}: name the file itself")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU.

    Reads safetensors files and files of ``torch.save``: a plain state dict, or one under
    ``state_dict`` (Lightning, LAION), ``model`` or ``model_state_dict``. A common prefix
    ``module.`` (data-parallel training) is dropped. Nothing in the file is executed: only tensors
    and plain values are unpickled. ``singleout.storage.pickles`` says what is refused before that.

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
    if path.suffix == ".safetensors":
        tensors: Any = read_safetensors(path)[0]
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
    if len(tensors) > MAX_TENSORS:
        raise ModelError(
            f"{path}: holds {len(tensors):,} tensors, at most {MAX_TENSORS:,} are read"
        )
    for name, tensor in tensors.items():
        # A tensor of strides of zero may say that it is larger than any memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path}: tensor '{shortened(name)}' is larger than its data")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return dict(tensors)


def _unpickled(path: Path) -> Any:
    with open_model_file(path) as file:
        try:
            limit = check_checkpoint(file)
        except UnsafeError as error:
            raise ModelError(
                f"{path}: refused: it holds code or objects ({error}), and loading them could run "
                "any program: save only its state dict, as safetensors"
            ) from None
        except ValueError as error:
            raise ModelError(f"{path}: not a checkpoint, or truncated: {one_line(error)}") from None
    num_bytes = 0

    def fixed(storage: Any, location: str) -> Any:
        """The storage, which a tensor cannot enlarge by saying that it is larger."""
        nonlocal num_bytes
        num_bytes += storage.nbytes()
        if num_bytes > limit:
            raise ValueError("its tensors are larger than the file")
        torch.empty(0, dtype=torch.uint8).set_(storage).numpy()  # memory of NumPy cannot grow
        return storage

    try:
        # Messages of torch for its developers.
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(IGNORED)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=fixed, weights_only=True)
    except Exception:  # a damaged pickle may raise any error
        raise ModelError(f"{path}: not a checkpoint, or truncated") from None
