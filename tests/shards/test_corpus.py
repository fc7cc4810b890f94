"""Prepared corpora: their index, opened and checked."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from singleout.data.clips import Clip
from singleout.data.embeddings import EmbeddingTable
from singleout.errors import InputError, ManifestError, ModelError
from singleout.shards import Crops, check_corpus, open_corpus, write_corpus
from singleout.shards.arrays import Blocks, map_arrays, write_arrays
from singleout.shards.corpus import file_facts
from singleout.storage.locations import Location
from singleout.storage.tensors import read_safetensors
from tests.shards.corpora import (
    RATE,
    descriptions,
    noise,
    prepare,
    samples,
    write_shards,
)

CROPS = Crops("encoder-1", 1.0, 0.5)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven sounds with embeddings, in three shards."""
    return prepare(tmp_path_factory.mktemp("corpus"), 7, "wav", CROPS).path


@pytest.fixture
def copy(corpus_folder: Path, tmp_path: Path) -> Path:
    """A corpus that a test may damage."""
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def places(tmp_path: Path) -> list[str]:
    return [str(tmp_path / "corpus"), f"memory://{tmp_path.name}/corpus"]


@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_index_has_the_clips_of_the_shards(number: int, tmp_path: Path) -> None:
    rows = descriptions(number)
    for place in places(tmp_path):
        clips = open_corpus(str(prepare(Location(place), number))).clips
        assert len(clips) == number
        for i, clip in enumerate(clips):
            row, name = rows[i], f"{i:09d}.wav"
            assert clip.path == Path(place, "shards", f"{i // 3 * 3:016x}.tar", name)
            assert clip.captions == (row["caption"], *row["alternatives"])
            assert clip.seconds == row["seconds"]
            assert (clip.label, clip.has_class) == (row["class"] or name, row["class"] is not None)
            assert (clip.group, clip.split) == (row["group"] or name, row["split"])
            assert clip.member is not None
            assert clip.member.sample_rate == RATE
            content = Location(clip.member.shard).read(
                clip.member.offset, clip.member.offset + clip.member.size
            )
            assert content == samples(rows[i : i + 1])[0].audio or i
            assert content[-9:] == noise(i, row["seconds"]).tobytes()[-9:]


def test_a_corpus_may_be_moved(corpus_folder: Path, copy: Path) -> None:
    first, moved = open_corpus(corpus_folder), open_corpus(copy)
    assert moved.fingerprint == first.fingerprint
    assert moved.clips[0].path.is_relative_to(copy)


def test_columns_are_mapped_and_not_copied(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    for name, column in corpus.clips.columns.items():
        if column.size and not name.startswith(("root_name", "shard_name")):
            assert isinstance(column, np.memmap), name
    # Other libraries read the index, too.
    tensors, metadata = read_safetensors(corpus_folder / "index.safetensors")
    assert tensors["seconds"].tolist() == corpus.clips.seconds.tolist()
    assert metadata == {"format": "1"}


def _read(clips: Any, queue: Any) -> None:
    queue.put((type(clips), list(clips)))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_map_the_same_file(method: Any, corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    for clips in (corpus.split("train"), *([corpus.clips] if method == "fork" else [])):
        process = context.Process(target=_read, args=(clips, queue))
        process.start()
        kind, read = queue.get(timeout=60)
        process.join()
        assert read == list(clips)
        assert kind is type(clips)
    assert len(pickle.dumps(corpus.clips)) < 12_000


def test_the_embeddings_are_those_of_the_samples(tmp_path: Path) -> None:
    made = samples(descriptions(7), crops=3)
    for place in places(tmp_path):
        out = Location(place)
        write_corpus(out, write_shards(out, made), {}, CROPS)
        corpus = open_corpus(place)
        assert corpus.embeddings(Crops("another", 1.0, 0.5)) is None
        assert corpus.embeddings(Crops("encoder-1", 1.0, 0.25)) is None
        path = corpus.embeddings(CROPS)
        assert path is not None
        table = EmbeddingTable.open(path)
        for number, clip in enumerate(corpus.clips):
            expected = made[int(clip.path.stem)].embeddings
            assert expected is not None
            assert table.count(number) == len(expected)
            for crop in range(len(expected)):
                assert (table.of(number, crop).numpy() == expected[crop]).all()
        for split in ("train", "validation", "test"):
            clips = corpus.split(split)
            part = clips.embeddings(CROPS)
            assert part is not None
            for number, clip in enumerate(clips):
                whole = list(corpus.clips).index(clip)
                assert (part.of(number, 0) == table.of(whole, 0)).all()
        some = corpus.split("train").take(np.array([4, 1]))
        part = some.embeddings(CROPS)
        assert part is not None
        assert [part.count(i) for i in range(2)] == [3, 2]


def test_rows_are_revised_or_left_out(tmp_path: Path) -> None:
    out = Location(tmp_path)
    names = write_shards(out, samples(descriptions(7), crops=3))

    def revise(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["key"].endswith("2"):
            return None
        return {**row, "description": {**row["description"], "group": "all"}}

    write_corpus(out, names, {"a": 1}, CROPS, revise)
    corpus = open_corpus(tmp_path)
    assert {clip.group for clip in corpus.clips} == {"all"}
    assert len(corpus.clips) == 6
    assert corpus.settings == {"a": 1}
    table = corpus.embeddings(CROPS)
    assert table is not None
    assert len(EmbeddingTable.open(table).offsets) == 7
    report = (tmp_path / "report.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in report] == [0, 3, 6]


def test_the_files_of_a_corpus_have_the_same_bytes_again(tmp_path: Path) -> None:
    for place in ("a", "b"):
        prepare(tmp_path / place, crops=CROPS)
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "lost its tail: it has 112,639 bytes instead of 112,640: copy the corpus again"),
        (grow, "is another file now"),
        (Path.unlink, "no such shard"),
    ],
)
def test_a_damaged_shard_is_named_at_once(
    damage: Callable[[Path], None], message: str, copy: Path
) -> None:
    shard = min((copy / "shards").glob("*.tar"))
    damage(shard)
    with pytest.raises(InputError, match=message) as caught:
        open_corpus(copy)
    assert str(caught.value).startswith(str(shard))


def test_many_damaged_shards_are_counted(copy: Path) -> None:
    for path in (copy / "shards").glob("*.tar"):
        path.unlink()
    with pytest.raises(InputError, match="no such shard"):
        open_corpus(copy)
    shutil.rmtree(copy / "shards")
    with pytest.raises(InputError, match=r"0000\.tar: no such shard"):
        open_corpus(copy)


def test_a_check_reads_every_byte(copy: Path, tmp_path: Path) -> None:
    assert check_corpus(copy) == []
    shards = sorted((copy / "shards").glob("*.tar"))
    flip(shards[1])
    open_corpus(copy)  # which does not read the shards
    (line,) = check_corpus(copy)
    assert line.startswith(f"{shards[1]}: is damaged")
    flip(shards[1])
    for sidecar in (shards[1].with_suffix(".json"), shards[1].with_suffix(".npy")):
        flip(sidecar)
        (line,) = check_corpus(copy)
        assert line.startswith(f"{sidecar}: is damaged")
        flip(sidecar)
    cut(shards[0])
    shards[2].unlink()
    flip(copy / "embeddings-encoder-1.safetensors")
    flip(shards[1])
    lines = check_corpus(copy)
    assert [str(shard) in line for shard, line in zip(shards, lines[-3:], strict=True)] == [
        True
    ] * 3
    assert len(lines) == 4


@pytest.mark.parametrize("damage", [cut, grow, flip, Path.unlink])
@pytest.mark.parametrize("name", ["index.safetensors", "embeddings-encoder-1.safetensors"])
def test_a_damaged_index_is_refused(damage: Callable[[Path], None], name: str, copy: Path) -> None:
    damage(copy / name)
    with pytest.raises(InputError) as caught:
        open_corpus(copy).split("train").embeddings(CROPS)
    assert str(caught.value).startswith(str(copy / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b'{"format": 2}', b"\xff", b'{"format": 1, "index": {}}',
        b'{"format": 1, "index": {"size": 1, "sha256": "%s"}, "embeddings": 3, "shards": []}'
        % (b"0" * 64),
    ],
)  # fmt: skip
def test_a_damaged_description_is_refused(content: bytes, copy: Path) -> None:
    (copy / "corpus.json").write_bytes(content)
    with pytest.raises(InputError, match=r"corpus\.json: is damaged: .*copy the corpus again"):
        open_corpus(copy)


@pytest.mark.parametrize(
    ("key", "value"), [("sha256", "../../model"), ("sha256", None), ("size", -1), ("size", 1 << 63)]
)
def test_a_description_names_no_other_file_of_the_cache(
    key: str, value: object, tmp_path: Path
) -> None:
    """A checksum is the name of a file in the cache folder, which is removed if it is wrong."""
    victim = tmp_path / "model.safetensors"
    victim.touch()
    store = prepare(Location(f"memory://{tmp_path.name}/hostile"))
    content = json.loads((store / "corpus.json").read())
    content["index"][key] = value
    (store / "corpus.json").write(json.dumps(content).encode())
    with pytest.raises(InputError, match=r"corpus\.json: is damaged: a file has no"):
        open_corpus(str(store))
    assert victim.exists()


def test_an_unfinished_corpus_is_named(copy: Path) -> None:
    (copy / "corpus.json").unlink()
    with pytest.raises(InputError, match="singleout prepare writes last: run it to the end"):
        open_corpus(copy)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seconds", 0.0), ("seconds", float("nan")), ("offset", 1 << 62), ("offset", -1),
        ("size", 1 << 62), ("shard", -1), ("shard", 99), ("label", -2), ("caption_first", 99),
        ("path.offsets", -1), ("sample_rate", 0), ("num_samples", 0), ("split", 7),
        ("seconds", 1e9), ("caption_first", 0),
    ],
)  # fmt: skip
def test_impossible_columns_are_refused(column: str, value: float, copy: Path) -> None:
    """Also with the right checksum, as in a corpus of a stranger."""
    path = copy / "index.safetensors"
    array = map_arrays(path)[column]
    assert isinstance(array, np.memmap)
    changed = np.memmap(path, array.dtype, "r+", array.offset, array.shape)
    changed[1] = value
    changed.flush()
    content = json.loads((copy / "corpus.json").read_text())
    content["index"] = file_facts(path)
    (copy / "corpus.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.safetensors: is damaged") as caught:
        open_corpus(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("seconds", np.float64(1)),
        ("path.encoded", np.zeros(3)),
        ("label_name.encoded", np.zeros((1, 0), np.uint8)),
        ("caption.offsets", np.int64(0)),
    ],
)
def test_columns_of_other_shapes_are_refused(name: str, array: Any, copy: Path) -> None:
    path = copy / "index.safetensors"
    columns = {**map_arrays(path), name: np.asarray(array)}
    write_arrays(path, {name: Blocks.of(column) for name, column in columns.items()}, {})
    content = json.loads((copy / "corpus.json").read_text())
    content["index"] = file_facts(path)
    (copy / "corpus.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.safetensors: is damaged"):
        open_corpus(copy)


def test_a_remote_index_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(Location(f"memory://{tmp_path.name}/once"), crops=CROPS)
    assert open_corpus(str(store)).split("train").embeddings(CROPS) is not None
    cached = sorted((tmp_path / "cache" / "corpora").iterdir())
    assert len(cached) == 2

    def refuse(self: Location, file: Path) -> None:
        raise AssertionError(file)

    with monkeypatch.context() as patch:
        patch.setattr(Location, "fetch", refuse)
        open_corpus(str(store)).split("train").embeddings(CROPS)
    flip(cached[0])
    with pytest.raises(InputError, match="is damaged"):
        open_corpus(str(store)).split("train").embeddings(CROPS)
    assert open_corpus(str(store)).split("train").embeddings(CROPS) is not None  # fetched again


def test_splits_follow_the_rules_of_manifests(tmp_path: Path) -> None:
    rows = descriptions(6)
    rows[4]["group"] = rows[1]["group"]
    out = Location(tmp_path / "group")
    write_corpus(out, write_shards(out, samples(rows)), {})
    with pytest.raises(ManifestError, match=r"000000001\.wav \(train\) and 000000004\.wav"):
        open_corpus(tmp_path / "group").check_splits()
    rows = descriptions(2)
    rows[1]["split"] = "Val"
    out = Location(tmp_path / "name")
    write_corpus(out, write_shards(out, samples(rows)), {})
    with pytest.raises(ManifestError, match=r"'Val', which training .* call it 'validation'"):
        open_corpus(tmp_path / "name").check_splits()
    open_corpus(prepare(tmp_path / "good").path).check_splits()


def test_embeddings_that_fit_not_the_index_are_refused(tmp_path: Path) -> None:
    out = prepare(tmp_path / "a", 7, crops=CROPS)
    few = prepare(tmp_path / "b", 3, crops=CROPS)
    content, other = (json.loads((place / "corpus.json").read().decode()) for place in (out, few))
    content["embeddings"] = other["embeddings"]
    name = "embeddings-encoder-1.safetensors"
    shutil.copy(few.path / name, out.path / name)
    (out / "corpus.json").write(json.dumps(content).encode())
    with pytest.raises(ModelError, match="fits not its index"):
        open_corpus(out.path).split("train").embeddings(CROPS)


def test_clips_of_a_corpus_lose_their_captions_and_nothing_else(corpus_folder: Path) -> None:
    clips = open_corpus(corpus_folder).split("train")
    without = clips.without_captions()
    for clip, other in zip(clips, without, strict=True):
        assert isinstance(other, Clip)
        assert (other.caption, other.alternatives) == (None, ())
        assert (other.path, other.label, other.member) == (clip.path, clip.label, clip.member)
    assert without.digest() != clips.digest()
