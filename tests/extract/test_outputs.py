"""Files of targets and residuals: encodings, names, exact sums, and failures that leave none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleout import Extractor, Query
from singleout.audio import AudioInfo, OutputFormat
from singleout.audio.wav import WavFile
from singleout.errors import AudioError, OutputError, QueryError
from singleout.extract.options import OutputOptions
from singleout.extract.outputs import PartFiles
from singleout.model import QueriedSeparator
from tests.recordings import audible, file_names, noise, read_samples, write_recording

pytestmark = pytest.mark.slow

RATE = 44_100
"""Not the rate of the model: targets are resampled."""
BLOCK_FRAMES = "singleout.audio.sources.BLOCK_FRAMES"
"""Largest block of a recording that is read at once, frames times channels."""


KINDS = [
    ("wav", "PCM_16", "WAV", "PCM_16", 16),
    ("wav", "PCM_24", "WAV", "PCM_24", 24),
    ("wav", "FLOAT", "WAV", "FLOAT", None),
    ("flac", "PCM_16", "FLAC", "PCM_16", 16),
    ("flac", "PCM_24", "FLAC", "PCM_24", 24),
    ("aiff", "PCM_16", "AIFF", "PCM_16", 16),
    ("aiff", "PCM_24", "AIFF", "PCM_24", 24),
    ("ogg", "VORBIS", "WAV", "FLOAT", None),
]


@pytest.mark.parametrize(("suffix", "subtype", "container", "encoding", "bits"), KINDS)
def test_files_hold_the_extraction_and_add_up_to_the_mixture(
    extractor: Extractor,
    tmp_path: Path,
    suffix: str,
    subtype: str,
    container: str,
    encoding: str,
    bits: int | None,
) -> None:
    path = write_recording(tmp_path / f"x.{suffix}", noise(30_000, 2), RATE, subtype=subtype)
    (written,) = extractor.extract_file(path, "a dog", tmp_path / "new" / "out")
    expected = extractor.extract(path, "a dog")
    assert written.query == "a dog"
    assert written.plot is None
    assert (written.sample_rate, written.channels, written.seconds) == (RATE, 2, 30_000 / RATE)
    for part in (written.target, written.residual):
        info = soundfile.info(part)
        assert (info.format, info.subtype) == (container, encoding)
        assert (info.samplerate, info.channels, info.frames) == (RATE, 2, 30_000)
    half_a_step = 0 if bits is None else 2.0**-bits
    target = read_samples(written.target, "float64")
    assert np.abs(expected.target).max() > 0.01
    assert np.abs(target - expected.target).max() <= half_a_step
    if bits is None:
        parts = read_samples(written.target, "float64") + read_samples(written.residual, "float64")
        assert np.abs(parts - read_samples(path, "float64")).max() <= 1e-6
    else:
        integers = read_samples(written.target, "int32") + read_samples(written.residual, "int32")
        np.testing.assert_array_equal(integers, read_samples(path, "int32"))
    mixture, residual = read_samples(path, "float64"), read_samples(written.residual, "float64")
    for level, samples in ((written.target_db, target), (written.residual_db, residual)):
        assert level == pytest.approx(
            10 * np.log10((samples**2).sum() / (mixture**2).sum()), abs=0.01
        )


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
        ("aiff", "PCM_16"),
    ],
)
def test_saving_gives_the_bytes_of_extract_file(
    extractor: Extractor, tmp_path: Path, suffix: str, subtype: str
) -> None:
    """Both write the same files, though in blocks of different sizes."""
    path = write_recording(tmp_path / f"x.{suffix}", noise(30_000, 2), RATE, subtype=subtype)
    (of_file,) = extractor.extract_file(path, "a dog", tmp_path / "file")
    saved = extractor.extract(path, "a dog").save(tmp_path / "saved")
    for kind in ("target", "residual"):
        first, second = getattr(of_file, kind), getattr(saved, kind)
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()
    assert replace(saved, target=of_file.target, residual=of_file.residual) == of_file


@pytest.mark.parametrize("subtype", ["PCM_32", "DOUBLE"])
def test_finer_samples_than_float32(extractor: Extractor, tmp_path: Path, subtype: str) -> None:
    """Parts of a file add up exactly. Parts of an ``Extraction`` are as exact as float32."""
    fine = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 9_000))
    path = write_recording(tmp_path / "x.wav", fine, RATE, subtype=subtype)
    (written,) = extractor.extract_file(path, "a dog", tmp_path / "file")
    dtype = "int32" if subtype == "PCM_32" else "float64"
    parts = read_samples(written.target, dtype) + read_samples(written.residual, dtype)
    np.testing.assert_allclose(parts, read_samples(path, dtype), rtol=0, atol=1e-15)
    saved = extractor.extract(path, "a dog").save(tmp_path / "saved")
    assert soundfile.info(saved.target).subtype == subtype
    parts = read_samples(saved.target, "float64") + read_samples(saved.residual, "float64")
    assert np.abs(parts - read_samples(path, "float64")).max() <= 1e-6


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_samples=st.integers(1, 40_000),
    channels=st.integers(1, 2),
    rate=st.sampled_from([8_000, 32_000, 44_100]),
    blocks=st.integers(1, 40),
    chunk_seconds=st.sampled_from([0.005, 0.1, 0.4]),
)
def test_blocks_and_chunks_of_any_size_write_the_same(
    identity_model: QueriedSeparator,
    tmp_path: Path,
    num_samples: int,
    channels: int,
    rate: int,
    blocks: int,
    chunk_seconds: float,
) -> None:
    mixture = noise(num_samples, channels)
    path = write_recording(tmp_path / "x.wav", mixture, rate, "FLOAT")
    whole = Extractor(identity_model).extract(path, "anything")
    small = Extractor(identity_model, chunk_seconds=chunk_seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLOCK_FRAMES, -(-num_samples // blocks) * channels)
        (written,) = small.extract_file(path, "anything", tmp_path)
        extracted = small.extract(path, "anything")
    target = read_samples(written.target, "float32")
    np.testing.assert_array_equal(target, extracted.target)
    np.testing.assert_allclose(target, whole.target, rtol=0, atol=1e-6)
    total = target + read_samples(written.residual, "float32")
    assert np.abs(total - mixture).max() <= 1e-6
    if rate == identity_model.sample_rate:
        np.testing.assert_allclose(target, audible(mixture, rate), rtol=0, atol=1e-6)


def test_an_array_is_saved_as_float_wav(extractor: Extractor, tmp_path: Path) -> None:
    result = extractor.extract(noise(30_000, 2), "a dog", RATE)
    saved = result.save(tmp_path)
    assert file_names(tmp_path) == [
        "extraction.a-dog.residual.wav",
        "extraction.a-dog.target.wav",
    ]
    np.testing.assert_array_equal(read_samples(saved.target, "float32"), result.target)
    assert saved.residual is not None
    assert soundfile.info(saved.residual).subtype == "FLOAT"
    only_target = result.save(tmp_path / "flac", "street", residual=False, format="flac")
    assert only_target.residual is None
    assert file_names(tmp_path / "flac") == ["street.a-dog.target.flac"]
    assert soundfile.info(only_target.target).format == "FLAC"


def test_names_formats_and_requested_parts(extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", noise(30_000, 2), RATE, subtype="PCM_16")
    queries = ("a dog", Query(("rain", "a shower")))
    written = extractor.extract_file(
        path, queries, tmp_path / "out", name="street", format="flac", residual=False
    )
    one, several = file_names(tmp_path / "out")
    assert one == "street.a-dog.target.flac"
    assert re.fullmatch(r"street\.rain-a-shower-[0-9a-f]{8}\.target\.flac", several)
    assert [each.query for each in written] == ["a dog", "rain / a shower"]
    assert all(soundfile.info(each.target).subtype == "PCM_16" for each in written)
    with pytest.raises(QueryError, match="no query"):
        extractor.extract_file(path, [], tmp_path / "none")
    with pytest.raises(OutputError, match="given twice"):
        extractor.extract_file(path, ["a dog", " a  dog"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_progress_of_a_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK_FRAMES, 20_000)
    path = write_recording(tmp_path / "x.wav", noise(3 * RATE, 2), RATE)
    shares: list[float] = []
    extractor.extract_file(path, ["a dog", "rain"], tmp_path, progress=shares.append)
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert 0 < shares[0] < 0.5


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_stopping_half_way_leaves_no_file(
    extractor: Extractor, tmp_path: Path, format: OutputFormat
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(3 * RATE, 2), RATE)
    out = tmp_path / "out"
    partial_files: list[list[str]] = []

    def stop(share: float) -> None:
        if share >= 0.5:
            partial_files.append(file_names(out))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], out, format=format, progress=stop)
    (before,) = partial_files
    assert len(before) == 5  # four files, and the lock of their writer
    assert all(name.startswith(".") and name.endswith(".partial") for name in before)
    assert file_names(out) == []

    # Files of an earlier run are not changed.
    extractor.extract_file(path, "a dog", out, format=format)
    old = {name: (out / name).read_bytes() for name in file_names(out)}
    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], out, format=format, progress=stop)
    assert {name: (out / name).read_bytes() for name in file_names(out)} == old


def test_a_recording_that_ends_badly_leaves_no_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the last samples are bad, which shows after most of the files are written."""
    monkeypatch.setattr(BLOCK_FRAMES, 20_000)
    audio = noise(3 * RATE, 2)
    audio[1, -7] = np.nan
    path = write_recording(tmp_path / "x.wav", audio, RATE, subtype="FLOAT")
    shares: list[float] = []
    with pytest.raises(AudioError, match="NaN or infinite"):
        extractor.extract_file(path, "a dog", tmp_path / "out", progress=shares.append)
    assert shares
    assert file_names(tmp_path / "out") == []


def test_a_recording_is_never_overwritten(extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.a-dog.target.wav", noise(999), RATE)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract_file(path, "a dog", tmp_path, name="x")
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract(path, "a dog").save(tmp_path, "x")
    # A hard link to the recording counts as the recording, too.
    link = tmp_path / "out" / "y.a-dog.residual.wav"
    link.parent.mkdir()
    link.hardlink_to(path)
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract_file(path, ["rain", "a dog"], link.parent, name="y")
    assert path.read_bytes() == before
    assert file_names(link.parent) == [link.name]
    extractor.extract_file(path, "a dog", tmp_path)
    assert path.read_bytes() == before


def test_a_folder_where_a_file_should_go(extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", noise(999), RATE)
    blocked = tmp_path / "out" / "x.a-dog.residual.wav"
    blocked.mkdir(parents=True)
    with pytest.raises(OutputError, match="is a folder") as raised:
        extractor.extract_file(path, ["rain", "a dog"], tmp_path / "out")
    assert str(blocked) in str(raised.value)
    with pytest.raises(OutputError, match="is a folder"):
        extractor.extract(path, "a dog").save(tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be created"):
        extractor.extract_file(path, "a dog", path / "below")
    assert file_names(tmp_path / "out") == [blocked.name]
    assert file_names(blocked) == []


@pytest.mark.parametrize(
    ("channels", "num_samples", "rate"),
    [(1, 1, 8_000), (2, 1, 192_000), (1, 50_000, 192_000), (12, 9_000, 48_000), (64, 500, 8_000)],
)
def test_unusual_recordings(
    extractor: Extractor, tmp_path: Path, channels: int, num_samples: int, rate: int
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(num_samples, channels), rate, "PCM_24")
    for linked in (True, False):
        (written,) = extractor.extract_file(path, "a dog", tmp_path, link_channels=linked)
        info = soundfile.info(written.target)
        assert (info.channels, info.frames, info.samplerate) == (channels, num_samples, rate)
        total = read_samples(written.target, "int32") + read_samples(written.residual, "int32")
        np.testing.assert_array_equal(total, read_samples(path, "int32"))


def test_too_many_channels(extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", noise(99, 65), 8_000)
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: has 65 channels, the limit"):
        extractor.extract_file(path, "a dog", tmp_path / "out")
    wide = write_recording(tmp_path / "y.wav", noise(99, 9), 8_000, "PCM_16")
    with pytest.raises(OutputError, match="write WAV"):
        extractor.extract_file(wide, "a dog", tmp_path / "out", format="flac")
    assert not list((tmp_path / "out").glob("*"))


def test_a_recording_of_days_is_named(extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", noise(8 * 3600 * 25), 8, "PCM_16")
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: lasts 25 hours at 8 Hz"):
        extractor.extract_file(path, "a dog", tmp_path / "out")


@pytest.mark.parametrize("failing", ["target", "residual"])
def test_a_file_that_cannot_be_finished_removes_all_files(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """No file of a recording appears before all of them are complete with their headers."""
    path = write_recording(tmp_path / "x.wav", noise(9_000), RATE)
    close = WavFile.close

    def close_on_a_full_disk(self: WavFile) -> None:
        close(self)
        if failing in str(self._file.name):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(WavFile, "close", close_on_a_full_disk)
    with pytest.raises(OutputError, match=f"{failing}.*No space left on device"):
        extractor.extract_file(path, ["a dog", "rain"], tmp_path / "out")
    assert file_names(tmp_path / "out") == []


@pytest.mark.parametrize("is_old_file", [False, True])
@pytest.mark.parametrize("failing", ["target.wav", "residual.wav", "png"])
def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(
    extractor: Extractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    is_old_file: bool,
) -> None:
    """On Windows a file cannot be replaced while it is played. A new residual and an old target
    would not add up, so that all old files stay. Where no files existed, none appear."""
    # Drawing takes most of the time, and the content of the picture does not matter here.
    monkeypatch.setattr(
        "singleout.extract.picture.print_png", lambda figure, path: path.write_bytes(b"picture")
    )
    path = write_recording(tmp_path / "x.wav", noise(9_000), RATE)
    out = tmp_path / "out"
    extractor.extract_file(path, "a dog", out, plot=True)
    before = {each: each.read_bytes() for each in out.iterdir()}
    write_recording(path, noise(9_000, seed=5), RATE)
    replace = Path.replace

    refused: list[Path] = []

    def locked(self: Path, target: Path) -> Path:
        path = self if is_old_file else target
        is_old = not self.name.startswith(".")  # it makes room
        if is_old == is_old_file and path.name.endswith(failing) and not refused:
            refused.append(path)  # after that, an old file can be moved back
            raise PermissionError(13, "Permission denied", str(path))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", locked)
        for folder in (out,) if is_old_file else (out, tmp_path / "new"):
            refused.clear()
            with pytest.raises(OutputError, match=f"{failing}: cannot be written: Permission"):
                extractor.extract_file(path, "a dog", folder, plot=True)
    assert {each: each.read_bytes() for each in out.iterdir()} == before
    assert is_old_file or file_names(tmp_path / "new") == []
    extractor.extract_file(path, "a dog", out, plot=True)
    after = {each: each.read_bytes() for each in out.iterdir()}
    assert after.keys() == before.keys()
    assert after != before


def test_an_extraction_can_be_saved_after_its_recording_is_deleted(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(9_000), RATE)
    result = extractor.extract(path, "a dog")
    result.save(tmp_path / "out")
    path.unlink()
    assert result.save(tmp_path / "out").target.is_file()


def test_an_aiff_that_would_be_too_long_is_named(extractor: Extractor, tmp_path: Path) -> None:
    info = AudioInfo(192_000, 8, 192_000 * 3_600, "WAV", "PCM_24")
    options = OutputOptions(tmp_path, "aiff")
    with pytest.raises(OutputError, match=r"^/somewhere/x\.wav: format 'aiff' ends at 4 GB"):
        PartFiles(options, "x", [Query.of("a dog")], info, Path("/somewhere/x.wav"))
