"""Sounds that are one recording: equal samples, or fingerprints that hardly differ.

All sounds of a corpus are compared, in arrays of a few bytes each. Sounds whose fingerprints share
16 bits at one of 16 places are candidates (locality-sensitive hashing: Indyk and Motwani,
"Approximate Nearest Neighbors", STOC 1998); all bits then decide.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from singleout.prepare.fingerprints import MAX_DIFFERENT, NUM_BITS
from singleout.prepare.settings import Duplicates
from singleout.prepare.shards import LEFT_OUT

NUM_PLACES = NUM_BITS // 16
MAX_CANDIDATES = 256
"""Candidates of a sound at one place, the nearest in the order of the next bits. It bounds the time
where very many sounds share bits."""
MAX_LONGER_SHARE, MAX_LONGER_SECONDS = 0.1, 0.5
"""The longer of two versions of a recording may be longer by the sum of both."""
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint16)
"""Number of ones in each byte."""


class _Facts(NamedTuple):
    """What is compared, one value for each sound."""

    row: NDArray[np.int64]
    seconds: NDArray[np.float64]
    digest: NDArray[np.void]
    bits: NDArray[np.uint8]
    has_bits: NDArray[np.bool_]
    group: NDArray[np.uint64]
    is_trained: NDArray[np.bool_]


@dataclass
class Revision:
    """What duplicates change in the index of a corpus. It takes the rows in their order.

    Attributes:
        notes: rows for the report, by the numbers of the rows of the manifest.
        groups: by the ``group_number`` of a group, the set of groups that become one.

    Example:
        >>> note = {"row": 7, "outcome": "left out", "reason": "is the recording of row 3"}
        >>> revision = Revision({7: note})
        >>> revision.revise({"key": "000000007", "description": {"file": "rain.wav"}}) is None
        True
    """

    notes: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def revise(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """A row of a sidecar as it goes into the index; None if the sound is left out."""
        note = self.notes.get(int(row["key"]))
        if note is not None:
            note["path"] = row["description"]["file"]
            if note["outcome"] == LEFT_OUT:
                return None
        number = self.groups.get(group_number(row)) if self.groups else None
        if number is None:
            return row
        group = self._names.setdefault(number, _group(row))
        return {**row, "description": {**row["description"], "group": group}}


def group_number(row: Mapping[str, Any]) -> int:
    """A number of 64 bits for the group of a row of a sidecar.

    A sound without a group is one of its own, which has the name of its file.

    Example:
        >>> rows = [{"description": {"group": "rex"}}, {"description": {"file": "rex"}}]
        >>> group_number(rows[0]) == group_number(rows[1])
        True
    """
    name = _group(row).encode(errors="surrogateescape")
    return int.from_bytes(blake2b(name, digest_size=8).digest())


def _group(row: Mapping[str, Any]) -> str:
    description = row["description"]
    return str(description.get("group") or description["file"])


def revision_of(rows: Iterable[Mapping[str, Any]], treatment: Duplicates) -> Revision:
    """Find duplicates, and what they change.

    Args:
        rows: of all sidecars, in the order of the manifest.
        treatment: see ``PrepareConfig.duplicates``.

    Example:
        >>> def row(key, split, digest):
        ...     statistics = {"digest": digest, "fingerprint": None}
        ...     description = {"seconds": 2.0, "split": split, "file": f"{key}.wav"}
        ...     return {"key": key, "description": {**description, "statistics": statistics}}
        >>> rows = [row("1", "train", "ab" * 16), row("2", "test", "ab" * 16)]
        >>> revision_of(rows, "group").notes[1]["outcome"]
        'left out'
    """
    revision, facts = Revision(), _facts_of(rows)
    recordings, groups = _Sets(), _Sets()
    if treatment == "keep":  # lines of one file are of one group, as in a manifest
        numbers, counts = np.unique(facts.group, return_counts=True)
        revision.groups |= {number: number for number in numbers[counts > 1].tolist()}
        return revision
    for one, other in [*_equal(facts), *_similar(facts)]:
        recordings.join(one, other)
    leaked: dict[int, int] = {}  # the row that is scored, by the group of its versions
    for members in recordings.sets():
        for note, member in _decided(members, facts, treatment):
            revision.notes[note["row"]] = note
            first, group = members[0], int(facts.group[member])
            if note["outcome"] != LEFT_OUT:
                groups.join(int(facts.group[first]), group)
            elif facts.is_trained[member] and not facts.is_trained[first]:
                leaked[group] = int(facts.row[first])
    for number, each in enumerate(groups.sets()):
        revision.groups |= dict.fromkeys(each, number)
        if scored := [leaked[group] for group in each if group in leaked]:
            leaked |= dict.fromkeys(each, scored[0])
    for note in _leaks_of_groups(leaked, facts):
        known = revision.notes.get(note["row"])
        if known is None or known["outcome"] != LEFT_OUT:
            revision.notes[note["row"]] = note
    revision.notes = dict(sorted(revision.notes.items()))
    return revision


def _decided(
    members: list[int], facts: _Facts, treatment: Duplicates
) -> Iterator[tuple[dict[str, Any], int]]:
    """What becomes of the versions of a recording, all but the one that stays as it is.

    A sound of another split stays, and no version of it is trained on.
    """
    scored = [member for member in members if not facts.is_trained[member]]
    members.sort(key=lambda member: (bool(scored) and bool(facts.is_trained[member]), member))
    first = members[0]
    for member in members[1:]:
        is_leak = bool(scored) and bool(facts.is_trained[member])
        is_equal = facts.digest[member] == facts.digest[first]
        reason = f"is {'' if is_equal else 'nearly '}the recording of row {facts.row[first]}"
        if is_leak:
            reason += ", which is not of the split train: training would see what is scored"
        outcome = LEFT_OUT if is_leak or treatment == "drop" else "grouped"
        yield {"row": int(facts.row[member]), "outcome": outcome, "reason": reason}, member


def _leaks_of_groups(leaked: Mapping[int, int], facts: _Facts) -> Iterator[dict[str, Any]]:
    """What becomes of the sounds in the split train whose group has a version of a scored sound.

    A group may be one recording in parts, and a version of one part tells of all.
    """
    is_leak = facts.is_trained & np.isin(facts.group, np.array([*leaked], np.uint64))
    for member in np.flatnonzero(is_leak).tolist():
        reason = (
            f"is in the group of a version of row {leaked[int(facts.group[member])]}, which is not "
            "of the split train: training would see what is scored"
        )
        yield {"row": int(facts.row[member]), "outcome": LEFT_OUT, "reason": reason}


def _facts_of(rows: Iterable[Mapping[str, Any]]) -> _Facts:
    """Arrays of what is compared. They grow in place: rows are not kept."""
    numbers, groups = array("q"), array("Q")
    seconds, flags, digests, bits = array("d"), bytearray(), bytearray(), bytearray()
    for row in rows:
        description = row["description"]
        statistics = description["statistics"]
        numbers.append(int(row["key"]))
        groups.append(group_number(row))
        seconds.append(description["seconds"])
        digests += bytes.fromhex(statistics["digest"])
        bits += bytes.fromhex(statistics["fingerprint"] or "00" * (NUM_BITS // 8))
        is_trained = description.get("split") in (None, "train")
        flags += bytes([2 * is_trained + (statistics["fingerprint"] is not None)])
    states = np.frombuffer(flags, np.uint8)
    return _Facts(
        np.frombuffer(numbers, np.int64),
        np.frombuffer(seconds, np.float64),
        np.frombuffer(digests, "V16"),
        np.frombuffer(bits, np.uint8).reshape(-1, NUM_BITS // 8),
        (states & 1).astype(bool),
        np.frombuffer(groups, np.uint64),
        states >= 2,
    )


def _equal(facts: _Facts) -> Iterator[tuple[int, int]]:
    """Pairs of sounds with the same samples."""
    halves = facts.digest.view(np.uint64).reshape(-1, 2)
    order = np.lexsort(halves.T)
    is_same = (halves[order[1:]] == halves[order[:-1]]).all(1)
    yield from _pairs(order[:-1][is_same], order[1:][is_same])


def _similar(facts: _Facts) -> Iterator[tuple[int, int]]:
    """Pairs of sounds whose fingerprints hardly differ."""
    numbers = np.flatnonzero(facts.has_bits)
    # Sounds with the same fingerprint follow each other. One of them stands for all.
    quarters = facts.bits[numbers].view(np.uint64)
    order = np.lexsort((facts.seconds[numbers], *quarters.T))
    numbers, quarters = numbers[order], quarters[order]
    is_same = (quarters[1:] == quarters[:-1]).all(1)
    is_same &= _have_one_length(facts.seconds[numbers[1:]], facts.seconds[numbers[:-1]])
    yield from _pairs(numbers[:-1][is_same], numbers[1:][is_same])
    numbers = numbers[np.concatenate([[True], ~is_same])[: len(numbers)]]
    for place in range(NUM_PLACES):
        yield from _similar_at(place, facts, numbers)


def _similar_at(place: int, facts: _Facts, numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of some sounds whose fingerprints share 16 bits at a place, and differ little."""
    bits = facts.bits[numbers]
    words = bits.view(">u2").astype(np.uint64)
    # Sounds with the same 16 bits follow each other, in the order of the next 48 bits.
    following = [words[:, (place + i) % NUM_PLACES] << np.uint64(48 - 16 * i) for i in range(4)]
    order = np.argsort(following[0] | following[1] | following[2] | following[3], kind="stable")
    bits, numbers, shared = bits[order], numbers[order], words[order, place]
    for distance in range(1, min(MAX_CANDIDATES, len(numbers) - 1) + 1):
        ones = np.flatnonzero(shared[distance:] == shared[:-distance])
        if not len(ones):
            return
        others = ones + distance
        is_close = ONES[bits[ones] ^ bits[others]].sum(1) <= MAX_DIFFERENT
        ones, others = numbers[ones[is_close]], numbers[others[is_close]]
        is_close = _have_one_length(facts.seconds[ones], facts.seconds[others])
        yield from _pairs(ones[is_close], others[is_close])


def _have_one_length(
    seconds: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.bool_]:
    allowed = MAX_LONGER_SHARE * np.maximum(seconds, others) + MAX_LONGER_SECONDS
    return np.abs(seconds - others) <= allowed


def _pairs(ones: NDArray[np.int64], others: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip(ones.tolist(), others.tolist(), strict=True)


class _Sets:
    """Sets of numbers that are joined in pairs."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def _first(self, number: int) -> int:
        while (parent := self._parents.setdefault(number, number)) != number:
            self._parents[number] = self._parents[parent]
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self._first(one), self._first(other)))
        self._parents[high] = low

    def sets(self) -> list[list[int]]:
        """All sets, each sorted, in the order of their lowest numbers."""
        sets: dict[int, list[int]] = {}
        for number in sorted(self._parents):
            sets.setdefault(self._first(number), []).append(number)
        return list(sets.values())
