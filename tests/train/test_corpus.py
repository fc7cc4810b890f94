"""The sounds of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.data.clips import Clip
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import scan_folder
from singleout.encoders import BuiltinEncoder
from singleout.errors import ManifestError
from singleout.train.config import TrainConfig, UncaptionedConfig
from singleout.train.corpus import (
    caption_embeddings,
    fit_embeddings,
    split_clips,
    uncaptioned_clips,
)
from singleout.train.run import train
from tests.train.runs import assert_same, rows_of, tensors_below, write_rows, write_sounds


@pytest.mark.parametrize("number", [3, 19, 20, 39, 40, 100])
def test_a_twentieth_of_a_folder_is_held_out_if_it_makes_a_mixture(
    number: int,
    tmp_path: Path,
    configure: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "singleout.train.corpus.scan_folder", lambda folder, on_bad: list(range(number))
    )
    training, validation = split_clips(configure(tmp_path))
    assert sorted([*training, *validation]) == list(range(number))  # type: ignore[comparison-overlap, type-var]
    assert len(validation) == (number // 20 if number >= 40 else 0)
    assert split_clips(configure(tmp_path)) == (training, validation)


def test_a_manifest_without_validation_trains_without(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    manifest = captioned.with_name("train-only.jsonl")
    rows = captioned.read_text().splitlines()
    manifest.write_text("\n".join(row for row in rows if '"train"' in row))
    training, validation = split_clips(configure(tmp_path, manifest=manifest, audio=None))
    assert len(training) == 4
    assert validation == []


def test_a_missing_validation_sound_is_refused(
    captioned: Path, configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    manifest = captioned.with_name("broken.jsonl")
    manifest.write_text(
        captioned.read_text() + '{"path": "no.wav", "seconds": 1, "split": "validation"}\n'
    )
    with pytest.raises(ManifestError, match=r"broken\.jsonl:8: names a missing file"):
        split_clips(configure(tmp_path, manifest=manifest, audio=None))


def test_caption_embeddings_follow_the_order_of_the_clips(
    captioned: Path, debug_encoder: BuiltinEncoder, sounds: Path, configure: Any, tmp_path: Path
) -> None:
    """A clip has none, one or several; equal captions have equal embeddings."""
    clips, _ = split_clips(configure(tmp_path, manifest=captioned, audio=None))
    uncaptioned = scan_folder(sounds)
    several = dataclasses.replace(clips[1], alternatives=("another", "sound number 0"))
    ordered = [uncaptioned[0], clips[2], several, uncaptioned[1], clips[0], clips[2]]
    table = caption_embeddings(ordered, debug_encoder)
    assert table is not None
    assert [table.count(i) for i in range(6)] == [0, 1, 3, 0, 1, 1]
    for i, clip in enumerate(ordered):
        for number, caption in enumerate(clip.captions):
            expected = debug_encoder.embed_text(caption)[0]
            torch.testing.assert_close(table.of(i, number), expected, atol=1e-5, rtol=0)
    assert torch.equal(table.of(2, 2), table.of(4, 0))
    assert caption_embeddings(uncaptioned, debug_encoder) is None


def test_captions_are_paired_with_their_sounds() -> None:
    sounds = EmbeddingTable(torch.randn(7, 4), (0, 2, 3, 6, 7))
    captions = EmbeddingTable(torch.randn(5, 4), (0, 1, 1, 4, 5))
    examples = fit_embeddings(sounds, captions)
    assert torch.equal(examples.audio, sounds.embeddings[[0, 2, 3, 6]]), "one crop of each sound"
    assert torch.equal(examples.text, captions.embeddings)
    assert examples.pairs.tolist() == [0, 2, 2, 2, 3]
    uncaptioned = fit_embeddings(sounds, None)
    assert uncaptioned.text.shape == (0, 4)
    assert uncaptioned.pairs.tolist() == []


@pytest.fixture(scope="module")
def large_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 recordings of two files each, which are empty."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(301):
        (folder / f"{number}.wav").touch()
    rows: list[dict[str, Any]] = [
        {"path": f"{i}.wav", "seconds": 0.3, "caption": f"{i}", "group": f"recording {i // 2}"}
        for i in range(300)
    ]
    rows.append({**rows[0], "path": "300.wav", "split": "test", "group": "elsewhere"})
    return write_rows(folder / "large.jsonl", rows)


@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(deadline=None, max_examples=8)
def test_a_larger_share_contains_every_smaller_one(
    shares: tuple[float, float], large_manifest: Path
) -> None:
    small, large = (
        uncaptioned_clips(UncaptionedConfig(manifest=large_manifest, share=share))
        for share in sorted(shares)
    )
    groups = [{clip.group for clip in clips} for clips in (small, large)]
    assert groups[0] <= groups[1]
    for clips, names, share in zip((small, large), groups, sorted(shares), strict=True):
        assert len(clips) == 2 * len(names)  # whole recordings
        assert len(names) / 150 == pytest.approx(share, abs=0.15)
        assert all(clip.captions == () and clip.split == "train" for clip in clips)


def test_shares_of_nothing_and_everything(
    large_manifest: Path,
    sounds: Path,
    trained: tuple[TrainConfig, Path],
    configure: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    assert len(uncaptioned_clips(UncaptionedConfig(manifest=large_manifest))) == 300
    assert uncaptioned_clips(UncaptionedConfig(manifest=large_manifest, share=0.0)) == []
    assert uncaptioned_clips(UncaptionedConfig(audio=sounds)) == scan_folder(sounds)
    # Other lines of the manifest do not change which recordings are used.
    half = UncaptionedConfig(manifest=large_manifest, share=0.5)
    few = write_rows(large_manifest.with_name("few.jsonl"), rows_of(large_manifest)[100:140])
    expected = [c.group for c in uncaptioned_clips(half) if 50 <= int(c.group.split()[1]) < 70]
    groups = [c.group for c in uncaptioned_clips(UncaptionedConfig(manifest=few, share=0.5))]
    assert groups == expected
    # A share of 0 trains like a run without such a corpus.
    none = UncaptionedConfig(manifest=large_manifest, share=0.0)
    train(configure(tmp_path, uncaptioned=none))
    assert_same(tensors_below(tmp_path), tensors_below(trained[0].output))


def test_more_sounds_exclude_known_and_held_out_ones(
    captioned: Path, sounds: Path, tmp_path: Path
) -> None:
    clips = scan_folder(captioned.parent)
    known, excluded = clips[:2], clips[2:4]
    files = {clip.path.resolve() for clip in excluded}
    more = uncaptioned_clips(
        UncaptionedConfig(audio=captioned.parent), known, (files, {clips[4].group})
    )
    assert [clip.path for clip in more] == [clip.path for clip in clips[4:]]
    more = uncaptioned_clips(UncaptionedConfig(manifest=captioned), (), ((), {"0.wav"}))
    assert [clip.path.name for clip in more] == ["1.wav", "2.wav", "3.wav"]


def test_a_folder_that_is_given_twice_does_not_train_on_validation_sounds(
    configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounds").mkdir()
    write_sounds(tmp_path / "sounds", 60)
    config = configure(
        tmp_path / "run",
        audio=tmp_path / "sounds",
        uncaptioned=UncaptionedConfig(audio=tmp_path / "sounds"),
        steps=1,
    )
    trained_on: list[Clip] = []
    original = MixtureDataset.__init__

    def record(self: MixtureDataset, clips: list[Clip], *args: Any, **kwargs: Any) -> None:
        trained_on.extend(clips)
        original(self, clips, *args, **kwargs)

    monkeypatch.setattr(MixtureDataset, "__init__", record)
    train(config)
    to_train, to_score = split_clips(config)
    assert len(to_score) == 3
    assert sorted(clip.path for clip in trained_on) == sorted(clip.path for clip in to_train)
