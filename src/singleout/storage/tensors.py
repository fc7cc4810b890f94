"""Weights in safetensors files.

They are stored in half precision or int8, and checked against the module that loads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from singleout.errors import ModelError, one_line, shortened
from singleout.storage.atomic import replacing
from singleout.storage.checked import CHECKSUM, MARK, NO_DIGEST, read_checked
from singleout.storage.disk import open_model_file

SCALE_SUFFIX = "::scale"
"""The float scales of a tensor stored as int8, one per row, have its name with this suffix."""
MAX_LISTED = 20
"""Tensors that a message lists."""


def quantized_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix row by row.

    Args:
        matrix: float [rows, columns].

    Returns:
        int8 [rows, columns] and float32 scales [rows, 1]; their product is near to the matrix.

    Example:
        >>> import torch
        >>> quantized_rows(torch.tensor([[1.27, -0.5]]))
        (tensor([[127, -50]], dtype=torch.int8), tensor([[0.0100]]))
    """
    scale = matrix.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (matrix / scale).round().to(torch.int8), scale.float()


def _has_prefix(name: str, prefix: str | None) -> bool:
    return prefix is not None and name.startswith(prefix)


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[1] > 1


def save_tensors(
    module: nn.Module,
    path: Path,
    int8_below: str | None = None,
    extra: Mapping[str, Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the state of a module. The file appears whole or not at all.

    Matrices and kernels are stored in float16. Vectors stay in float32, because variances may be
    larger than the largest float16.

    Args:
        module: its ``state_dict`` is written.
        path: the file.
        int8_below: prefix of names; matrices with this prefix are stored in int8.
        extra: further tensors, which are stored unchanged.
        metadata: texts for the header of the file.

    Raises:
        ModelError: a tensor holds a value that is not finite, or too large for float16.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> layer, copy = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors(layer, Path(folder) / "layer.safetensors")
        ...     _ = load_tensors(copy, Path(folder) / "layer.safetensors")
        >>> torch.equal(copy.weight, layer.weight.half().float())
        True
    """
    stored: dict[str, Tensor] = dict(extra or {})
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            stored[name] = tensor.contiguous()
        elif _has_prefix(name, int8_below) and _is_matrix(tensor):
            stored[name], stored[name + SCALE_SUFFIX] = quantized_rows(tensor)
        else:
            stored[name] = (tensor.half() if tensor.ndim > 1 else tensor).contiguous()
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: not saved: '{name}' is not finite or too large for float16")
    write_safetensors(stored, path, metadata)


def write_safetensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with a checksum. It appears whole or not at all.

    Args:
        tensors: by name, stored unchanged.
        path: the file.
        metadata: texts for the header of the file.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_safetensors({"mean": torch.ones(2)}, Path(folder) / "mean.safetensors")
        ...     read_safetensors(Path(folder) / "mean.safetensors")
        ({'mean': tensor([1., 1.])}, {})
    """
    empty = MARK + NO_DIGEST
    content = memoryview(safetensors.torch.save(tensors))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:end]))
    # In a fixed order, which safetensors does not give: equal tensors make equal files.
    texts = sorted({**(metadata or {}), CHECKSUM: empty.decode()}.items())
    header = {"__metadata__": dict(texts), **header}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    start = len(raw).to_bytes(8, "little") + raw
    digest = hashlib.sha256(start)
    digest.update(content[end:])
    # Opened here: safetensors makes files that only their owner can read.
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(start.replace(empty, MARK + digest.hexdigest().encode(), 1))
        file.write(content[end:])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, within bounds, and check it.

    The header is checked against the size of the file before any tensor gets memory. A file of
    ``write_safetensors`` has a checksum, and any change of the file is refused. Files of other
    programs and of earlier versions have none.

    Args:
        path: the file.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        ModelError: the file is missing, cannot be read, is damaged, or has more than
            ``MAX_TENSORS`` tensors.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mean.safetensors"
        ...     write_safetensors({"mean": torch.ones(2)}, path, {"step": "3"})
        ...     read_safetensors(path)
        ({'mean': tensor([1., 1.])}, {'step': '3'})
    """
    with open_model_file(path) as file:
        try:
            return read_checked(file)
        except (ValueError, RecursionError, OSError, RuntimeError) as error:
            raise ModelError(f"{path}: corrupt or truncated weights ({one_line(error)})") from None


def load_tensors(
    module: nn.Module, path: Path, extra_prefix: str | None = None
) -> dict[str, Tensor]:
    """Fill a module from a file of ``save_tensors``.

    Args:
        module: it may be on the meta device.
        path: the file.
        extra_prefix: prefix of the names of extra tensors.

    Returns:
        The extra tensors.

    Raises:
        ModelError: the file is missing or corrupt, or its tensors do not fit the module. Names
            the tensors that are missing, unexpected or of another shape.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "layer.safetensors"
        ...     save_tensors(torch.nn.Linear(2, 1), file, extra={"learned.mean": torch.ones(2)})
        ...     load_tensors(torch.nn.Linear(2, 1), file, extra_prefix="learned.")
        {'learned.mean': tensor([1., 1.])}
    """
    stored, _ = read_safetensors(path)
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if _has_prefix(name, extra_prefix):
            extra[name] = _aligned(tensor)
            continue
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = stored.get(name + SCALE_SUFFIX)
        if scale is not None:
            if tensor.ndim != 2 or scale.shape != (len(tensor), 1):
                raise ModelError(
                    f"{path}: weights of another architecture: '{shortened(name)}' is "
                    f"{_size(tensor)}, its scales are {_size(scale)}"
                )
            tensor = tensor.float() * scale
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    fill(module, tensors, path)
    return extra


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give tensors to a module, which may be on the meta device.

    Counters of batches may be missing, because some formats drop them.

    Args:
        module: it gets the tensors, floats as float32.
        tensors: by name.
        path: the file that they come from, for the message.

    Raises:
        ModelError: names the tensors that are missing, unexpected, or of another shape or kind.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     layer = torch.nn.Linear(2, 1)
        >>> fill(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, Path("w.bin"))
        >>> layer(torch.ones(1, 2)).item()
        2.0
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked") and name not in tensors:
            tensors = {**tensors, name: torch.zeros(tensor.shape, dtype=tensor.dtype)}
    wrong = []
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            what = "missing" if name in expected else "unexpected"
            wrong.append(f"tensor '{shortened(name)}' is {what}")
            continue
        tensor, target = tensors[name], expected[name]
        if tensor.shape != target.shape:
            wrong.append(f"tensor '{shortened(name)}' is {_size(tensor)}, expected {_size(target)}")
        elif tensor.is_floating_point() != target.is_floating_point():
            wrong.append(f"tensor '{shortened(name)}' is {tensor.dtype}, expected {target.dtype}")
    if len(wrong) > MAX_LISTED:
        wrong[MAX_LISTED:] = [f"and {len(wrong) - MAX_LISTED:,} more"]
    if wrong:
        listed = shortened("; ".join(wrong), 1_000)
        raise ModelError(f"{path}: weights of another architecture: {listed}")
    floats = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    module.load_state_dict({n: _aligned(t) for n, t in floats.items()}, assign=True)


def _size(tensor: Tensor) -> str:
    return shortened(list(tensor.shape))


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it does not start at a cache line, as in a file in memory.

    Matrix products round differently in such a tensor, so that the same weights would give other
    embeddings.
    """
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively. Without that, it is slower than float32.

    Example:
        >>> has_fast_bfloat16() in (True, False)
        True
    """
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())
