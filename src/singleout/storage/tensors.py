"""Weights on disk: safetensors, small, and checked against the module they are loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from singleout.errors import ModelError
from singleout.storage.atomic import replacing

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
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the module's state: matrices and kernels in float16, below the prefix ``int8_below``
    matrices in int8; vectors stay float32, since variances pass float16's largest number.
    Tensors of ``extra`` are stored as they are.

    The file appears whole or not at all.

    Raises:
        ModelError: a tensor holds a value that is not finite, or too large for float16.
    """
    stored: dict[str, Tensor] = dict(extra or {})
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
    """Write a safetensors file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as partial:
        # Through bytes: safetensors' own files are readable by their owner only.
        partial.write_bytes(safetensors.torch.save(tensors, metadata))


def load_tensors(
    module: nn.Module, path: Path, extra_prefix: str | None = None
) -> dict[str, Tensor]:
    """Fill ``module`` (which may live on the meta device) from a file of ``save_tensors``.

    Returns:
        The extra tensors: those whose names begin with ``extra_prefix``.

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
    extra: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if _is_below(name, extra_prefix):
            extra[name] = _aligned(tensor)
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
    return extra


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
