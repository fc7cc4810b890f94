"""The condition of each query of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from singleout import Example as Sound
from singleout import Query
from singleout.data.clips import Clip
from singleout.data.dataset import MixtureDataset, QueryAudioConfig, TrainingExample
from singleout.data.embeddings import embeddings_of
from singleout.data.manifest import scan_folder
from singleout.data.seeds import Stream, row_draws
from singleout.encoders import BuiltinEncoder
from singleout.manipulations import Dropout, MeanShift, Neighbours, Noise, Pca
from singleout.manipulations.audio import Mixup, SpecAugment
from singleout.train.config import TrainConfig
from tests.train.batches import batch_of, embeddings_at, module_of, negative_batch_of
from tests.train.runs import MIXTURES, RATE, flat, taking_negatives, with_steps


@pytest.mark.parametrize("p_text", [0.0, 0.3, 1.0])
def test_captions_are_queries_as_often_as_configured(
    p_text: float,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    uncaptioned = (1, 5, 6)
    batch = batch_of(5, uncaptioned)
    audio, text = flat(batch["audio_embedding"]), flat(batch["text_embedding"])
    module = module_of(with_steps(configure(tmp_path, p_text=p_text)), debug_encoder)
    by_text = torch.zeros(10)
    mixed = 0
    for step in range(200):
        condition = embeddings_at(module, batch, step)
        rows = (condition == text).all(-1)
        assert torch.equal(condition, torch.where(rows[:, None], text, audio))
        by_text += rows
        mixed += 0 < int(rows.sum()) < 7
        assert torch.equal(condition, embeddings_at(module, batch, step))
    assert by_text[list(uncaptioned)].sum() == 0
    captioned = torch.tensor([row not in uncaptioned for row in range(10)])
    spread = 4 * (p_text * (1 - p_text) / 200) ** 0.5
    assert (by_text[captioned] / 200 - p_text).abs().max() <= spread + 1e-6
    if 0 < p_text < 1:  # drawn for each example, not for the whole batch
        assert mixed > 150


def test_sounds_and_captions_are_manipulated_and_captions_are_not_corrupted(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(6, uncaptioned=(2, 9))
    config = with_steps(configure(tmp_path, p_text=0.5), MeanShift(), Pca(k=9), Dropout(p=0.5))
    module = module_of(config, debug_encoder)
    infer = module.model.manipulator.for_inference
    audio, text = (
        infer(flat(batch["audio_embedding"]), False),
        infer(flat(batch["text_embedding"]), True),
    )
    counts = []
    for step in range(10):
        condition = embeddings_at(module, batch, step)
        assert condition.shape == (12, 9)
        by_text = (condition == text).all(-1)
        counts.append(int(by_text.sum()))
        assert not by_text[[2, 9]].any()
        dropped = condition[~by_text]
        torch.testing.assert_close(
            dropped, torch.where(dropped == 0, 0.0, 2 * audio[~by_text]), atol=1e-6, rtol=1e-5
        )
        assert 0.2 < (dropped == 0).float().mean() < 0.8
    assert 0 < sum(counts) < 100


def test_both_sides_stay_nearer_to_their_sound_than_to_the_other_sounds(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    conditional = Neighbours(p=1.0, reach=1.0, conditional=True)
    module = module_of(taking_negatives(configure(tmp_path), conditional), debug_encoder)
    batch = batch_of(6)
    batch["has_negative"][:] = True
    batch["has_other"][..., :2] = batch["has_negative_other"][..., :2] = True
    names = ("negative_audio_embedding", "other_embeddings", "negative_other_embeddings")
    for seed, name in enumerate(names, 1):
        drawn = torch.randn(batch[name].shape, generator=torch.Generator().manual_seed(seed))  # type: ignore[literal-required]
        batch[name] = torch.nn.functional.normalize(drawn, dim=-1)  # type: ignore[literal-required]
    for step in range(5):
        sides = embeddings_at(module, batch, step).split(debug_encoder.dim, -1)
        for side, prefix in zip(sides, ("", "negative_"), strict=True):
            audio = flat(batch[f"{prefix}audio_embedding"])  # type: ignore[literal-required]
            others = flat(batch[f"{prefix}other_embeddings"])[:, :2]  # type: ignore[literal-required]
            assert not torch.equal(side, audio)
            to_others = (others @ side[:, :, None])[:, :, 0].amax(-1)
            stays = (side == audio).all(-1)
            assert (stays | ((side * audio).sum(-1) > to_others)).all()


def test_another_seed_or_step_gives_other_conditions(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(6)
    config = with_steps(configure(tmp_path, p_text=0.5), Noise())
    modules = [
        module_of(config.model_copy(update={"seed": seed}), debug_encoder) for seed in (0, 1)
    ]
    conditions = []
    for module in modules:
        for step in (0, 1):
            conditions.append(embeddings_at(module, batch, step))
    for i, condition in enumerate(conditions):
        assert not any(torch.equal(condition, other) for other in conditions[:i])


def test_query_mixup_draws_points_between_sound_and_caption(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    batch = batch_of(5, uncaptioned=(0, 7))
    audio, text = flat(batch["audio_embedding"]), flat(batch["text_embedding"])
    captioned = text.any(-1)
    module = module_of(with_steps(configure(tmp_path, query_mixup=True)), debug_encoder)
    drawn = []
    for step in range(150):
        condition = embeddings_at(module, batch, step)
        assert torch.equal(condition[~captioned], audio[~captioned])
        along = (audio - text)[captioned]
        alpha = ((condition - text)[captioned] * along).sum(-1) / along.square().sum(-1)
        between = text[captioned] + alpha[:, None] * along
        torch.testing.assert_close(condition[captioned], between, atol=1e-6, rtol=0)
        drawn.append(alpha)
    alphas = torch.stack(drawn)
    assert alphas.min() > -1e-6
    assert alphas.max() < 1 + 1e-6
    uniform = torch.linspace(0, 1, alphas.numel())
    distance = (alphas.flatten().sort().values - uniform).abs().max()
    assert distance < 1.95 / alphas.numel() ** 0.5  # Kolmogorov and Smirnov, 0.1 %
    assert alphas.std(1).min() > 0.05  # drawn for each row
    both = with_steps(configure(tmp_path, query_mixup=True, p_text=1.0))
    only_text = embeddings_at(module_of(both, debug_encoder), batch)
    assert torch.equal(only_text, torch.where(captioned[:, None], text, audio))


@pytest.mark.parametrize(
    "regime", [{}, {"p_text": 0.4}, {"query_mixup": True}, {"p_text": 0.3, "query_mixup": True}]
)
def test_negative_prompts_do_not_change_the_positive_side(
    regime: dict[str, Any],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """To the bit, at any step."""
    batch = batch_of(5, uncaptioned=(1, 7))
    config = configure(tmp_path, **regime)
    steps = MeanShift(), Noise(), Dropout(p=0.5)
    plain = module_of(with_steps(config, *steps), debug_encoder)
    both = module_of(taking_negatives(config, *steps), debug_encoder)
    assert plain.model.condition_dim == 32
    assert both.model.condition_dim == 64
    for step in range(5):
        condition = embeddings_at(both, batch, step)
        assert torch.equal(condition[:, :32], embeddings_at(plain, batch, step))
        assert not condition[:, 32:].any()


@pytest.mark.parametrize("query_mixup", [False, True])
@pytest.mark.parametrize("p_text", [0.0, 0.5, 1.0])
def test_each_side_is_its_sound_or_its_caption(
    p_text: float,
    query_mixup: bool,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """A side without a prompt is zeros, whatever a manipulation makes of zeros."""
    batch = negative_batch_of(4)
    config = configure(tmp_path, p_text=p_text, query_mixup=query_mixup)
    module = module_of(taking_negatives(config, MeanShift()), debug_encoder)
    infer = module.model.manipulator.for_inference
    assert infer(torch.zeros(1, 32), False).any()
    audio, text = (
        infer(flat(batch["negative_audio_embedding"]), False),
        infer(flat(batch["negative_text_embedding"]), True),
    )
    by_text = torch.zeros(8)
    for step in range(120):
        condition = embeddings_at(module, batch, step)
        assert torch.equal(condition, embeddings_at(module, batch, step))
        positive, negative = condition.chunk(2, -1)
        assert not positive[0].any()
        assert positive[1:].any(-1).all()
        assert not negative[3:].any()
        rows = (negative == text).all(-1)[:3]
        assert torch.equal(negative[:3], torch.where(rows[:, None], text[:3], audio[:3]))
        by_text[:3] += rows
    assert by_text[2] == 0
    assert (by_text[:2] / 120 - p_text).abs().max() <= 4 * (p_text * (1 - p_text) / 120) ** 0.5


def test_training_and_inference_combine_the_sides_alike(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """Both make the same conditions of the same queries."""
    sounds = [0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    rows = [debug_encoder.embed_audio(sound, RATE)[0] for sound in sounds]
    one, two = rows
    none = torch.zeros(32)
    batch = batch_of(2, uncaptioned=(0, 1, 2, 3))
    batch["audio_embedding"] = torch.stack([torch.stack([one, none]), torch.stack([one, two])])
    batch["has_positive"] = torch.tensor([[True, False], [True, True]])
    batch["negative_audio_embedding"] = torch.stack(
        [torch.stack([none, one]), torch.stack([two, none])]
    )
    batch["has_negative"] = torch.tensor([[False, True], [True, False]])
    module = module_of(taking_negatives(configure(tmp_path), MeanShift()), debug_encoder)
    first, second = (Sound(sound.numpy(), RATE) for sound in sounds)
    queries = [Query((first,)), Query((first,), (second,)), Query((), (first,)), Query((second,))]
    expected = torch.cat([module.model.embed(query).embeddings[0] for query in queries])
    torch.testing.assert_close(embeddings_at(module, batch), expected, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def clips(sounds: Path) -> list[Clip]:
    """Two classes of two recordings each, and two classes of one sound."""
    labels = ["noise", "tone", "noise", "tone", "a", "b"]
    return [
        dataclasses.replace(clip, label=label)
        for clip, label in zip(scan_folder(sounds), labels, strict=True)
    ]


def batch_from(
    clips: list[Clip], encoder: BuiltinEncoder, query_audio: QueryAudioConfig, rate: int = RATE
) -> TrainingExample:
    table = embeddings_of(clips, MIXTURES, encoder)
    dataset = MixtureDataset(clips, MIXTURES, rate, table, None, 3, 0, 4, query_audio)
    rows = [dataset[i] for i in range(4)]
    return TrainingExample(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]})  # type: ignore[literal-required, typeddict-item]


ON_THE_FLY = [
    QueryAudioConfig(spec_augment=SpecAugment()),
    QueryAudioConfig(source="other_crop", mixup=Mixup(gain_db=(-5.0, 0.0))),
    QueryAudioConfig(source="same_class", mixup=Mixup(share=0.5), spec_augment=SpecAugment()),
]


@pytest.mark.parametrize("query_audio", ON_THE_FLY)
def test_altered_sounds_are_embedded_during_training(
    query_audio: QueryAudioConfig,
    clips: list[Clip],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """Compared with the embeddings of sounds that the test alters itself."""
    batch = batch_from(clips, debug_encoder, query_audio)
    config = with_steps(configure(tmp_path, query_audio=query_audio, seed=2))
    module = module_of(config, debug_encoder)
    before = torch.get_rng_state()
    condition = embeddings_at(module, batch, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(condition, embeddings_at(module, batch, 5))

    draws = row_draws(2, range(10, 14), 2, Stream.POSITIVE)
    draws.uniform()  # which queries are captions
    masks = query_audio.spec_augment
    lengths, cached = batch["query_samples"].T.flatten(), flat(batch["audio_embedding"])
    assert len(lengths.unique()) > 1
    for row, sound in enumerate(flat(batch["query_audio"])):
        log_mels: list[torch.Tensor] = []

        def altered(
            log_mel: torch.Tensor, _: Any, kept: Any = log_mels, row: int = row
        ) -> torch.Tensor:
            kept += [log_mel, log_mel if masks is None else masks.masked(log_mel, draws.of([row]))]
            return kept[-1]

        sound = sound[: lengths[row]]
        expected = debug_encoder.embed_audio(sound, RATE, altered)[0]
        torch.testing.assert_close(condition[row], expected, atol=1e-6, rtol=0)
        if masks is not None:
            assert not torch.equal(*log_mels)
            assert not torch.allclose(condition[row], cached[row], atol=1e-4)
    if masks is None:
        assert ((condition - cached).abs().amax(-1) > 1e-4).sum() >= 6
    assert torch.equal(condition, embeddings_at(module, batch, 6)) == (masks is None)


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_unaltered_sounds_have_the_cached_embeddings(
    rate: int,
    clips: list[Clip],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """At any sample rate of the separator."""
    never = QueryAudioConfig(mixup=Mixup(share=0.0), spec_augment=SpecAugment(share=0.0))
    batch = batch_from(clips, debug_encoder, never, rate)
    config = with_steps(configure(tmp_path, query_audio=never))
    separator = config.model.separator.model_copy(update={"sample_rate": rate})
    model = config.model.model_copy(update={"separator": separator})
    module = module_of(config.model_copy(update={"model": model}), debug_encoder)
    assert module.model.sample_rate == rate
    torch.testing.assert_close(
        embeddings_at(module, batch), flat(batch["audio_embedding"]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("query_audio", [QueryAudioConfig(), *ON_THE_FLY])
def test_a_part_of_a_batch_has_the_conditions_that_it_has_in_the_batch(
    query_audio: QueryAudioConfig,
    clips: list[Clip],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    """So ranks and accumulated parts draw what one process draws for the whole batch."""
    batch = batch_from(clips, debug_encoder, query_audio)
    batch["text_embedding"] = torch.randn(4, 2, 32, generator=torch.Generator().manual_seed(0))
    batch["has_text"] = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    config = configure(tmp_path, query_audio=query_audio, p_text=0.5, query_mixup=True)
    module = module_of(with_steps(config, Noise(), Dropout(p=0.5)), debug_encoder)
    whole = module.condition(batch).embeddings
    for rows in ([0, 1], [2, 3], [3]):
        part = {key: value[rows] for key, value in batch.items()}  # type: ignore[index]
        some = module.condition(TrainingExample(**part)).embeddings  # type: ignore[typeddict-item]
        expected = whole[[*rows, *(row + 4 for row in rows)]]
        torch.testing.assert_close(some, expected, atol=1e-5, rtol=0)


def test_two_queries_without_a_sound_to_embed_have_no_embedding(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    config = configure(tmp_path, query_audio=QueryAudioConfig(spec_augment=SpecAugment()))
    module = module_of(with_steps(config), debug_encoder)
    assert not embeddings_at(module, batch_of(2)).any()
