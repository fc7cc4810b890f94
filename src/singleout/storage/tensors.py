"""Weights on disk: safetensors, small, and checked against the module they are loaded into."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from singleout.errors import ModelError

SCALE_SUFFIX = "::scale"
"""A tensor stored as int8 has its float scales, one per row, under its name with this suffix."""


def quantized_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] to int8 of the same shape and float32 scales [rows, 1]."""
    scale = matrix.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (matrix / scale).round().to(torch.int8), scale.float()


def _is_below(name: str, prefix: str | None) -> bool:
    return prefix is not None and name.startswith(prefix)


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[1] > 1


def save_tensors(
    module: nn.Module,
    path: Path,
    int8_below: str | None = None,
    beside: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the module's state: matrices and kernels in float16, below the prefix ``int8_below``
    matrices in int8; vectors stay float32, since variances pass float16's largest number. What is
    to lie ``beside`` it is stored as it is.

    The file appears whole or not at all.

    Raises:
        ModelError: a tensor holds a value that is not finite, or too large for float16.
    """
    stored: dict[str, Tensor] = dict(beside or {})
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            stored[name] = tensor.contiguous()
        elif _is_below(name, int8_below) and _is_matrix(tensor):
            stored[name], stored[name + SCALE_SUFFIX] = quantized_rows(tensor)
        else:
            stored[name] = (tensor.half() if tensor.ndim > 1 else tensor).contiguous()
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: not saved: '{name}' is not finite or too large for float16")
    write_safetensors(stored, path)


def write_safetensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write to a temporary name beside ``path``, then rename.

    Raises:
        ModelError: it cannot be written; nothing of it stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        # Through bytes: safetensors' own files are readable by their owner only.
        partial.write_bytes(safetensors.torch.save(tensors, metadata))
        partial.replace(path)
    except OSError as error:  # such as of a full disk, which a part would keep full
        with suppress(OSError):
            partial.unlink()
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from None


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


def load_tensors(
    module: nn.Module, path: Path, beside_below: str | None = None
) -> dict[str, Tensor]:
    """Fill ``module`` (which may live on the meta device) from a file of ``save_tensors``.

    Returns:
        What lies beside the module: the tensors whose names begin with ``beside_below``.

    Raises:
        ModelError: the file is missing or corrupt, or its tensors are not the module's; names
            every tensor that is missing, unexpected or of another shape.
    """
    try:
        stored = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a model is a folder with its weights") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: corrupt or truncated weights ({error})") from None
    tensors: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if _is_below(name, beside_below):
            beside[name] = _aligned(tensor)
            continue
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = stored.get(name + SCALE_SUFFIX)
        if scale is not None:
            if tensor.ndim != 2 or scale.shape != (len(tensor), 1):
                raise ModelError(
                    f"{path}: weights of another architecture: '{name}' is {list(tensor.shape)}, "
                    f"its scales are {list(scale.shape)}"
                )
            tensor = tensor.float() * scale
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    fill(module, tensors, path)
    return beside


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give ``module`` (which may live on the meta device) these tensors, read from ``path``.

    Counters of batches, which some formats drop, may be missing.

    Raises:
        ModelError: names every tensor that is missing, unexpected, or of another shape or kind.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked") and name not in tensors:
            tensors = {**tensors, name: torch.zeros(tensor.shape, dtype=tensor.dtype)}
    wrong = []
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            wrong.append(f"tensor '{name}' is {'missing' if name in expected else 'unexpected'}")
            continue
        tensor, wanted = tensors[name], expected[name]
        if tensor.shape != wanted.shape:
            wrong.append(f"tensor '{name}' is {list(tensor.shape)}, expected {list(wanted.shape)}")
        elif tensor.is_floating_point() != wanted.is_floating_point():
            wrong.append(f"tensor '{name}' is {tensor.dtype}, expected {wanted.dtype}")
    if wrong:
        raise ModelError(f"{path}: weights of another architecture: {'; '.join(wrong)}")
    floats = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    module.load_state_dict({n: _aligned(t) for n, t in floats.items()}, assign=True)


def _aligned(tensor: Tensor) -> Tensor:
    """Itself, or a copy where it lies across cache lines, as tensors mapped from a file do.

    Matrix products round differently there: the same weights would give other embeddings.
    """
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively; without, it is slower than float32."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())
