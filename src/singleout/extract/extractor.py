"""The facade: a recording and a description to the described sound and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.audio import AudioReader, OutputFormat, open_audio
from singleout.encoders import QueryEncoder
from singleout.errors import ModelError, QueryError, SingleoutError, one_line
from singleout.extract.extraction import Extraction
from singleout.extract.outputs import FilesWanted, PartFiles, Written
from singleout.extract.sources import (
    Recording,
    gain_of,
    opened,
    refuse_channels,
    refuse_days,
)
from singleout.extract.streaming import parts
from singleout.manipulations import Members
from singleout.model import QueriedSeparator
from singleout.model.level_gate import GatedStream
from singleout.model.similarity import Presence
from singleout.types import Example, Query

NUM_CONDITIONS = 64

Asked = str | Path | Example | Query
"""What to single out; a ``Path`` is an ``Example``."""


class Extractor:
    """Singles out described sounds.

    Channels share one decision about what is the target, so that it stays where it was between
    them; on request each is separated on its own. However loud a target is,
    ``target + residual`` is the mixture within 1e-6 of full scale. What lies above the model's
    band (16 kHz for the model in the package) is never part of a target: it goes to the residual.
    Quieter recordings than those of its training the model hears louder (``quietest_db``).
    Digital silence gives a silent target. Several threads may use one extractor at once.

    Args:
        model: is put into evaluation mode.
        chunk_seconds: longer recordings are separated in chunks of this length, so that the
            memory is bounded; the result does not depend on it.
        device: of the separator, such as ``cuda`` or ``cpu``; ``auto`` is CUDA where there is any,
            None leaves the model where it is.
        gate: bring targets to the level of what is asked, and nearly to silence where it seems not
            to be there, if the model has learnt to (``model.level_gate``); without, they are as
            the separator gives them.

    Raises:
        ModelError: there is no such device.
    """

    def __init__(
        self,
        model: QueriedSeparator,
        chunk_seconds: float = 20.0,
        device: str | None = None,
        gate: bool = True,
    ) -> None:
        self.model = model.eval()
        self.chunk_seconds, self.gate = chunk_seconds, gate
        # A batch asks the same of every recording.
        self._condition = lru_cache(NUM_CONDITIONS)(self._embedded)
        if device is not None:
            self.model.separator.to(_device(device))  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        encoder: str | QueryEncoder | None = None,
        revision: str | None = None,
        *,
        device: str | None = "auto",
        gate: bool = True,
    ) -> Extractor:
        """With the model in the package, or another one.

        Args:
            name_or_path: of a model: a saved folder, a checkpoint of AudioSep's layout, or a hub
                id, ``owner/name`` or ``owner/name@revision``.
            encoder: the query encoder, or its name, where the model holds and names none: a CLAP's
                folder, hub id or LAION file.
            revision: of a hub id.
            device, gate: see ``Extractor``.

        Raises:
            ModelError: no such model, encoder or device, or its files are corrupt or of another
                architecture.
        """
        model = QueriedSeparator.from_pretrained(name_or_path, encoder, revision)
        return cls(model, device=device, gate=gate)

    def extract(
        self,
        audio: Recording,
        query: Asked,
        sample_rate: int | None = None,
        *,
        link_channels: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> Extraction:
        """What ``query`` describes, and the rest of ``audio``.

        The result is held in memory; ``extract_file`` writes recordings of any length.

        Args:
            audio: a path, or floats [samples] or [channels, samples] with full scale 1; an array
                is never changed.
            query: a description in words, an ``Example`` of its sound, or a ``Query`` of several of
                them, wanted and not.
            sample_rate: of an array, Hz. With a path it may be left out.
            link_channels: one mask for all channels; without, each channel has its own.
            progress: called with the share that is done after every chunk: 0 to the end where the
                length is unknown, 1 at the end.

        Returns:
            Target and residual, float32 [channels, samples], at the rate and length of the input.

        Raises:
            QueryError: the query is blank or too long, has negative prompts that the model does
                not take, or an example that is silent or long.
            AudioError: the audio cannot be read, is empty or not finite, or has an impossible
                shape or rate.
            ModelError: the model's output is not finite.
        """
        (extraction,) = self._extract_each(
            audio, [Query.of(query)], sample_rate, link_channels, progress
        )
        return extraction

    def extract_many(
        self,
        recordings: str | Path | Iterable[Recording],
        queries: Asked | Sequence[Asked],
        sample_rate: int | None = None,
        *,
        link_channels: bool = True,
        on_error: Callable[[Recording, SingleoutError], None] | None = None,
    ) -> Iterator[Extraction]:
        """Every query of every recording; the queries of a recording share the mixture's work.

        Args:
            recordings: paths, or arrays as in ``extract``; one is read at a time. A bare path is
                one recording.
            queries: one, or several.
            sample_rate: of arrays, Hz.
            link_channels: see ``extract``.
            on_error: told of a recording that cannot be used, and the others go on; without, the
                first such error ends it.

        Yields:
            In order, all queries of the first recording, then of the second, and so on.

        Raises:
            QueryError: see ``extract``.
            AudioError, ModelError: see ``extract``, without ``on_error``.
        """
        asked = _queries(queries)
        self.prepare(asked)  # what it cannot answer is no fault of the recordings
        several = [recordings] if isinstance(recordings, str | Path) else recordings
        for recording in several:
            try:
                found = self._extract_each(recording, asked, sample_rate, link_channels, None)
            except SingleoutError as error:
                if on_error is None:
                    raise
                on_error(recording, error)
            else:
                yield from found

    def prepare(self, queries: Asked | Sequence[Asked]) -> None:
        """Embed queries before they are asked, so that what cannot be answered is refused now.

        Raises:
            QueryError, AudioError: see ``extract``.
        """
        for query in _queries(queries):
            self._condition(query)

    def extract_file(
        self,
        path: str | Path,
        queries: Asked | Sequence[Asked],
        folder: str | Path = ".",
        *,
        name: str | None = None,
        format: OutputFormat = "auto",
        residual: bool = True,
        plot: bool = False,
        link_channels: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> list[Written]:
        """Write target and residual of every query as files, in memory that does not grow.

        Args:
            path: of the recording, of any length.
            queries: one, or several, which share the mixture's work.
            folder: of the files ``NAME.QUERY.target.EXT`` and ``NAME.QUERY.residual.EXT``, of the
                recording's own kind (see ``Extraction.save``).
            name: their first part; that of the recording by default.
            format: container of the files, instead of the recording's own.
            residual: whether to write it.
            plot: also draw the spectrograms as ``NAME.QUERY.png``.
            link_channels: see ``extract``.
            progress: see ``extract``.

        Returns:
            For every query, the files and their levels. All files appear at the end, or none.

        Raises:
            QueryError, AudioError, ModelError: see ``extract``; or the files cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        asked = _queries(queries)
        wanted = FilesWanted(Path(folder), format, residual, plot)
        path = Path(path)
        with open_audio(path) as reader:
            conditions, gated = self._conditions(asked, link_channels)
            blocks = self._blocks(reader, conditions, link_channels, progress, gated)
            files = PartFiles(wanted, name or path.stem, asked, reader.info, path)
            with files:
                for mixture, targets in blocks:
                    files.write(mixture, targets)
                presences = self._presences(gated, asked)
            return [
                written if presence is None else replace(written, presence=presence.probability)
                for written, presence in zip(files.written(), presences, strict=True)
            ]

    def extract_blocks(
        self,
        audio: Recording,
        queries: Asked | Sequence[Asked],
        sample_rate: int | None = None,
        *,
        link_channels: bool = True,
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """The recording block by block with the targets in it, as they come; of a model with a
        gate about ten seconds later.

        Yields:
            Mixture [channels, samples] (float64 where the file's samples need it) and float32
            targets [queries, channels, samples], at the recording's rate, gapless.

        Raises:
            QueryError, AudioError, ModelError: see ``extract``.
        """
        with opened(audio, sample_rate) as reader:
            conditions, gated = self._conditions(_queries(queries), link_channels)
            if gated is not None and gated.gate is None:
                gated = None  # nobody asks whether it is there
            yield from self._blocks(reader, conditions, link_channels, None, gated)

    def _extract_each(
        self,
        audio: Recording,
        queries: Sequence[Query],
        sample_rate: int | None,
        link_channels: bool,
        progress: Callable[[float], None] | None,
    ) -> list[Extraction]:
        source = Path(audio) if isinstance(audio, str | Path) else None
        with opened(audio, sample_rate) as reader:
            info = reader.info
            conditions, gated = self._conditions(queries, link_channels)
            blocks = list(self._blocks(reader, conditions, link_channels, progress, gated))
        mixture = np.concatenate([mixture for mixture, _ in blocks], axis=1)
        found = []
        presences = self._presences(gated, queries)
        for number, (query, presence) in enumerate(zip(queries, presences, strict=True)):
            target = np.concatenate([targets[number] for _, targets in blocks], axis=1)
            residual = (mixture - target).astype(np.float32, copy=False)
            of_file = None if source is None else info
            rate = info.sample_rate
            found.append(Extraction(target, residual, rate, query, source, of_file, presence))
        return found

    def _blocks(
        self,
        reader: AudioReader,
        conditions: Sequence[Members],
        link_channels: bool,
        progress: Callable[[float], None] | None,
        gated: GatedStream | None,
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """See ``parts``."""
        refuse_channels(reader)
        refuse_days(reader, reader.info.num_frames or 0)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        at_hand = [condition.to(device) for condition in conditions]
        gain = gain_of(reader, self.model.config.quietest_db)
        return self._followed(reader, at_hand, link_channels, progress, gated, gain)

    def _conditions(
        self, queries: Sequence[Query], link_channels: bool
    ) -> tuple[list[Members], GatedStream | None]:
        """Of all queries, before anything is read or written; and what listens for them, None where
        the model makes nothing of likeness."""
        conditions = [self._condition(query) for query in queries]
        config = self.model.config
        if config.presence is None and not (self.gate and config.gate is not None):
            return conditions, None
        return conditions, self.model.gated(conditions, self.gate, link_channels)

    def _presences(
        self, gated: GatedStream | None, queries: Sequence[Query]
    ) -> list[Presence | None]:
        """After all has been heard; None of a model that does not tell, of nothing heard, and of a
        query that only takes away: nothing is asked to be there."""
        calibration = self.model.config.presence
        if gated is None or calibration is None:
            return [None] * len(queries)
        listener = gated.listener
        return [
            Presence(
                float(calibration.probability(likeness)),
                calibration.probability(over_time),
                listener.frame_seconds,
            )
            if query.positive and over_time.size
            else None
            for query, likeness, over_time in zip(queries, *listener.finish(), strict=True)
        ]

    def _embedded(self, query: Query) -> Members:
        with torch.inference_mode():
            return self.model.embed(query)

    def _followed(
        self,
        reader: AudioReader,
        conditions: Sequence[Members],
        link_channels: bool,
        progress: Callable[[float], None] | None,
        gated: GatedStream | None,
        gain: float,
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """``parts`` with progress."""
        info, num_done, seconds = reader.info, 0, self.chunk_seconds
        found = parts(self.model, reader, conditions, seconds, link_channels, gated, gain)
        for part in found:
            num_done += part[0].shape[1]
            refuse_days(reader, num_done)
            yield part
            if progress is not None:
                progress(min(num_done / info.num_frames, 1.0) if info.num_frames else 0.0)
        if progress is not None:
            progress(1.0)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # whose message is a list of two dozen kinds
        raise ModelError(
            f"device '{name}' cannot be used: torch knows none of that name: try cpu"
        ) from None
    try:
        torch.zeros(1, device=device).cpu()  # it holds values, and gives them back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device '{name}' cannot be used: {one_line(error)}: try cpu") from None
    return device


def _queries(queries: Asked | Sequence[Asked]) -> list[Query]:
    asked = [queries] if isinstance(queries, str | Path | Example | Query) else list(queries)
    if not asked:
        raise QueryError("no query: describe a sound, such as 'a dog barking'")
    return [Query.of(query) for query in asked]
