"""DOC extract/test_pipeline.py"""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout import Cancelled, ExtractOptions, Extractor, Query
from singleout.extract.chunking import Block
from singleout.extract.pipeline import Pipeline
from singleout.extract.stages import Resample, ResampleTargets
from singleout.model import QueriedSeparator
from singleout.model.level_gate import Gate
from tests.recordings import RATE, noise

RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)


@pytest.fixture(scope="module")
def gated_model(calibrated_model_folder: Path) -> QueriedSeparator:
    """The tiny model with a level gate that is open halfway for most sounds."""
    model = QueriedSeparator.from_pretrained(calibrated_model_folder)
    gate = Gate(low=-0.5, high=0.5, floor_db=-20.0, gain_db=2.0)
    model.config = model.config.model_copy(update={"gate": gate})
    return model


def pipeline_of(
    model: QueriedSeparator, rate: int, channels: int = 1, chunk_seconds: float = 0.5
) -> Pipeline:
    """The pipeline of a model for two queries."""
    with torch.inference_mode():
        conditions = [model.embed(Query(text)) for text in ("a dog", "rain")]
    options = ExtractOptions(chunk_seconds=chunk_seconds)
    gate = model.level_gate(conditions)
    return Pipeline(model, conditions, rate, channels, options, gate=gate)


def push_all(pipeline: Pipeline, blocks: list[NDArray[np.float32]]) -> list[Block]:
    """Push all blocks and finish; the blocks that come back."""
    return [*(pipeline.push(block) for block in blocks), pipeline.finish()]


def joined(blocks: list[Block]) -> Block:
    """All blocks as one."""
    full = [block for block in blocks if block.mixture.shape[1]]
    mixture = np.concatenate([block.mixture for block in full], axis=1)
    return Block(mixture, np.concatenate([block.targets for block in full], axis=2))


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    rate=st.sampled_from([8_000, 32_000, 44_100]),
    channels=st.integers(1, 2),
)
def test_blocks_of_any_length_give_the_result_of_the_whole(
    gated_model: QueriedSeparator, lengths: list[int], rate: int, channels: int
) -> None:
    mixture = noise(sum(lengths) + 1, channels)
    blocks = np.split(mixture, np.cumsum(lengths), axis=1)
    whole = joined(push_all(pipeline_of(gated_model, rate, channels), [mixture]))
    pieces = joined(push_all(pipeline_of(gated_model, rate, channels), blocks))
    np.testing.assert_array_equal(pieces.mixture, mixture)
    np.testing.assert_array_equal(whole.mixture, mixture)
    assert pieces.targets.shape == (2, *mixture.shape)
    scale = float(np.abs(whole.targets).max())
    np.testing.assert_allclose(pieces.targets, whole.targets, rtol=0, atol=1e-5 * scale)


def test_a_pipeline_without_samples_gives_none(gated_model: QueriedSeparator) -> None:
    rest = pipeline_of(gated_model, RATE).finish()
    assert rest.mixture.shape[1] == 0
    assert rest.targets.shape == (2, 1, 0)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("is_back", [False, True])
def test_resamplers_hold_back_no_more_than_their_latency(rate: int, is_back: bool) -> None:
    rate_in, rate_out = (RATE, rate) if is_back else (rate, RATE)
    block = max(1, rate_in // 100)
    pushed = returned = 0
    stage = ResampleTargets(rate_in, rate_out, 1, 1) if is_back else Resample(rate_in, rate_out, 1)
    for _ in range(300):
        samples = np.zeros((1, 1, block) if is_back else (1, block), np.float32)
        returned += sum(each.shape[-1] for each in stage.push(samples))
        pushed += block
        held_back = pushed - returned * rate_in / rate_out
        assert held_back <= stage.latency_samples + 1
    if rate_in == rate_out:
        assert stage.latency_samples == 0


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_target_depends_on_no_sample_beyond_the_look_ahead(
    gated_model: QueriedSeparator, rate: int
) -> None:
    first, other = noise(16 * rate), noise(16 * rate, seed=1)
    known = 2 * rate
    reach = pipeline_of(gated_model, rate).look_ahead_samples
    assert known + reach < first.shape[1]
    other[:, : known + reach] = first[:, : known + reach]
    targets = [
        joined(push_all(pipeline_of(gated_model, rate), [mixture])).targets
        for mixture in (first, other)
    ]
    scale = float(np.abs(targets[0]).max())
    difference = np.abs(targets[0] - targets[1])
    assert difference[:, :, :known].max() <= 1e-5 * scale
    assert difference.max() > 0.1 * scale


def test_a_pipeline_holds_back_no_more_than_its_latency(gated_model: QueriedSeparator) -> None:
    pipeline = pipeline_of(gated_model, 44_100)
    pushed = returned = 0
    for _ in range(60):
        returned += pipeline.push(noise(22_050)).mixture.shape[1]
        pushed += 22_050
        assert pushed - returned <= pipeline.latency_samples
    assert returned


def test_a_set_event_cancels_before_the_next_chunk(extractor: Extractor, tmp_path: Path) -> None:
    cancel = Event()
    cancel.set()
    mixture = noise(RATE)
    with pytest.raises(Cancelled, match="audio: cancelled"):
        extractor.extract(mixture, "a dog", RATE, cancel=cancel)
    with pytest.raises(Cancelled):
        list(extractor.extract_blocks(mixture, "a dog", RATE, cancel=cancel))
    path = tmp_path / "x.wav"
    soundfile.write(path, mixture[0], RATE)
    with pytest.raises(Cancelled, match=r"x\.wav: cancelled"):
        extractor.extract_file(path, "a dog", tmp_path / "out", cancel=cancel)
    assert not (tmp_path / "out").exists()


def test_a_run_is_cancelled_half_way_and_leaves_no_files(
    extractor: Extractor, tmp_path: Path
) -> None:
    cancel, shares = Event(), []
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(4 * RATE)[0], RATE)

    def stop_after_the_first_chunk(share: float) -> None:
        shares.append(share)
        cancel.set()

    with pytest.raises(Cancelled):
        extractor.extract_file(
            path, "a dog", tmp_path / "out", progress=stop_after_the_first_chunk, cancel=cancel
        )
    assert len(shares) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kept_block_does_not_keep_the_samples_that_still_wait(
    gated_model: QueriedSeparator,
) -> None:
    pipeline = pipeline_of(gated_model, RATE)
    samples = np.zeros((1, 40 * RATE), np.float32)
    block = pipeline.push(samples)
    assert 0 < block.mixture.shape[1] < samples.shape[1]
    base = block.mixture if block.mixture.base is None else block.mixture.base
    assert base.nbytes == block.mixture.nbytes
