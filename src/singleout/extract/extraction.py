"""What comes back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputFormat
from singleout.extract.outputs import FilesWanted, PartFiles, Written
from singleout.model.similarity import Presence
from singleout.types import Query

BLOCK_FRAMES = 1 << 18
PLAYER_SECONDS = 60
"""What a notebook gets of longer recordings: their sound becomes part of the notebook."""


@dataclass(frozen=True)
class Extraction:
    """The described sound and the rest; ``target + residual`` is the mixture, within 1e-6.

    Attributes:
        target: float32 [channels, samples] at the rate and length of the input.
        residual: float32 [channels, samples], all that is not target, including everything
            above the model's band.
        sample_rate: Hz.
        query: what was asked.
        source: the recording's path; None for an array.
        info: what the recording's file is; files of the parts are of its kind.
        heard: what the model says of the sound's presence; None of a model that does not tell.
    """

    target: NDArray[np.float32]
    residual: NDArray[np.float32]
    sample_rate: int
    query: Query
    source: Path | None = None
    info: AudioInfo | None = None
    heard: Presence | None = None

    @property
    def presence(self) -> float | None:
        """Calibrated probability that the sound is in the recording; None if the model does not
        tell."""
        return None if self.heard is None else self.heard.probability

    @property
    def presence_over_time(self) -> NDArray[np.float32] | None:
        """The same for each frame, float32 [frames], ``heard.frame_seconds`` apart."""
        return None if self.heard is None else self.heard.over_time

    def save(
        self,
        folder: str | Path = ".",
        name: str | None = None,
        *,
        residual: bool = True,
        format: OutputFormat = "auto",
    ) -> Written:
        """Write ``NAME.QUERY.target.EXT`` and ``NAME.QUERY.residual.EXT``, both or neither.

        The files have the recording's container and bits, as far as that makes sense
        (``singleout.audio.output_kind``); float WAV where it was an array. Read back, they add up
        to the recording: to the bit where samples are integers of up to 24 bits and the parts are
        within full scale, otherwise within 1e-6. ``Extractor.extract_file`` is exact for all
        integers.

        Args:
            folder: is created if missing.
            name: of the recording; that of its file by default.
            residual: whether to write it.
            format: the container, instead of the recording's own.

        Raises:
            AudioError: they cannot be written there, or the format cannot hold the recording.
        """
        name = name or (self.source.stem if self.source else "extraction")
        info = self.info or AudioInfo(self.sample_rate, len(self.target))
        wanted = FilesWanted(Path(folder), format=format, residual=residual)
        files = PartFiles(wanted, name, [self.query], info, self.source)
        with files as parts:
            for start in range(0, self.target.shape[1], BLOCK_FRAMES):
                part = slice(start, start + BLOCK_FRAMES)
                target = self.target[:, part]
                # In float64 the sum is the mixture again, as exactly as the parts hold it.
                mixture = target.astype(np.float64) + self.residual[:, part]
                parts.write(mixture.astype(info.dtype), target[None])
        return replace(files.written()[0], presence=self.presence)

    def plot(self) -> Any:
        """Spectrograms of mixture, target and residual as a matplotlib ``Figure``.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from singleout.extract.plotting import Picture

        picture = Picture(str(self.query), self.sample_rate, self.target.shape[1])
        for start in range(0, self.target.shape[1], BLOCK_FRAMES):
            part = slice(start, start + BLOCK_FRAMES)
            target, residual = self.target[:, part], self.residual[:, part]
            picture.push(target + residual, target, residual)
        return picture.figure()

    def _repr_html_(self) -> str:
        """Players and, where matplotlib is installed, spectrograms: for notebooks."""
        from html import escape
        from importlib.util import find_spec

        seconds = self.target.shape[1] / self.sample_rate
        heard = f", the first {PLAYER_SECONDS} s of each" if seconds > PLAYER_SECONDS else ""
        title = f"{escape(str(self.query))}: {seconds:.1f} s{heard}"
        rows = "".join(
            f"<tr><td>{name}</td><td>{_player(audio, self.sample_rate)}</td></tr>"
            for name, audio in self._players()
        )
        picture = ""
        if find_spec("matplotlib") is not None:
            from singleout.extract.plotting import print_png

            print_png(self.plot(), buffer := io.BytesIO())
            picture = f'<img width="700" src="{_data_uri("image/png", buffer.getvalue())}">'
        return f"<div><b>{title}</b><table>{rows}</table>{picture}</div>"

    def _players(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        part = slice(0, PLAYER_SECONDS * self.sample_rate)
        target, residual = self.target[:, part], self.residual[:, part]
        yield "mixture", target + residual
        yield "target", target
        yield "residual", residual


def _player(audio: NDArray[np.float32], sample_rate: int) -> str:
    # Browsers play one or two channels of 16 bits; of more, what all of them sound like.
    heard = audio if len(audio) <= 2 else audio.mean(0, keepdims=True)
    buffer = io.BytesIO()
    pcm = np.rint(np.clip(heard, -1, 1) * 32_767).astype(np.int16)
    soundfile.write(buffer, pcm.T, sample_rate, format="WAV", subtype="PCM_16")
    return f'<audio controls src="{_data_uri("audio/wav", buffer.getvalue())}"></audio>'


def _data_uri(kind: str, content: bytes) -> str:
    from base64 import b64encode

    return f"data:{kind};base64,{b64encode(content).decode()}"
