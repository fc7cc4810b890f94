"""``singleout index``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from singleout.shards import open_corpus
from tests.cli.commands import check_refused, run
from tests.shards.corpora import encoded, noise, write_tar


def shards(tmp_path: Path) -> str:
    sound = encoded(noise(0, 0.5), "wav")
    write_tar(tmp_path / "foreign" / "0.tar", {"7.txt": b"rain", "7.wav": sound, "8.wav": b"no"})
    write_tar(tmp_path / "foreign" / "1.tar", {"7.wav": sound})
    return f"{tmp_path}/foreign/{{0..1}}.tar"


def test_the_counts_are_printed(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    result = run("index", shards(tmp_path), "-o", out, "--split", "validation")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{out}: 2 sounds (0.0003 hours) in 2 shards",
        f"left out 1: see {out / 'report.jsonl'}",
    ]
    assert [clip.split for clip in open_corpus(out).clips] == ["validation"] * 2
    result = run("index", tmp_path / "foreign", "-o", out, "--json")
    assert json.loads(result.stdout) == {"clips": 2, "hours": 0.0003, "shards": 2, "left_out": 1}


def test_shards_that_do_not_exist_or_are_damaged_are_refused(tmp_path: Path) -> None:
    pattern = shards(tmp_path)
    out = tmp_path / "corpus"
    check_refused(run("index", tmp_path / "*.tar", "-o", out), "no such shards")
    check_refused(run("index", tmp_path / "2.tar", "-o", out), "no such file")
    shard = tmp_path / "foreign" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    check_refused(run("index", pattern, "-o", out), "lost its tail")
    assert not (out / "corpus.json").exists()
