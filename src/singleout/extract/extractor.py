"""The facade: a recording and a description to the described sound and the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from singleout.audio import read_audio, resample
from singleout.errors import AudioError, ModelError
from singleout.extract.chunking import separate
from singleout.model import QueriedSeparator
from singleout.query import QueryEncoder
from singleout.types import Extraction, Query

MAX_CHANNELS = 64
MAX_HOURS = 24


class Extractor:
    """Singles out described sounds.

    Channels share one decision about what is the target, so that it stays where it was between
    them; on request each is separated on its own. Nothing is rescaled:
    ``target + residual`` is the mixture within 1e-6 of full scale. What lies above the model's
    band (16 kHz for the model in the package) is never part of a target: it goes to the residual.
    Digital silence gives a silent target.

    Args:
        model: is put into evaluation mode.
        chunk_seconds: longer recordings are separated in chunks of this length, so that the
            network's memory is bounded; the result does not depend on it.
    """

    def __init__(self, model: QueriedSeparator, chunk_seconds: float = 20.0) -> None:
        self.model = model.eval()
        self.chunk_seconds = chunk_seconds

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        encoder: str | QueryEncoder | None = None,
        revision: str | None = None,
    ) -> Extractor:
        """With the model in the package, or another one.

        Args:
            name_or_path: of a model: a saved folder, a checkpoint of AudioSep's layout, or a hub
                id, ``owner/name`` or ``owner/name@revision``.
            encoder: the query encoder, or its name, where the model holds and names none: a CLAP's
                folder, hub id or LAION file.
            revision: of a hub id.

        Raises:
            ModelError: no such model or encoder, or its files are corrupt or of another
                architecture.
        """
        return cls(QueriedSeparator.from_pretrained(name_or_path, encoder, revision))

    def extract(
        self,
        audio: str | Path | ArrayLike,
        query: str | Query,
        sample_rate: int | None = None,
        *,
        link_channels: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> Extraction:
        """What ``query`` describes, and the rest of ``audio``.

        Args:
            audio: a path, or floats [samples] or [channels, samples] with full scale 1; an array
                is never changed.
            query: a description in words.
            sample_rate: of an array, Hz. With a path it may be left out.
            link_channels: one mask for all channels; without, each channel has its own.
            progress: called with the share that is done, in (0, 1], after every chunk.

        Returns:
            Target and residual, float32 [channels, samples], at the rate and length of the input.

        Raises:
            QueryError: the query is blank or too long, or has negative prompts.
            AudioError: the audio cannot be read, is empty or not finite, or has an impossible
                shape or rate.
            ModelError: the model's output is not finite.
        """
        query = Query.of(query)
        if isinstance(audio, str | Path):
            mixture, rate = _from_file(audio, sample_rate)
        else:
            mixture, rate = _from_array(audio, sample_rate)
        _refuse_days(mixture.shape[1], rate)
        with torch.inference_mode():
            condition = self.model.embed(query)
            device = next((p.device for p in self.model.parameters()), condition.device)
            condition = condition.to(device)
            target = np.empty_like(mixture)
            # A batch of channels is no faster on a CPU and takes their number times the memory.
            parts = [mixture] if link_channels else np.split(mixture, len(mixture))
            start = 0
            for number, part in enumerate(parts):
                target[start : start + len(part)] = self._target(
                    part, rate, condition, _part_of(progress, number, len(parts))
                )
                start += len(part)
        return Extraction(target, mixture - target, rate, query)

    def _target(
        self,
        mixture: NDArray[np.float32],
        rate: int,
        condition: Tensor,
        progress: Callable[[float], None] | None,
    ) -> NDArray[np.float32]:
        """The target in channels that share a mask, [channels, samples] like ``mixture``."""
        model_rate = self.model.sample_rate
        at_model_rate = _with_length(
            resample(mixture, rate, model_rate),
            max(1, round(mixture.shape[1] * model_rate / rate)),
        )
        chunk_samples = max(1, round(self.chunk_seconds * model_rate))
        found = separate(self.model.separator, at_model_rate, condition, chunk_samples, progress)
        if not np.isfinite(found).all():
            peak = float(np.abs(mixture).max())
            raise ModelError(
                "the model's output is not finite: its weights are damaged, or the recording is "
                f"far beyond full scale (its peak is {peak:.3g})"
            )
        return _with_length(resample(found, model_rate, rate), mixture.shape[1])


def _part_of(
    progress: Callable[[float], None] | None, number: int, count: int
) -> Callable[[float], None] | None:
    """Progress of part ``number`` of ``count`` equal ones, told as progress of all."""
    return None if progress is None else lambda share: progress((number + share) / count)


def _from_file(path: str | Path, sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
    audio, rate = read_audio(path)
    if sample_rate is not None and sample_rate != rate:
        raise AudioError(
            f"{path}: its sample rate is {rate} Hz, not {sample_rate}: leave sample_rate out"
        )
    return audio, rate


def _from_array(audio: ArrayLike, sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
    """Checked float32 [channels, samples], which may share memory with ``audio``, and the rate."""
    if sample_rate is None:
        raise AudioError("an array does not tell its rate: give sample_rate in Hz")
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if rate != sample_rate:
        raise AudioError(f"sample rate {sample_rate!r} is not a whole number of Hz")
    if rate <= 0:
        raise AudioError(f"sample rate {rate} Hz is impossible: it must be positive")
    try:
        array = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"audio is not an array of samples: {error}") from None
    if array.dtype.kind != "f":
        raise AudioError(
            f"audio must be floats with full scale 1, not {array.dtype}: "
            "divide integer samples by their full scale first"
        )
    if array.ndim not in (1, 2):
        raise AudioError(
            f"audio must be [samples] or [channels, samples], got the shape {list(array.shape)}"
        )
    if array.size == 0:
        raise AudioError("audio has no samples")
    with np.errstate(over="ignore"):
        mixture = np.atleast_2d(np.ascontiguousarray(array, dtype=np.float32))
    if len(mixture) > MAX_CHANNELS:
        raise AudioError(
            f"audio has {len(mixture)} channels, the limit is {MAX_CHANNELS}: "
            "its shape must be [channels, samples]; transpose it?"
        )
    if not np.isfinite(mixture).all():
        raise AudioError("audio has NaN or infinite samples")
    return mixture, rate


def _refuse_days(num_samples: int, rate: int) -> None:
    """A wrong rate in a header would otherwise fill the memory after resampling."""
    hours = num_samples / rate / 3600
    if hours > MAX_HOURS:
        raise AudioError(
            f"the audio lasts {hours:,.0f} hours at {rate} Hz, the limit is {MAX_HOURS}: "
            "is its sample rate right?"
        )


def _with_length(audio: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """[channels, samples] cut, or filled with zeros, at the end."""
    missing = max(0, num_samples - audio.shape[1])
    return np.pad(audio, ((0, 0), (0, missing)))[:, :num_samples]
