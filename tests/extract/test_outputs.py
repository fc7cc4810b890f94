"""Extraction to files, of many recordings, block by block, in threads and in notebooks."""

from __future__ import annotations

import io
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout import Extraction, Extractor, Query
from singleout.audio import AudioInfo, OutputFormat
from singleout.audio.riff import WavFile
from singleout.condition import Condition
from singleout.errors import AudioError, ModelError, OutputError, QueryError, SingleoutError
from singleout.extract.chunking import FADE_SECONDS
from singleout.extract.options import OutputOptions
from singleout.extract.outputs import PartFiles
from singleout.extract.picture import NUM_COLUMNS, NUM_ROWS, Spectrogram, mel
from singleout.extract.sources import Recording
from singleout.model import QueriedSeparator
from singleout.separators import Identity, IdentityConfig
from tests.extract.chunks import separated

RATE = 44_100
BLOCK_FRAMES = "singleout.audio.reading.BLOCK_FRAMES"


def noise(
    channels: int = 2, num_samples: int = 30_000, seed: int = 0, level: float = 0.1
) -> NDArray[np.float32]:
    """[channels, samples] that no encoding has to clip."""
    drawn = np.random.default_rng(seed).normal(0, level, (channels, num_samples))
    return drawn.clip(-0.9, 0.9).astype(np.float32)


def recorded(path: Path, audio: NDArray[Any], rate: int = RATE, subtype: str | None = None) -> Path:
    """A recording of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype=subtype)
    return path


def samples(path: Path | None, dtype: str) -> NDArray[Any]:
    """[channels, samples] as libsndfile reads them; integers with room for sums."""
    assert path is not None
    read = soundfile.read(path, dtype=dtype, always_2d=True)[0].T
    return read.astype(np.int64) if dtype == "int32" else read


def names(folder: Path) -> list[str]:
    """Hidden ones, too."""
    return sorted(path.name for path in folder.iterdir())


# Files of the recording's own kind.

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
def test_files_hold_what_is_extracted_and_add_up(
    extractor: Extractor,
    tmp_path: Path,
    suffix: str,
    subtype: str,
    container: str,
    encoding: str,
    bits: int | None,
) -> None:
    path = recorded(tmp_path / f"x.{suffix}", noise(), subtype=subtype)
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
    target = samples(written.target, "float64")
    assert np.abs(expected.target).max() > 0.01
    assert np.abs(target - expected.target).max() <= half_a_step
    if bits is None:
        parts = samples(written.target, "float64") + samples(written.residual, "float64")
        assert np.abs(parts - samples(path, "float64")).max() <= 1e-6
    else:
        integers = samples(written.target, "int32") + samples(written.residual, "int32")
        np.testing.assert_array_equal(integers, samples(path, "int32"))
    mixture, residual = samples(path, "float64"), samples(written.residual, "float64")
    for level, part in ((written.target_db, target), (written.residual_db, residual)):
        assert level == pytest.approx(10 * np.log10((part**2).sum() / (mixture**2).sum()), abs=0.01)


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
    """Two ways to the same files, in blocks of other sizes."""
    path = recorded(tmp_path / f"x.{suffix}", noise(), subtype=subtype)
    (of_file,) = extractor.extract_file(path, "a dog", tmp_path / "file")
    saved = extractor.extract(path, "a dog").save(tmp_path / "saved")
    for kind in ("target", "residual"):
        first, second = getattr(of_file, kind), getattr(saved, kind)
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()
    assert replace(saved, target=of_file.target, residual=of_file.residual) == of_file


@pytest.mark.parametrize("subtype", ["PCM_32", "DOUBLE"])
def test_finer_samples_than_float32(extractor: Extractor, tmp_path: Path, subtype: str) -> None:
    """Files from a file are exact; an extraction holds float32 and is as exact as that."""
    fine = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 9_000))
    path = recorded(tmp_path / "x.wav", fine, subtype=subtype)
    (written,) = extractor.extract_file(path, "a dog", tmp_path / "file")
    dtype = "int32" if subtype == "PCM_32" else "float64"
    parts = samples(written.target, dtype) + samples(written.residual, dtype)
    np.testing.assert_allclose(parts, samples(path, dtype), rtol=0, atol=1e-15)
    saved = extractor.extract(path, "a dog").save(tmp_path / "saved")
    assert soundfile.info(saved.target).subtype == subtype
    parts = samples(saved.target, "float64") + samples(saved.residual, "float64")
    assert np.abs(parts - samples(path, "float64")).max() <= 1e-6


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
    mixture = noise(channels, num_samples)
    path = recorded(tmp_path / "x.wav", mixture, rate, "FLOAT")
    whole = Extractor(identity_model).extract(path, "anything")
    small = Extractor(identity_model, chunk_seconds=chunk_seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLOCK_FRAMES, -(-num_samples // blocks) * channels)
        (written,) = small.extract_file(path, "anything", tmp_path)
        extracted = small.extract(path, "anything")
    target = samples(written.target, "float32")
    np.testing.assert_array_equal(target, extracted.target)
    np.testing.assert_allclose(target, whole.target, rtol=0, atol=1e-6)
    total = target + samples(written.residual, "float32")
    assert np.abs(total - mixture).max() <= 1e-6
    if rate == identity_model.sample_rate:
        np.testing.assert_allclose(target, mixture, rtol=0, atol=1e-6)


def test_an_array_is_saved_as_float_wav(extractor: Extractor, tmp_path: Path) -> None:
    result = extractor.extract(noise(), "a dog", RATE)
    saved = result.save(tmp_path)
    assert names(tmp_path) == [
        "extraction.a-dog.residual.wav",
        "extraction.a-dog.target.wav",
    ]
    np.testing.assert_array_equal(samples(saved.target, "float32"), result.target)
    assert saved.residual is not None
    assert soundfile.info(saved.residual).subtype == "FLOAT"
    alone = result.save(tmp_path / "flac", "street", residual=False, format="flac")
    assert alone.residual is None
    assert names(tmp_path / "flac") == ["street.a-dog.target.flac"]
    assert soundfile.info(alone.target).format == "FLAC"


def test_names_formats_and_requested_parts(extractor: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.wav", noise(), subtype="PCM_16")
    queries = ("a dog", Query(("rain", "a shower")))
    written = extractor.extract_file(
        path, queries, tmp_path / "out", name="street", format="flac", residual=False
    )
    one, several = names(tmp_path / "out")
    assert one == "street.a-dog.target.flac"
    assert re.fullmatch(r"street\.rain-a-shower-[0-9a-f]{8}\.target\.flac", several)
    assert [each.query for each in written] == ["a dog", "rain / a shower"]
    assert all(soundfile.info(each.target).subtype == "PCM_16" for each in written)
    with pytest.raises(QueryError, match="no query"):
        extractor.extract_file(path, [], tmp_path / "none")
    with pytest.raises(OutputError, match="given twice"):
        extractor.extract_file(path, ["a dog", " a  dog"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


# Progress, and stopping.


def test_progress_of_a_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK_FRAMES, 20_000)
    path = recorded(tmp_path / "x.wav", noise(2, 3 * RATE))
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
    path = recorded(tmp_path / "x.wav", noise(2, 3 * RATE))
    out = tmp_path / "out"
    half_written: list[list[str]] = []

    def stop(share: float) -> None:
        if share >= 0.5:
            half_written.append(names(out))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], out, format=format, progress=stop)
    (before,) = half_written
    assert len(before) == 4
    assert all(name.startswith(".") and name.endswith(".partial") for name in before)
    assert names(out) == []

    # Files of an earlier run stay as they were.
    extractor.extract_file(path, "a dog", out, format=format)
    old = {name: (out / name).read_bytes() for name in names(out)}
    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], out, format=format, progress=stop)
    assert {name: (out / name).read_bytes() for name in names(out)} == old


def test_stopping_between_two_pictures_leaves_no_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is drawn when the second is stopped: it must not appear alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    draw, drawn = FigureCanvasAgg.print_figure, []

    def stop_at_second(self: Any, *arguments: Any, **options: Any) -> None:
        if drawn:
            raise KeyboardInterrupt
        draw(self, *arguments, **options)
        drawn.append(names(tmp_path / "out"))

    monkeypatch.setattr(FigureCanvasAgg, "print_figure", stop_at_second)
    path = recorded(tmp_path / "x.wav", noise(1, 9_000), 8_000)
    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], tmp_path / "out", plot=True)
    assert len(drawn[0]) == 5
    assert names(tmp_path / "out") == []


def test_a_recording_that_ends_badly_leaves_no_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong may be seen when much is already written."""
    monkeypatch.setattr(BLOCK_FRAMES, 20_000)
    audio = noise(2, 3 * RATE)
    audio[1, -7] = np.nan
    path = recorded(tmp_path / "x.wav", audio, subtype="FLOAT")
    shares: list[float] = []
    with pytest.raises(AudioError, match="NaN or infinite"):
        extractor.extract_file(path, "a dog", tmp_path / "out", progress=shares.append)
    assert shares
    assert names(tmp_path / "out") == []


# Several queries, several recordings.


def test_several_queries_give_what_each_gives_by_itself(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.wav", noise(2, RATE), subtype="FLOAT")
    queries = ["a dog", "rain", "a violin"]
    together = list(extractor.extract_many([path], queries))
    written = extractor.extract_file(path, queries, tmp_path)
    assert [result.query for result in together] == [Query.of(query) for query in queries]
    for query, result, files in zip(queries, together, written, strict=True):
        alone = extractor.extract(path, query)
        np.testing.assert_allclose(result.target, alone.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.residual, alone.residual, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(samples(files.target, "float32"), result.target)
    for first, second in pairwise(together):
        assert np.abs(first.target - second.target).max() > 1e-4


def test_many_recordings_in_order(extractor: Extractor, tmp_path: Path) -> None:
    audio = [noise(1, 5_000, seed=seed) for seed in range(3)]
    path = recorded(tmp_path / "x.wav", audio[1], subtype="FLOAT")
    results = list(extractor.extract_many([audio[0], path, audio[2][0]], ["a dog", "rain"], RATE))
    assert [str(result.query) for result in results] == ["a dog", "rain"] * 3
    assert [result.source for result in results] == [None, None, path, path, None, None]
    for number, result in enumerate(results):
        alone = extractor.extract(audio[number // 2], result.query, RATE)
        np.testing.assert_allclose(result.target, alone.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            result.target + result.residual, audio[number // 2], rtol=0, atol=1e-6
        )
    (one,) = extractor.extract_many(str(path), "a dog")
    np.testing.assert_array_equal(one.target, results[2].target)


def test_a_bad_recording_among_many(extractor: Extractor, tmp_path: Path) -> None:
    missing = tmp_path / "missing.wav"
    bad = np.full(99, np.nan, np.float32)
    recordings = [noise(1, 999), missing, bad, noise(1, 999, seed=1)]
    told: list[tuple[Recording, SingleoutError]] = []
    results = list(
        extractor.extract_many(
            recordings, "a dog", RATE, on_error=lambda *problem: told.append(problem)
        )
    )
    assert len(results) == 2
    np.testing.assert_allclose(
        results[1].target + results[1].residual, recordings[3], rtol=0, atol=1e-6
    )
    assert told[0][0] is missing
    assert told[1][0] is bad
    assert "no such file" in str(told[0][1])
    assert "NaN" in str(told[1][1])

    many = extractor.extract_many(recordings, "a dog", RATE)
    assert isinstance(next(many), Extraction)
    with pytest.raises(AudioError, match="no such file"):
        next(many)


def test_an_impossible_query_is_refused_before_any_recording_is_read(
    extractor: Extractor, tmp_path: Path
) -> None:
    read: list[int] = []

    def recordings() -> Iterator[Recording]:
        read.append(1)
        yield noise()

    impossible = Query("a dog", negative=("traffic",))
    told: list[object] = []
    many = extractor.extract_many(
        recordings(), ["rain", impossible], RATE, on_error=lambda *problem: told.append(problem)
    )
    with pytest.raises(QueryError, match="negative prompts"):
        next(many)
    assert not read
    assert not told
    path = recorded(tmp_path / "x.wav", noise())
    with pytest.raises(QueryError, match="negative prompts"):
        extractor.extract_file(path, impossible, tmp_path / "out")
    assert names(tmp_path) == ["x.wav"]


# Block by block.


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate"),
    [("wav", "PCM_16", 44_100), ("flac", "PCM_24", 32_000), ("wav", "PCM_32", 8_000)],
)
def test_blocks_are_the_recording_and_its_targets(
    extractor: Extractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    subtype: str,
    rate: int,
) -> None:
    path = recorded(tmp_path / f"x.{suffix}", noise(2, 3 * rate + 17), rate, subtype)
    queries = ["a dog", "rain"]
    expected = list(extractor.extract_many([path], queries))
    monkeypatch.setattr(BLOCK_FRAMES, 7_777)
    blocks = list(extractor.extract_blocks(path, queries))
    assert len(blocks) > 3
    for mixture, targets in blocks:
        assert mixture.shape[1] > 0
        assert targets.shape == (2, *mixture.shape)
        assert targets.dtype == np.float32
        assert mixture.dtype == (np.float64 if subtype == "PCM_32" else np.float32)
    mixture = np.concatenate([mixture for mixture, _ in blocks], axis=1)
    np.testing.assert_array_equal(mixture, samples(path, "float64"))
    for number, result in enumerate(expected):
        found = np.concatenate([targets[number] for _, targets in blocks], axis=1)
        np.testing.assert_allclose(found, result.target, rtol=0, atol=1e-6)


def test_blocks_of_an_array(extractor: Extractor) -> None:
    audio = noise(2, 3 * RATE)
    blocks = list(extractor.extract_blocks(audio, "a dog", RATE))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks], axis=1), audio)
    target = np.concatenate([targets[0] for _, targets in blocks], axis=1)
    np.testing.assert_array_equal(target, extractor.extract(audio, "a dog", RATE).target)


def test_a_caller_that_computes_between_blocks(extractor: Extractor) -> None:
    """The mode without gradients is the extractor's own, not its caller's."""
    weight = torch.ones(1, requires_grad=True)
    for _, targets in extractor.extract_blocks(noise(1, 2 * RATE), "a dog", RATE):
        assert not torch.is_inference_mode_enabled()
        (weight * torch.from_numpy(targets)).sum().backward()
    assert weight.grad is not None


class Moody(Identity):
    """Says something else every time, as no separator should; half precision does a little."""

    def __init__(self) -> None:
        super().__init__(IdentityConfig(sample_rate=RATE))
        self.sign = 1.0

    def decode(self, encoded: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        self.sign = -self.sign
        return torch.full_like(encoded, self.sign)


def test_chunks_that_differ_are_faded_into_each_other() -> None:
    audio = noise(1, 5 * RATE)
    found = list(separated(Moody(), [audio], [Condition.single(torch.zeros(1, 1))], RATE))
    assert len(found) == 5
    target = np.concatenate(found, axis=2)[0, 0]
    assert (target.min(), target.max()) == (-1, 1)
    steepest = np.pi / (FADE_SECONDS * RATE)  # of a raised cosine from -1 to 1
    assert np.abs(np.diff(target)).max() <= 1.01 * steepest


# Threads and devices.


def test_eight_threads_share_an_extractor(extractor: Extractor, tmp_path: Path) -> None:
    audio = [noise(1 + seed % 2, 9_000 + 3_000 * seed, seed) for seed in range(8)]
    paths = [recorded(tmp_path / f"{n}.wav", each) for n, each in enumerate(audio)]
    queries = ["a dog", "rain", "a violin", "wind"] * 2
    expected = [extractor.extract(path, query) for path, query in zip(paths, queries, strict=True)]
    all_at_once = Barrier(8, timeout=60)

    def work(path: Path, query: str) -> tuple[Extraction, Path]:
        all_at_once.wait()
        result = extractor.extract(path, query)
        return result, extractor.extract_file(path, query, tmp_path / "out")[0].target

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, paths, queries))
    for alone, (result, target) in zip(expected, results, strict=True):
        np.testing.assert_allclose(result.target, alone.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.residual, alone.residual, rtol=0, atol=1e-6)
        assert np.abs(samples(target, "float32") - alone.target).max() <= 2**-16 + 1e-6
    assert len(names(tmp_path / "out")) == 16


@pytest.mark.parametrize("device", ["auto", "cpu", None])
def test_devices_that_work(
    debug_model_folder: Path, extractor: Extractor, device: str | None
) -> None:
    found = Extractor.from_pretrained(debug_model_folder, device=device)
    result = found.extract(noise(1, 9_000), "a dog", RATE)
    expected = extractor.extract(noise(1, 9_000), "a dog", RATE)
    np.testing.assert_allclose(result.target, expected.target, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["nonsense", "", "cuda", "meta"])
def test_devices_that_do_not(debug_model_folder: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it works on this machine")
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used") as raised:
        Extractor.from_pretrained(debug_model_folder, device=device)
    assert "\n" not in str(raised.value)


# What is refused, and what is only unusual.


def test_a_recording_is_never_overwritten(extractor: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.a-dog.target.wav", noise(1, 999))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract_file(path, "a dog", tmp_path, name="x")
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract(path, "a dog").save(tmp_path, "x")
    # Nor by another name of its own.
    link = tmp_path / "out" / "y.a-dog.residual.wav"
    link.parent.mkdir()
    link.hardlink_to(path)
    with pytest.raises(OutputError, match="is the recording itself"):
        extractor.extract_file(path, ["rain", "a dog"], link.parent, name="y")
    assert path.read_bytes() == before
    assert names(link.parent) == [link.name]
    extractor.extract_file(path, "a dog", tmp_path)
    assert path.read_bytes() == before


def test_a_folder_where_a_file_should_go(extractor: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.wav", noise(1, 999))
    blocked = tmp_path / "out" / "x.a-dog.residual.wav"
    blocked.mkdir(parents=True)
    with pytest.raises(OutputError, match="is a folder") as raised:
        extractor.extract_file(path, ["rain", "a dog"], tmp_path / "out")
    assert str(blocked) in str(raised.value)
    with pytest.raises(OutputError, match="is a folder"):
        extractor.extract(path, "a dog").save(tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be created"):
        extractor.extract_file(path, "a dog", path / "below")
    assert names(tmp_path / "out") == [blocked.name]
    assert names(blocked) == []


@pytest.mark.parametrize(
    ("channels", "num_samples", "rate"),
    [(1, 1, 8_000), (2, 1, 192_000), (1, 50_000, 192_000), (12, 9_000, 48_000), (64, 500, 8_000)],
)
def test_unusual_recordings(
    extractor: Extractor, tmp_path: Path, channels: int, num_samples: int, rate: int
) -> None:
    path = recorded(tmp_path / "x.wav", noise(channels, num_samples), rate, "PCM_24")
    for linked in (True, False):
        (written,) = extractor.extract_file(path, "a dog", tmp_path, link_channels=linked)
        info = soundfile.info(written.target)
        assert (info.channels, info.frames, info.samplerate) == (channels, num_samples, rate)
        total = samples(written.target, "int32") + samples(written.residual, "int32")
        np.testing.assert_array_equal(total, samples(path, "int32"))


def test_too_many_channels(extractor: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.wav", noise(65, 99), 8_000)
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: has 65 channels, the limit"):
        extractor.extract_file(path, "a dog", tmp_path / "out")
    wide = recorded(tmp_path / "y.wav", noise(9, 99), 8_000, "PCM_16")
    with pytest.raises(OutputError, match="write WAV"):
        extractor.extract_file(wide, "a dog", tmp_path / "out", format="flac")
    assert not list((tmp_path / "out").glob("*"))


def test_a_recording_of_days_is_named(extractor: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.wav", noise(1, 8 * 3600 * 25), 8, "PCM_16")
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: lasts 25 hours at 8 Hz"):
        extractor.extract_file(path, "a dog", tmp_path / "out")


@pytest.mark.parametrize("failing", ["target", "residual"])
def test_a_file_that_cannot_be_finished_takes_the_others_along(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A header is written last: none of a recording's files appears before all are whole."""
    path = recorded(tmp_path / "x.wav", noise(1, 9_000), RATE)
    close = WavFile.close

    def full(self: WavFile) -> None:
        close(self)
        if failing in str(self._file.name):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(WavFile, "close", full)
    with pytest.raises(OutputError, match=f"{failing}.*No space left on device"):
        extractor.extract_file(path, ["a dog", "rain"], tmp_path / "out")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("is_aside", [False, True])
@pytest.mark.parametrize("failing", ["target.wav", "residual.wav", "png"])
def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(
    extractor: Extractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    is_aside: bool,
) -> None:
    """Such as while somebody plays it, on Windows: a new residual beside an old target would not
    add up. Where there were none before, there are none."""
    path = recorded(tmp_path / "x.wav", noise(1, 9_000), RATE)
    out = tmp_path / "out"
    extractor.extract_file(path, "a dog", out, plot=True)
    before = {each: each.read_bytes() for each in out.iterdir()}
    recorded(path, noise(1, 9_000, seed=5), RATE)
    replace = Path.replace

    def locked(self: Path, target: Path) -> Path:
        place = self if is_aside else target
        is_meant = str(place).endswith(failing) and (".old." in target.name) == is_aside
        if is_meant and ".old." not in self.name:  # to bring it back works
            raise PermissionError(13, "Permission denied", str(place))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", locked)
        for folder in (out,) if is_aside else (out, tmp_path / "new"):
            with pytest.raises(OutputError, match=f"{failing}: cannot be written: Permission"):
                extractor.extract_file(path, "a dog", folder, plot=True)
    assert {each: each.read_bytes() for each in out.iterdir()} == before
    assert is_aside or names(tmp_path / "new") == []
    extractor.extract_file(path, "a dog", out, plot=True)
    after = {each: each.read_bytes() for each in out.iterdir()}
    assert after.keys() == before.keys()
    assert after != before


def test_what_was_extracted_is_saved_when_the_recording_has_gone(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.wav", noise(1, 9_000), RATE)
    found = extractor.extract(path, "a dog")
    found.save(tmp_path / "out")
    path.unlink()
    assert found.save(tmp_path / "out").target.is_file()


def test_an_aiff_that_would_be_too_long_is_named(extractor: Extractor, tmp_path: Path) -> None:
    info = AudioInfo(192_000, 8, 192_000 * 3_600, "WAV", "PCM_24")
    wanted = OutputOptions(tmp_path, "aiff")
    with pytest.raises(OutputError, match=r"^/somewhere/x\.wav: format 'aiff' ends at 4 GB"):
        PartFiles(wanted, "x", [Query.of("a dog")], info, Path("/somewhere/x.wav"))


# In notebooks.

AUDIO = re.compile(r'<audio controls src="data:audio/wav;base64,([^"]+)"></audio>')
IMAGE = re.compile(r'<img [^>]*src="data:image/png;base64,([^"]+)">')


def players(html: str) -> list[NDArray[np.float64]]:
    """[channels, samples] of each, as a browser would decode it."""
    decoded = [
        soundfile.read(io.BytesIO(b64decode(text)), always_2d=True) for text in AUDIO.findall(html)
    ]
    assert {rate for _, rate in decoded} == {8_000}
    return [audio.T for audio, _ in decoded]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_notebook_gets_players_and_a_picture(extractor: Extractor, channels: int) -> None:
    audio = noise(channels, 12_345)
    result = extractor.extract(audio, 'a <b>dog</b> & "cat"', 8_000)
    html = result._repr_html_()
    heard = players(html)
    parts = [audio, result.target, result.residual]
    assert len(heard) == 3
    for player, part in zip(heard, parts, strict=True):
        expected = part if channels <= 2 else part.mean(0, keepdims=True)
        assert player.shape == expected.shape
        np.testing.assert_allclose(player, expected.clip(-1, 1), rtol=0, atol=1 / 32_000)
    assert [html.count(f"<td>{name}</td>") for name in ("mixture", "target", "residual")] == [1] * 3
    (picture,) = IMAGE.findall(html)
    assert b64decode(picture).startswith(b"\x89PNG")
    assert "a &lt;b&gt;dog&lt;/b&gt; &amp; &quot;cat&quot;: 1.5 s<" in html
    assert "<b>dog" not in html


def test_a_notebook_does_not_get_more_than_a_minute(
    identity_model: QueriedSeparator, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(1, 61 * 8_000)
    result = Extractor(identity_model).extract(audio, "anything", 8_000)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = result._repr_html_()
    heard = players(html)
    assert [player.shape for player in heard] == [(1, 60 * 8_000)] * 3
    np.testing.assert_allclose(heard[0], audio[:, : 60 * 8_000], rtol=0, atol=1 / 32_000)
    assert "61.0 s, the first 60 s of each" in html
    assert not IMAGE.search(html)  # without matplotlib there is none


def test_plot_is_a_figure(extractor: Extractor) -> None:
    from matplotlib.figure import Figure

    figure = extractor.extract(noise(2, 16_000), "a dog", 8_000).plot()
    assert isinstance(figure, Figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes[:3]]
    assert titles == ["mixture", "target: a dog", "residual"]
    assert figure.axes[0].get_xlim() == (0, 2)
    assert figure.axes[0].get_images()[0].get_array().max() == 0  # its loudest point is 0 dB


# Spectrograms of any length.


@settings(deadline=None, max_examples=10)
@given(
    lengths=st.lists(st.integers(0, 6_000), min_size=1, max_size=5),
    channels=st.integers(1, 2),
    rate=st.sampled_from([300, 1_000, 8_000]),
    expected=st.booleans(),
)
def test_a_spectrogram_of_blocks_is_that_of_the_whole(
    lengths: list[int], channels: int, rate: int, expected: bool
) -> None:
    """Low rates reach the length at which columns are dropped."""
    total = sum(lengths)
    audio = noise(channels, total)
    whole, blockwise = (Spectrogram(rate, total if expected else 0) for _ in range(2))
    whole.push(audio)
    for block in np.split(audio, np.cumsum(lengths)[:-1], axis=1):
        blockwise.push(block)
    picture = whole.decibels()
    np.testing.assert_array_equal(blockwise.decibels(), picture)
    assert picture.shape[0] == NUM_ROWS
    assert 1 <= picture.shape[1] <= 2 * NUM_COLUMNS


def pushed(audio: NDArray[Any], rate: int, expected_samples: int = 0) -> NDArray[np.float64]:
    spectrogram = Spectrogram(rate, expected_samples)
    for start in range(0, audio.shape[1], 30_000):
        spectrogram.push(audio[:, start : start + 30_000])
    return spectrogram.decibels()


def row_of(hz: NDArray[Any] | float, rate: int) -> NDArray[Any]:
    return np.asarray(mel(hz) / mel(rate / 2) * (NUM_ROWS - 1))


@pytest.mark.parametrize("hz", [100.0, 1_000.0, 3_100.0])
def test_a_tone_lights_up_its_row_however_long(hz: float) -> None:
    rate, seconds = 8_000, 100
    time = np.arange(seconds * rate) / rate
    picture = pushed(0.5 * np.sin(2 * np.pi * hz * time)[None], rate)
    assert NUM_COLUMNS <= picture.shape[1] <= 2 * NUM_COLUMNS
    inside = picture[:, 2:-2]  # windows that reach over an edge see a step
    brightest = inside.argmax(0)
    # A row is finer than a window resolves where the tone is low.
    assert np.abs(brightest - row_of(hz, rate)).max() <= (6 if hz < 500 else 2)
    elsewhere = np.abs(np.arange(NUM_ROWS) - row_of(hz, rate)) > 60
    assert inside.max() - inside[elsewhere].max() > 60


def test_a_length_that_is_known_changes_little() -> None:
    """Fewer windows are taken; the picture is the same: here a tone that rises."""
    rate, seconds = 8_000, 60
    time = np.arange(seconds * rate) / rate
    hz = 300 + 50 * time
    audio = 0.5 * np.sin(2 * np.pi * (300 * time + 25 * time**2))[None]
    pictures = [pushed(audio, rate, expected) for expected in (0, audio.shape[1])]
    assert pictures[0].shape[1] != pictures[1].shape[1]
    shares = np.linspace(0.02, 0.98, 200)
    columns = [picture[:, (shares * picture.shape[1]).astype(int)] for picture in pictures]
    expected_rows = row_of(hz[(shares * len(hz)).astype(int)], rate)
    for column in columns:
        assert np.abs(column.argmax(0) - expected_rows).max() <= 3
    assert np.abs(columns[0].max(0) - columns[1].max(0)).max() < 1.0


def test_columns_that_are_dropped_leave_those_of_a_wider_hop() -> None:
    """To the bit what is taken at that hop from the start."""
    rate, hop = 1_000, 5 * 2**3
    audio = noise(1, hop * (NUM_COLUMNS + 500))
    kept, taken = pushed(audio, rate), pushed(audio, rate, hop * NUM_COLUMNS)
    assert kept.shape[1] == NUM_COLUMNS + 500
    np.testing.assert_array_equal(kept, taken)


def test_a_spectrogram_of_nothing_is_dark() -> None:
    assert (Spectrogram(8_000).decibels() == -120).all()
    assert (pushed(np.zeros((2, 9_999)), 8_000) == -120).all()
