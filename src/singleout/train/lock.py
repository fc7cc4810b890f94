"""One training at a time in the folder of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from singleout.errors import TrainingError
from singleout.storage.lock import only_writer

LOCK_NAME = "run.lock"
"""Name of the lock in the folder of a run. It holds the number of the process that trains."""


def only_training(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run's folder, see ``only_writer``.

    Args:
        folder: of the run.

    Raises:
        TrainingError: another training holds the lock.
        OutputError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, only_training(Path(folder)):
        ...     try:
        ...         with only_training(Path(folder)):
        ...             pass
        ...     except TrainingError as error:
        ...         "another training" in str(error)
        True
    """
    return only_writer(folder, LOCK_NAME, "training", TrainingError)
