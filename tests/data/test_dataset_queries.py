"""Examples of the data set: targets and masks of each kind of query."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from singleout.data import dataset as dataset_module
from singleout.data.clips import Clip
from singleout.data.dataset import QueryAudioConfig
from singleout.data.embeddings import EmbeddingTable, build_table
from singleout.data.plan import MixtureConfig, Planner, num_crops
from singleout.data.query_plan import QueriesConfig
from singleout.data.render import Mixture, render
from singleout.manipulations.audio import SpecAugment
from tests.data.examples import (
    ALL_KINDS,
    SEED,
    SIDES,
    assert_equal,
    coded_captions,
    dataset_of,
    examples_of,
    sides_of,
)
from tests.data.sounds import HARDER, RATE, SHORT


def assert_query_fits(
    clips: list[Clip],
    present: list[tuple[int, int]],
    rendered: Mixture,
    target: Tensor,
    number: int,
    positive: tuple[int, int] | None,
    negative: tuple[int, int] | None,
) -> str:
    """The target of query ``number`` is right; the kind of the query."""
    samples = target.numpy()
    if positive is None:
        assert negative == present[number]
        np.testing.assert_array_equal(samples, rendered.mixture - rendered.sources[number])
        return "removal"
    if positive[0] not in [clip for clip, _ in present]:
        assert negative is None
        assert not samples.any()
        assert clips[positive[0]].label not in {clips[clip].label for clip, _ in present}
        assert positive[1] < num_crops(clips[positive[0]], SHORT)
        return "absent"
    assert positive == present[number]
    np.testing.assert_array_equal(samples, rendered.sources[number])
    if negative is None:
        return "plain"
    assert negative in present
    assert negative != positive
    return "contrast"


@pytest.mark.parametrize(("config", "length"), [(SHORT, 60), (HARDER, 30)])
def test_targets_and_masks_fit_the_kind_of_the_query(
    config: MixtureConfig, length: int, eight_clips: list[Clip]
) -> None:
    captions = coded_captions([2, 1, 0, 1, 3, 1, 1, 0])
    examples = examples_of(
        eight_clips, 0, length, captions, config, queries=ALL_KINDS, all_captions=True
    )
    kinds: Counter[str] = Counter()
    for i, example in enumerate(examples):
        spec = Planner(eight_clips, config, SEED).plan(0, i)
        rendered = render(spec, eight_clips, config, RATE)
        present = [(source.clip, source.crop) for source in spec.sources]
        assert torch.equal(example["mixture"][0], torch.from_numpy(rendered.mixture))
        for number, (sound, text, excluded, excluded_text) in enumerate(
            zip(*sides_of(example), strict=True)
        ):
            target = example["targets"][number, 0]
            kind = assert_query_fits(
                eight_clips, present, rendered, target, number, sound, excluded
            )
            kinds[kind] += 1
            for place, caption in ((sound, text), (excluded, excluded_text)):
                if place is None or not captions.count(place[0]):
                    assert caption is None
                else:
                    assert caption is not None
                    assert caption[0] == place[0]
                    assert 1 <= caption[1] <= captions.count(place[0])
            named = excluded if sound is None else sound
            assert named is not None
            assert int(example["clips"][number]) == named[0]
    assert set(kinds) == {"removal", "absent", "contrast", "plain"}
    assert min(kinds.values()) > length // 12


def test_kinds_of_queries_do_not_change_mixtures(eight_clips: list[Clip]) -> None:
    plain, default, queries = (
        examples_of(eight_clips, 0, 12, queries=config)
        for config in (QueriesConfig(), None, ALL_KINDS)
    )
    resumed = dataset_of(eight_clips, 5, 7, queries=ALL_KINDS)
    for i in range(12):
        assert_equal(plain[i], default[i])
        assert_equal(plain[i], queries[i], "index", "mixture")
        assert not plain[i]["has_negative"].any()
        assert not plain[i]["has_negative_text"].any()
        if i >= 5:
            assert_equal(queries[i], resumed[i - 5])
    assert any(not torch.equal(plain[i]["targets"], queries[i]["targets"]) for i in range(12))


def test_a_contrast_changes_only_the_negative_side(eight_clips: list[Clip]) -> None:
    """The positive side keeps its sound and its caption, of several."""
    plain, contrast = (
        examples_of(
            eight_clips,
            0,
            30,
            coded_captions([3] * 8),
            all_captions=True,
            query_audio=QueryAudioConfig(source="same_class"),
            queries=queries,
        )
        for queries in (QueriesConfig(), QueriesConfig(contrast_share=1.0))
    )
    for one, other in zip(plain, contrast, strict=True):
        assert_equal(one, other, "mixture", "targets", "clips")
        for name, mask in SIDES[:2]:
            assert_equal(one, other, name, mask)
        assert other["has_negative"].all()
        assert other["has_negative_text"].all()


def test_sounds_with_close_embeddings_are_not_absent(
    eight_clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of the classes sounds like the first: 12 of the 28 pairs are close."""
    monkeypatch.setattr(dataset_module, "ALIKE_SHARE", 0.45)
    rows = torch.eye(6)
    embeddings = [rows[0], rows[1], 0.6 * rows[0] + 0.8 * rows[2], rows[1]] * 2
    table = build_table(eight_clips, SHORT, lambda clip, crop: embeddings[clip])
    queries = QueriesConfig(absent_share=1.0)
    num_absent = 0
    for i, example in enumerate(examples_of(eight_clips, 0, 60, table=table, queries=queries)):
        present = {source.clip for source in Planner(eight_clips, SHORT, SEED).plan(0, i).sources}
        for clip, target in zip(example["clips"].tolist(), example["targets"], strict=True):
            if target.any():
                assert clip in present
                continue
            num_absent += 1
            assert all(float(embeddings[clip] @ embeddings[other]) == 0 for other in present)
    assert num_absent > 10


def test_the_same_share_of_pairs_is_alike_for_every_encoder() -> None:
    """Embeddings may point in all directions or lie in a narrow cone."""
    directions = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    for cone in (0.0, 30.0):
        rows = torch.nn.functional.normalize(directions + cone * torch.eye(6)[0], dim=-1)
        table = EmbeddingTable(rows, tuple(range(201)))
        threshold = dataset_module._alike_threshold(table)
        similarity = (rows @ rows.T)[*torch.triu_indices(200, 200, 1)]
        assert float((similarity > threshold).float().mean()) == pytest.approx(0.03, abs=0.001)


def test_absent_sounds_have_queries_like_all_others(eight_clips: list[Clip]) -> None:
    """They are embedded in training, and another recording of their class is the query."""
    query_audio = QueryAudioConfig(source="same_class", spec_augment=SpecAugment())
    queries = QueriesConfig(absent_share=0.5)
    num_absent = 0
    for example in examples_of(eight_clips, 0, 30, queries=queries, query_audio=query_audio):
        for place, clip, sound, length, target in zip(
            sides_of(example)[0], example["clips"].tolist(), example["query_audio"],
            example["query_samples"].tolist(), example["targets"], strict=True,
        ):  # fmt: skip
            assert place is not None
            assert place[0] != clip
            assert eight_clips[place[0]].label == eight_clips[clip].label
            seconds = min(eight_clips[place[0]].seconds, 0.7)
            assert length == round(seconds * RATE) or place[1] > 0
            assert sound[:length].any()
            assert not sound[length:].any()
            num_absent += not target.any()
    assert 10 < num_absent < 50


def test_a_removal_has_no_sound_to_embed(eight_clips: list[Clip]) -> None:
    query_audio = QueryAudioConfig(spec_augment=SpecAugment())
    queries = QueriesConfig(removal_share=1.0)
    example = dataset_of(eight_clips, queries=queries, query_audio=query_audio)[0]
    assert not example["has_positive"].any()
    assert example["has_negative"].all()
    assert example["query_samples"].tolist() == [0, 0]
    assert example["query_audio"].shape == (2, round(0.7 * RATE))
    assert not example["query_audio"].any()
