"""Embeddings of all crops: computed once, kept in a cache, read in training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.data.clips import Clip
from singleout.data.embedding_cache import CropKey, EmbeddingCache
from singleout.data.embedding_table import EmbeddingTable, crop_offsets
from singleout.data.plan import MixtureConfig
from singleout.data.render import read_crop
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import AudioError, ConfigError, ModelError
from singleout.progress import track

__all__ = [
    "SAMPLE_RATE",
    "EmbeddingTable",
    "build_table",
    "cache_folder",
    "crop_offsets",
    "default_cache",
    "embeddings_of",
    "given_embeddings",
    "text_embeddings",
]

SAMPLE_RATE = 32_000
"""Hz at which the crops are given to the encoder."""
READ_AHEAD = 256
"""Clips whose embeddings are read from a cache at once."""
TEXT_BATCH = 64
"""Texts that are embedded at once."""
TEXT_KIND = "texts"
"""Begins what identifies a batch of texts in a cache, as no recording begins."""
MAX_WAITING = 8
"""Batches of crops that wait for others of their length."""


def build_table(
    clips: Sequence[Clip],
    config: MixtureConfig,
    embed: Callable[[int, int], Tensor],
) -> EmbeddingTable:
    """Embed every crop of every clip.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        embed: from the index of a clip and the number of a crop to the embedding [dim].

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> clips = [
        ...     Clip(Path(name), seconds, None, (), name, name, "train")
        ...     for name, seconds in (("dog.wav", 1.0), ("rain.wav", 6.0))
        ... ]
        >>> table = build_table(clips, MixtureConfig(), lambda clip, crop: torch.ones(4))
        >>> table.embeddings.shape, table.offsets
        (torch.Size([3, 4]), array([0, 1, 3]))
    """
    offsets = crop_offsets(clips, config)
    rows: Tensor | None = None
    for clip in track(range(len(clips)), "embedding the sounds"):
        first, last = offsets[clip : clip + 2].tolist()
        for crop in range(last - first):
            row = embed(clip, crop)
            if rows is None:
                rows = torch.empty(int(offsets[-1]), len(row))
            rows[first + crop] = row
    return EmbeddingTable(torch.empty(0, 0) if rows is None else rows, offsets)


def cache_folder() -> Path:
    """The folder of all caches: ``$SINGLEOUT_CACHE``, or ``~/.cache/singleout`` without it.

    Raises:
        ConfigError: the variable is not set, and the user has no home folder.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, SINGLEOUT_CACHE="caches"):
        ...     cache_folder().name
        'caches'
    """
    try:
        return Path(os.environ.get("SINGLEOUT_CACHE") or "~/.cache/singleout").expanduser()
    except RuntimeError:
        raise ConfigError(
            "this user has no home folder for the caches: name another folder in the variable "
            "SINGLEOUT_CACHE"
        ) from None


def default_cache(fingerprint: str) -> Path:
    """The default cache file of an encoder, below ``cache_folder``.

    Args:
        fingerprint: of the encoder.

    Raises:
        ConfigError: see ``cache_folder``.

    Example:
        >>> default_cache("encoder-1").name
        'encoder-1.sqlite'
    """
    return cache_folder() / "embeddings" / f"{quote(fingerprint, safe='')}.sqlite"


def embeddings_of(
    clips: Sequence[Clip],
    config: MixtureConfig,
    encoder: QueryEncoder,
    cache: Path | None = None,
    batch_size: int = 1,
) -> EmbeddingTable:
    """The encoder's embeddings of all crops, read from a cache or computed and kept there.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        encoder: embeds the crops that the cache does not hold.
        cache: the file; by default the ``default_cache`` of the encoder.
        batch_size: crops of equal length that the encoder embeds at once. Batches are faster,
            above all on a GPU. But the last bits of an embedding then depend on the size of its
            batch, and so on which crops the cache lacks. One crop at a time is reproducible.

    Raises:
        AudioError: a sound cannot be read, or changes while it is read.
        ModelError: the cache cannot be used (see ``EmbeddingCache``).

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from types import SimpleNamespace
        >>> from singleout.data.manifest import scan_folder
        >>> encoder = SimpleNamespace(
        ...     fingerprint="encoder-1", dim=4, embed_audio=lambda audio, rate: torch.ones(1, 4)
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(8_000), 8_000)
        ...     clips = scan_folder(Path(folder))
        ...     table = embeddings_of(clips, MixtureConfig(), encoder, Path(folder, "c.sqlite"))
        >>> table.embeddings
        tensor([[1., 1., 1., 1.]])
    """
    path = default_cache(encoder.fingerprint) if cache is None else cache
    with EmbeddingCache(path, encoder.fingerprint, encoder.dim) as file:
        return _filled(clips, config, _Embedding(clips, config, encoder, file, batch_size))


def given_embeddings(
    clips: Sequence[Clip], config: MixtureConfig, encoder_fingerprint: str, dim: int, path: Path
) -> EmbeddingTable:
    """Embeddings of all crops from an existing file. Nothing is computed or written.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        encoder_fingerprint, dim: of the encoder that the file must belong to.
        path: the file, written by an ``EmbeddingCache``.

    Raises:
        AudioError: a sound cannot be read.
        ModelError: the file cannot be used (see ``EmbeddingCache``) or lacks a crop.

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from singleout.data.manifest import scan_folder
        >>> config = MixtureConfig()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(8_000), 8_000)
        ...     clips, path = scan_folder(Path(folder)), Path(folder, "given.sqlite")
        ...     with EmbeddingCache(path, "encoder-1", dim=4) as cache:
        ...         cache.put(cache.key(clips[0], 0, config), torch.ones(4))
        ...     given_embeddings(clips, config, "encoder-1", 4, path).embeddings
        tensor([[1., 1., 1., 1.]])
    """
    with EmbeddingCache(path, encoder_fingerprint, dim, read_only=True) as file:
        return _filled(clips, config, _Given(clips, file))


def text_embeddings(
    texts: Sequence[str], encoder: QueryEncoder, cache: Path | None = None
) -> Tensor:
    """The encoder's embeddings of texts, read from a cache or computed and kept there.

    An embedding may depend in its last bits on the other texts of its batch. So a batch is known
    by all its texts, and what is kept is what would be computed.

    Args:
        texts: such as all captions of a corpus, in a fixed order.
        encoder: embeds the batches that the cache does not hold.
        cache: the file; by default the ``default_cache`` of the encoder.

    Returns:
        float32 [texts, dim].

    Raises:
        QueryError: a text is blank.
        ModelError: the cache cannot be used (see ``EmbeddingCache``).

    Example:
        >>> import tempfile
        >>> from singleout.encoders import load_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = text_embeddings(["dog", "rain"], load_encoder(), Path(folder, "c.sqlite"))
        >>> rows.shape
        torch.Size([2, 96])
    """
    path = default_cache(encoder.fingerprint) if cache is None else cache
    rows = torch.empty(len(texts), encoder.dim)
    with EmbeddingCache(path, encoder.fingerprint, encoder.dim) as file:
        for first in track(range(0, len(texts), TEXT_BATCH), "embedding the captions"):
            batch = texts[first : first + TEXT_BATCH]
            content = sha256(repr([TEXT_KIND, *batch]).encode()).digest()
            keys = [CropKey(content, float(number), 0.0) for number in range(len(batch))]
            known = [row for key in keys if (row := file.get(key)) is not None]
            if len(known) < len(keys):
                known = [*encoder.embed_text(batch)]
                for key, row in zip(keys, known, strict=True):
                    file.put(key, row)
            rows[first : first + len(batch)] = torch.stack(known)
    return rows


class _Given:
    """Refuses crops that a file lacks."""

    def __init__(self, clips: Sequence[Clip], cache: EmbeddingCache) -> None:
        self.clips, self.cache = clips, cache

    def add(self, key: CropKey, clip: int, crop: int, row: Tensor) -> None:
        raise ModelError(
            f"{self.cache.path}: lacks crop {crop} of {self.clips[clip].path} ({key.seconds:g} s "
            f"from {key.start:g} s): make the file again from these sounds and crops, or leave "
            "'embeddings' out of the config to use the encoder's own"
        )

    def finish(self) -> None:
        """Nothing is left to do."""


class _Embedding:
    """Embeds crops that a cache lacks, in batches of equal lengths."""

    def __init__(
        self,
        clips: Sequence[Clip],
        config: MixtureConfig,
        encoder: QueryEncoder,
        cache: EmbeddingCache,
        batch_size: int,
    ) -> None:
        self.clips, self.config, self.encoder, self.cache = clips, config, encoder, cache
        self.batch_size = batch_size
        self._waiting: dict[int, list[_Missing]] = {}

    def add(self, key: CropKey, clip: int, crop: int, row: Tensor) -> None:
        """Embed a crop, with others, into ``row``, at the latest in ``finish``."""
        audio = read_crop(self.clips[clip], crop, self.config, SAMPLE_RATE)
        alike = self._waiting.setdefault(len(audio), [])
        alike.append(_Missing(key, clip, crop, row, audio))
        if len(alike) == self.batch_size:
            self._embed(self._waiting.pop(len(audio)))
        elif sum(map(len, self._waiting.values())) == MAX_WAITING * self.batch_size:
            self.finish()

    def finish(self) -> None:
        """Embed the crops that wait for others of their length."""
        while self._waiting:
            self._embed(self._waiting.popitem()[1])

    def _embed(self, crops: list[_Missing]) -> None:
        audio = np.stack([crop.audio for crop in crops])
        embeddings = self.encoder.embed_audio(audio, SAMPLE_RATE)
        for crop, embedding in zip(crops, embeddings, strict=True):
            clip = self.clips[crop.clip]
            if self.cache.key(clip, crop.crop, self.config) != crop.key:
                raise AudioError(f"{clip.path}: changed while it was read: start again")
            self.cache.put(crop.key, embedding)
            crop.row.copy_(embedding)


class _Missing(NamedTuple):
    """A crop that waits to be embedded into a row of a table."""

    key: CropKey
    clip: int
    crop: int
    row: Tensor
    audio: NDArray[np.float32]


def _filled(
    clips: Sequence[Clip], config: MixtureConfig, missing: _Given | _Embedding
) -> EmbeddingTable:
    """A table of all crops from a cache. Crops that the cache lacks are given to ``missing``."""
    cache, offsets = missing.cache, crop_offsets(clips, config)
    rows = torch.empty(int(offsets[-1]), cache.dim)
    for i in track(range(len(clips)), "embedding the sounds"):
        if i % READ_AHEAD == 0:
            some = [*clips[i : i + READ_AHEAD]]
            cache.read_ahead(some, config)
        first, last = offsets[i : i + 2].tolist()
        content = cache.key(some[i % READ_AHEAD], 0, config).content
        for crop in range(last - first):
            key = CropKey(content, crop * config.crop_hop_seconds, config.segment_seconds)
            row = cache.get(key)
            if row is None:
                missing.add(key, i, crop, rows[first + crop])
            else:
                rows[first + crop] = row
    missing.finish()
    return EmbeddingTable(rows, offsets)
