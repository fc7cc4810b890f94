"""``Benchmark``: a set of items, a sample rate and an aggregation."""

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
    """The samples of an item at the benchmark's rate.

    Attributes:
        mixture: float32 [samples].
        target: float32 [samples]; None where the target is not published.

    Example:
        >>> Signals(np.zeros(16_000, np.float32), target=None).mixture.shape
        (16000,)
    """

    mixture: NDArray[np.float32]
    target: NDArray[np.float32] | None


@dataclass(frozen=True)
class Item:
    """One mixture and one query.

    Attributes:
        origin: where the item is defined, such as ``esc50_eval.csv:17``.
        caption: the query.
        label: class by which the aggregation groups items; empty where it does not.
        target: name of the target's recording. Items of one recording are not independent.
        interference: names of the other recordings.
        files: must exist and agree in rate and length. Empty if they are checked elsewhere.
        load: from the sample rate, Hz, to the signals.
        is_absent: whether the caption describes no sound of the mixture.

    Example:
        >>> path = Path("mixture.wav")
        >>> item = Item(
        ...     origin="queries.csv:2",
        ...     caption="a dog",
        ...     label="",
        ...     target="dog.wav",
        ...     interference=("rain.wav",),
        ...     files=(path,),
        ...     load=lambda sample_rate: load_rendered(path, None, sample_rate),
        ... )
        >>> item.is_absent
        False
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
class Benchmark:
    """A benchmark.

    Attributes:
        name: of the registry and on the command line.
        sample_rate: at which signals are mixed and scored, Hz.
        num_items: number of published items; None if it is not known.
        aggregation: from the scores of the items to the number that is reported.
        read: reads the items from the folder (or manifest) that ``--data`` names.
        published: published scores of other systems, by system and by key of the rows of a run.
        lists_labels: whether results list the scores of each label.

    Example:
        >>> from singleout.evaluate.benchmarks import load_benchmark
        >>> load_benchmark("audiocaps").published
        {'AudioSep': {'sdri_db': 8.22, 'si_sdr_db': 7.189}}
    """

    name: str
    sample_rate: int
    num_items: int | None
    aggregation: Aggregation
    read: Callable[[Path], list[Item]]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lists_labels: bool = False

    def items(self, data: Path, is_partial: bool = False) -> tuple[list[Item], list[Path]]:
        """Read the items and check their files.

        Args:
            data: folder of the set; for ``mix`` a manifest.
            is_partial: accept a set that has another number of items than was published. Items
                whose files are missing are then left out.

        Returns:
            The items, and the files that are missing.

        Raises:
            ManifestError: the tables are missing or malformed; or the set is incomplete and
                ``is_partial`` is false; or no items are left.
            AudioError: a file is no audio, or the files of an item differ in rate or length.

        Example:
            >>> from singleout.evaluate.benchmarks import load_benchmark
            >>> from singleout.errors import ManifestError
            >>> try:
            ...     load_benchmark("esc50").items(Path("missing"))
            ... except ManifestError as error:
            ...     print(error)
            missing: is not a folder
        """
        items = self.read(data)
        if not is_partial and self.num_items not in (None, len(items)):
            raise ManifestError(
                f"{self.name}: {data} has {len(items):,} items, {self.num_items:,} were published: "
                "use --partial to score an incomplete set"
            )
        complete: list[Item] = []
        missing: dict[Path, None] = {}
        for item in track(items, "checking files", len(items)):
            absent = [path for path in item.files if not path.is_file()]
            missing.update(dict.fromkeys(absent))
            if not absent:
                _check_formats(item)
                complete.append(item)
        if missing and (not is_partial or not complete):
            num_incomplete = len(items) - len(complete)
            raise ManifestError(
                f"{self.name}: {len(missing):,} files of {num_incomplete:,} of {len(items):,} "
                f"items are missing, the first is {next(iter(missing))}"
                + (": use --partial to score the other items" if complete else "")
            )
        return complete, list(missing)


def read_mono(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read a whole file, with its channels averaged.

    Args:
        path: of a recording.
        sample_rate: of the result, Hz.

    Returns:
        float32 [samples].

    Raises:
        AudioError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "stereo.wav"
        ...     write_wav(path, np.zeros((2, 8_000), np.float32), 8_000)
        ...     read_mono(path, 16_000).shape
        (16000,)
    """
    audio, rate = read_audio(path, strict=True)
    return resample(audio.mean(0), rate, sample_rate)


def load_rendered(mixture: Path, target: Path | None, sample_rate: int) -> Signals:
    """Load an item whose mixture is published as a file.

    Args:
        mixture, target: files; no target where it is not published.
        sample_rate: of the result, Hz.

    Raises:
        AudioError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mixture.wav"
        ...     write_wav(path, np.zeros((1, 8_000), np.float32), 8_000)
        ...     signals = load_rendered(path, None, 8_000)
        >>> signals.target is None
        True
    """
    return Signals(
        read_mono(mixture, sample_rate), None if target is None else read_mono(target, sample_rate)
    )


def mix(
    target: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float, peak: float = 0.9
) -> Signals:
    """Add noise to a target at a signal-to-noise ratio by mean power.

    Mixture and target are scaled to ``peak`` if the mixture exceeds full scale.

    Args:
        target, noise: float32 [samples].
        snr_db: level of the target over the noise, dB.
        peak: of a mixture that would exceed full scale.

    Raises:
        InputError: target or noise is silent, so that no gain gives the SNR.

    Example:
        >>> target, noise = np.float32([0.2, -0.2]), np.float32([0.1, 0.1])
        >>> mix(target, noise, snr_db=0.0).mixture
        array([0.4, 0. ], dtype=float32)
    """
    powers = [float(np.square(signal, dtype=np.float64).mean()) for signal in (target, noise)]
    if not all(powers):
        raise InputError(f"the {'noise' if powers[0] else 'target'} is silent: it has no SNR")
    gain = np.sqrt(powers[0] / powers[1]) * 10 ** (-snr_db / 20)
    mixture = target + np.float32(gain) * noise
    highest = float(np.abs(mixture).max())
    scale = np.float32(peak / highest if highest > 1 else 1)
    return Signals(scale * mixture, scale * target)


def file_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The last parts of paths, as a table writes them.

    Example:
        >>> file_names(["data/dog.wav", "rain.wav"])
        ('dog.wav', 'rain.wav')
    """
    return tuple(path.rsplit("/", 1)[-1] for path in paths)


def _check_formats(item: Item) -> None:
    formats = [_format(path) for path in item.files]
    if len(set(formats)) > 1:
        described = ", ".join(
            f"{path} has {frames:,} samples at {rate} Hz"
            for path, (frames, rate) in zip(item.files, formats, strict=True)
        )
        raise AudioError(
            f"{item.origin}: a mixture and its sources must have the same length and rate: "
            f"{described}"
        )


@lru_cache(maxsize=1 << 14)
def _format(path: Path) -> tuple[int, int]:
    """Samples per channel and rate, from the header."""
    try:
        info = soundfile.info(sndfile_name(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as audio: {error}") from None
    return info.frames, info.samplerate
