"""A corpus has the same bytes, however and wherever it is prepared."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from singleout.engines import Engine, load_engine
from singleout.errors import ManifestError, OutputError
from singleout.prepare import PrepareConfig, prepare
from singleout.prepare.preparation import LOCK_NAME
from singleout.prepare.sounds import Sound, read_sound
from singleout.shards import check_corpus, open_corpus
from singleout.storage.locations import Location
from singleout.storage.lock import only_writer
from tests.cli.commands import file_size_limit
from tests.prepare.corpora import (
    RATE,
    contents,
    hashes,
    report_of,
    sound,
    write_manifest,
    write_sounds,
)

CONFIG = PrepareConfig(sample_rate=RATE, shard_clips=4, crop_seconds=0.5, crop_hop_seconds=0.25)


class Backwards(Engine):
    """Runs the last item first, each by a new worker, as if by many processes."""

    def run(
        self, make_worker: Callable[[], Any], items: Sequence[Any], lost: Any = None
    ) -> Iterator[Any]:
        for item in reversed(items):
            yield make_worker()(item)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of ten sounds with a manifest."""
    folder = tmp_path / "sounds"
    paths = write_sounds(folder, 10)
    rows: list[dict[str, Any]] = [
        {"path": path.name, "caption": f"sound {i}", "class": "noise/wind", "split": "train"}
        for i, path in enumerate(paths)
    ]
    rows[0]["split"] = "validation"
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def test_a_corpus_has_what_the_manifest_knows(sounds: Path, tmp_path: Path) -> None:
    summary = prepare(sounds / "manifest.jsonl", tmp_path / "out", CONFIG)
    assert (summary.clips, summary.shards, summary.made, summary.outcomes) == (10, 3, 3, {})
    corpus = open_corpus(tmp_path / "out")
    assert sorted(clip.caption or "" for clip in corpus.clips) == [f"sound {i}" for i in range(10)]
    assert {clip.label for clip in corpus.clips} == {"noise/wind"}
    assert check_corpus(tmp_path / "out") == []


def test_any_order_and_number_of_workers_gives_the_same_bytes(sounds: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"embed": "builtin"})
    prepare(sounds, tmp_path / "one", config)
    prepare(sounds, tmp_path / "other", config, Backwards())
    assert hashes(tmp_path / "one") == hashes(tmp_path / "other")


@pytest.mark.slow
def test_ray_gives_the_same_bytes(sounds: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"embed": "builtin", "min_purity": 0.1})
    prepare(sounds, tmp_path / "one", config)
    summary = prepare(sounds, tmp_path / "other", config, load_engine("ray"))
    assert summary.made == 3
    assert hashes(tmp_path / "one") == hashes(tmp_path / "other")


def test_a_second_run_makes_nothing_and_a_lost_shard_again(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(sounds, out, CONFIG)
    before = hashes(out)
    assert prepare(sounds, out, CONFIG).made == 0
    shard = next((out / "shards").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1_000])  # it lost its tail
    (out / "corpus.json").unlink()
    assert prepare(sounds, out, CONFIG).made == 1
    assert hashes(out) == before
    sidecar = shard.with_suffix(".json")
    sidecar.write_bytes(sidecar.read_bytes().replace(b"rms_db", b"rms-db"))
    assert prepare(sounds, out, CONFIG).made == 1
    assert hashes(out) == before


def test_a_changed_manifest_changes_the_shards_of_its_rows(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = sounds / "manifest.jsonl"
    prepare(manifest, out, CONFIG)
    before = set(hashes(out / "shards"))
    (out / "shards" / "mine.tar").touch()
    manifest.write_text(manifest.read_text().replace("sound 5", "rain"))
    summary = prepare(manifest, out, CONFIG)
    assert (summary.made, summary.removed) == (1, 1)
    assert len(before & set(hashes(out / "shards"))) == 4
    (out / "shards" / "mine.tar").unlink()  # was not removed
    prepare(manifest, tmp_path / "new", CONFIG)
    assert hashes(out) == hashes(tmp_path / "new")


def test_a_changed_sound_changes_its_shard(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(sounds, out, CONFIG)
    soundfile.write(sounds / "009.wav", sound(99), RATE)
    os.utime(sounds / "009.wav", ns=(1, 1))
    assert prepare(sounds, out, CONFIG).made == 1


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.utime(path, ns=(1, 1))])
def test_a_sound_that_changes_while_it_is_read_is_left_out(
    change: Callable[[Path], None], sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_change(path: Path, config: PrepareConfig) -> Sound:
        read = read_sound(path, config)
        if path.name == "005.wav":
            change(path)
        return read

    monkeypatch.setattr("singleout.prepare.shards.read_sound", read_and_change)
    assert prepare(sounds, tmp_path / "out", CONFIG).clips == 9
    (row,) = report_of(tmp_path / "out")
    assert (row["path"], row["outcome"]) == ("005.wav", "left out")
    assert row["reason"].startswith("changed while it was read")


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "is empty": lambda path: path.write_bytes(b""),
    "cannot be read as audio": lambda path: path.write_bytes(b"junk" * 500),
    "is silent": lambda path: soundfile.write(path, np.zeros(RATE), RATE),
    "has NaN or infinite samples": lambda path: soundfile.write(
        path, np.full(RATE, np.nan), RATE, subtype="FLOAT"
    ),
    "is a folder": lambda path: path.mkdir(),
    "no such file": lambda path: None,
    "is not a regular file": os.mkfifo,
}


def test_every_bad_input_is_a_row_of_the_report(sounds: Path, tmp_path: Path) -> None:
    rows = [{"path": "001.wav"}]
    for i, write in enumerate(BAD_FILES.values()):
        path = sounds / f"bad-{i}.wav"
        write(path)
        rows.append({"path": path.name})
    content = (sounds / "002.wav").read_bytes()
    (sounds / "cut.wav").write_bytes(content[: len(content) // 2])
    manifest = write_manifest(sounds / "bad.jsonl", [*rows, {"path": "cut.wav"}])
    summary = prepare(manifest, tmp_path / "out", CONFIG)
    assert summary.clips == 2
    assert summary.outcomes == {"kept": 1, "left out": len(BAD_FILES)}
    report = report_of(tmp_path / "out")
    for row, reason in zip(report, BAD_FILES, strict=False):
        assert row["outcome"] == "left out"
        assert row["reason"].startswith(reason), row
    assert report[-1]["path"] == "cut.wav"
    assert "is truncated" in report[-1]["reason"]


def test_duplicates_share_a_group_in_the_index(sounds: Path, tmp_path: Path) -> None:
    soundfile.write(sounds / "again.flac", 0.5 * sound(3), RATE)
    prepare(sounds, tmp_path / "out", CONFIG)
    groups = {clip.path.name: clip.group for clip in open_corpus(tmp_path / "out").clips}
    assert groups["000000004.flac"] == groups["000000011.flac"] == "003.wav"
    assert len(set(groups.values())) == 10
    drop = CONFIG.model_copy(update={"duplicates": "drop"})
    summary = prepare(sounds, tmp_path / "out", drop)
    assert (summary.made, summary.clips) == (0, 10), "shards do not depend on the treatment"


def test_sounds_that_are_not_pure_are_left_out(sounds: Path, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)
    soundfile.write(sounds / "two.wav", np.concatenate([tone, sound(1, 1.0)]), RATE)
    config = CONFIG.model_copy(update={"embed": "builtin"})
    prepare(sounds, tmp_path / "all", config)
    purities = {}
    for path in (tmp_path / "all" / "shards").glob("*.json"):
        for row in json.loads(path.read_text())["rows"]:
            purities[row["description"]["file"]] = row["description"]["statistics"]["purity"]
    assert min(purities, key=purities.__getitem__) == "two.wav"
    limit = sorted(purities.values())[1] - 1e-4
    prepare(sounds, tmp_path / "pure", config.model_copy(update={"min_purity": limit}))
    (row,) = report_of(tmp_path / "pure")
    assert (row["path"], row["outcome"]) == ("two.wav", "left out")
    assert row["reason"].startswith("is not pure")


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_store_gets_the_bytes_of_a_disk(
    kind: str, sounds: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prepare(sounds, tmp_path / "out", CONFIG)
    root = "memory:/" if kind == "memory" else request.getfixturevalue("s3_server")
    store = Location(f"{root}/{tmp_path.name}/out")
    prepare(sounds, str(store), CONFIG)
    assert contents(store) == contents(Location(tmp_path / "out"))
    assert prepare(sounds, str(store), CONFIG).made == 0
    assert check_corpus(str(store)) == []
    fewer = CONFIG.model_copy(update={"shard_clips": 5})
    assert prepare(sounds, str(store), fewer).removed == 3


def test_a_manifest_and_its_sounds_may_be_in_a_store(sounds: Path, tmp_path: Path) -> None:
    store = Location(f"memory://{tmp_path.name}/in")
    for path in sounds.iterdir():
        (store / path.name).put(path)
    summary = prepare(str(store / "manifest.jsonl"), tmp_path / "out", CONFIG)
    assert (summary.clips, summary.outcomes) == (10, {})
    places = [str(store / name) for name in ("003.wav", "none.wav")]
    manifest = write_manifest(tmp_path / "m.jsonl", [{"path": place} for place in places])
    summary = prepare(manifest, tmp_path / "out", CONFIG)
    assert summary.outcomes == {"left out": 1}
    assert report_of(tmp_path / "out")[0]["reason"] == "no such file"


def test_a_full_disk_leaves_nothing_half_written(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with file_size_limit(60_000), pytest.raises(OutputError) as caught:
        prepare(sounds, out, CONFIG.model_copy(update={"format": "wav"}))
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.tar*"))
    assert not (out / "corpus.json").exists()
    prepare(sounds, out, CONFIG.model_copy(update={"format": "wav"}))
    prepare(sounds, tmp_path / "whole", CONFIG.model_copy(update={"format": "wav"}))
    assert hashes(out) == hashes(tmp_path / "whole")


def test_two_preparations_do_not_write_to_one_folder(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        only_writer(out, LOCK_NAME, "preparation"),
        pytest.raises(OutputError, match="another preparation"),
    ):
        prepare(sounds, out, CONFIG)
    prepare(sounds, out, CONFIG)


def test_nothing_to_prepare_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds no sounds"):
        prepare(tmp_path / "empty", tmp_path / "out", CONFIG)
    with pytest.raises(ManifestError, match="cannot be read as a manifest"):
        prepare(tmp_path / "none.jsonl", tmp_path / "out", CONFIG)
    write_manifest(tmp_path / "m.jsonl", [{"path": "none.wav"}])
    for embed in (None, "builtin"):
        config = CONFIG.model_copy(update={"embed": embed})
        assert prepare(tmp_path / "m.jsonl", tmp_path / "out", config).clips == 0


def test_descriptions_keep_what_the_manifest_knows(sounds: Path, tmp_path: Path) -> None:
    row = {"path": "001.wav", "caption": " ", "alternatives": ["rain", "\t"], "licence": "CC0",
           "origin": {"package": "sounds"}, "group": "", "rating": float("nan"),
           "likes": 0}  # fmt: skip
    prepare(write_manifest(sounds / "m.jsonl", [row]), tmp_path / "out", CONFIG)
    (sidecar,) = (tmp_path / "out" / "shards").glob("*.json")
    (described,) = json.loads(sidecar.read_text())["rows"]
    description = described["description"]
    assert description.pop("statistics")["source_rate"] == RATE
    assert description == {
        "alternatives": ["rain"], "licence": "CC0", "origin": {"package": "sounds"},
        "file": "001.wav", "seconds": 1.5, "likes": 0,
    }  # fmt: skip
    (clip,) = open_corpus(tmp_path / "out").clips
    assert (clip.caption, clip.captions) == (None, ("rain",))


def test_a_file_of_two_splits_is_refused_as_in_a_manifest(sounds: Path, tmp_path: Path) -> None:
    rows = [{"path": "001.wav"}, {"path": "001.wav", "split": "test"}, {"path": "2.wav"}]
    config = CONFIG.model_copy(update={"duplicates": "keep"})
    manifest = write_manifest(sounds / "m.jsonl", rows)
    prepare(manifest, tmp_path / "out", config)
    with pytest.raises(ManifestError, match=r"000000001\.flac \(train\) and 000000002\.flac"):
        open_corpus(tmp_path / "out").check_splits()
    write_manifest(manifest, [{"path": "001.wav", "split": ""}])
    prepare(manifest, tmp_path / "out", config)
    assert len(open_corpus(tmp_path / "out").split("train")) == 0
    assert open_corpus(tmp_path / "out").clips[0].split == ""


COMMAND = "import sys; from singleout.cli import main; main()"


@pytest.mark.slow
def test_kills_lose_nothing(sounds: Path, tmp_path: Path) -> None:
    arguments = ["prepare", str(sounds), "--shard-clips", "2", "--embed", "builtin", "-o"]
    command = [sys.executable, "-c", COMMAND, *arguments]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    generator = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(generator.uniform(1.0, 6.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
