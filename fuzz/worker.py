"""Runs many inputs in a forked process, whose crash or hang is a finding and not the end."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.target import Files, Target
from singleout.errors import SingleoutError

BATCH = 1_000
"""Inputs of one process."""
MAX_SECONDS = 10
"""An input that takes longer hangs."""
MAX_BYTES = 1 << 30
"""Memory that a process may take beyond its start."""
MAX_MESSAGE = 2_000
"""Longest message, in characters."""
KEPT = 3
"""Inputs that are kept of one kind of finding."""
HANG = "hang: more than 10 s"


@dataclass
class Counts:
    """What became of the inputs of a target.

    Attributes:
        inputs: number of inputs.
        read: those that were read.
        refused: those that were refused in one line.
        findings: number of inputs by kind of finding.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    findings: Counter[str] = field(default_factory=Counter)


def input_of(target: Target, seed: int, index: int) -> Files:
    """The files of input number ``index``."""
    return target.make(Random(f"{target.name} {seed} {index}"))


def outcome(target: Target, files: Files, folder: Path) -> str:
    """What a reader makes of an input: ``read``, ``refused``, or the kind of a finding."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        target.read(folder)
    except SingleoutError as error:
        message = str(error)
        if "\n" in message:
            return f"message of several lines: {_place(error)}"
        return f"message too long: {_place(error)}" if len(message) > MAX_MESSAGE else "refused"
    except AssertionError as error:
        return f"wrong: {error}" if str(error) else f"wrong: {_place(error)}"
    except BaseException as error:  # also panics of Rust, and an end of memory
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {_place(error)}"
    return "read"


def run(
    target: Target, num_inputs: int, seed: int, folder: Path, findings: Path, start: int = 0
) -> Counts:
    """Read inputs in processes.

    Args:
        target: it is prepared.
        num_inputs: number of inputs.
        seed: of all inputs.
        folder: for the files of an input.
        findings: the input of a finding is kept there, in a folder with its hash as name.
        start: number of the first input.
    """
    counts = Counts()
    progress = mmap.mmap(-1, 24)
    at = start
    while at < start + num_inputs:
        end = min(at + BATCH, start + num_inputs)
        reader, writer = os.pipe()
        progress[:] = struct.pack("3q", at, 0, 0)
        process = os.fork()
        if process == 0:
            os.close(reader)
            _work(target, seed, at, end, folder, findings, progress, writer)
        os.close(writer)
        lines = b""
        while part := os.read(reader, 1 << 16):
            lines += part
        os.close(reader)
        _, status = os.waitpid(process, 0)
        reached, read, refused = struct.unpack("3q", progress[:])
        for line in lines.decode().splitlines():
            counts.findings[json.loads(line)] += 1
        counts.read, counts.refused = counts.read + read, counts.refused + refused
        if os.WIFSIGNALED(status) or reached < end:
            kind = _death(status)
            counts.findings[kind] += 1
            keep(findings, target, kind, input_of(target, seed, reached))
            reached += 1
        counts.inputs += reached - at
        at = reached
    return counts


def _work(
    target: Target,
    seed: int,
    start: int,
    end: int,
    folder: Path,
    findings: Path,
    progress: mmap.mmap,
    writer: int,
) -> None:
    """Read the inputs from ``start`` to ``end``; never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES,) * 2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.chdir(folder)
    read = refused = 0
    for index in range(start, end):
        signal.alarm(MAX_SECONDS)
        files = input_of(target, seed, index)
        result = outcome(target, files, folder)
        if result == "read":
            read += 1
        elif result == "refused":
            refused += 1
        else:
            os.write(writer, json.dumps(result).encode() + b"\n")
            keep(findings, target, result, files)
        progress[:] = struct.pack("3q", index + 1, read, refused)
    os._exit(0)


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return HANG if number == signal.SIGALRM else f"crash: {signal.Signals(number).name}"
    return f"crash: exit status {os.waitstatus_to_exitcode(status)}"


def replay(target: Target, folder: Path, findings: Path) -> dict[str, str]:
    """Read the inputs of earlier findings again, in one process.

    Args:
        target: it is prepared.
        folder: for the files of an input.
        findings: see ``run``.

    Returns:
        What became of each input, by its place below ``findings``.
    """
    kinds = (findings / target.name).glob("*/*/")
    return {
        path.relative_to(findings).as_posix(): outcome(
            target, {file.name: file.read_bytes() for file in path.iterdir()}, folder
        )
        for path in sorted(kinds)
        if path.is_dir()
    }


def keep(findings: Path, target: Target, kind: str, files: Files) -> None:
    """Keep the input of a finding, unless there are enough of its kind."""
    kinds = hashlib.sha256(kind.encode()).hexdigest()[:8]
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items()))
    folder = findings / target.name / kinds / digest.hexdigest()[:16]
    if folder.exists() or (folder.parent.exists() and len(list(folder.parent.iterdir())) > KEPT):
        return
    folder.mkdir(parents=True)
    (folder.parent / "kind.txt").write_text(kind + "\n", encoding="utf-8")
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _place(error: BaseException) -> str:
    """The last line of ours, and the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/singleout/" in frame.filename]
    places = [ours[-1], frames[-1]] if ours else frames[-1:]
    shown = [f"{Path(frame.filename).name}:{frame.name}" for frame in places]
    return " < ".join(dict.fromkeys(shown))
