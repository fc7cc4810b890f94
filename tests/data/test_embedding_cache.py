"""The cache of embeddings: what it keeps, what it refuses, and several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sqlite3
import struct
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from singleout.data import embedding_cache
from singleout.data.clips import Clip
from singleout.data.embedding_cache import BATCH, CropKey, EmbeddingCache
from singleout.data.embeddings import embeddings_of, given_embeddings
from singleout.errors import ModelError
from tests.data.encoders import (
    CROPS,
    MANY_CROPS,
    CountingEncoder,
    KilledEncoder,
    UnusedEncoder,
    assert_refused,
    count_crops,
    fill_cache,
)

SECONDS = st.floats(0, 1e5, allow_subnormal=True)


@settings(deadline=None, max_examples=15)
@given(
    keys=st.lists(
        st.builds(CropKey, st.binary(min_size=32, max_size=32), SECONDS, SECONDS),
        unique=True,
        min_size=2,
    ),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3),
)
def test_rows_are_read_exactly_as_they_were_written(
    keys: list[CropKey], values: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "c.sqlite"
    dim = len(values)
    rows = [torch.tensor(values).roll(i) for i in range(len(keys))]
    with EmbeddingCache(path, "f", dim) as cache:
        for key, row in zip(keys[1:], rows[1:], strict=True):
            cache.put(key, row)
            cache.put(key, torch.zeros(dim))  # the first row stays
    with EmbeddingCache(path, "f", dim) as cache:
        assert cache.get(keys[0]) is None
        for key in keys[1:]:
            cache.put(key, torch.zeros(dim))
        cache.flush()
        for key, row in zip(keys[1:], rows[1:], strict=True):
            stored = cache.get(key)
            assert stored is not None
            assert torch.equal(stored, row)


@pytest.mark.parametrize("row", [torch.zeros(5), torch.zeros(2, 6), torch.full((6,), torch.nan)])
def test_an_impossible_embedding_is_not_kept(row: Tensor, cache_path: Path) -> None:
    key = CropKey(bytes(32), 0.0, 1.0)
    with EmbeddingCache(cache_path, "f", 6) as file:
        with pytest.raises(ModelError, match=r"not 6 finite numbers: it is not kept") as caught:
            file.put(key, row)
        assert file.get(key) is None
    assert str(cache_path) in str(caught.value)


def test_an_encoder_without_fingerprint_is_refused(
    three_clips: list[Clip], cache_path: Path
) -> None:
    assert_refused(
        lambda: embeddings_of(three_clips, CROPS, UnusedEncoder(""), cache_path),
        cache_path,
        "no fingerprint",
    )
    assert not cache_path.parent.exists()


def test_a_file_of_another_encoder_is_refused(three_clips: list[Clip], filled_cache: Path) -> None:
    before = filled_cache.read_bytes()
    for fingerprint, dim in (("encoder-2", 6), ("encoder-1", 7)):
        encoder = UnusedEncoder(fingerprint, dim)
        for call in (
            lambda encoder=encoder: embeddings_of(three_clips, CROPS, encoder, filled_cache),
            lambda fingerprint=fingerprint, dim=dim: given_embeddings(
                three_clips, CROPS, fingerprint, dim, filled_cache
            ),
        ):
            assert_refused(
                call, filled_cache, "encoder-1 (dim 6)", f"{fingerprint} (dim {dim})", "delete"
            )
    assert filled_cache.read_bytes() == before


def assert_never_opened(path: Path, *parts: str) -> None:
    """Neither for reading nor for writing; the file does not change."""
    before = path.read_bytes()
    for read_only in (False, True):
        call = lambda ro=read_only: EmbeddingCache(path, "encoder-1", 6, ro)  # noqa: E731
        assert_refused(call, path, *parts)
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A cache of many pages."""
    path = tmp_path_factory.mktemp("large") / "c.sqlite"
    with EmbeddingCache(path, "encoder-1", 6) as cache:
        for i in range(300):
            cache.put(CropKey(i.to_bytes(32), 0.0, 1.0), torch.full((6,), i / 300))
    return path.read_bytes()


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(
    share: float, large: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.sqlite"
    size = 2 + int(share * (len(large) - 2))  # up to one byte is an empty file to SQLite
    path.write_bytes(large[:size])
    assert_never_opened(path, "damaged", "delete it")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"nonsense" * 1000)
    assert_never_opened(path, "not a cache of embeddings", "delete it")
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE encoder (fingerprint, dim)")
    other.close()
    assert_never_opened(path, "a file of another program")


def test_a_damaged_schema_is_refused(filled_cache: Path) -> None:
    """SQLite quotes the schema in its message, which is not valid text here."""
    filled_cache.write_bytes(filled_cache.read_bytes().replace(b"TABLE crops", b"TABLE cr\xffps"))
    assert_never_opened(filled_cache, "damaged", "delete it")


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("PRAGMA user_version = 7", "another version of singleout (schema 7, this version has 1)"),
        ("DELETE FROM encoder", "holds embeddings of the encoder none"),
        ("UPDATE encoder SET dim = 'six'", "(dim six)"),
    ],
)
def test_a_tampered_file_is_refused(statement: str, part: str, filled_cache: Path) -> None:
    database = sqlite3.connect(filled_cache, isolation_level=None)
    database.execute(statement)
    database.close()
    assert_never_opened(filled_cache, part, "delete")


def change_rows(path: Path, change: Callable[[bytes], object]) -> None:
    """Change the embeddings in a cache, as damage would."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT rowid, embedding FROM crops").fetchall()
        changed = [(change(blob), number) for number, blob in rows]
        database.executemany("UPDATE crops SET embedding = ? WHERE rowid = ?", changed)
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: b"",
        lambda blob: b"1234567",
        lambda blob: None,
        lambda blob: "text",
        lambda blob: bytes([blob[0] ^ 1]) + blob[1:],  # of a number
        lambda blob: blob[:-1] + bytes([blob[-1] ^ 0x80]),  # of the digest
        lambda blob: blob[4:],
        lambda blob: bytes(len(blob)),
        lambda blob: struct.pack("<6f", 0, 0, torch.nan, 0, 0, 0),
    ],
)
def test_a_damaged_row_is_made_again(
    change: Callable[[bytes], object], three_clips: list[Clip], filled_cache: Path
) -> None:
    table = embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)
    change_rows(filled_cache, change)
    with pytest.raises(ModelError, match="lacks crop 0"):
        given_embeddings(three_clips, CROPS, "encoder-1", 6, filled_cache)
    encoder = CountingEncoder()
    again = embeddings_of(three_clips, CROPS, encoder, filled_cache)
    assert encoder.calls == len(table.embeddings)
    assert torch.equal(again.embeddings, table.embeddings)
    embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)


def test_every_flipped_bit_of_a_row_is_noticed(cache_path: Path) -> None:
    key, row = CropKey(bytes(32), 1.5, 4.0), torch.tensor([0.6, -0.8])
    with EmbeddingCache(cache_path, "f", 2) as file:
        file.put(key, row)
    with sqlite3.connect(cache_path) as database:
        database.execute("PRAGMA synchronous = OFF")
        ((whole,),) = database.execute("SELECT embedding FROM crops").fetchall()
        for bit in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            database.execute("UPDATE crops SET embedding = ?", (bytes(changed),))
            database.commit()
            with EmbeddingCache(cache_path, "f", 2, read_only=True) as file:
                assert file.get(key) is None
        # The row of another crop: damage of the key, or of SQLite's index.
        database.execute("UPDATE crops SET embedding = ?, start = 3.0", (whole,))
        database.commit()
        with EmbeddingCache(cache_path, "f", 2) as file:
            assert file.get(key) is None
            assert file.get(key._replace(start=3.0)) is None
    database.close()


def test_rows_without_a_digest_are_taken(three_clips: list[Clip], filled_cache: Path) -> None:
    """Caches of earlier versions stay usable."""
    table = embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)
    change_rows(filled_cache, lambda blob: blob[:24])
    again = embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)
    assert torch.equal(again.embeddings, table.embeddings)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_anywhere_gives_no_wrong_embedding(
    data: st.DataObject, large: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "c.sqlite"
    changed = bytearray(large)
    changed[data.draw(st.integers(0, len(large) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    number, refusal = data.draw(st.integers(0, 299)), ""
    try:
        with EmbeddingCache(path, "encoder-1", 6) as cache:
            for i in {number, 0, 299}:
                row = cache.get(CropKey(i.to_bytes(32), 0.0, 1.0))
                assert row is None or torch.equal(row, torch.full((6,), i / 300))
    except ModelError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith(str(path))
    assert "\n" not in refusal


def test_an_empty_file_is_a_new_cache(three_clips: list[Clip], cache_path: Path) -> None:
    """SQLite leaves an empty file if a process is killed at its very start."""
    cache_path.parent.mkdir()
    cache_path.touch()
    assert_refused(
        lambda: EmbeddingCache(cache_path, "f", 6, read_only=True), cache_path, "not a cache"
    )
    embeddings_of(three_clips, CROPS, CountingEncoder(), cache_path)
    embeddings_of(three_clips, CROPS, UnusedEncoder(), cache_path)


def test_an_unusable_path_is_refused(three_clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file" / "c.sqlite", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert_refused(
            partial(embeddings_of, three_clips, CROPS, UnusedEncoder(), path),
            path,
            "cannot be used",
            "SINGLEOUT_CACHE",
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_complete_cache_may_be_read_only(three_clips: list[Clip], filled_cache: Path) -> None:
    filled_cache.chmod(0o400)
    filled_cache.parent.chmod(0o500)
    try:
        embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)  # nothing is written
        path = filled_cache.with_name("new.sqlite")
        assert_refused(
            lambda: embeddings_of(three_clips, CROPS, UnusedEncoder(), path), path, "cannot be used"
        )
    finally:
        filled_cache.parent.chmod(0o700)


def test_a_locked_file_is_refused_in_one_line(
    three_clips: list[Clip], filled_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "BUSY_SECONDS", 0.01)
    key = CropKey(bytes(32), 0.0, 1.0)
    other = sqlite3.connect(filled_cache, isolation_level=None)
    file = EmbeddingCache(filled_cache, "encoder-1", 6)
    file.put(key, torch.ones(6))
    other.execute("BEGIN EXCLUSIVE")
    for call in (
        lambda: embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache),
        lambda: file.get(CropKey(bytes(32), 1.0, 1.0)),
        lambda: file.__exit__(None, None, None),
    ):
        assert_refused(call, filled_cache, "locked", "which other program has it open")
    other.close()
    with EmbeddingCache(filled_cache, "encoder-1", 6) as file:
        assert file.get(key) is None
    embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)


def test_a_full_disk_is_refused_in_one_line(three_clips: list[Clip], cache_path: Path) -> None:
    """A file that must not grow looks like a full disk to SQLite."""
    embeddings_of(three_clips[:2], CROPS, CountingEncoder(dim=4_000), cache_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache_path.stat().st_size, hard))
    try:
        assert_refused(
            lambda: embeddings_of(three_clips, CROPS, CountingEncoder(dim=4_000), cache_path),
            cache_path,
            "cannot be used",
            "space on its disk",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    encoder = CountingEncoder(dim=4_000)
    embeddings_of(three_clips, CROPS, encoder, cache_path)
    assert encoder.calls == 5  # a batch is written whole or not at all


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Starts processes. They share one import of torch, which takes most of their time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.data.encoders"])
    return context


def test_processes_fill_one_file_at_once(
    server: ForkServerContext, three_clips: list[Clip], three_sounds: Path, cache_path: Path
) -> None:
    barrier = server.Barrier(2)
    processes = [
        server.Process(
            target=fill_cache, args=(three_sounds, cache_path, barrier, CountingEncoder())
        )
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    embeddings_of(three_clips, MANY_CROPS, UnusedEncoder(), cache_path)
    with sqlite3.connect(cache_path) as database:
        assert database.execute("SELECT count(*) FROM crops").fetchone() == (
            count_crops(three_clips, MANY_CROPS),
        )
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert [path.name for path in cache_path.parent.iterdir()] == [cache_path.name]


def test_a_killed_run_keeps_its_batches(
    server: ForkServerContext, three_clips: list[Clip], three_sounds: Path, cache_path: Path
) -> None:
    process = server.Process(
        target=fill_cache, args=(three_sounds, cache_path, None, KilledEncoder())
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    encoder = CountingEncoder()
    embeddings_of(three_clips, MANY_CROPS, encoder, cache_path)
    missing = count_crops(three_clips, MANY_CROPS) - BATCH
    assert missing <= encoder.calls <= missing + 3  # digests of the files count as rows of a batch
