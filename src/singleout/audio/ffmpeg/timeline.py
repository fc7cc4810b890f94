"""Where the sound of a stream belongs in time: gaps, late starts and jumps of its timestamps."""

from __future__ import annotations

GAP_SECONDS = 0.05
"""Shorter gaps are left: containers round timestamps to milliseconds, and clocks are not equal."""
EXACT_GAP_SECONDS = 0.002
"""Shortest gap that is filled at the start and after damage, where a gap is certain."""
DAMAGE_SECONDS = 1.0
"""After damage, timestamps may take so long to show how much is lost."""
REPEAT_SECONDS = 1.0
"""Timestamps that go back by more belong to another recording that was joined to the first."""
JUMP_SECONDS = 10.0
"""A longer gap must be plausible; otherwise its timestamps are taken for wrong."""
MAX_SILENCE_SECONDS = 24 * 3600.0


class Timeline:
    """Finds where silence must be put before a frame of sound, so that its time stays right.

    Time zero is the start of the pictures or of the sound, whichever is earlier. The time of a
    frame is compared to all samples before it, so that small errors do not add up. A gap of 50 ms
    or more is silence. No sample is dropped where frames overlap. Where timestamps go back, a new
    recording starts, which follows the one before without a gap.

    A gap of more than 10 s is filled only if it ends before the stated end of the recording and
    the silence is at most 24 h in all. In a stream that may be joined from several (MPEG-TS, Ogg),
    the pictures must go on during such a gap. Otherwise the timestamps jump, and nothing is filled.

    Args:
        start: time of the first picture in seconds; None if there are no pictures.
        end: stated end of the recording in seconds; None if none is stated.
        may_jump: whether the timestamps of this kind of file may jump.

    Attributes:
        zero: time of the start of the recording in seconds; 0 before a frame with a timestamp.
        silence_seconds: length of all gaps that were not caused by damage.
        lost_seconds: length of all gaps that were caused by damage.
        jump_seconds: length of all gaps that are not filled.

    Example:
        >>> timeline = Timeline(start=0.0, end=60.0, may_jump=False)
        >>> timeline.silence_before(1.0, position=0.0)  # the sound starts late
        1.0
        >>> timeline.silence_before(3.02, position=3.0)  # no gap, only rounded times
        0.0
        >>> timeline.silence_before(9.0, position=5.0), timeline.silence_seconds
        (4.0, 5.0)
    """

    def __init__(self, start: float | None, end: float | None, *, may_jump: bool) -> None:
        self._start, self._end, self._may_jump = start, end, may_jump
        self._is_started = False
        self.zero = 0.0
        self._last_time = float("-inf")
        self._damaged_until = -1.0
        # The pictures without a jump: times of the first and of the last one.
        self._pictures = (float("inf"), float("-inf"))
        self.silence_seconds = self.lost_seconds = self.jump_seconds = 0.0

    def show_picture(self, time: float) -> None:
        """Note the time of a picture, in seconds."""
        first, last = self._pictures
        if abs(time - last) > JUMP_SECONDS:
            first = last = time
        self._pictures = first, max(last, time)

    def expect_loss(self, position: float) -> None:
        """Note that sound at a position is damaged, so that the next gap is a loss."""
        self._damaged_until = position + DAMAGE_SECONDS

    def silence_before(
        self, time: float | None, position: float, next_time: float | None = None
    ) -> float:
        """Seconds of silence to put before a frame of sound.

        Args:
            time: timestamp of the frame in seconds; None if the frame has none.
            position: seconds of sound and silence before the frame.
            next_time: timestamp of the next frame; it shows whether ``time`` is wrong.
        """
        if time is None:
            return 0.0
        if not self._is_started:
            self._is_started = True
            self.zero = time - position
            if self._start is not None:
                self.zero = min(self.zero, self._start)
        gap = time - self.zero - position
        if next_time is not None:
            next_gap = next_time - self.zero - position
            if next_gap < gap if gap > 0 else gap < -REPEAT_SECONDS < next_gap:
                return 0.0  # the next frame is where this one should be
        if gap < -REPEAT_SECONDS and time < self._last_time:
            self.zero, gap = time - position, 0.0
        self._last_time = time
        is_damaged = 0 < position <= self._damaged_until
        shortest = EXACT_GAP_SECONDS if is_damaged or not position else GAP_SECONDS
        if gap < shortest:
            return 0.0
        if gap > JUMP_SECONDS and not self._is_plausible(gap, time):
            self.zero += gap
            self.jump_seconds += gap
            return 0.0
        if is_damaged:
            self.lost_seconds += gap
        else:
            self.silence_seconds += gap
        return gap

    def _is_plausible(self, gap: float, time: float) -> bool:
        """Whether a long gap that ends at a time is one, and no jump of the timestamps."""
        if self.silence_seconds + self.lost_seconds + gap > MAX_SILENCE_SECONDS:
            return False
        if self._end is not None and time > self._end + JUMP_SECONDS:
            return False
        first, last = self._pictures
        is_covered = first <= time - gap + JUMP_SECONDS and last >= time - JUMP_SECONDS
        return is_covered or not self._may_jump
