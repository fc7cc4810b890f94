"""Names of devices."""

from __future__ import annotations

import torch

from singleout.errors import ModelError, one_line


def find_device(name: str) -> torch.device:
    """The device of a name, which is tried; ``auto`` is CUDA if there is one.

    Raises:
        ModelError: there is no such device.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # its message is a list of two dozen kinds
        raise ModelError(
            f"device '{name}' cannot be used: torch has none of that name: try cpu"
        ) from None
    try:
        torch.zeros(1, device=device).cpu()  # it holds values, and gives them back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device '{name}' cannot be used: {one_line(error)}: try cpu") from None
    return device
