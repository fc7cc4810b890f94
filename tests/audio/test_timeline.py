"""Where silence is put before frames of sound."""

from __future__ import annotations

import numpy as np
import pytest

from singleout.audio.ffmpeg.timeline import Timeline

FRAME = 1_024 / 48_000
DAY = 24 * 3600.0


def place(timeline: Timeline, times: list[float], length: float = FRAME) -> list[float]:
    """Silence before each frame of one length."""
    position, silences = 0.0, []
    for time, following in zip(times, [*times[1:], None], strict=True):
        silences.append(timeline.silence_before(time, position, following))
        position += silences[-1] + length
    return silences


def regular(count: int, start: float = 0.0, length: float = FRAME) -> list[float]:
    return [start + number * length for number in range(count)]


@pytest.mark.parametrize("start", [None, 0.0, 5.0])
@pytest.mark.parametrize("shift", [0.0, 1.4, -1.0, 1e6])
def test_regular_frames_have_no_gaps(start: float | None, shift: float) -> None:
    timeline = Timeline(None if start is None else start + shift, None, may_jump=True)
    assert not any(place(timeline, regular(100, shift)))


def test_a_late_start_is_kept_to_the_sample() -> None:
    timeline = Timeline(2.0, None, may_jump=True)
    assert place(timeline, regular(5, 2.0123)) == pytest.approx([0.0123, 0, 0, 0, 0])
    assert place(Timeline(2.0, None, may_jump=True), regular(3, 2.001)) == [0, 0, 0]


@pytest.mark.parametrize("gap", [0.05, 0.3, 9.0])
def test_gaps_are_filled(gap: float) -> None:
    timeline = Timeline(None, None, may_jump=True)
    silences = place(timeline, regular(10) + regular(10, 10 * FRAME + gap + 1e-9))
    assert silences[10] == pytest.approx(gap)
    assert sum(silences) == timeline.silence_seconds == pytest.approx(gap)


def test_rounded_and_uneven_timestamps_are_no_gaps() -> None:
    rng = np.random.default_rng(0)
    times = [round(time + rng.uniform(-0.02, 0.02), 3) for time in regular(10_000)]
    assert not any(place(Timeline(None, None, may_jump=False), times)[1:])


@pytest.mark.parametrize("rate", [1.001, 0.999])
def test_time_stays_right_for_hours(rate: float) -> None:
    """A clock that is too slow or too fast by 0.1 % is 3.6 s wrong after an hour."""
    count, length = 36_000, 0.1
    times = [rate * time for time in regular(count, length=length)]
    silences = place(Timeline(None, None, may_jump=False), times, length)
    positions = np.cumsum(silences) + np.arange(count) * length
    late = np.array(times) - positions
    assert late.max() < 0.0501
    assert (sum(silences) > 3) == (rate > 1)  # overlapping sound is not dropped


def test_an_overlap_takes_away_from_the_next_gap() -> None:
    times = [*regular(10), *regular(10, 10 * FRAME - 0.3), *regular(1, 20 * FRAME + 1.0)]
    silences = place(Timeline(None, None, may_jump=False), times)
    assert sum(silences) == pytest.approx(1.0)


def test_timestamps_that_go_back_start_a_new_recording() -> None:
    """Joined files and chained streams: gaps within each are filled, and none between them."""
    times = [*regular(100), *regular(50), *regular(50, 50 * FRAME + 1.0)]
    silences = place(Timeline(None, None, may_jump=True), times)
    assert silences[150] == pytest.approx(1.0)
    assert sum(silences) == pytest.approx(1.0)


@pytest.mark.parametrize("error", [0.06, 5.0, 1e9, -0.06, -5.0, -1e9])
@pytest.mark.parametrize("place_of_error", [1, 10, 18])
def test_one_wrong_timestamp_changes_nothing(error: float, place_of_error: int) -> None:
    """A flipped bit in one packet must not shift the rest of the recording."""
    times = regular(20)
    times[place_of_error] += error
    assert not any(place(Timeline(None, None, may_jump=False), times))


@pytest.mark.parametrize("jump", [10.1, 1e5, 1e12])
def test_jumps_of_joined_streams_are_not_filled(jump: float) -> None:
    timeline = Timeline(0.0, None, may_jump=True)
    times = [*regular(10), *regular(10, 10 * FRAME + jump), *regular(10, 20 * FRAME + jump + 1)]
    silences = place(timeline, times)
    assert sum(silences) == pytest.approx(1.0, abs=1e-3)
    assert timeline.jump_seconds == pytest.approx(jump)


def test_a_long_gap_is_filled_while_the_pictures_go_on() -> None:
    timeline = Timeline(0.0, None, may_jump=True)
    place(timeline, regular(10))
    for number in range(50):
        timeline.show_picture(float(number))
    assert timeline.silence_before(51.0, 10 * FRAME) == pytest.approx(51 - 10 * FRAME)


def test_pictures_that_jump_with_the_sound_do_not_fill_the_jump() -> None:
    timeline = Timeline(0.0, None, may_jump=True)
    place(timeline, regular(10))
    for time in (0.0, 0.1, 1_000.0, 1_000.1):
        timeline.show_picture(time)
    assert timeline.silence_before(1_000.0, 10 * FRAME) == 0


@pytest.mark.parametrize(
    ("end", "gap", "is_filled"),
    [
        (None, 3_600.0, True),
        (None, 1.01 * DAY, False),
        (None, 1e12, False),
        (60.0, 50.0, True),
        (60.0, 500.0, False),
        (1e12, 1e11, False),
        (0.0, 9.0, True),
    ],
)
def test_silence_is_bounded(end: float | None, gap: float, is_filled: bool) -> None:
    timeline = Timeline(None, end, may_jump=False)
    silences = place(timeline, [*regular(10), 10 * FRAME + gap])
    assert silences[-1] == pytest.approx(gap if is_filled else 0.0)
    assert timeline.jump_seconds == pytest.approx(0.0 if is_filled else gap)


def test_many_gaps_are_bounded_together() -> None:
    timeline = Timeline(None, None, may_jump=False)
    place(timeline, [number * 3_600.0 for number in range(100)])
    assert timeline.silence_seconds <= DAY


def test_a_gap_after_damage_is_a_loss_and_is_exact() -> None:
    timeline = Timeline(None, None, may_jump=False)
    place(timeline, regular(10))
    timeline.expect_loss(10 * FRAME)
    assert timeline.silence_before(11 * FRAME, 10 * FRAME) == pytest.approx(FRAME)
    assert timeline.lost_seconds == pytest.approx(FRAME)
    assert timeline.silence_seconds == 0


def test_frames_without_timestamps_follow_each_other() -> None:
    timeline = Timeline(0.0, 1.0, may_jump=False)
    assert timeline.silence_before(None, 0.0) == 0
    assert timeline.silence_before(None, 5.0) == 0
