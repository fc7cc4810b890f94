"""``singleout formats``."""

from __future__ import annotations

import json
import textwrap
from contextlib import suppress
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print all names as one JSON object.")]
LINE_CHARACTERS = 88
HEADERLESS = "RAW"
"""libsndfile's name of samples without a header, whose rate nobody can know."""


def formats(as_json: AsJson = False) -> None:
    """List the formats of recordings that can be read, and those of results.

    The lists come from the libraries that are installed.
    """
    known = known_formats()
    if as_json:
        typer.echo(json.dumps(known))
        return
    sndfile, ffmpeg = known["reads"]["libsndfile"], known["reads"]["ffmpeg"]
    _print(f"Read by libsndfile {sndfile['version']}", sndfile["formats"])
    if ffmpeg["version"] is None:
        typer.echo("\nFFmpeg reads nothing: PyAV is not installed (pip install av)")
    else:
        common = sorted({name for names in ffmpeg["in_folders"] for name in names.split(",")})
        more = len(ffmpeg["containers"]) - len(ffmpeg["in_folders"])
        title = f"Read by FFmpeg {ffmpeg['version']}, with {len(ffmpeg['codecs'])} decoders"
        _print(title, [*common, f"and {more} more containers (--json lists them)"])
    _print("Suffixes of recordings in a folder", known["suffixes"])
    _print("Written (--format)", known["writes"])


def _print(title: str, names: list[str]) -> None:
    typer.echo(f"{title}:")
    options: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
    typer.echo(textwrap.fill(", ".join(names), LINE_CHARACTERS, break_on_hyphens=False, **options))


def known_formats() -> dict[str, Any]:
    """The formats that the installed libraries read and write, by their own names.

    Returns:
        ``reads`` by library, ``suffixes`` of recordings in a folder, and ``writes``.

    Example:
        >>> known_formats()["writes"]
        ['wav', 'flac', 'aiff', 'ogg', 'mp3']
    """
    import soundfile

    from singleout.audio import MEDIA_SUFFIXES, AudioInfo, output_kind
    from singleout.audio.info import OUTPUT_FORMATS

    kinds = [
        output_kind(AudioInfo(44_100, 2), name)  # type: ignore[arg-type]
        for name in OUTPUT_FORMATS
        if name != "auto"
    ]
    return {
        "reads": {
            "libsndfile": {
                "version": soundfile.__libsndfile_version__,
                "formats": sorted(
                    name for name in soundfile.available_formats() if name != HEADERLESS
                ),
            },
            "ffmpeg": _ffmpeg_formats({suffix[1:] for suffix in MEDIA_SUFFIXES}),
        },
        "suffixes": sorted(MEDIA_SUFFIXES),
        "writes": [
            kind.container
            for kind in kinds
            if soundfile.check_format(kind.container.upper(), kind.subtype)
        ],
    }


def _ffmpeg_formats(suffixes: set[str]) -> dict[str, Any]:
    """Containers and audio decoders of FFmpeg; those of ``suffixes`` once more."""
    try:
        import av
    except ImportError:
        return {"version": None, "containers": [], "codecs": [], "in_folders": []}
    containers, in_folders, codecs = [], [], []
    for name in sorted(av.formats_available):
        try:
            container = av.ContainerFormat(name, "r")
        except ValueError:  # FFmpeg only writes it
            continue
        extensions = set(container.extensions)
        with suppress(ValueError):  # some suffixes stand only where FFmpeg writes the container
            extensions |= av.ContainerFormat(name, "w").extensions
        containers.append(name)
        if extensions & suffixes:
            in_folders.append(name)
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "r")
        except ValueError:  # FFmpeg only encodes it
            continue
        if codec.type == "audio":
            codecs.append(name)
    return {
        "version": av.ffmpeg_version_info,
        "containers": containers,
        "codecs": codecs,
        "in_folders": in_folders,
    }
