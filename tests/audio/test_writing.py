"""Files that are written: targets and residuals that add up, whole files or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    OutputKind,
    new_audio,
    output_kind,
    quantised,
    read_audio,
    write_wav,
)
from singleout.audio.info import LOSSLESS_BITS
from singleout.errors import OutputError
from tests.audio.recordings import RATE, SUBTYPES, WITH_FILES, noise, read, write

# Target and residual


def sample_type(bits: int) -> type[np.float32] | type[np.float64]:
    return np.float64 if bits == 32 else np.float32


@st.composite
def mixtures_and_targets(draw: st.DrawFn) -> tuple[int, NDArray[np.int64], NDArray[Any]]:
    """A number of bits, a mixture of such integers, and a target of any values."""
    bits = draw(st.sampled_from([16, 24, 32]))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 20)))
    end = 1 << (bits - 1)
    mixture = draw(arrays(np.int64, shape, elements=st.integers(-end, end - 1)))
    values = st.floats(-2, 2) | st.sampled_from([1.0, -1.0, 1.5, -3.0, 1e30, -3e38, 1e300])
    return bits, mixture, draw(arrays(np.float64, shape, elements=values))


@settings(deadline=None, max_examples=120)
@given(drawn=mixtures_and_targets())
def test_integer_parts_add_up_exactly(
    drawn: tuple[int, NDArray[np.int64], NDArray[np.float64]],
) -> None:
    """For any target both parts stay on the grid and within its limits."""
    bits, integers, target = drawn
    steps = 1 << (bits - 1)
    mixture = (integers / steps).astype(sample_type(bits))
    parts = quantised(target, mixture, OutputKind("wav", f"PCM_{bits}"))
    for part in parts:
        assert part.dtype == mixture.dtype
        on_grid = part.astype(np.float64) * steps
        np.testing.assert_array_equal(on_grid, np.rint(on_grid))
        assert on_grid.min() >= -steps
        assert on_grid.max() <= steps - 1
    np.testing.assert_array_equal(parts[0] + parts[1], mixture)


@settings(deadline=None, max_examples=50)
@given(drawn=mixtures_and_targets())
def test_a_target_that_fits_is_kept(
    drawn: tuple[int, NDArray[np.int64], NDArray[np.float64]],
) -> None:
    """A target is changed only where its residual would exceed the limits."""
    bits, integers, target = drawn
    steps = 1 << (bits - 1)
    mixture = (integers / steps).astype(sample_type(bits))
    share = (mixture * np.clip(target, 0, 1)).astype(mixture.dtype)
    rounded, _ = quantised(share, mixture, OutputKind("wav", f"PCM_{bits}"))
    assert np.abs(rounded.astype(np.float64) - share).max() <= 0.5 / steps


WRITTEN = [
    (container, subtype)
    for container in ("wav", "flac", "aiff")
    for subtype in ("PCM_16", "PCM_24", "PCM_32")
    if (container, subtype) != ("flac", "PCM_32")
]


@pytest.mark.parametrize(("container", "subtype"), WRITTEN)
def test_written_integers_add_up_to_the_originals(
    tmp_path: Path, container: str, subtype: str
) -> None:
    """An integer file gives two integer files, and libsndfile reads their sum."""
    bits = LOSSLESS_BITS[subtype]
    rng = np.random.default_rng(bits)
    end = 1 << (bits - 1)
    integers = rng.integers(-end, end, (3_000, 2))
    integers[:4] = [[-end, end - 1], [end - 1, -end], [0, 0], [-1, 1]]
    soundfile.write(
        tmp_path / "mixture",
        (integers << (32 - bits)).astype(np.int32),
        RATE,
        subtype,
        format=container.upper(),
    )
    mixture, info = read(tmp_path / "mixture")
    kind = output_kind(info)
    assert kind == OutputKind(container, subtype)
    target = rng.normal(0, 1, mixture.shape)
    target[:, ::7] *= 1e6
    total = np.zeros(integers.shape, np.int64)
    for name, part in zip(("target", "residual"), quantised(target, mixture, kind), strict=True):
        path = tmp_path / name
        write(path, part, info, kind)
        np.testing.assert_array_equal(read(path)[0], part)
        raw, rate = soundfile.read(path, dtype="int32")
        assert rate == RATE
        assert soundfile.info(path).subtype == subtype
        total += raw
    np.testing.assert_array_equal(total, integers << (32 - bits))


@pytest.mark.parametrize(("subtype", "limit"), [("FLOAT", 1e-7), ("DOUBLE", 1e-15)])
def test_written_floats_add_up(tmp_path: Path, subtype: str, limit: float) -> None:
    """Floats have no limits: the target stays exact, beyond full scale, too."""
    info = AudioInfo(RATE, 2, subtype=subtype)
    kind = output_kind(info)
    mixture = (noise() * 3).astype(info.dtype)
    target = (noise(seed=1) * 3).astype(info.dtype)
    total = np.zeros_like(mixture)
    for name, part in zip("tr", quantised(target, mixture, kind), strict=True):
        write(tmp_path / name, part, info, kind)
        total += read(tmp_path / name)[0]
    np.testing.assert_array_equal(read(tmp_path / "t")[0], target)
    assert np.abs(total - mixture).max() < limit


def test_lossy_parts_keep_the_level(tmp_path: Path) -> None:
    """Samples beyond full scale are clipped, all others keep their level."""
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    for container in ("ogg", "mp3"):
        kind = output_kind(AudioInfo(RATE, 1), container)
        assert kind.is_lossy
        write(tmp_path / "x", tone[None] * 0.5, AudioInfo(RATE, 1), kind)
        waveform, rate = read_audio(tmp_path / "x")
        assert rate == RATE
        assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
        write(tmp_path / "x", tone[None] * 100, AudioInfo(RATE, 1), kind)
        assert np.abs(read_audio(tmp_path / "x")[0]).max() < 1.5


# WAV files


@settings(deadline=None, max_examples=30, suppress_health_check=WITH_FILES)
@given(
    channels=st.integers(1, 9),
    num_samples=st.integers(1, 3_000),
    rate=st.integers(1, 2**31 - 1),
    gain=st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_wav_round_trip_is_exact(
    tmp_path: Path, channels: int, num_samples: int, rate: int, gain: float
) -> None:
    audio = noise(channels, num_samples) * np.float32(gain)
    write_wav(tmp_path / "x.wav", audio, rate)
    waveform, written_rate = read_audio(tmp_path / "x.wav")
    np.testing.assert_array_equal(waveform, audio)
    assert written_rate == rate


def test_equal_audio_gives_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_wav(tmp_path / name, noise(), RATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_impossible_rates_are_refused(tmp_path: Path) -> None:
    for rate in (0, -1, 2**32):
        with pytest.raises(OutputError, match="sample rate"):
            write_wav(tmp_path / "x.wav", noise(), rate)


# Whole or not at all


@pytest.mark.parametrize("place", ["missing/x.wav", "file/x.wav", "n" * 300 + ".wav", "folder"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_wav(tmp_path / place, noise(), RATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "x.wav"
    write_wav(path, noise(seed=1), RATE)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("singleout.audio.writing.np.ascontiguousarray", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_wav(path, noise(seed=2), RATE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_written_together_appear_together(tmp_path: Path) -> None:
    target, residual = tmp_path / "target.wav", tmp_path / "residual.wav"
    info, kind = AudioInfo(RATE, 2), OutputKind("wav", "FLOAT")

    def fail() -> None:
        with new_audio(target, info, kind) as first, new_audio(residual, info, kind) as second:
            first.write(noise())
            second.write(noise())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    with new_audio(target, info, kind) as first, new_audio(residual, info, kind) as second:
        first.write(noise(seed=1))
        second.write(noise(seed=2))
        first.close()
        assert not target.exists()
        assert not residual.exists()
    np.testing.assert_array_equal(read(target)[0], noise(seed=1))
    np.testing.assert_array_equal(read(residual)[0], noise(seed=2))


@pytest.mark.parametrize(
    ("container", "subtype", "channels", "rate"),
    [
        ("flac", "PCM_16", 9, RATE),
        ("flac", "PCM_24", 2, 700_000),
        ("mp3", "MPEG_LAYER_III", 6, RATE),
        ("mp3", "MPEG_LAYER_III", 2, 192_000),
    ],
)
def test_a_recording_that_a_format_does_not_hold_is_refused(
    tmp_path: Path, container: str, subtype: str, channels: int, rate: int
) -> None:
    """The message names a format that holds it."""
    path = tmp_path / f"x.{container}"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"write WAV$") as raised:
        write(path, noise(channels), AudioInfo(rate, channels), OutputKind(container, subtype))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("channels", "rate", "subtype"),
    [(0x4000, RATE, "FLOAT"), (2, 0, "FLOAT"), (2, 2**32, "PCM_16")],
)
def test_a_recording_that_no_wav_holds_is_refused(
    tmp_path: Path, channels: int, rate: int, subtype: str
) -> None:
    """The header has 16 bits for the bytes of a frame and 32 for the rate."""
    with pytest.raises(OutputError, match="do not fit WAV") as raised:
        write(
            tmp_path / "x.wav",
            np.zeros((channels, 1)),
            AudioInfo(rate, channels),
            OutputKind("wav", subtype),
        )
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("container", SUBTYPES)
def test_an_error_during_writing_leaves_no_file(
    tmp_path: Path, container: str, error: type[BaseException]
) -> None:
    """An old file stays, byte by byte."""
    kind, info = OutputKind(container, SUBTYPES[container]), AudioInfo(RATE, 2)

    def fail(path: Path) -> None:
        with new_audio(path, info, kind) as file:
            file.write(noise())
            raise error

    path = tmp_path / "old"
    write(path, noise(), info, kind)
    before = path.read_bytes()
    for name in ("old", "new"):
        with pytest.raises(OutputError if error is OSError else error):
            fail(tmp_path / name)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("container", SUBTYPES)
def test_long_names_may_differ_in_their_last_letters(tmp_path: Path, container: str) -> None:
    """The names are as long as file systems allow, and both files are open at the same time."""
    kind, info = OutputKind(container, SUBTYPES[container]), AudioInfo(RATE, 2)
    long = "x" * 240
    with (
        new_audio(tmp_path / f"{long}.1", info, kind) as one,
        new_audio(tmp_path / f"{long}.2", info, kind) as other,
    ):
        one.write(noise(seed=1))
        other.write(noise(seed=2, num_samples=9_000))
    lengths = [soundfile.info(tmp_path / f"{long}.{number}").frames for number in (1, 2)]
    assert lengths[0] < 8_000 < lengths[1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("container", SUBTYPES)
def test_a_missing_folder_is_refused(tmp_path: Path, container: str) -> None:
    kind = OutputKind(container, SUBTYPES[container])
    with pytest.raises(OutputError, match="cannot be written") as raised:
        write(tmp_path / "missing" / "x", noise(), AudioInfo(RATE, 2), kind)
    assert "\n" not in str(raised.value)
    assert "partial" not in str(raised.value)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from singleout.audio import AudioInfo, OutputKind, new_audio
from singleout.errors import OutputError

folder = Path(sys.argv[1])
audio = np.random.default_rng(0).normal(0, 0.1, (2, 12_000))
for container, subtype in zip(sys.argv[2::2], sys.argv[3::2]):
    path = folder / f"x.{container}"

    def write():
        with new_audio(path, AudioInfo(48_000, 2), OutputKind(container, subtype)) as file:
            for start in range(0, 12_000, 5_000):
                file.write(audio[:, start : start + 5_000])

    write()
    whole = path.read_bytes()
    for limit in (0, 1_000, len(whole) // 2, len(whole) - 700, len(whole) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write()
            message = f"written, {path.stat().st_size} of {len(whole)} bytes"
        except OutputError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(container, limit, path.read_bytes() == whole, message, sep="|")
"""


def test_a_full_disk_is_noticed(tmp_path: Path) -> None:
    """Even the last byte counts: encoders write their last frames as a file is closed, and a
    recording without its end must not replace a file."""
    pytest.importorskip("resource")
    kinds = [word for pair in SUBTYPES.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), *kinds],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5 * len(SUBTYPES)
    for line in lines:
        container, _, is_unchanged, message = line.split("|")
        assert message.startswith(f"{tmp_path / 'x'}.{container}: cannot be written"), line
        assert is_unchanged == "True", line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"x.{c}" for c in SUBTYPES)


NAMES = [
    "😀.{}", "two\nlines.{}", "é" * 116 + "xxx.{}", "日" * 78 + "x.{}", " .{}", "-x.{}", "a'b\".{}",
]  # fmt: skip


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_in_any_script(tmp_path: Path, name: str, container: str) -> None:
    """Even names that leave no room for a suffix: 255 bytes are the limit."""
    path = tmp_path / name.format(container)
    assert len(os.fsencode(path.name)) <= 240
    write(path, noise() * 0, AudioInfo(RATE, 2), OutputKind(container, "PCM_16"))
    assert list(tmp_path.iterdir()) == [path]
    assert read_audio(path)[0].shape == (2, 5_000)
