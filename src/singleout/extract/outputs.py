"""Parts of a recording as files: their names, kinds and levels; written block by block."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    AudioWriter,
    OutputKind,
    new_audio,
    output_kind,
    quantised,
)
from singleout.errors import ConfigError, OutputError
from singleout.extract.names import PartPaths, part_paths, query_slugs
from singleout.extract.options import OutputOptions
from singleout.storage.atomic import is_same_file, replacing, restoring
from singleout.types import Query

if TYPE_CHECKING:
    from singleout.extract.picture import Picture


@dataclass(frozen=True)
class WrittenFiles:
    """The files of one query, and how loud they are.

    Attributes:
        query: what was asked.
        target, residual, plot: paths; None where not wanted.
        sample_rate: Hz.
        channels: their number.
        seconds: of the recording.
        target_db, residual_db: level over that of the mixture; None for silence.
        presence: probability that the sound is there; None of a model that does not tell.
    """

    query: str
    target: Path
    residual: Path | None
    plot: Path | None
    sample_rate: int
    channels: int
    seconds: float
    target_db: float | None
    residual_db: float | None
    presence: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Paths as text."""
        fields = asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


class PartFiles:
    """The files of one recording for all queries, written block by block, all or none.

    A context: the files appear when it ends well, and vanish on any error. Nothing is created
    before the first block.

    Args:
        wanted: which, and where.
        name: of the recording, the first part of the files' names.
        queries: at least one.
        info: of the recording.
        source: its path, which is never overwritten.

    Raises:
        OutputError: a file cannot be written there, would replace the recording, or its format
            cannot hold it.
    """

    def __init__(
        self,
        wanted: OutputOptions,
        name: str,
        queries: Sequence[Query],
        info: AudioInfo,
        source: Path | None = None,
    ) -> None:
        self._queries, self._info = queries, info
        try:
            self.kind = output_kind(info, wanted.format)
        except ConfigError as error:
            raise OutputError(f"{source or name}: {error}") from None
        self.paths = [
            part_paths(wanted, name, slug, self.kind.container) for slug in query_slugs(queries)
        ]
        for path in (path for paths in self.paths for path in paths.all()):
            if source is not None and is_same_file(path, source):
                raise OutputError(f"{path}: is the recording itself: choose another folder or name")
            try:
                is_folder = path.is_dir()
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
            if is_folder:
                raise OutputError(f"{path}: cannot be written: is a folder")
        self._folder = wanted.folder
        self._files = ExitStack()
        self._parts: list[_Parts] = []
        self._num_frames = 0
        self._mixture_energy = 0.0

    def __enter__(self) -> PartFiles:
        return self

    def _open(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be created: {error.strerror}") from None
        for query, paths in zip(self._queries, self.paths, strict=True):
            self._parts.append(_Parts(self._files, query, paths, self._info, self.kind))

    def write(self, mixture: NDArray[Any], targets: NDArray[np.float32]) -> None:
        """A block of the mixture, [channels, samples] in the recording's type, and of the target
        of every query, float32 [queries, channels, samples].

        Raises:
            OutputError: the disk is full, say.
        """
        if not self._parts:
            self._open()
        self._num_frames += mixture.shape[1]
        self._mixture_energy += _energy(mixture)
        for part, target in zip(self._parts, targets, strict=True):
            part.write(mixture, target)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._files.__exit__(kind, error, trace)
            return
        before = ExitStack()
        with self._files:
            for part in self._parts:
                part.finish()
            before.enter_context(restoring([path for p in self.paths for path in p.all()]))
            renaming = self._files.pop_all()
        with before, renaming:
            pass

    def written(self) -> list[WrittenFiles]:
        """For every query, once the context has ended."""

        def over_mixture_db(energy: float) -> float | None:
            if energy <= 0 or self._mixture_energy <= 0:
                return None
            return round(10 * float(np.log10(energy / self._mixture_energy)), 2)

        return [
            WrittenFiles(
                query=str(query),
                target=paths.target,
                residual=paths.residual,
                plot=paths.plot,
                sample_rate=self._info.sample_rate,
                channels=self._info.channels,
                seconds=self._num_frames / self._info.sample_rate,
                target_db=over_mixture_db(part.target_energy),
                residual_db=over_mixture_db(part.residual_energy),
            )
            for query, paths, part in zip(self._queries, self.paths, self._parts, strict=True)
        ]


class _Parts:
    """The open files of one query."""

    def __init__(
        self, files: ExitStack, query: Query, paths: PartPaths, info: AudioInfo, kind: OutputKind
    ) -> None:
        self.target_energy = self.residual_energy = 0.0
        self._files, self._paths, self._kind = files, paths, kind
        self._picture: Picture | None = None
        if paths.plot is not None:
            from singleout.extract.picture import Picture

            self._picture = Picture(str(query), info.sample_rate, info.num_frames or 0)
        self._target = files.enter_context(new_audio(paths.target, info, kind))
        self._residual: AudioWriter | None = None
        if paths.residual is not None:
            self._residual = files.enter_context(new_audio(paths.residual, info, kind))

    def write(self, mixture: NDArray[Any], target: NDArray[np.float32]) -> None:
        found, residual = quantised(target, mixture, self._kind)
        self._target.write(found)
        if self._residual is not None:
            self._residual.write(residual)
        if self._picture is not None:
            self._picture.push(mixture, found, residual)
        self.target_energy += _energy(found)
        self.residual_energy += _energy(residual)

    def finish(self) -> None:
        """Whole under their temporary names: after this, all that is left is renaming."""
        self._target.close()
        if self._residual is not None:
            self._residual.close()
        if self._picture is not None and self._paths.plot is not None:
            from singleout.extract.picture import print_png

            # Of the stack: it appears with all the others.
            partial = self._files.enter_context(replacing(self._paths.plot))
            print_png(self._picture.figure(), partial)


def _energy(block: NDArray[Any]) -> float:
    return float(np.square(block, dtype=np.float64).sum())
