"""Where the published checkpoints of ``ResUNet30`` keep their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from singleout.errors import ModelError
from singleout.storage.foreign import checkpoint_file, read_tensors

LANDMARK = "base.pre_conv.weight"
"""A tensor that every checkpoint has; what stands before it is the separator's prefix."""
DERIVED = ("base.stft.", "base.istft.")
"""Kernels of an STFT by convolution; ours is an FFT."""


def landmark(names: Iterable[str]) -> str | None:
    """The landmark's name among ``names``, prefix included."""
    return next((n for n in names if n == LANDMARK or n.endswith("." + LANDMARK)), None)


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds weights of a ``ResUNet30``; of safetensors only the names are read."""
    try:
        file = checkpoint_file(folder)
        if file.suffix != ".safetensors":
            return True
        with safe_open(file, "pt") as tensors:
            return landmark(tensors.keys()) is not None
    except (ModelError, SafetensorError, OSError):
        return False


def separator_tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The checkpoint's file and the separator's tensors under the names of ``ResUNet30``.

    Raises:
        ModelError: the file cannot be read or holds no such separator.
    """
    file = checkpoint_file(path)
    tensors = read_tensors(file)
    found_landmark = landmark(tensors)
    if found_landmark is None:
        raise ModelError(
            f"{file}: no checkpoint of AudioSep's separator: it has no tensor '{LANDMARK}' "
            f"(its first is '{next(iter(tensors))}')"
        )
    prefix = found_landmark.removesuffix(LANDMARK)
    found = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix)
        # With a prefix, what lies outside is somebody else's: the query encoder, losses.
        if name.startswith(prefix) and not own.startswith((*DERIVED, "query_encoder.")):
            found[own] = tensor
    return file, found
