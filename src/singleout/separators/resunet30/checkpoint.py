"""The tensors of ``ResUNet30`` in published checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from singleout.errors import ModelError
from singleout.storage.disk import open_model_file
from singleout.storage.foreign import checkpoint_file, read_tensors

LANDMARK = "base.pre_conv.weight"
"""A tensor that every checkpoint has. The text before it is the prefix of the separator."""
DERIVED = ("base.stft.", "base.istft.")
"""Prefixes of the kernels of an STFT by convolution. Ours is an FFT."""


def landmark(names: Iterable[str]) -> str | None:
    """The name of the landmark among ``names``, with its prefix.

    Example:
        >>> landmark(["epoch", "ss_model.base.pre_conv.weight"])
        'ss_model.base.pre_conv.weight'
    """
    return next((n for n in names if n == LANDMARK or n.endswith("." + LANDMARK)), None)


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of ``ResUNet30``.

    Only the names of the tensors are read from safetensors. A checkpoint in another format always
    counts.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     holds_checkpoint(Path(folder))
        False
    """
    try:
        file = checkpoint_file(folder)
        if file.suffix != ".safetensors":
            return True
        with open_model_file(file), safe_open(file, "pt") as tensors:
            return landmark(tensors.keys()) is not None
    except (ModelError, SafetensorError, OSError):
        return False


def separator_tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Read the separator of a checkpoint.

    Args:
        path: a file, or a folder with one checkpoint.

    Returns:
        The file, and the tensors under the names of ``ResUNet30``.

    Raises:
        ModelError: the file cannot be read, or it does not hold this separator.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tensors = {"ss_model.base.pre_conv.weight": torch.ones(1), "loss": torch.ones(1)}
        ...     torch.save(tensors, Path(folder) / "last.ckpt")
        ...     separator_tensors(Path(folder))[1]
        {'base.pre_conv.weight': tensor([1.])}
    """
    file = checkpoint_file(path)
    tensors = read_tensors(file)
    name_in_file = landmark(tensors)
    if name_in_file is None:
        raise ModelError(
            f"{file}: no checkpoint of AudioSep's separator: it has no tensor '{LANDMARK}' "
            f"(its first is '{next(iter(tensors))}')"
        )
    prefix = name_in_file.removesuffix(LANDMARK)
    separator = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(prefix)
        # Tensors without the prefix belong to other parts: the query encoder, losses.
        if full_name.startswith(prefix) and not name.startswith((*DERIVED, "query_encoder.")):
            separator[name] = tensor
    return file, separator
