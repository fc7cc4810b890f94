"""Versions of one recording share their fingerprints, and other recordings do not."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import resample
from singleout.prepare.duplicates import Revision, revision_of
from singleout.prepare.fingerprints import MAX_DIFFERENT, fingerprint, num_different
from tests.prepare.corpora import sound

RATE = 32_000

Samples = NDArray[Any]


def coded(audio: Samples, format: str, subtype: str) -> Samples:
    """The audio after a lossy codec."""
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=format, subtype=subtype)
    file.seek(0)
    samples: Samples = soundfile.read(file, dtype="float32")[0]
    return samples


VERSIONS: dict[str, Callable[[Samples], Samples]] = {
    "quieter": lambda audio: np.round(audio * 0.1 * 2**15) / 2**15,
    "MP3": lambda audio: coded(audio, "MP3", "MPEG_LAYER_III"),
    "Ogg": lambda audio: coded(audio, "OGG", "VORBIS"),
    "a little later": lambda audio: audio[RATE // 20 :],
    "after silence": lambda audio: np.concatenate([np.zeros(RATE // 3, audio.dtype), audio]),
    "another rate": lambda audio: resample(resample(audio, RATE, 16_000), 16_000, RATE),
}


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_versions_of_a_recording_are_near(version: Callable[[Samples], Samples]) -> None:
    audio = sound(3, seconds=6, rate=RATE)
    one, other = fingerprint(audio, RATE), fingerprint(version(audio), RATE)
    assert one is not None
    assert other is not None
    assert num_different(one, other) <= MAX_DIFFERENT


def test_other_recordings_of_the_same_kind_are_far() -> None:
    prints = [fingerprint(sound(i, seconds=3, rate=RATE), RATE) for i in range(30)]
    distances = [
        num_different(one, other) for i, one in enumerate(prints) for other in prints[:i]
        if one and other
    ]  # fmt: skip
    assert min(distances) > 1.25 * MAX_DIFFERENT


def test_short_and_steady_sounds_have_no_fingerprint() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    assert fingerprint(tone, RATE) is None
    assert fingerprint(sound(0, seconds=0.2, rate=RATE), RATE) is None
    assert fingerprint(np.zeros(RATE), RATE) is None
    assert fingerprint(np.zeros(3), RATE) is None


def row(number: int, bits: bytes | None, **changes: Any) -> dict[str, Any]:
    """A row of a sidecar."""
    digest = changes.pop("digest", f"{number:032x}")
    statistics = {"digest": digest, "fingerprint": None if bits is None else bits.hex()}
    description = {"seconds": 3.0, "file": f"{number}.wav", "split": "train", **changes}
    return {"key": f"{number:09}", "description": {**description, "statistics": statistics}}


def near(bits: bytes, num_bits: int) -> bytes:
    """Other bits in some places."""
    changed = np.unpackbits(np.frombuffer(bits, np.uint8))
    changed[: 7 * num_bits : 7] ^= 1
    return np.packbits(changed).tobytes()


RANDOM = [np.random.default_rng(i).bytes(32) for i in range(4)]


def revised(revision: Revision, rows: list[dict[str, Any]]) -> dict[int, str | None]:
    """The group of each row that stays, by its number."""
    kept = filter(None, (revision.revise(each) for each in rows))
    return {int(each["key"]): each["description"].get("group") for each in kept}


def test_versions_come_into_one_group_with_all_of_their_groups() -> None:
    rows = [
        row(1, RANDOM[0], group="a"), row(2, RANDOM[1], group="b"), row(3, RANDOM[2], group="b"),
        row(4, near(RANDOM[0], 20), group="b"), row(5, RANDOM[3]),
    ]  # fmt: skip
    revision = revision_of(rows, "group")
    assert revised(revision, rows) == {1: "a", 2: "a", 3: "a", 4: "a", 5: None}
    (note,) = revision.notes.values()
    reason = "is nearly the recording of row 1"
    assert note == {"row": 4, "path": "4.wav", "outcome": "grouped", "reason": reason}


def test_later_versions_are_dropped_or_kept() -> None:
    rows = [row(1, None, digest="ab" * 16), row(2, RANDOM[1]), row(3, None, digest="ab" * 16)]
    assert revised(revision_of(rows, "drop"), rows) == {1: None, 2: None}
    assert revised(revision_of(rows, "keep"), rows) == {1: None, 2: None, 3: None}


def test_kept_lines_of_one_file_are_of_one_group() -> None:
    """Otherwise a sound would be mixed with itself, and trained on where it is scored."""
    rows = [row(1, RANDOM[0]), row(2, RANDOM[0]), row(3, RANDOM[0]), row(4, RANDOM[1], group="a")]
    rows[1]["description"]["file"] = rows[0]["description"]["file"]
    revision = revision_of(rows, "keep")
    assert revised(revision, rows) == {1: "1.wav", 2: "1.wav", 3: None, 4: "a"}
    assert not revision.notes


@pytest.mark.parametrize("treatment", ["group", "drop"])
def test_what_is_scored_is_not_trained_on(treatment: Any) -> None:
    rows = [row(1, RANDOM[0]), row(2, near(RANDOM[0], 5), split="test"), row(3, RANDOM[0])]
    revision = revision_of(rows, treatment)
    assert list(revised(revision, rows)) == [2]
    assert [note["outcome"] for note in revision.notes.values()] == ["left out", "left out"]


def test_the_group_of_a_version_of_a_scored_sound_is_not_trained_on() -> None:
    """Also the groups that become one with it."""
    rows = [
        row(1, RANDOM[0], group="a"), row(2, RANDOM[0], split="test"), row(3, RANDOM[1], group="a"),
        row(4, near(RANDOM[1], 5), group="b"), row(5, RANDOM[2], group="b"), row(6, RANDOM[3]),
    ]  # fmt: skip
    revision = revision_of(rows, "group")
    assert list(revised(revision, rows)) == [2, 6]
    assert {number: note["outcome"] for number, note in revision.notes.items()} == (
        dict.fromkeys((1, 3, 4, 5), "left out")
    )
    assert "in the group of a version of row 2" in revision.notes[5]["reason"]


def test_fingerprints_that_differ_or_other_lengths_are_no_duplicates() -> None:
    almost = near(RANDOM[0], 30)
    flipped = bytes(255 - byte for byte in RANDOM[0][:6]) + RANDOM[0][6:]
    assert num_different(RANDOM[0], flipped) > MAX_DIFFERENT > num_different(RANDOM[0], almost)
    rows = [row(1, RANDOM[0]), row(2, flipped), row(3, RANDOM[0], seconds=9.0)]
    assert revision_of(rows, "group").notes == {}


def test_many_equal_fingerprints_take_bounded_time_and_are_all_grouped() -> None:
    rows = [row(i, RANDOM[0]) for i in range(1, 2_001)]
    assert len(revision_of(rows, "drop").notes) == 1_999
