"""Plans of mixtures: their ranges, their shares and their independence of each other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from singleout.data.clips import Clip, Clips
from singleout.data.plan import LOSSY_FORMATS, MixtureConfig, MixtureSpec, Planner, num_crops
from singleout.errors import ManifestError
from tests.data.sounds import EFFECT_SHARES, HARDER, HARDEST, MANY_CLIPS, SHORT, clip_of

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
# Three clips of each of five classes. A group has at most two clips, so that every first clip can
# be completed to a mixture.
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
def test_plans_keep_to_the_config(
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
        # A short sound is complete at least once.
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


def test_every_seed_epoch_and_index_has_its_own_mixture() -> None:
    clips = [clip_of(i) for i in range(50)]
    planner = Planner(clips, MixtureConfig(), 0)
    specs = [planner.plan(0, i) for i in range(100)]
    specs += [planner.plan(1, i) for i in range(100)]
    specs += [Planner(clips, MixtureConfig(), 1).plan(0, i) for i in range(100)]
    assert len(set(specs)) == 300


def test_class_balance_makes_classes_equally_likely() -> None:
    clips = [clip_of(i, label="many") for i in range(18)] + [
        clip_of(i, label=str(i)) for i in range(18, 20)
    ]

    def share(balance: float) -> float:
        config = MixtureConfig(num_sources=(1, 1), class_balance=balance)
        planner = Planner(clips, config, 0)
        drawn = [clips[planner.plan(0, i).sources[0].clip].label for i in range(600)]
        return drawn.count("many") / len(drawn)

    none, half, full = share(0.0), share(0.5), share(1.0)
    assert none == pytest.approx(0.9, abs=0.05)
    assert full == pytest.approx(1 / 3, abs=0.07)
    assert full < half < none


@pytest.mark.parametrize("field", ["label", "group"])
def test_too_few_classes_or_groups_are_refused(field: str) -> None:
    clips = [clip_of(i, **{field: str(i % 2)}) for i in range(6)]  # type: ignore[arg-type]
    with pytest.raises(
        ManifestError,
        match=r"need 3 sounds of different classes .*without a manifest, 3 files",
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
    if number > 1:  # one crop less would not cover the clip
        assert (number - 2) * hop + segment < seconds


def test_clips_without_a_partner_are_not_mixed() -> None:
    """Clip 0 excludes both others: by its class and by its group."""
    clips = [
        clip_of(i, 1.0, label, group)
        for i, (label, group) in enumerate([("a", "g"), ("b", "g"), ("a", "h")])
    ]
    planner = Planner(clips, MixtureConfig(num_sources=(2, 2)), seed=0)
    for index in range(20):
        assert {source.clip for source in planner.plan(0, index).sources} == {1, 2}


def test_clips_without_any_mixture_are_refused() -> None:
    clips = [
        clip_of(i, 1.0, label, group)
        for i, (label, group) in enumerate([("a", "g"), ("b", "g"), ("a", "h"), ("a", "g")])
    ]
    with pytest.raises(ManifestError, match="mixtures of 3 sounds"):
        Planner(clips, MixtureConfig(num_sources=(3, 3)), seed=0)


def without_effects(spec: MixtureSpec) -> MixtureSpec:
    """The plan before its effects were added."""
    sources = tuple(replace(s, silences_seconds=(), room=None) for s in spec.sources)
    return replace(spec, sources=sources, background=None, lossy=None)


def test_plans_of_recorded_runs_stay_the_same() -> None:
    """The digest was made before there were effects."""
    clips = [clip_of(i, 0.4 + 0.9 * i, f"class {i % 5}", f"group {i // 2}") for i in range(15)]
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
def test_effects_change_nothing_else_of_a_plan(
    shares: tuple[float, ...], seed: int, epoch: int, index: int
) -> None:
    config = SHORT.model_copy(update=dict(zip(EFFECT_SHARES, shares, strict=True)))
    planner = Planner(MANY_CLIPS, config, seed)
    spec = planner.plan(epoch, index)
    easy = Planner(MANY_CLIPS, SHORT, seed).plan(epoch, index)
    assert without_effects(spec) == easy
    assert without_effects(easy) == easy
    if not any(shares):
        assert spec == easy
    planner.plan(epoch, index + 1)
    assert planner.plan(epoch, index) == spec
    assert Planner(MANY_CLIPS, config, seed).plan(epoch, index) == spec

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
    assert (spec.background is None) in {0.0: {True}, 1.0: {False}}.get(shares[2], {True, False})
    if spec.background is not None:
        assert 0 <= spec.background.snr_db <= 25
        assert -7 <= spec.background.slope_db <= 1
    assert (spec.lossy is None) in {0.0: {True}, 1.0: {False}}.get(shares[3], {True, False})
    if spec.lossy is not None:
        assert spec.lossy[0] in LOSSY_FORMATS
        assert 0.2 <= spec.lossy[1] <= 0.9


def test_ranges_of_unused_effects_change_nothing() -> None:
    unused = SHORT.model_copy(update={"rt60_seconds": (3.0, 4.0), "bed_snr_db": (-9.0, -8.0)})
    used = HARDEST.model_copy(update={"rt60_seconds": (3.0, 4.0), "bed_snr_db": (-9.0, -8.0)})
    for i in range(20):
        assert Planner(MANY_CLIPS, unused, 1).plan(0, i) == Planner(MANY_CLIPS, SHORT, 1).plan(0, i)
        spec = Planner(MANY_CLIPS, used, 1).plan(0, i)
        assert spec.background is not None
        assert -9 <= spec.background.snr_db <= -8
        assert all(source.room and 3 <= source.room[0] <= 4 + 1e-9 for source in spec.sources)


def test_effects_are_as_frequent_as_configured_and_all_different() -> None:
    config = SHORT.model_copy(
        update={"gate_share": 0.2, "reverb_share": 0.4, "bed_share": 0.6, "lossy_share": 0.8}
    )
    specs = [Planner(MANY_CLIPS, config, 0).plan(0, i) for i in range(600)]
    sources = [source for spec in specs for source in spec.sources]
    for share, expected in (
        (np.mean([bool(source.silences_seconds) for source in sources]), 0.2),
        (np.mean([source.room is not None for source in sources]), 0.4),
        (np.mean([spec.background is not None for spec in specs]), 0.6),
        (np.mean([spec.lossy is not None for spec in specs]), 0.8),
    ):
        assert share == pytest.approx(expected, abs=4 * (0.25 / 600) ** 0.5)
    assert {len(source.silences_seconds) for source in sources} == {0, 1, 2, 3}
    assert {spec.lossy[0] for spec in specs if spec.lossy} == set(LOSSY_FORMATS)
    rooms = [source.room for source in sources if source.room]
    backgrounds = [spec.background for spec in specs if spec.background]
    assert len(set(rooms)) == len(rooms)
    assert len({background.number for background in backgrounds}) == len(backgrounds)
    rest = [Planner(MANY_CLIPS, config, seed).plan(epoch, 0) for seed, epoch in ((0, 1), (1, 0))]
    assert len({specs[0], *rest}) == 3


def test_effects_do_not_change_each_other() -> None:
    plain = Planner(MANY_CLIPS, SHORT.model_copy(update={"reverb_share": 0.5, "bed_share": 0.5}), 1)
    more = Planner(MANY_CLIPS, HARDER, 1)
    for i in range(40):
        one, other = plain.plan(0, i), more.plan(0, i)
        assert one.background == other.background
        assert [s.room for s in one.sources] == [s.room for s in other.sources]


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
def test_impossible_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureConfig.model_validate(changes)


EACH_ONCE = MixtureConfig(targets="each_once", class_balance=0.0)


def test_every_clip_is_the_target_once_in_each_pass() -> None:
    clips = MANY_CLIPS[:11]
    planner, other = Planner(clips, EACH_ONCE, 3), Planner(clips, EACH_ONCE, 4)
    order = [planner.plan(0, index).sources[0].clip for index in range(44)]
    passes = [order[first : first + 11] for first in range(0, 44, 11)]
    assert [sorted(targets) for targets in passes] == [list(range(11))] * 4
    assert len({tuple(targets) for targets in passes}) == 4
    assert order != [other.plan(0, index).sources[0].clip for index in range(44)]
    assert order != [planner.plan(1, index).sources[0].clip for index in range(44)]
    # Parts of a pass, as several processes plan them, hold the same targets.
    assert [Planner(clips, EACH_ONCE, 3).plan(0, i).sources[0].clip for i in range(40, 44)] == (
        order[40:]
    )


def test_partners_of_targets_are_drawn_as_others() -> None:
    spec = Planner(MANY_CLIPS, EACH_ONCE, 3).plan(0, 10**12)
    assert len({MANY_CLIPS[source.clip].label for source in spec.sources}) == len(spec.sources)
    assert len({MANY_CLIPS[source.clip].group for source in spec.sources}) == len(spec.sources)


def test_targets_once_exclude_a_balance_of_classes() -> None:
    with pytest.raises(ValidationError, match=r"so class_balance has to be 0, and it is 0\.5"):
        MixtureConfig(targets="each_once")
    assert "targets" not in MixtureConfig().model_dump()
    assert EACH_ONCE.model_dump()["targets"] == "each_once"


def test_a_target_without_a_mixture_is_refused_by_name() -> None:
    pairs = [("a", "g"), ("b", "g"), ("a", "h"), ("a", "i")]
    clips = [clip_of(i, 1.0, label, group) for i, (label, group) in enumerate(pairs)]
    config = EACH_ONCE.model_copy(update={"num_sources": (1, 2)})
    with pytest.raises(ManifestError, match=r"^0\.wav: is in no mixture of 2 sounds"):
        Planner(clips, config, 0)
    Planner(clips[1:], config, 0)
    Planner([*clips, clip_of(5, 1.0, "c", "j")], config, 0)
    Planner(clips, config.model_copy(update={"targets": "drawn"}), 0)


def test_a_target_waits_for_its_rare_partner() -> None:
    """The choice starts over after some misses, and keeps the target."""
    clips = [clip_of(i, 1.0, "many" if i else "one") for i in range(3_000)]
    planner = Planner(clips, EACH_ONCE.model_copy(update={"num_sources": (2, 2)}), 0)
    spec = planner.plan(0, 0)
    assert 0 in {source.clip for source in spec.sources}


def test_plans_of_columns_are_those_of_objects() -> None:
    clips = Clips.of(MANY_CLIPS)
    mirrored = Clips.of(MANY_CLIPS[::-1])[::-1]
    for i in range(20):
        expected = Planner(MANY_CLIPS, HARDER, 5).plan(0, i)
        assert Planner(clips, HARDER, 5).plan(0, i) == expected
        assert Planner(mirrored, HARDER, 5).plan(0, i) == expected
