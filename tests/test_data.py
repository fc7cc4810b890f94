"""Manifests, plans, rendered mixtures and the data set."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import write_wav
from singleout.data.dataset import MixtureDataset, QueryAudioConfig
from singleout.data.embeddings import SAMPLE_RATE, EmbeddingTable, build_table
from singleout.data.manifest import (
    Clip,
    check_splits,
    held_out,
    read_manifest,
    scan_folder,
    share_of,
    total_seconds,
)
from singleout.data.plan import MixtureConfig, MixtureSpec, Planner, SourceSpec, num_crops
from singleout.data.render import low_pass, read_crop, render
from singleout.errors import AudioError, ManifestError
from singleout.query.audio_manipulations import Mixup, SpecAugment

RATE = 32_000
SHORT = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35)


def clip_of(number: int, seconds: float = 3.0, label: str | None = None, group: str = "") -> Clip:
    name = f"{number}.wav"
    return Clip(Path(name), seconds, None, (), label or name, group or name, "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five noises of 0.2 to 2.2 s, two of them at other rates, one in stereo."""
    folder = tmp_path_factory.mktemp("sounds")
    for i, rate in enumerate([32_000, 32_000, 16_000, 44_100, 32_000]):
        shape = (2 if i == 1 else 1, int(rate * (0.2 + 0.5 * i)))
        audio = np.random.default_rng([i]).normal(0, 0.1, shape).astype(np.float32)
        write_wav(folder / f"{i}.wav", audio, rate)
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return scan_folder(folder)


# Manifests.


def manifest_of(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def with_sound(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"")
    return tmp_path


GOOD: dict[str, Any] = {"path": "a.wav", "seconds": 1.5}


def test_a_full_line_is_read(with_sound: Path) -> None:
    row = {
        **GOOD,
        "caption": "a dog\u2028barking",
        "alternatives": ["a hound"],
        "class": "dog",
        "group": "rex",
        "split": "test",
        "licence": {"any": "thing"},
    }
    (clip,) = read_manifest(manifest_of(with_sound, row), "test")
    assert clip == Clip(
        with_sound / "a.wav", 1.5, "a dog\u2028barking", ("a hound",), "dog", "rex", "test"
    )
    assert clip.captions == ("a dog\u2028barking", "a hound")


def test_what_is_not_said_falls_back(with_sound: Path) -> None:
    (clip,) = read_manifest(manifest_of(with_sound, "", GOOD, "  "))
    assert (clip.caption, clip.captions) == (None, ())
    assert clip.label == clip.group == "a.wav"
    assert clip.split == "train"


def test_blank_captions_are_none(with_sound: Path) -> None:
    row = {**GOOD, "caption": " \t", "alternatives": ["", "a hound", " "]}
    (clip,) = read_manifest(manifest_of(with_sound, row))
    assert clip.caption is None
    assert clip.captions == ("a hound",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {"split": "val"}], r"a\.wav is of the split 'val'.*call it 'validation'"),
        ([{"split": "Train"}], "call it 'train'"),
        ([{"split": " dev"}], "call it 'validation'"),
        (
            [{"group": "rex"}, {"group": "rex", "split": "test"}],
            r"a\.wav \(train\) and a\.wav \(test\) are of one group, 'rex'",
        ),
        ([{"group": "rex", "split": "validation"}, {"group": "rex"}], "of one group"),
    ],
)
def test_splits_that_are_not_meant_are_refused(
    changes: list[dict[str, str]], message: str, with_sound: Path
) -> None:
    path = manifest_of(with_sound, *({**GOOD, **change} for change in changes))
    with pytest.raises(ManifestError, match=message) as caught:
        check_splits(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_splits_of_other_names_are_nobodys_business(with_sound: Path) -> None:
    rows = [{"group": "a"}, {"split": "validation"}, {"split": "test_far"}, {"split": "later"}]
    rows = [{**GOOD, "group": f"g{i}", **row} for i, row in enumerate(rows)]
    path = manifest_of(with_sound, *rows, {**GOOD, "group": "g3", "split": "test"})
    check_splits(path)
    files, groups = held_out(path)
    assert groups == {"g1", "g2", "g3"}
    assert files == {(with_sound / "a.wav").resolve()}


def test_splits_are_apart_and_in_order(with_sound: Path) -> None:
    rows = [{**GOOD, "caption": str(i), "split": "ab"[i % 2]} for i in range(6)]
    path = manifest_of(with_sound, *rows)
    assert [clip.caption for clip in read_manifest(path, "a")] == ["0", "2", "4"]
    assert [clip.caption for clip in read_manifest(path, "b")] == ["1", "3", "5"]
    assert total_seconds(read_manifest(path)) == 9


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not a manifest line"),
        ("[1]", "not a manifest line"),
        ("null", "not a manifest line"),
        ('"text"', "not a manifest line"),
        ({"seconds": 1}, "the key 'path' is missing"),
        ({"path": "a.wav"}, "the key 'seconds' is missing"),
        ({"path": "no.wav", "seconds": 1}, "names a missing file: .*no.wav"),
        ({"path": ".", "seconds": 1}, "names a missing file"),
        ({"path": 5, "seconds": 1}, "not a manifest line"),
        ({**GOOD, "seconds": "long"}, "not a manifest line"),
        ({**GOOD, "seconds": None}, "not a manifest line"),
        ({**GOOD, "seconds": 0}, "seconds is 0"),
        ({**GOOD, "seconds": -1}, "seconds is -1"),
        ({**GOOD, "seconds": math.nan}, "seconds is nan"),
        ({**GOOD, "seconds": math.inf}, "seconds is inf"),
        ({**GOOD, "caption": 5}, "caption is not text"),
        ({**GOOD, "class": ["dog"]}, "class is not text"),
        ({**GOOD, "group": 5}, "group is not text"),
        ({**GOOD, "alternatives": "a hound"}, "alternatives is not a list"),
        ({**GOOD, "alternatives": [1]}, "alternatives is not a list"),
        ({**GOOD, "caption": "dog " * 300}, "1,200 characters, the limit is 1,000"),
        ('{"path": "a.wav", "seconds": 1, "caption": "a \\ud800"}', "not valid text"),
        ({**GOOD, "path": "a" * 300}, "names a missing file|not a manifest line"),
        ({**GOOD, "path": "a\0b"}, "names a missing file|not a manifest line"),
    ],
)
def test_a_bad_line_is_named(row: dict[str, Any] | str, message: str, with_sound: Path) -> None:
    path = manifest_of(with_sound, GOOD, "", row)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "holds no sounds"), (b"\xff\xfe", "cannot be read")]
)
def test_an_unusable_manifest_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


def test_missing_manifests_and_empty_splits_are_refused(with_sound: Path) -> None:
    for path in (with_sound / "no.jsonl", with_sound):
        with pytest.raises(ManifestError, match="cannot be read as a manifest"):
            read_manifest(path)
    path = manifest_of(with_sound, GOOD)
    with pytest.raises(
        ManifestError, match="holds no sounds of the split 'validation', but 1 of 'train'"
    ):
        read_manifest(path, "validation")
    assert read_manifest(path, "validation", may_be_empty=True) == []


def test_a_folder_is_scanned_below_and_in_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.WAV").write_bytes((folder / "0.wav").read_bytes())
    (tmp_path / "a.wav").write_bytes((folder / "2.wav").read_bytes())
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "deep" / "._b.wav").write_bytes(b"of macOS")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "c.wav").write_bytes(b"")
    found = scan_folder(tmp_path)
    assert [clip.label for clip in found] == ["a.wav", "deep/b.WAV"]
    assert [clip.seconds for clip in found] == pytest.approx([1.2, 0.2])
    assert {clip.caption for clip in found} == {None}


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_names_may_be_of_any_bytes(folder: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / name).write_bytes((folder / "2.wav").read_bytes())
    (clip,) = scan_folder(tmp_path)
    assert clip.label == name
    assert len(read_crop(clip, 0, SHORT, RATE)) == round(0.7 * RATE)
    assert 0 <= share_of(clip.group) < 1


def test_folders_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a folder"):
        scan_folder(tmp_path / "no")
    with pytest.raises(ManifestError, match="holds no audio"):
        scan_folder(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ManifestError, match=r"broken\.wav: cannot be read as audio") as caught:
        scan_folder(tmp_path)
    assert "\n" not in str(caught.value)


# Plans.

ranges = st.tuples(st.floats(-20, 20), st.floats(-20, 20)).map(lambda pair: tuple(sorted(pair)))
configs = st.builds(
    MixtureConfig,
    segment_seconds=st.floats(1.5, 6),
    crop_hop_seconds=st.floats(0.5, 1.5),
    num_sources=st.sampled_from([(1, 1), (1, 3), (2, 2), (2, 3), (3, 3)]),
    snr_db=ranges,
    gain_db=ranges,
    repeat_share=st.sampled_from([0.0, 0.5, 1.0]),
    speed=st.sampled_from([(1.0, 1.0), (0.5, 2.0)]),
    source_band_share=st.sampled_from([0.0, 0.5, 1.0]),
    mixture_band_share=st.sampled_from([0.0, 0.5, 1.0]),
    class_balance=st.sampled_from([0.0, 0.5, 1.0]),
)
# Three clips of each of five classes; a group spans at most two clips, so that any start can be
# completed.
clip_lists = st.lists(st.floats(0.05, 20), min_size=15, max_size=15).map(
    lambda lengths: [
        clip_of(i, seconds, f"class {i % 5}", f"group {i // 2}")
        for i, seconds in enumerate(lengths)
    ]
)


@settings(deadline=None, max_examples=40)
@given(
    config=configs,
    clips=clip_lists,
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    index=st.integers(0, 2**40),
)
def test_plans_keep_their_promises(
    config: MixtureConfig, clips: list[Clip], seed: int, epoch: int, index: int
) -> None:
    planner = Planner(clips, config, seed)
    spec = planner.plan(epoch, index)
    planner.plan(epoch + 1, index + 1)
    assert spec == planner.plan(epoch, index)
    assert spec == Planner(clips, config, seed).plan(epoch, index)

    sources = spec.sources
    assert config.num_sources[0] <= len(sources) <= config.num_sources[1]
    assert len({clips[s.clip].label for s in sources}) == len(sources)
    assert len({clips[s.clip].group for s in sources}) == len(sources)
    assert config.gain_db[0] <= spec.gain_db <= config.gain_db[1]
    assert sources[0].snr_db == 0
    for source in sources:
        clip = clips[source.clip]
        assert 0 <= source.crop < num_crops(clip, config)
        assert source.crop * config.crop_hop_seconds < clip.seconds
        assert config.speed[0] <= source.speed <= config.speed[1]
        assert source.onset_seconds
        assert list(source.onset_seconds) == sorted(source.onset_seconds)
        assert all(0 <= onset < config.segment_seconds for onset in source.onset_seconds)
        # A short sound is heard in full at least once.
        length = min(clip.seconds / source.speed, config.segment_seconds)
        assert source.onset_seconds[0] + length <= config.segment_seconds + 1e-6
        if config.repeat_share == 0:
            assert len(source.onset_seconds) == 1
        if source.band_hz is not None:
            assert config.band_hz[0] * 0.999 <= source.band_hz <= config.band_hz[1] * 1.001
        elif config.source_band_share == 1 or config.mixture_band_share == 1:
            pytest.fail("a sound without band")
    for source in sources[1:]:
        assert config.snr_db[0] <= source.snr_db <= config.snr_db[1]


def test_seeds_epochs_and_indices_draw_other_mixtures() -> None:
    clips = [clip_of(i) for i in range(50)]
    planner = Planner(clips, MixtureConfig(), 0)
    specs = [planner.plan(0, i) for i in range(100)]
    specs += [planner.plan(1, i) for i in range(100)]
    specs += [Planner(clips, MixtureConfig(), 1).plan(0, i) for i in range(100)]
    assert len(set(specs)) == 300


def test_class_balance_draws_classes_alike() -> None:
    clips = [clip_of(i, label="many") for i in range(18)] + [
        clip_of(i, label=str(i)) for i in range(18, 20)
    ]

    def share(balance: float) -> float:
        config = MixtureConfig(num_sources=(1, 1), class_balance=balance)
        planner = Planner(clips, config, 0)
        drawn = [clips[planner.plan(0, i).sources[0].clip].label for i in range(600)]
        return drawn.count("many") / len(drawn)

    assert share(0.0) == pytest.approx(0.9, abs=0.05)
    assert share(1.0) == pytest.approx(1 / 3, abs=0.07)
    assert share(1.0) < share(0.5) < share(0.0)


@pytest.mark.parametrize("field", ["label", "group"])
def test_too_few_classes_or_groups_are_refused(field: str) -> None:
    clips = [replace(clip_of(i), **{field: str(i % 2)}) for i in range(6)]
    with pytest.raises(
        ManifestError,
        match=r"need as many kinds .*without a manifest, 3 files",
    ):
        Planner(clips, MixtureConfig(), 0)
    Planner(clips, MixtureConfig(num_sources=(2, 2)), 0)


@given(seconds=st.floats(0.01, 100), segment=st.floats(0.1, 10), share=st.floats(0.1, 1))
def test_crops_cover_the_clip_and_start_inside(
    seconds: float, segment: float, share: float
) -> None:
    hop = share * segment
    config = MixtureConfig(segment_seconds=segment, crop_hop_seconds=hop)
    number = num_crops(clip_of(0, seconds), config)
    assert number >= 1
    assert (number - 1) * hop + segment >= seconds - 1e-6
    if number > 1:  # the one before was not enough
        assert (number - 2) * hop + segment < seconds


# Rendering.


def spec_of(*sources: SourceSpec, gain_db: float = 0.0) -> MixtureSpec:
    return MixtureSpec(sources, gain_db)


def source_of(clip: int, **changes: Any) -> SourceSpec:
    return replace(SourceSpec(clip, 0, (0.0,), 0.0, 1.0, None), **changes)


def power_db(audio: NDArray[np.float32]) -> Any:
    return 10 * np.log10(np.square(audio, dtype=np.float64).mean(-1))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), loud=st.booleans())
def test_rendered_mixtures_keep_their_plan(clips: list[Clip], seed: int, loud: bool) -> None:
    config = MixtureConfig(
        segment_seconds=0.7,
        crop_hop_seconds=0.35,
        gain_db=(20.0, 40.0) if loud else (-40.0, -10.0),
    )
    spec = Planner(clips, config, seed).plan(0, 0)
    rendered = render(spec, clips, config, RATE)
    num_samples = round(0.7 * RATE)
    assert rendered.mixture.shape == (num_samples,)
    assert rendered.sources.shape == (len(spec.sources), num_samples)
    assert rendered.mixture.dtype == rendered.sources.dtype == np.float32
    assert np.isfinite(rendered.mixture).all()
    np.testing.assert_array_equal(rendered.mixture, rendered.sources.sum(0))
    peak = np.abs(rendered.mixture).max()
    assert peak <= 0.99 + 1e-6
    levels = power_db(rendered.sources)
    planned = [source.snr_db for source in spec.sources]
    np.testing.assert_allclose(levels[0] - levels, planned, atol=0.01)
    if loud:
        assert peak == pytest.approx(0.99, abs=1e-5)
    else:
        expected = 20 * math.log10(0.05) + spec.gain_db
        assert power_db(rendered.mixture) == pytest.approx(expected, abs=0.01)
    again = render(spec, clips, config, RATE)
    np.testing.assert_array_equal(again.sources, rendered.sources)


def test_a_short_sound_is_placed_where_it_is_planned(clips: list[Clip]) -> None:
    spec = spec_of(source_of(0, onset_seconds=(0.1, 0.4)))
    (rendered,) = render(spec, clips, SHORT, RATE).sources
    crop = read_crop(clips[0], 0, SHORT, RATE)
    assert len(crop) == 6400
    gain = np.abs(rendered).max() / np.abs(crop).max()
    for onset in (3200, 12_800):
        np.testing.assert_allclose(rendered[onset : onset + 6400], gain * crop, atol=1e-6)
    assert not rendered[:3200].any()
    assert not rendered[9600:12_800].any()
    assert not rendered[19_200:].any()


def test_a_sound_that_overhangs_is_cut(clips: list[Clip]) -> None:
    spec = spec_of(source_of(0, onset_seconds=(0.6,)))
    (rendered,) = render(spec, clips, SHORT, RATE).sources
    assert rendered[19_200:].any()
    assert len(rendered) == 22_400


def test_silence_renders_as_silence(tmp_path: Path, clips: list[Clip]) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros((1, RATE), np.float32), RATE)
    (silent,) = scan_folder(tmp_path)
    for order in ((0, 1), (1, 0), (0, 0)):
        spec = spec_of(*(source_of(i) for i in order))
        rendered = render(spec, [silent, clips[3]], SHORT, RATE)
        assert np.isfinite(rendered.sources).all()
        assert np.abs(rendered.mixture).max() <= 0.99 + 1e-6
        assert not rendered.sources[order.index(0)].any()


def test_speed_changes_length_and_pitch(tmp_path: Path) -> None:
    time = np.arange(RATE // 5) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
    write_wav(tmp_path / "tone.wav", tone, RATE)
    spec = spec_of(source_of(0, speed=2.0))
    (fast,) = render(spec, scan_folder(tmp_path), SHORT, RATE).sources
    assert np.abs(fast[3300:]).max() < 1e-3 * np.abs(fast).max()
    spectrum = np.abs(np.fft.rfft(fast[:3200]))
    assert np.fft.rfftfreq(3200, 1 / RATE)[spectrum.argmax()] == pytest.approx(2000, abs=20)


@pytest.mark.parametrize("cutoff_hz", [500.0, 2_000.0, 10_000.0])
@pytest.mark.parametrize("num_samples", [16_000, 16_001])
def test_low_pass_keeps_what_is_below_and_removes_what_is_above(
    cutoff_hz: float, num_samples: int
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, num_samples).astype(np.float32)
    filtered = low_pass(noise, cutoff_hz, RATE)
    assert filtered.dtype == np.float32
    assert filtered.shape == noise.shape
    hz = np.fft.rfftfreq(num_samples, 1 / RATE)
    gain = np.abs(np.fft.rfft(filtered)) / np.abs(np.fft.rfft(noise))
    np.testing.assert_allclose(gain[hz <= cutoff_hz], 1, atol=1e-3)
    assert gain[hz >= cutoff_hz * 2 ** (1 / 3)].max() < 1e-3
    # Zero phase: a tone below the cut-off stays where it is.
    tone = np.sin(2 * np.pi * 100 * np.arange(num_samples) / RATE).astype(np.float32)
    assert np.abs(low_pass(tone, cutoff_hz, RATE) - tone)[1000:-1000].max() < 0.01


def test_crops_are_cut_at_the_hop_and_mixed_to_mono(clips: list[Clip]) -> None:
    whole, rate = soundfile.read(clips[4].path, dtype="float32")
    assert rate == RATE
    for crop in range(num_crops(clips[4], SHORT)):
        start = round(crop * 0.35 * RATE)
        expected = whole[start : start + round(0.7 * RATE)]
        np.testing.assert_array_equal(read_crop(clips[4], crop, SHORT, RATE), expected)
    stereo, _ = soundfile.read(clips[1].path, dtype="float32")
    np.testing.assert_allclose(read_crop(clips[1], 0, SHORT, RATE), stereo.mean(1), atol=1e-7)


def test_crops_are_resampled(clips: list[Clip]) -> None:
    for clip in (clips[2], clips[3]):
        assert len(read_crop(clip, 0, SHORT, RATE)) == pytest.approx(0.7 * RATE, abs=1)


def test_a_manifest_that_promises_more_than_there_is(clips: list[Clip]) -> None:
    """Milliseconds or samples for seconds; a rounded figure will do."""
    long = replace(clips[2], seconds=1_000 * clips[2].seconds)
    read_crop(long, 0, SHORT, RATE)
    with pytest.raises(AudioError, match=r"lasts 1\.20 s, and not 1200\.00 s as its manifest says"):
        read_crop(long, 7, SHORT, RATE)
    rounded = replace(clips[2], seconds=clips[2].seconds + 0.05)
    assert len(read_crop(rounded, 4, SHORT, RATE)) >= 1


def test_sounds_that_cannot_be_rendered_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, "FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for path, message in (
        (tmp_path / "empty.wav", "has no samples"),
        (broken, "cannot be read as audio"),
        (tmp_path / "no.wav", "cannot be read as audio"),
        (tmp_path / "nan.wav", "has NaN or infinite samples"),
    ):
        with pytest.raises(AudioError, match=message) as caught:
            read_crop(replace(clip_of(0), path=path), 0, SHORT, RATE)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


# The data set.


def marked_table(clips: list[Clip], config: MixtureConfig) -> EmbeddingTable:
    """Each embedding is its clip and crop."""
    return build_table(clips, config, lambda clip, crop: torch.tensor([clip, crop]))


def marked_captions(counts: list[int]) -> EmbeddingTable:
    """So many captions of each clip; each embedding is its clip and its number, from 1."""
    rows = [[clip, number + 1] for clip, count in enumerate(counts) for number in range(count)]
    return EmbeddingTable(torch.tensor(rows).float(), tuple(np.cumsum([0, *counts]).tolist()))


def dataset_of(
    clips: list[Clip],
    first: int,
    length: int,
    captions: EmbeddingTable | None = None,
    rate: int = RATE,
    **changes: Any,
) -> MixtureDataset:
    table = marked_table(clips, SHORT)
    return MixtureDataset(clips, SHORT, rate, table, captions, 5, first, length, **changes)


def asked(clips: list[Clip], index: int) -> tuple[SourceSpec, ...]:
    """The targets of a mixture of ``dataset_of``."""
    return Planner(clips, SHORT, 5).plan(0, index).sources[:2]


def test_examples_are_two_questions_about_one_mixture(clips: list[Clip]) -> None:
    dataset = dataset_of(clips, 10, 4, marked_captions([1] * len(clips)))
    assert len(dataset) == 4
    for i in range(len(dataset)):
        spec = Planner(clips, SHORT, 5).plan(0, 10 + i)
        rendered = render(spec, clips, SHORT, RATE)
        example = dataset[i]
        assert torch.equal(example["mixture"][0], torch.from_numpy(rendered.mixture))
        assert torch.equal(example["targets"][:, 0], torch.from_numpy(rendered.sources[:2]))
        targets = spec.sources[:2]
        assert example["audio"].tolist() == [[s.clip, s.crop] for s in targets]
        assert example["text"].tolist() == [[s.clip, 1] for s in targets]
        assert example["clips"].tolist() == [s.clip for s in targets]
        everyone = [[s.clip, s.crop] for s in spec.sources]
        padding = [[0, 0]] * (SHORT.num_sources[1] - len(everyone) + 1)
        for asked_for in range(2):
            beside = [row for i, row in enumerate(everyone) if i != asked_for]
            assert example["others"][asked_for].tolist() == beside + padding
        assert not example["not_audio"].any()
        assert example["query_audio"].shape == (2, 0)
        assert example["query_samples"].tolist() == [0, 0]


def test_a_resumed_data_set_goes_on_where_the_first_stopped(clips: list[Clip]) -> None:
    whole, rest = dataset_of(clips, 0, 4), dataset_of(clips, 2, 2)
    for i in range(2):
        for a, b in zip(whole[i + 2].values(), rest[i].values(), strict=True):
            assert torch.equal(a, b)  # type: ignore[arg-type]
    assert not whole[0]["text"].any()
    for index in (-1, 4):
        with pytest.raises(IndexError):
            whole[index]


@pytest.mark.parametrize("all_captions", [False, True])
def test_captions_are_drawn_where_there_are_some(clips: list[Clip], all_captions: bool) -> None:
    """One of all of them in training, the first of them otherwise, zeros for want of any."""
    counts = [3, 0, 1, 2, 0]
    dataset = dataset_of(clips, 0, 150, marked_captions(counts), all_captions=all_captions)
    drawn: dict[int, list[int]] = {clip: [] for clip in range(5)}
    for i in range(150):
        example = dataset[i]
        for clip, (marked, number) in zip(example["clips"], example["text"].tolist(), strict=True):
            assert marked == (int(clip) if counts[int(clip)] else 0)
            drawn[int(clip)].append(int(number))
    for clip, count in enumerate(counts):
        expected = range(1, count + 1) if all_captions else range(1, min(count, 1) + 1)
        assert set(drawn[clip]) == (set(expected) or {0})
    if all_captions:  # about alike
        shares = np.bincount(drawn[0], minlength=4)[1:] / len(drawn[0])
        assert shares.min() > 0.15


def grouped(clips: list[Clip], labels: str, groups: str) -> list[Clip]:
    return [
        replace(clip, label=label, group=group)
        for clip, label, group in zip(clips, labels, groups, strict=True)
    ]


def queries(clips: list[Clip], source: Any, length: int) -> list[tuple[SourceSpec, int, int]]:
    """Each target with the clip and the crop that are its query."""
    dataset = dataset_of(clips, 0, length, query_audio=QueryAudioConfig(source=source))
    found = []
    for i in range(length):
        for target, (clip, crop) in zip(asked(clips, i), dataset[i]["audio"].tolist(), strict=True):
            assert 0 <= crop < num_crops(clips[int(clip)], SHORT)
            found.append((target, int(clip), int(crop)))
    return found


def test_another_crop_of_the_same_clip_is_the_query_where_there_is_one(clips: list[Clip]) -> None:
    drawn: dict[tuple[int, int], set[int]] = {}
    for target, clip, crop in queries(clips, "other_crop", 120):
        assert clip == target.clip
        if num_crops(clips[clip], SHORT) == 1:
            assert crop == target.crop == 0
        else:
            assert crop != target.crop
            drawn.setdefault((clip, target.crop), set()).add(crop)
    # Every other crop has its turn.
    crops = num_crops(clips[2], SHORT)
    assert crops >= 3
    for crop in range(crops):
        assert drawn[2, crop] == set(range(crops)) - {crop}


def test_another_recording_of_the_same_class_is_the_query_where_there_is_one(
    clips: list[Clip],
) -> None:
    """Clips 0 and 2 are of class a, recorded apart; 1 and 4 of class b, of one recording."""
    same = grouped(clips, "abacb", "ghijh")  # and 3 is alone in its class
    found = queries(same, "same_class", 120)
    drawn = {clip: {(c, k) for s, c, k in found if s.clip == clip} for clip in range(5)}
    assert drawn[0] == {(2, crop) for crop in range(num_crops(clips[2], SHORT))}
    assert drawn[2] == {(0, 0)}
    assert {clip for clip, _ in drawn[1]} == {1}
    assert {clip for clip, _ in drawn[4]} == {4}
    assert {clip for clip, _ in drawn[3]} == {3}
    for target, clip, crop in found:
        if target.clip in (1, 3, 4) and num_crops(clips[clip], SHORT) > 1:
            assert crop != target.crop


def test_what_is_asked_with_does_not_change_what_is_mixed(clips: list[Clip]) -> None:
    same = grouped(clips, "abacc", "ghijk")
    plain = dataset_of(same, 0, 6)
    variants = [
        QueryAudioConfig(source="other_crop"),
        QueryAudioConfig(source="same_class", mixup=Mixup()),
        QueryAudioConfig(spec_augment=SpecAugment()),
    ]
    for variant in variants:
        other = dataset_of(same, 0, 6, marked_captions([2] * 5), query_audio=variant)
        rest = dataset_of(same, 4, 2, marked_captions([2] * 5), query_audio=variant)
        for i in range(6):
            for key in ("mixture", "targets", "clips"):
                assert torch.equal(plain[i][key], other[i][key])  # type: ignore[literal-required]
        for i in range(2):  # and a resumed data set asks with the same
            for a, b in zip(other[i + 4].values(), rest[i].values(), strict=True):
                assert torch.equal(a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_sounds_to_be_embedded_on_the_fly_are_those_that_the_cache_would_hold(
    rate: int, clips: list[Clip]
) -> None:
    """At the encoder's rate whatever the model's, padded to one length."""
    config = QueryAudioConfig(source="other_crop", spec_augment=SpecAugment())
    dataset = dataset_of(clips, 0, 12, rate=rate, query_audio=config)
    lengths = set()
    for i in range(12):
        example = dataset[i]
        assert example["query_audio"].shape == (2, 22_400)
        for sound, length, (clip, crop) in zip(
            example["query_audio"], example["query_samples"], example["audio"].int(), strict=True
        ):
            expected = read_crop(clips[clip], int(crop), SHORT, SAMPLE_RATE)
            assert torch.equal(sound[:length], torch.from_numpy(expected))
            assert not sound[length:].any()
            lengths.add(int(length))
    assert len(lengths) > 2


def test_another_sound_is_mixed_into_the_query(clips: list[Clip]) -> None:
    mixup = Mixup(gain_db=(-5.0, -5.0))
    dataset = dataset_of(clips, 0, 20, query_audio=QueryAudioConfig(mixup=mixup))
    never = QueryAudioConfig(mixup=Mixup(share=0.0))
    plain = dataset_of(clips, 0, 20, query_audio=never)
    added = []
    for i in range(20):
        mixed, alone = dataset[i], plain[i]
        assert torch.equal(mixed["query_samples"], alone["query_samples"])
        assert torch.equal(mixed["audio"], alone["audio"])
        for sound, target, length, (clip, crop) in zip(
            mixed["query_audio"],
            alone["query_audio"],
            mixed["query_samples"],
            mixed["audio"].int(),
            strict=True,
        ):
            expected = read_crop(clips[clip], int(crop), SHORT, SAMPLE_RATE)
            assert torch.equal(target[:length], torch.from_numpy(expected))
            interference = (sound - target)[:length].numpy()
            level = power_db(interference) - power_db(expected)
            assert level == pytest.approx(-5, abs=0.01)
            added.append(abs(np.corrcoef(interference, expected)[0, 1]))
    assert np.median(added) < 0.1  # of any clip, so now and then its own


def test_a_first_draw_that_cannot_be_completed_is_drawn_again(tmp_path: Path) -> None:
    """Clip 0 excludes both others: by its class and by its group."""
    clips = [
        Clip(tmp_path / f"{i}.wav", 1.0, None, (), label, group, "train")
        for i, (label, group) in enumerate([("a", "g"), ("b", "g"), ("a", "h")])
    ]
    planner = Planner(clips, MixtureConfig(num_sources=(2, 2)), seed=0)
    for index in range(20):
        assert {source.clip for source in planner.plan(0, index).sources} == {1, 2}


def test_clips_without_any_mixture_are_refused(tmp_path: Path) -> None:
    clips = [
        Clip(tmp_path / f"{i}.wav", 1.0, None, (), label, group, "train")
        for i, (label, group) in enumerate([("a", "g"), ("b", "g"), ("a", "h"), ("a", "g")])
    ]
    with pytest.raises(ManifestError, match="mixtures of 3 sounds"):
        Planner(clips, MixtureConfig(num_sources=(3, 3)), seed=0)
