"""The kind of file that a target gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.audio import AudioInfo, OutputFormat, OutputKind, output_kind
from singleout.errors import ConfigError
from tests.audio.recordings import RATE, noise, read, write

KINDS: list[tuple[str, str, OutputFormat, str, str]] = [
    ("WAV", "PCM_16", "auto", "wav", "PCM_16"),
    ("WAV", "PCM_24", "auto", "wav", "PCM_24"),
    ("WAVEX", "PCM_32", "auto", "wav", "PCM_32"),
    ("RF64", "PCM_24", "auto", "wav", "PCM_24"),
    ("W64", "FLOAT", "auto", "wav", "FLOAT"),
    ("WAV", "PCM_U8", "auto", "wav", "PCM_16"),
    ("WAV", "ULAW", "auto", "wav", "PCM_16"),
    ("WAV", "MS_ADPCM", "auto", "wav", "PCM_16"),
    ("WAV", "NMS_ADPCM_32", "auto", "wav", "PCM_16"),
    ("WAV", "FLOAT", "auto", "wav", "FLOAT"),
    ("WAV", "DOUBLE", "auto", "wav", "DOUBLE"),
    ("FLAC", "PCM_S8", "auto", "flac", "PCM_16"),
    ("FLAC", "PCM_16", "auto", "flac", "PCM_16"),
    ("FLAC", "PCM_24", "auto", "flac", "PCM_24"),
    ("AIFF", "PCM_S8", "auto", "aiff", "PCM_16"),
    ("AIFF", "PCM_24", "auto", "aiff", "PCM_24"),
    ("AIFF", "FLOAT", "auto", "aiff", "FLOAT"),
    ("CAF", "PCM_24", "auto", "wav", "PCM_24"),
    ("OGG", "VORBIS", "auto", "wav", "FLOAT"),
    ("OGG", "OPUS", "auto", "wav", "FLOAT"),
    ("MP3", "MPEG_LAYER_III", "auto", "wav", "FLOAT"),
    ("mov,mp4,m4a,3gp,3g2,mj2", "FLOAT", "auto", "wav", "FLOAT"),
    ("mov,mp4,m4a,3gp,3g2,mj2", "PCM_24", "auto", "wav", "PCM_24"),
    ("WAV", "FLOAT", "flac", "flac", "PCM_24"),
    ("WAV", "PCM_32", "flac", "flac", "PCM_24"),
    ("WAV", "PCM_16", "flac", "flac", "PCM_16"),
    ("OGG", "VORBIS", "flac", "flac", "PCM_24"),
    ("FLAC", "PCM_16", "wav", "wav", "PCM_16"),
    ("FLAC", "PCM_24", "aiff", "aiff", "PCM_24"),
    ("WAV", "DOUBLE", "ogg", "ogg", "VORBIS"),
    ("FLAC", "PCM_24", "mp3", "mp3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("container", "subtype", "format", "new_container", "new_subtype"), KINDS)
def test_the_kind_of_file_of_a_target(
    tmp_path: Path,
    container: str,
    subtype: str,
    format: OutputFormat,
    new_container: str,
    new_subtype: str,
) -> None:
    """libsndfile confirms what was written."""
    info = AudioInfo(RATE, 2, 5_000, container, subtype)
    kind = output_kind(info, format)
    assert kind == OutputKind(new_container, new_subtype)
    write(tmp_path / "x", noise(), info, kind)
    written = soundfile.info(tmp_path / "x")
    assert (written.format.lower().removesuffix("ex"), written.subtype) == (
        new_container,
        new_subtype,
    )
    assert written.frames == 5_000


def test_a_very_long_aiff_becomes_a_wav() -> None:
    """AIFF counts the bytes of its samples in 32 bits."""
    long = AudioInfo(192_000, 8, 192_000 * 3_600, "AIFF", "PCM_24")
    assert output_kind(long) == OutputKind("wav", "PCM_24")
    with pytest.raises(ConfigError, match="take wav"):
        output_kind(long, "aiff")
    below = replace(long, num_frames=1_900_000_000, channels=1, subtype="PCM_16")
    assert output_kind(below).container == "aiff"
    assert output_kind(replace(below, subtype="PCM_24")).container == "wav"
    assert output_kind(replace(long, num_frames=192_000)).container == "aiff"
    assert output_kind(replace(long, num_frames=None)).container == "aiff"


def test_an_unknown_format_is_refused() -> None:
    for format in ("wavv", "WAV", "raw", ""):
        with pytest.raises(ConfigError, match="it is one of auto, wav, flac"):
            output_kind(AudioInfo(RATE, 2), format)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [16, 20, 24])  # libsndfile does not read 32 bits exactly
def test_apple_lossless_becomes_integers(tmp_path: Path, bits: int) -> None:
    """libsndfile reads ALAC in a CAF: every bit is kept."""
    steps = 1 << (bits - 1)
    whole = np.random.default_rng(bits).integers(-steps, steps, (1, 3_000)) << (32 - bits)
    path = tmp_path / "x.caf"
    soundfile.write(path, whole.T.astype(np.int32), RATE, format="CAF", subtype=f"ALAC_{bits}")
    samples, info = read(path)
    assert output_kind(info) == OutputKind("wav", f"PCM_{24 if bits == 20 else bits}")
    np.testing.assert_array_equal(samples.astype(np.float64) * 2.0**31, whole)
