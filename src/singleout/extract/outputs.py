"""Parts of a recording as files: their names, kinds and levels; written block by block."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    AudioWriter,
    OutputFormat,
    OutputKind,
    new_audio,
    output_kind,
    quantised,
    replacing,
)
from singleout.errors import AudioError, ConfigError
from singleout.types import Prompt, Query

if TYPE_CHECKING:
    from singleout.extract.plotting import Picture

MAX_SLUG_CHARACTERS = 60
MAX_NAME_BYTES = 150
UNNAMED = re.compile(r"""[^A-Za-z0-9\s.,;:!?'"()/_-]""")
"""What a name leaves out although it says something."""


@dataclass(frozen=True)
class FilesWanted:
    """What to write of every recording.

    Args:
        folder: is created if missing.
        format: container of the parts; ``auto`` is the recording's own, as far as that makes sense.
        residual: whether to write it.
        plot: whether to draw the spectrograms.
    """

    folder: Path
    format: OutputFormat = "auto"
    residual: bool = True
    plot: bool = False


@dataclass(frozen=True)
class Written:
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


def query_slug(query: Query) -> str:
    """A query as part of a file name: ``A dog, barking!`` is ``a-dog-barking``.

    ASCII lower-case words joined by hyphens, 1 to 60 characters. Where these are not all that was
    asked (a long query, another script, ``C++``, several prompts, an example, which may be called
    like others), a short hash of it follows: what is asked later must not take the place of
    something else.
    """
    text = str(query)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    slug = "-".join(re.findall(r"[a-z0-9]+", plain.lower()))
    is_one = len(query.positive) == 1 and not query.negative and isinstance(query.positive[0], str)
    if is_one and slug and len(slug) <= MAX_SLUG_CHARACTERS and not UNNAMED.search(plain):
        return slug
    sides = [[_identity(prompt) for prompt in side] for side in (query.positive, query.negative)]
    end = _short_hash(text if is_one else json.dumps(sides))
    room = MAX_SLUG_CHARACTERS - len(end) - 1
    if len(slug) > room:
        slug = slug[: room + 1].rpartition("-")[0] or slug[:room]
    return f"{slug}-{end}" if slug else end


def _identity(prompt: Prompt) -> str:
    """Tells a prompt from others that read the same."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt.audio, str | Path):
        return f"file {Path(prompt.audio).absolute()}"
    samples = np.ascontiguousarray(prompt.audio)
    return f"{hashlib.sha256(samples.tobytes()).hexdigest()} {prompt.sample_rate}"


def query_slugs(queries: Sequence[Query]) -> list[str]:
    """One for each, no two the same; the same query twice is one too many.

    Raises:
        AudioError: two queries are the same.
    """
    slugs = [query_slug(query) for query in queries]
    for number, query in enumerate(queries):
        if query in queries[:number]:
            raise AudioError(f"the query '{query}' is asked twice: its files would be the same")
    names = [
        slug if slugs.count(slug) == 1 else f"{slug}-{_short_hash(str(query))}"
        for slug, query in zip(slugs, queries, strict=True)
    ]
    # Examples that are called the same are not the same.
    before = [names[:number].count(name) for number, name in enumerate(names)]
    return [
        f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True)
    ]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


@dataclass(frozen=True)
class PartPaths:
    """Where the files of one query go."""

    target: Path
    residual: Path | None
    plot: Path | None

    def all(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.target, self.residual, self.plot) if path is not None]


def part_paths(wanted: FilesWanted, name: str, slug: str, container: str) -> PartPaths:
    """Paths of the parts of recording ``name``; a name too long for a file is shortened."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_NAME_BYTES:
        short = encoded[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
        name = f"{short}-{_short_hash(name)}"
    stem = f"{name}.{slug}"
    return PartPaths(
        target=wanted.folder / f"{stem}.target.{container}",
        residual=wanted.folder / f"{stem}.residual.{container}" if wanted.residual else None,
        plot=wanted.folder / f"{stem}.png" if wanted.plot else None,
    )


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
        AudioError: a file cannot be written there, would replace the recording, or its format
            cannot hold it.
    """

    def __init__(
        self,
        wanted: FilesWanted,
        name: str,
        queries: Sequence[Query],
        info: AudioInfo,
        source: Path | None = None,
    ) -> None:
        self._queries, self._info = queries, info
        try:
            self.kind = output_kind(info, wanted.format)
        except ConfigError as error:
            raise AudioError(f"{source or name}: {error}") from None
        self.paths = [
            part_paths(wanted, name, slug, self.kind.container) for slug in query_slugs(queries)
        ]
        for path in (path for paths in self.paths for path in paths.all()):
            if source is not None and _is_same(path, source):
                raise AudioError(f"{path}: is the recording itself: choose another folder or name")
            try:
                is_folder = path.is_dir()
            except OSError as error:
                raise AudioError(f"{path}: cannot be written: {error.strerror}") from None
            if is_folder:
                raise AudioError(f"{path}: cannot be written: is a folder")
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
            raise AudioError(f"{self._folder}: cannot be created: {error.strerror}") from None
        for query, paths in zip(self._queries, self.paths, strict=True):
            self._parts.append(_Parts(self._files, query, paths, self._info, self.kind))

    def write(self, mixture: NDArray[Any], targets: NDArray[np.float32]) -> None:
        """A block of the mixture, [channels, samples] in the recording's type, and of the target
        of every query, float32 [queries, channels, samples].

        Raises:
            AudioError: the disk is full, say.
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
            before.enter_context(_set_aside([path for p in self.paths for path in p.all()]))
            renaming = self._files.pop_all()
        with before, renaming:
            pass

    def written(self) -> list[Written]:
        """For every query, once the context has ended."""

        def over_mixture_db(energy: float) -> float | None:
            if energy <= 0 or self._mixture_energy <= 0:
                return None
            return round(10 * float(np.log10(energy / self._mixture_energy)), 2)

        return [
            Written(
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


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them is not there
        return path.samefile(other)
    return False


@contextmanager
def _set_aside(paths: Sequence[Path]) -> Iterator[None]:
    """For as long as new files take their places; on any error those that were there come back: a
    new residual beside an old target would not add up.

    Raises:
        AudioError: one cannot be replaced, such as while somebody plays it, on Windows.
    """
    kept: dict[Path, Path] = {}
    new: list[Path] = []
    try:
        for path in paths:
            if path.exists():
                end = f"{_short_hash(path.name)}.{os.getpid()}-{get_ident()}"
                aside = path.with_name(f".{end}.old.partial")
                path.replace(aside)
                kept[path] = aside
        new = [path for path in paths if path not in kept]
        yield
    except BaseException as error:
        for path in new:
            path.unlink(missing_ok=True)
        for path, aside in kept.items():
            aside.replace(path)
        if isinstance(error, OSError):
            raise AudioError(
                f"{error.filename}: cannot be written: {error.strerror or error}"
            ) from None
        raise
    for aside in kept.values():
        with suppress(OSError):
            aside.unlink()


class _Parts:
    """The open files of one query."""

    def __init__(
        self, files: ExitStack, query: Query, paths: PartPaths, info: AudioInfo, kind: OutputKind
    ) -> None:
        self.target_energy = self.residual_energy = 0.0
        self._files, self._paths, self._kind = files, paths, kind
        self._picture: Picture | None = None
        if paths.plot is not None:
            from singleout.extract.plotting import Picture

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
            from singleout.extract.plotting import print_png

            # Of the stack: it appears with all the others.
            partial = self._files.enter_context(replacing(self._paths.plot))
            print_png(self._picture.figure(), partial)


def _energy(block: NDArray[Any]) -> float:
    return float(np.square(block, dtype=np.float64).sum())
