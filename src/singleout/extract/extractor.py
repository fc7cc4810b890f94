"""``Extractor``: from a recording and a description to the described sound and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Unpack, overload

import numpy as np
import torch

from singleout.audio import Note, OutputFormat, log_notes, media_name, missing_seconds
from singleout.encoders import QueryEncoder
from singleout.errors import AudioError, SingleoutError
from singleout.extract.chunking import Block
from singleout.extract.device import find_device
from singleout.extract.extraction import Extraction
from singleout.extract.options import ExtractOptions, OptionChanges, OutputOptions
from singleout.extract.outputs import PartFiles, WrittenFiles
from singleout.extract.queries import AnyQuery, Conditions, queries_of
from singleout.extract.session import Session
from singleout.extract.sources import Recording, is_path_or_file, open_source, path_of, several
from singleout.model import QueriedSeparator
from singleout.storage.locations import Location
from singleout.types import Example, Query


class Extractor:
    """Extracts described sounds from recordings.

    However loud a target is, ``target + residual`` is the mixture within 1e-6 of full scale. Sound
    above the model's band (16 kHz for the model in the package) is never part of a target: it goes
    to the residual. Digital silence gives a silent target. Several threads may use one extractor.

    Args:
        model: is put into evaluation mode.
        device: of the separator, such as ``cuda`` or ``cpu``. ``auto`` is CUDA if there is one.
            None leaves the model where it is.
        **options: see ``ExtractOptions``; every method takes the same for a single call.

    Raises:
        ModelError: there is no such device.

    Example:
        >>> import numpy as np
        >>> from singleout import Extractor
        >>> extractor = Extractor.from_pretrained("builtin")
        >>> extractor
        Extractor(sample_rate=32000, device='cpu')
        >>> mixture = np.random.default_rng(0).normal(0, 0.1, (2, 48_000)).astype(np.float32)
        >>> extractor.extract(mixture, "a dog barking", sample_rate=48_000).target.shape
        (2, 48000)
    """

    def __init__(
        self,
        model: QueriedSeparator,
        *,
        device: str | None = None,
        **options: Unpack[OptionChanges],
    ) -> None:
        self.model = model.eval()
        self.options = ExtractOptions(**options)
        self._conditions = Conditions(self.model)
        if device is not None:
            self.to(device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        encoder: str | QueryEncoder | None = None,
        revision: str | None = None,
        *,
        device: str | None = "auto",
        **options: Unpack[OptionChanges],
    ) -> Extractor:
        """Load a model and make an extractor of it.

        Args:
            name_or_path: ``builtin`` (or None) for the model in the package; the folder of a saved
                model; a checkpoint of AudioSep's layout; or a hub id, ``owner/name`` or
                ``owner/name@revision``.
            encoder: the query encoder, or its name, where the model holds and names none: the
                folder, hub id or LAION file of a CLAP.
            revision: of a hub id.
            device, options: see ``Extractor``.

        Raises:
            ModelError: there is no such model, encoder or device, or the model is corrupt.

        Example:
            >>> from singleout import Extractor
            >>> Extractor.from_pretrained("builtin", device="cpu", chunk_seconds=5.0).sample_rate
            32000
        """
        model = QueriedSeparator.from_pretrained(name_or_path, encoder, revision)
        return cls(model, device=device, **options)

    @property
    def sample_rate(self) -> int:
        """Rate at which the model works, Hz. Recordings may have any rate."""
        return self.model.sample_rate

    @property
    def device(self) -> torch.device:
        """Device of the separator."""
        return next((p.device for p in self.model.separator.parameters()), torch.device("cpu"))

    def to(self, device: str) -> Extractor:
        """Move the separator to a device; ``auto`` is CUDA if there is one.

        Raises:
            ModelError: there is no such device.

        Example:
            >>> from singleout import Extractor
            >>> Extractor.from_pretrained().to("cpu").device
            device(type='cpu')
        """
        self.model.separator.to(find_device(device))
        return self

    def __repr__(self) -> str:
        return f"Extractor(sample_rate={self.sample_rate}, device='{self.device}')"

    @overload
    def extract(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        audio: Recording,
        query: AnyQuery,
        sample_rate: int | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        cancel: Event | None = None,
        **options: Unpack[OptionChanges],
    ) -> Extraction: ...

    @overload
    def extract(
        self,
        audio: Recording,
        query: Sequence[AnyQuery],
        sample_rate: int | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        cancel: Event | None = None,
        **options: Unpack[OptionChanges],
    ) -> list[Extraction]: ...

    def extract(
        self,
        audio: Recording,
        query: AnyQuery | Sequence[AnyQuery],
        sample_rate: int | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        cancel: Event | None = None,
        **options: Unpack[OptionChanges],
    ) -> Extraction | list[Extraction]:
        """Extract what a query describes; the result is held in memory.

        ``extract_file`` writes recordings of any length.

        Args:
            audio: a path; a binary file object; floats [samples] or [channels, samples] with full
                scale 1; or ``(array, rate)``. An array is never changed.
            query: a description, an ``Example`` of the sound, or a ``Query`` of several prompts.
                A sequence of these gives a list, and the queries share the work on the mixture.
            sample_rate: of an array, Hz. With a path it may be left out.
            progress: called after every chunk with the share that is done, 0 to 1. Where the
                length is unknown the share is 0 until the end.
            cancel: an event that stops the work before the next chunk.
            **options: see ``ExtractOptions``.

        Returns:
            Target and residual, float32 [channels, samples], at the rate and length of the input.

        Raises:
            QueryError: the query is blank or too long, has negative prompts that the model does
                not take, or an example that is silent or long.
            AudioError: the audio cannot be read, is empty or not finite, or has an impossible
                shape or rate.
            ModelError: the output of the model is not finite.
            Cancelled: ``cancel`` was set.

        Example:
            >>> import numpy as np
            >>> from singleout import Extractor
            >>> extractor = Extractor.from_pretrained()
            >>> audio = (np.zeros(16_000, np.float32), 16_000)
            >>> [result.target.shape for result in extractor.extract(audio, ["a dog", "rain"])]
            [(1, 16000), (1, 16000)]
        """
        queries = queries_of(query)
        changed = replace(self.options, **options)
        results = self._extract_all(audio, queries, sample_rate, changed, progress, cancel)
        return results[0] if isinstance(query, str | Path | Example | Query) else results

    def extract_many(
        self,
        recordings: Recording | Iterable[Recording],
        queries: AnyQuery | Sequence[AnyQuery],
        sample_rate: int | None = None,
        *,
        on_error: Callable[[Recording, SingleoutError], None] | None = None,
        **options: Unpack[OptionChanges],
    ) -> Iterator[Extraction]:
        """Extract every query from every recording.

        Args:
            recordings: one as in ``extract``, or several; one is read at a time.
            queries: one or several, which share the work on a mixture.
            sample_rate: of arrays, Hz.
            on_error: called with a recording that cannot be used; the others follow. Without it,
                the first such error ends the iteration.
            **options: see ``ExtractOptions``.

        Yields:
            All queries of the first recording, then of the second, and so on.

        Raises:
            QueryError, AudioError, ModelError: see ``extract`` and ``on_error``.

        Example:
            >>> import numpy as np
            >>> from singleout import Extractor
            >>> extractor = Extractor.from_pretrained()
            >>> clips = [(np.zeros(8_000, np.float32), 16_000) for _ in range(2)]
            >>> len(list(extractor.extract_many(clips, "rain")))
            2
        """
        prompts = queries_of(queries)
        changed = replace(self.options, **options)
        self._conditions.of(
            prompts, changed.strict
        )  # a query that fails is not the fault of a recording
        for recording in several(recordings):
            try:
                results = self._extract_all(recording, prompts, sample_rate, changed, None, None)
            except SingleoutError as error:
                if on_error is None:
                    raise
                on_error(recording, error)
            else:
                yield from results

    def prepare(self, queries: AnyQuery | Sequence[AnyQuery]) -> None:
        """Embed queries ahead of time, so that an unusable query is refused at once."""
        self._conditions.of(queries_of(queries), self.options.strict)

    def extract_file(
        self,
        path: str | Path | BinaryIO | Location,
        queries: AnyQuery | Sequence[AnyQuery],
        folder: str | Path = ".",
        *,
        name: str | None = None,
        format: OutputFormat = "auto",
        residual: bool = True,
        plot: bool = False,
        progress: Callable[[float], None] | None = None,
        cancel: Event | None = None,
        **options: Unpack[OptionChanges],
    ) -> list[WrittenFiles]:
        """Write target and residual of every query as files, in memory that does not grow.

        Args:
            path: of the recording, of any length; a binary file object; or a ``Location``.
            queries: one or several, which share the work on the mixture.
            folder: of the files ``NAME.QUERY.target.EXT`` and ``NAME.QUERY.residual.EXT``.
            name: first part of their names; that of the recording by default, or ``audio``.
            format: container of the files. ``auto`` is that of the recording, where it can hold
                them.
            residual: write the residual.
            plot: draw the spectrograms as ``NAME.QUERY.png``.
            progress, cancel: see ``extract``.
            **options: see ``ExtractOptions``.

        Returns:
            For every query, the files and their levels. All files appear at the end, or none.

        Raises:
            QueryError, AudioError, ModelError, Cancelled: see ``extract``.
            OutputError: the files cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        prompts = queries_of(queries)
        changed = replace(self.options, **options)
        outputs = OutputOptions(Path(folder), format, residual, plot)
        if not is_path_or_file(path):
            kind = type(path).__name__
            raise AudioError(f"extract_file takes a path or a file object, not {kind}: use extract")
        name = name or Path(media_name(path)).stem
        with open_source(path, None, changed, cancel) as reader:
            conditions = self._conditions.of(prompts, changed.strict)
            session = Session(self.model, reader, conditions, changed, cancel)
            files = PartFiles(outputs, name, prompts, reader.info, path_of(path))
            with files:
                for block in session.blocks(progress):
                    files.write(*block)
                presences = session.presences()
            log_notes(files.notes)
            noted = _noted([*reader.notes, *files.notes])
            return [
                replace(
                    written, presence=None if presence is None else presence.probability, **noted
                )
                for written, presence in zip(files.written(), presences, strict=True)
            ]

    def extract_blocks(
        self,
        audio: Recording,
        queries: AnyQuery | Sequence[AnyQuery],
        sample_rate: int | None = None,
        *,
        cancel: Event | None = None,
        **options: Unpack[OptionChanges],
    ) -> Iterator[Block]:
        """Extract a recording block by block, as its targets become known.

        Targets of a model with a gate become known about ten seconds later than without.

        Args:
            audio, queries, sample_rate, cancel, options: see ``extract``.

        Yields:
            ``(mixture, targets)``: the mixture [channels, samples] (float64 where the samples of a
            file need it), and float32 targets [queries, channels, samples], at the rate of the
            recording. Together the blocks are the whole recording.

        Raises:
            QueryError, AudioError, ModelError, Cancelled: see ``extract``.

        Example:
            >>> import numpy as np
            >>> from singleout import Extractor
            >>> audio = (np.zeros(16_000, np.float32), 16_000)
            >>> blocks = Extractor.from_pretrained().extract_blocks(audio, "rain")
            >>> sum(mixture.shape[1] for mixture, targets in blocks)
            16000
        """
        prompts = queries_of(queries)
        changed = replace(self.options, **options)
        with open_source(audio, sample_rate, changed, cancel) as reader:
            conditions = self._conditions.of(prompts, changed.strict)
            session = Session(self.model, reader, conditions, changed, cancel, measure=False)
            yield from session.blocks()

    def _extract_all(
        self,
        audio: Recording,
        queries: Sequence[Query],
        sample_rate: int | None,
        options: ExtractOptions,
        progress: Callable[[float], None] | None,
        cancel: Event | None,
    ) -> list[Extraction]:
        with open_source(audio, sample_rate, options, cancel) as reader:
            info = reader.info
            conditions = self._conditions.of(queries, options.strict)
            session = Session(self.model, reader, conditions, options, cancel)
            blocks = list(session.blocks(progress))
        mixture = np.concatenate([block.mixture for block in blocks], axis=1)
        source = path_of(audio)
        results = []
        for number, (query, presence) in enumerate(zip(queries, session.presences(), strict=True)):
            target = np.concatenate([block.targets[number] for block in blocks], axis=1)
            residual = (mixture - target).astype(np.float32, copy=False)
            results.append(
                Extraction(
                    target=target,
                    residual=residual,
                    sample_rate=info.sample_rate,
                    query=query,
                    source=source,
                    info=None if source is None else info,
                    presence=presence,
                    **_noted(reader.notes),
                )
            )
        return results


def _noted(notes: Sequence[Note]) -> dict[str, Any]:
    """Notes as fields of a result."""
    warnings = tuple(note.text for note in notes)
    return {"warnings": warnings, "missing_seconds": missing_seconds(notes)}
