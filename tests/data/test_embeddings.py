"""Tables of embeddings and the cache they come from, with a small encoder that counts its work."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recipes.builtin.alignment import Split, fit
from recipes.builtin.embed import keep
from singleout.data import embeddings
from singleout.data.embeddings import (
    BATCH,
    CropKey,
    EmbeddingCache,
    EmbeddingTable,
    build_table,
    default_cache,
    embeddings_of,
    given_embeddings,
)
from singleout.data.manifest import Clip, scan_folder
from singleout.data.plan import MixtureConfig, num_crops
from singleout.data.render import read_crop
from singleout.encoders import BuiltinEncoder
from singleout.encoders.builtin import BuiltinNetwork
from singleout.errors import AudioError, ModelError
from tests.conftest import tiny_tokenizer

RATE = 8_000
SHORT = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.25)


class CountingEncoder:
    """A query encoder: another unit vector for every audio, always the same for the same."""

    name = "listener"

    def __init__(self, fingerprint: str = "listener-1", dim: int = 6) -> None:
        self.fingerprint, self.dim, self.calls = fingerprint, dim, 0

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        raise NotImplementedError

    def embed_audio(
        self, audio: NDArray[np.float32] | Tensor, sample_rate: int, augment: object = None
    ) -> Tensor:
        self.calls += 1
        seed = zlib.crc32(np.asarray(audio).tobytes())
        return F.normalize(torch.randn(1, self.dim, generator=torch.Generator().manual_seed(seed)))


class Deaf(CountingEncoder):
    """Whoever asks it has lost what was cached."""

    def embed_audio(
        self, audio: NDArray[np.float32] | Tensor, sample_rate: int, augment: object = None
    ) -> Tensor:
        raise AssertionError("embedded again")


class Killed(CountingEncoder):
    """Its process is killed at the crop after a batch and a bit."""

    def embed_audio(
        self, audio: NDArray[np.float32] | Tensor, sample_rate: int, augment: object = None
    ) -> Tensor:
        if self.calls == BATCH + 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_audio(audio, sample_rate)


class Meddler(CountingEncoder):
    """Calls ``meddle`` while it listens."""

    meddle: Callable[[], None]

    def embed_audio(
        self, audio: NDArray[np.float32] | Tensor, sample_rate: int, augment: object = None
    ) -> Tensor:
        self.meddle()
        return super().embed_audio(audio, sample_rate)


def write_noise(path: Path, seed: int, seconds: float) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, round(RATE * seconds))
    soundfile.write(path, noise, RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three noises of 0.3, 0.8 and 1.3 s: 1, 3 and 5 crops."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(3):
        write_noise(folder / f"{i}.wav", i, 0.3 + 0.5 * i)
    return folder


@pytest.fixture
def clips(folder: Path) -> list[Clip]:
    return scan_folder(folder)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where nothing is yet, not even the folder."""
    return tmp_path / "cache" / "c.sqlite"


@pytest.fixture
def filled(clips: list[Clip], cache: Path) -> Path:
    embeddings_of(clips, SHORT, CountingEncoder(), cache)
    return cache


def count_of(clips: list[Clip], config: MixtureConfig = SHORT) -> int:
    return sum(num_crops(clip, config) for clip in clips)


def refused(call: Callable[[], object], path: Path, *parts: str) -> None:
    """``call`` fails with one line that starts with ``path`` and holds the ``parts``."""
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


# Tables.


def test_a_table_finds_every_crop(clips: list[Clip]) -> None:
    table = build_table(clips, SHORT, lambda clip, crop: torch.tensor([clip, crop]))
    assert table.embeddings.dtype == torch.float32
    for i, clip in enumerate(clips):
        assert table.count(i) == num_crops(clip, SHORT)
        for crop in range(num_crops(clip, SHORT)):
            assert table.of(i, crop).tolist() == [i, crop]


# What is found again.


def test_an_encoder_embeds_every_crop_once(
    clips: list[Clip], debug_encoder: BuiltinEncoder, cache: Path
) -> None:
    table = embeddings_of(clips, SHORT, debug_encoder, cache)
    expected = debug_encoder.embed_audio(read_crop(clips[2], 3, SHORT, 32_000), 32_000)[0]
    torch.testing.assert_close(table.of(2, 3), expected)
    torch.testing.assert_close(table.embeddings.norm(dim=-1), torch.ones(count_of(clips)))

    encoder = CountingEncoder()
    other = cache.with_name("other.sqlite")
    table = embeddings_of(clips, SHORT, encoder, other)
    assert encoder.calls == count_of(clips) == 9
    again = embeddings_of(clips[::-1], SHORT, Deaf(), other)
    for i, clip in enumerate(clips):
        for crop in range(num_crops(clip, SHORT)):
            assert torch.equal(again.of(2 - i, crop), table.of(i, crop))


def test_the_default_place(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "mine"))
    embeddings_of(clips, SHORT, CountingEncoder("a/b:1"))
    assert [path.name for path in (tmp_path / "mine" / "embeddings").iterdir()] == [
        "a%2Fb%3A1.sqlite"
    ]
    embeddings_of(clips, SHORT, Deaf("a/b:1"))
    monkeypatch.setenv("SINGLEOUT_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache("x") == tmp_path / ".cache" / "singleout" / "embeddings" / "x.sqlite"


def test_a_sound_under_two_paths_is_embedded_once(
    clips: list[Clip], folder: Path, cache: Path
) -> None:
    shutil.copy(clips[2].path, folder / "same.wav")
    both = scan_folder(folder)
    encoder = CountingEncoder()
    table = embeddings_of(both, SHORT, encoder, cache)
    assert encoder.calls == count_of(clips)
    for crop in range(5):
        assert torch.equal(table.of(2, crop), table.of(3, crop))
    moved = folder.rename(folder.with_name("moved"))
    embeddings_of(scan_folder(moved), SHORT, Deaf(), cache)


@pytest.mark.parametrize("seconds", [0.3, 0.4])
def test_a_changed_file_is_embedded_anew(
    seconds: float, clips: list[Clip], folder: Path, filled: Path
) -> None:
    path = clips[0].path
    before = embeddings_of(clips, SHORT, Deaf(), filled)
    found = path.stat()
    write_noise(path, 99, seconds)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    encoder = CountingEncoder()
    after = embeddings_of(scan_folder(folder), SHORT, encoder, filled)
    assert encoder.calls == 1
    assert not torch.equal(after.of(0, 0), before.of(0, 0))
    assert torch.equal(after.embeddings[1:], before.embeddings[1:])


def test_a_touched_file_is_known_by_its_content(clips: list[Clip], filled: Path) -> None:
    os.utime(clips[0].path, ns=(0, 0))
    embeddings_of(clips, SHORT, Deaf(), filled)


def test_a_file_is_hashed_once(clips: list[Clip], filled: Path) -> None:
    """A swap of which neither size nor time tells goes unnoticed: nobody read the file."""
    path = clips[0].path
    found = path.stat()
    write_noise(path, 99, 0.3)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    embeddings_of(clips, SHORT, Deaf(), filled)


def test_a_file_that_changes_meanwhile_is_not_kept(clips: list[Clip], cache: Path) -> None:
    path = clips[0].path
    original = path.read_bytes()
    meddler = Meddler()
    meddler.meddle = lambda: write_noise(path, 99, 0.4)
    with pytest.raises(AudioError, match="changed while it was read"):
        embeddings_of(clips, SHORT, meddler, cache)
    path.write_bytes(original)
    encoder = CountingEncoder()
    embeddings_of(clips, SHORT, encoder, cache)
    assert encoder.calls == count_of(clips)


def test_other_crops_are_other_rows(clips: list[Clip], filled: Path) -> None:
    long = SHORT.model_copy(update={"segment_seconds": 0.6})
    sparse = SHORT.model_copy(update={"crop_hop_seconds": 0.5})
    encoder = CountingEncoder()
    embeddings_of(clips, long, encoder, filled)
    assert encoder.calls == count_of(clips, long)
    table = embeddings_of(clips, sparse, Deaf(), filled)  # every other of the crops that exist
    assert torch.equal(table.of(2, 1), embeddings_of(clips, SHORT, Deaf(), filled).of(2, 2))
    embeddings_of(clips, long, Deaf(), filled)


SECONDS = st.floats(0, 1e5, allow_subnormal=True)


@settings(deadline=None, max_examples=40)
@given(
    keys=st.lists(
        st.builds(CropKey, st.binary(min_size=32, max_size=32), SECONDS, SECONDS),
        unique=True,
        min_size=2,
    ),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3),
)
def test_exactly_what_was_put_is_got(
    keys: list[CropKey], values: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "c.sqlite"
    dim = len(values)
    rows = [torch.tensor(values).roll(i) for i in range(len(keys))]
    with EmbeddingCache(path, "f", dim) as cache:
        for key, row in zip(keys[1:], rows[1:], strict=True):
            cache.put(key, row)
            cache.put(key, torch.zeros(dim))  # the first one stays
    with EmbeddingCache(path, "f", dim) as cache:
        assert cache.get(keys[0]) is None
        for key in keys[1:]:
            cache.put(key, torch.zeros(dim))
        cache.flush()
        for key, row in zip(keys[1:], rows[1:], strict=True):
            found = cache.get(key)
            assert found is not None
            assert torch.equal(found, row)


# What is refused.


def test_a_file_of_another_encoder_is_refused(clips: list[Clip], filled: Path) -> None:
    before = filled.read_bytes()
    for fingerprint, dim in (("listener-2", 6), ("listener-1", 7)):
        encoder = Deaf(fingerprint, dim)
        for call in (
            lambda encoder=encoder: embeddings_of(clips, SHORT, encoder, filled),
            lambda fingerprint=fingerprint, dim=dim: given_embeddings(
                clips, SHORT, fingerprint, dim, filled
            ),
        ):
            refused(call, filled, "listener-1 (dim 6)", f"{fingerprint} (dim {dim})", "delete")
    assert filled.read_bytes() == before


def test_an_encoder_without_fingerprint_is_refused(clips: list[Clip], cache: Path) -> None:
    refused(lambda: embeddings_of(clips, SHORT, Deaf(""), cache), cache, "no fingerprint")
    assert not cache.parent.exists()


@pytest.mark.parametrize("row", [torch.zeros(5), torch.zeros(2, 6), torch.full((6,), torch.nan)])
def test_an_impossible_embedding_is_not_kept(row: Tensor, cache: Path) -> None:
    key = CropKey(bytes(32), 0.0, 1.0)
    with EmbeddingCache(cache, "f", 6) as file:
        with pytest.raises(ModelError, match=r"not 6 finite numbers: it is not kept") as caught:
            file.put(key, row)
        assert file.get(key) is None
    assert str(cache) in str(caught.value)


def refused_both_ways(path: Path, *parts: str) -> None:
    """As a cache to fill and as one that is given; the file stays as it is."""
    before = path.read_bytes()
    for read_only in (False, True):
        call = lambda ro=read_only: EmbeddingCache(path, "listener-1", 6, ro)  # noqa: E731
        refused(call, path, *parts)
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A cache of many pages."""
    path = tmp_path_factory.mktemp("large") / "c.sqlite"
    with EmbeddingCache(path, "listener-1", 6) as cache:
        for i in range(300):
            cache.put(CropKey(i.to_bytes(32), 0.0, 1.0), torch.ones(6))
    return path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(
    share: float, large: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.sqlite"
    size = 2 + int(share * (len(large) - 2))  # up to one byte is an empty file to SQLite
    path.write_bytes(large[:size])
    refused_both_ways(path, "damaged", "delete it")


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"nonsense" * 1000)
    refused_both_ways(path, "not a cache of embeddings", "delete it")
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE encoder (fingerprint, dim)")
    other.close()
    refused_both_ways(path, "a file of another program")


def test_a_damaged_schema_is_refused(filled: Path) -> None:
    """SQLite quotes it in its message, which is then no text."""
    filled.write_bytes(filled.read_bytes().replace(b"TABLE crops", b"TABLE cr\xffps"))
    refused_both_ways(filled, "damaged", "delete it")


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("PRAGMA user_version = 7", "another version of singleout (schema 7, this one has 1)"),
        ("DELETE FROM encoder", "holds embeddings of the encoder none"),
        ("UPDATE encoder SET dim = 'six'", "(dim six)"),
    ],
)
def test_a_tampered_file_is_refused(statement: str, part: str, filled: Path) -> None:
    database = sqlite3.connect(filled, isolation_level=None)
    database.execute(statement)
    database.close()
    refused_both_ways(filled, part, "delete")


@pytest.mark.parametrize("blob", [b"", b"1234567", None, "text"])
def test_a_damaged_row_is_refused(
    blob: bytes | str | None, clips: list[Clip], filled: Path
) -> None:
    with sqlite3.connect(filled) as database:
        database.execute("UPDATE crops SET embedding = ?", (blob,))
    database.close()
    refused(lambda: embeddings_of(clips, SHORT, Deaf(), filled), filled, "of another length")


def test_an_empty_file_is_a_new_cache(clips: list[Clip], cache: Path) -> None:
    """SQLite leaves one behind when a process is killed at its very start."""
    cache.parent.mkdir()
    cache.touch()
    refused(lambda: EmbeddingCache(cache, "f", 6, read_only=True), cache, "not a cache")
    embeddings_of(clips, SHORT, CountingEncoder(), cache)
    embeddings_of(clips, SHORT, Deaf(), cache)


# What goes wrong around it.


def test_places_that_cannot_be_used(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "c.sqlite", tmp_path):
        refused(
            lambda path=path: embeddings_of(clips, SHORT, Deaf(), path),
            path,
            "cannot be used",
            "SINGLEOUT_CACHE",
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(clips: list[Clip], filled: Path) -> None:
    filled.chmod(0o400)
    filled.parent.chmod(0o500)
    try:
        embeddings_of(clips, SHORT, Deaf(), filled)  # complete: nothing needs to be written
        path = filled.with_name("new.sqlite")
        refused(lambda: embeddings_of(clips, SHORT, Deaf(), path), path, "cannot be used")
    finally:
        filled.parent.chmod(0o700)


def test_an_unreadable_sound_is_an_audio_error(clips: list[Clip], cache: Path) -> None:
    clips[2].path.unlink()
    encoder = CountingEncoder()
    with pytest.raises(AudioError, match=r"2\.wav: cannot be read as audio"):
        embeddings_of(clips, SHORT, encoder, cache)
    assert encoder.calls == 4
    embeddings_of(clips[:2], SHORT, Deaf(), cache)  # what was done is kept


def test_a_locked_file_is_one_line(
    clips: list[Clip], filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "BUSY_SECONDS", 0.01)
    key = CropKey(bytes(32), 0.0, 1.0)
    other = sqlite3.connect(filled, isolation_level=None)
    file = EmbeddingCache(filled, "listener-1", 6)
    file.put(key, torch.ones(6))
    other.execute("BEGIN EXCLUSIVE")
    for call in (
        lambda: embeddings_of(clips, SHORT, Deaf(), filled),
        lambda: file.get(CropKey(bytes(32), 1.0, 1.0)),
        lambda: file.__exit__(None, None, None),
    ):
        refused(call, filled, "locked", "what else has it open")
    other.close()
    with EmbeddingCache(filled, "listener-1", 6) as file:
        assert file.get(key) is None
    embeddings_of(clips, SHORT, Deaf(), filled)


def test_a_full_disk_is_one_line(clips: list[Clip], cache: Path) -> None:
    """As far as SQLite can tell: the file may not grow."""
    embeddings_of(clips[:2], SHORT, CountingEncoder(dim=4_000), cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache.stat().st_size, hard))
    try:
        refused(
            lambda: embeddings_of(clips, SHORT, CountingEncoder(dim=4_000), cache),
            cache,
            "cannot be used",
            "space on its disk",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    encoder = CountingEncoder(dim=4_000)
    embeddings_of(clips, SHORT, encoder, cache)
    assert encoder.calls == 5  # all of the last batch or nothing


# Processes.

MANY = MixtureConfig(segment_seconds=0.1, crop_hop_seconds=0.01)


def fill(folder: Path, cache: Path, barrier: Barrier | None, encoder: CountingEncoder) -> None:
    """In a process of its own. With a barrier: a transaction per row, started with the others."""
    clips = scan_folder(folder)
    if barrier is not None:
        embeddings.BATCH = 1
        barrier.wait(60)
    table = embeddings_of(clips, MANY, encoder, cache)
    expected = build_table(
        clips,
        MANY,
        lambda clip, crop: encoder.embed_audio(read_crop(clips[clip], crop, MANY, 32_000), 0)[0],
    )
    assert torch.equal(table.embeddings, expected.embeddings)


def test_processes_fill_one_file_at_once(clips: list[Clip], folder: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=fill, args=(folder, cache, barrier, CountingEncoder()))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    embeddings_of(clips, MANY, Deaf(), cache)
    with sqlite3.connect(cache) as database:
        assert database.execute("SELECT count(*) FROM crops").fetchone() == (count_of(clips, MANY),)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_killed_run_keeps_its_batches(clips: list[Clip], folder: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=fill, args=(folder, cache, None, Killed()))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    encoder = CountingEncoder()
    embeddings_of(clips, MANY, encoder, cache)
    # Digests of the files count as rows of a batch.
    assert count_of(clips, MANY) - BATCH <= encoder.calls <= count_of(clips, MANY) - BATCH + 3


# Embeddings that are given.


def test_given_embeddings_are_read_and_never_made(clips: list[Clip], filled: Path) -> None:
    before = filled.read_bytes()
    os.utime(clips[0].path, ns=(0, 0))  # must be hashed, and cannot be remembered
    table = given_embeddings(clips, SHORT, "listener-1", 6, filled)
    assert torch.equal(
        table.embeddings,
        embeddings_of(clips, SHORT, CountingEncoder(), filled.with_name("other.sqlite")).embeddings,
    )
    assert filled.read_bytes() == before


def test_given_embeddings_must_be_complete(clips: list[Clip], folder: Path, filled: Path) -> None:
    write_noise(folder / "new.wav", 7, 0.8)
    more = scan_folder(folder)
    refused(
        lambda: given_embeddings(more, SHORT, "listener-1", 6, filled),
        filled,
        f"lacks crop 0 of {folder / 'new.wav'}",
        "make the file again",
    )
    config = SHORT.model_copy(update={"crop_hop_seconds": 0.2})
    refused(
        lambda: given_embeddings(clips, config, "listener-1", 6, filled),
        filled,
        f"lacks crop 1 of {clips[1].path} (0.5 s from 0.2 s)",
    )
    missing = filled.with_name("no.sqlite")
    refused(
        lambda: given_embeddings(clips, SHORT, "listener-1", 6, missing), missing, "No such file"
    )
    assert not missing.exists()


def test_the_recipe_gives_aligned_embeddings(clips: list[Clip], tmp_path: Path) -> None:
    config = {
        "dim": 6,
        "text_hidden": 4,
        "sentence": {"vocabulary": 76, "dim": 8, "num_layers": 1, "num_heads": 2, "hidden": 8},
        "audio_channels": [8, 8, 8, 8, 8],
        "rank": 2,
    }
    tables = [
        embeddings_of(some, SHORT, CountingEncoder(), tmp_path / "c.sqlite")
        for some in (clips[:2], clips[2:])
    ]
    captions = F.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    splits = {
        "train": Split([replace(c, caption="a sound") for c in clips[:2]], tables[0], captions),
        "validation": Split(clips[2:], tables[1], captions[:1]),
    }
    network = BuiltinNetwork(config)
    network.alignment = fit(splits["train"], rank=2)
    encoder = BuiltinEncoder(network, tiny_tokenizer(), config)
    encoder.save_pretrained(tmp_path / "encoder")
    saved = BuiltinEncoder.from_pretrained(tmp_path / "encoder")
    path = tmp_path / "work" / "embeddings.sqlite"
    for _ in range(2):  # the second time in place of the first
        keep(splits, {"train": SHORT, "validation": SHORT}, encoder, path)
        found = given_embeddings(clips, SHORT, saved.fingerprint, saved.dim, path)
        expected = EmbeddingTable(
            network.aligned_audio(torch.cat([table.embeddings for table in tables])), (0, 1, 4, 9)
        )
        torch.testing.assert_close(found.embeddings, expected.embeddings)
        assert found.offsets == expected.offsets
        assert [other.name for other in path.parent.iterdir()] == [path.name]
