"""What a reader under test is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random

Files = dict[str, bytes]
"""The input of a target: the content of files by their names."""


class Target(ABC):
    """A reader under test.

    Attributes:
        name: on the command line.
    """

    name: str

    @abstractmethod
    def prepare(self, folder: Path, with_packages: bool) -> None:
        """Make the seeds. ``folder`` is for files that several inputs share."""

    @abstractmethod
    def make(self, random: Random) -> Files:
        """The files of one input."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Read the files of an input from ``folder``, and use what was read.

        Raises:
            SingleoutError: the files are refused.
            AssertionError: what was read is wrong.
        """
