"""Manifests, plans, rendered mixtures and the data set."""

from __future__ import annotations

import json
import math
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
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import EmbeddingTable, build_table
from singleout.data.manifest import Clip, read_manifest, scan_folder, total_seconds
from singleout.data.plan import MixtureConfig, MixtureSpec, Planner, SourceSpec, num_crops
from singleout.data.render import low_pass, read_crop, render
from singleout.errors import AudioError, ManifestError

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
    with pytest.raises(ManifestError, match="holds no sounds of the split 'validation'"):
        read_manifest(path, "validation")
    assert read_manifest(path, "validation", may_be_empty=True) == []


def test_a_folder_is_scanned_below_and_in_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.WAV").write_bytes((folder / "0.wav").read_bytes())
    (tmp_path / "a.wav").write_bytes((folder / "2.wav").read_bytes())
    (tmp_path / "notes.txt").write_text("")
    found = scan_folder(tmp_path)
    assert [clip.label for clip in found] == ["a.wav", "deep/b.WAV"]
    assert [clip.seconds for clip in found] == pytest.approx([1.2, 0.2])
    assert {clip.caption for clip in found} == {None}


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
    with pytest.raises(ManifestError, match="mixtures of 3 sounds need as many classes"):
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


def test_sounds_that_cannot_be_rendered_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, "FLOAT")
    for path, message in (
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


def dataset_of(clips: list[Clip], first: int, length: int, texts: Any = None) -> MixtureDataset:
    table = marked_table(clips, SHORT)
    return MixtureDataset(clips, SHORT, RATE, table, texts, 5, first, length)


def test_examples_are_two_questions_about_one_mixture(clips: list[Clip]) -> None:
    texts = torch.arange(len(clips))[:, None].float().expand(-1, 2)
    dataset = dataset_of(clips, 10, 4, texts)
    assert len(dataset) == 4
    for i in range(len(dataset)):
        spec = Planner(clips, SHORT, 5).plan(0, 10 + i)
        rendered = render(spec, clips, SHORT, RATE)
        example = dataset[i]
        assert torch.equal(example["mixture"][0], torch.from_numpy(rendered.mixture))
        assert torch.equal(example["targets"][:, 0], torch.from_numpy(rendered.sources[:2]))
        asked = spec.sources[:2]
        assert example["audio"].tolist() == [[s.clip, s.crop] for s in asked]
        assert example["text"].tolist() == [[s.clip, s.clip] for s in asked]
        assert example["clips"].tolist() == [s.clip for s in asked]


def test_a_resumed_data_set_goes_on_where_the_first_stopped(clips: list[Clip]) -> None:
    whole, rest = dataset_of(clips, 0, 4), dataset_of(clips, 2, 2)
    for i in range(2):
        for a, b in zip(whole[i + 2].values(), rest[i].values(), strict=True):
            assert torch.equal(a, b)  # type: ignore[arg-type]
    assert not whole[0]["text"].any()
    for index in (-1, 4):
        with pytest.raises(IndexError):
            whole[index]


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
