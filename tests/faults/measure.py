"""Inject every fault into every command, and count how the commands end.

Nothing may be lost: after a fault, files that belong together are all old or all new, and no
temporary file stays. The same command without a fault then gives the right results.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from tests.faults.commands import OLD, Command, Workshop
from tests.faults.injection import FAULTS, Ended, Fault, Shim, run

FINISHED, WARNED, REFUSED, KILLED, CRASHED = ENDINGS = (
    *("finished", "warned", "refused", "killed", "crashed"),
)
LINES = ("error: ", "warning: ")
"""How lines of stderr begin; the last one may be the summary of a batch."""


@dataclass
class Row:
    """One fault in one command.

    Attributes:
        fault, command: their names.
        places: where the fault could be.
        injected: where it was: number of runs.
        endings: number of runs by how they ended.
        lost: what went wrong, one line per run.
    """

    fault: str
    command: str
    places: int = 0
    injected: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        counts = {name: self.endings[name] for name in ENDINGS}
        names = {"fault": self.fault, "command": self.command}
        numbers = {"places": self.places, "injected": self.injected}
        return {**names, **numbers, **counts, "lost": self.lost}


class Campaign:
    """Faults in commands.

    Args:
        root: an empty folder.
        shim: the path of the compiled library, which was preloaded into this process.
        most: faults of one kind in one command; None for every place.
    """

    def __init__(self, root: Path, shim: Path, most: int | None) -> None:
        self._workshop = Workshop(root / "workshop")
        self._shim = Shim(shim, root / "workshop")
        self._most = most

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Run every fault in the commands of these names; in all commands if there are none."""
        for command in self._workshop.commands():
            if names and command.name not in names:
                continue
            command.prepare()
            ended = self._run(command)
            assert ended.code == 0, ended.stderr
            right = command.results()
            for fault in FAULTS:
                places = range(1, ended.calls[fault.kind] + 1) if fault.kind else fault.values
                yield self._row(fault, command, right, places)

    def _run(self, command: Command, fault: Fault | None = None, number: int = 0) -> Ended:
        return run(command.arguments, self._shim, fault, number)

    def _row(
        self, fault: Fault, command: Command, right: dict[str, bytes], places: Sequence[int]
    ) -> Row:
        row = Row(fault.name, command.name, len(places))
        for number in self._chosen(places):
            command.prepare()
            ended = self._run(command, fault, number)
            row.injected += 1
            ending = _ending(ended, fault)
            complaints = [] if ending else [f"ended with {ended.code}: {ended.stderr[-300:]!r}"]
            complaints += self._losses(command, right, ending, fault)
            if ending != FINISHED or complaints:
                complaints += self._unrecovered(command, right)
            row.endings[ending] += 1
            row.lost += [f"at {number}: {complaint}" for complaint in complaints]
        return row

    def _chosen(self, places: Sequence[int]) -> Sequence[int]:
        """All places, or some that are evenly spread."""
        if self._most is None or len(places) <= self._most:
            return places
        if self._most == 1:
            return places[len(places) // 2 :][:1]
        last, steps = len(places) - 1, range(self._most)
        return sorted({places[step * last // (self._most - 1)] for step in steps})

    def _losses(
        self, command: Command, right: dict[str, bytes], ending: str, fault: Fault
    ) -> Iterator[str]:
        results = command.results()
        states = {
            name: _state(results.get(name), right.get(name), fault.starves)
            for name in results.keys() | right.keys()
        }
        if ending == FINISHED and set(states.values()) != {"new"}:
            yield f"finished with wrong results: {states}"
        if ending != WARNED and "wrong" in states.values():
            yield f"neither old nor new: {states}"
        if fault.kills:
            return
        for group in command.groups:
            if len({states[name] for name in group}) > 1:
                yield f"partly old and partly new: {states}"
        # What cannot be removed now, the next command removes.
        if fault.kind not in ("remove", "shorten") and (names := self._workshop.left_behind()):
            yield f"{', '.join(names)} stayed"

    def _unrecovered(self, command: Command, right: dict[str, bytes]) -> Iterator[str]:
        again = self._run(command)
        if again.code != 0:
            yield f"a second run ended with {again.code}: {again.stderr[-300:]!r}"
        elif command.results() != right:
            yield "a second run gave other results"
        elif names := self._workshop.left_behind():
            yield f"{', '.join(names)} stayed after a second run"


def _state(content: bytes | None, right: bytes | None, is_starved: bool) -> str:
    """Whether a result is ``missing``, ``old``, ``new`` or ``wrong``."""
    if content is None or content == OLD:
        return "missing" if content is None else "old"
    if right is not None and (content == right or (is_starved and _is_close(content, right))):
        return "new"
    return "wrong"


def _is_close(content: bytes, right: bytes) -> bool:
    """Whether two recordings agree within one step of 16 bits.

    Libraries choose another algorithm, with another rounding, where a large array gets no memory.
    """
    audio, expected = (soundfile.read(io.BytesIO(data))[0] for data in (content, right))
    return audio.shape == expected.shape and bool(abs(audio - expected).max() <= 2**-15)


def _ending(ended: Ended, fault: Fault) -> str:
    """How a run ended; empty for an ending that no run should have."""
    lines = ended.stderr.splitlines()
    if ended.code == 0:
        return WARNED if any(line.startswith("warning: ") for line in lines) else FINISHED
    if ended.code == -9 and fault.kills:
        return KILLED
    if lines and lines[-1].endswith(" failed") and "done" in lines[-1]:
        lines.pop()
    if ended.code in (1, 3) and all(line.startswith(LINES) for line in lines):
        return REFUSED
    if fault.starves:
        return CRASHED
    return ""
