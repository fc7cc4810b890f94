"""``QueriedSeparator``: conditions of queries, their sides and parts, examples, refusals."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from singleout import Example, Extractor, Query
from singleout.condition import Condition
from singleout.encoders import BuiltinEncoder
from singleout.errors import AudioError, QueryError, SingleoutError
from singleout.manipulations import Chain, FitEmbeddings, MeanShift
from singleout.model import ModelConfig, QueriedSeparator
from tests.conftest import TINY_SEPARATOR
from tests.recordings import (
    RATE,
    noise,
    with_final_stages,
    without_infrasound,
    write_recording,
)

DIM = 32


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """The tensors are equal to 1e-6."""
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def assert_same_condition(actual: Condition, expected: Condition) -> None:
    """The embeddings and weights are equal to 1e-6, and the masks are equal."""
    assert_close(actual.embeddings, expected.embeddings)
    assert_close(actual.weights, expected.weights)
    assert torch.equal(actual.mask, expected.mask)


def sides_of(model: QueriedSeparator, query: Query) -> tuple[Tensor, Tensor]:
    """Embeddings [1, dim] of the positive and the negative side of a query of one part."""
    condition = model.embed(query)
    assert condition.embeddings.shape == (1, 1, model.condition_dim)
    assert condition.embeddings.dtype == torch.float32
    assert condition.weights.tolist() == [[1.0]]
    assert condition.mask.tolist() == [[bool(query.positive), bool(query.negative)]]
    positive, negative = condition.embeddings[0].chunk(2, -1)
    return positive, negative


BARK, HUM = (Example(noise(9_000, seed=seed)[0], RATE) for seed in (1, 2))


def test_a_missing_side_is_zeros(calibrated_model: QueriedSeparator) -> None:
    dog = F.normalize(calibrated_model.encoder.embed_text("a dog"), dim=-1)
    rain = F.normalize(calibrated_model.encoder.embed_text("rain"), dim=-1)
    none = torch.zeros(1, DIM)
    for query, positive, negative in (
        (Query("a dog"), dog, none),
        (Query((), "a dog"), none, dog),
        (Query("a dog", "rain"), dog, rain),
        (Query("rain", "a dog"), rain, dog),
    ):
        for side, expected in zip(
            sides_of(calibrated_model, query), (positive, negative), strict=True
        ):
            assert_close(side, expected)
            assert side.any() == expected.any()


def test_an_example_is_embedded_as_in_training(calibrated_model: QueriedSeparator) -> None:
    bark = calibrated_model.encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)
    assert_close(sides_of(calibrated_model, Query(BARK))[0], bark)
    assert_close(sides_of(calibrated_model, Query((), (BARK,)))[1], bark)
    conditions = calibrated_model.condition(bark, is_text=False)
    assert_same_condition(calibrated_model.embed(Query(BARK)), conditions)
    assert not conditions.embeddings[..., DIM:].any()


def test_texts_and_examples_are_weighted_by_their_number(
    calibrated_model: QueriedSeparator,
) -> None:
    encoder = calibrated_model.encoder
    text = F.normalize(encoder.embed_text(["a dog", "a puppy"]).mean(0, keepdim=True), dim=-1)
    audio = encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)
    assert_close(sides_of(calibrated_model, Query(("a dog", "a puppy")))[0], text)
    for query, expected in (
        (Query(("a dog", "a puppy", BARK)), 2 * text + audio),
        (Query(("a dog", "a puppy", BARK, BARK, BARK)), 2 * text + 3 * audio),
    ):
        side, _ = sides_of(calibrated_model, query)
        assert_close(side, F.normalize(expected, dim=-1))
        assert float(side.norm()) == pytest.approx(1, abs=1e-5)
        for part in (text, audio):  # closer to each part than the parts are to each other
            assert float((side * part).sum()) > float((text * audio).sum())


def test_the_order_of_prompts_does_not_matter(calibrated_model: QueriedSeparator) -> None:
    prompts: tuple[str | Example, ...] = ("a dog", BARK, "a puppy", HUM)
    first, *others = (
        calibrated_model.embed(Query(order, order[:2][::-1] + order[2:]))
        for order in permutations(prompts)
    )
    assert len(others) == 23
    for other in others:
        assert_same_condition(other, first)


@pytest.fixture
def shifted_model(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """A tiny model whose embeddings have any norm. Zeros are not mapped to zeros."""
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        manipulation=Chain(steps=(MeanShift(renormalise=False),)),
        negative=True,
    )
    model = QueriedSeparator(config, debug_encoder).eval()
    audio, text = torch.randn(2, 20, DIM, generator=torch.Generator().manual_seed(0))
    model.manipulator.fit(FitEmbeddings(audio, text, torch.arange(20)))
    return model


def test_the_norm_of_a_mixed_query_is_the_mean_norm_of_its_prompts(
    shifted_model: QueriedSeparator,
) -> None:
    encoder = shifted_model.encoder
    manipulate = shifted_model.manipulator.for_inference
    text = manipulate(F.normalize(encoder.embed_text("a dog"), dim=-1), True)
    audio = manipulate(encoder.embed_audio(torch.as_tensor(BARK.audio), RATE), False)
    assert manipulate(torch.zeros(1, DIM), False).any()
    assert_close(sides_of(shifted_model, Query("a dog"))[0], text)
    assert_close(sides_of(shifted_model, Query(BARK))[0], audio)
    positive, negative = sides_of(shifted_model, Query(("a dog", BARK)))
    assert not negative.any()
    assert_close(F.normalize(positive, dim=-1), F.normalize(text + audio, dim=-1))
    norms = float(text.norm()), float(audio.norm())
    assert min(norms) > 1.1
    assert abs(norms[0] - norms[1]) > 0.01
    assert float(positive.norm()) == pytest.approx(sum(norms) / 2, abs=1e-5)
    three, _ = sides_of(shifted_model, Query(("a dog", BARK, BARK)))
    assert float(three.norm()) == pytest.approx((norms[0] + 2 * norms[1]) / 3, abs=1e-5)


def test_a_text_has_one_part_per_sound_that_stands_for_it(
    neighbours_model: QueriedSeparator,
) -> None:
    encoder, condition = neighbours_model.encoder, neighbours_model.manipulator.condition
    dog, rain = (
        condition(F.normalize(encoder.embed_text(t), dim=-1), True) for t in ("dog", "rain")
    )
    audio = encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)[:, None]
    none = torch.zeros(1, 3, DIM)
    both = dog.weights * rain.weights
    for query, positive, negative, weights in (
        (Query("dog"), dog.embeddings, none, dog.weights),
        (Query((), "dog"), none, dog.embeddings, dog.weights),
        (Query("dog", "rain"), dog.embeddings, rain.embeddings, both / both.sum()),
        (Query("dog", BARK), dog.embeddings, audio.expand(1, 3, -1), dog.weights),
        (Query(("dog", BARK)), F.normalize(dog.embeddings + audio, dim=-1), none, dog.weights),
        (Query(BARK), audio, none[:, :1], torch.ones(1, 1)),
    ):
        mask = torch.tensor([[bool(query.positive), bool(query.negative)]])
        assert_same_condition(
            neighbours_model.embed(query),
            Condition(torch.cat([positive, negative], -1), weights, mask),
        )


def test_the_estimates_of_all_parts_are_averaged(neighbours_model: QueriedSeparator) -> None:
    """This holds for whole mixtures and for chunks. Queries may differ in their number of parts."""
    mixture = noise(RATE)
    queries = [Query("dog"), Query(BARK), Query((BARK, "rain"), "dog")]
    conditions = [neighbours_model.embed(query) for query in queries]
    assert [condition.weights.shape[1] for condition in conditions] == [3, 1, 3]
    with torch.inference_mode():
        batch = torch.from_numpy(without_infrasound(mixture, RATE))[None]
        together = neighbours_model.separate(batch, conditions)
        for condition, target in zip(conditions, together, strict=True):
            by_part = torch.cat(
                [
                    neighbours_model(batch, Condition.single(part[None]))
                    for part in condition.embeddings[0]
                ]
            )
            assert_close(target[0], (condition.weights[0, :, None, None] * by_part).sum(0))
            assert_close(neighbours_model(batch, condition), target)
            if len(by_part) > 1:
                assert (by_part[0] - by_part[1]).abs().max() > 1e-4
    extractor = Extractor(neighbours_model, chunk_seconds=0.2)
    results = extractor.extract_many([mixture], queries, RATE)
    for target, extraction in zip(together, results, strict=True):
        expected = with_final_stages(target.numpy(), RATE)[0]
        np.testing.assert_allclose(extraction.target, expected, atol=1e-5)
        assert extraction.presence is None  # the model is not calibrated


def test_a_model_without_negative_prompts_refuses_them(
    debug_model: QueriedSeparator, extractor: Extractor
) -> None:
    assert_close(
        debug_model.embed(Query(("a dog", BARK))).embeddings[0],
        F.normalize(
            F.normalize(debug_model.encoder.embed_text("a dog"), dim=-1)
            + debug_model.encoder.embed_audio(torch.as_tensor(BARK.audio), RATE),
            dim=-1,
        ),
    )
    assert debug_model.condition_dim == DIM
    for query, named in (
        (Query("a dog", ("traffic", BARK)), r"\(traffic, like an example\)"),
        (Query((), "traffic"), r"\(traffic\)"),
        (Query((), Path("no.wav")), r"\(like no\.wav\)"),
    ):
        for use in (debug_model.embed, lambda query: extractor.extract(noise(), query, RATE)):
            with pytest.raises(QueryError, match=f"cannot answer negative prompts {named}: leave"):
                use(query)


def test_negative_prompts_change_the_target(calibrated_extractor: Extractor) -> None:
    targets = [
        calibrated_extractor.extract(noise(), query, RATE).target
        for query in (
            Query("a dog"),
            Query("a dog", "rain"),
            Query("a dog", BARK),
            Query((), "rain"),
            Query(BARK),
            Query(("a dog", BARK)),
        )
    ]
    for number, target in enumerate(targets):
        assert np.abs(target).max() > 0.01
        assert all(np.abs(target - other).max() > 1e-5 for other in targets[:number])


def test_a_file_and_its_samples_are_the_same_example(
    calibrated_model: QueriedSeparator, tmp_path: Path
) -> None:
    for channels, rate in ((1, 32_000), (2, 44_100), (3, 8_000)):
        audio = noise(9_000, channels)
        path = write_recording(tmp_path / f"{channels}.wav", audio, rate, "FLOAT")
        expected = calibrated_model.embed(Query(Example(audio, rate)))
        for example in (Example(path), Example(str(path)), path):
            assert_same_condition(calibrated_model.embed(Query(example)), expected)
        mean = calibrated_model.encoder.embed_audio(torch.from_numpy(audio.mean(0)), rate)
        assert_close(expected.embeddings[0, :, :DIM], mean)


def test_all_kinds_of_arrays(calibrated_model: QueriedSeparator) -> None:
    audio = noise(9_000)
    before = audio.copy()
    expected = calibrated_model.embed(Query(Example(audio[0], RATE)))
    kinds: list[ArrayLike] = [
        audio,
        audio.tolist(),
        torch.from_numpy(audio),
        audio.astype(np.float64),
        audio[:, ::-1].copy()[:, ::-1],
    ]
    for kind in kinds:
        assert_same_condition(calibrated_model.embed(Query(Example(kind, RATE))), expected)
    np.testing.assert_array_equal(audio, before)
    # The encoder normalises the level of a sound, so that a quiet example is the same.
    quiet = calibrated_model.embed(Query(Example(0.01 * audio, RATE)))
    torch.testing.assert_close(quiet.embeddings, expected.embeddings, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("audio", "rate", "error", "reason"),
    [
        (noise(), None, AudioError, "give sample_rate"),
        (noise(), 0, AudioError, "must be positive"),
        (noise(), 44_100.5, AudioError, "whole number"),
        (np.zeros(0, np.float32), RATE, AudioError, "no samples"),
        (np.zeros(9, np.int16), RATE, AudioError, "not int16"),
        (np.array([0.1, np.nan]), RATE, AudioError, "NaN or infinite"),
        (np.zeros((1, 1, 9), np.float32), RATE, AudioError, "shape"),
        (None, RATE, AudioError, "must be floats"),
        (np.zeros((2, 9_000), np.float32), RATE, QueryError, "the example: is silent"),
        (1e-6 * noise(), RATE, QueryError, "the example: is silent"),
        (np.concatenate([noise(), -noise()]), RATE, QueryError, "the example: is silent"),
        (
            noise(8_000 * 60 + 8_000),
            8_000,
            QueryError,
            "the example: lasts 61 s, an example may last 60 s",
        ),
        (noise(100), 1, QueryError, "the example: lasts 100 s"),
    ],
)
def test_arrays_that_cannot_be_examples(
    calibrated_extractor: Extractor, audio: Any, rate: Any, error: type[SingleoutError], reason: str
) -> None:
    for query in (Query(Example(audio, rate)), Query("a dog", (Example(audio, rate),))):
        with pytest.raises(error, match=reason) as raised:
            calibrated_extractor.extract(noise(), query, RATE)
        assert "\n" not in str(raised.value)


def test_files_that_cannot_be_examples(calibrated_extractor: Extractor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    silent = write_recording(tmp_path / "silent.wav", np.zeros((1, 9_000)))
    minute = write_recording(tmp_path / "minute.wav", noise(8_000 * 60), 8_000)
    recording = write_recording(tmp_path / "x.wav", noise(9_000))
    for path, error, reason in (
        (tmp_path / "no.wav", AudioError, "no such file"),
        (tmp_path, AudioError, "is a folder"),
        (damaged, AudioError, "cannot be read as audio"),
        (silent, QueryError, "is silent: give an example with the"),
    ):
        with pytest.raises(error) as raised:
            calibrated_extractor.extract_file(recording, ["a dog", path], tmp_path / "out")
        assert str(raised.value).startswith(f"{path}: ")
        assert reason in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    calibrated_extractor.extract(recording, minute)


def test_a_long_example_is_refused_before_it_is_read(
    calibrated_model: QueriedSeparator, tmp_path: Path
) -> None:
    """Its length is refused before its samples are read. Here the last sample would be refused."""
    audio = noise(8_000 * 61)
    audio[0, -1] = np.nan
    path = write_recording(tmp_path / "long.wav", audio, 8_000, "FLOAT")
    with pytest.raises(QueryError, match=r"long\.wav: lasts 61 s, an example may last 60 s: cut"):
        calibrated_model.embed(Query(path))


def test_an_example_may_be_as_short_as_a_sample(calibrated_model: QueriedSeparator) -> None:
    for rate in (1, 8_000, 192_000, 2**31 - 1):
        positive, _ = sides_of(calibrated_model, Query(Example(noise(1), rate)))
        assert torch.isfinite(positive).all()
        assert float(positive.norm()) == pytest.approx(1, abs=1e-5)


def test_a_bare_path_is_an_example_everywhere(
    calibrated_extractor: Extractor, tmp_path: Path
) -> None:
    bark = write_recording(tmp_path / "bark.wav", noise(9_000, seed=1))
    expected = calibrated_extractor.extract(noise(), Example(bark), RATE)
    (many,) = calibrated_extractor.extract_many([noise()], bark, RATE)
    ((_, targets),) = calibrated_extractor.extract_blocks(noise(9_000), bark, RATE)
    for target in (calibrated_extractor.extract(noise(), bark, RATE).target, many.target):
        np.testing.assert_array_equal(target, expected.target)
    assert targets.shape == (1, 1, 9_000)
    (written,) = calibrated_extractor.extract_file(bark, bark, tmp_path / "out")
    assert written.query == "like bark.wav"


def test_prepare_refuses_queries_that_cannot_be_used(
    calibrated_extractor: Extractor, extractor: Extractor, tmp_path: Path
) -> None:
    calibrated_extractor.prepare(["a dog", Query("a dog", "rain"), BARK])
    with pytest.raises(AudioError, match="no such file"):
        calibrated_extractor.prepare(["a dog", tmp_path / "no.wav"])
    with pytest.raises(QueryError, match="negative prompts"):
        extractor.prepare(Query("a dog", "rain"))
