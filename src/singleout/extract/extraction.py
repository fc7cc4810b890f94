"""``Extraction``: a target, its residual, and where they come from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio import AudioInfo, OutputFormat, log_notes
from singleout.extract.options import OutputOptions
from singleout.extract.outputs import PartFiles, WrittenFiles
from singleout.model.similarity import Presence
from singleout.types import Query

BLOCK_FRAMES = 1 << 18
PLAYER_SECONDS = 60
"""A notebook gets this much of longer recordings: their sound becomes part of the notebook."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """The described sound and the rest; ``target + residual`` is the mixture, within 1e-6.

    Attributes:
        target: float32 [channels, samples] at the rate and length of the input.
        residual: float32 [channels, samples], all that is not target, including everything
            above the model's band.
        sample_rate: Hz.
        query: the query.
        source: the path of the recording; None if it was not a path.
        info: what the file of the recording is. Saved files are of its kind.
        presence: whether the sound is present; None where the model gives no probability.
        warnings: what a listener should know about the recording, one line each.
        missing_seconds: of the recording that could not be read; 0.0 if it is whole, None if the
            length of the missing part is unknown.

    Example:
        >>> import numpy as np
        >>> from singleout import Extraction, Query
        >>> sound = np.zeros((1, 8_000), np.float32)
        >>> Extraction(sound, sound, 16_000, Query("rain"))
        Extraction(query='rain', channels=1, seconds=0.50, sample_rate=16000)
    """

    target: NDArray[np.float32]
    residual: NDArray[np.float32]
    sample_rate: int
    query: Query
    source: Path | None = None
    info: AudioInfo | None = None
    presence: Presence | None = None
    warnings: tuple[str, ...] = ()
    missing_seconds: float | None = 0.0

    @property
    def mixture(self) -> NDArray[np.float32]:
        """``target + residual``, float32 [channels, samples]."""
        return self.target + self.residual

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extraction):
            return NotImplemented
        return (
            self.sample_rate == other.sample_rate
            and self.query == other.query
            and self.source == other.source
            and self.info == other.info
            and self.presence == other.presence
            and self.warnings == other.warnings
            and self.missing_seconds == other.missing_seconds
            and np.array_equal(self.target, other.target)
            and np.array_equal(self.residual, other.residual)
        )

    def __hash__(self) -> int:
        return hash((self.query, self.sample_rate, self.target.tobytes()))

    def __repr__(self) -> str:
        channels, samples = self.target.shape
        presence = "" if self.presence is None else f", presence={self.presence.probability:.2f}"
        return (
            f"Extraction(query={str(self.query)!r}, channels={channels}, "
            f"seconds={samples / self.sample_rate:.2f}, sample_rate={self.sample_rate}{presence})"
        )

    def save(
        self,
        folder: str | Path = ".",
        name: str | None = None,
        *,
        residual: bool = True,
        format: OutputFormat = "auto",
    ) -> WrittenFiles:
        """Write ``NAME.QUERY.target.EXT`` and ``NAME.QUERY.residual.EXT``, both or neither.

        The files have the recording's container and bits, as far as that makes sense
        (``singleout.audio.output_kind``); float WAV where it was an array. Read back, they add up
        to the recording: to the bit where samples are integers of up to 24 bits and the parts are
        within full scale, otherwise within 1e-6. ``Extractor.extract_file`` is exact for all
        integers.

        Args:
            folder: is created if missing.
            name: first part of the names; that of the recording by default.
            residual: write the residual.
            format: container of the files. ``auto`` is that of the recording, where it can hold
                them.

        Raises:
            OutputError: the files cannot be written there, or the format cannot hold the
                recording.
        """
        name = name or (self.source.stem if self.source else "extraction")
        info = self.info or AudioInfo(self.sample_rate, len(self.target))
        outputs = OutputOptions(Path(folder), format=format, residual=residual)
        files = PartFiles(outputs, name, [self.query], info, self.source)
        with files as parts:
            for start in range(0, self.target.shape[1], BLOCK_FRAMES):
                part = slice(start, start + BLOCK_FRAMES)
                target = self.target[:, part]
                # In float64 the sum is the mixture again, as exactly as the parts hold it.
                mixture = target.astype(np.float64) + self.residual[:, part]
                parts.write(mixture.astype(info.dtype), target[None])
        probability = None if self.presence is None else self.presence.probability
        log_notes(files.notes)
        return replace(
            files.written()[0],
            presence=probability,
            warnings=(*self.warnings, *(note.text for note in files.notes)),
            missing_seconds=self.missing_seconds,
        )

    def plot(self) -> Any:
        """Spectrograms of mixture, target and residual as a matplotlib ``Figure``.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from singleout.extract.picture import Picture

        picture = Picture(str(self.query), self.sample_rate)
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
        cut = f", the first {PLAYER_SECONDS} s of each" if seconds > PLAYER_SECONDS else ""
        title = f"{escape(str(self.query))}: {seconds:.1f} s{cut}"
        rows = "".join(
            f"<tr><td>{name}</td><td>{_player(audio, self.sample_rate)}</td></tr>"
            for name, audio in self._players()
        )
        picture = ""
        if find_spec("matplotlib") is not None:
            from singleout.extract.picture import print_png

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
    # Browsers play one or two channels of 16 bits; more channels are mixed to one.
    playable = audio if len(audio) <= 2 else audio.mean(0, keepdims=True)
    buffer = io.BytesIO()
    pcm = np.rint(np.clip(playable, -1, 1) * 32_767).astype(np.int16)
    soundfile.write(buffer, pcm.T, sample_rate, format="WAV", subtype="PCM_16")
    return f'<audio controls src="{_data_uri("audio/wav", buffer.getvalue())}"></audio>'


def _data_uri(kind: str, content: bytes) -> str:
    from base64 import b64encode

    return f"data:{kind};base64,{b64encode(content).decode()}"
