"""``singleout extract``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleout.cli.options import Encoder, Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from singleout.types import Extraction

PATIENCE_SECONDS = 2.0
"""The progress bar appears after this time."""
MAX_SLUG_CHARACTERS = 60


def extract(
    input: Annotated[
        Path, typer.Argument(help="A recording: WAV, FLAC, Ogg, MP3, ...", readable=False)
    ],
    query: Annotated[str, typer.Argument(help="What to single out, such as 'a dog barking'.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the results; created if missing.", readable=False
        ),
    ] = Path(),
    residual: Annotated[bool, typer.Option(help="Write all that is not the target, too.")] = True,
    model: Model = None,
    encoder: Encoder = None,
    link_channels: Annotated[
        bool,
        typer.Option(
            "--link-channels/--separate-channels",
            help="One decision for all channels, so that the target stays where it was.",
        ),
    ] = True,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the spectrograms of mixture, target and residual.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the described sound of a recording, and the rest of it, as WAV files.

    The files are INPUT.QUERY.target.wav and INPUT.QUERY.residual.wav, at the rate, length and
    channels of the input; together they are the input.
    """
    import json
    from time import perf_counter

    from singleout.types import Query

    started = perf_counter()
    # What fails at once comes first: before the recording is read, before torch is loaded.
    asked = Query.of(query)
    if plot:
        from singleout.extract.plotting import require_matplotlib

        require_matplotlib()
    check_folder(output)

    from singleout.audio import read_audio

    audio, sample_rate = read_audio(input)

    from singleout.extract import Extractor

    extractor = Extractor.from_pretrained(model, encoder)
    with _progress_bar() as progress:
        result = extractor.extract(
            audio, asked, sample_rate, link_channels=link_channels, progress=progress
        )
    paths = _write(result, output, f"{input.stem}.{query_slug(query)}", residual, plot)

    seconds = audio.shape[1] / sample_rate
    wall_seconds = perf_counter() - started
    mixture_db = _power_db(audio)
    report: dict[str, Any] = {
        "input": str(input),
        "query": str(asked),
        **{kind: None if path is None else str(path) for kind, path in paths.items()},
        "sample_rate": sample_rate,
        "channels": len(audio),
        "seconds": seconds,
        "wall_seconds": round(wall_seconds, 3),
        "real_time_factor": round(wall_seconds / seconds, 4),
        "target_db": _relative_db(result.target, mixture_db),
        "residual_db": _relative_db(result.residual, mixture_db),
    }
    if as_json:
        typer.echo(json.dumps(report))
        return
    typer.echo(f"'{asked}' in {input}: {seconds:.1f} s of sound in {wall_seconds:.1f} s")
    for kind, path in paths.items():
        if path is not None:
            typer.echo(f"  {kind:<9} {_shown(report.get(f'{kind}_db'))}  {path}")


def query_slug(query: str) -> str:
    """A query as part of a file name: ``A dog, barking!`` is ``a-dog-barking``.

    ASCII lower-case words joined by hyphens, 1 to 60 characters. A query without any such word
    (another script, say) gets a short hash.
    """
    import hashlib
    import re
    import unicodedata

    ascii_text = unicodedata.normalize("NFKD", query).encode("ascii", "ignore").decode()
    slug = "-".join(re.findall(r"[a-z0-9]+", ascii_text.lower()))
    if len(slug) > MAX_SLUG_CHARACTERS:
        whole_words = slug[: MAX_SLUG_CHARACTERS + 1].rpartition("-")[0]
        slug = whole_words or slug[:MAX_SLUG_CHARACTERS]
    return slug or hashlib.sha256(query.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that cannot be written; create nothing yet.

    Raises:
        AudioError: it is a file, or may not be written or created.
    """
    import os

    from singleout.errors import AudioError

    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, ValueError, StopIteration) as error:
        raise AudioError(f"{folder}: cannot be the output folder: {error}") from None
    if not existing.is_dir():
        raise AudioError(f"{existing}: is a file, the output needs a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise AudioError(f"{existing}: cannot be written, choose another folder with -o")


def _write(
    result: Extraction, folder: Path, stem: str, residual: bool, plot: bool
) -> dict[str, Path | None]:
    """Write all the files or none; their paths by kind.

    Raises:
        AudioError: one of them cannot be written.
    """
    from contextlib import ExitStack

    from singleout.audio import replacing, write_wav
    from singleout.errors import AudioError

    paths: dict[str, Path | None] = {
        "target": folder / f"{stem}.target.wav",
        "residual": folder / f"{stem}.residual.wav" if residual else None,
        "plot": folder / f"{stem}.png" if plot else None,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"{folder}: cannot be created: {error.strerror}") from None
    with ExitStack() as all_or_none:
        for kind, path in paths.items():
            if path is None:
                continue
            partial = all_or_none.enter_context(replacing(path))
            if kind == "plot":
                from singleout.extract.plotting import save_spectrograms

                save_spectrograms(result, partial)
            else:
                write_wav(partial, getattr(result, kind), result.sample_rate)
    return paths


@contextmanager
def _progress_bar() -> Iterator[Callable[[float], None] | None]:
    """A callback for ``Extractor.extract`` that draws on a terminal, if the work takes long."""
    import sys
    from time import perf_counter

    if not sys.stderr.isatty():
        yield None
        return

    from rich.console import Console
    from rich.progress import Progress

    started = perf_counter()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("extracting", total=1.0)

    def show(share: float) -> None:
        if perf_counter() - started > PATIENCE_SECONDS and share < 1:
            bar.start()
        bar.update(task, completed=share)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _power_db(audio: NDArray[np.float32]) -> float | None:
    import numpy as np

    # By blocks: squares in float64 of all samples would double the memory.
    blocks = np.array_split(audio, 1 + audio.shape[1] // 1_000_000, axis=1)
    power = sum(float(np.square(b, dtype=np.float64).sum()) for b in blocks) / audio.size
    return 10 * float(np.log10(power)) if power > 0 else None


def _relative_db(audio: NDArray[np.float32], reference_db: float | None) -> float | None:
    """Level over that of the mixture; None for silence, which has no level."""
    level = _power_db(audio)
    return None if level is None or reference_db is None else round(level - reference_db, 2)


def _shown(level_db: float | None) -> str:
    return "          " if level_db is None else f"{level_db:+7.1f} dB"
