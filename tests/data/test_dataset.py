"""Examples of the data set: their mixtures, masks and query sounds."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from singleout.data.clips import Clip, Clips
from singleout.data.dataset import QueryAudioConfig
from singleout.data.embeddings import SAMPLE_RATE, EmbeddingTable, build_table
from singleout.data.plan import Planner, SourceSpec, num_crops
from singleout.data.query_plan import NUM_QUERIES, QueriesConfig
from singleout.data.render import read_crop, render
from singleout.errors import AudioError, ConfigError
from singleout.manipulations.audio import Mixup, SpecAugment
from tests.data.examples import (
    ALL_KINDS,
    SEED,
    SIDES,
    assert_equal,
    coded_captions,
    coded_table,
    dataset_of,
    decoded,
    examples_of,
    sides_of,
)
from tests.data.sounds import RATE, SHORT, as_pcm, in_shard, power_db


def targets_of(clips: list[Clip], index: int) -> tuple[SourceSpec, ...]:
    """The first sources of a mixture of ``dataset_of``."""
    return Planner(clips, SHORT, SEED).plan(0, index).sources[:NUM_QUERIES]


def test_an_example_has_two_queries_for_one_mixture(five_clips: list[Clip]) -> None:
    dataset = dataset_of(five_clips, 10, 4, coded_captions([1] * 5))
    assert len(dataset) == 4
    for i in range(len(dataset)):
        spec = Planner(five_clips, SHORT, SEED).plan(0, 10 + i)
        rendered = render(spec, five_clips, SHORT, RATE)
        example = dataset[i]
        assert torch.equal(example["mixture"][0], torch.from_numpy(rendered.mixture))
        assert torch.equal(example["targets"][:, 0], torch.from_numpy(rendered.sources[:2]))
        targets = spec.sources[:2]
        sounds, texts, *negative = sides_of(example)
        assert sounds == [(source.clip, source.crop) for source in targets]
        assert texts == [(source.clip, 1) for source in targets]
        assert negative == [[None, None]] * 2
        assert example["clips"].tolist() == [source.clip for source in targets]
        assert example["query_audio"].shape == (2, 0)
        assert example["query_samples"].tolist() == [0, 0]


def test_the_other_sources_of_a_mixture_are_given(five_clips: list[Clip]) -> None:
    dataset = dataset_of(five_clips, 10, 6, coded_captions([1] * 5))
    most = SHORT.num_sources[1]
    numbers = set()
    for i in range(len(dataset)):
        sources = Planner(five_clips, SHORT, SEED).plan(0, 10 + i).sources
        example = dataset[i]
        for query in range(2):
            others = [(s.clip, s.crop) for n, s in enumerate(sources) if n != query]
            padding = [None] * (most - len(others))
            given = decoded(example["other_embeddings"][query], example["has_other"][query])
            assert given == others + padding
        # No query has a negative side here: every source is another one.
        assert example["has_negative_other"].sum(1).tolist() == [len(sources)] * 2
        numbers.add(len(sources))
    assert numbers == {2, 3}


def test_the_index_counts_from_the_start_of_the_run(five_clips: list[Clip]) -> None:
    dataset = dataset_of(five_clips, first=10, length=4)
    assert [int(dataset[i]["index"]) for i in range(4)] == [10, 11, 12, 13]
    batches = DataLoader(dataset, batch_size=2)
    assert [batch["index"].tolist() for batch in batches] == [[10, 11], [12, 13]]


def test_masks_of_a_batch_are_boolean(five_clips: list[Clip]) -> None:
    (batch,) = DataLoader(dataset_of(five_clips, queries=ALL_KINDS), batch_size=4)
    for name, mask in SIDES:
        assert batch[mask].dtype == torch.bool
        assert batch[mask].shape == batch[name].shape[:2] == (4, 2)


def test_embeddings_that_are_zero_are_not_missing(five_clips: list[Clip]) -> None:
    """The masks alone tell what is missing."""
    zeros = build_table(five_clips, SHORT, lambda clip, crop: torch.zeros(6))
    captions = EmbeddingTable(torch.zeros(5, 6), (0, 1, 2, 3, 4, 5))
    queries = QueriesConfig(contrast_share=1.0)
    for example in examples_of(five_clips, captions=captions, table=zeros, queries=queries):
        for name, mask in SIDES:
            assert example[mask].all()  # type: ignore[literal-required]
            assert not example[name].any()  # type: ignore[literal-required]


def test_a_resumed_data_set_continues_where_the_first_stopped(five_clips: list[Clip]) -> None:
    whole, rest = dataset_of(five_clips, 0, 4), dataset_of(five_clips, 2, 2)
    for i in range(2):
        assert_equal(whole[i + 2], rest[i])
    assert not whole[0]["has_text"].any()
    for index in (-1, 4):
        with pytest.raises(IndexError):
            whole[index]


@pytest.mark.parametrize("all_captions", [False, True])
def test_captions_are_drawn_only_for_clips_that_have_some(
    five_clips: list[Clip], all_captions: bool
) -> None:
    """One of all captions with ``all_captions``, otherwise the first."""
    counts = [3, 0, 1, 2, 0]
    dataset = dataset_of(five_clips, 0, 150, coded_captions(counts), all_captions=all_captions)
    numbers: dict[int, list[int]] = {clip: [] for clip in range(5)}
    for i in range(150):
        example = dataset[i]
        texts = decoded(example["text_embedding"], example["has_text"])
        for clip, text in zip(example["clips"].tolist(), texts, strict=True):
            assert (text is None) == (counts[clip] == 0)
            if text is not None:
                assert text[0] == clip
                numbers[clip].append(text[1])
    for clip, count in enumerate(counts):
        assert set(numbers[clip]) == set(range(1, (count if all_captions else min(count, 1)) + 1))
    if all_captions:
        shares = np.bincount(numbers[0], minlength=4)[1:] / len(numbers[0])
        assert shares.min() > 0.15


def grouped(clips: list[Clip], labels: str, groups: str) -> list[Clip]:
    return [
        replace(clip, label=label, group=group)
        for clip, label, group in zip(clips, labels, groups, strict=True)
    ]


def query_places(clips: list[Clip], source: Any, length: int) -> list[tuple[SourceSpec, int, int]]:
    """Each target with the clip and the crop that are its query."""
    dataset = dataset_of(clips, 0, length, query_audio=QueryAudioConfig(source=source))
    places = []
    for i in range(length):
        sounds = sides_of(dataset[i])[0]
        for target, place in zip(targets_of(clips, i), sounds, strict=True):
            assert place is not None
            assert 0 <= place[1] < num_crops(clips[place[0]], SHORT)
            places.append((target, *place))
    return places


def test_another_crop_of_the_same_clip_is_the_query(five_clips: list[Clip]) -> None:
    crops_of: dict[tuple[int, int], set[int]] = {}
    for target, clip, crop in query_places(five_clips, "other_crop", 120):
        assert clip == target.clip
        if num_crops(five_clips[clip], SHORT) == 1:
            assert crop == target.crop == 0
        else:
            assert crop != target.crop
            crops_of.setdefault((clip, target.crop), set()).add(crop)
    # Every other crop is drawn at some time.
    crops = num_crops(five_clips[2], SHORT)
    assert crops >= 3
    for crop in range(crops):
        assert crops_of[2, crop] == set(range(crops)) - {crop}


def test_another_recording_of_the_same_class_is_the_query(five_clips: list[Clip]) -> None:
    """Clips 0 and 2 are two recordings of class a; clips 1 and 4 are one recording of class b;
    clip 3 is the only one of its class."""
    clips = grouped(five_clips, "abacb", "ghijh")
    places = query_places(clips, "same_class", 120)
    drawn = {
        clip: {(other, crop) for target, other, crop in places if target.clip == clip}
        for clip in range(5)
    }
    assert drawn[0] == {(2, crop) for crop in range(num_crops(clips[2], SHORT))}
    assert drawn[2] == {(0, 0)}
    for clip in (1, 3, 4):
        assert {other for other, _ in drawn[clip]} == {clip}
    for target, clip, crop in places:
        if target.clip in (1, 3, 4) and num_crops(clips[clip], SHORT) > 1:
            assert crop != target.crop


def test_query_sounds_do_not_change_the_mixtures(five_clips: list[Clip]) -> None:
    clips = grouped(five_clips, "abacc", "ghijk")
    plain = examples_of(clips, 0, 6)
    for query_audio in (
        QueryAudioConfig(source="other_crop"),
        QueryAudioConfig(source="same_class", mixup=Mixup()),
        QueryAudioConfig(spec_augment=SpecAugment()),
    ):
        captions = coded_captions([2] * 5)
        examples = examples_of(clips, 0, 6, captions, query_audio=query_audio)
        resumed = examples_of(clips, 4, 2, captions, query_audio=query_audio)
        for one, other in zip(plain, examples, strict=True):
            assert_equal(one, other, "index", "mixture", "targets", "clips")
        for one, other in zip(examples[4:], resumed, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_sounds_to_embed_in_training_are_those_of_the_cache(
    rate: int, five_clips: list[Clip]
) -> None:
    """They have the encoder's rate, whatever the model's, and are padded to one length."""
    config = QueryAudioConfig(source="other_crop", spec_augment=SpecAugment())
    lengths = set()
    for example in examples_of(five_clips, 0, 12, rate=rate, query_audio=config):
        assert example["query_audio"].shape == (2, 22_400)
        for sound, length, place in zip(
            example["query_audio"], example["query_samples"], sides_of(example)[0], strict=True
        ):
            assert place is not None
            expected = read_crop(five_clips[place[0]], place[1], SHORT, SAMPLE_RATE)
            assert torch.equal(sound[:length], torch.from_numpy(expected))
            assert not sound[length:].any()
            lengths.add(int(length))
    assert len(lengths) > 2


def test_another_sound_is_mixed_into_the_query(five_clips: list[Clip]) -> None:
    mixup = QueryAudioConfig(mixup=Mixup(gain_db=(-5.0, -5.0)))
    without = QueryAudioConfig(mixup=Mixup(share=0.0))
    correlations = []
    for mixed, plain in zip(
        examples_of(five_clips, 0, 20, query_audio=mixup),
        examples_of(five_clips, 0, 20, query_audio=without),
        strict=True,
    ):
        assert_equal(mixed, plain, "query_samples", "audio_embedding")
        for sound, target, length, place in zip(
            mixed["query_audio"],
            plain["query_audio"],
            mixed["query_samples"],
            sides_of(mixed)[0],
            strict=True,
        ):
            assert place is not None
            expected = read_crop(five_clips[place[0]], place[1], SHORT, SAMPLE_RATE)
            assert torch.equal(target[:length], torch.from_numpy(expected))
            interference = (sound - target)[:length].numpy()
            level = power_db(interference) - power_db(expected)
            assert level == pytest.approx(-5, abs=0.01)
            correlations.append(abs(np.corrcoef(interference, expected)[0, 1]))
    assert np.median(correlations) < 0.1  # any clip is mixed in, sometimes the same one


@pytest.mark.parametrize("change", ["touched", "another", "removed"])
def test_a_sound_that_changes_during_the_training_is_named(
    change: str, three_clips: list[Clip]
) -> None:
    """Its embeddings would be those of the old sound."""
    dataset = dataset_of(three_clips)
    assert len([dataset[i] for i in range(4)]) == 4
    path = three_clips[1].path
    status = path.stat()
    if change == "another":
        path.write_bytes(three_clips[2].path.read_bytes())
    else:
        path.unlink() if change == "removed" else os.utime(path, ns=(0, status.st_mtime_ns + 1))
    with pytest.raises(AudioError, match="was changed or removed during the training") as caught:
        [dataset[i] for i in range(4)]
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["file", "shard"])
def test_a_sound_that_changed_before_its_first_use_is_named(
    kind: str, three_clips: list[Clip], tmp_path: Path
) -> None:
    """In a worker, say, or late in the training. A time in the future is no change."""
    clips = three_clips if kind == "file" else in_shard(three_clips, tmp_path / "0.tar")
    path = clips[1].path if clips[1].member is None else Path(clips[1].member.shard)
    os.utime(path, (time.time() + 9_999, time.time() + 9_999))
    dataset = dataset_of(clips)
    assert len([dataset[i] for i in range(4)]) == 4
    dataset = pickle.loads(pickle.dumps(dataset_of(clips)))
    os.utime(path, ns=(0, time.time_ns()))  # what writing does, of which the clock is coarse
    with pytest.raises(AudioError, match="was changed or removed during the training") as caught:
        [dataset[i] for i in range(4)]
    assert str(caught.value).startswith(f"{path}: ")


def test_embeddings_of_other_crops_are_refused(three_clips: list[Clip]) -> None:
    longer = SHORT.model_copy(update={"segment_seconds": 0.9})
    with pytest.raises(ConfigError, match=r"are of 6 crops .* of the 3 sounds, of 0.9 s every"):
        dataset_of(three_clips, config=longer, table=coded_table(three_clips))


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_examples_from_shards_are_those_of_the_files(
    suffix: str, five_clips: list[Clip], tmp_path: Path
) -> None:
    """To the bit, of clips as columns, and in another process, which gets a pickle."""
    files = as_pcm(five_clips, tmp_path, suffix)
    clips = Clips.of(in_shard(files, tmp_path / "0.tar"))
    options: dict[str, Any] = {
        "queries": ALL_KINDS,
        "query_audio": QueryAudioConfig(source="same_class"),
    }
    dataset = dataset_of(clips, 3, 8, coded_captions([1] * 5), **options)
    dataset = pickle.loads(pickle.dumps(dataset))
    expected = examples_of(files, 3, 8, coded_captions([1] * 5), **options)
    for i in range(8):
        assert_equal(dataset[i], expected[i])
