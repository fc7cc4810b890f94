"""One recording and its queries, from its first block to its presence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event

import torch

from singleout.audio import AudioReader, log_notes
from singleout.condition import Condition
from singleout.extract.chunking import Block
from singleout.extract.options import ExtractOptions
from singleout.extract.pipeline import Pipeline
from singleout.extract.sources import input_gain, refuse_days
from singleout.model import QueriedSeparator
from singleout.model.level_gate import LevelGate
from singleout.model.similarity import Presence


class Session:
    """Reads a recording, pushes it through the pipeline, and tells the presence at the end.

    Args:
        model: in evaluation mode.
        reader: of the recording.
        conditions: one per query, [1, parts, dim].
        options: see ``ExtractOptions``.
        cancel: stops the work before the next chunk.
        measure: measure the targets for their presence even where no level is set.

    Raises:
        AudioError: the recording cannot be read.
        Cancelled: ``cancel`` is set.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> from singleout.extract.sources import open_source
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> with torch.inference_mode():
        ...     conditions = [model.embed(Query("rain"))]
        >>> with open_source((np.zeros(8_000, np.float32), 16_000)) as reader:
        ...     session = Session(model, reader, conditions, ExtractOptions())
        ...     sum(block.mixture.shape[1] for block in session.blocks())
        8000
    """

    def __init__(
        self,
        model: QueriedSeparator,
        reader: AudioReader,
        conditions: Sequence[Condition],
        options: ExtractOptions,
        cancel: Event | None = None,
        measure: bool = True,
    ) -> None:
        self._reader, self._options, self._config = reader, options, model.config
        self._conditions = list(conditions)
        self._gate: LevelGate | None = None
        is_gated = options.gate and model.config.gate is not None
        if is_gated or (measure and model.config.presence is not None):
            self._gate = model.level_gate(conditions, options.gate, options.link_channels)
        parameters = model.separator.parameters()
        device = next((parameter.device for parameter in parameters), torch.device("cpu"))
        self._pipeline = Pipeline(
            model,
            [condition.to(device) for condition in conditions],
            reader.info.sample_rate,
            reader.info.channels,
            options,
            gate=self._gate,
            gain=input_gain(reader, model.config.quietest_db, cancel),
            name=reader.name,
            cancel=cancel,
        )

    def blocks(self, progress: Callable[[float], None] | None = None) -> Iterator[Block]:
        """The recording with its targets, block by block, none of them empty.

        The notes of the reader are logged after the last block.

        Args:
            progress: called after every block with the share that is done, 0 to 1.
        """
        info, num_done = self._reader.info, 0
        piece = max(1, round(self._options.chunk_seconds * info.sample_rate))
        for samples in self._reader.blocks():
            for start in range(0, samples.shape[1], piece):
                block = self._pipeline.push(samples[:, start : start + piece])
                num_done += block.mixture.shape[1]
                refuse_days(self._reader, num_done)
                if not block.mixture.shape[1]:
                    continue
                yield block
                if progress is not None:
                    progress(min(num_done / info.num_frames, 1.0) if info.num_frames else 0.0)
        rest = self._pipeline.finish()
        if rest.mixture.shape[1]:
            yield rest
        log_notes(self._reader.notes)
        if progress is not None:
            progress(1.0)

    def presences(self) -> list[Presence | None]:
        """After the last block: one per query; None where the model gives none.

        A recording too short to measure has none, and neither has a query that only removes a
        sound: nothing is expected to be present then.
        """
        calibration = self._config.presence
        if self._gate is None or calibration is None:
            return [None] * len(self._conditions)
        meter = self._gate.meter
        return [
            Presence(
                float(calibration.probability(overall)),
                calibration.probability(over_time),
                meter.frame_seconds,
            )
            if condition.has_positive and over_time.size
            else None
            for condition, overall, over_time in zip(self._conditions, *meter.finish(), strict=True)
        ]
