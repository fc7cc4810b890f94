"""Other people's shards."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from singleout.data.clips import Clip
from singleout.data.sound_files import open_clip
from singleout.errors import InputError, ManifestError
from singleout.shards import index_shards, open_corpus
from singleout.storage.locations import Location
from tests.shards.corpora import RATE, encoded, noise, write_tar

SOUND = encoded(noise(0, 0.5), "wav")


def indexed(tmp_path: Path, members: Mapping[str, bytes], **changes: Any) -> list[Clip]:
    """Clips of one shard with these members."""
    path = write_tar(tmp_path / "foreign" / "0.tar", members)
    index_shards([str(path)], Location(tmp_path / "corpus"), **changes)
    return list(open_corpus(tmp_path / "corpus").clips)


def report(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "corpus" / "report.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def as_json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def facts(clip: Clip) -> tuple[Any, ...]:
    return clip.captions, clip.label if clip.has_class else None, clip.split


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        ("txt", b"rain falls\n", (("rain falls",), None, "train")),
        ("cls", b"3", ((), "3", "train")),
        ("json", as_json(caption="rain", label="water/rain"), (("rain",), "water/rain", "train")),
        ("json", as_json(text=["a", "b", "a"], split="test"), (("a", "b"), None, "test")),
        ("json", as_json(captions="a", alternatives=["b", ""]), (("a", "b"), None, "train")),
        ("json", as_json(caption=3, label=None, split=[]), ((), None, "train")),
        ("json", b"[1]", ((), None, "train")),
    ],
)
def test_descriptions_of_webdataset(
    suffix: str, content: bytes, expected: Any, tmp_path: Path
) -> None:
    (clip,) = indexed(tmp_path, {f"dogs/7.{suffix}": content, "dogs/7.wav": SOUND})
    assert facts(clip) == expected
    assert clip.path == tmp_path / "foreign" / "0.tar" / "dogs" / "7.wav"
    assert clip.seconds == 0.5


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_sounds_of_every_format_are_read(kind: str, tmp_path: Path) -> None:
    audio = noise(1, 1.0)
    file = io.BytesIO()
    subtype = None if kind != "wav" else "FLOAT"
    soundfile.write(file, audio, RATE, format=kind.upper(), subtype=subtype)
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    (clip,) = indexed(tmp_path, {"1.txt": b"noise", f"1.{kind}": file.getvalue(), "1.npy": b""})
    assert clip.member is not None
    assert clip.member.num_samples == len(expected)
    with open_clip(clip) as sound:
        assert (sound.read(-1, "float32", always_2d=True) == expected).all()


def test_several_sounds_of_a_sample_are_of_one_group(tmp_path: Path) -> None:
    members = {f"7.{kind}.wav": SOUND for kind in ("dry", "wet")}
    members |= {"7.wet.txt": b"in a hall", "7.json": as_json(**{"class": "a"})}
    dry, wet = indexed(tmp_path, members, split="validation")
    assert facts(dry) == ((), "a", "validation")
    assert facts(wet) == (("in a hall",), "a", "validation")
    assert dry.group == wet.group


def test_names_that_two_shards_share_are_no_class_and_no_group(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / name / "0.tar", {"7.wav": SOUND}) for name in "ab"]
    twice = [str(path) for path in (*paths, *paths)]
    assert index_shards(twice, Location(tmp_path / "corpus")) == 2
    first, second = open_corpus(tmp_path / "corpus").clips
    assert first.label != second.label
    assert first.group != second.group


def test_hive_as_its_script_writes_it(tmp_path: Path) -> None:
    """The members and the JSON of ``mix_from_metadata.py`` of github.com/ShandaAI/Hive."""
    document = {
        "mix_id": "39",
        "num_sources": 2,
        "dataset_info": {"split": "validation", "sample_rate": RATE, "target_duration": 0.5},
        "sources": [
            {"source_id": "s1", "path": "AudioSet/pig.wav", "label": "Pig", "snr_db": 0.0},
            {"source_id": "s2", "path": "BBC/boat.wav", "label": "Boat, Water vehicle"},
        ],
    }
    names = ("39.mix.wav", "39.s1.wav", "39.s2.wav")
    pig, boat = indexed(tmp_path, {**dict.fromkeys(names, SOUND), "39.json": as_json(**document)})
    assert (pig.label, pig.group, pig.split) == ("Pig", "AudioSet/pig.wav", "validation")
    assert (boat.label, boat.group) == ("Boat, Water vehicle", "BBC/boat.wav")
    assert boat.captions == ("Boat, Water vehicle",)
    labels = as_json(mix_id=39, speaker_num=2, labels=["Pig", "Boat"])
    pig, boat = indexed(tmp_path, {**dict.fromkeys(names, SOUND), "39.json": labels})
    assert (pig.label, boat.label) == ("Pig", "Boat")


def test_lhotse_shar_recordings(tmp_path: Path) -> None:
    """A field of lhotse: the audio before its JSON, and keys with dots."""
    manifest = as_json(id="rec-1.0", sampling_rate=RATE, num_samples=16_000, duration=0.5)
    members = {"rec-1.0.flac": encoded(noise(0, 0.5), "flac"), "rec-1.0.json": manifest}
    (clip,) = indexed(tmp_path, members)
    assert facts(clip) == ((), None, "train")
    placeholders = {"rec-2.nodata": b"", "rec-2.nometa": b"", **members}
    assert len(indexed(tmp_path, placeholders)) == 1


def test_bad_sounds_and_texts_are_rows_of_the_report(tmp_path: Path) -> None:
    members = {
        "1.wav": b"no sound", "2.wav": SOUND, "2.json": b"{", "3.wav": SOUND, "3.txt": b"\xff",
        "4.wav": SOUND, "4.txt": b"a" * 20_000, "5.wav": SOUND,
        "6.flac": encoded(noise(0, 0), "flac"), "7.wav": b"", "8.wav": SOUND,
        "8.txt": b"a" * 1_000_001, "9.wav": SOUND, "9.json": b'{"class": "\\ud800"}',
        "a.wav": SOUND[:24] + b"\xff" * 4 + SOUND[28:],
    }  # fmt: skip
    (clip,) = indexed(tmp_path, members)
    assert clip.path.name == "5.wav"
    rows = report(tmp_path)
    names = ["1.wav", "2.wav", "3.wav", "4.wav", "6.flac", "7.wav", "8.wav", "9.wav", "a.wav"]
    assert [row["member"] for row in rows] == names
    assert all(row["shard"].endswith("0.tar") and "\n" not in row["reason"] for row in rows)
    assert rows[-1]["reason"] == ("a.wav: its header states an impossible rate: 4,294,967,295 Hz")


def test_shards_of_an_address_are_indexed_and_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"7.txt": b"noise", "7.wav": SOUND})
    store = Location(f"memory://{tmp_path.name}/0.tar")
    store.put(path)
    index_shards([str(store)], Location(tmp_path / "corpus"))
    (clip,) = open_corpus(tmp_path / "corpus").clips
    with open_clip(clip) as sound:
        sound.seek(100)
        part = sound.read(50, "float32", always_2d=True)
    assert (part[:, 0] == noise(0, 0.5)[100:150] / np.float32(32_768)).all()
    store.write(store.read()[:-1])
    with pytest.raises(InputError, match="lost its tail"):
        open_corpus(tmp_path / "corpus")


def test_a_store_that_fails_once_leaves_no_sound_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Location(f"memory://{tmp_path.name}/0.tar")
    store.put(write_tar(tmp_path / "0.tar", {"7.wav": SOUND, "8.wav": SOUND}))
    reads = iter([None, ConnectionError("the network is down")])
    remote = type(store._remote[0])
    cat_file = remote.cat_file

    def fail_once(self: Any, *arguments: Any, **options: Any) -> Any:
        if (error := next(reads, None)) is not None:
            raise error
        return cat_file(self, *arguments, **options)

    monkeypatch.setattr(remote, "cat_file", fail_once)
    with pytest.raises(InputError, match=r"0\.tar: the network is down"):
        index_shards([str(store)], Location(tmp_path / "corpus"))
    assert not (tmp_path / "corpus").exists()
    assert index_shards([str(store)], Location(tmp_path / "corpus")) == 2


def test_shards_without_sounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no shard has a sound: a sound is a file such as"):
        indexed(tmp_path, {"7.txt": b"noise"})
    with pytest.raises(InputError, match="no such file"):
        index_shards([str(tmp_path / "missing.tar")], Location(tmp_path / "corpus"))
    assert not (tmp_path / "corpus" / "corpus.json").exists()
