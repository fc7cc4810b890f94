"""FitEmbeddings as queries, negative prompts and presence, from the model to the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner, Result

from singleout import Example, Extractor, Query
from singleout.cli import app
from singleout.condition import Condition
from singleout.encoders import BuiltinEncoder
from singleout.errors import AudioError, ModelError, OutputError, QueryError, SingleoutError
from singleout.extract.names import query_slug, query_slugs
from singleout.manipulations import Chain, FitEmbeddings, MeanShift, Neighbours
from singleout.model import (
    ModelConfig,
    PresenceCalibration,
    QueriedSeparator,
    read_config,
)
from singleout.model.similarity import SimilarityMeter
from tests.conftest import TINY_SEPARATOR, randomise_statistics

RATE = 32_000
DIM = 32


def noise(num_samples: int = RATE, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(0, 0.1, (channels, num_samples))
    return drawn.clip(-0.9, 0.9).astype(np.float32)


def recorded(path: Path, audio: NDArray[Any], rate: int = RATE, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype=subtype)
    return path


def names(folder: Path) -> list[str]:
    """Hidden ones, too."""
    return sorted(path.name for path in folder.iterdir())


def close(found: Tensor | Condition, expected: Tensor | Condition) -> None:
    if isinstance(found, Condition):
        assert isinstance(expected, Condition)
        found, expected = (
            (each.embeddings, each.weights, each.mask.float()) for each in (found, expected)
        )  # type: ignore[assignment]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


# What a query is to the separator.


def sides(model: QueriedSeparator, query: Query) -> tuple[Tensor, Tensor]:
    condition = model.embed(query)
    assert condition.embeddings.shape == (1, 1, model.condition_dim)
    assert condition.embeddings.dtype == torch.float32
    assert condition.weights.tolist() == [[1.0]]
    assert condition.mask.tolist() == [[bool(query.positive), bool(query.negative)]]
    positive, negative = condition.embeddings[0].chunk(2, -1)
    return positive, negative


BARK, HUM, RAIN = (Example(noise(9_000, seed=seed)[0], RATE) for seed in (1, 2, 3))


def test_each_side_has_its_place_and_zeros_are_for_none(telling_model: QueriedSeparator) -> None:
    dog = F.normalize(telling_model.encoder.embed_text("a dog"), dim=-1)
    rain = F.normalize(telling_model.encoder.embed_text("rain"), dim=-1)
    none = torch.zeros(1, DIM)
    for query, positive, negative in (
        (Query("a dog"), dog, none),
        (Query((), "a dog"), none, dog),
        (Query("a dog", "rain"), dog, rain),
        (Query("rain", "a dog"), rain, dog),
    ):
        found = sides(telling_model, query)
        close(found[0], positive)
        close(found[1], negative)
        assert found[0].any() == positive.any()
        assert found[1].any() == negative.any()


def test_an_example_is_embedded_as_in_training(telling_model: QueriedSeparator) -> None:
    heard = telling_model.encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)
    close(sides(telling_model, Query(BARK))[0], heard)
    close(sides(telling_model, Query((), (BARK,)))[1], heard)
    conditions = telling_model.condition(heard, is_text=False)
    close(telling_model.embed(Query(BARK)), conditions)
    assert not conditions.embeddings[..., DIM:].any()


def test_words_and_sounds_count_as_many_times_as_there_are_of_each(
    telling_model: QueriedSeparator,
) -> None:
    encoder = telling_model.encoder
    said = F.normalize(encoder.embed_text(["a dog", "a puppy"]).mean(0, keepdim=True), dim=-1)
    heard = encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)
    close(sides(telling_model, Query(("a dog", "a puppy")))[0], said)
    for query, expected in (
        (Query(("a dog", "a puppy", BARK)), 2 * said + heard),
        (Query(("a dog", "a puppy", BARK, BARK, BARK)), 2 * said + 3 * heard),
    ):
        found, _ = sides(telling_model, query)
        close(found, F.normalize(expected, dim=-1))
        assert float(found.norm()) == pytest.approx(1, abs=1e-5)
        for part in (said, heard):  # more like each than these are like each other
            assert float((found * part).sum()) > float((said * heard).sum())


def test_the_order_of_prompts_does_not_matter(telling_model: QueriedSeparator) -> None:
    prompts = ("a dog", BARK, "a puppy", HUM)
    first, *others = (
        telling_model.embed(Query(order, order[:2][::-1] + order[2:]))
        for order in permutations(prompts)
    )
    assert len(others) == 23
    for other in others:
        close(other, first)


@pytest.fixture
def shifted(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """Whose manipulation gives conditions of any length, and of zeros something else."""
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        manipulation=Chain(steps=(MeanShift(renormalise=False),)),
        negative=True,
    )
    model = QueriedSeparator(config, debug_encoder).eval()
    audio, text = torch.randn(2, 20, DIM, generator=torch.Generator().manual_seed(0))
    model.manipulator.fit(FitEmbeddings(audio, text, torch.arange(20)))
    return model


def test_words_with_sounds_are_as_long_as_their_parts(shifted: QueriedSeparator) -> None:
    infer, encoder = shifted.manipulator.for_inference, shifted.encoder
    said = infer(F.normalize(encoder.embed_text("a dog"), dim=-1), True)
    heard = infer(encoder.embed_audio(torch.as_tensor(BARK.audio), RATE), False)
    assert infer(torch.zeros(1, DIM), False).any()
    close(sides(shifted, Query("a dog"))[0], said)
    close(sides(shifted, Query(BARK))[0], heard)
    positive, negative = sides(shifted, Query(("a dog", BARK)))
    assert not negative.any()
    close(F.normalize(positive, dim=-1), F.normalize(said + heard, dim=-1))
    norms = float(said.norm()), float(heard.norm())
    assert min(norms) > 1.1
    assert abs(norms[0] - norms[1]) > 0.01
    assert float(positive.norm()) == pytest.approx(sum(norms) / 2, abs=1e-5)
    three, _ = sides(shifted, Query(("a dog", BARK, BARK)))
    assert float(three.norm()) == pytest.approx((norms[0] + 2 * norms[1]) / 3, abs=1e-5)


@pytest.fixture
def by_sounds(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """Which answers words by three sounds each."""
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        manipulation=Chain(steps=(Neighbours(sounds=3, candidates=20),)),
        negative=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = QueriedSeparator(config, debug_encoder)
        randomise_statistics(model)
        audio = F.normalize(torch.randn(40, DIM), dim=-1)
    none = torch.zeros(0, DIM)
    model.manipulator.fit(FitEmbeddings(audio, none, torch.zeros(0, dtype=torch.long)))
    return model.eval()


def test_words_have_one_part_per_sound_that_stands_for_them(by_sounds: QueriedSeparator) -> None:
    encoder, members = by_sounds.encoder, by_sounds.manipulator.condition
    dog, rain = (members(F.normalize(encoder.embed_text(t), dim=-1), True) for t in ("dog", "rain"))
    heard = encoder.embed_audio(torch.as_tensor(BARK.audio), RATE)[:, None]
    none = torch.zeros(1, 3, DIM)
    both = dog.weights * rain.weights
    for query, positive, negative, weights in (
        (Query("dog"), dog.embeddings, none, dog.weights),
        (Query((), "dog"), none, dog.embeddings, dog.weights),
        (Query("dog", "rain"), dog.embeddings, rain.embeddings, both / both.sum()),
        (Query("dog", BARK), dog.embeddings, heard.expand(1, 3, -1), dog.weights),
        (Query(("dog", BARK)), F.normalize(dog.embeddings + heard, dim=-1), none, dog.weights),
        (Query(BARK), heard, none[:, :1], torch.ones(1, 1)),
    ):
        mask = torch.tensor([[bool(query.positive), bool(query.negative)]])
        close(by_sounds.embed(query), Condition(torch.cat([positive, negative], -1), weights, mask))


def test_the_estimates_of_all_parts_are_averaged(by_sounds: QueriedSeparator) -> None:
    """Of whole mixtures and of recordings in chunks; each query has its own number of them."""
    mixture = noise(RATE)
    queries = [Query("dog"), Query(BARK), Query((BARK, "rain"), "dog")]
    conditions = [by_sounds.embed(query) for query in queries]
    assert [condition.weights.shape[1] for condition in conditions] == [3, 1, 3]
    with torch.inference_mode():
        heard = torch.from_numpy(mixture)[None]
        together = by_sounds.separate(heard, conditions)
        for condition, target in zip(conditions, together, strict=True):
            alone = torch.cat(
                [by_sounds(heard, Condition.single(one[None])) for one in condition.embeddings[0]]
            )
            close(target[0], (condition.weights[0, :, None, None] * alone).sum(0))
            close(by_sounds(heard, condition), target)
            if len(alone) > 1:
                assert (alone[0] - alone[1]).abs().max() > 1e-4
    extractor = Extractor(by_sounds, chunk_seconds=0.2)
    found = list(extractor.extract_many([mixture], queries, RATE))
    for target, extraction in zip(together, found, strict=True):
        np.testing.assert_allclose(extraction.target, target[0].numpy(), atol=1e-5)
        assert extraction.presence is None  # it has not been calibrated


def test_a_model_that_takes_no_negative_prompts_says_so(
    debug_model: QueriedSeparator, extractor: Extractor
) -> None:
    close(
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
        (Query((), Path("no.wav")), r"\(like no\.wav\)"),  # type: ignore[arg-type]
    ):
        for ask in (debug_model.embed, lambda query: extractor.extract(noise(), query, RATE)):
            with pytest.raises(QueryError, match=f"cannot answer negative prompts {named}: leave"):
                ask(query)


def test_negative_prompts_matter(telling: Extractor) -> None:
    targets = [
        telling.extract(noise(), query, RATE).target
        for query in (
            Query("a dog"),
            Query("a dog", "rain"),
            Query("a dog", BARK),  # type: ignore[arg-type]
            Query((), "rain"),
            Query(BARK),  # type: ignore[arg-type]
            Query(("a dog", BARK)),
        )
    ]
    for number, target in enumerate(targets):
        assert np.abs(target).max() > 0.01
        assert all(np.abs(target - other).max() > 1e-5 for other in targets[:number])


# FitEmbeddings.


def test_a_file_and_its_samples_are_the_same_example(
    telling_model: QueriedSeparator, tmp_path: Path
) -> None:
    for channels, rate in ((1, 32_000), (2, 44_100), (3, 8_000)):
        audio = noise(9_000, channels)
        path = recorded(tmp_path / f"{channels}.wav", audio, rate)
        expected = telling_model.embed(Query(Example(audio, rate)))
        for example in (Example(path), Example(str(path)), path):
            close(telling_model.embed(Query(example)), expected)  # type: ignore[arg-type]
        mean = telling_model.encoder.embed_audio(torch.from_numpy(audio.mean(0)), rate)
        close(expected.embeddings[0, :, :DIM], mean)


def test_all_kinds_of_arrays(telling_model: QueriedSeparator) -> None:
    audio = noise(9_000)
    before = audio.copy()
    expected = telling_model.embed(Query(Example(audio[0], RATE)))
    kinds: list[ArrayLike] = [
        audio,
        audio.tolist(),
        torch.from_numpy(audio),
        audio.astype(np.float64),
        audio[:, ::-1].copy()[:, ::-1],
    ]
    for kind in kinds:
        close(telling_model.embed(Query(Example(kind, RATE))), expected)
    np.testing.assert_array_equal(audio, before)
    # However loud: the encoder levels what it hears.
    quiet = telling_model.embed(Query(Example(0.01 * audio, RATE)))
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
    telling: Extractor, audio: Any, rate: Any, error: type[SingleoutError], reason: str
) -> None:
    for query in (Query(Example(audio, rate)), Query("a dog", (Example(audio, rate),))):  # type: ignore[arg-type]
        with pytest.raises(error, match=reason) as raised:
            telling.extract(noise(), query, RATE)
        assert "\n" not in str(raised.value)


def test_files_that_cannot_be_examples(telling: Extractor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    silent = recorded(tmp_path / "silent.wav", np.zeros((1, 9_000)))
    minute = recorded(tmp_path / "minute.wav", noise(8_000 * 60), 8_000)
    recording = recorded(tmp_path / "x.wav", noise(9_000))
    for path, error, reason in (
        (tmp_path / "no.wav", AudioError, "no such file"),
        (tmp_path, AudioError, "is a folder"),
        (damaged, AudioError, "cannot be read as audio"),
        (silent, QueryError, "is silent: give an example with"),
    ):
        with pytest.raises(error) as raised:
            telling.extract_file(recording, ["a dog", path], tmp_path / "out")
        assert str(raised.value).startswith(f"{path}: ")
        assert reason in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    telling.extract(recording, minute)


def test_an_example_that_says_it_is_long_is_not_read(
    telling_model: QueriedSeparator, tmp_path: Path
) -> None:
    """Else a whole day would be in memory before it is refused: this one fails at its end."""
    audio = noise(8_000 * 61)
    audio[0, -1] = np.nan
    path = recorded(tmp_path / "long.wav", audio, 8_000)
    with pytest.raises(QueryError, match=r"long\.wav: lasts 61 s, an example may last 60 s: cut"):
        telling_model.embed(Query(path))  # type: ignore[arg-type]


def test_an_example_may_be_as_short_as_a_sample(telling_model: QueriedSeparator) -> None:
    for rate in (1, 8_000, 192_000, 2**31 - 1):
        positive, _ = sides(telling_model, Query(Example(noise(1), rate)))
        assert torch.isfinite(positive).all()
        assert float(positive.norm()) == pytest.approx(1, abs=1e-5)


# Presence: from likeness to a probability.


@given(
    likeness=st.lists(st.floats(-1, 1), min_size=1, max_size=9),
    scale=st.floats(0.1, 30),
    bias=st.floats(-5, 5),
)
def test_a_probability_is_the_sigmoid(likeness: list[float], scale: float, bias: float) -> None:
    calibration = PresenceCalibration(scale=scale, bias=bias)
    found = calibration.probability(likeness)
    assert found.dtype == np.float32
    expected = 1 / (1 + np.exp(-(scale * np.array(likeness) + bias)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert calibration.probability(likeness[0]).shape == ()


def test_any_calibration_gives_a_probability() -> None:
    """Nothing overflows, which is an error in these tests."""
    likeness = np.array([-1, 0, 1], np.float32)
    found = PresenceCalibration(scale=1e30, bias=0.0).probability(likeness)
    np.testing.assert_array_equal(found, [0, 0.5, 1])


def test_a_calibration_is_saved_where_there_is_one(
    telling_model: QueriedSeparator, debug_model_folder: Path, telling_model_folder: Path
) -> None:
    saved = json.loads((telling_model_folder / "config.json").read_text())
    assert saved["presence"] == {"scale": 3.0, "bias": -0.2}
    assert saved["negative"] is True
    assert read_config(telling_model_folder) == telling_model.config
    assert telling_model.config.presence == PresenceCalibration(scale=3.0, bias=-0.2)
    plain = json.loads((debug_model_folder / "config.json").read_text())
    assert not plain.keys() & {"presence", "negative"}


# Presence: how like what is asked a target sounds.

WINDOW, HOP = RATE, RATE // 2


def defined(
    model: QueriedSeparator, target: NDArray[np.float32], query: Query
) -> tuple[float, list[float]]:
    """Likeness of a target [channels, samples] and of its windows, by the definition."""
    asked = model.embed(query)
    members = F.normalize(asked.embeddings[0, :, : model.manipulator.dim], dim=-1)
    powers, likeness = [], []
    for start in range(0, max(1, target.shape[1] - HOP), HOP):
        window = torch.from_numpy(target[:, start : start + WINDOW])
        heard = model.manipulator.for_inference(model.encoder.embed_audio(window, RATE), False)
        likeness.append((asked.weights[0] @ (members @ F.normalize(heard, dim=-1).T)).numpy())
        powers.append(window.double().square().mean(1).numpy())
    power, like = np.stack(powers), np.stack(likeness)
    level = power.sum(1)
    over_time = (power * like).sum(1) / level
    over_time[level < 1e-3 * level.max()] = -1
    return float((power * like).sum() / power.sum()), over_time.tolist()


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    num_samples=st.integers(1, 4 * RATE),
    splits=st.lists(st.integers(0, 4 * RATE), max_size=4),
    channels=st.integers(1, 2),
)
def test_similarity_is_the_mean_over_windows_by_power(
    by_sounds: QueriedSeparator, num_samples: int, splits: list[int], channels: int
) -> None:
    queries = [Query("a dog"), Query((BARK,), "rain")]
    targets = np.stack([noise(num_samples, channels, seed) for seed in (5, 6)])
    targets *= np.linspace(1, 3, num_samples, dtype=np.float32)  # some windows are louder
    targets[1, :, : num_samples // 3] *= 1e-3
    listener = by_sounds.similarity_meter([by_sounds.embed(query) for query in queries])
    for block in np.split(targets, sorted(min(split, num_samples) for split in splits), axis=2):
        listener.push(block)
    found = listener.finish()
    assert listener.frame_seconds == 0.5
    for number, query in enumerate(queries):
        whole, over_time = defined(by_sounds, targets[number], query)
        assert found.overall[number] == pytest.approx(whole, abs=2e-5)
        np.testing.assert_allclose(found.over_time[number], over_time, rtol=0, atol=2e-5)


def test_similarity_over_time_is_highest_where_the_sound_is(
    telling_model: QueriedSeparator,
) -> None:
    bark = noise(RATE, seed=1)
    target = np.concatenate([0.3 * noise(3 * RATE, seed=9), bark, noise(2 * RATE, seed=8)], axis=1)
    listener = telling_model.similarity_meter([telling_model.embed(Query(Example(bark, RATE)))])
    listener.push(target[None])
    likeness = listener.finish().over_time[0]
    assert int(likeness.argmax()) == 6
    assert float(likeness[6]) == pytest.approx(1, abs=1e-4)


def test_silence_has_the_lowest_similarity(telling_model: QueriedSeparator) -> None:
    asked = [telling_model.embed(Query("a dog"))]
    listener = telling_model.similarity_meter(asked)
    listener.push(np.zeros((1, 2, 2 * RATE), np.float32))
    listener.push(np.concatenate([noise(RATE), np.zeros((1, RATE), np.float32)])[None])
    whole, over_time = listener.finish()
    assert over_time[0, :3].tolist() == [-1, -1, -1]
    assert (over_time[0, 3:] > -1).all()
    alone = telling_model.similarity_meter(asked)
    alone.push(noise(RATE)[None])
    assert whole[0] > -1
    assert np.sign(whole[0]) == np.sign(alone.finish().overall[0])
    silent = telling_model.similarity_meter(asked)
    silent.push(np.zeros((1, 1, RATE), np.float32))
    assert silent.finish().overall.tolist() == [-1]
    nothing = telling_model.similarity_meter(asked).finish()
    assert nothing.over_time.shape == (1, 0)


@pytest.mark.parametrize("chunk_seconds", [0.05, 0.33, 100.0])
@pytest.mark.parametrize("num_samples", [RATE * 2, RATE * 2 + 777, 100])
def test_presence_is_the_calibrated_similarity(
    telling_model: QueriedSeparator, chunk_seconds: float, num_samples: int
) -> None:
    mixture = noise(num_samples)
    result = Extractor(telling_model, chunk_seconds=chunk_seconds).extract(mixture, "a dog", RATE)
    whole, over_time = defined(telling_model, result.target, Query("a dog"))
    calibration = telling_model.config.presence
    assert calibration is not None
    presence = result.presence
    assert presence is not None
    expected = float(calibration.probability(whole))
    assert presence.probability == pytest.approx(expected, abs=1e-5)
    assert isinstance(presence.probability, float)
    assert 0 < presence.probability < 1
    assert presence.frame_seconds == 0.5
    found = presence.over_time
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, calibration.probability(over_time), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_presence_over_time_has_the_time_of_the_recording(telling: Extractor, rate: int) -> None:
    result = telling.extract(noise(2 * rate), "a dog", rate)
    assert result.presence is not None
    frames = len(result.presence.over_time)
    assert frames * result.presence.frame_seconds == pytest.approx(2, abs=0.5)


def test_what_is_far_beyond_full_scale_is_refused_with_its_name(
    telling: Extractor, telling_model: QueriedSeparator, tmp_path: Path
) -> None:
    listener = telling_model.similarity_meter([telling_model.embed(Query("a dog"))])
    listener.push(np.full((1, 1, RATE), 3e38, np.float32))
    listener.push(np.full((1, 1, RATE), np.inf, np.float32))
    whole, over_time = listener.finish()
    assert np.isfinite(whole).all()
    assert np.isfinite(over_time).all()
    # Resampling takes it beyond what a float holds.
    alternating = np.where(np.arange(44_100) % 2, 3e38, -3e38)[None]
    path = recorded(tmp_path / "loud.wav", alternating, 44_100)
    with pytest.raises(ModelError, match=r"loud\.wav: the output of the model is not finite"):
        telling.extract_file(path, "a dog", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recording_too_short_to_measure_has_no_presence(
    telling: Extractor, tmp_path: Path
) -> None:
    """Which resamples to no samples."""
    result = telling.extract(np.full((1, 1), 0.1, np.float32), "a dog", 384_000)
    assert result.target.shape == (1, 1)
    assert result.presence is None


def test_many_channels_are_embedded_a_few_clips_at_a_time(
    debug_encoder: BuiltinEncoder, telling_model: QueriedSeparator
) -> None:
    """Or their memory would grow with their number."""
    clips: list[int] = []

    class Counting(BuiltinEncoder):
        def embed_audio(self, audio: Any, *arguments: Any) -> Tensor:
            clips.append(len(audio))
            return super().embed_audio(audio, *arguments)

    encoder = Counting(debug_encoder.network, debug_encoder.tokenizer_json, debug_encoder.config)
    asked = [telling_model.manipulator.condition(encoder.embed_text("a dog"), True)]
    for channels, most in ((1, 5), (5, 25), (40, 32)):
        clips.clear()
        listener = SimilarityMeter(encoder, telling_model.manipulator, asked, RATE)
        listener.push(noise(3 * RATE, channels)[None])
        assert listener.finish().over_time.shape == (1, 5)
        assert max(clips) == most
        assert sum(clips) == 5 * channels


def test_several_queries_have_their_own_presence(telling: Extractor, tmp_path: Path) -> None:
    """However they are asked, one way and the others."""
    path = recorded(tmp_path / "x.wav", noise(2 * RATE, 2))
    queries = ["a dog", BARK, Query("rain", "a dog"), Query((), (BARK,)), tmp_path / "x.wav"]
    alone = [telling.extract(path, query) for query in queries]
    many = list(telling.extract_many([path, path], queries))
    written = telling.extract_file(path, queries, tmp_path / "out")
    assert len(many) == 10
    for number, (result, files) in enumerate(zip(alone, written, strict=True)):
        if number == 3:  # nothing is asked to be there
            assert result.presence is files.presence is None
            continue
        assert result.presence is not None
        for other in (many[number], many[number + 5]):
            assert other.presence is not None
            probability = other.presence.probability
            assert probability == pytest.approx(result.presence.probability, abs=1e-5)
            np.testing.assert_allclose(
                other.presence.over_time, result.presence.over_time, rtol=0, atol=1e-5
            )
        assert files.presence == pytest.approx(result.presence.probability, abs=1e-5)
        assert files.as_json()["presence"] == files.presence
        saved = result.save(tmp_path / "saved")
        assert saved.presence == result.presence.probability
        assert saved.query == files.query
    assert (
        len({round(r.presence.probability if r.presence else 0, 4) for r in alone}) == 5
    )  # and a zero for none


def test_a_bare_path_is_an_example_everywhere(telling: Extractor, tmp_path: Path) -> None:
    bark = recorded(tmp_path / "bark.wav", noise(9_000, seed=1))
    expected = telling.extract(noise(), Example(bark), RATE)
    (many,) = telling.extract_many([noise()], bark, RATE)
    ((_, targets),) = telling.extract_blocks(noise(9_000), bark, RATE)
    for target in (telling.extract(noise(), bark, RATE).target, many.target):
        np.testing.assert_array_equal(target, expected.target)
    assert targets.shape == (1, 1, 9_000)
    (written,) = telling.extract_file(bark, bark, tmp_path / "out")
    assert written.query == "like bark.wav"


def test_a_model_without_calibration_gives_no_presence(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.wav", noise(9_000))
    result = extractor.extract(path, Query(("a dog", BARK)))
    assert result.presence is None
    assert result.save(tmp_path).presence is None
    (written,) = extractor.extract_file(path, "a dog", tmp_path)
    assert written.presence is None
    assert written.as_json()["presence"] is None


def test_prepare_refuses_queries_that_cannot_be_used(
    telling: Extractor, extractor: Extractor, tmp_path: Path
) -> None:
    telling.prepare(["a dog", Query("a dog", "rain"), BARK])
    with pytest.raises(AudioError, match="no such file"):
        telling.prepare(["a dog", tmp_path / "no.wav"])
    with pytest.raises(QueryError, match="negative prompts"):
        extractor.prepare(Query("a dog", "rain"))


# Files of queries.


def test_queries_of_the_same_name_have_files_of_their_own(
    telling: Extractor, tmp_path: Path
) -> None:
    """Examples, above all, which are called by their file."""
    path = recorded(tmp_path / "x.wav", noise(9_000))
    one, two = (
        Example(recorded(tmp_path / folder / "bark.wav", noise(9_000, seed=seed)))
        for seed, folder in enumerate("ab", 1)
    )
    queries = [one, "like bark!wav", two, BARK, HUM, Query(("a", "b")), Query("a / b")]
    written = telling.extract_file(path, queries, tmp_path / "out")
    assert len({each.target for each in written}) == len(queries)
    assert names(tmp_path / "out") == sorted(
        part.name  # type: ignore[union-attr]
        for each in written
        for part in (each.target, each.residual)
    )
    for query, each in zip(queries, written, strict=True):
        found, _ = soundfile.read(each.target, dtype="float32")
        expected = telling.extract(path, query).target[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(OutputError, match=r"'like bark\.wav' is given twice"):
        telling.extract_file(path, [one, two, one], tmp_path / "out")


@given(
    kinds=st.lists(st.sampled_from(["a / b", "a", "like x", "one", "two"]), max_size=6, unique=True)
)
def test_names_of_queries_are_never_the_same(kinds: list[str]) -> None:
    examples = {"one": Example("in/x"), "two": Example("out/x")}
    queries = [Query.of(examples.get(kind, kind)) for kind in kinds]
    queries += [Query(("a", "b")), Query(Example("elsewhere/x"))]  # type: ignore[arg-type]
    slugs = query_slugs(queries)
    assert len(set(slugs)) == len(queries)
    assert slugs == query_slugs(queries)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for slug in slugs)


def test_a_removal_is_named_as_one(telling: Extractor, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.wav", noise(9_000))
    queries = [Query((), "rain"), Query("a dog", ("rain", BARK))]
    written = telling.extract_file(path, queries, tmp_path / "out", residual=False)
    assert [each.query for each in written] == [
        "not rain",
        "a dog (not rain / like an example)",
    ]
    first, second = names(tmp_path / "out")
    assert re.fullmatch(r"x\.a-dog-not-rain-like-an-example-[0-9a-f]{8}\.target\.wav", first)
    assert re.fullmatch(r"x\.not-rain-[0-9a-f]{8}\.target\.wav", second)


def test_a_later_query_has_a_name_of_its_own() -> None:
    """In words, what is not wanted is asked for; and all arrays are called the same."""
    loud, soft = (Example(np.full(800, level, np.float32), 8_000) for level in (0.5, 0.1))
    queries = [
        Query("not traffic"),
        Query((), "traffic"),
        Query("a voice not traffic"),
        Query("a voice", "traffic"),
        Query(("a voice / traffic",)),
        Query(("a voice", "traffic")),
        Query((), ("a", "b")),
        Query((), "a / b"),
        Query.of(loud),
        Query.of(soft),
        Query.of(Example(loud.audio, 16_000)),
    ]
    assert len({query_slug(query) for query in queries}) == len(queries)
    assert query_slug(queries[0]) == "not-traffic"
    assert query_slug(Query.of(Example(np.full(800, 0.5, np.float32), 8_000))) == query_slug(
        queries[8]
    )


# From the command line.


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return recorded(tmp_path / "street.wav", noise(RATE, 2), subtype="PCM_16")


@pytest.fixture
def bark(tmp_path: Path) -> Path:
    return recorded(tmp_path / "sounds" / "bark.wav", noise(9_000, seed=1))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["extract", *(str(argument) for argument in arguments)])


def asked(result: Result) -> list[str]:
    """The queries of the lines of ``--json``, all of them answered."""
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:  # what is only to be taken away is not asked for
        only_takes_away = line["query"].startswith("not ")
        assert line["presence"] is None if only_takes_away else 0 <= line["presence"] <= 1
    assert all(Path(line["target"]).is_file() for line in lines)
    return [line["query"] for line in lines]


def test_options_and_arguments_make_queries(
    street: Path, bark: Path, tmp_path: Path, telling_model_folder: Path, telling: Extractor
) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--model", telling_model_folder, "--json")
    like, hum = ("--like", bark), recorded(tmp_path / "hum.wav", noise(9_000, seed=2))
    for arguments, expected in (
        ((street, *like), [Query(bark)]),  # type: ignore[arg-type]
        ((street, *like, "--like", hum), [Query((bark, hum))]),  # type: ignore[arg-type]
        ((street, "--not", "rain"), [Query((), "rain")]),
        ((street, "--not", "rain", "--not", "wind"), [Query((), ("rain", "wind"))]),
        ((street, *like, "--not", "rain"), [Query(bark, "rain")]),  # type: ignore[arg-type]
        ((street, "a dog", "--not", "rain"), [Query("a dog", "rain")]),
        ((street, "a dog", *like), [Query(("a dog", bark))]),  # type: ignore[arg-type]
        ((street, "a dog", "--not-like", hum), [Query("a dog", Path(hum))]),  # type: ignore[arg-type]
        ((street, "--not-like", hum), [Query((), Path(hum))]),  # type: ignore[arg-type]
        (
            (street, "a dog", *like, "--not", "rain"),
            [Query(("a dog", bark), "rain")],  # type: ignore[arg-type]
        ),
        (
            (street, "-q", "a dog", "-q", "a cat", *like, "--not", "rain"),
            [Query(("a dog", bark), "rain"), Query(("a cat", bark), "rain")],  # type: ignore[arg-type]
        ),
        ((street, "-q", "a dog", "-q", "a cat"), [Query("a dog"), Query("a cat")]),
    ):
        result = run(*arguments, *options)
        assert asked(result) == [str(query) for query in expected]
        for query, line in zip(expected, result.stdout.splitlines(), strict=True):
            found = telling.extract(street, query)
            probability = found.presence and found.presence.probability
            assert json.loads(line)["presence"] == pytest.approx(probability, abs=1e-5)
            target, _ = soundfile.read(json.loads(line)["target"], dtype="float32")
            np.testing.assert_allclose(target.T, found.target, rtol=0, atol=2**-15)
    for start in (
        "street.not-rain-",
        "street.like-bark-wav-",
        "street.a-dog-like-bark-wav-not-rain-",
    ):
        assert [name for name in names(out) if name.startswith(start)]


def test_the_last_argument_is_a_recording_or_a_query(
    street: Path, bark: Path, tmp_path: Path, telling_model_folder: Path
) -> None:
    """Words are a query, and files, folders and patterns are recordings."""
    more = recorded(tmp_path / "more" / "b.wav", noise(9_000), subtype="PCM_16")
    options = ("--like", bark, "-o", tmp_path / "out", "--model", telling_model_folder, "--json")
    for last in (more, more.parent, f"{more.parent}/*.wav"):
        result = run(street, last, *options)
        assert asked(result) == ["like bark.wav"] * 2
        inputs = {Path(json.loads(line)["input"]) for line in result.stdout.splitlines()}
        assert inputs == {street, more}
    for last in ("dog", "a dog", "no. 2 and a dog"):
        assert asked(run(street, last, *options)) == [f"{last} / like bark.wav"]
    missing = run(street, tmp_path / "missing.wav", *options)
    assert missing.exit_code == 3
    assert "missing.wav: no such file" in missing.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("{street}",), "no query: describe a sound as the last argument"),
        (("{street}", "{street}"), "is a file: describe a sound as the last argument"),
        (("{street}", "--like"), "requires an argument"),
        (("{street}", "--not"), "requires an argument"),
    ],
)
def test_a_missing_query_is_a_usage_error(
    street: Path, arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    result = run("-o", tmp_path / "out", *(each.format(street=street) for each in arguments))
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.replace("│", " ").split())
    assert names(tmp_path) == ["street.wav"]


@pytest.mark.parametrize("kind", ["missing", "damaged", "silent", "long", "folder"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_example_that_cannot_be_used_is_one_line(
    street: Path, tmp_path: Path, telling_model_folder: Path, kind: str, number: int
) -> None:
    """However many recordings there are, and before anything is written."""
    path = tmp_path / "example.wav"
    if kind == "damaged":
        path.write_bytes(b"RIFF")
    elif kind == "silent":
        recorded(path, np.zeros((1, 9_000)))
    elif kind == "long":
        recorded(path, noise(8_000 * 61), 8_000)
    elif kind == "folder":
        path.mkdir()
    recordings = [street, *(tmp_path / f"{n}.wav" for n in range(1, number))]
    for other in recordings[1:]:
        shutil.copy(street, other)
    before = names(tmp_path)
    result = run(
        *recordings, "--like", path, "--report", tmp_path / "report.jsonl",
        "-o", tmp_path / "out", "--model", telling_model_folder,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert names(tmp_path) == before


def test_what_a_model_cannot_answer_is_one_line(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    other = Path(shutil.copy(street, tmp_path / "other.wav"))
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    for arguments in ((street, "a dog"), (street,), (street, other, "-q", "a dog")):
        result = run(*arguments, "--not", "traffic", *options)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert "cannot answer negative prompts (traffic): leave them out" in line
    for blank in ("", " \t"):
        result = run(street, "a dog", "--not", blank, *options)
        assert result.exit_code == 1
        assert "the query is empty" in result.stderr
    assert names(tmp_path) == ["other.wav", "street.wav"]


@pytest.fixture
def calibrated(telling_model_folder: Path, tmp_path: Path) -> Callable[[float], Path]:
    """The model, always as sure as asked for."""

    def model(bias: float) -> Path:
        folder = tmp_path / f"model {bias}"
        shutil.copytree(telling_model_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        config["presence"] = {"scale": 0.0, "bias": bias}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return model


@pytest.mark.parametrize(
    ("bias", "presence", "shown", "is_doubted"),
    [
        (-30.0, 0.0, "0%", True),
        (-0.7, 0.3318, "33%", True),
        (-0.63, 0.3475, "35%", True),
        (-0.6, 0.3543, "35%", False),
        (0.0, 0.5, "50%", False),
        (30.0, 1.0, "100%", False),
    ],
)
def test_doubt_is_printed_where_the_sound_is_probably_not_there(
    street: Path,
    tmp_path: Path,
    calibrated: Callable[[float], Path],
    bias: float,
    presence: float,
    shown: str,
    is_doubted: bool,
) -> None:
    options = ("-o", tmp_path / "out", "--model", calibrated(bias))
    result = run(street, "a dog", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (line,) = [line for line in result.stdout.splitlines() if "presence" in line]
    assert line.split()[:2] == ["presence", f"{shown}:" if is_doubted else shown]
    assert ("probably not in this recording" in result.stdout) == is_doubted
    assert len(result.stdout.splitlines()) == 4
    report = tmp_path / "report.jsonl"
    result = run(street, "a dog", *options, "--json", "--report", report)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["presence"] == pytest.approx(presence, abs=1e-4)
    assert "not in this recording" not in result.stdout
    assert report.read_text() == result.stdout


def test_no_presence_is_printed_where_the_model_gives_none(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = run(street, "a dog", *options)
    assert result.exit_code == 0, result.output
    assert "presence" not in result.stdout.replace(str(tmp_path), "")
    assert json.loads(run(street, "a dog", *options, "--json").stdout)["presence"] is None


def test_a_name_of_two_lines_is_printed_in_one(
    street: Path, tmp_path: Path, telling_model_folder: Path
) -> None:
    like = recorded(tmp_path / "two\nlines.wav", noise(9_000, seed=1))
    result = run(street, "--like", like, "--plot", "-o", tmp_path / "out", "--model",
                 telling_model_folder)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 5
    assert result.stdout.startswith("'like two lines.wav' in ")
