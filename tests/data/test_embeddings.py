"""Tables of embeddings: which crops are embedded, and which are read from the cache."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recipes.builtin.alignment import Split, fit
from recipes.builtin.embed import keep
from singleout.data import embeddings
from singleout.data.clips import Clip
from singleout.data.embedding_cache import EmbeddingCache
from singleout.data.embeddings import (
    EmbeddingTable,
    build_table,
    default_cache,
    embeddings_of,
    given_embeddings,
    text_embeddings,
)
from singleout.data.manifest import scan_folder
from singleout.data.plan import num_crops
from singleout.data.render import read_crop
from singleout.encoders import BuiltinEncoder
from singleout.encoders.builtin import BuiltinNetwork
from singleout.encoders.encoder import Sounds
from singleout.errors import AudioError
from tests.conftest import tiny_tokenizer
from tests.data.encoders import (
    CROPS,
    CountingEncoder,
    InterruptedEncoder,
    UnusedEncoder,
    assert_refused,
    count_crops,
    write_noise,
)
from tests.data.sounds import as_pcm, in_shard


def test_a_table_finds_every_crop(three_clips: list[Clip]) -> None:
    table = build_table(three_clips, CROPS, lambda clip, crop: torch.tensor([clip, crop]))
    assert table.embeddings.dtype == torch.float32
    for i, clip in enumerate(three_clips):
        assert table.count(i) == num_crops(clip, CROPS)
        for crop in range(num_crops(clip, CROPS)):
            assert table.of(i, crop).tolist() == [i, crop]


def test_an_encoder_embeds_every_crop_once(
    three_clips: list[Clip], debug_encoder: BuiltinEncoder, cache_path: Path
) -> None:
    table = embeddings_of(three_clips, CROPS, debug_encoder, cache_path)
    expected = debug_encoder.embed_audio(read_crop(three_clips[2], 3, CROPS, 32_000), 32_000)[0]
    torch.testing.assert_close(table.of(2, 3), expected)
    torch.testing.assert_close(table.embeddings.norm(dim=-1), torch.ones(count_crops(three_clips)))

    encoder = CountingEncoder()
    other = cache_path.with_name("other.sqlite")
    table = embeddings_of(three_clips, CROPS, encoder, other)
    assert encoder.calls == count_crops(three_clips) == 9
    again = embeddings_of(three_clips[::-1], CROPS, UnusedEncoder(), other)
    for i, clip in enumerate(three_clips):
        for crop in range(num_crops(clip, CROPS)):
            assert torch.equal(again.of(2 - i, crop), table.of(i, crop))


def test_the_default_cache_is_named_by_its_encoder(
    three_clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path / "mine"))
    embeddings_of(three_clips, CROPS, CountingEncoder("a/b:1"))
    assert [path.name for path in (tmp_path / "mine" / "embeddings").iterdir()] == [
        "a%2Fb%3A1.sqlite"
    ]
    embeddings_of(three_clips, CROPS, UnusedEncoder("a/b:1"))
    monkeypatch.setenv("SINGLEOUT_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache("x") == tmp_path / ".cache" / "singleout" / "embeddings" / "x.sqlite"


def test_a_sound_under_two_paths_is_embedded_once(
    three_clips: list[Clip], three_sounds: Path, cache_path: Path
) -> None:
    shutil.copy(three_clips[2].path, three_sounds / "same.wav")
    both = scan_folder(three_sounds)
    encoder = CountingEncoder()
    table = embeddings_of(both, CROPS, encoder, cache_path)
    assert encoder.calls == count_crops(three_clips)
    for crop in range(5):
        assert torch.equal(table.of(2, crop), table.of(3, crop))
    moved = three_sounds.rename(three_sounds.with_name("moved"))
    embeddings_of(scan_folder(moved), CROPS, UnusedEncoder(), cache_path)


@pytest.mark.parametrize("seconds", [0.3, 0.4])
def test_a_changed_file_is_embedded_anew(
    seconds: float, three_clips: list[Clip], three_sounds: Path, filled_cache: Path
) -> None:
    path = three_clips[0].path
    before = embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)
    status = path.stat()
    write_noise(path, 99, seconds)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    encoder = CountingEncoder()
    after = embeddings_of(scan_folder(three_sounds), CROPS, encoder, filled_cache)
    assert encoder.calls == 1
    assert not torch.equal(after.of(0, 0), before.of(0, 0))
    assert torch.equal(after.embeddings[1:], before.embeddings[1:])


def test_a_touched_file_is_known_by_its_content(
    three_clips: list[Clip], filled_cache: Path
) -> None:
    os.utime(three_clips[0].path, ns=(0, 0))
    embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)


def test_a_file_is_hashed_once(three_clips: list[Clip], filled_cache: Path) -> None:
    """A change that keeps size and time goes unnoticed, which proves that nobody read the file."""
    path = three_clips[0].path
    status = path.stat()
    write_noise(path, 99, 0.3)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache)


def test_a_file_that_changes_during_reading_is_not_kept(
    three_clips: list[Clip], cache_path: Path
) -> None:
    path = three_clips[0].path
    original = path.read_bytes()
    interrupted = InterruptedEncoder()
    interrupted.interrupt = lambda: write_noise(path, 99, 0.4)
    with pytest.raises(AudioError, match="changed while it was read"):
        embeddings_of(three_clips, CROPS, interrupted, cache_path)
    path.write_bytes(original)
    encoder = CountingEncoder()
    embeddings_of(three_clips, CROPS, encoder, cache_path)
    assert encoder.calls == count_crops(three_clips)


def test_crops_of_another_length_are_embedded_again(
    three_clips: list[Clip], filled_cache: Path
) -> None:
    long = CROPS.model_copy(update={"segment_seconds": 0.6})
    sparse = CROPS.model_copy(update={"crop_hop_seconds": 0.5})
    encoder = CountingEncoder()
    embeddings_of(three_clips, long, encoder, filled_cache)
    assert encoder.calls == count_crops(three_clips, long)
    table = embeddings_of(three_clips, sparse, UnusedEncoder(), filled_cache)  # half of the crops
    assert torch.equal(
        table.of(2, 1), embeddings_of(three_clips, CROPS, UnusedEncoder(), filled_cache).of(2, 2)
    )
    embeddings_of(three_clips, long, UnusedEncoder(), filled_cache)


def test_an_unreadable_sound_is_an_audio_error(three_clips: list[Clip], cache_path: Path) -> None:
    three_clips[2].path.unlink()
    encoder = CountingEncoder()
    with pytest.raises(AudioError, match=r"2\.wav: cannot be read as audio"):
        embeddings_of(three_clips, CROPS, encoder, cache_path)
    assert encoder.calls == 4
    embeddings_of(three_clips[:2], CROPS, UnusedEncoder(), cache_path)  # these crops were kept


def test_given_embeddings_are_read_and_never_computed(
    three_clips: list[Clip], filled_cache: Path
) -> None:
    before = filled_cache.read_bytes()
    os.utime(three_clips[0].path, ns=(0, 0))  # so it is hashed again, and the hash is not kept
    table = given_embeddings(three_clips, CROPS, "encoder-1", 6, filled_cache)
    assert torch.equal(
        table.embeddings,
        embeddings_of(
            three_clips, CROPS, CountingEncoder(), filled_cache.with_name("other.sqlite")
        ).embeddings,
    )
    assert filled_cache.read_bytes() == before


def test_given_embeddings_must_be_complete(
    three_clips: list[Clip], three_sounds: Path, filled_cache: Path
) -> None:
    write_noise(three_sounds / "new.wav", 7, 0.8)
    more = scan_folder(three_sounds)
    assert_refused(
        lambda: given_embeddings(more, CROPS, "encoder-1", 6, filled_cache),
        filled_cache,
        f"lacks crop 0 of {three_sounds / 'new.wav'}",
        "make the file again",
    )
    config = CROPS.model_copy(update={"crop_hop_seconds": 0.2})
    assert_refused(
        lambda: given_embeddings(three_clips, config, "encoder-1", 6, filled_cache),
        filled_cache,
        f"lacks crop 1 of {three_clips[1].path} (0.5 s from 0.2 s)",
    )
    missing = filled_cache.with_name("no.sqlite")
    assert_refused(
        lambda: given_embeddings(three_clips, CROPS, "encoder-1", 6, missing),
        missing,
        "No such file",
    )
    assert not missing.exists()


def test_the_recipe_gives_aligned_embeddings(three_clips: list[Clip], tmp_path: Path) -> None:
    config = {
        "dim": 6,
        "text_hidden": 4,
        "sentence": {"vocabulary": 76, "dim": 8, "num_layers": 1, "num_heads": 2, "hidden": 8},
        "audio_channels": [8, 8, 8, 8, 8],
        "rank": 2,
    }
    tables = [
        embeddings_of(some, CROPS, CountingEncoder(), tmp_path / "c.sqlite")
        for some in (three_clips[:2], three_clips[2:])
    ]
    captions = F.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    splits = {
        "train": Split(
            [replace(c, caption="a sound") for c in three_clips[:2]], tables[0], captions
        ),
        "validation": Split(three_clips[2:], tables[1], captions[:1]),
    }
    network = BuiltinNetwork(config)
    network.alignment = fit(splits["train"], rank=2)
    encoder = BuiltinEncoder(network, tiny_tokenizer(), config)
    encoder.save_pretrained(tmp_path / "encoder")
    saved = BuiltinEncoder.from_pretrained(tmp_path / "encoder")
    path = tmp_path / "work" / "embeddings.sqlite"
    for _ in range(2):  # the second run replaces the file of the first
        keep(splits, {"train": CROPS, "validation": CROPS}, encoder, path)
        given = given_embeddings(three_clips, CROPS, saved.fingerprint, saved.dim, path)
        expected = EmbeddingTable(
            network.aligned_audio(torch.cat([table.embeddings for table in tables])), (0, 1, 4, 9)
        )
        torch.testing.assert_close(given.embeddings, expected.embeddings)
        assert given.offsets.tolist() == expected.offsets.tolist()
        assert [other.name for other in path.parent.iterdir()] == [path.name]


class BatchEncoder(CountingEncoder):
    """Embeds several sounds of one length, as one by one, and keeps the sizes of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def embed_audio(self, audio: Sounds, sample_rate: int, augment: object = None) -> Tensor:
        self.sizes.append(len(audio))
        return torch.cat([super(BatchEncoder, self).embed_audio(one, sample_rate) for one in audio])


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_crops_of_one_length_are_embedded_at_once(
    batch_size: int, three_clips: list[Clip], cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the nine crops last 0.5 s. A full memory ends the wait for more of one length."""
    expected = embeddings_of(three_clips, CROPS, CountingEncoder(), cache_path)
    for max_waiting in (1, 8):
        monkeypatch.setattr(embeddings, "MAX_WAITING", max_waiting)
        encoder, path = BatchEncoder(), cache_path.with_name(f"{max_waiting}.sqlite")
        table = embeddings_of(three_clips, CROPS, encoder, path, batch_size)
        assert torch.equal(table.embeddings, expected.embeddings)
        assert sum(encoder.sizes) == count_crops(three_clips)
        assert 1 < max(encoder.sizes) <= batch_size
        again = embeddings_of(three_clips, CROPS, UnusedEncoder(), path, batch_size)
        assert torch.equal(again.embeddings, expected.embeddings)


def test_a_file_that_changes_before_its_batch_is_full_is_not_kept(
    three_clips: list[Clip], cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_first(clip: Clip, *args: Any) -> NDArray[np.float32]:
        if clip == three_clips[2]:
            write_noise(three_clips[0].path, 99, 0.3)
        return read_crop(clip, *args)

    monkeypatch.setattr(embeddings, "read_crop", change_first)
    with pytest.raises(AudioError, match=r"0\.wav: changed while it was read"):
        embeddings_of(three_clips, CROPS, BatchEncoder(), cache_path, batch_size=100)


def test_a_cache_is_read_in_few_queries(
    three_clips: list[Clip], filled_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str] = []
    select = EmbeddingCache._select

    def record(self: EmbeddingCache, query: str, values: Sequence[object] = ()) -> list[Any]:
        queries.append(query)
        return select(self, query, values)

    monkeypatch.setattr(EmbeddingCache, "_select", record)
    table = embeddings_of(three_clips * 20, CROPS, UnusedEncoder(), filled_cache)
    assert len(table.embeddings) == 20 * count_crops(three_clips)
    assert sum("FROM files" in query for query in queries) == 1
    assert sum("FROM crops" in query for query in queries) == 1


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_members_of_shards_have_the_embeddings_of_their_files(
    suffix: str, three_clips: list[Clip], tmp_path: Path, cache_path: Path
) -> None:
    """They are known by their content: those of files are not embedded again."""
    files = as_pcm(three_clips, tmp_path, suffix)
    clips = in_shard(files, tmp_path / "0.tar")
    table = embeddings_of(clips, CROPS, CountingEncoder(), cache_path)
    for _ in range(2):
        again = embeddings_of(files, CROPS, UnusedEncoder(), cache_path)
        assert torch.equal(table.embeddings, again.embeddings)
    moved = tmp_path / "moved.tar"
    (tmp_path / "0.tar").rename(moved)
    again = embeddings_of(in_shard(files, moved), CROPS, UnusedEncoder(), cache_path)
    assert torch.equal(table.embeddings, again.embeddings)
    with pytest.raises(AudioError, match=r"0\.tar: no such file"):
        embeddings_of(clips, CROPS, UnusedEncoder(), cache_path)


class TextEncoder(CountingEncoder):
    """Embeds texts, each in a way that depends on its whole batch."""

    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        self.calls += 1
        seed = zlib.crc32(repr(text).encode())
        rows = torch.randn(len(text), self.dim, generator=torch.Generator().manual_seed(seed))
        return F.normalize(rows, dim=-1)


def test_texts_are_embedded_once(cache_path: Path) -> None:
    """What the cache gives is what the encoder would compute, whatever else the cache holds."""
    texts = [f"sound {number}" for number in range(150)] + ["\udc80"]
    for some in (texts[:100], texts, texts[1:], texts):
        expected = text_embeddings(some, TextEncoder(), cache_path.with_name(f"{len(some)}.sqlite"))
        assert torch.equal(text_embeddings(some, TextEncoder(), cache_path), expected)
    unused = UnusedEncoder()  # which embeds no texts at all
    assert torch.equal(text_embeddings(texts, unused, cache_path)[0], expected[0])
    assert text_embeddings([], unused, cache_path).shape == (0, 6)


def test_a_batch_of_texts_that_lost_a_row_is_embedded_again(cache_path: Path) -> None:
    texts = [f"sound {number}" for number in range(70)]
    expected = text_embeddings(texts, TextEncoder(), cache_path)
    with sqlite3.connect(cache_path) as database:
        database.execute("DELETE FROM crops WHERE start = 1")
        database.execute("UPDATE crops SET embedding = X'00' WHERE start = 2")
    database.close()
    encoder = TextEncoder()
    assert torch.equal(text_embeddings(texts, encoder, cache_path), expected)
    assert encoder.calls == 2
    assert torch.equal(text_embeddings(texts, UnusedEncoder(), cache_path), expected)
