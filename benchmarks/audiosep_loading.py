"""AudioSep's loader and mixer, from a checkout of its repository, for ``benchmarks.loading``.

Nothing of AudioSep is copied. Its modules need little of two packages, for which stand-ins serve.
Of torchaudio, ``load`` reads by soundfile, and ``functional.resample`` resamples by soxr. Of
pyloudnorm, nothing is used.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import soundfile
import soxr
import torch
from torch import Tensor

LOUDNESS_DB = (-10, 10)
"""Range of the level of the second sound in AudioSep's config."""
MAX_MIX_NUM = 2
"""Most sounds of a mixture in AudioSep's config."""


def _load(path: str, channels_first: bool = True) -> tuple[Tensor, int]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(audio.T if channels_first else audio), rate


def _resample(waveform: Tensor, orig_freq: int, new_freq: int) -> Tensor:
    return torch.from_numpy(soxr.resample(waveform.numpy(), orig_freq, new_freq))


def _add_stand_ins() -> None:
    torchaudio, functional = ModuleType("torchaudio"), ModuleType("torchaudio.functional")
    functional.resample = _resample  # type: ignore[attr-defined]
    torchaudio.load, torchaudio.functional = _load, functional  # type: ignore[attr-defined]
    sys.modules |= {
        "torchaudio": torchaudio,
        "torchaudio.functional": functional,
        "pyloudnorm": ModuleType("pyloudnorm"),
    }


class AudioSepLoading:
    """Batches of mixtures as AudioSep trains on them, in this process.

    Args:
        checkout: of https://github.com/Audio-AGI/AudioSep.
        recordings: folder of the sounds.
        work: folder for its list of sounds.
        seconds: length of a mixture, an integer.
        batch_size: mixtures in a batch.
    """

    def __init__(
        self, checkout: Path, recordings: Path, work: Path, seconds: float, batch_size: int
    ) -> None:
        _add_stand_ins()
        if str(checkout) not in sys.path:
            sys.path.insert(0, str(checkout))
        datasets = import_module("data.audiotext_dataset")
        modules = import_module("data.datamodules")
        mixers = import_module("data.waveform_mixers")
        rows = [{"wav": str(path), "caption": path.stem} for path in sorted(recordings.iterdir())]
        # A long list, so that an epoch has many batches.
        datafile = work / "audiosep.json"
        datafile.write_text(json.dumps({"data": rows * math.ceil(4_000 / len(rows))}))
        dataset = datasets.AudioTextDataset([str(datafile)], 32_000, int(seconds))
        self._module = modules.DataModule(dataset, batch_size, num_workers=0)
        self._module.setup()
        self._mixer: Any = mixers.SegmentMixer(MAX_MIX_NUM, *LOUDNESS_DB)
        self._batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self._module.train_dataloader()

    def take(self) -> int:
        """Load and mix one batch; the number of its mixtures."""
        waveforms = next(self._batches)["audio_text"]["waveform"]
        mixtures, _ = self._mixer(waveforms)
        return len(mixtures)
