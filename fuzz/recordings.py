"""Readers of recordings."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz import media, mutation, packages
from fuzz.target import Files, Target
from singleout.audio import open_audio, sources
from singleout.audio.ffmpeg.blocks import BlockReader
from singleout.audio.ffmpeg.process import decode
from singleout.errors import AudioError

MAX_SAMPLES = 3_000_000
"""Reading stops after this many samples: a long recording is not a finding."""


class Sndfile(Target):
    """Recordings, through libsndfile alone."""

    name = "sndfile"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        self.seeds = media.sndfile_seeds() + (packages.odd_files() if with_packages else [])
        # FFmpeg needs a process for each file, and has a target of its own.
        setattr(sources, "Decoder", _not_by_ffmpeg)  # noqa: B010

    def make(self, random: Random) -> Files:
        return {"input": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        _check_recording(folder / "input")


def _not_by_ffmpeg(*_: Any, **__: Any) -> Any:
    raise AudioError("libsndfile does not read this file")


def _check_recording(path: Path) -> None:
    num_samples = 0
    with open_audio(path) as reader:
        info = reader.info
        for block in reader.blocks():
            assert block.ndim == 2, "a block has not two dimensions"
            assert block.shape[0] == info.channels, "a block has other channels than stated"
            assert block.dtype == info.dtype, "a block has another type than stated"
            assert block.shape[1], "an empty block"
            assert np.isfinite(block).all(), "samples that are not finite"
            num_samples += block.size
            if num_samples > MAX_SAMPLES:
                return
        for note in reader.notes:
            assert "\n" not in note.text, "a note of several lines"
            assert len(note.text) <= 2_000, "a long note"


class _Pipe(io.BytesIO):
    """Takes what FFmpeg decodes, and breaks where a recording is long."""

    def write(self, data: Any) -> int:
        if self.tell() > 4 * MAX_SAMPLES:
            raise BrokenPipeError
        return super().write(data)


class Ffmpeg(Target):
    """Recordings, through FFmpeg in this process. One in 500 goes through the whole reader."""

    name = "ffmpeg"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        self.seeds = media.ffmpeg_seeds() + (packages.odd_files() if with_packages else [])
        self.count = 0

    def make(self, random: Random) -> Files:
        return {"input": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        self.count += 1
        if self.count % 500 == 0:
            _check_recording(folder / "input")
            return
        pipe = _Pipe()
        try:
            decode(str(folder / "input"), pipe)
        except BrokenPipeError:
            return
        pipe.seek(0)
        _check_decoded(pipe)


def _check_decoded(pipe: io.BytesIO) -> None:
    """Check what the process of a decoder would send to the program."""
    try:
        reader = BlockReader(pipe)
        while (block := reader.read()).size:
            assert block.shape[0] == reader.info.channels, "a block has other channels than stated"
    except AudioError as error:
        # The process turns every failure of its program into this message.
        if "its decoder failed" in str(error):
            raise AssertionError(f"decoder: {str(error)[:60]}") from None
        raise
