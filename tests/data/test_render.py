"""Harder scenes (gates, rooms, beds, lossy coding) and what they are asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch.nn import functional as F

from singleout.audio import write_wav
from singleout.data import dataset as data
from singleout.data.dataset import MixtureDataset, QueryAudioConfig, TrainingExample
from singleout.data.embeddings import EmbeddingTable, build_table
from singleout.data.manifest import Clip, scan_folder
from singleout.data.plan import (
    LOSSY_FORMATS,
    BackgroundSpec,
    MixtureConfig,
    MixtureSpec,
    Planner,
    SourceSpec,
    num_crops,
)
from singleout.data.query_plan import NUM_QUERIES, PlannedQuery, QueriesConfig, QueryPlanner
from singleout.data.render import DIRECT_TO_ROOM_DB, bed, coded, gated, in_room, render
from singleout.manipulations.audio import SpecAugment

RATE = 32_000
SHORT = MixtureConfig(segment_seconds=0.7, crop_hop_seconds=0.35)
SHARES = ("gate_share", "reverb_share", "bed_share", "lossy_share")
HARDER = SHORT.model_copy(update=dict.fromkeys(SHARES, 0.5))
HARDEST = SHORT.model_copy(update=dict.fromkeys(SHARES, 1.0))


def noise(num_samples: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def power_db(audio: NDArray[Any]) -> Any:
    return 10 * np.log10(np.square(audio, dtype=np.float64).mean(-1))


def imagined(number: int, seconds: float, label: str, group: str) -> Clip:
    return Clip(Path(f"{number}.wav"), seconds, None, (), label, group, "train")


IMAGINED = [
    imagined(i, 0.4 + 0.9 * i, f"family {i % 3}/class {i % 9}", f"group {i // 2}")
    for i in range(27)
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Eight noises of 0.2 to 1.6 s: two families of two classes of two recordings."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(8):
        write_wav(folder / f"{i}.wav", noise(int(RATE * (0.2 + 0.2 * i)), i)[None], RATE)
    labels = ["a/x", "a/y", "b/x", "b/y"] * 2
    found = scan_folder(folder)
    return [replace(clip, label=label) for clip, label in zip(found, labels, strict=True)]


# Plans.


def unharmed(spec: MixtureSpec) -> MixtureSpec:
    """As it was before it was made harder."""
    sources = tuple(replace(s, silences_seconds=(), room=None) for s in spec.sources)
    return replace(spec, sources=sources, bed=None, lossy=None)


def test_plans_are_those_of_the_finished_runs() -> None:
    """Drawn by the code before harder scenes came."""
    clips = [imagined(i, 0.4 + 0.9 * i, f"class {i % 5}", f"group {i // 2}") for i in range(15)]
    digest = hashlib.sha256()
    for seed in (0, 7):
        for config in (
            MixtureConfig(),
            MixtureConfig(num_sources=(1, 3), mixture_band_share=0.5),
        ):
            for i in range(50):
                spec = Planner(clips, config, seed).plan(i % 3, i)
                sources = [
                    (
                        source.clip,
                        source.crop,
                        [round(onset, 6) for onset in source.onset_seconds],
                        round(source.snr_db, 6),
                        round(source.speed, 6),
                        source.band_hz and round(source.band_hz, 3),
                    )
                    for source in spec.sources
                ]
                digest.update(repr(sources).encode())
                digest.update(repr(round(spec.gain_db, 6)).encode())
    assert digest.hexdigest()[:16] == "cb2bdbe9c9dd00f7"


@settings(deadline=None, max_examples=60)
@given(
    shares=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 4),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
    index=st.integers(0, 2**40),
)
def test_what_makes_scenes_harder_changes_nothing_else(
    shares: tuple[float, ...], seed: int, epoch: int, index: int
) -> None:
    config = SHORT.model_copy(update=dict(zip(SHARES, shares, strict=True)))
    planner = Planner(IMAGINED, config, seed)
    spec = planner.plan(epoch, index)
    easy = Planner(IMAGINED, SHORT, seed).plan(epoch, index)
    assert unharmed(spec) == easy
    assert unharmed(easy) == easy
    if not any(shares):
        assert spec == easy
    planner.plan(epoch, index + 1)
    assert planner.plan(epoch, index) == spec
    assert Planner(IMAGINED, config, seed).plan(epoch, index) == spec

    for source in spec.sources:
        assert bool(source.silences_seconds) or shares[0] < 1
        assert not source.silences_seconds or shares[0] > 0
        assert len(source.silences_seconds) <= 3
        edges = [edge for silence in source.silences_seconds for edge in silence]
        assert edges == sorted(edges)
        assert all(0 <= edge <= config.segment_seconds for edge in edges)
        assert (source.room is None) in {0.0: {True}, 1.0: {False}}.get(shares[1], {True, False})
        if source.room is not None:
            assert 0.2 <= source.room[0] <= 1.2 + 1e-9
    assert (spec.bed is None) in {0.0: {True}, 1.0: {False}}.get(shares[2], {True, False})
    if spec.bed is not None:
        assert 0 <= spec.bed.snr_db <= 25
        assert -7 <= spec.bed.slope_db <= 1
    assert (spec.lossy is None) in {0.0: {True}, 1.0: {False}}.get(shares[3], {True, False})
    if spec.lossy is not None:
        assert spec.lossy[0] in LOSSY_FORMATS
        assert 0.2 <= spec.lossy[1] <= 0.9


def test_ranges_count_only_where_they_are_used() -> None:
    unused = SHORT.model_copy(update={"rt60_seconds": (3.0, 4.0), "bed_snr_db": (-9.0, -8.0)})
    used = HARDEST.model_copy(update={"rt60_seconds": (3.0, 4.0), "bed_snr_db": (-9.0, -8.0)})
    for i in range(20):
        assert Planner(IMAGINED, unused, 1).plan(0, i) == Planner(IMAGINED, SHORT, 1).plan(0, i)
        spec = Planner(IMAGINED, used, 1).plan(0, i)
        assert spec.bed is not None
        assert -9 <= spec.bed.snr_db <= -8
        assert all(source.room and 3 <= source.room[0] <= 4 + 1e-9 for source in spec.sources)


def test_scenes_are_as_hard_as_often_as_configured_and_all_different() -> None:
    config = SHORT.model_copy(
        update={"gate_share": 0.2, "reverb_share": 0.4, "bed_share": 0.6, "lossy_share": 0.8}
    )
    specs = [Planner(IMAGINED, config, 0).plan(0, i) for i in range(600)]
    sources = [source for spec in specs for source in spec.sources]
    for found, expected in (
        (np.mean([bool(source.silences_seconds) for source in sources]), 0.2),
        (np.mean([source.room is not None for source in sources]), 0.4),
        (np.mean([spec.bed is not None for spec in specs]), 0.6),
        (np.mean([spec.lossy is not None for spec in specs]), 0.8),
    ):
        assert found == pytest.approx(expected, abs=4 * (0.25 / 600) ** 0.5)
    assert {len(source.silences_seconds) for source in sources} == {0, 1, 2, 3}
    assert {spec.lossy[0] for spec in specs if spec.lossy} == set(LOSSY_FORMATS)
    rooms = [source.room for source in sources if source.room]
    beds = [spec.bed for spec in specs if spec.bed]
    assert len(set(rooms)) == len(rooms)
    assert len({found.number for found in beds}) == len(beds)
    rest = [Planner(IMAGINED, config, seed).plan(epoch, 0) for seed, epoch in ((0, 1), (1, 0))]
    assert len({specs[0], *rest}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rt60_seconds": (1.0, 0.5)}, "rt60_seconds is a range"),
        ({"rt60_seconds": (0.0, 0.5)}, "rt60_seconds are positive"),
        ({"bed_snr_db": (5.0, 0.0)}, "bed_snr_db is a range"),
        ({"gate_share": 1.1}, "gate_share"),
        ({"lossy_share": -0.1}, "lossy_share"),
    ],
)
def test_scenes_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureConfig.model_validate(changes)


# Gates.


@settings(deadline=None, max_examples=40)
@given(edges=st.lists(st.floats(0, 1.2), max_size=6), seed=st.integers(0, 9))
def test_a_gate_silences_from_where_to_where(edges: list[float], seed: int) -> None:
    """With fades of 10 ms around the edges; outside, nothing changes."""
    edges = sorted(edges)[: len(edges) // 2 * 2]
    silences = list(zip(edges[::2], edges[1::2], strict=True))
    audio = noise(seed=seed)
    before = audio.copy()
    cut = gated(audio, silences, RATE)
    np.testing.assert_array_equal(audio, before)
    assert cut.shape == audio.shape
    assert cut.dtype == np.float32
    assert (np.abs(cut) <= np.abs(audio) + 1e-6).all()
    time = np.arange(len(audio)) / RATE
    fade = 0.0052
    inside = np.zeros(len(audio), bool)
    near = np.zeros(len(audio), bool)
    for start, stop in silences:
        inside |= (time > start + fade) & (time < stop - fade)
        near |= (time > start - fade) & (time < stop + fade)
    np.testing.assert_array_equal(cut[~near], audio[~near])
    if (~near).mean() > 0.05:
        assert not cut[inside].any()


def test_a_gate_fades_and_does_not_click() -> None:
    tone = np.ones(RATE, np.float32)
    cut = gated(tone, [(0.25, 0.5), (0.75, 2.0)], RATE)
    assert np.abs(np.diff(cut)).max() <= 1.01 / (0.01 * RATE)
    assert cut[RATE // 4] == pytest.approx(0.5, abs=0.01)
    assert not cut[int(0.76 * RATE) :].any()


def test_a_gate_never_silences_a_whole_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[1_000:2_000] = noise(1_000)
    for audio, silence in ((noise(), (0.0, 2.0)), (click, (0.01, 0.1))):
        np.testing.assert_array_equal(gated(audio, [silence], RATE), audio)
    assert not gated(np.zeros(RATE, np.float32), [(0.1, 0.2)], RATE).any()


def test_a_planned_gate_is_heard_in_its_source_alone(clips: list[Clip]) -> None:
    easy = MixtureSpec(
        tuple(SourceSpec(clip, 0, (0.0,), snr, 1.0, None) for clip, snr in ((6, 0.0), (7, 3.0))),
        0.0,
    )
    first, second = easy.sources
    gate = replace(first, silences_seconds=((0.2, 0.4),))
    plain = render(easy, clips, SHORT, RATE).sources
    cut = render(replace(easy, sources=(gate, second)), clips, SHORT, RATE).sources
    silent = slice(int(0.206 * RATE), int(0.394 * RATE))
    assert not cut[0, silent].any()
    assert plain[0, silent].any()
    assert cut[1, silent].any()
    # What is left has the level that was planned.
    np.testing.assert_allclose(power_db(cut[0]) - power_db(cut[1]), 3, atol=0.01)


# Rooms.


def response(rt60_seconds: float, number: int = 3, seconds: float = 2.5) -> NDArray[np.float32]:
    impulse = np.zeros(int(seconds * RATE), np.float32)
    impulse[0] = 1
    return in_room(impulse, rt60_seconds, number, RATE)


@pytest.mark.parametrize("rt60_seconds", [0.2, 0.6, 1.2])
def test_a_room_decays_by_60_db_in_its_time(rt60_seconds: float) -> None:
    decays = []
    for number in range(4):
        echo = response(rt60_seconds, number).astype(np.float64)
        assert echo[0] == pytest.approx(1, abs=1e-5)
        assert np.abs(echo[1 : int(0.002 * RATE)]).max() < 1e-6  # then a pause
        rest = np.square(echo[1:]).sum()
        assert 10 * np.log10(rest) == pytest.approx(-DIRECT_TO_ROOM_DB, abs=0.01)
        end = round(rt60_seconds * RATE)
        assert np.abs(echo[end + 1 :]).max() < 1e-6
        edges = np.linspace(0.3, 0.95, 14) * rt60_seconds
        levels = [power_db(echo[int(a * RATE) : int(b * RATE)]) for a, b in pairwise(edges)]
        decays.append(-60 / np.polyfit((edges[:-1] + edges[1:]) / 2, levels, 1)[0])
    assert np.mean(decays) == pytest.approx(rt60_seconds, rel=0.15)


def test_a_room_is_dull_late() -> None:
    echo = response(1.0)

    def bright(part: NDArray[np.float32]) -> float:
        spectrum = np.square(np.abs(np.fft.rfft(part)))
        return float(spectrum[len(spectrum) // 4 :].sum() / spectrum.sum())

    early, late = (echo[int(a * RATE) : int((a + 0.1) * RATE)] for a in (0.03, 0.7))
    assert bright(early) > 2 * bright(late)


@settings(deadline=None, max_examples=25)
@given(
    num_samples=st.integers(1, 9_000),
    rt60_seconds=st.floats(1e-6, 1.5),
    number=st.integers(0, 2**31 - 1),
)
def test_a_room_keeps_the_length_and_is_that_of_its_number(
    num_samples: int, rt60_seconds: float, number: int
) -> None:
    audio = noise(num_samples)
    heard = in_room(audio, rt60_seconds, number, RATE)
    assert heard.shape == audio.shape
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    np.testing.assert_array_equal(heard, in_room(audio, rt60_seconds, number, RATE))
    np.testing.assert_allclose(in_room(2 * audio, rt60_seconds, number, RATE), 2 * heard, atol=1e-5)
    direct = min(num_samples, int(0.002 * RATE))
    np.testing.assert_allclose(heard[:direct], audio[:direct], atol=1e-5)


def test_a_room_adds_a_tail_where_the_sound_has_ended(clips: list[Clip]) -> None:
    short = SourceSpec(0, 0, (0.1,), 0.0, 1.0, None)  # of 0.2 s
    dry, wet, other = (
        render(MixtureSpec((replace(short, room=room),), 0.0), clips, SHORT, RATE).sources[0]
        for room in (None, (0.5, 1), (0.5, 2))
    )
    after = slice(int(0.31 * RATE), int(0.5 * RATE))
    assert not dry[after].any()
    assert -40 < power_db(wet[after]) - power_db(wet) < 0
    assert np.abs(wet - other).max() > 0.01
    assert not dry[: int(0.099 * RATE)].any()
    assert np.abs(wet[: int(0.099 * RATE)]).max() < 1e-6


# Beds.


@settings(deadline=None, max_examples=20)
@given(slope_db=st.floats(-7, 1), number=st.integers(0, 2**31 - 1))
def test_a_bed_has_unit_power_and_its_slope(slope_db: float, number: int) -> None:
    spec = BackgroundSpec(10.0, slope_db, number)
    found = bed(spec, 4 * RATE, RATE)
    assert found.shape == (4 * RATE,)
    assert found.dtype == np.float32
    assert power_db(found) == pytest.approx(0, abs=1e-3)
    np.testing.assert_array_equal(found, bed(spec, 4 * RATE, RATE))
    spectrum = np.square(np.abs(np.fft.rfft(found.astype(np.float64))))
    hz = np.fft.rfftfreq(len(found), 1 / RATE)
    octaves = np.arange(7, 13.5, 0.5)
    levels = [10 * np.log10(spectrum[(hz >= 2**o) & (hz < 2 ** (o + 0.5))].mean()) for o in octaves]
    assert np.polyfit(octaves, levels, 1)[0] == pytest.approx(slope_db, abs=0.5)


def test_beds_of_other_numbers_are_others_and_wander() -> None:
    one, two = (bed(BackgroundSpec(0.0, -3.0, number), 4 * RATE, RATE) for number in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    levels = power_db(bed(BackgroundSpec(0.0, 0.0, 5), 4 * RATE, RATE).reshape(16, -1))
    assert 1 < levels.max() - levels.min() < 12


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), snr_db=st.floats(-5, 25), gain_db=st.sampled_from([-30.0, 40.0]))
def test_a_bed_lies_below_the_sounds_as_planned(
    clips: list[Clip], seed: int, snr_db: float, gain_db: float
) -> None:
    easy = replace(Planner(clips, SHORT, seed).plan(0, 0), gain_db=gain_db)
    plain = render(easy, clips, SHORT, RATE)
    spec = replace(easy, bed=BackgroundSpec(snr_db, -3.0, seed))
    rendered = render(spec, clips, SHORT, RATE)
    sounds = rendered.sources.sum(0)
    rest = rendered.mixture.astype(np.float64) - sounds
    assert power_db(sounds) - power_db(rest) == pytest.approx(snr_db, abs=0.05)
    expected = bed(spec.bed, len(rest), RATE)  # type: ignore[arg-type]
    assert np.corrcoef(rest, expected)[0, 1] > 0.999
    assert np.abs(rendered.mixture).max() <= 0.99 + 1e-6
    if gain_db < 0:
        level = 20 * np.log10(0.05) + gain_db
        assert power_db(rendered.mixture) == pytest.approx(level, abs=0.01)
    else:
        assert np.abs(rendered.mixture).max() == pytest.approx(0.99, abs=1e-5)
    scale = np.abs(rendered.sources).max() / np.abs(plain.sources).max()
    np.testing.assert_allclose(rendered.sources, scale * plain.sources, rtol=1e-4, atol=1e-7)


# Lossy coding.


def lag_of(audio: NDArray[Any], other: NDArray[Any]) -> int:
    """By how many samples the second is late."""
    length = 2 * len(audio)
    spectrum = np.fft.rfft(other, length) * np.fft.rfft(audio, length).conj()
    found = int(np.fft.irfft(spectrum, length).argmax())
    return found if found < len(audio) else found - length


@pytest.mark.parametrize("rate", [8_000, 20_000, 32_000, 44_100, 96_000])
@pytest.mark.parametrize("kind", LOSSY_FORMATS)
def test_coding_keeps_length_and_place(kind: str, rate: int) -> None:
    """Also at rates that MP3 does not know."""
    audio = noise(rate)
    for compression in (0.2, 0.9):
        decoded = coded(audio, kind, compression, rate)
        assert decoded.shape == audio.shape
        assert decoded.dtype == np.float32
        assert lag_of(audio, decoded) == 0
        loss_db = power_db(decoded - audio) - power_db(audio)
        assert -30 < loss_db < -0.5
        np.testing.assert_array_equal(decoded, coded(audio, kind, compression, rate))
    assert not coded(np.zeros(rate, np.float32), kind, 0.5, rate).any()


@settings(deadline=None, max_examples=20)
@given(num_samples=st.integers(1, 5_000), kind=st.sampled_from(LOSSY_FORMATS))
def test_coding_keeps_any_length(num_samples: int, kind: str) -> None:
    decoded = coded(noise(num_samples), kind, 0.5, RATE)
    assert decoded.shape == (num_samples,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("kind", LOSSY_FORMATS)
def test_coding_changes_the_mixture_and_not_the_sources(kind: str, clips: list[Clip]) -> None:
    for i in range(3):
        easy = Planner(clips, SHORT, 4).plan(0, i)
        plain = render(easy, clips, SHORT, RATE)
        rendered = render(replace(easy, lossy=(kind, 0.5)), clips, SHORT, RATE)
        np.testing.assert_array_equal(rendered.sources, plain.sources)
        assert rendered.mixture.shape == plain.mixture.shape
        assert lag_of(plain.mixture, rendered.mixture) == 0
        loss_db = power_db(rendered.mixture - plain.mixture) - power_db(plain.mixture)
        assert -40 < loss_db < 0


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_all_at_once_is_finite_and_rendered_again_to_the_bit(clips: list[Clip], seed: int) -> None:
    spec = Planner(clips, HARDEST, seed).plan(0, 0)
    rendered = render(spec, clips, HARDEST, RATE)
    assert rendered.mixture.shape == rendered.sources[0].shape == (round(0.7 * RATE),)
    assert rendered.mixture.dtype == rendered.sources.dtype == np.float32
    assert np.isfinite(rendered.mixture).all()
    assert np.isfinite(rendered.sources).all()
    levels = power_db(rendered.sources)
    planned = [source.snr_db for source in spec.sources]
    np.testing.assert_allclose(levels[0] - levels, planned, atol=0.01)
    again = render(spec, clips, HARDEST, RATE)
    np.testing.assert_array_equal(again.mixture, rendered.mixture)
    np.testing.assert_array_equal(again.sources, rendered.sources)


# What is asked.


def test_a_clip_without_a_class_is_a_family_alone(tmp_path: Path) -> None:
    """Whatever its path looks like."""
    (tmp_path / "folder").mkdir()
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / "folder" / name, noise()[None], RATE)
    assert [clip.family for clip in scan_folder(tmp_path)] == ["folder/a.wav", "folder/b.wav"]


def test_a_family_is_the_first_part_of_a_class() -> None:
    assert [imagined(0, 1, label, "g").family for label in ("animal/dog", "animal", "a/b/c")] == [
        "animal",
        "animal",
        "a",
    ]


def drawn(
    config: QueriesConfig, number: int = 400, mixtures: MixtureConfig = SHORT, **options: Any
) -> list[tuple[MixtureSpec, tuple[PlannedQuery, ...]]]:
    planner, questioner = Planner(IMAGINED, mixtures, 2), QueryPlanner(IMAGINED, config, 0.5)
    specs = [planner.plan(0, i) for i in range(number)]
    rng = np.random.default_rng(0)
    return [(spec, questioner.draw(spec, rng, **options)) for spec in specs]


def kind_of(query: PlannedQuery) -> str:
    if query.absent is not None:
        assert query.positive is query.negative is None
        return "absent"
    if query.positive is None:
        assert query.negative is not None
        return "removal"
    return "plain" if query.negative is None else "contrast"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40))
def test_by_default_each_sound_is_asked_for_in_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = Planner(IMAGINED, SHORT, seed).plan(0, 0)
    found = QueryPlanner(IMAGINED, QueriesConfig(), 0.5).draw(spec, rng)
    assert found == (PlannedQuery(positive=0), PlannedQuery(positive=1))
    assert NUM_QUERIES == 2


def test_questions_are_asked_as_often_as_configured() -> None:
    config = QueriesConfig(absent_share=0.25, removal_share=0.15, contrast_share=0.35)
    found = drawn(config)
    kinds = Counter(kind_of(query) for _, asked in found for query in asked)
    shares = {kind: count / 800 for kind, count in kinds.items()}
    expected = {"absent": 0.25, "removal": 0.15, "contrast": 0.35, "plain": 0.25}
    assert shares == pytest.approx(expected, abs=4 * (0.25 / 800) ** 0.5)
    # Question by question, not mixture by mixture.
    assert len({tuple(kind_of(query) for query in asked) for _, asked in found}) == 16
    others = Counter()
    for spec, asked in found:
        assert len(asked) == 2
        for number, query in enumerate(asked):
            if kind_of(query) == "removal":
                assert query.negative == number
            elif kind_of(query) != "absent":
                assert query.positive == number
            if kind_of(query) == "contrast":
                assert query.negative != number
                assert 0 <= query.negative < len(spec.sources)  # type: ignore[operator]
                others[query.negative] += 1
    assert set(others) == {0, 1, 2}


@pytest.mark.parametrize("near_miss_share", [0.0, 0.5, 1.0])
def test_absent_sounds_are_not_there_and_near_misses_are_of_the_family(
    near_miss_share: float,
) -> None:
    config = QueriesConfig(absent_share=1.0, near_miss_share=near_miss_share)
    near = []
    for spec, asked in drawn(config, mixtures=SHORT.model_copy(update={"num_sources": (2, 2)})):
        there = [IMAGINED[source.clip] for source in spec.sources]
        for query in asked:
            assert query.absent is not None
            clip = IMAGINED[query.absent]
            assert clip.label not in {other.label for other in there}
            assert clip.group not in {other.group for other in there}
            near.append(clip.family in {other.family for other in there})
    if near_miss_share == 1:  # but where all of twenty tries were there
        assert np.mean(near) > 0.98
    else:  # by chance in one or two of three families, less those that are there
        by_chance = np.mean(near) - near_miss_share
        assert 0.3 * (1 - near_miss_share) < by_chance < 0.75 * (1 - near_miss_share)


@pytest.mark.parametrize("near_miss_share", [0.0, 1.0])
def test_a_question_alone_does_not_tell_whether_the_sound_is_there(near_miss_share: float) -> None:
    """Large classes and small ones are asked for in vain as often as they are found."""
    sizes = [40] * 10 + [2] * 50
    many = [
        imagined(100 * c + i, 1.0, f"family {c % 2}/class {c}", f"group {c} {i}")
        for c, size in enumerate(sizes)
        for i in range(size)
    ]
    mixtures = SHORT.model_copy(update={"num_sources": (2, 2)})
    config = QueriesConfig(absent_share=0.5, near_miss_share=near_miss_share)
    questioner = QueryPlanner(many, config, mixtures.class_balance)
    planner = Planner(many, mixtures, 0)
    large: dict[bool, list[bool]] = {True: [], False: []}
    for i in range(3_000):
        spec = planner.plan(0, i)
        for query in questioner.draw(spec, np.random.default_rng([9, i])):
            clip = spec.sources[query.positive].clip if query.absent is None else query.absent
            assert clip is not None
            large[query.absent is None].append(clip < 400)
    there, not_there = (float(np.mean(large[is_there])) for is_there in (True, False))
    assert there == pytest.approx(10 * 40**0.5 / (10 * 40**0.5 + 50 * 2**0.5), abs=0.03)
    # What is there cannot be asked for in vain, which a class pays for by its own share.
    assert not_there == pytest.approx(there, abs=0.05)


def test_sounds_alike_are_not_contrasted() -> None:
    """They may be called by the same words."""
    for _, asked in drawn(QueriesConfig(contrast_share=1.0), 50, sounds_alike=lambda a, b: True):
        assert all(query.negative is None for query in asked)


def test_each_hardness_changes_nothing_of_the_others() -> None:
    plain = Planner(IMAGINED, SHORT.model_copy(update={"reverb_share": 0.5, "bed_share": 0.5}), 1)
    more = Planner(IMAGINED, HARDER, 1)
    for i in range(40):
        one, other = plain.plan(0, i), more.plan(0, i)
        assert one.bed == other.bed
        assert [s.room for s in one.sources] == [s.room for s in other.sources]


def test_what_sounds_alike_is_not_absent() -> None:
    """Here two clips do whose numbers are both even or both odd."""

    def alike(clip: int, other: int) -> bool:
        return clip % 2 == other % 2

    config = QueriesConfig(absent_share=1.0)
    kinds = []
    for spec, asked in drawn(config, sounds_alike=alike):
        parities = {source.clip % 2 for source in spec.sources}
        for number, query in enumerate(asked):
            if len(parities) == 2:  # nothing is surely not there
                assert query == PlannedQuery(positive=number)
            else:
                assert query.absent is not None
                assert {query.absent % 2} != parities
            kinds.append(kind_of(query))
    assert set(kinds) == {"plain", "absent"}


def test_a_family_without_near_misses_has_absent_sounds_all_the_same() -> None:
    """As of a folder, in which each file is its own class and family."""
    alone = [imagined(i, 1.0, f"{i}.wav", f"{i}.wav") for i in range(12)]
    questioner = QueryPlanner(alone, QueriesConfig(absent_share=1.0, near_miss_share=1.0), 0.5)
    for i in range(20):
        spec = Planner(alone, SHORT, 0).plan(0, i)
        assert questioner.absent(spec, True, np.random.default_rng(i)) is None
        for query in questioner.draw(spec, np.random.default_rng(i)):
            assert query.absent is not None
            assert query.absent not in {source.clip for source in spec.sources}


def test_where_nothing_else_is_known_what_is_there_is_asked_for() -> None:
    few = [imagined(i, 1.0, f"family/{i}", f"group {i}") for i in range(2)]
    config = QueriesConfig(absent_share=1.0)
    mixtures = SHORT.model_copy(update={"num_sources": (2, 2)})
    for i in range(5):
        spec = Planner(few, mixtures, 0).plan(0, i)
        asked = QueryPlanner(few, config, 0.5).draw(spec, np.random.default_rng(i))
        assert asked == (PlannedQuery(positive=0), PlannedQuery(positive=1))


def test_a_sound_that_is_alone_is_contrasted_with_nothing() -> None:
    alone = SHORT.model_copy(update={"num_sources": (1, 1)})
    for _, asked in drawn(QueriesConfig(contrast_share=1.0), 20, alone):
        assert asked == (PlannedQuery(positive=0),)
    for _, asked in drawn(QueriesConfig(removal_share=1.0), 20, alone):
        assert asked == (PlannedQuery(negative=0),)


def test_a_question_draws_alike_whatever_comes_of_it() -> None:
    """So that what is asked second does not hang on the kind of the first."""
    spec = Planner(IMAGINED, SHORT, 2).plan(0, 0)
    after = set()
    for config in (
        QueriesConfig(),
        QueriesConfig(removal_share=1.0),
        QueriesConfig(contrast_share=1.0),
        QueriesConfig(removal_share=0.5, contrast_share=0.2),
    ):
        rng = np.random.default_rng(3)
        QueryPlanner(IMAGINED, config, 0.5).draw(spec, rng)
        after.add(rng.random())
    assert len(after) == 1


@pytest.mark.parametrize(
    "shares",
    [
        {"absent_share": 0.5, "removal_share": 0.4, "contrast_share": 0.2},
        {"absent_share": 1.1},
        {"near_miss_share": -0.1},
    ],
)
def test_shares_that_are_more_than_all_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="share"):
        QueriesConfig(**shares)


def test_negative_prompts_are_known_beforehand() -> None:
    assert not QueriesConfig(absent_share=1.0).has_negative
    assert QueriesConfig(removal_share=0.1).has_negative
    assert QueriesConfig(contrast_share=0.1).has_negative


# Examples of the data set.

ALL_KINDS = QueriesConfig(absent_share=0.3, removal_share=0.25, contrast_share=0.25)


def apart(clips: list[Clip]) -> EmbeddingTable:
    """No two clips are alike; each embedding tells its clip and crop."""

    def embedding(clip: int, crop: int) -> torch.Tensor:
        row = torch.zeros(len(clips) + 1)
        row[clip], row[-1] = 1.0, 0.01 * crop
        return row

    return build_table(clips, SHORT, embedding)


@pytest.fixture(scope="module")
def data_set(clips: list[Clip]) -> Callable[..., MixtureDataset]:
    def make(first: int = 0, length: int = 60, **changes: Any) -> MixtureDataset:
        options = {"queries": ALL_KINDS, **changes}
        table = options.pop("table", None) or apart(clips)
        captions = options.pop("captions", None)
        config = options.pop("mixtures", SHORT)
        return MixtureDataset(clips, config, RATE, table, captions, 5, first, length, **options)

    return make


def captions_of(counts: list[int], dim: int) -> EmbeddingTable:
    """So many captions of each clip; each embedding tells its clip and its number, from 1."""
    rows = []
    for clip, count in enumerate(counts):
        for number in range(count):
            row = torch.zeros(dim)
            row[clip], row[-1] = 2.0, number + 1
            rows.append(row)
    return EmbeddingTable(torch.stack(rows), tuple(np.cumsum([0, *counts]).tolist()))


def assert_equal(one: TrainingExample, other: TrainingExample, *keys: str) -> None:
    assert one.keys() == other.keys()
    for key in keys or one.keys():
        assert torch.equal(one[key], other[key]), key  # type: ignore[literal-required]


def told(row: torch.Tensor) -> tuple[int, int] | None:
    """Clip and crop or number that an embedding tells."""
    if not row.any():
        return None
    return int(row[:-1].argmax()), round(float(row[-1]) * (1 if row.max() > 1.5 else 100))


@pytest.mark.parametrize("mixtures", [SHORT, HARDER])
def test_targets_are_silence_a_sound_or_all_but_a_sound(
    mixtures: MixtureConfig, clips: list[Clip], data_set: Callable[..., MixtureDataset]
) -> None:
    captions = captions_of([2, 1, 0, 1, 3, 1, 1, 0], len(clips) + 1)
    dataset = data_set(captions=captions, all_captions=True, mixtures=mixtures)
    kinds = Counter()
    for i in range(len(dataset)):
        spec = Planner(clips, mixtures, 5).plan(0, i)
        rendered = render(spec, clips, mixtures, RATE)
        there = [(source.clip, source.crop) for source in spec.sources]
        example = dataset[i]
        assert torch.equal(example["mixture"][0], torch.from_numpy(rendered.mixture))
        for number in range(NUM_QUERIES):
            target = example["targets"][number, 0].numpy()
            wanted, unwanted = told(example["audio"][number]), told(example["not_audio"][number])
            if wanted is None:
                kinds["removal"] += 1
                assert unwanted == there[number]
                rest = rendered.mixture - rendered.sources[number]
                np.testing.assert_array_equal(target, rest)
            elif wanted[0] not in [clip for clip, _ in there]:
                kinds["absent"] += 1
                assert unwanted is None
                assert not target.any()
                assert clips[wanted[0]].label not in {clips[clip].label for clip, _ in there}
                assert wanted[1] < num_crops(clips[wanted[0]], SHORT)
            else:
                kinds["contrast" if unwanted else "plain"] += 1
                assert wanted == there[number]
                np.testing.assert_array_equal(target, rendered.sources[number])
                assert unwanted is None or unwanted in there
                assert unwanted != wanted
            for place, name in ((wanted, "text"), (unwanted, "not_text")):
                caption = told(example[name][number])  # type: ignore[literal-required]
                if place is None or not captions.count(place[0]):
                    assert caption is None
                else:
                    assert caption is not None
                    assert caption[0] == place[0]
                    assert 1 <= caption[1] <= captions.count(place[0])
            named = wanted or unwanted
            assert named is not None
            assert int(example["clips"][number]) == named[0]
    assert set(kinds) == {"removal", "absent", "contrast", "plain"}
    assert min(kinds.values()) > 5


def test_questions_do_not_change_what_is_mixed_or_resumed(
    data_set: Callable[..., MixtureDataset],
) -> None:
    plain, none = data_set(queries=QueriesConfig(), length=12), data_set(queries=None, length=12)
    asked, rest = data_set(length=12), data_set(first=5, length=7)
    for i in range(12):
        assert_equal(plain[i], none[i])
        assert_equal(plain[i], asked[i], "mixture")
        assert not plain[i]["not_audio"].any()
        assert not plain[i]["not_text"].any()
        assert_equal(asked[i], asked[i])
        if i >= 5:
            assert_equal(asked[i], rest[i - 5])
    assert any(not torch.equal(plain[i]["targets"], asked[i]["targets"]) for i in range(12))


def test_a_contrast_changes_nothing_but_its_negative_side(
    clips: list[Clip], data_set: Callable[..., MixtureDataset]
) -> None:
    """Not even which of several sounds and captions the positive side is asked with."""
    options = {
        "captions": captions_of([3] * 8, len(clips) + 1),
        "all_captions": True,
        "query_audio": QueryAudioConfig(source="same_class"),
        "length": 30,
    }
    plain = data_set(queries=QueriesConfig(), **options)
    contrast = data_set(queries=QueriesConfig(contrast_share=1.0), **options)
    for i in range(30):
        assert_equal(plain[i], contrast[i], "mixture", "targets", "audio", "text", "clips")
        assert contrast[i]["not_audio"].any(-1).all()
        assert contrast[i]["not_text"].any(-1).all()


def test_sounds_whose_embeddings_are_close_are_not_asked_for_in_vain(
    clips: list[Clip], data_set: Callable[..., MixtureDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of the classes sounds like the first: 12 of the 28 pairs are close."""
    monkeypatch.setattr(data, "ALIKE_SHARE", 0.45)
    rows = torch.eye(6)
    like = [rows[0], rows[1], 0.6 * rows[0] + 0.8 * rows[2], rows[1]] * 2
    table = build_table(clips, SHORT, lambda clip, crop: like[clip])
    dataset = data_set(table=table, queries=QueriesConfig(absent_share=1.0))
    found = 0
    for i in range(len(dataset)):
        there = {source.clip for source in Planner(clips, SHORT, 5).plan(0, i).sources}
        example = dataset[i]
        for clip, target in zip(example["clips"].tolist(), example["targets"], strict=True):
            if target.any():
                assert clip in there
                continue
            found += 1
            assert all(float(like[clip] @ like[other]) == 0 for other in there)
    assert found > 10


def test_a_few_of_all_pairs_are_alike_whatever_the_encoder(
    clips: list[Clip], data_set: Callable[..., MixtureDataset]
) -> None:
    """In a narrow cone as in all directions."""
    many = [replace(clips[0], group=f"g{i}", label=f"class {i}") for i in range(200)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 6, generator=generator)
    for cone in (0.0, 30.0):
        rows = torch.nn.functional.normalize(drawn + cone * torch.eye(6)[0], dim=-1)
        table = build_table(many, SHORT, lambda clip, crop, rows=rows: rows[clip])
        threshold = data._alike_from(table)
        similarity = (rows @ rows.T)[*torch.triu_indices(200, 200, 1)]
        assert float((similarity > threshold).float().mean()) == pytest.approx(0.03, abs=0.001)


def test_absent_sounds_are_asked_with_as_all_others(
    clips: list[Clip], data_set: Callable[..., MixtureDataset]
) -> None:
    """Embedded on the fly, or by another recording of their class."""
    query_audio = QueryAudioConfig(source="same_class", spec_augment=SpecAugment())
    queries = QueriesConfig(absent_share=0.5)
    dataset = data_set(queries=queries, query_audio=query_audio, length=30)
    absent = 0
    for i in range(30):
        example = dataset[i]
        for row, clip, sound, length, target in zip(
            example["audio"], example["clips"].tolist(), example["query_audio"],
            example["query_samples"].tolist(), example["targets"], strict=True,
        ):  # fmt: skip
            place = told(row)
            assert place is not None
            assert place[0] != clip
            assert clips[place[0]].label == clips[clip].label
            assert length == min(round(clips[place[0]].seconds * RATE), round(0.7 * RATE)) or (
                place[1] > 0
            )
            assert sound[:length].any()
            assert not sound[length:].any()
            absent += not target.any()
    assert 10 < absent < 50


def test_nothing_positive_has_no_sound_to_embed(data_set: Callable[..., MixtureDataset]) -> None:
    query_audio = QueryAudioConfig(spec_augment=SpecAugment())
    queries = QueriesConfig(removal_share=1.0)
    example = data_set(queries=queries, query_audio=query_audio, length=1)[0]
    assert example["query_samples"].tolist() == [0, 0]
    assert example["query_audio"].shape == (2, round(0.7 * RATE))
    assert not example["query_audio"].any()
    assert F.normalize(example["not_audio"], dim=-1).any(-1).all()
