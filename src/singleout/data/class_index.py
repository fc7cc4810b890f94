"""Clips by class, group or family: a draw among them costs no search through all clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from singleout.data.clips import Clip, Clips
from singleout.data.columns import ends_of


class CodeIndex:
    """The clips of each code.

    Args:
        codes: [clips], numbers from 0, such as ``Clips.label_codes``.

    Attributes:
        order: int32 [clips], the clips sorted by their codes.
        offsets: int64 [codes + 1], where the clips of each code begin in ``order``.

    Example:
        >>> CodeIndex(np.array([1, 0, 1])).of(1)
        array([0, 2], dtype=int32)
    """

    def __init__(self, codes: NDArray[np.int32]) -> None:
        self.order = np.argsort(codes, kind="stable").astype(np.int32)
        self.offsets = ends_of(np.bincount(codes))

    def of(self, code: int) -> NDArray[np.int32]:
        """The indices of the clips of a code, in their order; not a copy."""
        return self.order[self.offsets[code] : self.offsets[code + 1]]


class ClassIndex:
    """Draws other clips of the class of a clip.

    Args:
        clips: the clips. The index takes 32 bytes for each of them at most.

    Example:
        >>> from pathlib import Path
        >>> clips = [
        ...     Clip(Path(f"{i}.wav"), 1.0, None, (), "dog", group, "train")
        ...     for i, group in enumerate(["rex", "rex", "lassie"])
        ... ]
        >>> index, rng = ClassIndex(clips), np.random.default_rng(0)
        >>> index.draw_other(0, rng)
        2
        >>> ClassIndex(clips[:2]).draw_other(0, rng) is None
        True
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        clips = Clips.of(clips)
        self._labels, self._groups = clips.label_codes, clips.group_codes
        self._of_label, self._of_group = CodeIndex(self._labels), CodeIndex(self._groups)

    def draw_other(self, clip: int, rng: np.random.Generator) -> int | None:
        """Draw a clip of the same class and of another group.

        All of them are equally likely. The time grows with the size of the group of the clip, and
        with the logarithm of the size of its class.

        Args:
            clip: index of a clip.
            rng: gives one draw if there is such a clip.

        Returns:
            The index of the drawn clip; None if there is none.
        """
        of_class = self._of_label.of(int(self._labels[clip]))
        of_group = self._of_group.of(int(self._groups[clip]))
        excluded = np.searchsorted(of_class, of_group[self._labels[of_group] == self._labels[clip]])
        count = len(of_class) - len(excluded)
        if not count:
            return None
        place = int(rng.integers(count))
        # Before excluded place number i are ``excluded[i] - i`` places that are not excluded.
        skipped = np.searchsorted(excluded - np.arange(len(excluded)), place, side="right")
        return int(of_class[place + skipped])
