"""Tables of embeddings: arrays, which may be memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from singleout.data.clips import Clip, Clips
from singleout.data.columns import ends_of
from singleout.data.plan import MixtureConfig
from singleout.errors import ModelError, one_line

MAX_HASHED = 1_000
"""Most embeddings of a table that its digest depends on."""


class EmbeddingTable:
    """One embedding per crop.

    Args:
        embeddings: float32 or float16 [crops, dim], unit norm. It may be memory-mapped.
        offsets: [clips + 1], the row of each clip's first crop, and the number of rows.

    Attributes:
        first, counts: [clips], the row of each clip's first crop, and its number of crops.

    Example:
        >>> import torch
        >>> table = EmbeddingTable(torch.eye(3), offsets=(0, 1, 3))
        >>> table.count(1), table.of(1, 0)
        (2, tensor([0., 1., 0.]))
    """

    def __init__(self, embeddings: Tensor, offsets: Sequence[int] | NDArray[np.int64]) -> None:
        ends = np.asarray(offsets, np.int64)
        self.embeddings, self.first, self.counts = embeddings, ends[:-1], np.diff(ends)
        self._file: Path | None = None
        self._selected: NDArray[np.integer[Any]] | None = None

    @classmethod
    def open(cls, path: Path) -> EmbeddingTable:
        """A table in a file, which is memory-mapped: only the rows that are used are read.

        Another process that gets the table opens the file itself.

        Args:
            path: safetensors file of ``embeddings`` and ``offsets``.

        Raises:
            ModelError: the file cannot be read, or is no such table.

        Example:
            >>> import tempfile, torch
            >>> from singleout.storage.tensors import write_safetensors
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = Path(folder, "table.safetensors")
            ...     rows, offsets = torch.eye(3).half(), torch.tensor([0, 1, 3])
            ...     write_safetensors({"embeddings": rows, "offsets": offsets}, path)
            ...     EmbeddingTable.open(path).of(1, 0)
            tensor([0., 1., 0.])
        """
        try:
            with safe_open(path, framework="pt") as file:
                embeddings, offsets = (file.get_tensor(name) for name in ("embeddings", "offsets"))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read as a table: {one_line(error)}") from None
        if (
            embeddings.ndim != 2
            or embeddings.dtype not in (torch.float16, torch.float32)
            or offsets.dtype != torch.int64
            or offsets[:1].tolist() != [0]
            or offsets[-1:].tolist() != [len(embeddings)]
            or bool((offsets.diff() < 0).any())
        ):
            raise ModelError(
                f"{path}: its embeddings {list(embeddings.shape)} and offsets "
                f"{list(offsets.shape)} are no table: make the file again"
            )
        table = cls(embeddings, offsets.numpy())
        table._file = path
        return table

    def take(self, clips: NDArray[np.integer[Any]]) -> EmbeddingTable:
        """The table of these clips, in this order. No embedding is copied."""
        table = EmbeddingTable(self.embeddings, (0,))
        table.first, table.counts, table._file = self.first[clips], self.counts[clips], self._file
        table._selected = clips if self._selected is None else self._selected[clips]
        return table

    @classmethod
    def joined(cls, tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
        """One table of the clips of several tables, in memory. A single table is not copied."""
        if len(tables) == 1:
            return tables[0]
        counts = np.concatenate([table.counts for table in tables])
        return cls(torch.cat([table.rows() for table in tables]), ends_of(counts))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is None:
            # A tensor would be sent as shared memory, which is gone before a process has started.
            return _of_arrays, (self.rows().numpy(), self.offsets)
        return _opened, (self._file, self._selected)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.embeddings.shape[1]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[clips + 1], the number of crops before each clip, and of all crops."""
        return ends_of(self.counts)

    def of(self, clip: int, crop: int) -> Tensor:
        """The embedding, float32 [dim], of crop number ``crop`` of a clip."""
        return self.embeddings[int(self.first[clip]) + crop].float()

    def count(self, clip: int) -> int:
        """The number of crops of a clip."""
        return int(self.counts[clip])

    def rows(self) -> Tensor:
        """The embeddings [crops, dim] of all crops of the clips, in their order, in memory."""
        rows = np.arange(self.counts.sum()) + np.repeat(self.first - self.offsets[:-1], self.counts)
        return self.embeddings[torch.from_numpy(rows)]

    def first_crops(self) -> Tensor:
        """Embeddings, float32 [clips, dim], of the first crop of every clip."""
        return self.embeddings[torch.from_numpy(self.first)].float()

    def digest(self) -> str:
        """Hash of the numbers of crops and of the first crops of some clips.

        It tells tables of two encoders apart.
        """
        some = np.linspace(0, len(self.first) - 1, min(len(self.first), MAX_HASHED)).astype(int)
        digest = blake2b(self.counts.tobytes(), digest_size=8)
        digest.update(self.take(some).first_crops().numpy().tobytes())
        return digest.hexdigest()


def _of_arrays(embeddings: NDArray[Any], offsets: NDArray[np.int64]) -> EmbeddingTable:
    return EmbeddingTable(torch.from_numpy(embeddings), offsets)


def _opened(path: Path, selected: NDArray[np.integer[Any]] | None) -> EmbeddingTable:
    table = EmbeddingTable.open(path)
    return table if selected is None else table.take(selected)


def crop_offsets(clips: Sequence[Clip], config: MixtureConfig) -> NDArray[np.int64]:
    """Where the crops of each clip begin in a table of all crops.

    Args:
        clips: the sounds.
        config: length and hop of the crops.

    Returns:
        [clips + 1], see ``EmbeddingTable.offsets``.

    Example:
        >>> clips = [
        ...     Clip(Path(name), seconds, None, (), name, name, "train")
        ...     for name, seconds in (("dog.wav", 1.0), ("rain.wav", 6.0))
        ... ]
        >>> crop_offsets(clips, MixtureConfig())
        array([0, 1, 3])
    """
    if isinstance(clips, Clips):
        seconds = clips.seconds
    else:
        seconds = np.fromiter((clip.seconds for clip in clips), np.float64, len(clips))
    more = np.ceil((seconds - config.segment_seconds) / config.crop_hop_seconds - 1e-9)
    counts = 1 + np.maximum(0, more).astype(np.int64)
    return ends_of(counts)
