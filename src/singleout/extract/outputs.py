"""Target and residual as files, written block by block, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
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
    output_notes,
    quantised,
)
from singleout.errors import ConfigError, OutputError
from singleout.extract.names import PartPaths, part_paths, query_slugs
from singleout.extract.options import OutputOptions
from singleout.storage.addresses import shown
from singleout.storage.atomic import is_same_file, replacing, restoring
from singleout.types import Query

if TYPE_CHECKING:
    from singleout.extract.picture import Picture


@dataclass(frozen=True)
class WrittenFiles:
    """The files of one query, and their levels.

    Attributes:
        query: the query as text.
        target, residual, plot: paths; None if the file was not requested.
        sample_rate: of the recording, Hz.
        channels: number of channels.
        seconds: length of the recording.
        target_db, residual_db: level relative to the mixture, dB; None for silence.
        presence: probability that the sound is present; None if the model gives none.
        warnings: what a listener should know about the recording, one line each.
        missing_seconds: of the recording that could not be read; 0.0 if it is whole, None if the
            length of the missing part is unknown.

    Example:
        >>> from pathlib import Path
        >>> files = WrittenFiles("rain", Path("rain.wav"), None, None, 8_000, 1, 2.0, -6.0, None)
        >>> files.as_json()["target"]
        'rain.wav'
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
    warnings: tuple[str, ...] = ()
    missing_seconds: float | None = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether all of the recording was read."""
        return self.missing_seconds == 0

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values: paths are texts."""
        fields = {**asdict(self), "warnings": list(self.warnings)}
        return {k: shown(v) if isinstance(v, Path) else v for k, v in fields.items()}

    def below(self, folder: Path) -> WrittenFiles:
        """The same files in another folder, which may be in a store.

        Example:
            >>> from pathlib import Path
            >>> files = WrittenFiles("rain", Path("a/x.wav"), None, None, 8_000, 1, 2.0, -6.0, None)
            >>> files.below(Path("s3://bucket/b")).as_json()["target"]
            's3://bucket/b/x.wav'
        """
        target, residual, plot = (
            None if path is None else folder / path.name
            for path in (self.target, self.residual, self.plot)
        )
        assert target is not None
        return replace(self, target=target, residual=residual, plot=plot)


class PartFiles:
    """The files of one recording for all queries.

    A context manager: the files appear when the context ends, and vanish on any error. Nothing is
    created before the first block.

    Args:
        options: which files, and their folder.
        name: first part of the files' names.
        queries: at least one.
        info: of the recording.
        source: path of the recording, which is never overwritten.

    Attributes:
        kind: of the sound files.
        notes: what the files cannot say about the recording.

    Raises:
        OutputError: a file cannot be written there, would replace the recording, or its format
            cannot hold the recording.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> mixture, target = np.zeros((1, 800), np.float32), np.zeros((1, 1, 800), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = OutputOptions(Path(folder))
        ...     with PartFiles(options, "x", [Query("rain")], AudioInfo(8_000, 1)) as files:
        ...         files.write(mixture, target)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['x.rain.residual.wav', 'x.rain.target.wav']
    """

    def __init__(
        self,
        options: OutputOptions,
        name: str,
        queries: Sequence[Query],
        info: AudioInfo,
        source: Path | None = None,
    ) -> None:
        self._queries, self._info = queries, info
        try:
            self.kind = output_kind(info, options.format)
        except ConfigError as error:
            raise OutputError(f"{source or name}: {error}") from None
        self.notes = output_notes(str(source or name), info, self.kind)
        self.paths = [
            part_paths(options, name, slug, self.kind.container) for slug in query_slugs(queries)
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
        self._folder = options.folder
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
        """Append a block.

        Args:
            mixture: [channels, samples], in the type of the recording (``AudioInfo.dtype``).
            targets: float32 [queries, channels, samples].

        Raises:
            OutputError: the files cannot be written, for example because the disk is full.
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
        """The files of every query, after the context has ended."""

        def relative_db(energy: float) -> float | None:
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
                target_db=relative_db(part.target_energy),
                residual_db=relative_db(part.residual_energy),
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

            self._picture = Picture(str(query), info.sample_rate)
        self._target = files.enter_context(new_audio(paths.target, info, kind))
        self._residual: AudioWriter | None = None
        if paths.residual is not None:
            self._residual = files.enter_context(new_audio(paths.residual, info, kind))

    def write(self, mixture: NDArray[Any], target: NDArray[np.float32]) -> None:
        rounded, residual = quantised(target, mixture, self._kind)
        self._target.write(rounded)
        if self._residual is not None:
            self._residual.write(residual)
        if self._picture is not None:
            self._picture.push(mixture, rounded, residual)
        self.target_energy += _energy(rounded)
        self.residual_energy += _energy(residual)

    def finish(self) -> None:
        """Complete the files under their temporary names: only renaming is left."""
        self._target.close()
        if self._residual is not None:
            self._residual.close()
        if self._picture is not None and self._paths.plot is not None:
            from singleout.extract.picture import print_png

            # On the same stack, so that the picture appears with all other files.
            partial = self._files.enter_context(replacing(self._paths.plot))
            print_png(self._picture.figure(), partial)


def _energy(block: NDArray[Any]) -> float:
    return float(np.square(block, dtype=np.float64).sum())
