"""The worker notices each kind of finding, and goes on after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import fuzz.worker
from fuzz.target import Target
from singleout.errors import ConfigError

class Bad(Target):
    name = "bad"
    count = 0
    def prepare(self, folder, with_packages):
        pass
    def make(self, random):
        return {"input": random.randbytes(4)}
    def read(self, folder):
        kind = kinds.pop(0)
        if kind == "refused":
            raise ConfigError("no")
        if kind == "lines":
            raise ConfigError("a\\nb")
        if kind == "long":
            raise ConfigError("x" * 3_000)
        if kind == "foreign":
            raise KeyError("x")
        if kind == "wrong":
            raise AssertionError("not finite")
        if kind == "memory":
            bytes(2 << 30)
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            signal.pause()

fuzz.worker.MAX_SECONDS = 1
folder = Path(sys.argv[1])
(folder / "work").mkdir()
kinds = ["read", "refused", "lines", "long", "foreign", "wrong", "memory", "crash"]
counts = fuzz.worker.run(Bad(), 8, 0, folder / "work", folder / "kept")
kinds = ["hang"]
more = fuzz.worker.run(Bad(), 1, 0, folder / "work", folder / "kept", start=8)
print(json.dumps([counts.inputs, counts.read, counts.refused, counts.findings, more.findings]))
"""


def test_every_kind_of_finding_is_counted_and_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inputs, read, refused, findings, more = json.loads(done.stdout)
    assert (inputs, read, refused) == (8, 1, 1)
    assert findings == {
        "message of several lines: <string>:read": 1,
        "message too long: <string>:read": 1,
        "KeyError: <string>:read": 1,
        "wrong: not finite": 1,
        "MemoryError: <string>:read": 1,
        "crash: SIGSEGV": 1,
    }
    assert more == {"hang: more than 10 s": 1}
    kinds = sorted(path.read_text().strip() for path in tmp_path.glob("kept/bad/*/kind.txt"))
    assert kinds == sorted([*findings, *more])
    assert all(len(path.read_bytes()) == 4 for path in tmp_path.glob("kept/bad/*/*/input"))
    assert len(list(tmp_path.glob("kept/bad/*/*/input"))) == 7
