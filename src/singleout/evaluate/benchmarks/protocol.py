"""What a benchmark is: items, a rate, an aggregation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio import read_audio, resample, sndfile_name
from singleout.errors import AudioError, InputError, ManifestError
from singleout.evaluate.benchmarks.aggregation import Aggregation
from singleout.progress import track


class Signals(NamedTuple):
    """Float32 [samples] each, at the protocol's rate; no target where none was published."""

    mixture: NDArray[np.float32]
    target: NDArray[np.float32] | None


@dataclass(frozen=True)
class Item:
    """One mixture and what is asked of it.

    Attributes:
        origin: where it is written down, such as ``esc50_eval.csv:17``.
        caption: the query.
        label: what the aggregation groups by; empty where it does not.
        target: name of the target's recording: items that share one are not independent.
        interference: names of the other recordings.
        files: must exist and agree in rate and length; empty if someone else has seen to that.
        load: from the rate to score at, Hz, to the signals.
        is_absent: whether the caption describes nothing in the mixture.
    """

    origin: str
    caption: str
    label: str
    target: str
    interference: tuple[str, ...]
    files: tuple[Path, ...]
    load: Callable[[int], Signals]
    is_absent: bool = False


@dataclass(frozen=True)
class Protocol:
    """A benchmark.

    Attributes:
        name: on the command line.
        sample_rate: at which signals are mixed and scored, Hz.
        num_items: how many it has as published; None if that is not known.
        aggregation: from the scores of the items to the number that is reported.
        read: from what ``--data`` names to the items.
        published: per system its published scores, keyed like the rows of a run.
        lists_labels: whether results list each label on its own.
    """

    name: str
    sample_rate: int
    num_items: int | None
    aggregation: Aggregation
    read: Callable[[Path], list[Item]]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lists_labels: bool = False

    def items(self, data: Path, is_partial: bool = False) -> tuple[list[Item], list[Path]]:
        """The items, all of whose files were looked at, and the files that are missing.

        Args:
            data: folder of the set; the manifest of `mixing`.
            is_partial: whether it may have another number of items than was published, and items
                whose files are missing, which are then left out.

        Raises:
            ManifestError: the tables are missing or malformed; or the set is not whole and
                ``is_partial`` is false; or no items are left.
            AudioError: a file is no audio, or the files of an item differ in rate or length.
        """
        items = self.read(data)
        if not is_partial and self.num_items not in (None, len(items)):
            raise ManifestError(
                f"{self.name}: {data} has {len(items):,} items, {self.num_items:,} were published: "
                "--partial scores what is there"
            )
        there: list[Item] = []
        missing: dict[Path, None] = {}
        for item in track(items, "checking files", len(items)):
            absent = [path for path in item.files if not path.is_file()]
            missing.update(dict.fromkeys(absent))
            if not absent:
                _check_alike(item)
                there.append(item)
        if missing and (not is_partial or not there):
            left_out = len(items) - len(there)
            raise ManifestError(
                f"{self.name}: {len(missing):,} files of {left_out:,} of {len(items):,} items are "
                f"missing, the first is {next(iter(missing))}"
                + (": --partial scores the other items" if there else "")
            )
        return there, list(missing)


def read_mono(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """A whole file as float32 [samples] at ``sample_rate`` Hz, channels averaged.

    Raises:
        AudioError: see `read_audio`.
    """
    audio, rate = read_audio(path)
    return resample(audio.mean(0), rate, sample_rate)


def load_rendered(mixture: Path, target: Path | None, sample_rate: int) -> Signals:
    """Signals whose mixture was published as a file."""
    return Signals(
        read_mono(mixture, sample_rate), None if target is None else read_mono(target, sample_rate)
    )


def mix(
    target: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float, peak: float = 0.9
) -> Signals:
    """Target + noise at an SNR by mean power, both scaled to ``peak`` if they exceed full scale.

    Raises:
        InputError: one of them is silent, so that no gain gives the SNR.
    """
    powers = [float(np.square(signal, dtype=np.float64).mean()) for signal in (target, noise)]
    if not all(powers):
        raise InputError(f"the {'noise' if powers[0] else 'target'} is silent: it has no SNR")
    gain = np.sqrt(powers[0] / powers[1]) * 10 ** (-snr_db / 20)
    mixture = target + np.float32(gain) * noise
    highest = float(np.abs(mixture).max())
    scale = np.float32(peak / highest if highest > 1 else 1)
    return Signals(scale * mixture, scale * target)


def names(paths: Sequence[str]) -> tuple[str, ...]:
    """The last parts of paths as written in a table."""
    return tuple(path.rsplit("/", 1)[-1] for path in paths)


def _check_alike(item: Item) -> None:
    formats = [_format(path) for path in item.files]
    if len(set(formats)) > 1:
        described = ", ".join(
            f"{path} has {frames:,} samples at {rate} Hz"
            for path, (frames, rate) in zip(item.files, formats, strict=True)
        )
        raise AudioError(f"{item.origin}: a mixture and its sources must be alike: {described}")


@lru_cache(maxsize=1 << 14)
def _format(path: Path) -> tuple[int, int]:
    """Samples per channel and rate, from the header."""
    try:
        info = soundfile.info(sndfile_name(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as audio: {error}") from None
    return info.frames, info.samplerate
