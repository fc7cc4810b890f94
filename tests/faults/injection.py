"""Run a command in a forked process in which one thing fails.

The shim in ``shim.c`` counts the calls of one kind. The n-th fails, or the process is killed there.
Limits of the system and missing surroundings are set in the forked process before the command.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

KINDS = (
    *("open", "read", "write", "rename", "fsync", "remove", "mkdir", "lock", "shorten", "memory"),
)
"""Kinds of calls, in the order of the shim."""
KILL = -1
"""Instead of an error: the process is killed."""
SECONDS = 120
"""A command that takes longer hangs."""
COUNTS = 200
"""Descriptor, in the forked process, of the pipe for the number of calls."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, at a place that a number gives.

    Attributes:
        name: what goes wrong, for the table.
        kind: of the calls that fail; empty for a limit or a missing surrounding.
        error: that the call fails with, or ``KILL``.
        lasts: all later calls fail, too.
        arrange: does what goes wrong in the forked process, where it is no call.
        values: the numbers that ``arrange`` gets.
    """

    name: str
    kind: str = ""
    error: int = 0
    lasts: bool = False
    arrange: Callable[[int], None] | None = None
    values: Sequence[int] = (1,)

    @property
    def starves(self) -> bool:
        """Whether memory is missing. Several libraries then end the process on the spot."""
        return self.kind == "memory" or self.arrange is _limit_memory

    @property
    def kills(self) -> bool:
        return self.error == KILL


def calls(kind: str, name: str, error: int, lasts: bool = False) -> Fault:
    """A fault of one kind of call."""
    return Fault(name, kind, error, lasts)


def limit(what: int) -> Callable[[int], None]:
    """Set a limit of the process to a number."""
    return lambda number: resource.setrlimit(what, (number, number))


def _limit_memory(megabytes: int) -> None:
    """Allow this much more memory than the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _without_home(_: int) -> None:
    os.environ["HOME"] = "/dev/null/home"
    for name in ("SINGLEOUT_CACHE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)


def _close_streams(_: int) -> None:
    os.closerange(0, 3)


FAULTS = (
    calls("open", "a file cannot be opened", errno.EIO),
    calls("read", "the disk gives no more data from a read on", errno.EIO, lasts=True),
    calls("write", "a write fails", errno.EIO),
    calls("write", "the disk is full from a write on", errno.ENOSPC, lasts=True),
    calls("rename", "a file cannot be renamed", errno.EIO),
    calls("fsync", "a file cannot be synced to the disk", errno.EIO),
    calls("remove", "no file can be removed", errno.EACCES, lasts=True),
    calls("mkdir", "a folder cannot be made", errno.EIO),
    calls("lock", "a file cannot be locked", errno.ENOLCK),
    calls("shorten", "a file cannot be shortened", errno.EIO),
    calls("memory", "an array gets no memory", errno.ENOMEM),
    calls("open", "killed before it opens a file", KILL),
    calls("write", "killed before a write", KILL),
    calls("rename", "killed before it renames a file", KILL),
    calls("fsync", "killed before it syncs a file", KILL),
    calls("remove", "killed before it removes a file", KILL),
    calls("shorten", "killed before it shortens a file", KILL),
    Fault(
        "no file may be larger than a limit",
        arrange=limit(resource.RLIMIT_FSIZE),
        values=(0, 1, 100, 1_000, 4_096, 8_000, 16_000, 65_536, 1 << 17, 1 << 18),
    ),
    Fault(
        "few files may be open", arrange=limit(resource.RLIMIT_NOFILE), values=tuple(range(3, 24))
    ),
    Fault(
        "little memory is left", arrange=_limit_memory, values=(0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
    ),
    Fault("there is no home folder", arrange=_without_home),
    Fault("stdin, stdout and stderr are closed", arrange=_close_streams),
)
"""Everything that goes wrong in the table of docs/reliability.md."""


class Shim:
    """The library ``shim.c``, which was preloaded into this process."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.faults_count.restype = ctypes.c_long
        self._folder = folder

    @staticmethod
    def build(folder: Path) -> Path:
        """Compile the library; its path."""
        path = folder / "shim.so"
        source = Path(__file__).with_name("shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
        return path

    def arm(self, fault: Fault | None, number: int) -> None:
        """Count calls from now on, and let the ``number``-th of the fault's kind fail."""
        kind, error, lasts = -1, 0, False
        if fault is not None:
            kind, error, lasts = KINDS.index(fault.kind), fault.error, fault.lasts
        folder = os.fsencode(self._folder)
        self._library.faults_arm(folder, kind, ctypes.c_long(number), error, lasts)

    def counts(self) -> dict[str, int]:
        """Number of calls by kind."""
        return {kind: int(self._library.faults_count(i)) for i, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, negative for a signal; None if it did not end in time.
        stderr: what it printed there.
        calls: number by kind; empty if the process was killed.
    """

    code: int | None
    stderr: str
    calls: dict[str, int]


def run(arguments: Sequence[str], shim: Shim, fault: Fault | None = None, n: int = 0) -> Ended:
    """Run ``singleout`` with these arguments in a forked process, with a fault at place ``n``."""
    sys.stdout.flush()
    counts, stderr = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        # Away from the lowest numbers, which a fault may close or limit.
        os.dup2(counts[1], COUNTS)
        _redirect(stderr[1])
        os.closerange(3, COUNTS)
        _run_here(arguments, shim, fault, n)
    os.close(counts[1])
    os.close(stderr[1])
    with open(counts[0]) as numbers, open(stderr[0], errors="replace") as lines:  # noqa: PTH123
        text, calls_by_kind = lines.read(), json.loads(numbers.read() or "{}")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(None if code == -signal.SIGALRM else code, text, calls_by_kind)


def _run_here(arguments: Sequence[str], shim: Shim, fault: Fault | None, n: int) -> NoReturn:
    from singleout.cli import main

    code = 70
    try:
        sys.argv = ["singleout", *arguments]
        signal.alarm(SECONDS)
        if fault is not None and fault.arrange is not None:
            fault.arrange(n)
        else:
            shim.arm(fault, n)
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(COUNTS, json.dumps(shim.counts()).encode())
        os._exit(code)


def _redirect(stderr: int) -> None:
    """Standard output is lost, standard error goes to a pipe: limits of files do not touch it."""
    null = os.open(os.devnull, os.O_RDWR)
    for old, new in ((null, 0), (null, 1), (stderr, 2)):
        os.dup2(old, new)
