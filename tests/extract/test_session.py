"""Extraction of several queries and recordings at once, block by block, and in threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from singleout import Extraction, Extractor, Query
from singleout.errors import AudioError, QueryError, SingleoutError
from singleout.extract.sources import Recording
from tests.recordings import file_names, noise, read_samples, write_recording

RATE = 44_100
"""Not the rate of the model: targets are resampled."""
BLOCK_FRAMES = "singleout.audio.sources.BLOCK_FRAMES"
"""Largest block of a recording that is read at once, frames times channels."""


def test_several_queries_give_what_each_gives_by_itself(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "x.wav", noise(RATE, 2), RATE, subtype="FLOAT")
    queries = ["a dog", "rain", "a violin"]
    together = list(extractor.extract_many([path], queries))
    written = extractor.extract_file(path, queries, tmp_path)
    assert [result.query for result in together] == [Query.of(query) for query in queries]
    for query, result, files in zip(queries, together, written, strict=True):
        single = extractor.extract(path, query)
        np.testing.assert_allclose(result.target, single.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.residual, single.residual, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(read_samples(files.target, "float32"), result.target)
    for first, second in pairwise(together):
        assert np.abs(first.target - second.target).max() > 1e-4


def test_many_recordings_in_order(extractor: Extractor, tmp_path: Path) -> None:
    audio = [noise(5_000, seed=seed) for seed in range(3)]
    path = write_recording(tmp_path / "x.wav", audio[1], RATE, subtype="FLOAT")
    results = list(extractor.extract_many([audio[0], path, audio[2][0]], ["a dog", "rain"], RATE))
    assert [str(result.query) for result in results] == ["a dog", "rain"] * 3
    assert [result.source for result in results] == [None, None, path, path, None, None]
    for number, result in enumerate(results):
        single = extractor.extract(audio[number // 2], result.query, RATE)
        np.testing.assert_allclose(result.target, single.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            result.target + result.residual, audio[number // 2], rtol=0, atol=1e-6
        )
    (one,) = extractor.extract_many(str(path), "a dog")
    np.testing.assert_array_equal(one.target, results[2].target)


def test_a_bad_recording_among_many(extractor: Extractor, tmp_path: Path) -> None:
    missing = tmp_path / "missing.wav"
    bad = np.full(99, np.nan, np.float32)
    last = noise(999, seed=1)
    recordings: list[Recording] = [noise(999), missing, bad, last]
    problems: list[tuple[Recording, SingleoutError]] = []
    results = list(
        extractor.extract_many(
            recordings, "a dog", RATE, on_error=lambda *problem: problems.append(problem)
        )
    )
    assert len(results) == 2
    np.testing.assert_allclose(results[1].target + results[1].residual, last, rtol=0, atol=1e-6)
    assert problems[0][0] is missing
    assert problems[1][0] is bad
    assert "no such file" in str(problems[0][1])
    assert "NaN" in str(problems[1][1])

    many = extractor.extract_many(recordings, "a dog", RATE)
    assert isinstance(next(many), Extraction)
    with pytest.raises(AudioError, match="no such file"):
        next(many)


def test_an_unsupported_query_is_refused_before_any_recording_is_read(
    extractor: Extractor, tmp_path: Path
) -> None:
    reads: list[int] = []

    def recordings() -> Iterator[Recording]:
        reads.append(1)
        yield noise(30_000, 2)

    unsupported = Query("a dog", negative=("traffic",))
    problems: list[object] = []
    many = extractor.extract_many(
        recordings(),
        ["rain", unsupported],
        RATE,
        on_error=lambda *problem: problems.append(problem),
    )
    with pytest.raises(QueryError, match="negative prompts"):
        next(many)
    assert not reads
    assert not problems
    path = write_recording(tmp_path / "x.wav", noise(30_000, 2), RATE)
    with pytest.raises(QueryError, match="negative prompts"):
        extractor.extract_file(path, unsupported, tmp_path / "out")
    assert file_names(tmp_path) == ["x.wav"]


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate"),
    [("wav", "PCM_16", 44_100), ("flac", "PCM_24", 32_000), ("wav", "PCM_32", 8_000)],
)
def test_blocks_hold_the_recording_and_its_targets(
    extractor: Extractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    subtype: str,
    rate: int,
) -> None:
    path = write_recording(tmp_path / f"x.{suffix}", noise(3 * rate + 17, 2), rate, subtype)
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
    np.testing.assert_array_equal(mixture, read_samples(path, "float64"))
    for number, result in enumerate(expected):
        target = np.concatenate([targets[number] for _, targets in blocks], axis=1)
        np.testing.assert_allclose(target, result.target, rtol=0, atol=1e-6)


def test_blocks_of_an_array(extractor: Extractor) -> None:
    audio = noise(3 * RATE, 2)
    blocks = list(extractor.extract_blocks(audio, "a dog", RATE))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks], axis=1), audio)
    target = np.concatenate([targets[0] for _, targets in blocks], axis=1)
    np.testing.assert_array_equal(target, extractor.extract(audio, "a dog", RATE).target)


def test_a_caller_can_compute_gradients_between_blocks(extractor: Extractor) -> None:
    """Gradients are switched off inside of the extractor only."""
    weight = torch.ones(1, requires_grad=True)
    for _, targets in extractor.extract_blocks(noise(2 * RATE), "a dog", RATE):
        assert not torch.is_inference_mode_enabled()
        (weight * torch.from_numpy(targets)).sum().backward()
    assert weight.grad is not None


def test_eight_threads_share_an_extractor(extractor: Extractor, tmp_path: Path) -> None:
    audio = [noise(9_000 + 3_000 * seed, 1 + seed % 2, seed) for seed in range(8)]
    paths = [write_recording(tmp_path / f"{n}.wav", each, RATE) for n, each in enumerate(audio)]
    queries = ["a dog", "rain", "a violin", "wind"] * 2
    expected = [extractor.extract(path, query) for path, query in zip(paths, queries, strict=True)]
    barrier = Barrier(8, timeout=60)

    def work(path: Path, query: str) -> tuple[Extraction, Path]:
        barrier.wait()
        result = extractor.extract(path, query)
        return result, extractor.extract_file(path, query, tmp_path / "out")[0].target

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, paths, queries))
    for single, (result, target) in zip(expected, results, strict=True):
        np.testing.assert_allclose(result.target, single.target, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.residual, single.residual, rtol=0, atol=1e-6)
        assert np.abs(read_samples(target, "float32") - single.target).max() <= 2**-16 + 1e-6
    assert len(file_names(tmp_path / "out")) == 16
